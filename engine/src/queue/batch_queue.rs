//! One batch queue (5.x): a unit for each record, which holds several messages and so takes several
//! offsets. It is written from the log when a store is opened, and only read from then on.
//!
//! A *place* is a unit's position in the queue's files, in bytes. Offsets count messages.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::consume_queue::{FOLDERS, cut_files, open_files, used_bytes};
use crate::codec::queue_unit::{BATCH_UNIT_LEN, BatchUnit};
use crate::error::Result;
use crate::os::fs::Fs;
use crate::os::map::Writer;
use crate::segment::{Chain, Segment};

const UNIT: u64 = BATCH_UNIT_LEN as u64;
/// Disk space is taken in steps of this many bytes.
const ALLOCATE_STEP: usize = 4096;

/// A batch queue's files and places.
#[derive(Debug)]
pub struct BatchQueue {
    topic: Arc<str>,
    id: i32,
    chain: Chain,
    writer: Mutex<Option<Writer>>,
    /// Place of the first unit whose record is still in the log.
    first: AtomicU64,
    /// Place behind the last unit.
    end: AtomicU64,
    flushed: AtomicU64,
}

impl BatchQueue {
    /// Opens what `dir` holds of a queue, which may be nothing. Units are believed up to the first that is
    /// none, in the last file. Files of a wrong length or place are put into `attic`.
    pub fn open(
        fs: &Fs,
        dir: &Path,
        topic: Arc<str>,
        id: i32,
        file_len: usize,
        attic: impl FnMut(&Path) -> Result<()>,
    ) -> Result<BatchQueue> {
        let files = open_files(fs, dir, file_len, used, attic)?;
        let chain = Chain::new(fs, dir, file_len, files).with_names_later(FOLDERS);
        Ok(BatchQueue::of(topic, id, chain))
    }

    /// A queue to look at, of files that were opened for reading.
    pub fn over(
        dir: &Path,
        topic: Arc<str>,
        id: i32,
        len: usize,
        files: Vec<Segment>,
    ) -> BatchQueue {
        let end = files.last().map_or(0, |s| s.base + used(s.tail(s.base)) as u64);
        let queue = BatchQueue::of(topic, id, Chain::new(&Fs::read_only(), dir, len, files));
        queue.end.store(end, Ordering::Relaxed);
        queue
    }

    fn of(topic: Arc<str>, id: i32, chain: Chain) -> BatchQueue {
        let (first, last) = (chain.first(), chain.last());
        BatchQueue {
            topic,
            id,
            writer: Mutex::new(last.as_ref().map(|s| s.file.writer())),
            first: AtomicU64::new(first.map_or(0, |s| s.base)),
            end: AtomicU64::new(last.map_or(0, |s| s.end())),
            flushed: AtomicU64::new(0),
            chain,
        }
    }

    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }
    pub fn id(&self) -> i32 {
        self.id
    }
    pub fn chain(&self) -> &Chain {
        &self.chain
    }
    /// Place behind the last unit.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    fn first(&self) -> u64 {
        self.first.load(Ordering::Acquire)
    }

    /// The unit at a place; `None` behind the last one and where a file is missing.
    pub fn at(&self, place: u64) -> Option<BatchUnit> {
        BatchUnit::decode(self.chain.find(place).filter(|_| place < self.end())?.tail(place))
    }

    /// Units from a place on, with their places; missing files are passed by.
    pub fn units_from(&self, place: u64) -> impl Iterator<Item = (u64, BatchUnit)> {
        let mut place = place;
        std::iter::from_fn(move || {
            while place < self.end() {
                let here = place;
                match self.at(here) {
                    Some(unit) => {
                        place += UNIT;
                        return Some((here, unit));
                    }
                    None if self.chain.find(here).is_some() => place += UNIT,
                    None => place = self.chain.find_after(here)?.base,
                }
            }
            None
        })
    }

    /// Its units, oldest first.
    pub fn units(&self) -> impl Iterator<Item = BatchUnit> {
        self.units_from(self.first()).map(|(_, unit)| unit)
    }

    /// Place of the first unit that `is_behind`; they are ordered by it. The end if none is.
    fn partition(&self, from: u64, is_behind: impl Fn(&BatchUnit) -> bool) -> u64 {
        let (mut low, mut high) = (from / UNIT, self.end() / UNIT);
        while low < high {
            let mid = low + (high - low) / 2;
            match self.units_from(mid * UNIT).next() {
                Some((place, unit)) if place < high * UNIT && !is_behind(&unit) => {
                    low = place / UNIT + 1;
                }
                _ => high = mid,
            }
        }
        low * UNIT
    }

    /// Units from the one on that holds the message of an offset; if none does, from the first behind it.
    pub fn units_holding(&self, offset: u64) -> impl Iterator<Item = BatchUnit> {
        let place = self.partition(self.first(), |unit| unit.end() > offset);
        self.units_from(place).map(|(_, unit)| unit)
    }

    /// The unit that holds the message of an offset.
    pub fn holding(&self, offset: u64) -> Option<BatchUnit> {
        self.units_holding(offset).next().filter(|unit| unit.base <= offset)
    }

    /// Place behind the last unit whose record is below a position of the log.
    pub fn behind(&self, position: u64) -> u64 {
        let from = self.chain.first().map_or(0, |s| s.base);
        self.partition(from, |batch| batch.unit.offset >= position)
    }

    /// The first unit of a record that was stored at a time (ms) or later.
    pub fn by_time(&self, timestamp: i64) -> Option<BatchUnit> {
        self.at(self.partition(self.first(), |unit| unit.store_timestamp >= timestamp))
    }

    /// First offset that can be read.
    pub fn min_offset(&self) -> u64 {
        self.units().next().map_or_else(|| self.max_offset(), |unit| unit.base)
    }

    /// Behind the last offset that can be read.
    pub fn max_offset(&self) -> u64 {
        self.last().map_or(0, |unit| unit.end())
    }

    /// The last unit.
    pub fn last(&self) -> Option<BatchUnit> {
        self.at(self.end().checked_sub(UNIT)?)
    }

    /// Appends a unit. Only while the store is being opened.
    pub fn put(&self, unit: &BatchUnit) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.as_ref().is_none_or(|w| w.rest() < BATCH_UNIT_LEN) {
            let base = self.chain.last().map_or(0, |s| s.limit());
            *writer = Some(self.chain.push(base)?);
            self.end.store(base, Ordering::Release);
        }
        let Some(writer) = &mut *writer else { return Ok(()) };
        writer.write(BATCH_UNIT_LEN, ALLOCATE_STEP, |buf| buf.copy_from_slice(&unit.encode()))?;
        self.end.fetch_add(UNIT, Ordering::AcqRel);
        Ok(())
    }

    /// Cuts the queue at a place. Only while the store is being opened. Returns the queue that goes on
    /// from there.
    pub fn cut(&self, fs: &Fs, place: u64) -> Result<BatchQueue> {
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let files = cut_files(fs, &self.chain, place)?;
        let chain = Chain::new(fs, self.chain.dir(), self.chain.file_len(), files);
        Ok(BatchQueue::of(self.topic.clone(), self.id, chain.with_names_later(FOLDERS)))
    }

    /// Moves the minimum to the first unit whose record the log, which begins at `log_min`, still has.
    pub fn raise_min(&self, log_min: u64) -> u64 {
        let first = self.behind(log_min);
        self.first.fetch_max(first, Ordering::AcqRel);
        first
    }

    /// [`BatchQueue::raise_min`], and removes files that hold only older units.
    pub fn follow_log(&self, log_min: u64) -> Result<()> {
        let first = self.raise_min(log_min);
        while self.chain.first().is_some_and(|s| s.limit() <= first) {
            if self.chain.drop_first()?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Forces units to the disk.
    pub fn flush(&self) -> Result<()> {
        let (from, to) = (self.flushed.load(Ordering::Acquire), self.end());
        if from < to {
            self.chain.sync(from, to)?;
            self.flushed.fetch_max(to, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Has the units below a place count as being on the disk.
    pub fn is_on_disk(&self, place: u64) {
        self.flushed.store(place, Ordering::Release);
    }
}

fn used(bytes: &[u8]) -> usize {
    used_bytes(bytes, BATCH_UNIT_LEN, |unit| BatchUnit::decode(unit).is_some())
}
