//! Units of messages that are lost.
//!
//! A queue has no gaps, so something must stand there. A filler says so, but points at position 0:
//! a Java broker that finds no message where a unit points takes the file for deleted, and passes
//! by all units that point into it. Where the next message stands in that first file, the unit of
//! the message before (or behind) is repeated instead: a reader gets that message once more, which
//! consumers must bear, and goes on with the next.

use std::collections::BTreeSet;
use std::ops::Range;

use mq_store::codec::queue_unit::{UNIT_LEN, Unit};
use mq_store::os::fs::Fs;
use mq_store::queue::consume_queue::ConsumeQueue;
use mq_store::recover::SCHEDULE_TOPIC;
use mq_store::segment::file_name;
use mq_store::store::as_record;
use mq_store::view::StoreView;

use super::Failure;
use super::fill::Patches;

/// Queues that have units for records in the patched stretches.
pub fn queues_that_point_into(
    view: &StoreView,
    patches: &Patches,
) -> Result<Vec<(String, i32)>, Failure> {
    let mut found = Vec::new();
    if patches.is_empty() {
        return Ok(found);
    }
    for (topic, ids) in view.queues()? {
        for id in ids {
            let queue = view.queue(&topic, id, &mut Vec::new())?;
            if !lost(&queue, patches).is_empty() {
                found.push((topic.clone(), id));
            }
        }
    }
    Ok(found)
}

/// Offsets whose units point into the patched stretches.
fn lost(queue: &ConsumeQueue, patches: &Patches) -> BTreeSet<u64> {
    let mut lost = BTreeSet::new();
    for (from, to) in patches.ranges() {
        queue.for_each(queue.partition(|unit| unit.offset >= from), |offset, unit| {
            if unit.offset < to {
                lost.insert(offset);
            }
            unit.offset < to
        });
    }
    lost
}

/// Whether a unit points at no message that is shown: fillers of the queue, and of the log, which
/// an interrupted repair may have left.
fn points_nowhere(view: &StoreView, unit: Option<Unit>) -> bool {
    let slice = unit.filter(|u| !u.is_filler()).and_then(|u| view.record_at(u.offset));
    slice.as_deref().and_then(as_record).is_none_or(|r| !r.is_dispatched())
}

/// Gives every lost offset of some queues, which are at rest, a unit that readers bear.
pub fn put(
    fs: &Fs,
    view: &StoreView,
    queues: &[(String, i32)],
    patches: &Patches,
) -> Result<(), Failure> {
    let log_file_len = view.log().file_len() as u64;
    for (topic, id) in queues {
        let queue = view.queue(topic, *id, &mut Vec::new())?;
        let mut lost = lost(&queue, patches);
        let all = queue.min_offset()..queue.max_offset();
        lost.extend(all.filter(|n| points_nowhere(view, queue.get(*n))));
        let lost: Vec<u64> = lost.into_iter().collect();
        for run in lost.chunk_by(|a, b| a + 1 == *b) {
            let first = run[0];
            write(fs, &queue, first..first + run.len() as u64, log_file_len)?;
        }
    }
    Ok(())
}

/// Writes the unit for a run of lost offsets, file by file.
fn write(fs: &Fs, queue: &ConsumeQueue, run: Range<u64>, log_file_len: u64) -> Result<(), Failure> {
    let before = run.start.checked_sub(1).and_then(|n| queue.get(n));
    let unit = match queue.get(run.end) {
        Some(behind) if behind.offset >= log_file_len => Unit::FILLER,
        // Looked up one by one, so a filler stops nothing; a neighbour would be delivered twice.
        Some(_) if &**queue.topic() == SCHEDULE_TOPIC => Unit::FILLER,
        behind => match before.filter(|u| !u.is_filler()).or(behind) {
            Some(unit) => unit,
            None => return Ok(()),
        },
    };
    let in_file = (queue.chain().file_len() / UNIT_LEN) as u64;
    let mut at = run.start;
    while at < run.end {
        let (base, until) = (at - at % in_file, run.end.min(at - at % in_file + in_file));
        let path = queue.chain().dir().join(file_name(base * UNIT_LEN as u64));
        let bytes = unit.encode().repeat((until - at) as usize);
        fs.overwrite(&path, (at - base) * UNIT_LEN as u64, &bytes)?;
        at = until;
    }
    Ok(())
}
