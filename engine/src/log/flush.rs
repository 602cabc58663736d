//! When the log is forced to the disk, and who waits for it.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

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

/// Called once: with `Ok` when the bytes are on the disk, or with why they never will be.
pub type OnDurable = Box<dyn FnOnce(Result<()>) + Send>;

/// Those who wait for a position to be flushed. One flush serves all that came before it;
/// while it runs the next group gathers.
#[derive(Default)]
pub struct FlushQueue {
    waiting: Mutex<Vec<(u64, OnDurable)>>,
    came: Condvar,
}

impl std::fmt::Debug for FlushQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FlushQueue({} waiting)", self.lock().len())
    }
}

impl FlushQueue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(u64, OnDurable)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `then` when `log` is flushed up to `end`; at once, if it is.
    pub fn when_durable(&self, log: &CommitLog, end: u64, then: OnDurable) {
        if log.flushed() >= end {
            return then(Ok(()));
        }
        self.lock().push((end, then));
        self.came.notify_one();
        // The flush in between, or the failure, may have missed us.
        if log.flushed() >= end || log.poison().is_some() {
            self.complete(log);
        }
    }

    /// Answers everyone below the flushed position, and everyone if the log is poisoned.
    pub fn complete(&self, log: &CommitLog) {
        let mut done = Vec::new();
        {
            let flushed = log.flushed();
            let poisoned = log.poison().is_some();
            let mut waiting = self.lock();
            let mut kept = Vec::with_capacity(waiting.len());
            for (end, then) in waiting.drain(..) {
                if end <= flushed || poisoned {
                    done.push((end <= flushed, then));
                } else {
                    kept.push((end, then));
                }
            }
            *waiting = kept;
        }
        for (durable, then) in done {
            then(if durable {
                Ok(())
            } else {
                Err(Error::Poisoned(log.poison().unwrap_or_default().to_owned()))
            });
        }
    }

    /// Blocks until somebody waits or `timeout` is over.
    pub fn wait(&self, timeout: Duration) {
        let waiting = self.lock();
        if waiting.is_empty() {
            drop(self.came.wait_timeout(waiting, timeout));
        }
    }

    /// Wakes a thread in [`FlushQueue::wait`].
    pub fn wake(&self) {
        let _waiting = self.lock();
        self.came.notify_all();
    }
}
