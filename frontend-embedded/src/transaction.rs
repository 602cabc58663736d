//! Transactional messages: written at once, shown to consumers when they are committed.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use mq_store::broker::Broker;
use mq_store::broker::transaction::{Check, End};
use mq_store::codec::properties::{self, name};
use mq_store::codec::record::sys_flag;
use mq_store::log::flush::FlushPolicy;

use crate::error::{Error, Result};
use crate::message::{Message, MessageView};
use crate::mq::{Inner, lock};
use crate::producer::{Producer, Sent};

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Consumers shall see the message.
    Commit,
    /// Nobody shall.
    Rollback,
    /// It is not known yet: ask again later.
    Unknown,
}

pub(crate) type Checker = Arc<dyn Fn(&MessageView) -> Outcome + Send + Sync>;

/// Who is asked about open transactions, by producer group.
#[derive(Default)]
pub(crate) struct Checkers(Mutex<HashMap<String, Checker>>);

impl Checkers {
    /// Asks about a half message and does as is answered; gives it back if nobody is there.
    pub fn ask(&self, broker: &Broker, check: Check) -> Option<Check> {
        let Some(checker) = lock(&self.0).get(&check.group).cloned() else { return Some(check) };
        let half = MessageView::owned(check.record)?;
        // A callback that panics must not end the thread that asks everybody else's.
        let outcome = catch_unwind(AssertUnwindSafe(|| checker(&half))).unwrap_or(Outcome::Unknown);
        if outcome != Outcome::Unknown {
            let end = End {
                group: &check.group,
                queue_offset: check.queue_offset,
                physical_offset: check.physical_offset,
                commit: outcome == Outcome::Commit,
            };
            // What fails is asked about again.
            let _ = broker.end_transaction(&end);
        }
        None
    }
}

/// Sends transactional messages, as one producer group. While it lives, its callback is asked
/// about messages of the group that nobody settled, also those of an earlier run. There is one
/// for a group at a time; the newest counts.
pub struct TransactionalProducer {
    producer: Producer,
    group: String,
    checker: Checker,
}

impl TransactionalProducer {
    pub(crate) fn new(mq: Arc<Inner>, group: &str, checker: Checker) -> Result<Self> {
        mq.check_open()?;
        mq_store::broker::names::check_group(group).map_err(Error::Invalid)?;
        lock(&mq.checkers.0).insert(group.to_owned(), checker.clone());
        Ok(TransactionalProducer { producer: Producer { mq }, group: group.to_owned(), checker })
    }

    /// Writes a message that nobody sees yet. Under [`Flush::Sync`](crate::Flush::Sync) it is on
    /// the disk when this returns. Then do what belongs to it, and commit or roll back.
    ///
    /// # Errors
    /// As of [`Producer::send`]; a transactional message cannot be delayed.
    pub fn begin(&self, message: &Message<'_>) -> Result<Transaction> {
        let mut text = message.properties()?.as_bytes().to_vec();
        if properties::get(&text, name::DELAY).is_some() {
            return Err(Error::Invalid("a transactional message cannot be delayed".into()));
        }
        properties::set(&mut text, name::TRAN_MSG, "true");
        properties::set(&mut text, name::PGROUP, &self.group);
        let text = std::str::from_utf8(&text).map_err(|e| Error::Invalid(e.to_string()));
        let half = self.producer.append_with(message, text, sys_flag::PREPARED)?;
        let half = self.producer.wait_as_policy(half)?;
        Ok(Transaction { producer: self.producer.clone(), group: self.group.clone(), half })
    }
}

impl Drop for TransactionalProducer {
    fn drop(&mut self) {
        let mut checkers = lock(&self.producer.mq.checkers.0);
        if checkers.get(&self.group).is_some_and(|c| Arc::ptr_eq(c, &self.checker)) {
            checkers.remove(&self.group);
        }
    }
}

impl std::fmt::Debug for TransactionalProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TransactionalProducer({})", self.group)
    }
}

/// A message that waits to be committed or rolled back. If it is dropped without, or the program
/// dies, the callback of its group is asked.
#[derive(Debug)]
#[must_use = "without commit or rollback the group's callback is asked about it"]
pub struct Transaction {
    producer: Producer,
    group: String,
    half: Sent,
}

impl Transaction {
    /// Shows the message to consumers. Returns false if it was settled before, whichever way.
    ///
    /// # Errors
    /// [`Error::NoTopic`] if its topic was deleted meanwhile, [`Error::Store`] as of
    /// [`Producer::send`], [`Error::Closed`]. The callback is asked about it later.
    pub fn commit(self) -> Result<bool> {
        self.end(true)
    }

    /// Nobody ever sees the message. Returns false if it was settled before, whichever way.
    ///
    /// # Errors
    /// As of [`Transaction::commit`].
    pub fn rollback(self) -> Result<bool> {
        self.end(false)
    }

    fn end(self, commit: bool) -> Result<bool> {
        let mq = &self.producer.mq;
        mq.check_open()?;
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let ended = mq.broker.end_transaction(&End {
            group: &self.group,
            queue_offset: number(self.half.queue_offset()),
            physical_offset: number(self.half.position()),
            commit,
        })?;
        let store = mq.broker.store();
        if let Some(last) = ended.filter(|_| store.config().flush == FlushPolicy::Sync) {
            store.flush_to(&last)?;
        }
        Ok(ended.is_some())
    }
}
