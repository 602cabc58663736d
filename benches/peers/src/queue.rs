//! What is measured: a queue in a folder, with what its library offers.

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What of a group of messages is safe when sending it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safe {
    /// It survives a power cut.
    PowerCut,
    /// It survives that the process is killed: the system has it, nothing is synced.
    Kill,
}

/// Messages a consumer takes at most at a time.
pub const TAKE: usize = 100;

pub trait Queue: Sync {
    /// What one thread sends with.
    fn sender(&self) -> Result<Box<dyn Sender + '_>>;
    /// What the one consumer takes with, from the first message on.
    fn consumer(&self) -> Result<Box<dyn Consumer + '_>>;
}

pub trait Sender {
    /// Sends messages together; they are as safe as was asked for when this returns.
    fn send(&mut self, bodies: &[Vec<u8>]) -> Result<()>;
}

pub trait Consumer {
    /// Shows the next messages in order, [`TAKE`] at most, and tells how many there were.
    fn take(&mut self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<usize>;
    /// Saves how far it came, without a sync.
    fn mark(&mut self) -> Result<()>;
}

pub type Open = fn(&Path, Safe) -> Result<Box<dyn Queue>>;

/// Wakes the consumer of a queue that has nothing of its own for that.
pub struct Bell {
    sent: AtomicU64,
    waits: AtomicBool,
    consumer: Thread,
}

impl Bell {
    /// For a consumer on the thread that calls.
    pub fn new() -> Bell {
        Bell {
            sent: AtomicU64::new(0),
            waits: AtomicBool::new(false),
            consumer: std::thread::current(),
        }
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    pub fn ring(&self, messages: u64) {
        self.sent.fetch_add(messages, Ordering::SeqCst);
        if self.waits.load(Ordering::SeqCst) && self.waits.swap(false, Ordering::SeqCst) {
            self.consumer.unpark();
        }
    }

    /// Returns when more was sent than was consumed, or all is over, or for no reason.
    pub fn wait(&self, consumed: u64, is_over: &dyn Fn() -> bool) {
        self.waits.store(true, Ordering::SeqCst);
        // A store that waits by itself may have taken the wake-up for the end.
        if self.sent() <= consumed && !is_over() {
            std::thread::park();
        }
        self.waits.store(false, Ordering::SeqCst);
    }
}
