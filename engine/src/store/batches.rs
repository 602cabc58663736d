//! Reading batch queues: a record for each batch, as a Java broker gives them. Clients take them apart.

use super::read::{Look, Read, ReadLimits, ReadStatus};
use super::{MessageStore, as_record};
use crate::queue::batch_queue::BatchQueue;

impl MessageStore {
    /// [`MessageStore::read_filtered`] of a batch queue. The batch that holds the message of `offset` is
    /// given whole. A batch counts as the messages it holds, and the first fits always.
    pub(super) fn read_batches(
        &self,
        queue: &BatchQueue,
        offset: i64,
        limits: &ReadLimits,
        wanted: impl Fn(i64) -> bool,
        look: Option<&Look<'_>>,
    ) -> Read {
        let (min, max) = (queue.min_offset(), queue.max_offset());
        let (status, next) = match u64::try_from(offset) {
            _ if max == 0 => (ReadStatus::NoMessageInQueue, 0),
            Ok(offset) if offset > max => (ReadStatus::OffsetOverflowBadly, max),
            Ok(offset) if offset == max => (ReadStatus::OffsetOverflowOne, max),
            Ok(offset) if offset >= min => (ReadStatus::NoMatchedMessage, offset),
            _ => (ReadStatus::OffsetTooSmall, min),
        };
        let records = Vec::new();
        let mut read = Read { status, next, min, max, records, bytes: 0, far_behind: false };
        if status != ReadStatus::NoMatchedMessage {
            return read;
        }
        let (mut messages, mut gone) = (0, false);
        // Where files are missing up to the end.
        read.next = max;
        for batch in queue.units_holding(next).take(limits.scan.max(1)) {
            let (unit, count) = (batch.unit, usize::from(batch.count));
            let full = messages + count > limits.messages
                || read.bytes + unit.size as usize > limits.bytes;
            if full && !read.records.is_empty() {
                break;
            }
            read.next = batch.end();
            if !wanted(unit.tags_code) {
                continue;
            }
            let Some(slice) = self.record_at(unit.offset) else {
                gone = true;
                continue;
            };
            let is_wanted = as_record(&slice).is_some_and(|r| {
                (r.topic(), r.queue_id()) == (&**queue.topic(), queue.id())
                    && look.is_none_or(|look| look(&r))
            });
            if is_wanted {
                messages += count;
                read.bytes += slice.len();
                read.records.push(slice);
            }
        }
        read.status = match (read.records.is_empty(), gone) {
            (false, _) => ReadStatus::Found,
            (true, true) => ReadStatus::MessageWasRemoving,
            (true, false) => ReadStatus::NoMatchedMessage,
        };
        read
    }
}
