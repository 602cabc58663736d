//! Those who wait for messages: until one arrives in a queue of theirs.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

/// The queues that somebody waits for.
pub(crate) type Interest = Arc<[(Arc<str>, i32)]>;

struct Waiting {
    id: u64,
    /// Who waits: a group, or a reader.
    whose: u64,
    interest: Interest,
    waker: Waker,
}

/// All who wait. While nobody does, an arrival costs one load.
#[derive(Default)]
pub(crate) struct Waits {
    count: AtomicUsize,
    list: Mutex<Vec<Waiting>>,
    ids: AtomicU64,
}

impl Waits {
    fn lock(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that nobody else has.
    pub fn id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Has `waker` woken, once. The caller looks once more afterwards: what it waits for may
    /// have come just before.
    pub fn add(&self, whose: u64, interest: Interest, waker: Waker) -> u64 {
        let id = self.id();
        let mut list = self.lock();
        list.push(Waiting { id, whose, interest, waker });
        self.count.store(list.len(), Ordering::SeqCst);
        drop(list);
        fence(Ordering::SeqCst);
        id
    }

    /// Forgets one who waited.
    pub fn remove(&self, id: u64) {
        self.take(|w| w.id == id);
    }

    fn take(&self, is_meant: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let mut list = self.lock();
        let taken = list.extract_if(.., |w| is_meant(w)).collect();
        self.count.store(list.len(), Ordering::SeqCst);
        taken
    }

    fn wake(&self, is_meant: impl Fn(&Waiting) -> bool) {
        self.take(is_meant).into_iter().for_each(|w| w.waker.wake());
    }

    /// A message came. On the thread that dispatches.
    pub fn arrived(&self, topic: &str, queue_id: i32) {
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) > 0 {
            self.wake(|w| w.interest.iter().any(|(t, q)| *q == queue_id && **t == *topic));
        }
    }

    /// Something changed for a group or reader.
    pub fn wake_whose(&self, whose: u64) {
        if self.count.load(Ordering::SeqCst) > 0 {
            self.wake(|w| w.whose == whose);
        }
    }

    /// Something changed for all.
    pub fn wake_all(&self) {
        self.wake(|_| true);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A waker for the thread that calls.
pub(crate) fn this_thread() -> Waker {
    Waker::from(Arc::new(Unpark(std::thread::current())))
}

/// Parks until woken or `deadline`, whichever comes first; for ever without one. May also return
/// for no reason.
pub(crate) fn park_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => std::thread::park_timeout(at.saturating_duration_since(Instant::now())),
        None => std::thread::park(),
    }
}
