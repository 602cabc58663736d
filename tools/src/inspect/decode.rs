//! What a message means to brokers and clients beyond its fields: delays, transactions, POP,
//! retries, batches, traces, timers.

use mq_store::broker::names::{
    CHECK_MAX_TIME_TOPIC, DLQ_PREFIX, HALF_TOPIC, OP_TOPIC, RETRY_PREFIX, TRACE_TOPIC,
};
use mq_store::codec::properties::{self, name};
use mq_store::codec::record::{Record, sys_flag};
use mq_store::config::StoreConfig;
use mq_store::recover::{SCHEDULE_TOPIC, tags_code};
use mq_store::store::as_record;
use mq_store::view::StoreView;
use serde_json::{Map, Value};

use super::body;
use super::output::Cell;

const TIMER_TOPIC: &str = "rmq_sys_wheel_timer";
/// The topics in which brokers of 5.x note what was popped, one a cluster.
const REVIVE_PREFIX: &str = "rmq_sys_REVIVE_LOG_";
/// No more parts of a batch or trace are shown than this.
const MAX_PARTS: usize = 1000;

/// Names, as JSON has them, and values.
pub type Facts = Vec<(&'static str, Cell)>;

/// What was made out.
#[derive(Default)]
pub struct Decoded {
    /// What the message is, in words.
    pub kinds: Vec<&'static str>,
    pub facts: Facts,
    /// Messages of a batch, entries of a trace.
    pub parts: Vec<Facts>,
}

impl Decoded {
    fn kind(&mut self, kind: &'static str) {
        self.kinds.push(kind);
    }

    fn fact(&mut self, name: &'static str, cell: Cell) {
        self.facts.push((name, cell));
    }

    fn text(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.fact(name, Cell::Text(text.to_owned()));
        }
    }

    fn number(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(n) = text.and_then(|t| t.parse().ok()) {
            self.fact(name, Cell::Number(n));
        }
    }

    fn time(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(ms) = text.and_then(|t| t.parse().ok()) {
            self.fact(name, Cell::Time(Some(ms)));
        }
    }

    /// As a JSON object.
    pub fn json(&self) -> Value {
        let object = |facts: &Facts| {
            facts
                .iter()
                .map(|(name, cell)| ((*name).to_owned(), cell.json()))
                .collect::<Map<_, _>>()
        };
        let mut json = object(&self.facts);
        json.insert("kind".into(), self.kinds.join(", ").into());
        if !self.parts.is_empty() {
            json.insert("parts".into(), self.parts.iter().map(object).collect());
        }
        json.into()
    }

    /// As lines for people.
    pub fn lines(&self) -> Vec<String> {
        let line = |facts: &Facts| {
            let fact = |(name, cell): &(&str, Cell)| format!("{} {}", words(name), cell.text());
            facts.iter().map(fact).collect::<Vec<_>>().join(", ")
        };
        let mut lines = vec![self.kinds.join(", ")];
        if !self.facts.is_empty() {
            lines[0] += &format!(": {}", line(&self.facts));
        }
        lines.extend(self.parts.iter().map(|p| format!("- {}", line(p))));
        lines
    }
}

/// `delayLevel` as "delay level".
fn words(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() {
            out.push(' ');
        }
        out.extend(c.to_lowercase());
    }
    out
}

/// Makes out what the record alone tells; `None` for an ordinary message.
pub fn decode(r: &Record<'_>) -> Option<Decoded> {
    let mut d = Decoded::default();
    match r.topic() {
        SCHEDULE_TOPIC => delayed(r, &mut d),
        TIMER_TOPIC => timer(r, &mut d),
        HALF_TOPIC | CHECK_MAX_TIME_TOPIC => half(r, &mut d),
        OP_TOPIC => op(r, &mut d),
        topic if topic.starts_with(REVIVE_PREFIX) => pop(r, &mut d),
        // Traces may be sent to a topic of another name.
        topic if topic == TRACE_TOPIC || is_trace(r) => trace(r, &mut d),
        _ => {}
    }
    if r.transaction() == sys_flag::COMMIT && r.prepared_transaction_offset() > 0 {
        d.kind("committed transaction");
        d.fact("halfPosition", Cell::Number(r.prepared_transaction_offset()));
    }
    retry(r, &mut d);
    if r.sys_flag() & sys_flag::INNER_BATCH != 0 {
        batch(r, &mut d);
    }
    (!d.kinds.is_empty()).then_some(d)
}

/// [`decode`], and what only the rest of the store can tell: when a delayed message is due
/// under the levels of its broker, and what became of a half.
pub fn decode_in(view: &StoreView, r: &Record<'_>) -> Option<Decoded> {
    let mut d = decode(r)?;
    let offset = r.queue_offset().unsigned_abs();
    if r.topic() == SCHEDULE_TOPIC
        && let Ok(queue) = view.queue(SCHEDULE_TOPIC, r.queue_id(), &mut Vec::new())
        && let Some(unit) = queue.get(offset).filter(|u| u.offset == r.physical_offset() as u64)
        && let Some(due) = d.facts.iter_mut().find(|(name, _)| *name == "due")
    {
        due.1 = Cell::Time(Some(unit.tags_code));
    }
    if r.topic() == HALF_TOPIC {
        d.fact("state", Cell::Text(state_of(view, r).into()));
    }
    Some(d)
}

fn destination(r: &Record<'_>, d: &mut Decoded) {
    d.text("realTopic", r.property(name::REAL_TOPIC));
    d.number("realQueueId", r.property(name::REAL_QID));
}

fn delayed(r: &Record<'_>, d: &mut Decoded) {
    d.kind("delayed");
    d.number("delayLevel", r.property(name::DELAY));
    let levels = StoreConfig::at("").delay_levels_ms;
    d.fact("due", Cell::Time(Some(tags_code(r, &levels))));
    destination(r, d);
}

fn timer(r: &Record<'_>, d: &mut Decoded) {
    d.kind(if r.property("TIMER_DEL_UNIQKEY").is_some() { "timer, cancels" } else { "timer" });
    d.time("due", r.property("TIMER_OUT_MS"));
    d.text("cancelled", r.property("TIMER_DEL_UNIQKEY"));
    d.time("enqueued", r.property("TIMER_ENQUEUE_MS"));
    d.number("rolls", r.property("TIMER_ROLL_TIMES"));
    destination(r, d);
}

fn half(r: &Record<'_>, d: &mut Decoded) {
    d.kind(if r.topic() == HALF_TOPIC { "half message" } else { "half message, given up" });
    destination(r, d);
    d.text("producerGroup", r.property(name::PGROUP));
    d.number("checks", r.property(name::TRANSACTION_CHECK_TIMES));
    d.number("copyOfOffset", r.property(name::TRAN_PREPARED_QUEUE_OFFSET));
}

/// The queue offsets of the halves that an op settles.
fn settled<'a>(r: &Record<'a>) -> impl Iterator<Item = u64> + use<'a> {
    let text = std::str::from_utf8(r.body()).unwrap_or_default();
    text.split(',').filter_map(|n| n.trim().parse().ok())
}

fn op(r: &Record<'_>, d: &mut Decoded) {
    d.kind("settles half messages");
    let offsets: Vec<String> = settled(r).map(|n| n.to_string()).collect();
    d.fact("halfQueueOffsets", Cell::Text(offsets.join(",")));
}

/// What became of a half: no op says which of commit and rollback it was, but a committed one has
/// left a message of its unique key in its topic.
fn state_of(view: &StoreView, half: &Record<'_>) -> &'static str {
    let Ok(ops) = view.queue(OP_TOPIC, half.queue_id(), &mut Vec::new()) else { return "open" };
    let offset = half.queue_offset().unsigned_abs();
    let at = half.physical_offset().unsigned_abs();
    let mut is_settled = false;
    // An op comes after the half it settles.
    ops.for_each(ops.partition(|unit| unit.offset > at), |_, unit| {
        let slice = view.record_at(unit.offset);
        is_settled = slice
            .as_deref()
            .and_then(as_record)
            .is_some_and(|op| op.topic() == OP_TOPIC && settled(&op).any(|n| n == offset));
        !is_settled
    });
    if !is_settled {
        return "open";
    }
    let (Some(topic), Some(key)) = (half.property(name::REAL_TOPIC), half.property(name::UNIQ_KEY))
    else {
        return "settled";
    };
    let Ok(index) = view.index(&mut Vec::new()) else { return "settled" };
    let found = view.query(&index, (topic, key), 16, (i64::MIN, i64::MAX));
    let is_committed = |r: &Record<'_>| r.transaction() == sys_flag::COMMIT;
    if found.iter().filter_map(|s| as_record(s)).any(|r| is_committed(&r)) {
        "committed"
    } else if index.is_empty() {
        "settled"
    } else {
        // Or put back under another offset, to be asked about again.
        let copies = view.query(&index, (HALF_TOPIC, key), 16, (i64::MIN, i64::MAX));
        let later = |r: &Record<'_>| r.physical_offset() > half.physical_offset();
        match copies.iter().filter_map(|s| as_record(s)).any(|r| later(&r)) {
            true => "settled, by a later copy",
            false => "rolled back",
        }
    }
}

fn pop(r: &Record<'_>, d: &mut Decoded) {
    let body: Value = serde_json::from_slice(r.body()).unwrap_or_default();
    let number = |name: &str| body.get(name).and_then(Value::as_i64);
    d.kind(match r.property(name::TAGS) {
        Some("ck") => "POP checkpoint",
        Some("ack") => "POP ack",
        Some("bAck") => "POP acks",
        _ => "POP",
    });
    d.text("topic", body.get("t").and_then(Value::as_str));
    d.text("group", body.get("c").and_then(Value::as_str));
    let names = [
        ("queueId", "q"),
        ("startOffset", "so"),
        ("number", "n"),
        ("ackOffset", "ao"),
        ("bitMap", "bm"),
        ("reputs", "rp"),
    ];
    for (long, short) in names {
        if let Some(n) = number(short) {
            d.fact(long, Cell::Number(n));
        }
    }
    for (long, short) in [("offsetDifferences", "d"), ("ackOffsets", "aol")] {
        if let Some(list) = body.get(short).and_then(Value::as_array) {
            let list: Vec<String> = list.iter().map(Value::to_string).collect();
            d.fact(long, Cell::Text(list.join(",")));
        }
    }
    if let Some(popped) = number("pt") {
        d.fact("popped", Cell::Time(Some(popped)));
        if let Some(invisible) = number("it") {
            d.fact("visibleAgain", Cell::Time(Some(popped.saturating_add(invisible))));
        }
    }
    d.text("broker", body.get("bn").and_then(Value::as_str));
}

fn retry(r: &Record<'_>, d: &mut Decoded) {
    let (topic, real) = (r.topic(), r.property(name::REAL_TOPIC).unwrap_or_default());
    let prefix = [RETRY_PREFIX, DLQ_PREFIX];
    let Some(group) = prefix.iter().find_map(|p| topic.strip_prefix(p).or(real.strip_prefix(p)))
    else {
        return;
    };
    let is_dead = topic.starts_with(DLQ_PREFIX);
    d.kind(if is_dead { "dead letter" } else { "retry" });
    d.text("group", Some(group));
    let origin = r.property(name::RETRY_TOPIC).or(r.property("DLQ_ORIGIN_TOPIC"));
    d.text("originTopic", origin);
    d.text(
        "originMsgId",
        r.property(name::ORIGIN_MESSAGE_ID).or(r.property("DLQ_ORIGIN_MESSAGE_ID")),
    );
    d.fact("reconsumeTimes", Cell::number(r.reconsume_times()));
}

/// The messages of an inner batch, as they were sent: for each its size, magic, CRC, flag, body
/// and properties.
fn batch(r: &Record<'_>, d: &mut Decoded) {
    d.kind("batch");
    d.number("messages", r.property(name::INNER_NUM));
    d.number("baseOffset", r.property("INNER_BASE"));
    let Ok(plain) = body::plain(r) else { return };
    let mut rest = &plain[..];
    while let Some((part, behind)) = inner(rest) {
        if d.parts.len() == MAX_PARTS {
            break;
        }
        d.parts.push(part);
        rest = behind;
    }
}

fn inner(bytes: &[u8]) -> Option<(Facts, &[u8])> {
    let (head, rest) = bytes.split_at_checked(20)?;
    let number = |at: usize| i32::from_be_bytes(head[at..at + 4].try_into().unwrap_or_default());
    let (body, rest) = rest.split_at_checked(usize::try_from(number(16)).ok()?)?;
    let (len, rest) = rest.split_first_chunk::<2>()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    let mut facts: Facts = vec![("flag", Cell::number(number(12)))];
    let property = |name| properties::get(text, name);
    for (json, name) in [("msgId", name::UNIQ_KEY), ("keys", name::KEYS), ("tags", name::TAGS)] {
        facts.extend(property(name).map(|v| (json, Cell::Text(v.to_owned()))));
    }
    facts.push(("bodyLength", Cell::number(body.len() as i64)));
    facts.push(("body", Cell::Text(body::one_line(body, 200))));
    Some((facts, rest))
}

/// Fields of a trace's entries, by type, in their order. Versions differ in how many there are.
const TRACES: [(&str, &[&str]); 5] = [
    (
        "Pub",
        &[
            "timeStamp",
            "regionId",
            "groupName",
            "topic",
            "msgId",
            "tags",
            "keys",
            "storeHost",
            "bodyLength",
            "costTime",
            "msgType",
            "offsetMsgId",
            "success",
            "clientHost",
        ],
    ),
    (
        "SubBefore",
        &[
            "timeStamp",
            "regionId",
            "groupName",
            "requestId",
            "msgId",
            "retryTimes",
            "keys",
            "clientHost",
        ],
    ),
    (
        "SubAfter",
        &[
            "requestId",
            "msgId",
            "costTime",
            "success",
            "keys",
            "contextCode",
            "timeStamp",
            "groupName",
        ],
    ),
    (
        "EndTransaction",
        &[
            "timeStamp",
            "regionId",
            "groupName",
            "topic",
            "msgId",
            "tags",
            "keys",
            "storeHost",
            "msgType",
            "transactionId",
            "transactionState",
            "fromTransactionCheck",
        ],
    ),
    ("Recall", &["timeStamp", "regionId", "groupName", "topic", "msgId", "success"]),
];

fn is_trace(r: &Record<'_>) -> bool {
    let begins = |kind: &str| {
        r.body().strip_prefix(kind.as_bytes()).is_some_and(|rest| rest.first() == Some(&1))
    };
    TRACES.iter().any(|(kind, _)| begins(kind))
}

fn trace(r: &Record<'_>, d: &mut Decoded) {
    d.kind("trace");
    let text = body::plain(r).map(|b| String::from_utf8_lossy(&b).into_owned());
    let text = text.unwrap_or_default();
    for entry in text.split('\u{2}').filter(|e| !e.is_empty()).take(MAX_PARTS) {
        let mut values = entry.split('\u{1}');
        let kind = values.next().unwrap_or_default();
        let Some((_, names)) = TRACES.iter().find(|(name, _)| *name == kind) else { continue };
        let mut part: Facts = vec![("traceType", Cell::Text(kind.to_owned()))];
        let values: Vec<&str> = values.collect();
        for (name, value) in names.iter().zip(&values) {
            // Before 4.4 a sending had no offset id, so its success came in that place.
            let name = if *name == "offsetMsgId" && values.len() == 12 { "success" } else { name };
            part.push(match (name, value.parse()) {
                ("timeStamp", Ok(ms)) => (name, Cell::Time(Some(ms))),
                ("bodyLength" | "costTime" | "retryTimes" | "contextCode" | "msgType", Ok(n)) => {
                    (name, Cell::Number(n))
                }
                _ => (name, Cell::Text((*value).to_owned())),
            });
        }
        part.retain(|(_, cell)| !matches!(cell, Cell::Text(t) if t.is_empty() || t == "null"));
        d.parts.push(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mq_store::codec::record::{Message, Placement, body_crc, encode, encoded_len};

    fn decoded(topic: &str, sys_flag: i32, body: &[u8], properties: &str) -> Option<Value> {
        let message = Message {
            topic,
            queue_id: 2,
            flag: 0,
            sys_flag,
            born_timestamp: 0,
            born_host: "1.2.3.4:5".parse().unwrap(),
            reconsume_times: 3,
            prepared_transaction_offset: 77,
            body,
            properties: properties.as_bytes(),
        };
        let place = Placement {
            queue_offset: 0,
            physical_offset: 0,
            store_timestamp: 1_000_000,
            store_host: "1.2.3.4:5".parse().unwrap(),
        };
        let mut bytes = vec![0; encoded_len(&message, &place.store_host)];
        encode(&message, &place, body_crc(body), &mut bytes);
        let record = as_record(&bytes).unwrap();
        decode(&record).map(|d| {
            assert!(!d.lines().is_empty());
            d.json()
        })
    }

    #[test]
    fn every_kind_says_what_it_is() {
        let properties =
            "DELAY\u{1}3\u{2}REAL_TOPIC\u{1}%RETRY%G\u{2}REAL_QID\u{1}0\u{2}RETRY_TOPIC\u{1}T\u{2}";
        let d = decoded(SCHEDULE_TOPIC, 0, b"x", properties).unwrap();
        assert_eq!((&d["kind"], &d["due"]), (&"delayed, retry".into(), &1_010_000.into()));
        assert_eq!((&d["originTopic"], &d["group"]), (&"T".into(), &"G".into()));
        let d = decoded(OP_TOPIC, 0, b"12,13,", "TAGS\u{1}d\u{2}").unwrap();
        assert_eq!(d["halfQueueOffsets"], "12,13");
        let d = decoded("T", sys_flag::COMMIT, b"x", "").unwrap();
        assert_eq!((&d["kind"], &d["halfPosition"]), (&"committed transaction".into(), &77.into()));
        let body = br#"{"bm":0,"c":"G","d":[0,2],"it":60000,"n":2,"pt":5,"q":1,"so":9,"t":"T"}"#;
        let d = decoded("rmq_sys_REVIVE_LOG_c", 0, body, "TAGS\u{1}ck\u{2}").unwrap();
        assert_eq!((&d["kind"], &d["visibleAgain"]), (&"POP checkpoint".into(), &60_005.into()));
        assert_eq!((&d["offsetDifferences"], &d["group"]), (&"0,2".into(), &"G".into()));
        let d = decoded(TIMER_TOPIC, 0, b"x", "TIMER_OUT_MS\u{1}99\u{2}REAL_TOPIC\u{1}T\u{2}");
        assert_eq!(d.unwrap()["due"], 99);
        let body = b"Pub\x01100\x01r\x01G\x01T\x01id\x01tag\x01k\x011.2.3.4:5\x0110\x014\x010\x01offset\x01true\x02";
        let d = decoded("MyTraces", 0, body, "").unwrap();
        assert_eq!(
            (&d["parts"][0]["costTime"], &d["parts"][0]["success"]),
            (&4.into(), &"true".into())
        );
        assert!(decoded("T", 0, b"x", "DELAY\u{1}3\u{2}").is_none());
    }

    #[test]
    fn a_batch_is_taken_apart_and_a_torn_one_as_far_as_it_goes() {
        let mut body = Vec::new();
        for text in ["one", "two"] {
            let properties = format!("KEYS\u{1}k{text}\u{2}");
            let len = (20 + text.len() + 2 + properties.len()) as u32;
            for n in [len, 0, 0, 7, text.len() as u32] {
                body.extend(n.to_be_bytes());
            }
            body.extend(text.as_bytes());
            body.extend((properties.len() as u16).to_be_bytes());
            body.extend(properties.as_bytes());
        }
        let d = decoded("B", sys_flag::INNER_BATCH, &body, "INNER_NUM\u{1}2\u{2}").unwrap();
        assert_eq!((&d["messages"], &d["parts"][1]["keys"]), (&2.into(), &"ktwo".into()));
        assert_eq!(d["parts"][1]["body"], "two");
        let torn = decoded("B", sys_flag::INNER_BATCH, &body[..body.len() - 1], "").unwrap();
        assert_eq!(torn["parts"].as_array().unwrap().len(), 1);
    }
}
