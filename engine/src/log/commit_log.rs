//! Appending under one lock; reading by physical offset.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use crate::codec::record::{self, BLANK_LEN, Entry, Message, Placement, Record};
use crate::error::{Error, Limit, Result};
use crate::os::clock::Clock;
use crate::os::map::{Slice, Writer};
use crate::segment::{Chain, Segment};

/// Disk space is taken in steps of this many bytes.
const ALLOCATE_STEP: usize = 16 << 20;
/// Pages are made ready at least and at most this far ahead of the writer.
const AHEAD: std::ops::RangeInclusive<u64> = 8 << 20..=64 << 20;

/// Syncs that write more than this change extents of the file as well.
const SMALL_SYNC: u64 = 48 << 10;

/// A message with what can be computed before the append lock is taken.
#[derive(Clone, Copy, Debug)]
pub struct Prepared<'a> {
    message: Message<'a>,
    body_crc: u32,
    len: usize,
}

impl<'a> Prepared<'a> {
    pub fn new(message: Message<'a>, store_host: &SocketAddr) -> Prepared<'a> {
        Prepared {
            message,
            body_crc: record::body_crc(message.body),
            len: record::encoded_len(&message, store_host),
        }
    }
    /// Bytes of the record.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Never: a record has a head.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// Where a message, or the first of a batch, was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub physical_offset: u64,
    pub queue_offset: u64,
    /// ms since 1970.
    pub store_timestamp: i64,
    /// Physical offset behind the last byte written: durable once the log is flushed to here.
    pub end: u64,
}

/// The log's files and its two positions.
#[derive(Debug)]
pub struct CommitLog {
    chain: Chain,
    tail: parking_lot::Mutex<Tail>,
    /// Since when the tail is locked, ms; 0 while it is not.
    locked_at: AtomicI64,
    append_timeout: Duration,
    /// Behind the last record that readers may see.
    end: AtomicU64,
    flushed: AtomicU64,
    /// Whether somebody forces the log to the disk; who waits for that.
    flushing: Mutex<Flushing>,
    /// How many came since the last sync and wait for the next.
    waiting: AtomicUsize,
    flush_ended: Condvar,
    poison: OnceLock<String>,
    store_host: SocketAddr,
    ahead: Mutex<Ahead>,
}

/// What became of the last sync.
#[derive(Debug, Default)]
struct Flushing {
    /// One is under way.
    busy: bool,
    /// How many waited for the last one, and how long it took.
    crowd: usize,
    took: Duration,
    /// How many there were.
    count: u64,
}

/// How far pages are ready, and where the writer was then, after how many syncs.
#[derive(Debug, Default)]
struct Ahead {
    ready: u64,
    seen: u64,
    syncs: u64,
}

#[derive(Debug)]
struct Tail {
    writer: Option<Writer>,
    base: u64,
    /// Store times never go back, whatever the clock does: a start takes an older record behind damage
    /// for one of an earlier life.
    last_time: i64,
    /// Nothing more is written: the store is closed.
    sealed: bool,
}

/// The locked tail.
struct Locked<'a> {
    tail: MutexGuard<'a, Tail>,
    now_ms: i64,
    locked_at: &'a AtomicI64,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.locked_at.store(0, Ordering::Relaxed);
    }
}

impl CommitLog {
    /// The log of `chain`, whose last file is written on behind its published bytes.
    /// What is appended is stored no earlier than `last_time`, ms.
    pub fn new(
        chain: Chain,
        store_host: SocketAddr,
        last_time: i64,
        append_timeout: Duration,
    ) -> CommitLog {
        let last = chain.last();
        let end = last.as_ref().map_or(0, Segment::end);
        // Behind a full file the next one is made when there is something for it.
        let open = last.filter(|s| s.end() < s.limit());
        let tail = Tail {
            writer: open.as_ref().map(|s| s.file.writer()),
            base: open.map_or(end, |s| s.base),
            last_time,
            sealed: false,
        };
        CommitLog {
            chain,
            tail: parking_lot::Mutex::new(tail),
            locked_at: AtomicI64::new(0),
            append_timeout,
            end: AtomicU64::new(end),
            flushed: AtomicU64::new(end),
            flushing: Mutex::default(),
            waiting: AtomicUsize::new(0),
            flush_ended: Condvar::new(),
            poison: OnceLock::new(),
            store_host,
            ahead: Mutex::new(Ahead { ready: 0, seen: end, syncs: 0 }),
        }
    }

    pub fn chain(&self) -> &Chain {
        &self.chain
    }
    /// The address that records carry as their store host.
    pub fn store_host(&self) -> SocketAddr {
        self.store_host
    }
    /// Position of the first byte that is still there.
    pub fn min_offset(&self) -> u64 {
        self.chain.first().map_or(0, |s| s.base)
    }
    /// Position behind the last record.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }
    /// The same while no append is under way: who appends afterwards sees what the caller did
    /// before.
    pub fn end_at_rest(&self) -> u64 {
        let _tail = self.tail.lock();
        self.end()
    }
    /// Everything below is on the disk.
    pub fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Acquire)
    }
    /// Why nothing is written any more.
    pub fn poison(&self) -> Option<&str> {
        self.poison.get().map(String::as_str)
    }

    /// The tail, for an append that began at `began_ms`; refused while another append does not get on.
    fn lock(&self, began_ms: i64, clock: &dyn Clock) -> Result<Locked<'_>> {
        let locked = |tail, now_ms| {
            self.locked_at.store(now_ms, Ordering::Relaxed);
            Ok(Locked { tail, now_ms, locked_at: &self.locked_at })
        };
        if let Some(tail) = self.tail.try_lock() {
            return locked(tail, began_ms);
        }
        let most = self.append_timeout.as_millis() as i64;
        let since = self.locked_at.load(Ordering::Relaxed);
        if since > 0 {
            let held = clock.now_ms() - since;
            if held > most {
                return Err(Error::Busy(held.unsigned_abs()));
            }
        }
        let tail = self.tail.try_lock_for(self.append_timeout);
        let tail = tail.ok_or(Error::Busy(most.unsigned_abs()))?;
        locked(tail, clock.now_ms())
    }

    /// Appends messages of one queue, all or none, next to each other in one file.
    ///
    /// `next_queue_offset` is the queue's; it is read and moved on under the append lock, so
    /// that offsets have the order of positions. Messages of a type that is never dispatched
    /// get queue offset 0 and do not move it. The store time is `now_ms`, unless the append had to wait.
    ///
    /// # Errors
    /// [`Error::DiskFull`] and [`Error::Busy`] (nothing has changed), [`Error::Poisoned`],
    /// [`Limit::Record`].
    pub fn append(
        &self,
        batch: &[Prepared],
        next_queue_offset: &AtomicU64,
        now_ms: i64,
        clock: &dyn Clock,
    ) -> Result<Appended> {
        let total: usize = batch.iter().map(Prepared::len).sum();
        let max = self.chain.file_len().saturating_sub(BLANK_LEN);
        if total > max {
            return Err(Limit::Record { len: total, max }.into());
        }
        let mut locked = self.lock(now_ms, clock)?;
        let now_ms = locked.now_ms;
        let tail = &mut *locked.tail;
        if let Some(reason) = self.poison() {
            return Err(Error::Poisoned(reason.to_owned()));
        }
        if tail.sealed {
            return Err(Error::Closed);
        }
        if tail.writer.as_ref().is_none_or(|w| w.rest() < total + BLANK_LEN) {
            self.roll(tail)?;
        }
        let Tail { writer: Some(writer), base, last_time, .. } = tail else {
            unreachable!("rolling leaves a writer");
        };
        let store_timestamp = now_ms.max(*last_time);
        let physical_offset = *base + writer.position() as u64;
        let queue_offset = next_queue_offset.load(Ordering::Relaxed);
        let mut next = queue_offset;
        writer.write(total, ALLOCATE_STEP, |mut buf| {
            let mut at = physical_offset;
            for p in batch {
                let (this, rest) = buf.split_at_mut(p.len);
                buf = rest;
                let dispatched = is_dispatched(p.message.sys_flag);
                let place = Placement {
                    queue_offset: if dispatched { next } else { 0 },
                    physical_offset: at,
                    store_timestamp,
                    store_host: self.store_host,
                };
                record::encode(&p.message, &place, p.body_crc, this);
                at += p.len as u64;
                next += u64::from(dispatched);
            }
        })?;
        *last_time = store_timestamp;
        next_queue_offset.store(next, Ordering::Relaxed);
        let end = physical_offset + total as u64;
        self.end.store(end, Ordering::Release);
        let queue_offset = if next == queue_offset { 0 } else { queue_offset };
        Ok(Appended { physical_offset, queue_offset, store_timestamp, end })
    }

    /// Goes on to the next file. It is made before the blank goes into the old one: where there
    /// is no disk space for a file, the log stays as it is.
    fn roll(&self, tail: &mut Tail) -> Result<()> {
        let Some(old) = &mut tail.writer else {
            tail.writer = Some(self.chain.push(tail.base)?);
            return Ok(());
        };
        let base = tail.base + old.file().len() as u64;
        self.chain.prepare(base)?.file.allocate(BLANK_LEN)?;
        let rest = old.rest();
        if rest > 0 {
            old.write(rest, ALLOCATE_STEP, |buf| match rest {
                // A foreign writer left less than a blank takes.
                ..BLANK_LEN => buf.fill(0),
                _ => record::encode_blank(rest as u32, buf),
            })?;
        }
        tail.writer = Some(self.chain.push(base)?);
        tail.base = base;
        Ok(())
    }

    /// Background step: disk space and pages ahead of the writer, and the next file before the
    /// last one is full. The faster the writer, the further ahead. A full disk is not an error here but
    /// when a message needs the space. Returns the position at which to come again.
    ///
    /// With `for_sync`, for appends that wait for the disk, the file system is left little to do in each
    /// sync: pages are single ones, as a sync writes all of a large one for a few bytes in it; and, as
    /// long as syncs are small, they are written ahead, as a first write to allocated space changes the
    /// file's extents.
    pub fn prepare_ahead(&self, for_sync: bool) -> Result<u64> {
        let Some(last) = self.chain.last() else { return Ok(0) };
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let (end, len) = (last.end(), last.file.len() as u64);
        // Four times what was written since, when this was late or just in time.
        let written = end - ahead.seen.min(end);
        let by = (4 * written).clamp(*AHEAD.start(), *AHEAD.end()).min(len / 4);
        if for_sync
            && ahead.seen < last.base
            && let Some(full) = self.chain.find(last.base - 1)
        {
            full.file.touch_singly(false);
        }
        // Little is worth to be written twice.
        let syncs = self.flushing().count;
        let write_ahead = for_sync && written <= SMALL_SYNC * (syncs - ahead.syncs);
        (ahead.seen, ahead.syncs) = (end, syncs);
        let mut files = vec![last];
        if files[0].limit() - end < len / 4 {
            files.push(self.chain.prepare(files[0].limit())?);
        }
        let (from, to) = (ahead.ready.max(end), end + by);
        for file in files {
            let (from, to) = (from.max(file.base), to.min(file.limit()));
            let space = (to - file.base.min(to)) as usize;
            file.file.allocate(space.next_multiple_of(ALLOCATE_STEP) + ALLOCATE_STEP)?;
            if from >= to || to < file.limit() && to - from < by / 4 {
                continue;
            }
            let (start, end) = ((from - file.base) as usize, (to - file.base) as usize);
            if for_sync && ahead.ready <= file.base {
                file.file.touch_singly(true);
            }
            file.file.populate(start, end);
            ahead.ready = to;
            if write_ahead {
                file.file.sync_unpublished(start, end).map_err(|e| self.poisoned_by(&e))?;
            }
        }
        Ok(end + by / 4)
    }

    /// Forces what was written to the disk. A failure poisons the log: what the disk holds is
    /// not known then, and the page cache may have dropped what it could not write.
    pub fn flush(&self) -> Result<()> {
        match self.poison() {
            Some(reason) => Err(Error::Poisoned(reason.to_owned())),
            None => self.flush_to(self.end()),
        }
    }

    /// Forces what was written below `end` to the disk, and what else is there by then. One sync
    /// runs at a time; it serves all who came before it began.
    pub fn flush_to(&self, end: u64) -> Result<()> {
        let mut flushing = self.flushing();
        loop {
            if self.flushed() >= end {
                return Ok(());
            }
            if let Some(reason) = self.poison() {
                return Err(Error::Poisoned(reason.to_owned()));
            }
            if !flushing.busy {
                break;
            }
            self.waiting.fetch_add(1, Ordering::Relaxed);
            flushing = self.flush_ended.wait(flushing).unwrap_or_else(PoisonError::into_inner);
        }
        flushing.busy = true;
        let (crowd, most) = (flushing.crowd, flushing.took / 2);
        drop(flushing);
        // Who waited for the last sync is about to append again: one sync for all of them.
        let began = Instant::now();
        while self.waiting.load(Ordering::Relaxed) < crowd && began.elapsed() < most {
            std::thread::yield_now();
        }
        let began = Instant::now();
        let to = self.end();
        let synced = self.chain.sync(self.flushed(), to).map_err(|e| self.poisoned_by(&e));
        if synced.is_ok() {
            self.flushed.store(to, Ordering::Release);
        }
        let mut flushing = self.flushing();
        let crowd = self.waiting.swap(0, Ordering::Relaxed);
        let count = flushing.count + 1;
        *flushing = Flushing { busy: false, crowd, took: began.elapsed(), count };
        drop(flushing);
        self.flush_ended.notify_all();
        synced
    }

    fn flushing(&self) -> std::sync::MutexGuard<'_, Flushing> {
        self.flushing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poisoned_by(&self, e: &Error) -> Error {
        Error::Poisoned(self.poison.get_or_init(|| e.to_string()).clone())
    }

    /// Ends appending: later ones are refused with [`Error::Closed`].
    pub fn seal(&self) {
        self.tail.lock().sealed = true;
    }

    /// Refuses all further appends, for the reason given.
    pub fn refuse_appends(&self, reason: &str) {
        let _tail = self.tail.lock();
        let _ = self.poison.set(reason.to_owned());
    }

    /// The record that begins at `physical_offset`, with its bytes mapped for as long as they
    /// are held. `None` where no record begins.
    pub fn record_at(&self, physical_offset: u64) -> Option<Slice> {
        record_at(&self.chain, physical_offset)
    }

    fn decode_in<'s>(&self, segment: &'s Segment, at: u64) -> Option<Entry<'s>> {
        record::decode(segment.tail(at)).ok()
    }

    /// Store time of the record at `physical_offset`, ms.
    pub fn store_time(&self, physical_offset: u64) -> Option<i64> {
        self.with_record(physical_offset, |r| r.store_timestamp())
    }

    /// Shows the record at `physical_offset` to `look`.
    pub fn with_record<T>(
        &self,
        physical_offset: u64,
        look: impl FnOnce(Record<'_>) -> T,
    ) -> Option<T> {
        let segment = self.chain.find(physical_offset)?;
        match self.decode_in(&segment, physical_offset)? {
            Entry::Record(r) if r.check_place(physical_offset).is_ok() => Some(look(r)),
            _ => None,
        }
    }
}

/// The record that begins at `physical_offset` of a log made of `chain`.
pub fn record_at(chain: &Chain, physical_offset: u64) -> Option<Slice> {
    let segment = chain.find(physical_offset)?;
    let size = match record::decode(segment.tail(physical_offset)) {
        Ok(Entry::Record(r)) if r.check_place(physical_offset).is_ok() => r.size(),
        _ => return None,
    };
    segment.slice(physical_offset, size)
}

fn is_dispatched(sys_flag: i32) -> bool {
    matches!(sys_flag & record::sys_flag::TRANSACTION, 0 | record::sys_flag::COMMIT)
}
