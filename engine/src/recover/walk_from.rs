//! From where on the log is walked that a Java broker left without closing it.
//!
//! Its checkpoint has the times up to which log and queues were forced to the disk. The last file that
//! begins with a record older than both, by a margin, is where a Java broker begins, and it takes it on trust
//! that the queues have all that is older. Here the queues are asked first, as far as that takes a
//! look at each queue and each file, and not at each record. What they cannot tell, the walk does: the
//! first record of each queue that it meets must follow the queue's last unit.

use std::path::Path;

use serde_json::Value;

use super::queues::{LIGHT_PREFIX, is_of_an_earlier_life, record_at};
use super::unit_of;
use crate::codec::lenient_json;
use crate::queue::consume_queue::ConsumeQueue;
use crate::queue::table::QueueTable;
use crate::segment::Segment;

/// Whether log and queues have all that is below `from`, as far as can be seen.
pub(super) fn is_whole(root: &Path, segments: &[Segment], queues: &QueueTable, from: u64) -> bool {
    let log_min = segments.first().map_or(0, |s| s.base);
    let topics = config(root, "topics.json");
    let is_configured = |topic: &str| !topics["topicConfigTable"][topic].is_null();
    let all = queues.all();
    // Of batch queues nothing can be said without the records, and without the settings not whether a
    // topic is gone, or its queues are lost.
    !queues.has_batches()
        && topics["topicConfigTable"].is_object()
        && segments.windows(2).all(|w| w[0].limit() == w[1].base)
        && all.iter().all(|queue| ends_right(segments, queue, log_min, from))
        && segments
            .iter()
            .filter(|s| s.base < from)
            .all(|s| begins_right(s, segments, queues, &is_configured))
        && config(root, "consumerOffset.json")["offsetTable"].as_object().is_none_or(|table| {
            table.iter().all(|(key, offsets)| {
                let topic = key.split_once('@').map_or(&**key, |(topic, _)| topic);
                !is_configured(topic) || has_what_was_consumed(queues, topic, offsets)
            })
        })
}

fn config(root: &Path, name: &str) -> Value {
    let text = std::fs::read_to_string(root.join("config").join(name)).unwrap_or_default();
    lenient_json::parse(&text).unwrap_or_default()
}

/// Whether the last unit of a record below `from` is that record's.
fn ends_right(segments: &[Segment], queue: &ConsumeQueue, log_min: u64, from: u64) -> bool {
    let Some(last) = queue.behind(from).checked_sub(1) else { return true };
    let Some(unit) = queue.get(last) else { return false };
    let is_its_own = || {
        record_at(segments, unit.offset).is_some_and(|r| {
            let place = (r.topic(), r.queue_id(), u64::try_from(r.queue_offset()));
            r.size() == unit.size as usize
                && (place == (queue.topic(), queue.id(), Ok(last))
                    || queue.topic().starts_with(LIGHT_PREFIX))
        })
    };
    unit.offset < log_min || is_its_own()
}

/// Whether the first record of a file has its unit. One without a queue was of a topic that is gone.
fn begins_right(
    file: &Segment,
    segments: &[Segment],
    queues: &QueueTable,
    is_configured: &impl Fn(&str) -> bool,
) -> bool {
    let Some(record) = record_at(segments, file.base) else { return false };
    let Some((offset, unit)) = unit_of(&record, &[]) else { return true };
    match queues.get(record.topic(), record.queue_id()) {
        None => !is_configured(record.topic()),
        Some(queue) => {
            let there = queue.get(offset);
            there.is_some_and(|u| (u.offset, u.size) == (unit.offset, unit.size))
                || is_of_an_earlier_life(segments, &queue, &record, offset, there)
        }
    }
}

fn has_what_was_consumed(queues: &QueueTable, topic: &str, offsets: &Value) -> bool {
    offsets.as_object().into_iter().flatten().all(|(id, offset)| {
        let queue = id.parse().ok().and_then(|id| queues.get(topic, id));
        let max = queue.map_or(0, |queue| queue.max_offset());
        offset.as_u64().is_none_or(|offset| offset <= max)
    })
}
