//! Reading: by queue, by position, by key, by time; and what makes messages readable.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::{MessageStore, as_record};
use crate::codec::properties;
use crate::codec::record::{Entry, Record, RecordError, decode};
use crate::index::Found;
use crate::log::flush::FlushPolicy;
use crate::os::map::Slice;
use crate::queue::consume_queue::ConsumeQueue;
use crate::recover::unit_of;

/// The longest a query waits for what was stored just before it.
const WAIT_FOR_INDEX: Duration = Duration::from_millis(100);
/// A trouble that goes on is told this often, ms.
const TELL_AGAIN_MS: i64 = 5_000;

/// A message that consumers may see from now on.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    pub topic: &'a str,
    pub queue_id: i32,
    pub queue_offset: u64,
    pub tags_code: i64,
    /// The property text.
    pub properties: &'a [u8],
}

/// Is told of arrivals, on the thread that dispatches: it must be quick.
pub type OnArrival = Box<dyn Fn(Arrival<'_>) + Send + Sync>;

/// Looks at a record, and says whether it is wanted.
pub type Look<'a> = dyn Fn(&Record<'_>) -> bool + 'a;

/// How a read ended. The names are RocketMQ's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadStatus {
    /// There are messages.
    Found,
    /// Messages were passed by, none was wanted.
    NoMatchedMessage,
    /// The records of the units are gone from the log.
    MessageWasRemoving,
    /// The queue has no message.
    NoMessageInQueue,
    /// The offset lies before the first.
    OffsetTooSmall,
    /// The offset is that of the next message to come.
    OffsetOverflowOne,
    /// The offset lies behind that.
    OffsetOverflowBadly,
}

impl ReadStatus {
    /// RocketMQ's name of the status, which its broker puts into the remark.
    pub fn name(self) -> &'static str {
        match self {
            ReadStatus::Found => "FOUND",
            ReadStatus::NoMatchedMessage => "NO_MATCHED_MESSAGE",
            ReadStatus::MessageWasRemoving => "MESSAGE_WAS_REMOVING",
            ReadStatus::NoMessageInQueue => "NO_MESSAGE_IN_QUEUE",
            ReadStatus::OffsetTooSmall => "OFFSET_TOO_SMALL",
            ReadStatus::OffsetOverflowOne => "OFFSET_OVERFLOW_ONE",
            ReadStatus::OffsetOverflowBadly => "OFFSET_OVERFLOW_BADLY",
        }
    }
}

/// What a read gives.
#[derive(Clone, Debug)]
pub struct Read {
    pub status: ReadStatus,
    /// Where to read on.
    pub next: u64,
    /// First offset of the queue, and behind its last.
    pub min: u64,
    pub max: u64,
    /// Records, in the order of offsets.
    pub records: Vec<Slice>,
    /// Bytes of the records.
    pub bytes: usize,
    /// Whether the last message that was looked at lies further behind the log's end than
    /// [`ReadLimits::in_memory`] says.
    pub far_behind: bool,
}

/// How much one read may give. The first message fits always.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    pub messages: usize,
    pub bytes: usize,
    /// Units that may be passed by.
    pub scan: usize,
    /// Bytes at the log's end that count as in memory.
    pub in_memory: u64,
    /// Where messages that lie further behind begin, a read ends at these.
    pub messages_on_disk: usize,
    pub bytes_on_disk: usize,
}

impl Default for ReadLimits {
    /// RocketMQ's for messages in memory: 32 messages, 256 KiB, 800 units. All counts as in memory.
    fn default() -> ReadLimits {
        ReadLimits {
            messages: 32,
            bytes: 262_144,
            scan: 800,
            in_memory: u64::MAX,
            messages_on_disk: 8,
            bytes_on_disk: 65_536,
        }
    }
}

impl MessageStore {
    /// Position up to which consumers may see the log.
    fn confirmed(&self) -> u64 {
        match self.config.flush {
            FlushPolicy::Async { .. } => self.log.end(),
            FlushPolicy::Sync => self.log.flushed(),
        }
    }

    /// Shows consumers what they may see. `queue` is that of the records to come, as far as the caller
    /// knows.
    pub(super) fn dispatch(&self, queue: Option<&Arc<ConsumeQueue>>) {
        let result = self.dispatcher.drain(
            &self.log,
            || self.confirmed(),
            |record| {
                let Some((offset, unit)) = unit_of(record, &self.config.delay_levels_ms) else {
                    return Ok(());
                };
                if self.is_deleted(record.topic(), unit.offset) {
                    return Ok(());
                }
                match queue {
                    Some(queue) if queue.is_of(record) => queue.put(offset, &unit)?,
                    _ => self
                        .queues
                        .get_or_create(record.topic(), record.queue_id())?
                        .put(offset, &unit)?,
                }
                if let Some(on_arrival) = self.on_arrival.get() {
                    on_arrival(Arrival {
                        topic: record.topic(),
                        queue_id: record.queue_id(),
                        queue_offset: offset,
                        tags_code: unit.tags_code,
                        properties: record.properties(),
                    });
                }
                Ok(())
            },
        );
        if let Err(e) = result {
            // The record is safe in the log; dispatch comes back to it. With every append, so
            // it is not told each time.
            let now = self.clock.now_ms();
            let told = self.told_at.load(Ordering::Relaxed);
            if now - told >= TELL_AGAIN_MS {
                self.told_at.store(now, Ordering::Relaxed);
                tracing::error!("messages cannot be shown to consumers yet: {e}");
            }
        }
    }

    /// Whether the record's topic was deleted before consumers could see it.
    fn is_deleted(&self, topic: &str, position: u64) -> bool {
        position < self.deleted_to.load(Ordering::Acquire) && {
            let deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
            deleted.get(topic).is_some_and(|at| position < *at)
        }
    }

    /// Messages of a queue from `offset` on whose tags code is `wanted`.
    pub fn read(
        &self,
        topic: &str,
        queue_id: i32,
        offset: i64,
        limits: &ReadLimits,
        wanted: impl Fn(i64) -> bool,
    ) -> Read {
        self.read_filtered(topic, queue_id, offset, limits, wanted, None)
    }

    /// [`MessageStore::read`], where also `look` wants the records, if there is one.
    pub fn read_filtered(
        &self,
        topic: &str,
        queue_id: i32,
        offset: i64,
        limits: &ReadLimits,
        wanted: impl Fn(i64) -> bool,
        look: Option<&Look<'_>>,
    ) -> Read {
        let queue = self.queues.get(topic, queue_id);
        if queue.is_none()
            && let Some(batches) = self.queues.batch(topic, queue_id)
        {
            return self.read_batches(&batches, offset, limits, wanted, look);
        }
        let (min, max) = queue.as_ref().map_or((0, 0), |q| (q.min_offset(), q.max_offset()));
        let none = |status, next| Read {
            status,
            next,
            min,
            max,
            records: Vec::new(),
            bytes: 0,
            far_behind: false,
        };
        let Some(queue) = queue.filter(|_| max > 0) else {
            return none(ReadStatus::NoMessageInQueue, 0);
        };
        let Ok(offset) = u64::try_from(offset) else {
            return none(ReadStatus::OffsetTooSmall, min);
        };
        if offset < min {
            return none(ReadStatus::OffsetTooSmall, min);
        } else if offset == max {
            return none(ReadStatus::OffsetOverflowOne, offset);
        } else if offset > max {
            return none(ReadStatus::OffsetOverflowBadly, max);
        }
        let mut read = none(ReadStatus::NoMatchedMessage, offset);
        let on_disk = self.log.end().saturating_sub(limits.in_memory);
        let (mut scanned, mut gone) = (0, false);
        let mut segment = None;
        let mut expected = offset;
        read.next = queue.for_each(offset, |n, unit| {
            if n > expected {
                self.pass_by_lost(&queue, expected..n);
            }
            expected = n + 1;
            read.far_behind = unit.offset < on_disk;
            let (messages, bytes) = match read.far_behind {
                true => (limits.messages.min(limits.messages_on_disk), limits.bytes_on_disk),
                false => (limits.messages, limits.bytes),
            };
            let full = read.records.len() >= messages.max(1)
                || (read.bytes + unit.size as usize > bytes && !read.records.is_empty());
            if full || scanned >= limits.scan {
                return false;
            }
            scanned += 1;
            if !wanted(unit.tags_code) {
                return true;
            }
            if !segment.as_ref().is_some_and(|s: &crate::segment::Segment| {
                s.base <= unit.offset && unit.offset < s.limit()
            }) {
                segment = self.log.chain().find(unit.offset);
            }
            let slice = segment.as_ref().and_then(|s| s.slice(unit.offset, unit.size as usize));
            let Some(slice) = slice else {
                gone = true;
                return true;
            };
            match self.record_of(&slice, unit.offset) {
                // A client that cannot read one message reads none behind it in the answer.
                Err(e) => self.pass_by_damaged(unit.offset, topic, &e),
                Ok(record) if queue.is_stand_in(n, &record) => {}
                Ok(record) => {
                    if look.is_none_or(|look| look(&record)) {
                        read.bytes += slice.len();
                        read.records.push(slice);
                    }
                }
            }
            true
        });
        read.status = match (read.records.is_empty(), gone) {
            (false, _) => ReadStatus::Found,
            (true, true) => ReadStatus::MessageWasRemoving,
            (true, false) => ReadStatus::NoMatchedMessage,
        };
        read
    }

    fn pass_by_lost(&self, queue: &ConsumeQueue, mut offsets: std::ops::Range<u64>) {
        if let Some(offset) = offsets.find(|n| queue.is_lost(*n)) {
            self.damaged_reads.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                "queue {} of {} is damaged from offset {offset} on, to {}: passed by; without its folder {} \
                 the queue is made again at the next start",
                queue.id(),
                queue.topic(),
                offsets.end,
                queue.chain().dir().display()
            );
        }
    }

    fn pass_by_damaged(&self, position: u64, topic: &str, why: &dyn std::fmt::Display) {
        self.damaged_reads.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            "a damaged message of {topic} at {position} of the log is passed by: {why}; \
             mq-store-inspect verify tells of all that is damaged"
        );
    }

    /// The record that a slice is, whole, of that position. Its body is looked at if somebody else
    /// stored it: what this process wrote is as it wrote it.
    fn record_of<'a>(&self, slice: &'a [u8], position: u64) -> Result<Record<'a>, RecordError> {
        let record = match decode(slice)? {
            Entry::Record(record) if record.size() == slice.len() => record,
            _ => return Err(RecordError::Sum(slice.len())),
        };
        record.check_place(position)?;
        if position < self.began_at {
            record.check_body()?;
        }
        Ok(record)
    }

    /// The record that begins at a physical offset; none if its body is not what was stored.
    pub fn record_at(&self, physical_offset: u64) -> Option<Slice> {
        self.sound(self.readable_at(physical_offset)?, physical_offset)
    }

    fn sound(&self, slice: Slice, position: u64) -> Option<Slice> {
        let Err(e) = self.record_of(&slice, position) else { return Some(slice) };
        let topic = as_record(&slice).map_or("a topic", |record| record.topic());
        self.pass_by_damaged(position, topic, &e);
        None
    }

    fn readable_at(&self, physical_offset: u64) -> Option<Slice> {
        (physical_offset < self.confirmed()).then(|| self.log.record_at(physical_offset))?
    }

    /// First offset of a queue; 0 if there is no such queue.
    pub fn min_offset(&self, topic: &str, queue_id: i32) -> u64 {
        let batches = || self.queues.batch(topic, queue_id).map(|q| q.min_offset());
        let min = self.queues.get(topic, queue_id).map(|q| q.min_offset());
        min.or_else(batches).unwrap_or(0)
    }

    /// The offset behind a queue's last message; 0 if there is no such queue.
    pub fn max_offset(&self, topic: &str, queue_id: i32) -> u64 {
        let batches = || self.queues.batch(topic, queue_id).map(|q| q.max_offset());
        let max = self.queues.get(topic, queue_id).map(|q| q.max_offset());
        max.or_else(batches).unwrap_or(0)
    }

    /// Place in the log of the message at an offset.
    pub fn position(&self, topic: &str, queue_id: i32, offset: u64) -> Option<u64> {
        let unit = self.queues.get(topic, queue_id)?.get(offset).filter(|u| !u.is_filler())?;
        Some(unit.offset)
    }

    /// Store time of the message at an offset, ms.
    pub fn store_time(&self, topic: &str, queue_id: i32, offset: u64) -> Option<i64> {
        let Some(queue) = self.queues.get(topic, queue_id) else {
            let batches = self.queues.batch(topic, queue_id)?;
            return Some(batches.holding(offset)?.store_timestamp);
        };
        let unit = queue.get(offset).filter(|u| !u.is_filler())?;
        self.log.store_time(unit.offset)
    }

    /// The first offset whose message was stored at `timestamp` (ms) or later; the maximum
    /// offset if there is none.
    pub fn offset_by_time(&self, topic: &str, queue_id: i32, timestamp: i64) -> u64 {
        let Some(queue) = self.queues.get(topic, queue_id) else {
            let batches = self.queues.batch(topic, queue_id);
            return batches.map_or(0, |q| q.by_time(timestamp).map_or(q.max_offset(), |u| u.base));
        };
        queue.partition(|unit| self.log.store_time(unit.offset).is_some_and(|t| t >= timestamp))
    }

    /// Records of a topic that may have `key`, stored between two times (ms); the newest
    /// `max`. Records whose key merely has the same hash are left out. What was readable before
    /// the call is found, unless the index thread is far behind.
    pub fn query(&self, topic: &str, key: &str, max: usize, begin: i64, end: i64) -> QueryResult {
        let (readable, since) = (self.dispatcher.position(), Instant::now());
        while self.config.index
            && self.indexed.load(Ordering::Acquire) < readable
            && since.elapsed() < WAIT_FOR_INDEX
            && self.wake("index")
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        let found = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            index.query(topic, key, max, begin, end)
        };
        let has_key = |slice: &Slice| {
            matches!(decode(slice), Ok(Entry::Record(r)) if r.topic() == topic
                    && properties::index_keys(r.properties()).any(|k| k == key))
        };
        let record_at = |at: &u64| match self.readable_at(*at) {
            Some(slice) => self.sound(slice, *at),
            None => {
                if (self.log.min_offset()..self.confirmed()).contains(at) {
                    self.pass_by_damaged(*at, topic, &"no record begins there");
                }
                None
            }
        };
        let records = found.offsets.iter().filter_map(record_at).filter(has_key);
        QueryResult { records: records.collect(), found }
    }
}

/// What [`MessageStore::query`] gives.
#[derive(Clone, Debug)]
pub struct QueryResult {
    /// In the order of physical offsets.
    pub records: Vec<Slice>,
    /// What the index said.
    pub found: Found,
}
