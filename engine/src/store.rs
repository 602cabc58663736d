//! The face of the lower floors: a store that is opened, appended to, read and closed.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::codec::checkpoint::Checkpoint;
use crate::codec::properties;
use crate::codec::record::{Message, Record, has_head};
use crate::config::{Retention, StoreConfig};
use crate::dispatch::Dispatcher;
use crate::error::{Error, Limit, Result};
use crate::index::{Found, Index};
use crate::log::commit_log::{Appended, CommitLog, Prepared};
use crate::log::flush::{FlushPolicy, FlushQueue, OnDurable};
use crate::log::scan::{self, Checks, Step};
use crate::os::clock::{Clock, SystemClock};
use crate::os::fs::Fs;
use crate::os::lock::StoreLock;
use crate::os::map::Slice;
use crate::queue::consume_queue::ConsumeQueue;
use crate::queue::table::{QueueTable, is_folder_name};
use crate::recover::{self, DeletedTopics, RecoveryReport, unit_of};
use crate::retain::{Now, Retain};

/// Queues are flushed this often, the checkpoint written that often, ms.
const FLUSH_QUEUES_MS: i64 = 1_000;
const CHECKPOINT_MS: i64 = 60_000;
const RETAIN_MS: i64 = 10_000;
const WATCH_DISK_MS: i64 = 500;
/// A trouble that goes on is told this often, ms.
const TELL_AGAIN_MS: i64 = 5_000;
/// The index reads the log in stretches of this many bytes.
const INDEX_STRETCH: u64 = 4 << 20;

/// A message that consumers may see from now on.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    pub topic: &'a str,
    pub queue_id: i32,
    pub queue_offset: u64,
    pub tags_code: i64,
    /// The property text.
    pub properties: &'a [u8],
}

/// Is told of arrivals, on the thread that dispatches: it must be quick.
pub type OnArrival = Box<dyn Fn(Arrival<'_>) + Send + Sync>;

/// Looks at a record, and says whether it is wanted.
pub type Look<'a> = dyn Fn(&Record<'_>) -> bool + 'a;

/// How a read ended. The names are RocketMQ's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadStatus {
    /// There are messages.
    Found,
    /// Messages were passed by, none was wanted.
    NoMatchedMessage,
    /// The records of the units are gone from the log.
    MessageWasRemoving,
    /// The queue has no message.
    NoMessageInQueue,
    /// The offset lies before the first.
    OffsetTooSmall,
    /// The offset is that of the next message to come.
    OffsetOverflowOne,
    /// The offset lies behind that.
    OffsetOverflowBadly,
}

impl ReadStatus {
    /// RocketMQ's name of the status, which its broker puts into the remark.
    pub fn name(self) -> &'static str {
        match self {
            ReadStatus::Found => "FOUND",
            ReadStatus::NoMatchedMessage => "NO_MATCHED_MESSAGE",
            ReadStatus::MessageWasRemoving => "MESSAGE_WAS_REMOVING",
            ReadStatus::NoMessageInQueue => "NO_MESSAGE_IN_QUEUE",
            ReadStatus::OffsetTooSmall => "OFFSET_TOO_SMALL",
            ReadStatus::OffsetOverflowOne => "OFFSET_OVERFLOW_ONE",
            ReadStatus::OffsetOverflowBadly => "OFFSET_OVERFLOW_BADLY",
        }
    }
}

/// What a read gives.
#[derive(Clone, Debug)]
pub struct Read {
    pub status: ReadStatus,
    /// Where to read on.
    pub next: u64,
    /// First offset of the queue, and behind its last.
    pub min: u64,
    pub max: u64,
    /// Records, in the order of offsets.
    pub records: Vec<Slice>,
    /// Bytes of the records.
    pub bytes: usize,
}

/// How much one read may give. The first message fits always.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    pub messages: usize,
    pub bytes: usize,
    /// Units that may be passed by.
    pub scan: usize,
}

impl Default for ReadLimits {
    /// RocketMQ's for messages in memory: 32 messages, 256 KiB, 800 units.
    fn default() -> ReadLimits {
        ReadLimits { messages: 32, bytes: 262_144, scan: 800 }
    }
}

/// A message store. All methods take `&self` and may be called from any thread.
pub struct MessageStore {
    config: StoreConfig,
    fs: Fs,
    clock: Arc<dyn Clock>,
    log: CommitLog,
    queues: QueueTable,
    index: RwLock<Index>,
    /// The log is indexed up to here.
    indexed: AtomicU64,
    dispatcher: Dispatcher,
    on_arrival: OnceLock<OnArrival>,
    flush_queue: FlushQueue,
    retain: Retain,
    retention: RwLock<Retention>,
    checkpoint: Mutex<Checkpoint>,
    deleted: Mutex<DeletedTopics>,
    /// No deletion of a topic counts behind this position.
    deleted_to: AtomicU64,
    /// When the parts of upkeep are due, ms.
    due: Mutex<Due>,
    flushed_at: AtomicI64,
    /// When it was last told that dispatch does not get on, ms.
    told_at: AtomicI64,
    /// The append position at which the upkeep thread is woken.
    wake_upkeep_at: AtomicU64,
    threads: Mutex<Vec<(&'static str, JoinHandle<()>)>>,
    stopping: Arc<AtomicBool>,
    closed: AtomicBool,
    damaged_reads: AtomicU64,
    was_closed: bool,
    /// A sync of a queue failed: the next start has to compare them with the log.
    queues_doubtful: AtomicBool,
    _lock: StoreLock,
}

#[derive(Debug, Default)]
struct Due {
    flush_queues: i64,
    checkpoint: i64,
    retain: i64,
    watch: i64,
}

impl std::fmt::Debug for MessageStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MessageStore({}, log to {})", self.config.root.display(), self.log.end())
    }
}

impl MessageStore {
    /// Opens the store in `config.root`, or makes one. Nothing runs in the background until
    /// [`MessageStore::run_background`] is called.
    ///
    /// # Errors
    /// [`Error::Locked`] if it is in use, [`Error::Io`] and [`Error::DiskFull`]. Damage is no
    /// error: what is intact is served, and the report says what is not.
    pub fn open(config: StoreConfig) -> Result<(MessageStore, RecoveryReport)> {
        Self::open_with(config, Fs::default(), Arc::new(SystemClock), &mut |_, _| {})
    }

    /// [`MessageStore::open`] with another file system or clock, and with `progress`
    /// being told position and end while the log is walked.
    pub fn open_with(
        config: StoreConfig,
        fs: Fs,
        clock: Arc<dyn Clock>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(MessageStore, RecoveryReport)> {
        let root = config.root.clone();
        fs.create_dir(&root)?;
        let lock = StoreLock::take(&root)?;
        let now = clock.now_ms();
        let parts = recover::recover(&fs, &config, now, progress)?;
        let mut report = parts.report;
        let abort = root.join("abort");
        fs.replace(&abort, std::process::id().to_string().as_bytes(), None)?;

        let log = CommitLog::new(parts.log, config.store_host, parts.last_time);
        let trusted = if report.clean { i64::MAX } else { parts.checkpoint.index_time };
        let mut discarded = 0;
        let dir = root.join("index");
        let index = Index::open(&fs, &dir, config.index_shape, trusted, log.end(), |path| {
            discarded += 1;
            fs.remove(path)
        })?;
        if discarded > 0 {
            report.notes.push(format!("{discarded} index files are made again from the log"));
        }
        // The record there was the last one with keys. What went on in the next file may be gone
        // with that: then the record comes again.
        let indexed = match index.end_offset() {
            None => 0,
            Some((at, true)) => at,
            Some((at, false)) => at + log.record_at(at).map_or(0, |r| r.len() as u64),
        };
        let indexed = indexed.max(log.min_offset());
        let mut checkpoint = parts.checkpoint;
        if discarded > 0 {
            // Its time was that of files which are gone; those made anew are not on the disk yet.
            checkpoint.index_time = index.files().last().map_or(0, |f| f.header().end_time);
        }
        let mut deleted = recover::read_deleted(&root);
        if deleted.values().any(|at| *at > log.end()) {
            // The log was cut: what comes now must not be taken for what was deleted.
            deleted.values_mut().for_each(|at| *at = log.end().min(*at));
            recover::write_deleted(&fs, &root, &deleted)?;
        }
        let store = MessageStore {
            dispatcher: Dispatcher::new(log.end()),
            wake_upkeep_at: AtomicU64::new(log.end()),
            indexed: AtomicU64::new(indexed),
            index: RwLock::new(index),
            on_arrival: OnceLock::new(),
            flush_queue: FlushQueue::default(),
            retain: Retain::default(),
            retention: RwLock::new(config.retention.clone()),
            checkpoint: Mutex::new(checkpoint),
            deleted_to: AtomicU64::new(deleted.values().copied().max().unwrap_or(0)),
            deleted: Mutex::new(deleted),
            was_closed: report.clean,
            queues_doubtful: AtomicBool::new(false),
            due: Mutex::new(Due { checkpoint: now + CHECKPOINT_MS, ..Due::default() }),
            flushed_at: AtomicI64::new(now),
            told_at: AtomicI64::new(i64::MIN / 2),
            threads: Mutex::new(Vec::new()),
            stopping: Arc::new(AtomicBool::new(false)),
            closed: AtomicBool::new(false),
            damaged_reads: AtomicU64::new(0),
            queues: parts.queues,
            config,
            fs,
            clock,
            log,
            _lock: lock,
        };
        Ok((store, report))
    }

    pub fn config(&self) -> &StoreConfig {
        &self.config
    }
    pub fn log(&self) -> &CommitLog {
        &self.log
    }
    pub fn queues(&self) -> &QueueTable {
        &self.queues
    }
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
    pub fn fs(&self) -> &Fs {
        &self.fs
    }
    /// Bytes of the log that are written and not yet in the queues.
    pub fn dispatch_behind(&self) -> u64 {
        self.log.end().saturating_sub(self.dispatcher.position())
    }
    /// How often a read came by a damaged message and passed it by.
    pub fn damaged_reads(&self) -> u64 {
        self.damaged_reads.load(Ordering::Relaxed)
    }
    /// Whether the last user of the store closed it.
    pub fn was_closed(&self) -> bool {
        self.was_closed
    }
    /// When old files go.
    pub fn retention(&self) -> Retention {
        self.retention.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Lets old files go by other rules from now on.
    pub fn set_retention(&self, retention: Retention) {
        *self.retention.write().unwrap_or_else(PoisonError::into_inner) = retention;
    }
    /// Whether messages are refused since the disk is too full.
    pub fn refuses_writes(&self) -> bool {
        self.retain.refuses_writes()
    }

    /// Has `on_arrival` told of every message from now on. Only the first call counts.
    pub fn on_arrival(&self, on_arrival: OnArrival) {
        let _ = self.on_arrival.set(on_arrival);
    }

    // ---- writing ----

    /// Appends a message to its queue. Consumers may see it when this returns (under sync
    /// flush: when it is durable, see [`MessageStore::when_durable`]).
    ///
    /// # Errors
    /// [`Limit`]s; [`Error::DiskFull`] and [`Error::AboveWatermark`], which end when there is
    /// space; [`Error::Poisoned`], which does not.
    pub fn append(&self, message: &Message<'_>) -> Result<Appended> {
        self.append_all(std::slice::from_ref(message))
    }

    /// Appends messages of one topic and queue next to each other, all or none.
    pub fn append_all(&self, messages: &[Message<'_>]) -> Result<Appended> {
        let Some(first) = messages.first() else { return Err(Limit::Batch.into()) };
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        if self.retain.refuses_writes() {
            let used = self.disk_used().unwrap_or(1.0) * 100.0;
            let limit = self.retention().refuse_writes * 100.0;
            return Err(Error::AboveWatermark { used, limit });
        }
        let host = self.log.store_host();
        let queue = self.queue_of(first)?;
        let appended = match messages {
            [message] => {
                self.check(message)?;
                let prepared = [Prepared::new(*message, &host)];
                self.log.append(&prepared, queue.next(), &*self.clock)?
            }
            _ => {
                let mut prepared = Vec::with_capacity(messages.len());
                for message in messages {
                    self.check(message)?;
                    if (message.topic, message.queue_id) != (first.topic, first.queue_id) {
                        return Err(Limit::Batch.into());
                    }
                    prepared.push(Prepared::new(*message, &host));
                }
                self.log.append(&prepared, queue.next(), &*self.clock)?
            }
        };
        match self.config.flush {
            FlushPolicy::Async { .. } => self.dispatch(),
            FlushPolicy::Sync => {}
        }
        if appended.end >= self.wake_upkeep_at.load(Ordering::Relaxed) {
            self.wake("upkeep");
        }
        Ok(appended)
    }

    fn queue_of(&self, message: &Message<'_>) -> Result<Arc<ConsumeQueue>> {
        if message.topic.is_empty() || !is_folder_name(message.topic) {
            let limit = Limit::Topic { len: message.topic.len(), max: 255 };
            return Err(if message.topic.is_empty() { Limit::NoTopic } else { limit }.into());
        }
        if message.queue_id < 0 {
            return Err(Limit::Queue(message.queue_id).into());
        }
        self.queues.get_or_create(message.topic, message.queue_id)
    }

    fn check(&self, message: &Message<'_>) -> Result<()> {
        let (len, max) = (message.properties.len(), properties::MAX_LEN);
        if len > max {
            return Err(Limit::Properties { len, max }.into());
        }
        let (len, max) = (message.body.len(), self.config.max_body);
        if len > max {
            return Err(Limit::Body { len, max }.into());
        }
        Ok(())
    }

    /// Calls `then` once what was appended is on the disk; at once under async flush, whose
    /// promise is another one.
    pub fn when_durable(&self, appended: &Appended, then: OnDurable) {
        match self.config.flush {
            FlushPolicy::Async { .. } => then(Ok(())),
            FlushPolicy::Sync => {
                let deadline = self.clock.now_ms() + self.config.sync_flush_timeout_ms;
                self.flush_queue.when_durable(&self.log, appended.end, deadline, then);
            }
        }
    }

    /// Blocks until what was appended is on the disk, whatever the flush policy.
    pub fn flush_to(&self, appended: &Appended) -> Result<()> {
        if self.log.flushed() < appended.end {
            self.flush()?;
        }
        Ok(())
    }

    // ---- reading ----

    /// Position up to which consumers may see the log.
    fn confirmed(&self) -> u64 {
        match self.config.flush {
            FlushPolicy::Async { .. } => self.log.end(),
            FlushPolicy::Sync => self.log.flushed(),
        }
    }

    fn dispatch(&self) {
        let result = self.dispatcher.drain(
            &self.log,
            || self.confirmed(),
            |record| {
                let Some((offset, unit)) = unit_of(record, &self.config.delay_levels_ms) else {
                    return Ok(());
                };
                if self.is_deleted(record.topic(), unit.offset) {
                    return Ok(());
                }
                let queue = self.queues.get_or_create(record.topic(), record.queue_id())?;
                queue.put(offset, &unit)?;
                if let Some(on_arrival) = self.on_arrival.get() {
                    on_arrival(Arrival {
                        topic: record.topic(),
                        queue_id: record.queue_id(),
                        queue_offset: offset,
                        tags_code: unit.tags_code,
                        properties: record.properties(),
                    });
                }
                Ok(())
            },
        );
        if let Err(e) = result {
            // The record is safe in the log; dispatch comes back to it. With every append, so
            // it is not told each time.
            let now = self.clock.now_ms();
            let told = self.told_at.load(Ordering::Relaxed);
            if now - told >= TELL_AGAIN_MS {
                self.told_at.store(now, Ordering::Relaxed);
                tracing::error!("messages cannot be shown to consumers yet: {e}");
            }
        }
    }

    /// Whether the record's topic was deleted before consumers could see it.
    fn is_deleted(&self, topic: &str, position: u64) -> bool {
        position < self.deleted_to.load(Ordering::Acquire) && {
            let deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
            deleted.get(topic).is_some_and(|at| position < *at)
        }
    }

    /// Messages of a queue from `offset` on whose tags code is `wanted`.
    pub fn read(
        &self,
        topic: &str,
        queue_id: i32,
        offset: i64,
        limits: &ReadLimits,
        wanted: impl Fn(i64) -> bool,
    ) -> Read {
        self.read_filtered(topic, queue_id, offset, limits, wanted, None)
    }

    /// [`MessageStore::read`], where also `look` wants the records, if there is one.
    pub fn read_filtered(
        &self,
        topic: &str,
        queue_id: i32,
        offset: i64,
        limits: &ReadLimits,
        wanted: impl Fn(i64) -> bool,
        look: Option<&Look<'_>>,
    ) -> Read {
        let queue = self.queues.get(topic, queue_id);
        let (min, max) = queue.as_ref().map_or((0, 0), |q| (q.min_offset(), q.max_offset()));
        let none = |status, next| Read { status, next, min, max, records: Vec::new(), bytes: 0 };
        let Some(queue) = queue.filter(|_| max > 0) else {
            return none(ReadStatus::NoMessageInQueue, 0);
        };
        let Ok(offset) = u64::try_from(offset) else {
            return none(ReadStatus::OffsetTooSmall, min);
        };
        if offset < min {
            return none(ReadStatus::OffsetTooSmall, min);
        } else if offset == max {
            return none(ReadStatus::OffsetOverflowOne, offset);
        } else if offset > max {
            return none(ReadStatus::OffsetOverflowBadly, max);
        }
        let mut read = none(ReadStatus::NoMatchedMessage, offset);
        let (mut scanned, mut gone) = (0, false);
        let mut segment = None;
        read.next = queue.for_each(offset, |_, unit| {
            let full = read.records.len() >= limits.messages.max(1)
                || (read.bytes + unit.size as usize > limits.bytes && !read.records.is_empty());
            if full || scanned >= limits.scan {
                return false;
            }
            scanned += 1;
            if !wanted(unit.tags_code) {
                return true;
            }
            if !segment.as_ref().is_some_and(|s: &crate::segment::Segment| {
                s.base <= unit.offset && unit.offset < s.limit()
            }) {
                segment = self.log.chain().find(unit.offset);
            }
            let slice = segment.as_ref().and_then(|s| s.slice(unit.offset, unit.size as usize));
            match slice {
                Some(slice) if !has_head(&slice, unit.offset) => {
                    self.damaged_reads.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(
                        topic,
                        queue_id,
                        "a damaged message at {} is passed by",
                        unit.offset
                    );
                }
                Some(slice) => {
                    let is_wanted =
                        |look: &Look<'_>| as_record(&slice).is_some_and(|record| look(&record));
                    if look.is_none_or(is_wanted) {
                        read.bytes += slice.len();
                        read.records.push(slice);
                    }
                }
                None => gone = true,
            }
            true
        });
        read.status = match (read.records.is_empty(), gone) {
            (false, _) => ReadStatus::Found,
            (true, true) => ReadStatus::MessageWasRemoving,
            (true, false) => ReadStatus::NoMatchedMessage,
        };
        read
    }

    /// The record that begins at a physical offset.
    pub fn record_at(&self, physical_offset: u64) -> Option<Slice> {
        (physical_offset < self.confirmed()).then(|| self.log.record_at(physical_offset))?
    }

    /// First offset of a queue; 0 if there is no such queue.
    pub fn min_offset(&self, topic: &str, queue_id: i32) -> u64 {
        self.queues.get(topic, queue_id).map_or(0, |q| q.min_offset())
    }

    /// The offset behind a queue's last message; 0 if there is no such queue.
    pub fn max_offset(&self, topic: &str, queue_id: i32) -> u64 {
        self.queues.get(topic, queue_id).map_or(0, |q| q.max_offset())
    }

    /// Store time of the message at an offset, ms.
    pub fn store_time(&self, topic: &str, queue_id: i32, offset: u64) -> Option<i64> {
        let unit = self.queues.get(topic, queue_id)?.get(offset).filter(|u| !u.is_filler())?;
        self.log.store_time(unit.offset)
    }

    /// The first offset whose message was stored at `timestamp` (ms) or later; the maximum
    /// offset if there is none.
    pub fn offset_by_time(&self, topic: &str, queue_id: i32, timestamp: i64) -> u64 {
        let Some(queue) = self.queues.get(topic, queue_id) else { return 0 };
        queue.partition(|unit| self.log.store_time(unit.offset).is_some_and(|t| t >= timestamp))
    }

    /// Records of a topic that may have `key`, stored between two times (ms); the newest
    /// `max`. Records whose key merely has the same hash are left out.
    pub fn query(&self, topic: &str, key: &str, max: usize, begin: i64, end: i64) -> QueryResult {
        let found = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            index.query(topic, key, max, begin, end)
        };
        let has_key = |slice: &Slice| {
            matches!(crate::codec::record::decode(slice),
                Ok(crate::codec::record::Entry::Record(r)) if r.topic() == topic
                    && properties::index_keys(r.properties()).any(|k| k == key))
        };
        let records = found.offsets.iter().filter_map(|at| self.record_at(*at)).filter(has_key);
        QueryResult { records: records.collect(), found }
    }

    // ---- background: step functions, and the threads that call them ----

    /// Forces everything to the disk: log first, then what it is dispatched to.
    pub fn flush(&self) -> Result<()> {
        let flushed = self.log.flush();
        if flushed.is_ok() && self.config.flush == FlushPolicy::Sync {
            self.dispatch();
        }
        self.flush_queue.complete(&self.log);
        flushed.map(drop)
    }

    /// Flushes the log if the policy wants it now.
    pub fn flush_step(&self) -> Result<()> {
        let now = self.clock.now_ms();
        if let FlushPolicy::Async { least_pages, thorough_interval_ms, .. } = self.config.flush {
            let pages = (self.log.end() - self.log.flushed()) / 4096;
            let thorough = now - self.flushed_at.load(Ordering::Relaxed) >= thorough_interval_ms;
            if pages < least_pages && !thorough {
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
        let mut failed = Ok(());
        let now = self.clock.now_ms();
        // Zeros before `end` are no end: a power cut may have lost pages there.
        let checks = Checks { crc_from: u64::MAX, lost_pages: true };
        let mut nothing_left = true;
        let walked = scan::walk(&segments, from, checks, |step| {
            if let Step::Record(record) = step {
                failed = index.put(&record, now, |time| self.index_is_on_disk(time));
                if failed.is_err() {
                    nothing_left = false;
                    return std::ops::ControlFlow::Break(());
                }
                at = record.physical_offset().unsigned_abs() + record.size() as u64;
            }
            if at >= until {
                nothing_left = false;
                std::ops::ControlFlow::Break(())
            } else {
                std::ops::ControlFlow::Continue(())
            }
        });
        let at = if failed.is_ok() { at.max(walked.at) } else { at };
        let at = if nothing_left { at.max(end) } else { at };
        self.indexed.store(at, Ordering::Release);
        failed.map(|()| true)
    }

    fn index_is_on_disk(&self, time: i64) {
        let mut checkpoint = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        checkpoint.index_time = checkpoint.index_time.max(time);
        let bytes = checkpoint.encode();
        if let Err(e) = self.fs.replace(&self.config.root.join("checkpoint"), &bytes, None) {
            tracing::warn!("{e}");
        }
    }

    /// Makes disk space ready, flushes queues, writes the checkpoint and deletes old files, as
    /// far as each is due.
    pub fn upkeep_step(&self) -> Result<()> {
        let now = self.clock.now_ms();
        let ahead = self.log.prepare_ahead();
        self.wake_upkeep_at.store(self.log.end() + (2 << 20), Ordering::Relaxed);
        if let Err(e) = ahead {
            tracing::debug!("{e}");
        }
        // What could not be dispatched for want of disk space.
        self.dispatch();
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
        if now >= due.checkpoint {
            due.checkpoint = now + CHECKPOINT_MS;
            self.write_checkpoint()?;
        }
        if now >= due.retain {
            due.retain = now + RETAIN_MS;
            self.retain_step()?;
        }
        Ok(())
    }

    fn flush_queues(&self, least: u64) -> Result<()> {
        let flushed = self.queues.all().iter().try_for_each(|queue| queue.flush(least));
        if flushed.is_err() {
            self.queues_doubtful.store(true, Ordering::Relaxed);
        }
        flushed
    }

    /// Writes what is on the disk by then into the checkpoint.
    pub fn write_checkpoint(&self) -> Result<()> {
        let last = self.last_record();
        self.log.flush()?;
        self.flush_queues(1)?;
        let mut checkpoint = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, time)) = last {
            (checkpoint.log_time, checkpoint.queue_time) = (time, time);
            // Java's newest version would start its replay here if it were not 0.
            checkpoint.queue_physical_offset = 0;
        }
        self.fs.replace(&self.config.root.join("checkpoint"), &checkpoint.encode(), None)
    }

    /// Position and store time of the last record that all queues have.
    fn last_record(&self) -> Option<(u64, i64)> {
        let dispatched = self.dispatcher.position();
        let segments = self.log.chain().all();
        let from = segments.iter().rev().find(|s| s.base < dispatched)?.base;
        let mut last = None;
        let newest = self.queues.all().iter().filter_map(|q| q.last_unit()).map(|u| u.offset).max();
        let from = newest.filter(|at| *at >= from && *at < dispatched).unwrap_or(from);
        let checks = Checks { crc_from: u64::MAX, lost_pages: false };
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
            self.fs.sync_dir(&recover::log_dir(&self.config))?;
            self.follow_log()?;
        }
        Ok(())
    }

    /// Share of the fuller one of the disks that hold log and queues, 0 to 1.
    fn disk_used(&self) -> Result<f64> {
        let log = self.fs.used_ratio(&recover::log_dir(&self.config))?;
        Ok(log.max(self.fs.used_ratio(&self.config.root)?))
    }

    /// Lets queues and index follow the log's first position.
    pub fn follow_log(&self) -> Result<()> {
        let log_min = self.log.min_offset();
        for queue in self.queues.all() {
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
        self.queues.remove_topic(topic)
    }

    fn wake(&self, name: &str) {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, thread) in threads.iter().filter(|(n, _)| *n == name) {
            thread.thread().unpark();
        }
    }

    /// Starts the threads that flush, index and keep the store up. They end with
    /// [`MessageStore::close`].
    pub fn run_background(self: &Arc<Self>) -> Result<()> {
        let flush = |store: &MessageStore| {
            let wait = match store.config.flush {
                FlushPolicy::Async { interval_ms, .. } => interval_ms.max(1).unsigned_abs(),
                FlushPolicy::Sync => 500,
            };
            if let Err(e) = store.flush_step() {
                tracing::error!("{e}");
            }
            match store.config.flush {
                FlushPolicy::Sync => store.flush_queue.wait(Duration::from_millis(wait)),
                FlushPolicy::Async { .. } => {
                    std::thread::park_timeout(Duration::from_millis(wait));
                }
            }
        };
        let index = |store: &MessageStore| match store.index_step() {
            Ok(true) => {}
            Ok(false) => std::thread::park_timeout(Duration::from_millis(100)),
            Err(e) => {
                tracing::error!("keys cannot be indexed yet: {e}");
                std::thread::park_timeout(Duration::from_secs(1));
            }
        };
        let upkeep = |store: &MessageStore| {
            if let Err(e) = store.upkeep_step() {
                tracing::error!("{e}");
            }
            std::thread::park_timeout(Duration::from_millis(200));
        };
        self.spawn("flush", flush)?;
        self.spawn("index", index)?;
        self.spawn("upkeep", upkeep)
    }

    fn spawn(
        self: &Arc<Self>,
        name: &'static str,
        step: impl Fn(&MessageStore) + Send + 'static,
    ) -> Result<()> {
        let (store, stopping) = (Arc::downgrade(self), self.stopping.clone());
        let run = move || {
            while !stopping.load(Ordering::Acquire) {
                match store.upgrade() {
                    Some(store) => step(&store),
                    None => break,
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
        self.stopping.store(true, Ordering::Release);
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for (_, thread) in threads {
            thread.thread().unpark();
            self.flush_queue.wake();
            // The thread itself may be the one that closes.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
        self.flush()?;
        self.dispatch();
        while self.index_step()? {}
        self.write_checkpoint()?;
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.flush()?;
        self.log.chain().drop_spare()?;
        let sound = !self.queues_doubtful.load(Ordering::Relaxed) && !index.is_doubtful();
        if sound && self.dispatch_behind() == 0 && self.log.poison().is_none() {
            let (root, end) = (&self.config.root, self.log.end());
            recover::write_summary(&self.fs, root, end, self.last_record(), &self.queues)?;
            self.fs.remove(&root.join("abort"))?;
            self.fs.sync_dir(root)?;
        }
        Ok(())
    }
}

impl Drop for MessageStore {
    fn drop(&mut self) {
        if let Err(e) = self.close() {
            tracing::error!("the store could not be closed cleanly: {e}");
        }
    }
}

/// What [`MessageStore::query`] gives.
#[derive(Clone, Debug)]
pub struct QueryResult {
    /// In the order of physical offsets.
    pub records: Vec<Slice>,
    /// What the index said.
    pub found: Found,
}

fn local_hour(ms: i64) -> u8 {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    time.to_zoned(jiff::tz::TimeZone::system()).hour().unsigned_abs()
}

/// Shows a slice that holds a record as one.
pub fn as_record(slice: &[u8]) -> Option<Record<'_>> {
    match crate::codec::record::decode(slice) {
        Ok(crate::codec::record::Entry::Record(record)) => Some(record),
        _ => None,
    }
}
