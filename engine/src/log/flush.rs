//! When the log is forced to the disk, and who waits for it.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::Thread;

use super::commit_log::CommitLog;
use crate::error::{Error, Result};

/// When an acknowledged message is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushPolicy {
    /// Some time after: every `interval_ms` if at least `least_pages` pages of 4 KiB wait, and
    /// every `thorough_interval_ms` whatever waits. A process that is killed loses nothing.
    Async { interval_ms: i64, least_pages: u64, thorough_interval_ms: i64 },
    /// Before: an acknowledgement waits for the disk, and consumers see what is there.
    Sync,
}

impl Default for FlushPolicy {
    /// RocketMQ's: 500 ms, 4 pages, 10 s.
    fn default() -> FlushPolicy {
        FlushPolicy::Async { interval_ms: 500, least_pages: 4, thorough_interval_ms: 10_000 }
    }
}

/// Called once: with `Ok` when the bytes are on the disk, with [`Error::FlushTimeout`] if that
/// takes too long, or with why they never will be.
pub type OnDurable = Box<dyn FnOnce(Result<()>) + Send>;

/// Runs what answers a group of waiters, once, anywhere.
pub type Answerer = Box<dyn Fn(Box<dyn FnOnce() + Send>) + Send + Sync>;

struct Waiting {
    end: u64,
    deadline_ms: i64,
    then: OnDurable,
}

/// Those who wait for a position to be flushed. One flush serves all that came before it;
/// while it runs the next group gathers.
#[derive(Default)]
pub struct FlushQueue {
    waiting: Mutex<Vec<Waiting>>,
    flusher: OnceLock<Thread>,
    answerer: OnceLock<Answerer>,
}

impl std::fmt::Debug for FlushQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FlushQueue({} waiting)", self.lock().len())
    }
}

impl FlushQueue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends that wait.
    pub fn len(&self) -> usize {
        self.lock().len()
    }
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Calls `then` when `log` is flushed up to `end`; at once, if it is.
    pub fn when_durable(&self, log: &CommitLog, end: u64, deadline_ms: i64, then: OnDurable) {
        if log.flushed() >= end {
            return then(Ok(()));
        }
        self.lock().push(Waiting { end, deadline_ms, then });
        if let Some(flusher) = self.flusher.get() {
            flusher.unpark();
        }
        // The flush in between, or the failure, may have missed us.
        if log.flushed() >= end || log.poison().is_some() {
            self.complete(log);
        }
    }

    /// Has groups of waiters answered elsewhere, so that the next flush begins meanwhile.
    pub fn answer_by(&self, answerer: Answerer) {
        let _ = self.answerer.set(answerer);
    }

    /// Answers everyone below the flushed position, and everyone if the log is poisoned.
    pub fn complete(&self, log: &CommitLog) {
        let (flushed, poison) = (log.flushed(), log.poison());
        let done = self.take(|w| w.end <= flushed || poison.is_some());
        if done.is_empty() {
            return;
        }
        let poison = poison.map(str::to_owned);
        let answer = move || {
            for w in done {
                (w.then)(match &poison {
                    Some(reason) if w.end > flushed => Err(Error::Poisoned(reason.clone())),
                    _ => Ok(()),
                });
            }
        };
        match self.answerer.get() {
            Some(by) => by(Box::new(answer)),
            None => answer(),
        }
    }

    /// Tells those whose time is over.
    pub fn expire(&self, now_ms: i64) {
        for w in self.take(|w| w.deadline_ms <= now_ms) {
            (w.then)(Err(Error::FlushTimeout));
        }
    }

    fn take(&self, is_done: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let mut waiting = self.lock();
        let (done, kept) = std::mem::take(&mut *waiting).into_iter().partition(is_done);
        *waiting = kept;
        done
    }

    /// Has the thread that calls unparked whenever somebody comes to wait. Only the first counts.
    pub fn served_by_this_thread(&self) {
        self.flusher.get_or_init(std::thread::current);
    }
}
