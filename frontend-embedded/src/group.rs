//! A consumer group: its members, the queues they share, and what each of them has in hand.
//!
//! Members live in this process, so a queue that passes from one to another takes along what is
//! in flight: nothing is given out twice because somebody joined. What a member that leaves had
//! in hand is given to the next owner.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use mq_store::broker::filter::Filter;
use mq_store::broker::names::RETRY_PREFIX;
use mq_store::broker::stats::GroupCounters;
use mq_store::store::{ReadLimits, ReadStatus};

use crate::error::{Error, Result};
use crate::message::MessageView;
use crate::mq::{Inner, Seek, lock};
use crate::wait::Interest;

/// Units of a queue that are passed by before others get their turn.
const SCAN: usize = 4096;

/// What a group wants of a topic.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub kind: &'static str,
    pub expression: String,
    pub filter: Filter,
    /// The engine compares hashes of tags; these are the tags.
    pub tags: Vec<String>,
}

impl PartialEq for Subscription {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, &self.expression) == (other.kind, &other.expression)
    }
}

impl Subscription {
    pub fn parse(kind: &'static str, expression: &str) -> Result<Subscription> {
        let filter = Filter::parse(kind, expression)?;
        let tags = match &filter {
            Filter::Tags(_) => expression.split("||").map(|tag| tag.trim().to_owned()).collect(),
            _ => Vec::new(),
        };
        Ok(Subscription { kind, expression: expression.to_owned(), filter, tags })
    }

    fn wants(&self, message: &MessageView) -> bool {
        self.tags.is_empty() || message.tag().is_some_and(|tag| self.tags.iter().any(|t| t == tag))
    }
}

/// How a group consumes. All its members must say the same.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub subscriptions: BTreeMap<String, Subscription>,
    pub broadcasting: bool,
    pub orderly: bool,
    pub start: Seek,
    pub max_reconsume_times: Option<i32>,
    pub max_in_flight: usize,
    pub suspend: Duration,
}

/// A queue of a topic that the group consumes.
struct Queue {
    topic: Arc<str>,
    id: i32,
    /// Still there.
    exists: bool,
    owner: Option<u64>,
    /// The next to be read.
    next: i64,
    /// Given out and not acknowledged: offset to member.
    in_flight: BTreeMap<i64, u64>,
    /// To be given out again.
    again: BTreeSet<i64>,
    /// How often those failed in place, in orderly mode.
    failed: HashMap<i64, i32>,
    /// No message before then.
    suspended: Option<Instant>,
    /// Raised by a seek: what was given out before counts no more.
    epoch: u32,
    counters: Arc<GroupCounters>,
}

impl Queue {
    /// Everything below is done.
    fn done(&self) -> i64 {
        let first = |offset: Option<&i64>| offset.copied().unwrap_or(self.next);
        let in_flight = self.in_flight.first_key_value().map(|(offset, _)| offset);
        self.next.min(first(in_flight)).min(first(self.again.first()))
    }
}

#[derive(Default)]
struct State {
    /// Member to the queue that it looks at first.
    members: BTreeMap<u64, usize>,
    queues: Vec<Queue>,
    topics_version: u64,
}

/// Where a delivery belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    queue: usize,
    offset: i64,
    epoch: u32,
    member: u64,
}

/// What a look for messages gave.
pub(crate) enum Taken {
    Messages(Vec<(MessageView, Ticket, i32)>),
    /// None now: what to wait for, and how long at most.
    Nothing(Interest, Option<Instant>),
}

pub(crate) struct Group {
    pub name: String,
    pub id: u64,
    pub settings: Settings,
    pub mq: std::sync::Weak<Inner>,
    state: Mutex<State>,
}

impl Group {
    pub fn new(mq: &Arc<Inner>, name: &str, settings: Settings) -> Group {
        Group {
            name: name.to_owned(),
            id: mq.waits.id(),
            settings,
            mq: Arc::downgrade(mq),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Adds a member.
    pub fn join(&self, mq: &Inner) -> u64 {
        let member = mq.waits.id();
        let mut state = self.lock();
        state.members.insert(member, 0);
        self.share(mq, &mut state);
        drop(state);
        mq.waits.wake_whose(self.id);
        member
    }

    /// Removes a member; what it had in hand is given to others. Returns whether it was the last.
    pub fn leave(&self, mq: &Inner, member: u64) -> bool {
        let mut state = self.lock();
        state.members.remove(&member);
        for queue in &mut state.queues {
            let left: Vec<i64> =
                queue.in_flight.extract_if(.., |_, m| *m == member).map(|(o, _)| o).collect();
            queue.again.extend(left);
        }
        self.share(mq, &mut state);
        let was_last = state.members.is_empty();
        drop(state);
        mq.waits.wake_whose(self.id);
        was_last
    }

    /// Shares the queues among the members, each topic's evenly and in order, as RocketMQ's
    /// AllocateMessageQueueAveragely does.
    fn share(&self, mq: &Inner, state: &mut State) {
        state.topics_version = mq.topics_version.load(Ordering::Acquire);
        let retry = format!("{RETRY_PREFIX}{}", self.name);
        let mut topics: Vec<&str> =
            self.settings.subscriptions.keys().map(String::as_str).collect();
        if self.retries() {
            topics.push(&retry);
        }
        state.queues.iter_mut().for_each(|q| (q.exists, q.owner) = (false, None));
        let members: Vec<u64> = state.members.keys().copied().collect();
        for topic in topics {
            let count = mq.broker.topics().get(topic).map_or(0, |t| t.read_queue_nums.max(0));
            for id in 0..count {
                let known = state.queues.iter().position(|q| q.id == id && *q.topic == *topic);
                let n = known.unwrap_or_else(|| {
                    state.queues.push(self.queue(mq, topic, id));
                    state.queues.len() - 1
                });
                let queue = &mut state.queues[n];
                queue.exists = true;
                queue.owner = owner(&members, id as usize, count as usize);
            }
        }
        for queue in state.queues.iter_mut().filter(|q| !q.exists) {
            // If it comes back it begins anew.
            (queue.next, queue.epoch) = (0, queue.epoch.wrapping_add(1));
            queue.in_flight.clear();
            queue.again.clear();
            queue.failed.clear();
        }
    }

    /// Whether messages come back through a retry topic.
    fn retries(&self) -> bool {
        !self.settings.broadcasting
    }

    fn queue(&self, mq: &Inner, topic: &str, id: i32) -> Queue {
        let kept = match self.settings.broadcasting {
            true => None,
            false => mq.broker.offsets().get(&self.name, topic, id),
        };
        let is_retry = topic.starts_with(RETRY_PREFIX);
        let start = if is_retry { Seek::Begin } else { self.settings.start };
        Queue {
            topic: topic.into(),
            id,
            exists: true,
            owner: None,
            next: kept.unwrap_or_else(|| offset_of(mq, topic, id, start)),
            in_flight: BTreeMap::new(),
            again: BTreeSet::new(),
            failed: HashMap::new(),
            suspended: None,
            epoch: 0,
            counters: mq.broker.stats().group(&self.name, topic),
        }
    }

    /// Messages for a member, `max` at most.
    pub fn take(&self, mq: &Inner, member: u64, max: usize) -> Result<Taken> {
        mq.check_open()?;
        let mut state = self.lock();
        if state.topics_version != mq.topics_version.load(Ordering::Acquire) {
            self.share(mq, &mut state);
        }
        let Some(first) = state.members.get(&member).copied() else { return Err(Error::Closed) };
        let (mut taken, mut wake, now) = (Vec::new(), None::<Instant>, Instant::now());
        let count = state.queues.len();
        for n in (first..count).chain(0..first.min(count)) {
            if taken.len() >= max {
                break;
            }
            let queue = &mut state.queues[n];
            if queue.owner != Some(member) {
                continue;
            }
            if let Some(until) = queue.suspended {
                if until > now {
                    wake = Some(wake.map_or(until, |w| w.min(until)));
                    continue;
                }
                queue.suspended = None;
            }
            if self.settings.orderly && !queue.in_flight.is_empty() {
                continue;
            }
            self.take_of(mq, queue, n, member, max, &mut taken)?;
            // The next look begins behind the one that gave.
            if !taken.is_empty() {
                state.members.insert(member, (n + 1) % count);
            }
        }
        if !taken.is_empty() {
            return Ok(Taken::Messages(taken));
        }
        let mine = state.queues.iter().filter(|q| q.owner == Some(member));
        Ok(Taken::Nothing(mine.map(|q| (q.topic.clone(), q.id)).collect(), wake))
    }

    fn take_of(
        &self,
        mq: &Inner,
        queue: &mut Queue,
        n: usize,
        member: u64,
        max: usize,
        taken: &mut Vec<(MessageView, Ticket, i32)>,
    ) -> Result<()> {
        let subscription = self.settings.subscriptions.get(&*queue.topic);
        let all = Filter::All;
        let filter = subscription.map_or(&all, |s| &s.filter);
        let done_before = queue.done();
        loop {
            let room = self.settings.max_in_flight.saturating_sub(queue.in_flight.len());
            let room = room.min(max.saturating_sub(taken.len()));
            if room == 0 {
                break;
            }
            let again = queue.again.first().copied();
            let from = again.unwrap_or(queue.next);
            let messages = if again.is_some() { 1 } else { room };
            let limits = ReadLimits {
                messages,
                bytes: usize::MAX,
                scan: if again.is_some() { 1 } else { SCAN },
                ..ReadLimits::default()
            };
            mq.broker.check_pull(&self.name, &queue.topic, queue.id)?;
            let read =
                mq.broker.pull(&queue.topic, queue.id, from, &limits, filter, &queue.counters);
            for slice in read.records {
                let Some(message) = MessageView::of(slice) else { continue };
                if subscription.is_some_and(|s| !s.wants(&message)) {
                    continue;
                }
                let offset = message.queue_offset() as i64;
                queue.in_flight.insert(offset, member);
                let times = queue.failed.get(&offset).copied().unwrap_or(0);
                taken.push((
                    message,
                    Ticket { queue: n, offset, epoch: queue.epoch, member },
                    times,
                ));
            }
            if let Some(offset) = again {
                // What is gone from the log meanwhile is passed by.
                queue.again.remove(&offset);
                continue;
            }
            let moved = read.next as i64 != queue.next;
            queue.next = read.next as i64;
            if !moved || matches!(read.status, ReadStatus::OffsetOverflowOne) {
                break;
            }
        }
        if queue.done() != done_before {
            self.commit(mq, queue);
        }
        Ok(())
    }

    fn commit(&self, mq: &Inner, queue: &Queue) {
        if !self.settings.broadcasting {
            mq.broker.offsets().commit(&self.name, &queue.topic, queue.id, queue.done());
        }
    }

    /// A message was consumed. One whose queue was sought anew, or that was given to another
    /// member, counts no more.
    pub fn ack(&self, ticket: Ticket) {
        self.finish(ticket, |_| {});
    }

    fn finish(&self, ticket: Ticket, then: impl FnOnce(&mut Queue)) {
        let Some(mq) = self.mq.upgrade() else { return };
        let mut state = self.lock();
        let Some(queue) = state.queues.get_mut(ticket.queue) else { return };
        if queue.epoch != ticket.epoch
            || queue.in_flight.get(&ticket.offset) != Some(&ticket.member)
        {
            return;
        }
        let was_full =
            self.settings.orderly || queue.in_flight.len() >= self.settings.max_in_flight;
        queue.in_flight.remove(&ticket.offset);
        queue.failed.remove(&ticket.offset);
        then(queue);
        self.commit(&mq, queue);
        drop(state);
        if was_full {
            mq.waits.wake_whose(self.id);
        }
    }

    /// In orderly mode: the message comes again in its place, after a while. Those behind it
    /// that were given out with it come again as well.
    pub fn suspend(&self, ticket: Ticket, times: i32) {
        let pause = self.settings.suspend;
        self.finish(ticket, |queue| {
            queue.again.insert(ticket.offset);
            queue.failed.insert(ticket.offset, times);
            let behind = queue.in_flight.split_off(&ticket.offset);
            queue.again.extend(behind.into_keys());
            queue.suspended = Some(Instant::now() + pause);
        });
    }

    /// Acknowledges what a member has in hand: of one queue up to a message, or all.
    pub fn commit_member(&self, mq: &Inner, member: u64, up_to: Option<Ticket>) {
        let mut state = self.lock();
        for (n, queue) in state.queues.iter_mut().enumerate() {
            let limit = match up_to {
                Some(t) if t.queue == n && t.epoch == queue.epoch => t.offset,
                Some(_) => continue,
                None => i64::MAX,
            };
            let before = queue.in_flight.len();
            queue.in_flight.retain(|offset, m| *m != member || *offset > limit);
            if queue.in_flight.len() != before {
                self.commit(mq, queue);
            }
        }
        drop(state);
        mq.waits.wake_whose(self.id);
    }

    /// Lets the group go on elsewhere in a topic: in one queue, or in all of them.
    pub fn seek(&self, mq: &Inner, topic: &str, queue_id: Option<i32>, to: Seek) {
        let mut state = self.lock();
        self.share(mq, &mut state);
        let wanted =
            |q: &&mut Queue| q.exists && *q.topic == *topic && queue_id.is_none_or(|id| id == q.id);
        for queue in state.queues.iter_mut().filter(wanted) {
            queue.epoch = queue.epoch.wrapping_add(1);
            queue.in_flight.clear();
            queue.again.clear();
            queue.failed.clear();
            queue.suspended = None;
            queue.next = offset_of(mq, topic, queue.id, to);
            self.commit(mq, queue);
        }
        drop(state);
        mq.waits.wake_whose(self.id);
    }

    /// The queues of a member.
    pub fn queues_of(&self, mq: &Inner, member: u64) -> Vec<(String, i32)> {
        let mut state = self.lock();
        if state.topics_version != mq.topics_version.load(Ordering::Acquire) {
            self.share(mq, &mut state);
        }
        let mine = state.queues.iter().filter(|q| q.owner == Some(member));
        mine.map(|q| (q.topic.to_string(), q.id)).collect()
    }
}

/// Who of `members` gets queue `n` of `count`: consecutive queues, the first members one more
/// where it does not come out even.
fn owner(members: &[u64], n: usize, count: usize) -> Option<u64> {
    let size = members.len();
    if size == 0 {
        return None;
    }
    let (each, more) = (count / size, count % size);
    let at = if n < more * (each + 1) {
        n / (each + 1)
    } else {
        more + (n - more * (each + 1)) / each.max(1)
    };
    members.get(at).copied()
}

/// The offset that a place means in a queue.
pub(crate) fn offset_of(mq: &Inner, topic: &str, queue_id: i32, seek: Seek) -> i64 {
    let store = mq.broker.store();
    let offset = match seek {
        Seek::Begin => store.min_offset(topic, queue_id),
        Seek::End => store.max_offset(topic, queue_id),
        Seek::Time(ms) => store.offset_by_time(topic, queue_id, ms),
        Seek::Offset(offset) => offset,
    };
    i64::try_from(offset).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_shared_evenly() {
        let shares = |members: &[u64], count| -> Vec<Option<u64>> {
            (0..count).map(|n| owner(members, n, count)).collect()
        };
        assert_eq!(shares(&[7, 9], 5), [7, 7, 7, 9, 9].map(Some));
        assert_eq!(shares(&[1, 2, 3], 2), [1, 2].map(Some));
        assert_eq!(shares(&[1], 3), [1, 1, 1].map(Some));
        assert_eq!(shares(&[], 2), [None, None]);
    }
}
