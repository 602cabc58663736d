//! From the log to the queues, behind the append.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};

use crate::codec::record::{Entry, Record, decode};
use crate::error::Result;
use crate::log::commit_log::CommitLog;
use crate::log::scan::next_intact;
use crate::segment::Segment;

/// How far the log has been dispatched. One thread works at a time; who comes meanwhile
/// goes away, as the one at work will see its record.
#[derive(Debug)]
pub struct Dispatcher {
    /// The file in which the last one was at work.
    at_work: Mutex<Option<Segment>>,
    position: AtomicU64,
    damaged: AtomicU64,
}

impl Dispatcher {
    pub fn new(position: u64) -> Dispatcher {
        let position = AtomicU64::new(position);
        Dispatcher { at_work: Mutex::new(None), position, damaged: AtomicU64::new(0) }
    }

    /// How often there was no record where one was written.
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Everything below has been dispatched.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::SeqCst)
    }

    /// Shows every record up to `limit()` to `visit`, once and in order. On an error the
    /// position stays before the record, which comes again next time.
    pub fn drain(
        &self,
        log: &CommitLog,
        limit: impl Fn() -> u64,
        mut visit: impl FnMut(&Record<'_>) -> Result<()>,
    ) -> Result<()> {
        while self.position() < limit() {
            let mut guard = match self.at_work.try_lock() {
                Ok(guard) => guard,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                // That thread looks at the limit again after it has let go of the lock.
                Err(TryLockError::WouldBlock) => return Ok(()),
            };
            self.run(log, limit(), &mut guard, &mut visit)?;
            drop(guard);
        }
        Ok(())
    }

    fn run(
        &self,
        log: &CommitLog,
        limit: u64,
        current: &mut Option<Segment>,
        visit: &mut impl FnMut(&Record<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut at = self.position();
        while at < limit {
            if !current.as_ref().is_some_and(|s| (s.base..s.limit()).contains(&at)) {
                *current = log.chain().find(at).or_else(|| log.chain().find_after(at));
            }
            let Some(segment) = &*current else { break };
            at = at.max(segment.base);
            while at < limit.min(segment.limit()) {
                match decode(segment.tail(at)) {
                    Ok(Entry::Record(record)) => {
                        visit(&record)?;
                        at += record.size() as u64;
                    }
                    Ok(Entry::Blank) => at = segment.limit(),
                    other => {
                        // Damaged since it was written. What follows must not wait for it.
                        let next = next_intact(segment, at + 1, 0).unwrap_or(segment.limit());
                        self.damaged.fetch_add(1, Ordering::Relaxed);
                        tracing::error!(
                            "no record at {at} of the log, where one was written ({other:?}): passed by, to {next}"
                        );
                        at = next.min(limit);
                    }
                }
                self.position.store(at, Ordering::Release);
            }
        }
        self.position.store(at, Ordering::SeqCst);
        Ok(())
    }
}
