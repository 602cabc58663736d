//! One measurement: threads send, one consumer takes, everything is checked.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::queue::{Bell, Consumer, Open, Queue, Result, Safe};

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub body: usize,
    pub threads: usize,
    /// Messages that are sent together, and are safe together.
    pub group: usize,
    pub safe: Safe,
    /// Whether they are consumed meanwhile; else afterwards, off the clock.
    pub consume: bool,
    /// No more messages than this, and no more time.
    pub messages: u64,
    pub time: Duration,
}

/// How often a consumer saves how far it came.
const MARK: Duration = Duration::from_secs(5);

/// The body of a thread's message: both numbers, and words that depend on them.
fn fill(body: &mut [u8], thread: usize, number: u64) {
    let mut word = (thread as u64) << 48 | number;
    for bytes in body.chunks_exact_mut(8) {
        bytes.copy_from_slice(&word.to_le_bytes());
        word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
}

/// What each thread's next message is.
struct Expected {
    next: Vec<u64>,
    body: Vec<u8>,
}

impl Expected {
    fn new(load: &Load) -> Expected {
        Expected { next: vec![0; load.threads], body: vec![0; load.body] }
    }

    fn check(&mut self, body: &[u8]) -> Result<()> {
        let head = body.first_chunk().map_or(0, |head| u64::from_le_bytes(*head));
        let (thread, number) = ((head >> 48) as usize, head & 0xffff_ffff_ffff);
        let next = self.next.get_mut(thread).ok_or("a body of no sender's")?;
        if number != *next {
            return Err(format!("message {number} of sender {thread}, where {next} is due").into());
        }
        fill(&mut self.body, thread, number);
        if body != self.body {
            return Err(format!("message {number} of sender {thread} is damaged").into());
        }
        *next += 1;
        Ok(())
    }
}

fn send(queue: &dyn Queue, load: &Load, thread: usize, bell: &Bell, start: Instant) -> Result<u64> {
    let mut sender = queue.sender()?;
    let mut bodies = vec![vec![0; load.body]; load.group];
    let most = load.messages / load.threads as u64;
    let mut sent = 0;
    // The clock takes a tenth of what the quickest send takes.
    let mut over = false;
    while sent < most && !over {
        for (body, number) in bodies.iter_mut().zip(sent..) {
            fill(body, thread, number);
        }
        sender.send(&bodies)?;
        sent += load.group as u64;
        bell.ring(load.group as u64);
        if sent.is_multiple_of(8) || load.safe == Safe::PowerCut {
            over = start.elapsed() >= load.time;
        }
    }
    Ok(sent)
}

/// Takes until `is_over` and nothing is left. Returns how many.
fn consume(
    consumer: &mut dyn Consumer,
    expected: &mut Expected,
    bell: &Bell,
    is_over: &dyn Fn() -> bool,
) -> Result<u64> {
    let (mut consumed, mut marked) = (0, Instant::now());
    loop {
        let over = is_over();
        let taken = consumer.take(&mut |body| expected.check(body))?;
        consumed += taken as u64;
        if taken == 0 {
            if over && consumed >= bell.sent() {
                return Ok(consumed);
            }
            bell.wait(consumed, is_over);
        }
        if marked.elapsed() >= MARK {
            consumer.mark()?;
            marked = Instant::now();
        }
    }
}

/// Messages a second of a new queue in `dir`, which must not exist and is removed.
pub fn measure(open: Open, dir: &Path, load: &Load) -> Result<f64> {
    settle(dir)?;
    let queue = open(dir, load.safe)?;
    let queue = &*queue;
    let mut consumer = queue.consumer()?;
    let (mut expected, bell) = (Expected::new(load), Bell::new());
    let at_work = AtomicUsize::new(load.threads);
    let start = Instant::now();
    let (sent, consumed, took) = std::thread::scope(|scope| -> Result<_> {
        let main = std::thread::current();
        let senders: Vec<_> = (0..load.threads)
            .map(|thread| {
                let (bell, at_work, main) = (&bell, &at_work, main.clone());
                scope.spawn(move || {
                    let sent = send(queue, load, thread, bell, start);
                    at_work.fetch_sub(1, Ordering::SeqCst);
                    main.unpark();
                    sent
                })
            })
            .collect();
        let is_over = || at_work.load(Ordering::SeqCst) == 0;
        let mut consumed = 0;
        if load.consume {
            consumed = consume(&mut *consumer, &mut expected, &bell, &is_over)?;
        }
        let mut sent = Vec::new();
        for sender in senders {
            sent.push(sender.join().map_err(|_| "a sender panicked")??);
        }
        let took = start.elapsed();
        if !load.consume {
            consumed = consume(&mut *consumer, &mut expected, &bell, &|| true)?;
        }
        Ok((sent, consumed, took))
    })?;
    consumer.mark()?;
    if expected.next != sent {
        return Err(format!("sent {sent:?}, received {:?}", expected.next).into());
    }
    Ok(consumed as f64 / took.as_secs_f64())
}

/// A new folder, and no writing under way.
fn settle(dir: &Path) -> Result<()> {
    fs::create_dir(dir)?;
    if !Command::new("sync").arg("-f").arg(dir).status()?.success() {
        return Err("sync -f failed".into());
    }
    Ok(())
}

/// What the disk allows at most: writes of a group's bytes, each followed by a sync, over a file
/// that has its space already; in messages a second.
pub fn disk(dir: &Path, load: &Load) -> Result<f64> {
    const FILE: u64 = 64 << 20;
    settle(dir)?;
    let file = File::create_new(dir.join("file"))?;
    let bytes = vec![7; load.body * load.group];
    for at in (0..FILE).step_by(1 << 20) {
        file.write_all_at(&[0; 1 << 20], at)?;
    }
    file.sync_all()?;
    let (start, mut sent, mut at) = (Instant::now(), 0, 0);
    while sent < load.messages && start.elapsed() < load.time {
        file.write_all_at(&bytes, at)?;
        file.sync_data()?;
        sent += load.group as u64;
        at += bytes.len() as u64;
        if at + bytes.len() as u64 > FILE {
            at = 0;
        }
    }
    Ok(sent as f64 / start.elapsed().as_secs_f64())
}
