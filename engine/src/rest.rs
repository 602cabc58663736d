//! Where background threads sleep while there is nothing to do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::Duration;

/// How long a thread pauses after a step.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    /// While there is work to come.
    pub busy: Duration,
    /// While nothing happens, unless it is woken; `None` if it has work of its own.
    pub idle: Option<Duration>,
}

impl Pause {
    /// The pause of a thread that has nothing to do by the calendar.
    pub fn until_woken(busy: Duration) -> Pause {
        Pause { busy, idle: Some(Duration::MAX) }
    }
    /// The same length whatever happens.
    pub fn always(busy: Duration) -> Pause {
        Pause { busy, idle: None }
    }
}

/// Threads that sleep until there is work.
#[derive(Debug, Default)]
pub struct Rest {
    somebody_rests: AtomicBool,
    threads: Mutex<Vec<Thread>>,
}

impl Rest {
    fn lock(&self) -> MutexGuard<'_, Vec<Thread>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all who rest. While nobody does, it costs one load.
    pub fn stir(&self) {
        if self.somebody_rests.load(Ordering::SeqCst)
            && self.somebody_rests.swap(false, Ordering::SeqCst)
        {
            self.lock().drain(..).for_each(|thread| thread.unpark());
        }
    }

    /// Has the thread that calls unparked by the next [`Rest::stir`]. It looks once more for work
    /// before it parks: some may have come before anybody could see that it rests.
    pub fn lie_down(&self) {
        let me = std::thread::current();
        let mut threads = self.lock();
        if threads.iter().all(|t| t.id() != me.id()) {
            threads.push(me);
        }
        self.somebody_rests.store(true, Ordering::SeqCst);
    }
}
