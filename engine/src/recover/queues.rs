//! Queues compared with the log, and mended from it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Damage, DeletedTopics, SCHEDULE_TOPIC};
use crate::codec::properties;
use crate::codec::queue_unit::{UNIT_LEN, Unit};
use crate::codec::record::{Entry, MIN_LEN, Record, decode};
use crate::error::Result;
use crate::os::fs::Fs;
use crate::queue::consume_queue::ConsumeQueue;
use crate::queue::table::QueueTable;
use crate::segment::Segment;

/// Queues of light topics; their units point at records of other queues.
pub(super) const LIGHT_PREFIX: &str = "%LMQ%";
/// So many offsets the last unit of a queue may skip where no record is known to be lost.
const SKIPPED_AT_END: u64 = 8;

/// The queues of a store, compared with the log as it is walked over.
///
/// A message whose body is not what was stored keeps its unit, if it has one, so that its offset is not given
/// again: readers look at the body. It gets none, and gives way to an intact message of its offset.
pub(super) struct QueueCheck<'a> {
    pub fs: &'a Fs,
    pub segments: &'a [Segment],
    pub queues: &'a QueueTable,
    pub deleted: DeletedTopics,
    pub seen: HashMap<Box<str>, BTreeMap<i32, Seen>>,
    /// Bytes of the log so far that are no records any more.
    pub lost_bytes: u64,
    pub damage: Vec<Damage>,
    /// Units written for light queues.
    pub light_units: u64,
    /// The whole log is walked.
    pub from_start: bool,
    /// The first record of a queue must follow what the queue has of older ones.
    pub must_follow: bool,
    /// One did not.
    pub is_broken: bool,
}

pub(super) struct Seen {
    queue: Arc<ConsumeQueue>,
    /// The offset behind the last one that the log confirmed.
    next: u64,
    pub written: u64,
    /// A unit that is not the next one, and its offset.
    doubtful: Option<(u64, Unit)>,
    /// A record of the walk was compared with it.
    is_met: bool,
}

impl Seen {
    fn of(queue: Arc<ConsumeQueue>, next: u64) -> Seen {
        Seen { queue, next, written: 0, doubtful: None, is_met: false }
    }

    /// Whether an intact message has one of the offsets from `offset` on that the log confirmed.
    fn is_held(&self, segments: &[Segment], offset: u64) -> bool {
        (offset..self.next).any(|n| {
            let unit = self.queue.get(n).filter(|unit| !unit.is_filler());
            unit.and_then(|unit| record_at(segments, unit.offset))
                .is_some_and(|r| u64::try_from(r.queue_offset()) == Ok(n) && r.check_body().is_ok())
        })
    }

    /// Units for offsets in front of that of `unit` whose messages are lost. A filler says so, and
    /// points at position 0: a Java broker that finds no message there takes the log's first file for
    /// deleted, and passes by what stands in it. There the unit in front is repeated, or the one
    /// behind. Delayed messages are looked up one by one, and would be delivered twice.
    fn stand_in(&self, segments: &[Segment], offset: u64, unit: Unit) -> Result<()> {
        let queue = &self.queue;
        let first_file_to = segments.first().map_or(0, |s| s.file.len() as u64);
        if unit.offset >= first_file_to || &**queue.topic() == SCHEDULE_TOPIC {
            return Ok(());
        }
        let in_file = (queue.chain().file_len() / UNIT_LEN) as u64;
        let file_start = offset - offset % in_file;
        // Where whole files are left out, none is made.
        let from = match queue.max_offset() {
            0 => file_start,
            max => max.max(file_start.saturating_sub(in_file)),
        };
        let repeated = queue.last_unit().unwrap_or(unit);
        (from..offset).try_for_each(|n| queue.put(n, &repeated))
    }

    /// The first unit in front of `offset` at whose place the log has no record any more.
    fn stale(&self, segments: &[Segment], offset: u64) -> Option<u64> {
        let log_min = segments.first().map_or(0, |s| s.base);
        if offset <= self.next {
            return None;
        }
        let from = self.next.max(self.queue.partition(|unit| unit.offset >= log_min));
        let mut stale = None;
        self.queue.for_each(from, |n, unit| {
            if n < offset && record_at(segments, unit.offset).is_none() {
                stale = Some(n);
            }
            n < offset && stale.is_none()
        });
        stale
    }

    fn write(
        &mut self,
        fs: &Fs,
        queues: &QueueTable,
        segments: &[Segment],
        offset: u64,
        unit: Unit,
    ) -> Result<()> {
        let cut_at = self.stale(segments, offset).unwrap_or(offset);
        if cut_at < self.queue.max_offset() {
            self.queue = queues.replace(self.queue.cut(fs, cut_at)?);
        }
        self.stand_in(segments, offset, unit)?;
        self.queue.put(offset, &unit)?;
        self.written += 1;
        self.next = offset + 1;
        Ok(())
    }
}

fn wrong_offset(offset: u64, unit: &Unit, topic: &str) -> Damage {
    let what = format!("a message of {topic} has the wrong queue offset {offset}");
    Damage { from: unit.offset, to: unit.end(), what }
}

impl QueueCheck<'_> {
    /// Has the units of records below `from` count as confirmed.
    pub fn begin_at(&mut self, from: u64) {
        for queue in self.queues.all() {
            let next = queue.behind(from);
            let deleted = self.deleted.get(&**queue.topic());
            if next > 0 && !deleted.is_some_and(|at| is_older(queue.last_unit(), *at)) {
                let of_topic = self.seen.entry((&**queue.topic()).into()).or_default();
                let id = queue.id();
                of_topic.insert(id, Seen::of(queue, next));
            }
        }
    }

    /// Whether a topic was deleted when the log was longer than up to a record's position.
    pub fn is_deleted(&self, topic: &str, position: u64) -> bool {
        self.deleted.get(topic).is_some_and(|at| position < *at)
    }

    pub fn unit(&mut self, record: &Record<'_>, offset: u64, unit: Unit) -> Result<()> {
        let (topic, id) = (record.topic(), record.queue_id());
        if self.is_deleted(topic, unit.offset) {
            return Ok(());
        }
        if !self.seen.contains_key(topic) {
            self.seen.insert(topic.into(), BTreeMap::new());
        }
        let Some(of_topic) = self.seen.get_mut(topic) else { return Ok(()) };
        let seen = match of_topic.entry(id) {
            std::collections::btree_map::Entry::Occupied(seen) => seen.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                // A record whose topic is no folder's name is damaged; there is no queue for it.
                let Ok(queue) = self.queues.get_or_create(topic, id) else { return Ok(()) };
                place.insert(Seen::of(queue, 0))
            }
        };
        let is_met = std::mem::replace(&mut seen.is_met, true);
        if self.must_follow && !is_met && offset > seen.next {
            self.is_broken = true;
            return Ok(());
        }
        let restarts = offset == 0 && seen.next > 0;
        let restarted = offset == 1 && seen.doubtful.is_some_and(|(offset, _)| offset == 0);
        if offset < seen.next && !restarted && !seen.is_held(self.segments, offset) {
            // Who had it is damaged, and came before a crash after which it was given anew.
            if let Some((doubtful, earlier)) = seen.doubtful.take() {
                self.damage.push(wrong_offset(doubtful, &earlier, topic));
            }
            return seen.write(self.fs, self.queues, self.segments, offset, unit);
        }
        if offset < seen.next && !restarts && !restarted {
            // Two records of one offset: the first has it, as with the Java broker.
            return Ok(());
        }
        if let Some((doubtful, earlier)) = seen.doubtful.take() {
            if restarted || doubtful >= seen.next && doubtful < offset {
                seen.write(self.fs, self.queues, self.segments, doubtful, earlier)?;
            } else {
                self.damage.push(wrong_offset(doubtful, &earlier, topic));
            }
        }
        let there = seen.queue.get(offset);
        let agrees = there.is_some_and(|u| {
            // The tags code may be one that the record does not tell: a time of delivery
            // under other levels, the address of an extension.
            let free = topic == SCHEDULE_TOPIC || u.tags_code <= -2_147_483_649;
            (u.offset, u.size) == (unit.offset, unit.size)
                && (free || u.tags_code == unit.tags_code)
        });
        if agrees && seen.stale(self.segments, offset).is_none() {
            seen.next = offset + 1;
        } else if agrees {
            // Fillers stand for what was lost: nobody shall read there.
            seen.write(self.fs, self.queues, self.segments, offset, unit)?;
        } else if offset > unit.offset / MIN_LEN as u64 {
            // There is no room for so many messages before this one.
            self.damage.push(wrong_offset(offset, &unit, topic));
        } else if is_of_an_earlier_life(self.segments, &seen.queue, record, offset, there) {
            seen.next += u64::from(offset == seen.next && there.is_some());
        } else if offset > seen.next || restarts {
            // Messages before it were lost, or the topic was deleted and made again, or its
            // offset is wrong, which nothing covers. The next one will tell.
            seen.doubtful = Some((offset, unit));
        } else {
            seen.write(self.fs, self.queues, self.segments, offset, unit)?;
        }
        Ok(())
    }

    /// A record whose body is not what was stored.
    pub fn damaged(&mut self, record: &Record<'_>, offset: u64, unit: Unit) {
        self.lost_bytes += u64::from(unit.size);
        let (topic, id) = (record.topic(), record.queue_id());
        let is_gone = self.deleted.get(topic).is_some_and(|at| unit.offset < *at);
        let Some(queue) = self.queues.get(topic, id).filter(|_| !is_gone) else { return };
        let of_topic = self.seen.entry(topic.into()).or_default();
        let seen = of_topic.entry(id).or_insert(Seen::of(queue, 0));
        let is_there = |u: Unit| (u.offset, u.size) == (unit.offset, unit.size);
        if offset >= seen.next
            && seen.doubtful.is_none()
            && seen.queue.get(offset).is_some_and(is_there)
            && seen.stale(self.segments, offset).is_none()
        {
            seen.next = offset + 1;
        }
    }

    /// The units that a record has in light queues, where they are missing. It says itself where.
    pub fn light(&mut self, record: &Record<'_>, unit: &Unit) -> Result<()> {
        let Some(topics) = record.property(properties::name::INNER_MULTI_DISPATCH) else {
            return Ok(());
        };
        let offsets = record.property(properties::name::INNER_MULTI_QUEUE_OFFSET).unwrap_or("");
        for (topic, offset) in topics.split(',').zip(offsets.split(',')) {
            let Ok(offset) = offset.parse::<u64>() else { continue };
            let has_room = offset <= unit.offset / MIN_LEN as u64;
            let is_gone = self.is_deleted(topic, unit.offset);
            if !topic.starts_with(LIGHT_PREFIX) || is_gone || !has_room {
                continue;
            }
            let Ok(queue) = self.queues.get_or_create(topic, 0) else { continue };
            if offset >= queue.max_offset() {
                queue.put(offset, unit)?;
                self.light_units += 1;
            }
        }
        Ok(())
    }

    /// Decides about the last units of queues that skip offsets.
    pub fn finish(&mut self) -> Result<()> {
        let mut topics: Vec<_> = self.seen.iter_mut().collect();
        topics.sort_unstable_by_key(|(topic, _)| *topic);
        for (topic, queues) in topics {
            for seen in queues.values_mut() {
                let Some((offset, unit)) = seen.doubtful.take() else { continue };
                let lost = self.lost_bytes / MIN_LEN as u64 + SKIPPED_AT_END;
                let skipped = offset.checked_sub(seen.next);
                if seen.next == 0 || skipped.is_some_and(|skipped| skipped <= lost) {
                    seen.write(self.fs, self.queues, self.segments, offset, unit)?;
                } else {
                    self.damage.push(wrong_offset(offset, &unit, topic));
                }
            }
        }
        Ok(())
    }

    /// Cuts units of records that are not in the log.
    pub fn cut_what_the_log_lacks(&self, log_min: u64, log_end: u64) -> Result<u64> {
        let mut mended = 0;
        for queue in self.queues.all() {
            let seen = self.seen.get(&**queue.topic()).and_then(|q| q.get(&queue.id()));
            let deleted = self.deleted.get(&**queue.topic());
            let cut_at = match seen {
                // Its files came back, or were not gone yet.
                None if deleted.is_some_and(|at| is_older(queue.last_unit(), *at)) => 0,
                _ if queue.topic().starts_with(LIGHT_PREFIX) => {
                    queue.partition(|unit| unit.offset >= log_end)
                }
                // Its first file is lost with all messages. What comes now must not get offsets for which
                // the log has no room.
                _ if queue.last_unit().is_none()
                    && queue.max_offset() > log_end / MIN_LEN as u64 =>
                {
                    0
                }
                Some(seen) => seen.next,
                None => queue.partition(|unit| unit.offset >= log_min),
            };
            if cut_at < queue.max_offset() {
                self.queues.replace(queue.cut(self.fs, cut_at)?);
                mended += 1;
            } else if self.from_start && queue.clear_behind(self.fs)? {
                mended += 1;
            }
        }
        Ok(mended)
    }
}

/// The record at a position, if there is one of the right form.
pub(super) fn record_at(segments: &[Segment], at: u64) -> Option<Record<'_>> {
    let segment = segments.iter().find(|s| s.base <= at && at < s.limit())?;
    match decode(segment.tail(at)) {
        Ok(Entry::Record(r)) if r.check_place(at).is_ok() => Some(r),
        _ => None,
    }
}

fn is_older(last: Option<Unit>, at: u64) -> bool {
    last.is_none_or(|unit| unit.offset < at)
}

/// Whether the queue is right though it says otherwise: a topic that was deleted and made
/// again counts its offsets anew, while its old records are still in the log.
pub fn is_of_an_earlier_life(
    segments: &[Segment],
    queue: &ConsumeQueue,
    record: &Record<'_>,
    offset: u64,
    there: Option<Unit>,
) -> bool {
    let is_later = |unit: &Unit| unit.offset > record.physical_offset().unsigned_abs();
    let Some(unit) = there.filter(|u| !u.is_filler()) else {
        return offset >= queue.max_offset() && queue.last_unit().is_some_and(|u| is_later(&u));
    };
    is_later(&unit)
        && record_at(segments, unit.offset).is_some_and(|r| {
            r.size() == unit.size as usize
                && (r.topic(), r.queue_id()) == (record.topic(), record.queue_id())
                && u64::try_from(r.queue_offset()) == Ok(offset)
        })
}
