//! What a store is made of: the whole, topics, queues, groups.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use mq_store::codec::record::{Record, sys_flag};
use mq_store::log::scan::{Step, Why};
use mq_store::queue::consume_queue::ConsumeQueue;
use mq_store::store::as_record;
use mq_store::view::{Misfit, StoreView};
use serde_json::{Map, Value, json};

use super::output::{Output, Progress, count, size};
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
    let mut progress = Progress::new();
    let limit = view.log().last().map_or(0, |s| s.limit());
    let end = view.walk(false, |step| {
        match step {
            Step::Record(r) | Step::BadBody(r) => {
                progress.show("log", r.physical_offset().unsigned_abs(), limit);
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
        fact("DAMAGED", format!("{} bytes; see verify", size(totals.damaged)))?;
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
    fact(
        "checkpoint",
        format!(
            "log {}, queues {}, index {}",
            time(c.log_time),
            time(c.queue_time),
            time(c.index_time)
        ),
    )?;
    let offsets = [
        ("confirmed", c.confirm_offset),
        ("queues to", c.queue_physical_offset),
        ("master flushed", c.master_flushed_offset),
    ];
    let offsets: Vec<_> =
        offsets.iter().filter(|o| o.1 != 0).map(|(what, at)| format!("{what} {at}")).collect();
    if !offsets.is_empty() {
        fact("", offsets.join(", "))?;
    }
    Ok(true)
}

/// What is shown of a queue.
struct QueueFacts {
    kind: &'static str,
    min: u64,
    max: u64,
    messages: u64,
    bytes: u64,
    last_time: Option<i64>,
}

fn facts_of(view: &StoreView, queue: &ConsumeQueue) -> QueueFacts {
    let (mut messages, mut bytes, mut last) = (0, 0, None);
    queue.for_each(queue.min_offset(), |_, unit| {
        messages += 1;
        bytes += u64::from(unit.size);
        last = Some(unit.offset);
        true
    });
    let last = last.and_then(|at| view.record_at(at));
    QueueFacts {
        kind: if queue.topic().starts_with("%LMQ%") { "light" } else { "" },
        min: queue.min_offset(),
        max: queue.max_offset(),
        messages,
        bytes,
        last_time: last.as_deref().and_then(as_record).map(|r| r.store_timestamp()),
    }
}

/// Shows every queue, those of a topic one behind the other.
fn each_queue(
    view: &StoreView,
    topic: Option<&str>,
    mut visit: impl FnMut(&str, i32, QueueFacts) -> io::Result<()>,
) -> Result<(), Failure> {
    let wanted = |t: &String| topic.is_none_or(|want| want == t);
    let (plain, batch) = (view.queues()?, view.batch_queues()?);
    let topics: BTreeSet<&String> = plain.keys().chain(batch.keys()).collect();
    let mut misfits = Vec::new();
    for topic in topics.into_iter().filter(|t| wanted(t)) {
        for id in plain.get(topic).into_iter().flatten() {
            visit(topic, *id, facts_of(view, &view.queue(topic, *id, &mut misfits)?))?;
        }
        for id in batch.get(topic).into_iter().flatten() {
            let queue = view.batch_queue(topic, *id, &mut misfits)?;
            let mut facts = QueueFacts {
                kind: "batch",
                min: 0,
                max: 0,
                messages: 0,
                bytes: 0,
                last_time: None,
            };
            for batch in queue.units() {
                facts.max = batch.end();
                if batch.unit.offset < view.log_min() {
                    facts.min = batch.end();
                    continue;
                }
                facts.messages += u64::from(batch.count);
                facts.bytes += u64::from(batch.unit.size);
                facts.last_time = Some(batch.store_timestamp);
            }
            visit(topic, *id, facts)?;
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
        config: Option<Map<String, Value>>,
    }
    let mut topics: BTreeMap<String, Topic> = BTreeMap::new();
    let file = view.config("topics.json");
    tell(file.problem.as_slice());
    let table = file.value.as_ref().and_then(|v| v.get("topicConfigTable")?.as_object());
    for (name, config) in table.into_iter().flatten() {
        topics.entry(name.clone()).or_default().config = config.as_object().cloned();
    }
    each_queue(view, None, |topic, _, facts| {
        let sum = topics.entry(topic.to_owned()).or_default();
        sum.queues += 1;
        sum.messages += facts.messages;
        sum.bytes += facts.bytes;
        sum.last_time = sum.last_time.max(facts.last_time);
        Ok(())
    })?;
    if !out.json {
        out.table(&["TOPIC", ">QUEUES", ">MESSAGES", ">BYTES", "LAST STORED", "CONFIGURED"])?;
    }
    for (name, topic) in &topics {
        let config = |key: &str| topic.config.as_ref().and_then(|c| c.get(key)).cloned();
        if out.json {
            out.object(&json!({
                "topic": name, "queues": topic.queues, "messages": topic.messages,
                "bytes": topic.bytes, "lastUpdateTimestamp": topic.last_time,
                "perm": config("perm"), "readQueueNums": config("readQueueNums"),
                "writeQueueNums": config("writeQueueNums"), "attributes": config("attributes"),
            }))?;
            continue;
        }
        let number = |key| config(key).and_then(|v| v.as_i64()).unwrap_or(0);
        let configured = match topic.config {
            None => "not in topics.json".into(),
            Some(_) => format!(
                "{} read, {} write, perm {}",
                number("readQueueNums"),
                number("writeQueueNums"),
                number("perm")
            ),
        };
        let cells = [
            name.clone(),
            topic.queues.to_string(),
            topic.messages.to_string(),
            size(topic.bytes),
            topic.last_time.map(local).unwrap_or_default(),
            configured,
        ];
        out.row(cells, "")?;
    }
    Ok(true)
}

pub fn queues(view: &StoreView, args: &Queues, out: &mut Output) -> Answer {
    if args.units {
        return units(view, args.topic.as_deref(), out);
    }
    if !out.json {
        out.table(&[
            "TOPIC",
            ">QUEUE",
            ">MIN",
            ">MAX",
            ">MESSAGES",
            ">BYTES",
            "LAST STORED",
            "KIND",
        ])?;
    }
    each_queue(view, args.topic.as_deref(), |topic, id, q| {
        if out.json {
            return out.object(&json!({
                "topic": topic, "queueId": id, "minOffset": q.min, "maxOffset": q.max,
                "messages": q.messages, "bytes": q.bytes, "lastUpdateTimestamp": q.last_time,
                "kind": q.kind,
            }));
        }
        let cells = [
            topic.to_owned(),
            id.to_string(),
            q.min.to_string(),
            q.max.to_string(),
            q.messages.to_string(),
            size(q.bytes),
            q.last_time.map(local).unwrap_or_default(),
            q.kind.to_owned(),
        ];
        out.row(cells, "")
    })?;
    Ok(true)
}

fn units(view: &StoreView, topic: Option<&str>, out: &mut Output) -> Answer {
    if !out.json {
        out.table(&["TOPIC", ">QUEUE", ">OFFSET", ">POSITION", ">SIZE", ">TAGS CODE"])?;
    }
    let mut misfits = Vec::new();
    for (name, ids) in view.queues()?.iter().filter(|(t, _)| topic.is_none_or(|want| want == *t)) {
        for id in ids {
            let queue = view.queue(name, *id, &mut misfits)?;
            let mut failed = Ok(());
            queue.for_each(queue.min_offset(), |offset, unit| {
                failed = if out.json {
                    out.object(&json!({
                        "topic": name, "queueId": id, "queueOffset": offset,
                        "commitLogOffset": unit.offset, "size": unit.size,
                        "tagsCode": unit.tags_code,
                    }))
                } else {
                    let numbers = [*id as i64, offset as i64, unit.offset as i64];
                    let [id, offset, at] = numbers.map(|n| n.to_string());
                    let (size, tags) = (unit.size.to_string(), unit.tags_code.to_string());
                    out.row([name.clone(), id, offset, at, size, tags], "")
                };
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
    if !out.json {
        out.table(&["GROUP", "TOPIC", ">QUEUE", ">COMMITTED", ">MAX", ">LAG"])?;
    }
    for c in committed {
        if args.group.as_ref().is_some_and(|g| *g != c.group)
            || args.topic.as_ref().is_some_and(|t| *t != c.topic)
        {
            continue;
        }
        let max = match view.queue(&c.topic, c.queue_id, &mut Vec::new())?.max_offset() {
            0 => view
                .batch_queue(&c.topic, c.queue_id, &mut Vec::new())?
                .units()
                .last()
                .map_or(0, |b| b.end()),
            max => max,
        };
        let lag = i64::try_from(max).unwrap_or(i64::MAX).saturating_sub(c.offset);
        if out.json {
            out.object(&json!({
                "group": c.group, "topic": c.topic, "queueId": c.queue_id,
                "consumerOffset": c.offset, "brokerOffset": max, "lag": lag,
            }))?;
            continue;
        }
        let numbers = [i64::from(c.queue_id), c.offset, max as i64, lag];
        let [id, offset, max, lag] = numbers.map(|n| n.to_string());
        out.row([c.group, c.topic, id, offset, max, lag], "")?;
    }
    Ok(true)
}
