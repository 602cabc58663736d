//! Batch queues compared with the log, and made again from it where they differ.

use std::collections::HashMap;
use std::sync::Arc;

use super::queues::record_at;
use crate::codec::ids::tags_code;
use crate::codec::properties::{get_all, name};
use crate::codec::queue_unit::{BATCH_UNIT_LEN, BatchUnit, Unit};
use crate::codec::record::{Record, sys_flag};
use crate::error::Result;
use crate::os::fs::Fs;
use crate::queue::batch_queue::BatchQueue;
use crate::queue::table::QueueTable;
use crate::segment::Segment;

/// The unit that a record has in its batch queue; `None` if it holds no batch.
pub fn batch_unit_of(record: &Record<'_>) -> Option<BatchUnit> {
    if record.sys_flag() & sys_flag::INNER_BATCH == 0 || !record.is_dispatched() {
        return None;
    }
    let names = [name::INNER_BASE, name::INNER_NUM, name::TAGS];
    let [base, count, tags] = get_all(record.properties(), names);
    Some(BatchUnit {
        unit: Unit {
            offset: record.physical_offset().unsigned_abs(),
            size: record.size() as u32,
            tags_code: tags_code(tags),
        },
        store_timestamp: record.store_timestamp(),
        base: base?.parse().ok().filter(|n| *n < 1 << 56)?,
        count: count?.parse().ok().filter(|n| (1..=i16::MAX as u16).contains(n))?,
    })
}

/// The batch queues of a store, compared with the log as it is walked over.
pub(super) struct BatchCheck<'a> {
    fs: &'a Fs,
    segments: &'a [Segment],
    queues: &'a QueueTable,
    /// Of the queues that are there, and of those made on the way.
    seen: HashMap<(Arc<str>, i32), Seen>,
}

struct Seen {
    queue: Arc<BatchQueue>,
    /// Place behind the last unit that is right.
    next: u64,
    written: u64,
}

impl<'a> BatchCheck<'a> {
    /// A check in which the units of records below `from` count as right.
    pub fn new(fs: &'a Fs, segments: &'a [Segment], queues: &'a QueueTable, from: u64) -> Self {
        let seen = queues.batches().into_iter().map(|queue| {
            let next = queue.behind(from);
            ((queue.topic().clone(), queue.id()), Seen { queue, next, written: 0 })
        });
        BatchCheck { fs, segments, queues, seen: seen.collect() }
    }

    /// A record of the log, which may be a batch.
    pub fn record(&mut self, record: &Record<'_>) -> Result<()> {
        let Some(unit) = batch_unit_of(record) else { return Ok(()) };
        let Some(queue) = self.queues.batch_or_create(record.topic(), record.queue_id())? else {
            return Ok(());
        };
        let key = (queue.topic().clone(), queue.id());
        let seen = self.seen.entry(key).or_insert(Seen { queue, next: 0, written: 0 });
        // Units of batches that the log has lost, or damaged, keep their offsets from being asked for in vain.
        while let Some(there) = seen.queue.at(seen.next)
            && there.unit.offset < unit.unit.offset
            && there.end() <= unit.base
            && seen
                .before()
                .is_none_or(|b| b.unit.offset < there.unit.offset && b.end() <= there.base)
            && record_at(self.segments, there.unit.offset).is_none_or(|r| r.check_body().is_err())
        {
            seen.next += BATCH_UNIT_LEN as u64;
        }
        if seen.queue.at(seen.next) != Some(unit) {
            seen.cut(self.fs, self.queues)?;
            seen.queue.put(&unit)?;
            seen.written += 1;
            seen.next = seen.queue.end();
        } else {
            seen.next += BATCH_UNIT_LEN as u64;
        }
        Ok(())
    }

    /// Cuts units of records that are not in the log. Returns how many queues were mended, and how many
    /// units written.
    pub fn finish(mut self) -> Result<(u64, u64)> {
        let (mut mended, mut written) = (0, 0);
        let mut all: Vec<_> = self.seen.iter_mut().collect();
        all.sort_unstable_by(|a, b| a.0.cmp(b.0));
        for (_, seen) in all {
            let was_cut = seen.cut(self.fs, self.queues)?;
            mended += u64::from(was_cut || seen.written > 0);
            written += seen.written;
        }
        Ok((mended, written))
    }
}

impl Seen {
    /// The last unit that is right.
    fn before(&self) -> Option<BatchUnit> {
        self.queue.at(self.next.checked_sub(BATCH_UNIT_LEN as u64)?)
    }

    fn cut(&mut self, fs: &Fs, queues: &QueueTable) -> Result<bool> {
        let has_more = self.next < self.queue.end();
        if has_more {
            self.queue = queues.replace_batch(self.queue.cut(fs, self.next)?);
        }
        Ok(has_more)
    }
}
