//! Units of messages that are lost.
//!
//! A queue has no gaps, so something must stand there. A Java broker that comes by a unit whose
//! record it cannot find takes its file for deleted and passes by all units of that file. So the
//! unit of the message before (or behind) is repeated: a reader gets that message once more,
//! which consumers must bear, and goes on with the next.

use std::collections::BTreeSet;

use mq_store::codec::queue_unit::{UNIT_LEN, Unit};
use mq_store::os::fs::Fs;
use mq_store::queue::consume_queue::ConsumeQueue;
use mq_store::segment::file_name;
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
            if !lost(&queue, patches, false).is_empty() {
                found.push((topic.clone(), id));
            }
        }
    }
    Ok(found)
}

/// Offsets whose units point into the patched stretches; with `fillers` those that point nowhere
/// too.
fn lost(queue: &ConsumeQueue, patches: &Patches, fillers: bool) -> BTreeSet<u64> {
    let mut lost = BTreeSet::new();
    for (from, to) in patches.ranges() {
        queue.for_each(queue.partition(|unit| unit.offset >= from), |offset, unit| {
            if unit.offset < to {
                lost.insert(offset);
            }
            unit.offset < to
        });
    }
    if fillers {
        let all = queue.min_offset()..queue.max_offset();
        lost.extend(all.filter(|n| queue.get(*n).is_none_or(|u| u.is_filler())));
    }
    lost
}

/// Gives every lost offset of some queues, which are at rest, a neighbour's unit.
pub fn put(
    fs: &Fs,
    view: &StoreView,
    queues: &[(String, i32)],
    patches: &Patches,
) -> Result<(), Failure> {
    for (topic, id) in queues {
        let queue = view.queue(topic, *id, &mut Vec::new())?;
        let lost = lost(&queue, patches, true);
        let is_good = |n: u64| queue.get(n).filter(|u| !lost.contains(&n) && !u.is_filler());
        let mut before: Option<Unit> = None;
        let mut last = None;
        for offset in &lost {
            // In a run of them the first one's neighbour serves all.
            if last != offset.checked_sub(1) || before.is_none() {
                before = offset.checked_sub(1).and_then(is_good);
            }
            last = Some(*offset);
            let behind = || (*offset..queue.max_offset()).find_map(is_good);
            let Some(unit) = before.or_else(behind) else { continue };
            let at = offset * UNIT_LEN as u64;
            let file_len = queue.chain().file_len() as u64;
            let base = at - at % file_len;
            fs.overwrite(&queue.chain().dir().join(file_name(base)), at - base, &unit.encode())?;
        }
    }
    Ok(())
}
