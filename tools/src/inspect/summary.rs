//! What a store is made of: the whole, topics, queues, groups.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use mq_store::codec::record::{Record, sys_flag};
use mq_store::log::scan::{Step, Why};
use mq_store::queue::batch_queue::BatchQueue;
use mq_store::queue::consume_queue::ConsumeQueue;
use mq_store::store::as_record;
use mq_store::view::{Misfit, StoreView};
use serde_json::{Value, json};

use super::output::{Cell, Output, Progress, count, size};
use super::time::local;
use super::{Answer, Failure, Offsets, Queues};

/// Tells of misfits on stderr.
fn tell(misfits: &[Misfit]) {
    for m in misfits {
        eprintln!("mq-store-inspect: {}: {}", m.path.display(), m.what);
    }
}

/// What a walk over the log adds up.
#[derive(Default)]
struct Totals {
    messages: u64,
    bytes: u64,
    v2: u64,
    compressed: u64,
    not_shown: u64,
    topics: BTreeMap<String, u64>,
    times: Option<(i64, i64)>,
    damaged: u64,
}

impl Totals {
    fn add(&mut self, r: &Record<'_>) {
        self.messages += 1;
        self.bytes += r.size() as u64;
        self.v2 += u64::from(r.version() == 2);
        self.compressed += u64::from(r.sys_flag() & sys_flag::COMPRESSED != 0);
        self.not_shown += u64::from(!r.is_dispatched());
        match self.topics.get_mut(r.topic()) {
            Some(n) => *n += 1,
            None => drop(self.topics.insert(r.topic().to_owned(), 1)),
        }
        let time = r.store_timestamp();
        let (first, last) = self.times.unwrap_or((time, time));
        self.times = Some((first.min(time), last.max(time)));
    }
}

/// Files and bytes under a folder.
fn files_and_bytes(dir: &Path) -> (u64, u64) {
    let mut sum = (0, 0);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (files, bytes) = match entry.file_type() {
            Ok(t) if t.is_dir() => files_and_bytes(&entry.path()),
            Ok(t) if t.is_file() => (1, entry.metadata().map_or(0, |m| m.len())),
            _ => (0, 0),
        };
        sum = (sum.0 + files, sum.1 + bytes);
    }
    sum
}

pub fn summary(view: &StoreView, out: &mut Output) -> Answer {
    tell(view.misfits());
    let mut totals = Totals::default();
    let log_min = view.log_min();
    let limit = view.log().last().map_or(0, |s| s.limit());
    let mut progress = Progress::new("log", limit - log_min);
    let end = view.walk(false, |step| {
        match step {
            Step::Record(r) | Step::BadBody(r) => {
                progress.at(r.physical_offset().unsigned_abs() - log_min);
                totals.add(&r);
            }
            Step::Hole { from, to, .. } => totals.damaged += to - from,
        }
        ControlFlow::Continue(())
    });
    progress.clear();

    let in_use = view.in_use();
    let checkpoint = view.checkpoint();
    let queues: usize = view.queues()?.values().map(BTreeSet::len).sum();
    let batch_queues: usize = view.batch_queues()?.values().map(BTreeSet::len).sum();
    let index = view.index(&mut Vec::new())?;
    let keys: u64 = index.iter().map(|f| u64::from(f.header().count.unsigned_abs()) - 1).sum();
    let (log_files, log_bytes) = files_and_bytes(view.log().dir());
    let (queue_files, queue_bytes) = files_and_bytes(&view.root().join("consumequeue"));
    let (index_files, index_bytes) = files_and_bytes(&view.root().join("index"));
    let (first, last) = totals.times.unwrap_or_default();
    if out.json {
        let checkpoint = checkpoint.map(|c| {
            json!({
                "physicMsgTimestamp": c.log_time, "logicsMsgTimestamp": c.queue_time,
                "indexMsgTimestamp": c.index_time, "masterFlushedOffset": c.master_flushed_offset,
                "confirmPhyOffset": c.confirm_offset,
                "logicsPhysicalOffset": c.queue_physical_offset,
            })
        });
        out.object(&json!({
            "store": view.root().display().to_string(),
            "inUseBy": in_use, "abort": view.has_abort(), "checkpoint": checkpoint,
            "minPhyOffset": view.log_min(), "maxPhyOffset": end.at,
            "messages": totals.messages, "messageBytes": totals.bytes,
            "recordsV2": totals.v2, "compressed": totals.compressed,
            "neverShown": totals.not_shown, "damagedBytes": totals.damaged,
            "firstStoreTimestamp": first, "lastStoreTimestamp": last,
            "topics": totals.topics.len(), "queues": queues, "batchQueues": batch_queues,
            "keys": keys, "commitLogFiles": log_files, "commitLogBytes": log_bytes,
            "commitLogFileSize": view.log().file_len(),
            "consumeQueueFiles": queue_files, "consumeQueueBytes": queue_bytes,
            "indexFiles": index_files, "indexBytes": index_bytes,
        }))?;
        return Ok(true);
    }

    let alarm = out.alarm("DAMAGED     ");
    let mut fact = |name: &str, value: String| out.line(&format!("{name:<12}{value}"));
    fact("store", view.root().display().to_string())?;
    fact(
        "state",
        match (&in_use, view.has_abort()) {
            (Some(who), _) => format!("IN USE by {who}: what follows may change while you read"),
            (None, true) => "not closed (abort is there): a crash, or kill".into(),
            (None, false) => "closed".into(),
        },
    )?;
    let of = size(view.log().file_len() as u64);
    fact("log", format!("{log_files} files of {of} bytes, {} to {}", view.log_min(), end.at))?;
    match end.why {
        Why::Zeros | Why::MissingFile => {}
        Why::Broken(e) => fact("", format!("behind the end stands something else: {e}"))?,
    }
    if totals.damaged > 0 {
        fact(&alarm, format!("{} bytes; see verify", size(totals.damaged)))?;
    }
    let messages = count(totals.messages);
    fact("messages", format!("{messages} of {} topics", totals.topics.len()))?;
    fact("", format!("{} bytes", size(totals.bytes)))?;
    let more = [
        (totals.messages - totals.v2, "of record version 1"),
        (totals.v2, "of record version 2"),
        (totals.compressed, "compressed"),
        (totals.not_shown, "never shown (prepared or rolled back)"),
    ];
    let more: Vec<_> =
        more.iter().filter(|m| m.0 > 0).map(|(n, what)| format!("{} {what}", count(*n))).collect();
    if !more.is_empty() {
        fact("", more.join(", "))?;
        fact("stored", format!("{} to {}", local(first), local(last)))?;
    }
    let batch = if batch_queues > 0 { format!(", {batch_queues} batch") } else { String::new() };
    fact("queues", format!("{queues}{batch}; {queue_files} files, {} bytes", size(queue_bytes)))?;
    fact(
        "index",
        format!("{} keys; {index_files} files, {} bytes", count(keys), size(index_bytes)),
    )?;
    let Some(c) = checkpoint else {
        fact("checkpoint", "none".into())?;
        return Ok(true);
    };
    let time = |ms| if ms == 0 { "0".into() } else { local(ms) };
    let times = [c.log_time, c.queue_time, c.index_time].map(time);
    let [log, queues, index] = times;
    fact("checkpoint", format!("log {log}, queues {queues}, index {index}"))?;
    if (c.confirm_offset, c.queue_physical_offset) != (0, 0) {
        let (confirmed, queues) = (c.confirm_offset, c.queue_physical_offset);
        fact("", format!("confirmed {confirmed}, queues to {queues}"))?;
    }
    Ok(true)
}

/// What is shown of a queue.
#[derive(Default)]
struct QueueFacts {
    kind: &'static str,
    min: u64,
    max: u64,
    messages: u64,
    bytes: u64,
    last_time: Option<i64>,
}

fn facts_of(view: &StoreView, queue: &ConsumeQueue) -> QueueFacts {
    let (min, max) = (queue.min_offset(), queue.max_offset());
    let kind = if queue.topic().starts_with("%LMQ%") { "light" } else { "" };
    let mut facts = QueueFacts { kind, min, max, ..QueueFacts::default() };
    let mut last = None;
    queue.for_each(min, |_, unit| {
        facts.messages += 1;
        facts.bytes += u64::from(unit.size);
        last = Some(unit.offset);
        true
    });
    let last = last.and_then(|at| view.record_at(at));
    facts.last_time = last.as_deref().and_then(as_record).map(|r| r.store_timestamp());
    facts
}

fn facts_of_batches(queue: &BatchQueue) -> QueueFacts {
    let (min, max) = (queue.min_offset(), queue.max_offset());
    let mut facts = QueueFacts { kind: "batch", min, max, ..QueueFacts::default() };
    for batch in queue.units() {
        facts.messages += u64::from(batch.count);
        facts.bytes += u64::from(batch.unit.size);
        facts.last_time = Some(batch.store_timestamp);
    }
    facts
}

/// Shows every queue, those of a topic one behind the other.
fn each_queue(
    view: &StoreView,
    topic: Option<&str>,
    mut visit: impl FnMut(&str, i32, QueueFacts) -> io::Result<()>,
) -> Result<(), Failure> {
    let (plain, batch) = (view.queues()?, view.batch_queues()?);
    let topics: BTreeSet<&String> = plain.keys().chain(batch.keys()).collect();
    let mut misfits = Vec::new();
    for topic in topics.into_iter().filter(|t| topic.is_none_or(|want| want == *t)) {
        for id in plain.get(topic).into_iter().flatten() {
            visit(topic, *id, facts_of(view, &view.queue(topic, *id, &mut misfits)?))?;
        }
        for id in batch.get(topic).into_iter().flatten() {
            let queue = view.batch_queue(topic, *id, &mut misfits)?;
            visit(topic, *id, facts_of_batches(&queue))?;
        }
    }
    tell(&misfits);
    Ok(())
}

pub fn topics(view: &StoreView, out: &mut Output) -> Answer {
    #[derive(Default)]
    struct Topic {
        queues: u64,
        messages: u64,
        bytes: u64,
        last_time: Option<i64>,
        config: Value,
    }
    let mut topics: BTreeMap<String, Topic> = BTreeMap::new();
    let file = view.config("topics.json");
    tell(file.problem.as_slice());
    let table = file.value.as_ref().and_then(|v| v.get("topicConfigTable")?.as_object());
    for (name, config) in table.into_iter().flatten() {
        topics.entry(name.clone()).or_default().config = config.clone();
    }
    each_queue(view, None, |topic, _, facts| {
        let sum = topics.entry(topic.to_owned()).or_default();
        sum.queues += 1;
        sum.messages += facts.messages;
        sum.bytes += facts.bytes;
        sum.last_time = sum.last_time.max(facts.last_time);
        Ok(())
    })?;
    out.table(&[
        ("topic", "TOPIC"),
        ("queues", ">QUEUES"),
        ("messages", ">MESSAGES"),
        ("bytes", ">BYTES"),
        ("lastUpdateTimestamp", "LAST STORED"),
        ("readQueueNums", ">READ"),
        ("writeQueueNums", ">WRITE"),
        ("perm", ">PERM"),
    ])?;
    for (name, topic) in topics {
        let config =
            |key| topic.config.get(key).and_then(Value::as_i64).map_or(Cell::None, Cell::Number);
        out.item([
            Cell::Text(name),
            Cell::number(topic.queues),
            Cell::number(topic.messages),
            Cell::Bytes(topic.bytes),
            Cell::Time(topic.last_time),
            config("readQueueNums"),
            config("writeQueueNums"),
            config("perm"),
        ])?;
    }
    Ok(true)
}

pub fn queues(view: &StoreView, args: &Queues, out: &mut Output) -> Answer {
    if args.units {
        return units(view, args.topic.as_deref(), out);
    }
    out.table(&[
        ("topic", "TOPIC"),
        ("queueId", ">QUEUE"),
        ("minOffset", ">MIN"),
        ("maxOffset", ">MAX"),
        ("messages", ">MESSAGES"),
        ("bytes", ">BYTES"),
        ("lastUpdateTimestamp", "LAST STORED"),
        ("kind", "KIND"),
    ])?;
    each_queue(view, args.topic.as_deref(), |topic, id, q| {
        out.item([
            Cell::Text(topic.to_owned()),
            Cell::number(id),
            Cell::number(q.min),
            Cell::number(q.max),
            Cell::number(q.messages),
            Cell::Bytes(q.bytes),
            Cell::Time(q.last_time),
            Cell::Text(q.kind.to_owned()),
        ])
    })?;
    Ok(true)
}

fn units(view: &StoreView, topic: Option<&str>, out: &mut Output) -> Answer {
    out.table(&[
        ("topic", "TOPIC"),
        ("queueId", ">QUEUE"),
        ("queueOffset", ">OFFSET"),
        ("commitLogOffset", ">POSITION"),
        ("size", ">SIZE"),
        ("tagsCode", ">TAGS CODE"),
    ])?;
    let mut misfits = Vec::new();
    for (name, ids) in view.queues()?.iter().filter(|(t, _)| topic.is_none_or(|want| want == *t)) {
        for id in ids {
            let queue = view.queue(name, *id, &mut misfits)?;
            let mut failed = Ok(());
            queue.for_each(queue.min_offset(), |offset, unit| {
                failed = out.item([
                    Cell::Text(name.clone()),
                    Cell::number(*id),
                    Cell::number(offset),
                    Cell::number(unit.offset),
                    Cell::number(unit.size),
                    Cell::Number(unit.tags_code),
                ]);
                failed.is_ok()
            });
            failed?;
        }
    }
    tell(&misfits);
    Ok(true)
}

pub fn offsets(view: &StoreView, args: &Offsets, out: &mut Output) -> Answer {
    let (committed, misfits) = view.committed();
    tell(&misfits);
    out.table(&[
        ("group", "GROUP"),
        ("topic", "TOPIC"),
        ("queueId", ">QUEUE"),
        ("consumerOffset", ">COMMITTED"),
        ("brokerOffset", ">MAX"),
        ("lag", ">LAG"),
    ])?;
    let wanted = |want: &Option<String>, is: &str| want.as_deref().is_none_or(|want| want == is);
    for c in committed {
        if !wanted(&args.group, &c.group) || !wanted(&args.topic, &c.topic) {
            continue;
        }
        let max = max_offset(view, &c.topic, c.queue_id)?;
        let lag = i64::try_from(max).unwrap_or(i64::MAX).saturating_sub(c.offset);
        out.item([
            Cell::Text(c.group),
            Cell::Text(c.topic),
            Cell::number(c.queue_id),
            Cell::Number(c.offset),
            Cell::number(max),
            Cell::Number(lag),
        ])?;
    }
    Ok(true)
}

/// The next offset of a queue, plain or of batches.
pub fn max_offset(view: &StoreView, topic: &str, id: i32) -> Result<u64, Failure> {
    match view.queue(topic, id, &mut Vec::new())?.max_offset() {
        0 => {
            let batches = view.batch_queue(topic, id, &mut Vec::new())?;
            Ok(batches.units().last().map_or(0, |b| b.end()))
        }
        max => Ok(max),
    }
}
