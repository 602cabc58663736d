//! What a RocketMQ broker means, without sockets: topics, groups, offsets, permissions, filters,
//! retry, delay, transactions. Rules only; each concern owns its file under `config/`.

pub mod admin;
pub mod consume;
pub mod delay;
pub mod filter;
pub mod groups;
pub mod lag;
pub mod locks;
pub mod modes;
pub mod names;
pub mod offsets;
pub mod persist;
pub mod send;
pub mod stats;
pub mod topics;
pub mod transaction;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::recover::SCHEDULE_TOPIC;
use crate::rest::Rest;
use crate::store::{MessageStore, OnArrival};
use delay::Delay;
use filter::data::Filters;
use groups::{GroupConfig, Groups};
use locks::QueueLocks;
use modes::Modes;
use offsets::Offsets;
use persist::ConfigFile;
use stats::Stats;
use topics::{TopicConfig, Topics, perm};
use transaction::{Check, Transactions};

/// Settings of a broker. Defaults are RocketMQ's.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// `brokerName`
    pub name: String,
    /// `brokerClusterName`
    pub cluster: String,
    /// Topics are made when first sent to (`autoCreateTopicEnable`).
    pub auto_create_topic: bool,
    /// A topic for message traces that is there from the start (`traceTopicEnable`,
    /// `msgTraceTopicName`).
    pub trace_topic: Option<String>,
    /// `regionId` and `traceOn`, written into messages: consumers trace by them.
    pub region: String,
    pub trace: bool,
    /// Groups are made when first seen (`autoCreateSubscriptionGroup`).
    pub auto_create_group: bool,
    /// Queues of a topic that is auto-created, at most (`defaultTopicQueueNums`).
    pub default_topic_queues: i32,
    /// Bits of [`topics::perm`] (`brokerPermission`).
    pub permission: i32,
    /// How often offsets are saved (`flushConsumerOffsetInterval`), ms.
    pub save_offsets_ms: i64,
    /// How often the progress of delays is saved (`flushDelayOffsetInterval`), ms.
    pub save_delays_ms: i64,
    /// Half messages are refused (`rejectTransactionMessage`).
    pub reject_transactions: bool,
    /// Age at which a half message is checked first (`transactionTimeOut`), ms.
    pub transaction_timeout_ms: i64,
    /// How often a half message is checked before it is given up (`transactionCheckMax`).
    pub transaction_check_max: i32,
    /// How often half messages are looked at (`transactionCheckInterval`), ms.
    pub transaction_check_interval_ms: i64,
    /// No message is taken before this time (`startAcceptSendRequestTimeStamp`), ms since 1970.
    pub takes_sends_from_ms: i64,
    /// The topics that are named like cluster and broker may be used (`clusterTopicEnable`,
    /// `brokerTopicEnable`).
    pub cluster_topic: bool,
    pub broker_topic: bool,
    /// SQL92 subscriptions of groups that left are kept for so long (`filterDataCleanTimeSpan`),
    /// ms.
    pub keep_filters_ms: i64,
    /// Bytes at the log's end that count as in memory (a share of the machine's memory:
    /// `accessMessageInMemoryMaxRatio`).
    pub in_memory: u64,
}

impl Default for BrokerConfig {
    fn default() -> BrokerConfig {
        BrokerConfig {
            name: "broker-a".into(),
            cluster: "DefaultCluster".into(),
            auto_create_topic: true,
            trace_topic: None,
            region: "DefaultRegion".into(),
            trace: true,
            auto_create_group: true,
            default_topic_queues: 8,
            permission: perm::READ | perm::WRITE,
            save_offsets_ms: 5_000,
            save_delays_ms: 10_000,
            reject_transactions: false,
            transaction_timeout_ms: 6_000,
            transaction_check_max: 15,
            transaction_check_interval_ms: 60_000,
            takes_sends_from_ms: 0,
            cluster_topic: true,
            broker_topic: true,
            keep_filters_ms: 24 * 3_600_000,
            in_memory: share_of_memory(40),
        }
    }
}

/// Bytes that so many percent of the machine's memory are.
pub fn share_of_memory(percent: u32) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next());
    let all = kib.and_then(|kib| kib.parse::<u64>().ok()).map_or(8 << 30, |kib| kib * 1024);
    all / 100 * u64::from(percent)
}

/// Why a broker does not do what it is asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error(
        "topic[{0}] not exist, apply first please! (mqadmin updateTopic makes it, or autoCreateTopicEnable=true)"
    )]
    NoTopic(String),
    #[error(
        "subscription group [{0}] does not exist (mqadmin updateSubGroup makes it, or autoCreateSubscriptionGroup=true)"
    )]
    NoGroup(String),
    #[error("{0}")]
    NoPermission(String),
    /// A name, queue or number that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// A message that breaks a rule.
    #[error("{0}")]
    Illegal(String),
    /// Something that was asked for is not there, or cannot be done.
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Store(#[from] Error),
}

/// A broker on a store. All methods take `&self` and may be called from any thread.
pub struct Broker {
    store: Arc<MessageStore>,
    config: RwLock<Arc<BrokerConfig>>,
    topics: Topics,
    groups: Groups,
    modes: Modes,
    offsets: Offsets,
    filters: Filters,
    locks: QueueLocks,
    delay: Delay,
    transactions: Transactions,
    stats: Stats,
    due: Mutex<Due>,
    saver: Arc<Rest>,
    on_topics_changed: OnceLock<Box<dyn Fn() + Send + Sync>>,
    on_check: OnceLock<Box<dyn Fn(Check) + Send + Sync>>,
    threads: Mutex<Vec<(&'static str, JoinHandle<()>)>>,
    running: AtomicBool,
    stopping: AtomicBool,
}

#[derive(Default)]
struct Due {
    /// When offsets and delays are saved next, ms.
    offsets: i64,
    delays: i64,
    /// Where the log ended when offsets were saved last.
    saved_at: u64,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Broker({} on {:?})", self.config().name, self.store)
    }
}

impl Broker {
    /// A broker on an open store. What is wrong with its config files is told in notes; it
    /// never keeps the broker from starting. `on_arrival` is told of every message.
    pub fn open(
        store: Arc<MessageStore>,
        config: BrokerConfig,
        on_arrival: OnArrival,
    ) -> (Arc<Broker>, Vec<String>) {
        let (fs, root) = (store.fs().clone(), store.config().root.clone());
        let mut notes = Vec::new();
        let broker = Arc::new(Broker {
            topics: Topics::open(&fs, &root, &mut notes),
            groups: Groups::open(&fs, &root, &mut notes),
            modes: Modes::open(&fs, &root, &mut notes),
            offsets: Offsets::open(&fs, &root, &mut notes),
            filters: Filters::open(&fs, &root, store.clock().now_ms(), &mut notes),
            delay: Delay::open(&fs, &root, &mut notes),
            transactions: Transactions::default(),
            locks: QueueLocks::open(&fs, &root, &mut notes),
            stats: Stats::new(store.clock().now_ms()),
            due: Mutex::default(),
            saver: Arc::default(),
            on_topics_changed: OnceLock::new(),
            on_check: OnceLock::new(),
            threads: Mutex::new(Vec::new()),
            running: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            store,
            config: RwLock::new(Arc::new(config)),
        });
        broker.files().into_iter().for_each(|file| file.saved_by(&broker.saver));
        broker.make_system_topics();
        broker.make_lost_topics(&mut notes);
        broker.move_lost_offsets(&mut notes);
        broker.find_delivered();
        if let Err(e) = broker.find_open_halves() {
            notes.push(format!("a message that was committed may be delivered again: {e}"));
        }
        let weak = Arc::downgrade(&broker);
        broker.store.on_arrival(Box::new(move |arrival| {
            if arrival.topic == SCHEDULE_TOPIC
                && let Some(broker) = weak.upgrade()
            {
                broker.delay.alarm.came(arrival.tags_code);
            }
            on_arrival(arrival);
        }));
        (broker, notes)
    }

    pub fn store(&self) -> &Arc<MessageStore> {
        &self.store
    }
    pub fn config(&self) -> Arc<BrokerConfig> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Goes on with other settings. Names stay what they were at the start.
    pub fn set_config(&self, config: BrokerConfig) {
        let old = self.config();
        let (name, cluster) = (old.name.clone(), old.cluster.clone());
        let config = BrokerConfig { name, cluster, ..config };
        let permission_changed = config.permission != old.permission;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        self.make_system_topics();
        if permission_changed {
            // Name servers take in topics of another version only.
            self.topics.next_version(self.now_ms());
            if let Some(changed) = self.on_topics_changed.get() {
                changed();
            }
        }
    }
    pub fn topics(&self) -> &Topics {
        &self.topics
    }
    pub fn groups(&self) -> &Groups {
        &self.groups
    }
    pub fn offsets(&self) -> &Offsets {
        &self.offsets
    }
    /// SQL92 subscriptions.
    pub fn filters(&self) -> &Filters {
        &self.filters
    }
    pub fn modes(&self) -> &Modes {
        &self.modes
    }
    pub fn locks(&self) -> &QueueLocks {
        &self.locks
    }
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
    /// ms since 1970.
    pub fn now_ms(&self) -> i64 {
        self.store.clock().now_ms()
    }

    /// Has `changed` called whenever a topic came, went or changed. Only the first call counts.
    pub fn on_topics_changed(&self, changed: Box<dyn Fn() + Send + Sync>) {
        let _ = self.on_topics_changed.set(changed);
    }

    /// Has `ask` ask producers of half messages. Only the first call counts.
    pub fn on_check(&self, ask: Box<dyn Fn(Check) + Send + Sync>) {
        let _ = self.on_check.set(ask);
    }

    fn put_topic(&self, config: TopicConfig) {
        if self.topics.put(config, self.now_ms())
            && let Some(changed) = self.on_topics_changed.get()
        {
            changed();
        }
    }

    fn make_system_topics(&self) {
        for topic in names::system_topics(&self.config()) {
            if self.topics.get(&topic.topic_name).is_none() {
                self.put_topic(topic);
            }
        }
        for group in names::SYSTEM_GROUPS {
            if self.groups.get(group).is_none() {
                self.groups.put(GroupConfig::new(group), self.now_ms());
            }
        }
    }

    /// Topics that have messages and no settings: a crash came before those were saved.
    fn make_lost_topics(&self, notes: &mut Vec<String>) {
        for topic in self.store.queues().topics() {
            let queues = self.store.queues().of_topic(&topic);
            let Some(last) = queues.iter().filter(|q| q.max_offset() > 0).map(|q| q.id()).max()
            else {
                continue;
            };
            if self.topics.get(&topic).is_none() && !topic.starts_with(names::LIGHT_PREFIX) {
                let queues = last.saturating_add(1).clamp(1, names::MAX_QUEUES);
                notes.push(format!(
                    "topic {topic} had messages and no settings; it has {queues} queues now"
                ));
                self.put_topic(TopicConfig::new(&*topic, queues));
            }
        }
    }

    /// Offsets beyond the end of their queue: a power cut took what had been consumed. New
    /// messages will take these places and must not be passed by.
    fn move_lost_offsets(&self, notes: &mut Vec<String>) {
        if self.store.was_closed() {
            return;
        }
        let known = notes.len();
        for (key, queues) in self.offsets.all().offset_table {
            let Some((topic, group)) = key.split_once('@') else { continue };
            for (queue_id, offset) in queues {
                let max = self.store.max_offset(topic, queue_id) as i64;
                if offset > max {
                    notes.push(format!(
                        "group {group} had consumed queue {queue_id} of {topic} up to {offset}, and it ends at {max}: moved there"
                    ));
                    self.offsets.commit(group, topic, queue_id, max);
                }
            }
        }
        // Before the queues grow: after another crash the old offsets might look right.
        if notes.len() > known
            && let Err(e) = self.offsets.save()
        {
            notes.push(e.to_string());
        }
    }

    // ---- background ----

    /// What [`Broker::save_step`] saves.
    fn files(&self) -> [&ConfigFile; 6] {
        [
            &self.topics.file,
            &self.groups.file,
            &self.filters.file,
            &self.locks.file,
            &self.offsets.file,
            &self.delay.file,
        ]
    }

    /// Saves what is due: topics and groups at once, offsets and delays at their intervals.
    pub fn save_step(&self) -> Result<()> {
        let now = self.now_ms();
        self.topics.save()?;
        self.groups.save()?;
        self.filters.save(now, self.config().keep_filters_ms)?;
        self.locks.expire_step(now);
        self.locks.save()?;
        self.stats.step(now);
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= due.offsets {
            due.offsets = now + self.config().save_offsets_ms;
            due.saved_at = self.store.log().end();
            let settled = self.commit_transaction_offsets();
            self.offsets.save().and(settled)?;
        }
        if now >= due.delays {
            due.delays = now + self.config().save_delays_ms;
            self.delay.save(&self.store)?;
        }
        Ok(())
    }

    /// Starts the threads that deliver delayed messages, check half messages and save the configuration. They end
    /// with [`Broker::close`]. The store's own are started too. A second call does nothing.
    pub fn run_background(self: &Arc<Self>) -> Result<()> {
        if self.running.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.store.run_background()?;
        let (alarm, clock) = (self.delay.alarm.clone(), self.store.clock().clone());
        let deliver = |broker: &Broker| match broker.deliver_step() {
            Ok(next) => next,
            Err(e) => {
                tracing::error!("delayed messages cannot be delivered yet: {e}");
                Some(broker.now_ms() + 1000)
            }
        };
        self.spawn("mq-delay", deliver, move |until| alarm.wait(until, || clock.now_ms()))?;
        let check = |broker: &Broker| {
            if let Err(e) = broker.check_due_step() {
                tracing::error!("half messages cannot be checked yet: {e}");
            }
            broker.pause_of_checks()
        };
        self.spawn("mq-transactions", check, std::thread::park_timeout)?;
        let save = |broker: &Broker| {
            if let Err(e) = broker.save_step() {
                tracing::error!("settings cannot be saved yet: {e}");
            }
            broker.pause_of_saving()
        };
        self.spawn("mq-save", save, std::thread::park_timeout)
    }

    /// A second, as long as there is something to save; else till the next samples of the
    /// statistics, unless something comes.
    fn pause_of_saving(&self) -> Duration {
        let is_saved = || self.files().into_iter().all(|file| !file.is_touched());
        let saved_at = self.due.lock().unwrap_or_else(PoisonError::into_inner).saved_at;
        if saved_at == self.store.log().end() && is_saved() {
            self.saver.lie_down();
            if is_saved() {
                return Duration::from_millis(stats::SAMPLE_MS.unsigned_abs());
            }
        }
        Duration::from_secs(1)
    }

    /// A thread that does a step and sleeps. While it sleeps it keeps no broker from being
    /// dropped.
    fn spawn<T>(
        self: &Arc<Self>,
        name: &'static str,
        step: impl Fn(&Broker) -> T + Send + 'static,
        sleep: impl Fn(T) + Send + 'static,
    ) -> Result<()> {
        let broker = Arc::downgrade(self);
        let run = move || {
            while let Some(broker) = broker.upgrade() {
                if broker.stopping.load(Ordering::Acquire) {
                    break;
                }
                let pause = step(&broker);
                drop(broker);
                sleep(pause);
            }
        };
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(run)
            .map_err(Error::io("start a thread for", &self.store.config().root))?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push((name, thread));
        Ok(())
    }

    fn wake(&self, name: &str) {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.iter().filter(|(n, _)| *n == name).for_each(|(_, thread)| thread.thread().unpark());
    }

    fn stop_background(&self) {
        self.stopping.store(true, Ordering::Release);
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        self.delay.alarm.wake();
        for (_, thread) in threads {
            thread.thread().unpark();
            // The thread itself may be the one that stops.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }

    /// Stops the background, saves everything and closes the store.
    pub fn close(&self) -> Result<()> {
        self.stop_background();
        *self.due.lock().unwrap_or_else(PoisonError::into_inner) = Due::default();
        let saved = self.save_step();
        self.store.close()?;
        saved
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop_background();
    }
}
