//! Requests that are encoded once and patched for each message, and answers that are looked at
//! in place: the tool must cost far less a message than the broker it measures.

use std::borrow::Cow;
use std::sync::OnceLock;

use mq_broker::acl::Credentials;
use mq_broker::wire::codes::request;
use mq_broker::wire::command::{self, Command, Outgoing, Value};
use mq_broker::wire::frame::{self, Encoding, Frame, FrameLimits, Parsed};
use mq_store::codec::ids::parse_offset_msg_id;
use mq_store::codec::record::sys_flag;

use super::cli::Common;
use super::error::Result;

/// Opaques of measured requests have ten digits from here on, so that patching one changes no
/// length. Answers to lower ones, heartbeats, are not waited for.
pub const FIRST_OPAQUE: i32 = 1_000_000_000;
/// How many such opaques there are.
pub const OPAQUES: u32 = 1_000_000_000;
/// Stands for the second half of a unique key.
const KEY_PLACE: &str = "FEDCBA9876543210";
/// Stands for a queue offset.
const OFFSET_PLACE: i64 = 1_234_567_890_123_456_789;
const OFFSET_DIGITS: usize = 19;

/// An encoded request, with the places that change.
#[derive(Debug, Default)]
pub struct Template {
    bytes: Vec<u8>,
    json: bool,
    opaque_at: usize,
    offset_at: Option<usize>,
    keys: Vec<usize>,
    bodies: Vec<usize>,
    body_len: usize,
    /// Where the signature is, and who signs.
    signature: Option<(usize, Credentials)>,
}

/// What the requests of a run have in common.
#[derive(Clone, Copy, Debug, Default)]
pub struct Messages<'a> {
    pub tag: Option<&'a str>,
    pub size: usize,
    /// Messages in a request; one goes as a plain message.
    pub batch: usize,
    pub one_way: bool,
    /// 0: at once.
    pub delay_level: u32,
    /// Halves, to be committed.
    pub transaction: bool,
}

impl Template {
    /// A send to a queue: code 310, or 320 for a batch.
    pub fn send(common: &Common, topic: &str, m: Messages<'_>, queue: u32) -> Template {
        let key = (run_number() as u32).wrapping_add(queue);
        let mut properties = format!("UNIQ_KEY\x017F000001{key:08X}{KEY_PLACE}\x02");
        properties += &format!("WAIT\x01{}\x02", common.wait_flush);
        let outer = properties.clone();
        if let Some(tag) = m.tag {
            properties += &format!("TAGS\x01{tag}\x02");
        }
        if m.delay_level > 0 {
            properties += &format!("DELAY\x01{}\x02", m.delay_level);
        }
        if m.transaction {
            properties += &format!("TRAN_MSG\x01true\x02PGROUP\x01{}\x02", common.group);
        }
        // Bytes that differ, as those of real messages do.
        let filler: Vec<u8> = (0..m.size).map(|n| b' ' + (n * 7 % 95) as u8).collect();
        let (mut body, mut bodies) = (Vec::new(), Vec::new());
        let plain = m.batch == 1;
        if plain {
            bodies.push(0);
            body = filler;
        } else {
            for _ in 0..m.batch {
                let total = (22 + filler.len() + properties.len()) as u32;
                for word in [total, 0, 0, 0, filler.len() as u32] {
                    body.extend_from_slice(&word.to_be_bytes());
                }
                bodies.push(body.len());
                body.extend_from_slice(&filler);
                body.extend_from_slice(&(properties.len() as u16).to_be_bytes());
                body.extend_from_slice(properties.as_bytes());
            }
        }
        let code = if plain { request::SEND_MESSAGE_V2 } else { request::SEND_BATCH_MESSAGE };
        let command = Command::new(code)
            .field("a", common.group.clone())
            .field("b", topic.to_owned())
            .field("c", "TBW102")
            .field("d", 4)
            .field("e", queue)
            .field("f", if m.transaction { sys_flag::PREPARED } else { 0 })
            .field("g", epoch_ms())
            .field("h", 0)
            .field("i", if plain { properties } else { outer })
            .field("j", 0)
            .field("k", false)
            .field("m", !plain)
            .body(body);
        Template::request(common, command, bodies, m.size, m.one_way)
    }

    /// A pull from a queue that brings its subscription along.
    pub fn pull(common: &Common, queue: u32, suspend_ms: Option<u64>) -> Template {
        let command = Command::new(request::PULL_MESSAGE)
            .field("consumerGroup", common.group.clone())
            .field("topic", common.topic.clone())
            .field("queueId", queue)
            .field("queueOffset", OFFSET_PLACE)
            .field("maxMsgNums", common.pull_batch)
            .field("sysFlag", if suspend_ms.is_some() { 6 } else { 4 })
            .field("commitOffset", 0)
            .field("suspendTimeoutMillis", suspend_ms.unwrap_or(0))
            .field("subscription", "*")
            .field("subVersion", 0)
            .field("expressionType", "TAG");
        Template::request(common, command, Vec::new(), 0, false)
    }

    /// An answer.
    pub fn answer(command: &Command, encoding: Encoding) -> Template {
        let mut out = Outgoing::default();
        command.encode_response(FIRST_OPAQUE, encoding, &mut out);
        Template::of(out.bytes.to_vec(), encoding)
    }

    fn request(
        common: &Common,
        mut command: Command,
        bodies: Vec<usize>,
        body_len: usize,
        one_way: bool,
    ) -> Template {
        let encoding = common.encoding();
        let credentials = common.credentials();
        if let Some(credentials) = &credentials {
            credentials.sign(&mut command);
        }
        let mut out = Outgoing::default();
        command.encode_request(FIRST_OPAQUE, one_way, encoding, &mut out);
        let bytes = out.bytes.to_vec();
        let body_at = bytes.len() - command.body.len();
        let key = KEY_PLACE.as_bytes();
        let signature = credentials.and_then(|credentials| {
            let (_, Value::Text(first)) = command.fields.last()? else { return None };
            Some((find(&bytes, first.as_bytes())?, credentials))
        });
        Template {
            signature,
            offset_at: find(&bytes, OFFSET_PLACE.to_string().as_bytes()),
            keys: (0..bytes.len()).filter(|at| bytes[*at..].starts_with(key)).collect(),
            bodies: bodies.iter().map(|at| body_at + at).collect(),
            body_len,
            ..Template::of(bytes, encoding)
        }
    }

    /// A frame in which nothing changes but the opaque.
    fn of(bytes: Vec<u8>, encoding: Encoding) -> Template {
        let opaque_at = match encoding {
            // Quotes inside of texts are escaped, so this is the field and nothing else.
            Encoding::Json => find(&bytes, b"\"opaque\":").map_or(0, |at| at + 9),
            Encoding::Binary => 8 + 5,
        };
        Template { opaque_at, json: encoding == Encoding::Json, bytes, ..Template::default() }
    }

    /// Appends the request to `out`, with its opaque.
    pub fn put<'a>(&'a self, opaque: i32, out: &'a mut Vec<u8>) -> Request<'a> {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let bytes = &mut out[start..];
        let opaque_at = self.opaque_at;
        if self.json {
            put_digits(&mut bytes[opaque_at..opaque_at + 10], opaque as u64);
        } else {
            bytes[opaque_at..opaque_at + 4].copy_from_slice(&opaque.to_be_bytes());
        }
        Request { template: self, bytes }
    }
}

/// A request in an output buffer, to be filled in.
#[derive(Debug)]
pub struct Request<'a> {
    template: &'a Template,
    bytes: &'a mut [u8],
}

/// What has been filled in is signed, if requests are.
impl Drop for Request<'_> {
    fn drop(&mut self) {
        let Some((at, credentials)) = &self.template.signature else { return };
        let Ok(Parsed::Frame(frame, _)) = frame::parse(self.bytes, &FrameLimits::default()) else {
            return;
        };
        if let Ok(head) = command::decode(frame.encoding, frame.header) {
            let signature = credentials.signature(&head.fields, frame.body);
            self.bytes[*at..at + signature.len()].copy_from_slice(signature.as_bytes());
        }
    }
}

impl Request<'_> {
    /// Gives the messages unique keys, for the `n`th request.
    pub fn keys(&mut self, n: u64) {
        let first = n * self.template.keys.len() as u64;
        for (key, at) in (first..).zip(&self.template.keys) {
            let mut rest = key;
            for digit in self.bytes[*at..at + KEY_PLACE.len()].iter_mut().rev() {
                *digit = b"0123456789ABCDEF"[(rest & 15) as usize];
                rest >>= 4;
            }
        }
    }

    /// The body of each message.
    pub fn bodies(&mut self, mut fill: impl FnMut(usize, &mut [u8])) {
        for (n, at) in self.template.bodies.iter().enumerate() {
            fill(n, &mut self.bytes[*at..at + self.template.body_len]);
        }
    }

    /// Sets the offset of a pull.
    pub fn offset(&mut self, offset: i64) {
        if let Some(at) = self.template.offset_at {
            // Leading zeros are fine with every parser of numbers.
            put_digits(&mut self.bytes[at..at + OFFSET_DIGITS], offset.max(0) as u64);
        }
    }
}

fn put_digits(place: &mut [u8], mut n: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (n % 10) as u8;
        n /= 10;
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}

/// A number of this run's own.
pub fn run_number() -> u64 {
    static RUN: OnceLock<u64> = OnceLock::new();
    *RUN.get_or_init(|| {
        let mixed = epoch_ms() as u64 ^ u64::from(std::process::id()) << 42;
        mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    })
}

fn epoch_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_millis() as i64)
}

/// What matters of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub code: i32,
    pub opaque: i32,
}

/// Finds code and opaque in answers, or in requests.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Whether these are requests.
    requests: bool,
    /// How far from the header's end the last mark was found: the next one is likely there too.
    mark_from_end: usize,
}

/// How a header of Java's form, and of ours, goes on after the extFields of an answer.
const ANSWER_MARK: &[u8] = b"\"flag\":1,\"language\":\"JAVA\",\"opaque\":";
const REQUEST_MARK: &[u8] = b"\"flag\":0,\"language\":\"JAVA\",\"opaque\":";

impl Scanner {
    /// For requests, as a server reads them.
    pub fn of_requests() -> Scanner {
        Scanner { requests: true, mark_from_end: 0 }
    }

    /// Looks at a frame. `None`: it is a request of the broker's own; in a server, one that
    /// wants no answer.
    pub fn scan(&mut self, frame: &Frame<'_>) -> Result<Option<Answer>> {
        let seen = match frame.encoding {
            Encoding::Json => self.scan_json(frame.header),
            Encoding::Binary => None,
        };
        if seen.is_some() {
            return Ok(seen);
        }
        let head = command::decode(frame.encoding, frame.header)?;
        let wanted = if self.requests { !head.is_one_way() } else { head.is_response() };
        Ok(wanted.then_some(Answer { code: head.code, opaque: head.opaque }))
    }

    /// `None` if the header has not the usual form.
    fn scan_json(&mut self, header: &[u8]) -> Option<Answer> {
        let sought = if self.requests { REQUEST_MARK } else { ANSWER_MARK };
        let code = number(header.strip_prefix(b"{\"code\":")?)?;
        let likely = header.len().checked_sub(self.mark_from_end)?;
        let mark = match header[likely..].starts_with(sought) {
            true => likely,
            false => find(header, sought)?,
        };
        self.mark_from_end = header.len() - mark;
        Some(Answer { code, opaque: number(&header[mark + sought.len()..])? })
    }
}

/// The number that `bytes` begin with; `None` also if it is negative or long.
fn number(bytes: &[u8]) -> Option<i32> {
    let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    if !(1..=10).contains(&digits) {
        return None;
    }
    let n = bytes[..digits].iter().fold(0, |n, b| n * 10 + i64::from(b - b'0'));
    i32::try_from(n).ok()
}

/// The remark of an answer, for people.
pub fn remark(frame: &Frame<'_>) -> String {
    let head = command::decode(frame.encoding, frame.header);
    head.ok().and_then(|h| h.remark).map(Cow::into_owned).unwrap_or_default()
}

/// A field of an answer that is a number.
pub fn field(frame: &Frame<'_>, name: &str) -> Result<Option<i64>> {
    let head = command::decode(frame.encoding, frame.header)?;
    Ok(head.fields.get(name).and_then(|v| v.parse().ok()))
}

/// A request that costs little: where a topic's first queue ends.
pub fn question(common: &Common) -> Vec<u8> {
    let command = Command::new(request::GET_MAX_OFFSET).field("topic", common.topic.clone());
    once(common, command.field("queueId", 0), false, Encoding::Json)
}

/// A request that is not measured.
pub fn once(common: &Common, mut command: Command, one_way: bool, encoding: Encoding) -> Vec<u8> {
    if let Some(credentials) = common.credentials() {
        credentials.sign(&mut command);
    }
    let mut out = Outgoing::default();
    command.encode_request(1, one_way, encoding, &mut out);
    out.bytes.to_vec()
}

/// The one-way request that commits the half which an answer tells of.
pub fn commit(common: &Common, answer: &Frame<'_>) -> Result<Vec<u8>> {
    let head = command::decode(answer.encoding, answer.header)?;
    let field = |name| head.fields.get(name).unwrap_or_default();
    let place = parse_offset_msg_id(field("msgId")).map_or(0, |(_, at)| at);
    let command = Command::new(request::END_TRANSACTION)
        .field("producerGroup", common.group.clone())
        .field("tranStateTableOffset", field("queueOffset").to_owned())
        .field("commitLogOffset", place)
        .field("commitOrRollback", sys_flag::COMMIT)
        .field("fromTransactionCheck", false)
        .field("msgId", field("transactionId").to_owned());
    Ok(once(common, command, true, answer.encoding))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::Parser;
    use mq_broker::wire::frame::{FrameLimits, Parsed, parse};

    fn frame(bytes: &[u8]) -> Frame<'_> {
        match parse(bytes, &FrameLimits::default()) {
            Ok(Parsed::Frame(frame, total)) if total == bytes.len() => frame,
            other => panic!("{other:?}"),
        }
    }

    fn common(more: &[&str]) -> Common {
        let line = ["mq-bench", "send", "--topic", "T", "--wait-flush", "false"];
        match Cli::try_parse_from(line.iter().chain(more)).unwrap().verb {
            Verb::Send(args) => args.common,
            other => panic!("{other:?}"),
        }
    }

    fn messages(batch: usize) -> Messages<'static> {
        let one_way = batch > 1;
        Messages { tag: Some("t"), size: 20, batch, one_way, ..Messages::default() }
    }

    #[test]
    fn a_patched_send_decodes_to_what_was_put_in() {
        for flags in [&[][..], &["--binary"]] {
            let common = common(flags);
            let mut out = b"before".to_vec();
            let template = Template::send(&common, "T", messages(1), 3);
            let mut request = template.put(1_999_999_999, &mut out);
            request.keys(0x1F);
            request.bodies(|_, body| body[..8].copy_from_slice(&7u64.to_be_bytes()));
            drop(request);
            let frame = frame(&out[6..]);
            let head = command::decode(common.encoding(), frame.header).unwrap();
            assert_eq!((head.code, head.opaque), (310, 1_999_999_999));
            assert_eq!((head.fields.get("b"), head.fields.get("e")), (Some("T"), Some("3")));
            let properties = head.fields.get("i").unwrap();
            assert!(properties.ends_with("0000001F\x02WAIT\x01false\x02TAGS\x01t\x02"));
            assert_eq!((frame.body.len(), &frame.body[..8]), (20, &[0, 0, 0, 0, 0, 0, 0, 7][..]));
        }
    }

    #[test]
    fn a_batch_gives_each_message_its_key_and_body() {
        let template = Template::send(&common(&[]), "T", messages(3), 0);
        let mut out = Vec::new();
        let mut request = template.put(FIRST_OPAQUE, &mut out);
        request.keys(2);
        request.bodies(|n, body| body[0] = n as u8);
        drop(request);
        let frame = frame(&out);
        let head = command::decode(Encoding::Json, frame.header).unwrap();
        assert!(head.code == 320 && head.is_one_way() && head.fields.get("m") == Some("true"));
        let mut rest = frame.body;
        for n in 0..3u8 {
            let total = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
            assert_eq!((rest[20], rest[16..20] == [0, 0, 0, 20]), (n, true));
            let key = format!("{:016X}\x02", 9 + u64::from(n));
            assert!(find(&rest[..total], key.as_bytes()).is_some());
            rest = &rest[total..];
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn a_pull_gets_its_offset() {
        let template = Template::pull(&common(&[]), 5, Some(1000));
        let mut out = Vec::new();
        template.put(FIRST_OPAQUE + 5, &mut out).offset(77);
        let head = command::decode(Encoding::Json, frame(&out).header).unwrap();
        let offset = head.fields.get("queueOffset").unwrap();
        assert_eq!((offset.parse(), head.fields.get("sysFlag")), (Ok(77), Some("6")));
    }

    #[test]
    fn answers_of_the_usual_form_and_of_others() {
        let mut scanner = Scanner::default();
        let mut scan = |header: &[u8]| {
            let frame = Frame { encoding: Encoding::Json, header, body: b"" };
            scanner.scan(&frame).unwrap()
        };
        let java = br#"{"code":0,"extFields":{"queueId":"0","queueOffset":"9"},"flag":1,"language":"JAVA","opaque":1000000007,"serializeTypeCurrentRPC":"JSON","version":513}"#;
        assert_eq!(scan(java), Some(Answer { code: 0, opaque: 1_000_000_007 }));
        assert_eq!(scan(java), Some(Answer { code: 0, opaque: 1_000_000_007 }), "by the hint");
        let remark = br#"{"code":2,"flag":1,"language":"JAVA","opaque":1000000008,"remark":"\"flag\":1,\"language\":\"JAVA\",\"opaque\":3","version":513}"#;
        assert_eq!(scan(remark), Some(Answer { code: 2, opaque: 1_000_000_008 }));
        let other = br#"{"opaque":-4,"flag":1,"code":-3}"#;
        assert_eq!(scan(other), Some(Answer { code: -3, opaque: -4 }));
        let request = br#"{"code":40,"flag":2,"language":"JAVA","opaque":1}"#;
        assert_eq!(scan(request), None);

        let mut out = Outgoing::default();
        Command::ok().encode_response(9, Encoding::Binary, &mut out);
        let answer = Scanner::default().scan(&frame(&out.bytes)).unwrap();
        assert_eq!(answer, Some(Answer { code: 0, opaque: 9 }));
    }
}
