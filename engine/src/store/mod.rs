//! The face of the lower floors: a store that is opened, appended to, read and closed.

mod batches;
mod read;
mod upkeep;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::codec::checkpoint::Checkpoint;
use crate::codec::properties;
use crate::codec::record::{Message, Record};
use crate::config::{Retention, StoreConfig};
use crate::dispatch::Dispatcher;
use crate::error::{Error, Limit, Result};
use crate::index::Index;
use crate::log::commit_log::{Appended, CommitLog, Prepared};
use crate::log::flush::{Answerer, FlushPolicy, FlushQueue, OnDurable};
use crate::os::clock::{Clock, SystemClock};
use crate::os::fs::Fs;
use crate::os::lock::StoreLock;
use crate::queue::consume_queue::ConsumeQueue;
use crate::queue::table::{QueueTable, is_folder_name};
use crate::recover::{self, DeletedTopics, RecoveryReport};
use crate::rest::Rest;
use crate::retain::Retain;

pub use read::{Arrival, Look, OnArrival, QueryResult, Read, ReadLimits, ReadStatus};

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
    /// Files of the index that were there at the start and were not looked through yet.
    index_unchecked: Mutex<Vec<PathBuf>>,
    index_damaged: AtomicU64,
    dispatcher: Dispatcher,
    /// Where the log ended when the store was opened.
    began_at: u64,
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
    /// When a checkpoint is due, ms, what the last one covers, and whether that does not hold.
    checkpoint_due: AtomicI64,
    checkpoint_at: AtomicU64,
    checkpoint_owed: AtomicBool,
    flushed_at: AtomicI64,
    /// When it was last told that dispatch does not get on, ms.
    told_at: AtomicI64,
    /// The append position at which the upkeep thread is woken.
    wake_upkeep_at: AtomicU64,
    threads: Mutex<Vec<(&'static str, JoinHandle<()>)>>,
    rest: Arc<Rest>,
    stopping: Arc<AtomicBool>,
    closed: AtomicBool,
    damaged_reads: AtomicU64,
    was_closed: bool,
    /// A sync of a queue failed: the next start has to compare them with the log.
    queues_doubtful: AtomicBool,
    /// Until the store is closed.
    lock: Mutex<Option<StoreLock>>,
}

#[derive(Debug, Default)]
struct Due {
    flush_queues: i64,
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

        let log = CommitLog::new(
            parts.log,
            config.store_host,
            parts.last_time,
            Duration::from_millis(config.append_timeout_ms),
        );
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
        let indexed = upkeep::index_from(&index, &log);
        let mut checkpoint = parts.checkpoint;
        let index_time = index.files().last().map_or(0, |f| f.header().end_time);
        if checkpoint.index_time > index_time {
            // It was that of files which are gone. Those made anew are not on the disk yet.
            checkpoint.index_time = index_time;
            fs.replace(&root.join("checkpoint"), &checkpoint.encode(), None)?;
        }
        let mut deleted = recover::read_deleted(&root);
        if deleted.values().any(|at| *at > log.end()) {
            // The log was cut: what comes now must not be taken for what was deleted.
            deleted.values_mut().for_each(|at| *at = log.end().min(*at));
            recover::write_deleted(&fs, &root, &deleted)?;
        }
        let store = MessageStore {
            dispatcher: Dispatcher::new(log.end()),
            began_at: log.end(),
            wake_upkeep_at: AtomicU64::new(log.end()),
            indexed: AtomicU64::new(indexed),
            index_unchecked: Mutex::new(
                index.files().iter().map(|f| f.path().to_owned()).collect(),
            ),
            index_damaged: AtomicU64::new(0),
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
            due: Mutex::default(),
            // The next start shall not have to do again what this one did.
            checkpoint_due: AtomicI64::new(if report.fast {
                now + upkeep::CHECKPOINT_MS
            } else {
                now
            }),
            checkpoint_at: AtomicU64::new(log.end()),
            checkpoint_owed: AtomicBool::new(!report.fast),
            flushed_at: AtomicI64::new(now),
            told_at: AtomicI64::new(i64::MIN / 2),
            threads: Mutex::new(Vec::new()),
            rest: Arc::default(),
            stopping: Arc::new(AtomicBool::new(false)),
            closed: AtomicBool::new(false),
            damaged_reads: AtomicU64::new(0),
            queues: parts.queues,
            config,
            fs,
            clock,
            log,
            lock: Mutex::new(Some(lock)),
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
    /// How often a read, or dispatch, came by a damaged message and passed it by.
    pub fn damaged_reads(&self) -> u64 {
        self.damaged_reads.load(Ordering::Relaxed) + self.dispatcher.damaged()
    }
    /// How many damaged index files were found and made again since the start.
    pub fn damaged_index_files(&self) -> u64 {
        self.index_damaged.load(Ordering::Relaxed)
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
    /// space; [`Error::Busy`], which ends when the disk keeps up; [`Error::Poisoned`], which does not.
    pub fn append(&self, message: &Message<'_>) -> Result<Appended> {
        self.append_all(std::slice::from_ref(message))
    }

    /// Appends messages of one topic and queue next to each other, all or none.
    pub fn append_all(&self, messages: &[Message<'_>]) -> Result<Appended> {
        self.append_all_at(messages, self.clock.now_ms())
    }

    /// [`MessageStore::append_all`] for one who knows what the clock shows.
    pub fn append_all_at(&self, messages: &[Message<'_>], now_ms: i64) -> Result<Appended> {
        let Some(first) = messages.first() else { return Err(Limit::Batch.into()) };
        // One that was a record before may have the CRC of that record.
        if messages.iter().any(|m| properties::has_crc(m.properties)) {
            let texts: Vec<_> =
                messages.iter().map(|m| properties::without_crc(m.properties)).collect();
            let messages = messages.iter().zip(&texts);
            let messages = messages.map(|(m, text)| Message { properties: text, ..*m });
            return self.append_all_at(&messages.collect::<Vec<_>>(), now_ms);
        }
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
                self.log.append(&prepared, queue.next(), now_ms, &*self.clock)?
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
                self.log.append(&prepared, queue.next(), now_ms, &*self.clock)?
            }
        };
        match self.config.flush {
            FlushPolicy::Async { .. } => self.dispatch(Some(&queue)),
            FlushPolicy::Sync => {}
        }
        if appended.end >= self.wake_upkeep_at.load(Ordering::Relaxed) {
            // Once: it says anew when.
            self.wake_upkeep_at.store(u64::MAX, Ordering::Relaxed);
            self.wake("upkeep");
        }
        self.rest.stir();
        Ok(appended)
    }

    fn queue_of(&self, message: &Message<'_>) -> Result<Arc<ConsumeQueue>> {
        if let Some(queue) = self.queues.get(message.topic, message.queue_id) {
            return Ok(queue);
        }
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

    /// Appends that wait for the disk, under sync flush.
    pub fn waiting_for_flush(&self) -> usize {
        self.flush_queue.len()
    }

    /// Calls `then` once what was appended is on the disk, whatever the flush policy. The threads
    /// of [`MessageStore::run_background`] see to it; all who wait share one sync.
    pub fn when_flushed(&self, appended: &Appended, then: OnDurable) {
        let deadline = self.clock.now_ms() + self.config.sync_flush_timeout_ms;
        self.flush_queue.when_durable(&self.log, appended.end, deadline, then);
    }

    /// Has those who wait for the disk told elsewhere than in the flushing thread, a group at a
    /// time. What `answerer` is given must be run, also when it cannot be passed on.
    pub fn answer_by(&self, answerer: Answerer) {
        self.flush_queue.answer_by(answerer);
    }

    /// Blocks until what was appended is on the disk, whatever the flush policy. All who wait
    /// share one sync, and the one who does it works for them.
    pub fn flush_to(&self, appended: &Appended) -> Result<()> {
        self.flush_log(appended.end)
    }
}

impl Drop for MessageStore {
    fn drop(&mut self) {
        if let Err(e) = self.close() {
            tracing::error!("the store could not be closed cleanly: {e}");
        }
    }
}

/// Shows a slice that holds a record as one.
pub fn as_record(slice: &[u8]) -> Option<Record<'_>> {
    match crate::codec::record::decode(slice) {
        Ok(crate::codec::record::Entry::Record(record)) => Some(record),
        _ => None,
    }
}
