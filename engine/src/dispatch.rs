//! From the log to the queues, behind the append.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};

use crate::codec::record::{Entry, Record, decode};
use crate::error::{Error, Result};
use crate::log::commit_log::CommitLog;

/// How far the log has been dispatched. One thread works at a time; who comes meanwhile
/// goes away, as the one at work will see its record.
#[derive(Debug)]
pub struct Dispatcher {
    at_work: Mutex<()>,
    position: AtomicU64,
}

impl Dispatcher {
    pub fn new(position: u64) -> Dispatcher {
        Dispatcher { at_work: Mutex::new(()), position: AtomicU64::new(position) }
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
            let guard = match self.at_work.try_lock() {
                Ok(guard) => guard,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                // That thread looks at the limit again after it has let go of the lock.
                Err(TryLockError::WouldBlock) => return Ok(()),
            };
            self.run(log, limit(), &mut visit)?;
            drop(guard);
        }
        Ok(())
    }

    fn run(
        &self,
        log: &CommitLog,
        limit: u64,
        visit: &mut impl FnMut(&Record<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut at = self.position();
        while at < limit {
            let Some(segment) = log.chain().find(at).or_else(|| log.chain().find_after(at)) else {
                break;
            };
            at = at.max(segment.base);
            while at < limit.min(segment.limit()) {
                match decode(segment.tail(at)) {
                    Ok(Entry::Record(record)) => {
                        visit(&record)?;
                        at += record.size() as u64;
                    }
                    Ok(Entry::Blank) => at = segment.limit(),
                    other => {
                        return Err(Error::Unusable {
                            path: segment.file.path().to_owned(),
                            what: format!("no record at {at}, where one was written: {other:?}"),
                        });
                    }
                }
                self.position.store(at, Ordering::SeqCst);
            }
        }
        Ok(())
    }
}
