//! Queues: each unit against the log, each record of the log against its unit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mq_store::broker::names::LIGHT_PREFIX;
use mq_store::codec::queue_unit::{UNIT_LEN, Unit};
use mq_store::codec::record::Record;
use mq_store::queue::consume_queue::ConsumeQueue;
use mq_store::recover::{SCHEDULE_TOPIC, is_of_an_earlier_life, queue_file_len};
use mq_store::segment::Segment;
use mq_store::store::as_record;
use mq_store::view::Misfit;

use super::{Check, Failure, Keys, Progress};

/// Tags codes up to this are addresses in consumequeue_ext.
const LAST_EXT_ADDRESS: i64 = -2_147_483_649;

/// The queues that were opened so far.
#[derive(Default)]
pub struct Queues {
    places: HashMap<String, usize>,
    topics: Vec<(String, BTreeMap<i32, Option<Seen>>)>,
    /// Where the last topic stands: often the next record is of the same.
    last: usize,
}

pub struct Seen {
    pub queue: Arc<ConsumeQueue>,
    /// Behind the last offset that the log gave.
    pub next: u64,
    /// Units that are as the log has them.
    confirmed: u64,
    /// The file that was looked into last.
    file: Option<Segment>,
}

impl Seen {
    fn unit(&mut self, offset: u64) -> Option<Unit> {
        let at = offset.checked_mul(UNIT_LEN as u64)?;
        if offset >= self.queue.max_offset() {
            return None;
        }
        if !self.file.as_ref().is_some_and(|s| s.base <= at && at < s.limit()) {
            self.file = self.queue.chain().find(at);
        }
        Unit::decode(self.file.as_ref()?.tail(at))
    }
}

impl Queues {
    fn get(
        &mut self,
        topic: &str,
        id: i32,
        open: impl FnOnce() -> Option<ConsumeQueue>,
    ) -> Option<&mut Seen> {
        if self.topics.get(self.last).is_none_or(|(name, _)| name != topic) {
            self.last = match self.places.get(topic) {
                Some(at) => *at,
                None => {
                    self.places.insert(topic.to_owned(), self.topics.len());
                    self.topics.push((topic.to_owned(), BTreeMap::new()));
                    self.topics.len() - 1
                }
            };
        }
        let (_, queues) = self.topics.get_mut(self.last)?;
        let seen = queues.entry(id).or_insert_with(|| {
            open().map(|q| Seen { queue: Arc::new(q), next: 0, confirmed: 0, file: None })
        });
        seen.as_mut()
    }

    /// Gives back the memory in which the queues' files are mapped.
    pub fn release(&self) {
        let seen = self.topics.iter().flat_map(|(_, queues)| queues.values().flatten());
        for file in seen.filter_map(|s| s.file.as_ref()) {
            file.file.release(0, usize::MAX);
        }
    }
}

/// What is wrong with a queue's units. Each is told once a queue, with a count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
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
    StandIn,
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
            Fault::StandIn => "units repeat that of a neighbour; their own messages are lost",
            Fault::Tags => "units have another tags code than their message",
        }
    }
}

impl Check<'_> {
    pub(super) fn seen(&mut self, topic: &str, id: i32) -> Option<&mut Seen> {
        let view = self.view;
        let misfits = &mut self.misfits;
        self.queues.get(topic, id, || view.queue(topic, id, misfits).ok())
    }

    /// A record of the log wants its unit in a queue.
    pub(super) fn has_unit(
        &mut self,
        topic: &str,
        id: i32,
        offset: u64,
        r: &Record<'_>,
        keys: &Keys<'_>,
    ) {
        let (view, misfits) = (self.view, &mut self.misfits);
        // A topic that is no folder's name has no queue.
        let opened = self.queues.get(topic, id, || view.queue(topic, id, misfits).ok());
        let Some(seen) = opened else { return };
        let at = r.physical_offset().unsigned_abs();
        let unit = seen.unit(offset).filter(|u| !u.is_filler());
        let fault = match unit {
            Some(unit) if unit.offset == at => {
                let tags = || keys.tags_code(r, &self.config.delay_levels_ms);
                let agrees = unit.size as usize == r.size()
                    && (unit.tags_code == tags() || is_free(r, &unit));
                // What does not agree is looked at again, and told then.
                seen.confirmed += u64::from(agrees && offset >= seen.queue.min_offset());
                None
            }
            _ if is_of_an_earlier_life(&view.log().all(), &seen.queue, r, offset, unit) => {
                Some(Fault::Earlier)
            }
            Some(_) if offset < seen.next => Some(Fault::TwoRecords),
            Some(_) => Some(Fault::Elsewhere),
            None if offset < seen.queue.max_offset() => Some(Fault::Missing),
            None => Some(Fault::Behind),
        };
        seen.next = seen.next.max(offset + 1);
        if let Some(fault) = fault {
            self.fault(topic, id, fault, offset);
        }
    }

    fn fault(&mut self, topic: &str, id: i32, fault: Fault, offset: u64) {
        let run = self.faults.entry((topic.to_owned(), id, fault)).or_insert((offset, offset, 0));
        *run = (run.0.min(offset), run.1.max(offset), run.2 + 1);
    }

    /// Every unit of every queue against the log, which ends at `log_end`.
    pub(super) fn all_queues(&mut self, log_end: u64) -> Result<u64, Failure> {
        let mut units = 0;
        let usual_len = queue_file_len(&self.view.root().join("consumequeue"), UNIT_LEN, 0)?;
        let all: Vec<(String, i32)> = self
            .view
            .queues()?
            .into_iter()
            .flat_map(|(topic, ids)| ids.into_iter().map(move |id| (topic.clone(), id)))
            .collect();
        let mut progress = Progress::new("queues", all.len() as u64);
        let topics = self.view.config("topics.json").value;
        let is_configured = |topic: &str| {
            let table = topics.as_ref().and_then(|v| v.get("topicConfigTable"));
            table.is_none_or(|t| t.get(topic).is_some())
        };
        for (n, (topic, id)) in all.iter().enumerate() {
            progress.at(n as u64);
            let Some(seen) = self.seen(topic, *id) else { continue };
            let (queue, confirmed) = (seen.queue.clone(), seen.confirmed);
            let in_all = queue.max_offset() - queue.min_offset();
            units += match confirmed == in_all {
                true => in_all,
                false => self.units(&queue, log_end),
            };
            let len = queue.chain().file_len();
            if len != usual_len && len != 0 {
                let path = queue.chain().dir().to_owned();
                let what = format!("files of {len} bytes, where other queues' have {usual_len}");
                self.misfits.push(Misfit { path, what });
            }
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
            let mut is_damage = !matches!(fault, Fault::Earlier | Fault::StandIn);
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
            if is_damage {
                self.found.bad_queues.insert((topic, id));
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
            self.release(unit.offset);
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
                    let keys = Keys::of(&r);
                    let ours = if is_light {
                        keys.light_queues().any(|light| light == (topic, offset))
                    } else {
                        (r.topic(), r.queue_id(), u64::try_from(r.queue_offset()))
                            == (topic, id, Ok(offset))
                    };
                    let tags = keys.tags_code(&r, &self.config.delay_levels_ms);
                    if !ours && is_stand_in(queue, &r, &keys, &unit) {
                        Some(Fault::StandIn)
                    } else if !ours {
                        Some(Fault::NotOurs)
                    } else if unit.size as usize != r.size() {
                        Some(Fault::Size)
                    } else {
                        (!is_free(&r, &unit) && tags != unit.tags_code).then_some(Fault::Tags)
                    }
                }
            };
            if let Some(fault) = fault {
                self.fault(topic, id, fault, offset);
            }
            if fault == Some(Fault::NotOurs)
                && let Some(r) = record
                && self.is_nowhere(&r)
            {
                self.found.bad_records.push((unit.offset, unit.offset + r.size() as u64));
            }
            true
        });
        units
    }

    /// Whether another message has the place that a record claims: then its topic, queue or
    /// offset, which nothing covers, are not what was stored.
    fn is_nowhere(&mut self, r: &Record<'_>) -> bool {
        let Ok(offset) = u64::try_from(r.queue_offset()) else { return true };
        let at = r.physical_offset().unsigned_abs();
        let seen = self.seen(r.topic(), r.queue_id());
        seen.and_then(|s| s.unit(offset)).is_some_and(|u| u.offset != at)
    }

    fn batch_units(&mut self, topic: &str, id: i32, log_end: u64) -> Result<u64, Failure> {
        let queue = self.view.batch_queue(topic, id, &mut self.misfits)?;
        let mut units = 0;
        let mut in_log = self.batches.remove(&(topic.to_owned(), id)).unwrap_or(0);
        for batch in queue.units() {
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
}

/// Whether a unit is the one of another message of its queue, as repair writes them for lost ones.
fn is_stand_in(queue: &ConsumeQueue, r: &Record<'_>, keys: &Keys<'_>, unit: &Unit) -> bool {
    let (topic, id) = (&**queue.topic(), queue.id());
    let is_its = |offset| queue.get(offset) == Some(*unit);
    (r.topic(), r.queue_id()) == (topic, id) && u64::try_from(r.queue_offset()).is_ok_and(is_its)
        || keys.light_queues().any(|(light, offset)| light == topic && is_its(offset))
}

/// Whether the tags code may be another one than the record's: times of delivery depend on the
/// levels that the broker was set to, and 4.x can keep codes in files of their own.
fn is_free(r: &Record<'_>, unit: &Unit) -> bool {
    r.topic() == SCHEDULE_TOPIC || unit.tags_code <= LAST_EXT_ADDRESS
}
