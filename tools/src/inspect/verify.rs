//! `verify`: the log against itself, and everything else against the log.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::ControlFlow;

use mq_store::codec::ids::{index_hash, tag_index_hash};
use mq_store::codec::properties::{self, name};
use mq_store::codec::record::{Record, sys_flag};
use mq_store::config::StoreConfig;
use mq_store::index::IndexFile;
use mq_store::log::scan::{Step, Why};
use mq_store::queue::consume_queue::ConsumeQueue;
use mq_store::recover::{SCHEDULE_TOPIC, is_of_an_earlier_life, queue_file_len, unit_of};
use mq_store::segment::Segment;
use mq_store::store::as_record;
use mq_store::view::{ConfigFile, Misfit, StoreView};
use serde_json::json;

use super::output::{Output, Progress, count, printable};
use super::summary::max_offset;
use super::{Answer, Failure};

/// Tags codes up to this are addresses in consumequeue_ext.
const LAST_EXT_ADDRESS: i64 = -2_147_483_649;
/// A light queue's name begins so; it holds messages of other topics.
const LIGHT_PREFIX: &str = "%LMQ%";

/// Files of the folder `config` that are looked at.
const CONFIG: [&str; 5] = [
    "topics.json",
    "subscriptionGroup.json",
    "consumerOffset.json",
    "lmqConsumerOffset.json",
    "delayOffset.json",
];

/// What is wrong with a queue's units. Each is told once a queue, with a count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// Behind the queue's end there should be more.
    Behind,
    Earlier,
    Missing,
    Elsewhere,
    TwoRecords,
    Dangling,
    NotOurs,
    Size,
    Tags,
}

impl Fault {
    fn text(self) -> &'static str {
        match self {
            Fault::Behind => "messages are in the log and not yet in the queue",
            Fault::Earlier => "messages are of an earlier life of the topic, or misplaced",
            Fault::Missing => "messages of the log have no unit",
            Fault::Elsewhere => "units point at something other than the message of their offset",
            Fault::TwoRecords => "offsets are those of two messages; the first is in the queue",
            Fault::Dangling => "units point where no message is",
            Fault::NotOurs => "units point at a message of another queue or offset",
            Fault::Size => "units have another size than their message",
            Fault::Tags => "units have another tags code than their message",
        }
    }
}

struct Check<'a> {
    view: &'a StoreView,
    out: &'a mut Output,
    /// Somebody has the store open, so its ends are moving.
    live: bool,
    /// The next start will do what was left undone.
    unfinished: bool,
    config: StoreConfig,
    queues: HashMap<String, HashMap<i32, Seen>>,
    misfits: Vec<Misfit>,
    faults: BTreeMap<(String, i32, Fault), (u64, u64, u64)>,
    batches: BTreeMap<(String, i32), u64>,
    damage: u64,
    failed: Result<(), Failure>,
}

struct Seen {
    queue: ConsumeQueue,
    /// Behind the last offset that the log gave.
    next: u64,
}

pub fn verify(view: &StoreView, out: &mut Output) -> Answer {
    let live = view.in_use().is_some();
    let mut check = Check {
        view,
        out,
        live,
        unfinished: live || view.has_abort(),
        config: StoreConfig::at(view.root()),
        queues: HashMap::new(),
        misfits: view.misfits().to_vec(),
        faults: BTreeMap::new(),
        batches: BTreeMap::new(),
        damage: 0,
        failed: Ok(()),
    };
    let log = check.log()?;
    let units = check.all_queues(log.end)?;
    let index = view.index(&mut check.misfits)?;
    let items = check.index(index, &log)?;
    check.checkpoint(&log)?;
    let groups = check.offsets()?;
    for Misfit { path, what } in std::mem::take(&mut check.misfits) {
        check.tell(true, "file", &format!("{}: {what}", path.display()))?;
    }
    let Check { damage, out, unfinished, .. } = check;
    if out.json {
        out.object(&json!({
            "sound": damage == 0, "damage": damage, "records": log.records, "units": units,
            "indexItems": items, "committedOffsets": groups,
        }))?;
    } else {
        let verdict = match (damage, live, unfinished) {
            (0, true, _) => "sound, as far as can be told of a store in use".into(),
            (0, _, true) => "sound; it was not closed, and the next start has work to do".into(),
            (0, ..) => "sound".into(),
            (n, ..) => format!("DAMAGE in {n} places"),
        };
        let [r, u, i, g] = [log.records, units, items, groups].map(count);
        out.line(&format!("{r} records, {u} units, {i} keys, {g} committed offsets: {verdict}"))?;
    }
    Ok(damage == 0)
}

/// What the walk over the log told.
struct Log {
    end: u64,
    records: u64,
    last_time: i64,
    /// Position of the last record that has keys.
    last_with_keys: Option<u64>,
}

impl Check<'_> {
    fn tell(&mut self, is_damage: bool, kind: &str, what: &str) -> io::Result<()> {
        self.damage += u64::from(is_damage);
        let severity = if is_damage { "damage" } else { "note" };
        if self.out.json {
            return self.out.object(&json!({"severity": severity, "kind": kind, "what": what}));
        }
        self.out.line(&format!("{severity:<7}{kind:<11}{}", printable(what)))
    }

    fn log(&mut self) -> Result<Log, Failure> {
        let view = self.view;
        let mut log = Log { end: 0, records: 0, last_time: 0, last_with_keys: None };
        let mut progress = Progress::new();
        let limit = view.log().last().map_or(0, |s| s.limit());
        let end = view.walk(true, |step| {
            let result = match &step {
                Step::Record(r) | Step::BadBody(r) => {
                    let at = r.physical_offset().unsigned_abs();
                    progress.show("log", at, limit);
                    log.records += 1;
                    let keys = properties::index_keys(r.properties()).next();
                    if keys.is_some() && r.transaction() != sys_flag::ROLLBACK {
                        log.last_with_keys = Some(at);
                    }
                    self.record(r)
                }
                Step::Hole { from, to, why } => {
                    let what = format!("{} bytes from {from} on are lost: {why}", to - from);
                    self.tell(true, "log", &what).map_err(Failure::from)
                }
            };
            match result {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => {
                    self.failed = Err(e);
                    ControlFlow::Break(())
                }
            }
        });
        progress.clear();
        std::mem::replace(&mut self.failed, Ok(()))?;
        (log.end, log.last_time) = (end.at, end.last_time);
        if let Why::Broken(e) = end.why {
            // The record may be just being written.
            let what = format!("what stands at {}, behind the last record: {e}", end.at);
            self.tell(!self.live, "log", &what)?;
        }
        Ok(log)
    }

    fn record(&mut self, r: &Record<'_>) -> Result<(), Failure> {
        if let Some(what) = damage_of(r) {
            let at = r.physical_offset();
            self.tell(true, "log", &format!("the message at {at} ({}): {what}", r.topic()))?;
        }
        if r.sys_flag() & sys_flag::INNER_BATCH != 0 {
            *self.batches.entry((r.topic().to_owned(), r.queue_id())).or_default() += 1;
        }
        if let Some((offset, _)) = unit_of(r, &self.config.delay_levels_ms) {
            self.has_unit(r.topic(), r.queue_id(), offset, r)?;
        }
        for (topic, offset) in light_queues(r) {
            self.has_unit(topic, 0, offset, r)?;
        }
        Ok(())
    }

    fn seen(&mut self, topic: &str, id: i32) -> Result<&mut Seen, Failure> {
        if self.queues.get(topic).is_none_or(|ids| !ids.contains_key(&id)) {
            let queue = self.view.queue(topic, id, &mut self.misfits)?;
            let ids = self.queues.entry(topic.to_owned()).or_default();
            ids.insert(id, Seen { queue, next: 0 });
        }
        Ok(self.queues.get_mut(topic).and_then(|ids| ids.get_mut(&id)).expect("just inserted"))
    }

    fn has_unit(&mut self, topic: &str, id: i32, offset: u64, r: &Record<'_>) -> io::Result<()> {
        // A topic that is no folder's name has no queue.
        if self.seen(topic, id).is_err() {
            return Ok(());
        }
        let Some(seen) = self.queues.get_mut(topic).and_then(|ids| ids.get_mut(&id)) else {
            return Ok(());
        };
        let at = r.physical_offset().unsigned_abs();
        let unit = seen.queue.get(offset).filter(|u| !u.is_filler());
        let is_old = |view: &StoreView| {
            is_of_an_earlier_life(&view.log().all(), &seen.queue, r, offset, unit)
        };
        let fault = match unit {
            Some(unit) if unit.offset == at => None,
            _ if is_old(self.view) => Some(Fault::Earlier),
            Some(_) if offset < seen.next => Some(Fault::TwoRecords),
            Some(_) => Some(Fault::Elsewhere),
            None if offset < seen.queue.max_offset() => Some(Fault::Missing),
            None => Some(Fault::Behind),
        };
        seen.next = seen.next.max(offset + 1);
        if let Some(fault) = fault {
            self.fault(topic, id, fault, offset);
        }
        Ok(())
    }

    fn fault(&mut self, topic: &str, id: i32, fault: Fault, offset: u64) {
        let run = self.faults.entry((topic.to_owned(), id, fault)).or_insert((offset, offset, 0));
        *run = (run.0.min(offset), run.1.max(offset), run.2 + 1);
    }

    /// Every unit of every queue against the log, which ends at `log_end`.
    fn all_queues(&mut self, log_end: u64) -> Result<u64, Failure> {
        let mut units = 0;
        let mut progress = Progress::new();
        let usual_len = queue_file_len(&self.view.root().join("consumequeue"), 0)?;
        let all: Vec<(String, i32)> = self
            .view
            .queues()?
            .into_iter()
            .flat_map(|(topic, ids)| ids.into_iter().map(move |id| (topic.clone(), id)))
            .collect();
        let topics = self.view.config("topics.json").value;
        let is_configured = |topic: &str| {
            let table = topics.as_ref().and_then(|v| v.get("topicConfigTable"));
            table.is_none_or(|t| t.get(topic).is_some())
        };
        for (n, (topic, id)) in all.iter().enumerate() {
            progress.show("queues", n as u64, all.len() as u64);
            self.seen(topic, *id)?;
            let Some(seen) = self.queues.get_mut(topic).and_then(|t| t.remove(id)) else {
                continue;
            };
            units += self.units(&seen.queue, log_end);
            let len = seen.queue.chain().file_len();
            if len != usual_len && len != 0 {
                let path = seen.queue.chain().dir().to_owned();
                let what = format!("files of {len} bytes, where other queues' have {usual_len}");
                self.misfits.push(Misfit { path, what });
            }
            self.queues.entry(topic.clone()).or_default().insert(*id, seen);
        }
        progress.clear();
        for (topic, ids) in self.view.batch_queues()? {
            for id in ids {
                units += self.batch_units(&topic, id, log_end)?;
            }
        }
        for ((topic, id), n) in std::mem::take(&mut self.batches) {
            let what = format!("{topic} queue {id}: {n} batches are not in the batch queue");
            self.tell(!self.unfinished, "queue", &what)?;
        }
        for ((topic, id, fault), (first, last, n)) in std::mem::take(&mut self.faults) {
            let offsets = if n == 1 { format!("{first}") } else { format!("{first} to {last}") };
            let mut what = format!("{topic} queue {id}: {n} {} ({offsets})", fault.text());
            let mut is_damage = fault != Fault::Earlier;
            if fault == Fault::Behind {
                if self.live {
                    // The queue was looked at before its last messages came.
                    continue;
                }
                is_damage = !self.unfinished;
                let has_folder = all.binary_search(&(topic.clone(), id)).is_ok();
                if !has_folder && !is_configured(&topic) {
                    is_damage = false;
                    what.push_str("; the topic is not in topics.json: it was deleted");
                }
            }
            self.tell(is_damage, "queue", &what)?;
        }
        Ok(units)
    }

    fn units(&mut self, queue: &ConsumeQueue, log_end: u64) -> u64 {
        let (topic, id) = (&**queue.topic(), queue.id());
        let is_light = topic.starts_with(LIGHT_PREFIX);
        let mut segment: Option<Segment> = None;
        let mut units = 0;
        let mut released = 0;
        queue.for_each(queue.min_offset(), |offset, unit| {
            units += 1;
            self.release(unit.offset, &mut released);
            if unit.offset >= log_end && self.live {
                return true;
            }
            if !segment.as_ref().is_some_and(|s| s.base <= unit.offset && unit.offset < s.limit()) {
                segment = self.view.log().find(unit.offset);
            }
            let record = segment.as_ref().and_then(|s| as_record(s.tail(unit.offset)));
            let record =
                record.filter(|r| r.check_place(unit.offset).is_ok() && unit.offset < log_end);
            let fault = match record {
                None => Some(Fault::Dangling),
                Some(r) => {
                    let ours = if is_light {
                        light_queues(&r).any(|light| light == (topic, offset))
                    } else {
                        (r.topic(), r.queue_id(), u64::try_from(r.queue_offset()))
                            == (topic, id, Ok(offset))
                    };
                    let tags = mq_store::recover::tags_code(&r, &self.config.delay_levels_ms);
                    // Times of delivery depend on the levels that the broker was set to.
                    let free = r.topic() == SCHEDULE_TOPIC || unit.tags_code <= LAST_EXT_ADDRESS;
                    if !ours {
                        Some(Fault::NotOurs)
                    } else if unit.size as usize != r.size() {
                        Some(Fault::Size)
                    } else {
                        (!free && tags != unit.tags_code).then_some(Fault::Tags)
                    }
                }
            };
            if let Some(fault) = fault {
                self.fault(topic, id, fault, offset);
            }
            true
        });
        units
    }

    fn batch_units(&mut self, topic: &str, id: i32, log_end: u64) -> Result<u64, Failure> {
        let queue = self.view.batch_queue(topic, id, &mut self.misfits)?;
        let mut units = 0;
        let mut in_log = self.batches.remove(&(topic.to_owned(), id)).unwrap_or(0);
        for batch in queue.units().filter(|b| b.unit.offset >= self.view.log_min()) {
            units += 1;
            if batch.unit.offset >= log_end && self.live {
                continue;
            }
            let slice = self.view.record_at(batch.unit.offset);
            let number =
                |r: &Record<'_>, name| r.property(name).and_then(|v| v.parse::<u64>().ok());
            let fault = match slice.as_deref().and_then(as_record) {
                None => Some(Fault::Dangling),
                Some(r) if r.topic() != topic || r.queue_id() != id => Some(Fault::NotOurs),
                Some(r) if number(&r, "INNER_BASE").is_some_and(|n| n != batch.base) => {
                    Some(Fault::NotOurs)
                }
                Some(r) => (r.size() != batch.unit.size as usize).then_some(Fault::Size),
            };
            in_log = in_log.saturating_sub(1);
            if let Some(fault) = fault {
                self.fault(topic, id, fault, batch.base);
            }
        }
        if in_log > 0 {
            self.batches.insert((topic.to_owned(), id), in_log);
        }
        Ok(units)
    }

    fn index(&mut self, files: Vec<IndexFile>, log: &Log) -> io::Result<u64> {
        let end = files.last().map(|f| f.header().end_offset.unsigned_abs());
        let mut items = 0;
        let mut released = 0;
        let mut progress = Progress::new();
        for (at, file) in files.into_iter().enumerate() {
            let (header, shape) = (file.header(), file.shape());
            let mut wrong: BTreeMap<&str, (i32, u64)> = BTreeMap::new();
            for n in 1..header.count {
                if n % 4096 == 0 {
                    progress.show(&format!("index {}", at + 1), n as u64, header.count as u64);
                }
                let Some(item) = file.item(n) else { break };
                items += 1;
                self.release(item.offset.unsigned_abs(), &mut released);
                let newest = file.slot(item.hash.unsigned_abs() % shape.slots);
                let fault = if item.hash < 0 || item.previous >= n || item.previous < 0 {
                    Some("are broken")
                } else if newest < n || newest >= header.count && !self.live {
                    Some("cannot be reached from their slot")
                } else if !self.points_at_its_key(&item, log.end) {
                    Some("point at no message of their key")
                } else {
                    None
                };
                if let Some(fault) = fault {
                    wrong.entry(fault).or_insert((n, 0)).1 += 1;
                }
            }
            progress.clear();
            for (fault, (first, n)) in wrong {
                let path = file.path().display();
                self.tell(true, "index", &format!("{path}: {n} items, from {first} on, {fault}"))?;
            }
        }
        if let Some(last) = log.last_with_keys.filter(|last| end.is_none_or(|end| end < *last)) {
            let (is_damage, what) = match end {
                // It can be switched off.
                None => (false, "there is none".to_owned()),
                Some(end) => (
                    !self.unfinished,
                    format!("it ends with {end}, the last message with keys is at {last}"),
                ),
            };
            self.tell(is_damage, "index", &what)?;
        }
        Ok(items)
    }

    /// Lets go of the log now and then, while its records are looked at in order.
    fn release(&self, at: u64, released: &mut u64) {
        if at.abs_diff(*released) > 64 << 20 {
            self.view.release();
            *released = at;
        }
    }

    fn points_at_its_key(&self, item: &mq_store::codec::index::Item, log_end: u64) -> bool {
        let Ok(at) = u64::try_from(item.offset) else { return false };
        if at < self.view.log_min() || at >= log_end {
            // Gone with the oldest files, or newer than the walk.
            return at < log_end || self.live;
        }
        let slice = self.view.record_at(at);
        slice.as_deref().and_then(as_record).is_some_and(|r| {
            let tag = r.property(name::TAGS).map(|tag| tag_index_hash(r.topic(), tag));
            let mut keys = properties::index_keys(r.properties());
            tag == Some(item.hash) || keys.any(|k| index_hash(r.topic(), k) == item.hash)
        })
    }

    fn checkpoint(&mut self, log: &Log) -> io::Result<()> {
        let Some(c) = self.view.checkpoint() else {
            return self.tell(false, "checkpoint", "there is none");
        };
        // Index files are named and flushed a little later than their last record.
        let latest = log.last_time.saturating_add(1000);
        if c.believable(latest, log.end) != c && !self.live {
            self.tell(true, "checkpoint", "it speaks of times or positions that the log lacks")?;
        }
        Ok(())
    }

    fn offsets(&mut self) -> Result<u64, Failure> {
        let (committed, _) = self.view.committed();
        if self.view.config("topics.json") == ConfigFile::default() {
            self.tell(false, "config", "there is no topics.json")?;
        }
        let wheel = self.view.root().join("timerwheel");
        if self.seen("rmq_sys_wheel_timer", 0)?.queue.max_offset() > 0 && !wheel.exists() {
            self.tell(false, "timer", "there is no timerwheel: all timed messages come again")?;
        }
        for name in CONFIG {
            let file = self.view.config(name);
            if let Some(Misfit { path, what }) = file.problem {
                // A crash may leave half a file, and a good .bak.
                let is_damage = file.value.is_none() || !self.unfinished;
                self.tell(is_damage, "config", &format!("{}: {what}", path.display()))?;
            }
        }
        for c in &committed {
            let Ok(seen) = self.seen(&c.topic, c.queue_id) else { continue };
            let (min, mut max) = (seen.queue.min_offset(), seen.queue.max_offset().max(seen.next));
            if max == 0 {
                max = max_offset(self.view, &c.topic, c.queue_id)?;
            }
            let who = format!("{} in {} queue {}", c.group, c.topic, c.queue_id);
            if u64::try_from(c.offset).is_ok_and(|n| n > max) && !self.live {
                let what = format!("{who}: {} is behind the queue's end, {max}", c.offset);
                self.tell(true, "offset", &what)?;
            } else if c.offset < min as i64 && max > 0 && c.offset >= 0 {
                let what = format!("{who}: {} is before the first, {min}", c.offset);
                self.tell(false, "offset", &what)?;
            }
        }
        Ok(committed.len() as u64)
    }
}

/// The light queues that a message is in besides its own, with its offsets there.
fn light_queues<'a>(r: &Record<'a>) -> impl Iterator<Item = (&'a str, u64)> + use<'a> {
    let names = r.property("INNER_MULTI_DISPATCH").unwrap_or("");
    let offsets = r.property("INNER_MULTI_QUEUE_OFFSET").unwrap_or("");
    let pairs = names.split(',').zip(offsets.split(','));
    let pairs = pairs.filter(|(name, _)| name.starts_with(LIGHT_PREFIX));
    pairs.filter_map(|(name, offset)| Some((name, offset.parse().ok()?)))
}

/// What is wrong with a record of the right form.
pub fn damage_of(r: &Record<'_>) -> Option<String> {
    if let Err(e) = r.check_body() {
        return Some(e.to_string());
    }
    if r.properties().contains(&0) {
        // Nothing else covers the properties: a torn write ends in zeros.
        return Some("the properties are torn".into());
    }
    // The CRC that 5.x can append to the properties, over the record up to there: `__CRC32#`,
    // 0x01, ten decimal digits with the last one first, 0x02.
    let (covered, crc) = r.bytes().split_last_chunk::<20>()?;
    let digits = crc.strip_prefix(b"__CRC32#\x01")?.strip_suffix(b"\x02")?;
    let number = digits.iter().rev().fold(0, |n, d| n * 10 + u64::from(d.wrapping_sub(b'0')));
    let is_right = number == u64::from(crc32fast::hash(covered) & 0x7FFF_FFFF);
    (!is_right).then(|| "the record does not match its CRC".into())
}
