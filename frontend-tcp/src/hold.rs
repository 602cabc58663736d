//! Pulls that wait for a message: until one arrives that they want, or their time is over.
//!
//! Who dispatches a message only moves the pull to the task of its connection, which then reads:
//! so one answer takes all that came in between.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mq_store::broker::filter::Filter;
use mq_store::broker::stats::GroupCounters;
use mq_store::store::{Arrival, ReadLimits};

use crate::conn::{Reply, Ticket};

/// A pull, with everything that it takes to read again.
#[derive(Clone, Debug)]
pub struct Pull {
    pub topic: Arc<str>,
    pub queue_id: i32,
    pub offset: i64,
    pub limits: ReadLimits,
    pub filter: Arc<Filter>,
    pub counters: Arc<GroupCounters>,
    pub suggest: Suggest,
}

/// Ids of the brokers that a group is told to read from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Suggest {
    pub keeps_up: i64,
    pub far_behind: i64,
}

#[derive(Debug)]
struct Held {
    pull: Pull,
    ticket: Ticket,
    deadline_ms: i64,
}

/// By topic and queue id.
type Queues = HashMap<Arc<str>, HashMap<i32, Vec<Held>>>;

/// Reads again and makes the answer.
pub type Answer = dyn Fn(&Pull) -> Reply + Send + Sync;

/// All pulls that wait.
pub struct Holds {
    count: AtomicUsize,
    queues: Mutex<Queues>,
    answer: Arc<Answer>,
}

impl Holds {
    pub fn new(answer: Arc<Answer>) -> Holds {
        Holds { count: AtomicUsize::new(0), queues: Mutex::default(), answer }
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pulls that wait.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Keeps a pull. The caller looks at the queue once more afterwards: a message may have come
    /// before the pull was here. Beyond `most` none is kept.
    pub fn hold(&self, pull: Pull, ticket: Ticket, deadline_ms: i64, most: usize) -> bool {
        // Others may come in between; a few too many do no harm.
        if self.count() >= most {
            return false;
        }
        let mut queues = self.lock();
        let of_topic = queues.entry(pull.topic.clone()).or_default();
        of_topic.entry(pull.queue_id).or_default().push(Held { pull, ticket, deadline_ms });
        self.count.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// A message came. On the thread that dispatches.
    pub fn arrived(&self, arrival: &Arrival<'_>) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        self.wake(arrival.topic, arrival.queue_id, |pull| {
            pull.offset <= arrival.queue_offset as i64
                && pull.filter.wants(arrival.tags_code)
                && pull.filter.wants_properties(arrival.properties)
        });
    }

    /// Has the pulls of a queue that `is_due` read again.
    pub fn wake(&self, topic: &str, queue_id: i32, is_due: impl Fn(&Pull) -> bool) {
        let mut queues = self.lock();
        let Some(of_topic) = queues.get_mut(topic) else { return };
        let Some(held) = of_topic.get_mut(&queue_id) else { return };
        let (due, kept): (Vec<_>, Vec<_>) = held.drain(..).partition(|h| is_due(&h.pull));
        if kept.is_empty() {
            of_topic.remove(&queue_id);
            if of_topic.is_empty() {
                queues.remove(topic);
            }
        } else {
            *held = kept;
        }
        drop(queues);
        self.answer_all(due);
    }

    /// Background step: answers those whose time is over, and forgets those whose connection is.
    pub fn expire_step(&self, now_ms: i64) {
        if self.count() == 0 {
            return;
        }
        let mut due = Vec::new();
        let mut queues = self.lock();
        queues.retain(|_, of_topic| {
            of_topic.retain(|_, held| {
                due.extend(
                    held.extract_if(.., |h| {
                        h.deadline_ms <= now_ms || h.ticket.conn().is_closing()
                    }),
                );
                !held.is_empty()
            });
            !of_topic.is_empty()
        });
        drop(queues);
        self.answer_all(due);
    }

    fn answer_all(&self, due: Vec<Held>) {
        self.count.fetch_sub(due.len(), Ordering::SeqCst);
        for held in due {
            let answer = self.answer.clone();
            held.ticket.answer_with(move |_| answer(&held.pull));
        }
    }
}
