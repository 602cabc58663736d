//! Delayed messages: they wait in the schedule topic, a queue for each level, and are written
//! anew to their own topic when they are due. As a level's delay is constant, a queue's
//! order is the order of delivery.
//!
//! `config/delayOffset.json` keeps the next offset of each level. After a crash what was
//! delivered since it was last saved is delivered again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Broker;
use super::persist::ConfigFile;
use super::stats::Kind;
use crate::codec::properties::{self, name};
use crate::codec::queue_unit::Unit;
use crate::codec::record::Message;
use crate::error::Result;
use crate::os::fs::Fs;
use crate::recover::SCHEDULE_TOPIC;
use crate::store::as_record;

/// Messages of one level that are delivered before the next level gets its turn.
const A_TURN: usize = 1024;

/// A clock that was set back makes messages late, and by no more than this, ms.
const CLOCK_SLACK_MS: i64 = 3_600_000;

/// The file's content, also that of request 45: level to next queue offset.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DelayTable {
    pub offset_table: BTreeMap<i32, i64>,
}

/// How far each level is delivered.
pub struct Delay {
    offsets: Mutex<BTreeMap<i32, i64>>,
    file: ConfigFile,
    /// When the thread that delivers wakes by itself, ms.
    wakes_at: AtomicI64,
    came: (Mutex<bool>, Condvar),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Delay {
    pub(super) fn open(fs: &Fs, root: &Path, notes: &mut Vec<String>) -> Delay {
        let file = ConfigFile::new(fs, root, "delayOffset.json");
        let loaded: DelayTable = file.load(notes);
        Delay {
            offsets: Mutex::new(loaded.offset_table),
            file,
            wakes_at: AtomicI64::new(i64::MAX),
            came: Default::default(),
        }
    }

    /// Saves the offsets. What they count as delivered is flushed first.
    pub(super) fn save(&self, flush: impl FnOnce() -> Result<()>) -> Result<()> {
        if !self.file.is_touched() {
            return Ok(());
        }
        let table = DelayTable { offset_table: lock(&self.offsets).clone() };
        flush()?;
        self.file.save(|| table)
    }

    /// A delayed message came that is due at `due` (ms).
    pub(super) fn came(&self, due: i64) {
        if due < self.wakes_at.load(Ordering::Acquire) {
            self.wake();
        }
    }

    /// Ends [`Delay::wait`].
    pub(super) fn wake(&self) {
        *lock(&self.came.0) = true;
        self.came.1.notify_all();
    }

    /// Blocks until a message comes that is due before `until` (ms; none for ever), or till then.
    pub(super) fn wait(&self, until: Option<i64>, now_ms: i64) {
        self.wakes_at.store(until.unwrap_or(i64::MAX), Ordering::Release);
        // Who came before that was stored may have thought us awake: look again soon.
        let longest = Duration::from_secs(1);
        let timeout = until.map_or(longest, |at| {
            Duration::from_millis(u64::try_from(at - now_ms).unwrap_or(0)).min(longest)
        });
        let wait = self.came.1.wait_timeout_while(lock(&self.came.0), timeout, |came| !*came);
        *wait.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

impl Broker {
    /// Level to next queue offset of the schedule topic.
    pub fn delay_offsets(&self) -> DelayTable {
        DelayTable { offset_table: lock(&self.delay.offsets).clone() }
    }

    /// Delivers what is due. Returns when the next message is, ms; `None` if none waits.
    pub fn deliver_step(&self) -> Result<Option<i64>> {
        let mut next_due: Option<i64> = None;
        for (n, delay_ms) in self.store.config().delay_levels_ms.iter().enumerate() {
            let queue_id = n as i32;
            if let Some(due) = self.deliver_level(queue_id, *delay_ms)? {
                next_due = Some(next_due.map_or(due, |n| n.min(due)));
            }
        }
        Ok(next_due)
    }

    fn deliver_level(&self, queue_id: i32, delay_ms: i64) -> Result<Option<i64>> {
        let Some(queue) = self.store.queues().get(SCHEDULE_TOPIC, queue_id) else {
            return Ok(None);
        };
        let level = queue_id + 1;
        let saved = lock(&self.delay.offsets).get(&level).copied().unwrap_or(0);
        let from = u64::try_from(saved).unwrap_or(0).clamp(queue.min_offset(), queue.max_offset());
        let now = self.now_ms();
        let (mut turn, mut due, mut failed) = (0, None, Ok(()));
        let next = queue.for_each(from, |_, unit| {
            // Much further ahead than its delay: the clock was far ahead once, or the level is
            // shorter now. Better early than held up for as long as that.
            let too_far = unit.tags_code > now.saturating_add(delay_ms + CLOCK_SLACK_MS);
            let at = if too_far { now } else { unit.tags_code };
            if at > now || turn == A_TURN {
                due = Some(at);
                return false;
            }
            turn += 1;
            failed = self.deliver(&unit);
            failed.is_ok()
        });
        if next != from || saved != from as i64 {
            lock(&self.delay.offsets).insert(level, next as i64);
            self.delay.file.touch();
        }
        failed.map(|()| due)
    }

    /// Writes a delayed message to the topic it was sent to.
    fn deliver(&self, unit: &Unit) -> Result<()> {
        let slice = self.store.record_at(unit.offset);
        let Some(record) = slice.as_deref().and_then(as_record) else {
            tracing::error!("a delayed message at {} is damaged or gone: passed by", unit.offset);
            return Ok(());
        };
        let topic = record.property(name::REAL_TOPIC).unwrap_or_default();
        let queue_id = record.property(name::REAL_QID).and_then(|id| id.parse().ok()).unwrap_or(0);
        if self.topics.get(topic).is_none() {
            tracing::warn!(
                "a delayed message at {} is for topic {topic:?}, which is gone",
                unit.offset
            );
            return Ok(());
        }
        self.append(
            Kind::Delay,
            &[Message {
                topic,
                queue_id,
                prepared_transaction_offset: record.prepared_transaction_offset(),
                ..record.message()
            }],
        )?;
        Ok(())
    }

    /// The property text of a message of `topic` and `queue_id` that waits at `level` (1 or
    /// above, cut to the highest), and the queue in which it does.
    pub(super) fn delayed(
        &self,
        text: &[u8],
        topic: &str,
        queue_id: i32,
        level: i32,
    ) -> (Vec<u8>, i32) {
        let highest = self.store.config().delay_levels_ms.len().max(1) as i32;
        let level = level.clamp(1, highest);
        let mut text = text.to_vec();
        properties::set(&mut text, name::DELAY, &level.to_string());
        properties::set(&mut text, name::REAL_TOPIC, topic);
        properties::set(&mut text, name::REAL_QID, &queue_id.to_string());
        (text, level - 1)
    }
}
