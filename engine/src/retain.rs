//! Which files of the log go, and when messages are refused for want of disk space.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::codec::record::{Entry, decode};
use crate::config::Retention;
use crate::error::Result;
use crate::segment::{Chain, Segment};

/// At most this many files go in one step, so that a step is short.
const FILES_A_STEP: usize = 10;
const HOUR_MS: i64 = 3_600_000;

/// The state between steps.
#[derive(Debug, Default)]
pub struct Retain {
    refuses: AtomicBool,
}

/// How full the disk is, and the time.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// ms since 1970.
    pub ms: i64,
    /// Local hour of day, 0 to 23.
    pub hour: u8,
    /// Share of the disk in use, 0 to 1.
    pub used: f64,
}

impl Retain {
    /// Whether messages are refused since the disk is too full.
    pub fn refuses_writes(&self) -> bool {
        self.refuses.load(Ordering::Relaxed)
    }

    /// Looks at the disk: above `refuse_writes` messages are refused, until less than
    /// `force_clean` is in use. Returns the new state if it changed.
    pub fn watch(&self, config: &Retention, used: f64) -> Option<bool> {
        let was = self.refuses_writes();
        let refuses = used > if was { config.force_clean } else { config.refuse_writes };
        self.refuses.store(refuses, Ordering::Relaxed);
        (was != refuses).then_some(refuses)
    }

    /// Deletes files that are due, oldest first; the last one stays. `now_again` tells how
    /// things stand after each. Returns how many went.
    pub fn step(
        &self,
        config: &Retention,
        chain: &Chain,
        mut now_again: impl FnMut() -> Result<Now>,
    ) -> Result<usize> {
        let mut gone = 0;
        while gone < FILES_A_STEP {
            let now = now_again()?;
            let due = config.delete_when.contains(&now.hour) || now.used > config.max_used;
            let forced = config.may_force && now.used > config.force_clean;
            let files = chain.all();
            let expired = match files.as_slice() {
                [first, next, ..] => is_expired(config, first, next, now.ms),
                _ => return Ok(gone),
            };
            if !(forced || due && expired) || chain.drop_first()?.is_none() {
                return Ok(gone);
            }
            gone += 1;
        }
        Ok(gone)
    }
}

/// A file's last record is no newer than the first of the next file, so that tells its age. (A
/// file's modification time does not: a copied store would never age.) Nothing covers a store time, so
/// the file's own first record has to agree.
fn is_expired(config: &Retention, first: &Segment, next: &Segment, now_ms: i64) -> bool {
    let reserved = i64::try_from(config.reserved_hours).unwrap_or(i64::MAX).saturating_mul(HOUR_MS);
    let is_old = |file: &Segment| match decode(file.tail(file.base)) {
        Ok(Entry::Record(r)) => Some(r.store_timestamp().saturating_add(reserved) < now_ms),
        _ => None,
    };
    is_old(next) == Some(true) && is_old(first) != Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_until_there_is_space_again() {
        let (retain, config) = (Retain::default(), Retention::default());
        let states = [0.5, 0.91, 0.89, 0.86, 0.84, 0.89, 0.95].map(|used| {
            retain.watch(&config, used);
            retain.refuses_writes()
        });
        assert_eq!(states, [false, true, true, true, false, false, true]);
    }
}
