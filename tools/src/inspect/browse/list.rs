//! Lists of messages: a queue, however long, or what was found.

use mq_store::codec::ids;
use mq_store::codec::properties::name;
use mq_store::os::map::Slice;
use mq_store::queue::consume_queue::ConsumeQueue;
use mq_store::store::as_record;
use mq_store::view::StoreView;

/// Messages that one search looks at before it lets its user decide.
pub const SEARCH_AT_ONCE: u64 = 1_000_000;

/// Messages by number. Nothing is read but what is asked for.
pub enum List {
    /// Number 0 is the queue's first offset.
    Queue(ConsumeQueue),
    /// Positions in the log.
    Found(Vec<u64>),
}

impl List {
    pub fn len(&self) -> u64 {
        match self {
            List::Queue(queue) => queue.max_offset().saturating_sub(queue.min_offset()),
            List::Found(positions) => positions.len() as u64,
        }
    }

    /// The queue offset that a number stands for.
    pub fn offset(&self, n: u64) -> Option<u64> {
        match self {
            List::Queue(queue) => Some(queue.min_offset() + n),
            List::Found(_) => None,
        }
    }

    /// The record; `None` if it is lost.
    pub fn get(&self, view: &StoreView, n: u64) -> Option<Slice> {
        let position = match self {
            List::Queue(queue) => {
                queue.get(queue.min_offset() + n).filter(|u| !u.is_filler())?.offset
            }
            List::Found(positions) => *positions.get(usize::try_from(n).ok()?)?,
        };
        view.record_at(position)
    }

    /// The first message that was stored at `time` or later.
    pub fn at_time(&self, view: &StoreView, time: i64) -> u64 {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let mid = low + (high - low) / 2;
            // What is lost says nothing; the next one does.
            let known = (mid..high).find_map(|n| {
                self.get(view, n).and_then(|s| as_record(&s).map(|r| (n, r.store_timestamp())))
            });
            match known {
                Some((n, stored)) if stored < time => low = n + 1,
                _ => high = mid,
            }
        }
        low
    }

    /// The next message with a tag behind number `from`, or before it.
    pub fn with_tag(&self, view: &StoreView, from: u64, tag: &str, backward: bool) -> Option<u64> {
        let code = ids::tags_code(Some(tag));
        let has = |n: &u64| {
            if let List::Queue(queue) = self
                && queue.get(queue.min_offset() + n).is_none_or(|u| u.tags_code != code)
            {
                return false;
            }
            let slice = self.get(view, *n);
            slice
                .as_deref()
                .and_then(as_record)
                .is_some_and(|r| r.property(name::TAGS) == Some(tag))
        };
        if backward {
            return (from.saturating_sub(SEARCH_AT_ONCE)..from).rev().find(has);
        }
        (from + 1..self.len().min(from.saturating_add(SEARCH_AT_ONCE))).find(has)
    }
}
