//! Background work: step functions, the threads that call them, and the end.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::MessageStore;
use crate::codec::properties;
use crate::codec::record::sys_flag;
use crate::config::Retention;
use crate::error::{Error, Result};
use crate::index::{Index, Key};
use crate::log::commit_log::CommitLog;
use crate::log::flush::FlushPolicy;
use crate::log::scan::{self, Checks, Step};
use crate::recover;
use crate::rest::Pause;
use crate::retain::Now;
use crate::summary::{self, Summary};

/// Queues are flushed this often, the checkpoint is written that often, ms.
const FLUSH_QUEUES_MS: i64 = 1_000;
pub(super) const CHECKPOINT_MS: i64 = 60_000;
/// And when so many bytes were appended since: a start after a crash walks over no more.
const CHECKPOINT_BYTES: u64 = 256 << 20;
const RETAIN_MS: i64 = 10_000;
const WATCH_DISK_MS: i64 = 500;
/// The index reads the log in stretches of this many bytes.
const INDEX_STRETCH: u64 = 4 << 20;

impl MessageStore {
    /// Forces everything to the disk: log first, then what it is dispatched to.
    pub fn flush(&self) -> Result<()> {
        self.flush_log(self.log.end())
    }

    pub(super) fn flush_log(&self, end: u64) -> Result<()> {
        let flushed = if self.log.flushed() < end { self.log.flush_to(end) } else { Ok(()) };
        if flushed.is_ok() && self.config.flush == FlushPolicy::Sync {
            self.dispatch(None);
        }
        self.flush_queue.complete(&self.log);
        flushed
    }

    /// Flushes the log if the policy wants it now.
    pub fn flush_step(&self) -> Result<()> {
        let now = self.clock.now_ms();
        if let FlushPolicy::Async { least_pages, thorough_interval_ms, .. } = self.config.flush {
            let pages = (self.log.end() - self.log.flushed()) / 4096;
            let thorough = now - self.flushed_at.load(Ordering::Relaxed) >= thorough_interval_ms;
            if pages < least_pages && !thorough && self.flush_queue.is_empty() {
                return Ok(());
            }
        }
        self.flushed_at.store(now, Ordering::Relaxed);
        self.flush()
    }

    /// Indexes a stretch of the log; false if there is nothing to do.
    pub fn index_step(&self) -> Result<bool> {
        let (from, end) = (self.indexed.load(Ordering::Acquire), self.dispatcher.position());
        if from >= end || !self.config.index {
            return Ok(false);
        }
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let segments = self.log.chain().all();
        let from = from.max(self.log.min_offset());
        let until = end.min(from + INDEX_STRETCH);
        let mut at = from;
        let mut keys = Vec::new();
        let now = self.clock.now_ms();
        // Zeros before `end` are no end: a power cut may have lost pages there.
        let checks = Checks { crc_from: u64::MAX, zeros_end_from: u64::MAX, last_time: 0 };
        let mut nothing_left = true;
        let walked = scan::walk(&segments, from, checks, |step| {
            if let Step::Record(record) = step {
                keys.extend(Key::of(&record));
                at = record.physical_offset().unsigned_abs() + record.size() as u64;
            }
            if at >= until {
                nothing_left = false;
                std::ops::ControlFlow::Break(())
            } else {
                std::ops::ControlFlow::Continue(())
            }
        });
        let mut done = 0;
        let put = index.put_all(&keys, &mut done, now, |time| self.index_is_on_disk(time));
        let at = match keys.get(done) {
            // Its record comes again.
            Some(key) => key.offset().unsigned_abs(),
            None if nothing_left => at.max(walked.at).max(end),
            None => at.max(walked.at),
        };
        self.indexed.store(at, Ordering::Release);
        put.map(|()| true)
    }

    /// Looks through one index file that was there at the start; false if there is none left. One that is
    /// damaged, or behind one that is missing, is removed with those behind it, and they are made again.
    pub fn check_index_step(&self) -> Result<bool> {
        let mut unchecked = self.index_unchecked.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = unchecked.pop() else { return Ok(false) };
        drop(unchecked);
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let files = index.files();
        let Some(n) = files.iter().position(|f| f.path() == path) else { return Ok(true) };
        let before = n.checked_sub(1).map(|n| files[n].header().end_offset.unsigned_abs());
        let lacks = match files[n].header() {
            header if header.count > 1 => self.has_keys(before, header.begin_offset.unsigned_abs()),
            _ => false,
        };
        if !lacks && files[n].is_consistent() {
            return Ok(true);
        }
        let what = if lacks { "does not follow the file before" } else { "is damaged" };
        tracing::error!("{} {what}; keys are indexed again from there on", path.display());
        self.index_damaged.fetch_add(1, Ordering::Relaxed);
        let mut checkpoint = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        let end = n.checked_sub(1).map_or(0, |n| files[n].header().end_time);
        checkpoint.index_time = checkpoint.index_time.min(end);
        self.fs.replace(&self.config.root.join("checkpoint"), &checkpoint.encode(), None)?;
        drop(checkpoint);
        index.discard_from(&path)?;
        self.indexed.store(index_from(&index, &self.log), Ordering::Release);
        Ok(true)
    }

    /// Whether a record with keys stands between the one at `after`, or the log's start, and `until`.
    fn has_keys(&self, after: Option<u64>, until: u64) -> bool {
        let from = after.unwrap_or(0).max(self.log.min_offset());
        let checks = Checks { crc_from: u64::MAX, zeros_end_from: u64::MAX, last_time: 0 };
        let mut has_keys = false;
        scan::walk(&self.log.chain().all(), from, checks, |step| match step {
            Step::Hole { .. } => std::ops::ControlFlow::Continue(()),
            Step::Record(r) | Step::BadBody(r) => {
                let at = r.physical_offset().unsigned_abs();
                has_keys = at < until
                    && after.is_none_or(|after| at > after)
                    && r.transaction() != sys_flag::ROLLBACK
                    && properties::index_keys(r.properties()).next().is_some();
                match at < until && !has_keys {
                    true => std::ops::ControlFlow::Continue(()),
                    false => std::ops::ControlFlow::Break(()),
                }
            }
        });
        has_keys
    }

    fn index_is_on_disk(&self, time: i64) {
        let mut checkpoint = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        checkpoint.index_time = checkpoint.index_time.max(time);
        let bytes = checkpoint.encode();
        if let Err(e) = self.fs.replace(&self.config.root.join("checkpoint"), &bytes, None) {
            tracing::warn!("{e}");
        }
    }

    /// Makes disk space ready, flushes queues and deletes old files, as far as each is due.
    pub fn upkeep_step(&self) -> Result<()> {
        let now = self.clock.now_ms();
        let again = self.log.prepare_ahead(self.config.flush == FlushPolicy::Sync);
        let again = again.inspect_err(|e| tracing::debug!("{e}"));
        self.wake_upkeep_at.store(again.unwrap_or(u64::MAX), Ordering::Relaxed);
        // What could not be dispatched for want of disk space.
        self.dispatch(None);
        self.flush_queue.expire(now);
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= due.watch {
            due.watch = now + WATCH_DISK_MS;
            let used = self.disk_used()?;
            if let Some(refuses) = self.retain.watch(&self.retention(), used) {
                let percent = used * 100.0;
                if refuses {
                    tracing::error!("the disk is {percent:.0}% full: messages are refused");
                } else {
                    tracing::info!("the disk is {percent:.0}% full: messages are taken again");
                }
            }
        }
        if now >= due.flush_queues {
            due.flush_queues = now + FLUSH_QUEUES_MS;
            // Two pages of units.
            self.flush_queues(410)?;
        }
        if now >= due.retain {
            due.retain = now + RETAIN_MS;
            self.retain_step()?;
        }
        Ok(())
    }

    fn flush_queues(&self, least: u64) -> Result<()> {
        let flushed = self.queues.all().iter().try_for_each(|queue| queue.flush(least));
        let flushed =
            flushed.and_then(|()| self.queues.batches().iter().try_for_each(|queue| queue.flush()));
        if flushed.is_err() {
            self.queues_doubtful.store(true, Ordering::Relaxed);
        }
        flushed
    }

    /// Writes a checkpoint if time or the log has gone on far enough.
    pub fn checkpoint_step(&self) -> Result<()> {
        let (now, end) = (self.clock.now_ms(), self.dispatcher.position());
        let grown = end - self.checkpoint_at.load(Ordering::Relaxed) >= CHECKPOINT_BYTES;
        let due = now >= self.checkpoint_due.load(Ordering::Relaxed);
        if grown || due && !self.is_checkpoint_new() {
            self.checkpoint_due.store(now + CHECKPOINT_MS, Ordering::Relaxed);
            self.checkpoint_at.store(end, Ordering::Relaxed);
            self.checkpoint_owed.store(false, Ordering::Relaxed);
            let written = self.write_checkpoint();
            return written.inspect_err(|_| self.checkpoint_owed.store(true, Ordering::Relaxed));
        }
        Ok(())
    }

    /// Whether the last checkpoint says all there is to say.
    fn is_checkpoint_new(&self) -> bool {
        self.checkpoint_at.load(Ordering::Relaxed) == self.dispatcher.position()
            && !self.checkpoint_owed.load(Ordering::Relaxed)
    }

    /// Has a checkpoint written soon: the last one does not hold any more.
    fn owe_checkpoint(&self) {
        self.checkpoint_owed.store(true, Ordering::Relaxed);
        self.checkpoint_due.store(0, Ordering::Relaxed);
        self.wake("checkpoint");
    }

    /// Forces log and queues to the disk, and writes down how far they go.
    pub fn write_checkpoint(&self) -> Result<()> {
        let last = self.last_record();
        self.log.flush()?;
        self.flush_queues(1)?;
        let mut checkpoint = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        // A sync that works after one that failed proves nothing.
        let doubtful = self.queues_doubtful.load(Ordering::Relaxed);
        if let Some((_, time)) = last.filter(|_| !doubtful) {
            (checkpoint.log_time, checkpoint.queue_time) = (time, time);
            // Java's newest version would start its replay here if it were not 0.
            checkpoint.queue_physical_offset = 0;
        }
        self.fs.replace(&self.config.root.join("checkpoint"), &checkpoint.encode(), None)?;
        let end = last.and_then(|(at, _)| Some(at + self.log.record_at(at)?.len() as u64));
        match end {
            Some(end) if !doubtful => {
                let summary = Summary::of(end, last, &self.queues);
                summary.write(&self.fs, &self.config.root, summary::SYNCED)
            }
            _ => Ok(()),
        }
    }

    /// Position and store time of the last record that all queues have.
    fn last_record(&self) -> Option<(u64, i64)> {
        let dispatched = self.dispatcher.position();
        let segments = self.log.chain().all();
        let from = segments.iter().rev().find(|s| s.base < dispatched)?.base;
        let mut last = None;
        let newest = self.queues.all().iter().filter_map(|q| q.last_unit()).map(|u| u.offset).max();
        let from = newest.filter(|at| *at >= from && *at < dispatched).unwrap_or(from);
        let checks = Checks { crc_from: u64::MAX, zeros_end_from: 0, last_time: 0 };
        scan::walk(&segments, from, checks, |step| {
            if let Step::Record(r) = step {
                let at = r.physical_offset().unsigned_abs();
                if at >= dispatched {
                    return std::ops::ControlFlow::Break(());
                }
                last = Some((at, r.store_timestamp()));
            }
            std::ops::ControlFlow::Continue(())
        });
        last
    }

    /// Deletes what is due.
    pub fn retain_step(&self) -> Result<()> {
        self.retain_as(&self.retention())
    }

    /// Deletes what is expired, at whatever hour.
    pub fn delete_expired(&self) -> Result<()> {
        let now = Retention { delete_when: (0..24).collect(), ..self.retention() };
        self.retain_as(&now)
    }

    fn retain_as(&self, retention: &Retention) -> Result<()> {
        let deleted = self.retain.step(retention, self.log.chain(), || {
            let ms = self.clock.now_ms();
            Ok(Now { ms, hour: local_hour(ms), used: self.disk_used()? })
        })?;
        if deleted > 0 {
            tracing::info!(
                "{deleted} log files deleted; the log begins at {}",
                self.log.min_offset()
            );
            // Before queues, index and deleted topics forget them: they must not come back.
            for dir in recover::log_dirs(&self.config).iter().chain(&self.config.old_log_dirs) {
                if dir.is_dir() {
                    self.fs.sync_dir(dir)?;
                }
            }
            self.follow_log()?;
            self.owe_checkpoint();
        }
        Ok(())
    }

    /// Share of the fuller one of the disks that hold log and queues, 0 to 1. Of several disks of the
    /// log the emptiest counts: the next file goes there.
    pub(super) fn disk_used(&self) -> Result<f64> {
        let mut log = f64::MAX;
        for dir in recover::log_dirs(&self.config) {
            log = log.min(self.fs.used_ratio(&dir)?);
        }
        Ok(log.max(self.fs.used_ratio(&self.config.root)?))
    }

    /// Lets queues and index follow the log's first position.
    pub fn follow_log(&self) -> Result<()> {
        let log_min = self.log.min_offset();
        for queue in self.queues.all() {
            queue.follow_log(log_min)?;
        }
        for queue in self.queues.batches() {
            queue.follow_log(log_min)?;
        }
        self.index.read().unwrap_or_else(PoisonError::into_inner).follow_log(log_min)
    }

    /// Removes a topic's queues. Its records stay in the log, and are not shown again when
    /// the topic is made anew.
    pub fn delete_topic(&self, topic: &str) -> Result<()> {
        let (root, log_min) = (&self.config.root, self.log.min_offset());
        let mut deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        deleted.retain(|_, at| *at > log_min);
        let end = self.log.end();
        deleted.insert(topic.to_owned(), end);
        recover::write_deleted(&self.fs, root, &deleted)?;
        self.deleted_to.fetch_max(end, Ordering::AcqRel);
        let removed = self.queues.remove_topic(topic);
        self.owe_checkpoint();
        removed
    }

    /// Wakes a thread; false if it does not run.
    pub(super) fn wake(&self, name: &str) -> bool {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = threads.iter().find(|(n, _)| *n == name);
        thread.inspect(|(_, thread)| thread.thread().unpark()).is_some()
    }

    /// Whether all that was appended up to `end` is where it belongs, so that nothing is to be
    /// done before more comes.
    fn is_quiet(&self, end: u64) -> bool {
        self.log.flushed() >= end
            && self.dispatcher.position() >= end
            && (!self.config.index || self.indexed.load(Ordering::Acquire) >= end)
            && self.flush_queue.is_empty()
            && !self.refuses_writes()
    }

    /// Starts the threads that flush, index and keep the store up. They end with
    /// [`MessageStore::close`], and sleep while nothing is appended.
    pub fn run_background(self: &Arc<Self>) -> Result<()> {
        let ms = |ms: i64| Duration::from_millis(ms.max(0).unsigned_abs());
        let interval = match self.config.flush {
            FlushPolicy::Async { interval_ms, .. } => ms(interval_ms.max(1)),
            FlushPolicy::Sync => ms(500),
        };
        let flush = move |store: &MessageStore| {
            store.flush_queue.served_by_this_thread();
            if let Err(e) = store.flush_step() {
                tracing::error!("{e}");
            }
            Pause::until_woken(interval)
        };
        let index = move |store: &MessageStore| match store.index_step() {
            Ok(true) => Pause::always(Duration::ZERO),
            Ok(false) => match store.check_index_step() {
                // Nobody waits for it: one file a second.
                Ok(true) => Pause::always(ms(1000)),
                Ok(false) => Pause::until_woken(ms(100)),
                Err(e) => {
                    tracing::error!("a damaged index file cannot be removed: {e}");
                    Pause::always(ms(100))
                }
            },
            Err(e) => {
                tracing::error!("keys cannot be indexed yet: {e}");
                Pause::always(ms(1000))
            }
        };
        let upkeep = move |store: &MessageStore| {
            if let Err(e) = store.upkeep_step() {
                tracing::error!("{e}");
            }
            Pause { busy: ms(200), idle: Some(ms(RETAIN_MS)) }
        };
        let checkpoint = move |store: &MessageStore| {
            if let Err(e) = store.checkpoint_step() {
                tracing::error!("{e}");
            }
            if store.is_checkpoint_new() {
                return Pause::until_woken(ms(500));
            }
            let due = store.checkpoint_due.load(Ordering::Relaxed) - store.clock.now_ms();
            Pause { busy: ms(500), idle: Some(ms(due.clamp(500, CHECKPOINT_MS))) }
        };
        self.spawn("flush", flush)?;
        self.spawn("checkpoint", checkpoint)?;
        self.spawn("index", index)?;
        self.spawn("upkeep", upkeep)
    }

    fn spawn(
        self: &Arc<Self>,
        name: &'static str,
        step: impl Fn(&MessageStore) -> Pause + Send + 'static,
    ) -> Result<()> {
        let (store, stopping, rest) =
            (Arc::downgrade(self), self.stopping.clone(), self.rest.clone());
        let run = move || {
            let mut seen = None;
            while !stopping.load(Ordering::Acquire) {
                let Some(store) = store.upgrade() else { break };
                let pause = step(&store);
                let end = store.log.end();
                let mut timeout = pause.busy;
                // Only after a whole pause in which nothing came: who appends all the time has
                // nobody to wake.
                if let Some(idle) = pause.idle
                    && seen.replace(end) == Some(end)
                    && store.is_quiet(end)
                {
                    rest.lie_down();
                    if store.log.end_at_rest() == end {
                        timeout = idle;
                    }
                }
                // Who sleeps keeps no store open.
                drop(store);
                if !timeout.is_zero() {
                    std::thread::park_timeout(timeout);
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name(format!("mq-{name}"))
            .spawn(run)
            .map_err(Error::io("start a thread for", &self.config.root))?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push((name, thread));
        Ok(())
    }

    /// Stops the background and writes everything down, so that the next start is quick. No
    /// `abort` file stays, unless something could not be written.
    pub fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // Whoever looked at `closed` before that has written when we have this.
        self.log.seal();
        let closed = self.write_down();
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
        closed
    }

    fn write_down(&self) -> Result<()> {
        self.stopping.store(true, Ordering::Release);
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for (_, thread) in threads {
            thread.thread().unpark();
            // The thread itself may be the one that closes.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
        self.flush()?;
        self.dispatch(None);
        while self.index_step()? {}
        self.write_checkpoint()?;
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.flush()?;
        self.log.chain().drop_spare()?;
        let sound = !self.queues_doubtful.load(Ordering::Relaxed) && !index.is_doubtful();
        if sound && self.dispatch_behind() == 0 && self.log.poison().is_none() {
            let (root, end) = (&self.config.root, self.log.end());
            let summary = Summary::of(end, self.last_record(), &self.queues);
            summary.write(&self.fs, root, summary::CLEAN)?;
            self.fs.remove(&root.join("abort"))?;
            self.fs.sync_dir(root)?;
        }
        Ok(())
    }
}

/// From where on the log is to be indexed.
pub(super) fn index_from(index: &Index, log: &CommitLog) -> u64 {
    // The record there was the last one with keys. What went on in the next file may be gone with
    // that: then the record comes again.
    let from = match index.end_offset() {
        None => 0,
        Some((at, true)) => at,
        Some((at, false)) => at + log.record_at(at).map_or(0, |r| r.len() as u64),
    };
    from.max(log.min_offset())
}

fn local_hour(ms: i64) -> u8 {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    time.to_zoned(jiff::tz::TimeZone::system()).hour().unsigned_abs()
}
