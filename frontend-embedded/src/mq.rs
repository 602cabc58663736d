//! The open store.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use mq_store::broker::transaction::Check;
use mq_store::broker::{Broker, BrokerConfig};
use mq_store::config::StoreConfig;
use mq_store::os::clock::Clock;
use mq_store::os::fs::Fs;
use mq_store::store::{Arrival, MessageStore};

use crate::builder::Builder;
use crate::consumer::ConsumerBuilder;
use crate::error::{Error, Result};
use crate::group::Group;
use crate::message::MessageView;
use crate::producer::Producer;
use crate::transaction::{Checkers, Outcome, TransactionalProducer};
use crate::wait::Waits;

/// Where to read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Seek {
    /// The first message that is there.
    Begin,
    /// Behind the last one: what comes from now on.
    End,
    /// The first that was stored then or later, ms since 1970.
    Time(i64),
    /// This number in the queue.
    Offset(u64),
}

/// What everything that was made of an [`Mq`] shares.
pub(crate) struct Inner {
    pub broker: Arc<Broker>,
    pub waits: Arc<Waits>,
    pub groups: Mutex<HashMap<String, Arc<Group>>>,
    /// Counts changes of topics: groups share queues anew.
    pub topics_version: Arc<AtomicU64>,
    pub new_topic_queues: i32,
    pub closed: AtomicBool,
    pub checkers: Arc<Checkers>,
    #[cfg_attr(not(feature = "tcp"), expect(dead_code, reason = "for the TCP frontend"))]
    pub remote: Arc<Remote>,
    notes: Vec<String>,
}

/// A frontend that serves the open store to others, and wants to know what happens.
pub(crate) struct Frontend {
    pub arrived: Box<dyn Fn(&Arrival<'_>) + Send + Sync>,
    pub topics_changed: Box<dyn Fn() + Send + Sync>,
    pub check: Box<dyn Fn(Check) + Send + Sync>,
}

/// Where that frontend is, if there is one.
#[derive(Default)]
pub(crate) struct Remote {
    is_there: AtomicBool,
    frontend: RwLock<Option<Arc<Frontend>>>,
}

impl Remote {
    fn get(&self) -> Option<Arc<Frontend>> {
        if !self.is_there.load(Ordering::Acquire) {
            return None;
        }
        self.frontend.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the place, or leaves it empty.
    #[cfg(feature = "tcp")]
    pub fn set(&self, frontend: Option<Frontend>) {
        self.is_there.store(frontend.is_some(), Ordering::Release);
        *self.frontend.write().unwrap_or_else(PoisonError::into_inner) = frontend.map(Arc::new);
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.waits.wake_all();
        Ok(self.broker.close()?)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Who wants to know calls `close`; the next start makes up for it.
        let _ = self.close();
    }
}

/// An open store: topics, producers and consumer groups in a folder. Cloning it gives another
/// handle. When the last one is dropped, and all that was made of it, the store is closed.
///
/// ```
/// use std::time::Duration;
/// use mq_embedded::{Message, Mq};
///
/// # let dir = tempfile::tempdir()?;
/// let mq = Mq::open(dir.path())?;
/// mq.producer().send(&Message::new("Jobs", "first"))?;
///
/// let workers = mq.consumer("workers").subscribe("Jobs", "*").start()?;
/// for job in workers.poll(10, Duration::from_secs(1))? {
///     assert_eq!(job.body(), b"first");
///     job.ack();
/// }
/// mq.close()?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Mq(pub(crate) Arc<Inner>);

impl Mq {
    /// Opens the store in a folder, or makes one.
    ///
    /// # Errors
    /// As of [`Builder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Mq> {
        Builder::default().open(path)
    }

    /// Settings to open a store with.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn open_with(
        store: StoreConfig,
        config: BrokerConfig,
        clock: Arc<dyn Clock>,
        new_topic_queues: i32,
        background: bool,
    ) -> Result<Mq> {
        let (store, report) = MessageStore::open_with(store, Fs::default(), clock, &mut |_, _| {})?;
        let waits = Arc::new(Waits::default());
        let for_arrival = waits.clone();
        let remote = Arc::new(Remote::default());
        let (for_arrivals, for_topics, for_checks) =
            (remote.clone(), remote.clone(), remote.clone());
        let (broker, more) = Broker::open(
            Arc::new(store),
            config,
            Box::new(move |arrival| {
                for_arrival.arrived(arrival.topic, arrival.queue_id);
                if let Some(frontend) = for_arrivals.get() {
                    (frontend.arrived)(&arrival);
                }
            }),
        );
        let topics_version = Arc::new(AtomicU64::new(1));
        let (version, all) = (topics_version.clone(), waits.clone());
        broker.on_topics_changed(Box::new(move || {
            version.fetch_add(1, Ordering::AcqRel);
            all.wake_all();
            if let Some(frontend) = for_topics.get() {
                (frontend.topics_changed)();
            }
        }));
        let checkers = Arc::new(Checkers::default());
        let (asked, weak) = (checkers.clone(), Arc::downgrade(&broker));
        broker.on_check(Box::new(move |check| {
            let Some(broker) = weak.upgrade() else { return };
            if let Some(check) = asked.ask(&broker, check)
                && let Some(frontend) = for_checks.get()
            {
                (frontend.check)(check);
            }
        }));
        if background {
            broker.run_background()?;
        }
        let mut notes = report.notes;
        notes.extend(more);
        Ok(Mq(Arc::new(Inner {
            broker,
            waits,
            groups: Mutex::default(),
            topics_version,
            new_topic_queues,
            closed: AtomicBool::new(false),
            checkers,
            remote,
            notes,
        })))
    }

    /// What the start found and mended; nothing after a clean close.
    pub fn recovery(&self) -> &[String] {
        &self.0.notes
    }

    /// Ends all waiting with [`Error::Closed`], saves everything and gives the folder back.
    /// Later calls do nothing.
    ///
    /// # Errors
    /// [`Error::Store`] if something could not be written. The next start finds out what is
    /// there.
    pub fn close(&self) -> Result<()> {
        self.0.close()
    }

    /// A producer. Producers are cheap, and any thread may use one.
    pub fn producer(&self) -> Producer {
        Producer { mq: self.0.clone() }
    }

    /// A producer of transactional messages, as one producer group. `check` is asked about
    /// messages that were neither committed nor rolled back, on a thread of the store's: it
    /// should be quick.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that cannot be a group's.
    pub fn transactions(
        &self,
        group: &str,
        check: impl Fn(&MessageView) -> Outcome + Send + Sync + 'static,
    ) -> Result<TransactionalProducer> {
        TransactionalProducer::new(self.0.clone(), group, Arc::new(check))
    }

    /// Does all that is due, for those who opened with
    /// [`Builder::background(false)`](Builder::background): delivers delayed messages, asks about
    /// transactions, flushes, indexes, deletes old files, saves.
    ///
    /// # Errors
    /// What was in the way first. All else that is due is done nevertheless.
    pub fn step(&self) -> Result<()> {
        self.0.check_open()?;
        let (broker, store) = (&self.0.broker, self.0.broker.store());
        let index = || {
            while store.index_step()? {}
            store.check_index_step()
        };
        let steps = [
            broker.deliver_step().map(drop),
            broker.check_due_step(),
            store.flush_step(),
            index().map(drop),
            store.upkeep_step(),
            store.checkpoint_step(),
            broker.save_step(),
        ];
        Ok(steps.into_iter().collect::<mq_store::Result<()>>()?)
    }

    /// A member of a consumer group, to be set up and started.
    pub fn consumer(&self, group: &str) -> ConsumerBuilder {
        ConsumerBuilder::new(self.0.clone(), group)
    }
}

impl std::fmt::Debug for Mq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mq({:?})", self.0.broker)
    }
}
