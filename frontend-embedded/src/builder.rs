//! What a store is opened with.

use std::path::Path;
use std::sync::Arc;

use mq_store::broker::BrokerConfig;
use mq_store::config::{Retention, StoreConfig};
use mq_store::log::flush::FlushPolicy;
use mq_store::os::clock::{Clock, SystemClock};

use crate::error::Result;
use crate::mq::Mq;

/// When an acknowledged message is on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flush {
    /// Soon: at load every 500 ms, at little load within 10 s. A program that is killed loses
    /// nothing; a machine that loses power loses what was not flushed.
    #[default]
    Async,
    /// Before [`Producer::send`](crate::Producer::send) returns. Consumers see only what is on
    /// the disk.
    Sync,
}

/// Settings of a store that is opened. Defaults are RocketMQ's.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// let mq = mq_embedded::Mq::builder()
///     .flush(mq_embedded::Flush::Sync)
///     .log_file_len(64 << 20)
///     .open(dir.path())?;
/// # mq.close()?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Builder {
    store: StoreConfig,
    broker: BrokerConfig,
    clock: Arc<dyn Clock>,
    background: bool,
    new_topic_queues: i32,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder {
            store: StoreConfig::at(""),
            broker: BrokerConfig::default(),
            clock: Arc::new(SystemClock),
            background: true,
            new_topic_queues: 4,
        }
    }
}

impl Builder {
    /// When an acknowledged message is on the disk.
    pub fn flush(mut self, flush: Flush) -> Self {
        self.store.flush = match flush {
            Flush::Async => FlushPolicy::default(),
            Flush::Sync => FlushPolicy::Sync,
        };
        self
    }

    /// Bytes of a file of the log, 1 GiB. Counts for a new store; one that is there keeps its
    /// own. A message must fit into a file; files are removed whole. Disk space is taken as it
    /// is written to.
    pub fn log_file_len(mut self, bytes: usize) -> Self {
        self.store.log_file_len = bytes;
        self
    }

    /// Messages of a queue in one of its files, 300,000; each takes 20 bytes of disk, which are
    /// taken as they are written to. Counts for a new store.
    pub fn queue_file_messages(mut self, messages: usize) -> Self {
        self.store.queue_file_len = messages.max(1) * 20;
        self
    }

    /// Whether messages are found by key, which costs a background thread some work; yes.
    pub fn index(mut self, index: bool) -> Self {
        self.store.index = index;
        self
    }

    /// Keys in an index file, 20 million, and its hash slots, 5 million. Counts for new files.
    pub fn index_shape(mut self, keys: u32, slots: u32) -> Self {
        (self.store.index_shape.items, self.store.index_shape.slots) = (keys, slots);
        self
    }

    /// The longest body in bytes, 4 MiB.
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.store.max_body = bytes;
        self
    }

    /// When old files of the log go: after 72 h, at 4 in the morning, or when the disk is full.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.store.retention = retention;
        self
    }

    /// The delays of the levels, level 1 first, in ms; RocketMQ's 18, see
    /// [`Message::delay_level`](crate::Message::delay_level). They count for what is sent from now
    /// on: when a message is due is settled when it is stored. Open a store always with the same
    /// ones: where queues have to be made again, they say it anew.
    pub fn delay_levels(mut self, ms: &[i64]) -> Self {
        self.store.delay_levels_ms = ms.to_vec();
        self
    }

    /// Whether a topic is made when it is first sent to; yes.
    pub fn auto_create_topics(mut self, allowed: bool) -> Self {
        self.broker.auto_create_topic = allowed;
        self
    }

    /// Queues of a topic that is made by sending to it, 4. More than 8 only if it is made with
    /// [`Mq::create_topic`].
    pub fn new_topic_queues(mut self, queues: i32) -> Self {
        self.new_topic_queues = queues;
        self
    }

    /// Age in ms at which a transactional message that nobody settled is first asked about, 6 s,
    /// and how often one is, 15 times; then it goes to `TRANS_CHECK_MAX_TIME_TOPIC`. They are
    /// looked at every `interval_ms`, 60 s.
    pub fn transaction_checks(mut self, age_ms: i64, times: i32, interval_ms: i64) -> Self {
        self.broker.transaction_timeout_ms = age_ms;
        self.broker.transaction_check_max = times;
        self.broker.transaction_check_interval_ms = interval_ms;
        self
    }

    /// The name that clients know the broker by when the store is served to them, `broker-a`,
    /// and that of its cluster, `DefaultCluster`.
    pub fn name(mut self, broker: &str, cluster: &str) -> Self {
        (self.broker.name, self.broker.cluster) = (broker.to_owned(), cluster.to_owned());
        self
    }

    /// Another clock, for tests. With [`Builder::background`] off time passes when it is moved.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Whether threads do the work that is due; yes. Without them call [`Mq::step`]: nothing is
    /// flushed by itself, so [`Durable::wait`](crate::Durable::wait) flushes, and its future waits
    /// for a step.
    pub fn background(mut self, background: bool) -> Self {
        self.background = background;
        self
    }

    /// Opens the store in a folder, or makes one.
    ///
    /// # Errors
    /// [`Error::InUse`](crate::Error::InUse) if somebody has it open,
    /// [`Error::Store`](crate::Error::Store) for trouble with files. Damage is no error: what
    /// is intact is served, and [`Mq::recovery`] says what is not.
    pub fn open(mut self, path: impl AsRef<Path>) -> Result<Mq> {
        self.store.root = path.as_ref().to_owned();
        Mq::open_with(self.store, self.broker, self.clock, self.new_topic_queues, self.background)
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("store", &self.store).finish_non_exhaustive()
    }
}
