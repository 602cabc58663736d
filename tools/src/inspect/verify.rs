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
use mq_store::recover::{SCHEDULE_TOPIC, queue_file_len, unit_of};
use mq_store::segment::Segment;
use mq_store::store::as_record;
use mq_store::view::{ConfigFile, Misfit, StoreView};
use serde_json::json;

use super::output::{Output, Progress, count, printable};
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
    let items = check.index(&index, &log)?;
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
                    let bad_body = matches!(step, Step::BadBody(_));
                    self.record(r, bad_body)
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

    fn record(&mut self, r: &Record<'_>, bad_body: bool) -> Result<(), Failure> {
        let at = r.physical_offset();
        if bad_body {
            let what = format!("the body of the message at {at} ({}) is not as stored", r.topic());
            self.tell(true, "log", &what)?;
        } else if r.properties().contains(&0) {
            // Nothing covers the properties but this: a torn write ends in zeros.
            self.tell(true, "log", &format!("the properties of the message at {at} are torn"))?;
        } else if let Some(false) = whole_crc_is_right(r) {
            self.tell(true, "log", &format!("the message at {at} does not match its CRC"))?;
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
        if !self.queues.contains_key(topic) {
            self.queues.insert(topic.to_owned(), HashMap::new());
        }
        let of_topic = self.queues.entry(topic.to_owned()).or_default();
        match of_topic.entry(id) {
            std::collections::hash_map::Entry::Occupied(seen) => Ok(seen.into_mut()),
            std::collections::hash_map::Entry::Vacant(place) => {
                let queue = self.view.queue(topic, id, &mut self.misfits)?;
                Ok(place.insert(Seen { queue, next: 0 }))
            }
        }
    }

    fn has_unit(&mut self, topic: &str, id: i32, offset: u64, r: &Record<'_>) -> io::Result<()> {
        // A topic that is no folder's name has no queue.
        let Ok(seen) = self.seen(topic, id) else { return Ok(()) };
        let unit = seen.queue.get(offset).filter(|u| !u.is_filler());
        let fault = match unit {
            _ if offset < seen.next => Some(Fault::TwoRecords),
            None if offset >= seen.queue.max_offset() => Some(Fault::Behind),
            None => Some(Fault::Missing),
            Some(unit) => {
                (Ok(unit.offset) != u64::try_from(r.physical_offset())).then_some(Fault::Elsewhere)
            }
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
            if !self.queues.get(topic).is_some_and(|of_topic| of_topic.contains_key(id)) {
                self.seen(topic, *id)?;
            }
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
            let mut is_damage = true;
            if fault == Fault::Behind {
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
        queue.for_each(queue.min_offset(), |offset, unit| {
            units += 1;
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

    fn index(&mut self, files: &[IndexFile], log: &Log) -> io::Result<u64> {
        let mut items = 0;
        let mut progress = Progress::new();
        for (at, file) in files.iter().enumerate() {
            let (header, shape) = (file.header(), file.shape());
            let mut wrong: BTreeMap<&str, (i32, u64)> = BTreeMap::new();
            for n in 1..header.count {
                if n % 4096 == 0 {
                    progress.show(&format!("index {}", at + 1), n as u64, header.count as u64);
                }
                let Some(item) = file.item(n) else { break };
                items += 1;
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
        let end = files.last().map(|f| f.header().end_offset.unsigned_abs());
        if let Some(last) = log.last_with_keys.filter(|last| end.is_none_or(|end| end < *last)) {
            let what = match end {
                None => "there is none".to_owned(),
                Some(end) => format!("it ends with {end}, the last message with keys is at {last}"),
            };
            self.tell(false, "index", &what)?;
        }
        Ok(items)
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
        let latest = log.last_time.saturating_add(1000);
        let times = [c.log_time, c.queue_time, c.index_time];
        let offsets = [c.confirm_offset, c.queue_physical_offset];
        let true_time = |t: &i64| (0..=latest).contains(t);
        let true_offset = |o: &i64| u64::try_from(*o).is_ok_and(|o| o <= log.end);
        let is_true = times.iter().all(true_time) && offsets.iter().all(true_offset);
        if !is_true && !self.live {
            self.tell(true, "checkpoint", "it speaks of times or positions that the log lacks")?;
        }
        Ok(())
    }

    fn offsets(&mut self) -> Result<u64, Failure> {
        let (committed, _) = self.view.committed();
        if self.view.config("topics.json") == ConfigFile::default() {
            self.tell(false, "config", "there is no topics.json")?;
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
                let batch = self.view.batch_queue(&c.topic, c.queue_id, &mut Vec::new())?;
                max = batch.units().last().map_or(0, |b| b.end());
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

/// Whether the CRC over the whole record is right that 5.x can append to the properties:
/// `__CRC32#`, 0x01, ten decimal digits with the last one first, 0x02. `None` without one.
fn whole_crc_is_right(r: &Record<'_>) -> Option<bool> {
    let (covered, crc) = r.bytes().split_last_chunk::<20>()?;
    let digits = crc.strip_prefix(b"__CRC32#\x01")?.strip_suffix(b"\x02")?;
    let digits: Vec<u8> = digits.iter().rev().copied().collect();
    let number: u32 = std::str::from_utf8(&digits).ok()?.parse().ok()?;
    Some(number == crc32fast::hash(covered) & 0x7FFF_FFFF)
}
