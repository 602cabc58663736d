//! One ConsumeQueue: unit `n` stands at byte `20 n` of a chain of files.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::codec::queue_unit::{UNIT_LEN, Unit};
use crate::codec::record::Record;
use crate::error::{Error, Result};
use crate::os::fs::{Fs, list_numbered};
use crate::os::map::{MappedFile, Writer};
use crate::segment::{Chain, Segment};

const UNIT: u64 = UNIT_LEN as u64;
/// Disk space is taken in steps that grow with the queue: thousands of queues with a few
/// messages each are cheap, and a busy one seldom has to ask.
const ALLOCATE_STEP: usize = 4096;
const MAX_ALLOCATE_STEP: usize = 1 << 20;
/// The queue's, the topic's and `consumequeue`; and the store's own, which names that.
pub(super) const FOLDERS: usize = 4;

/// A queue's files and offsets. Offsets count units.
#[derive(Debug)]
pub struct ConsumeQueue {
    topic: Arc<str>,
    id: i32,
    chain: Chain,
    writer: Mutex<Option<Writer>>,
    /// The offset the next appended message gets. Belongs to the log's append lock.
    next: AtomicU64,
    /// Behind the last unit.
    max: AtomicU64,
    /// First unit whose record is still in the log.
    min: AtomicU64,
    flushed: AtomicU64,
}

impl ConsumeQueue {
    /// Opens what `dir` holds of a queue, which may be nothing. Units are believed up to the
    /// first that is none, in the last file; `recover` compares them with the log. Files of a
    /// wrong length or place are put into `attic`.
    pub fn open(
        fs: &Fs,
        dir: &Path,
        topic: Arc<str>,
        id: i32,
        file_len: usize,
        attic: impl FnMut(&Path) -> Result<()>,
    ) -> Result<ConsumeQueue> {
        let files = open_files(fs, dir, file_len, used, attic)?;
        let min = files.first().map_or(0, |s| s.base / UNIT);
        let max = files.last().map_or(0, |s| s.end() / UNIT);
        let writer = files.last().map(|s| s.file.writer());
        writer.iter().for_each(|w| w.file().touch_singly(true));
        Ok(ConsumeQueue {
            topic,
            id,
            chain: Chain::new(fs, dir, file_len, files).with_names_later(FOLDERS),
            writer: Mutex::new(writer),
            next: AtomicU64::new(max),
            max: AtomicU64::new(max),
            min: AtomicU64::new(min),
            flushed: AtomicU64::new(0),
        })
    }

    /// A queue to look at, of files that were opened for reading.
    pub fn over(
        dir: &Path,
        topic: Arc<str>,
        id: i32,
        file_len: usize,
        files: Vec<Segment>,
    ) -> ConsumeQueue {
        let max = files.last().map_or(0, |s| (s.base + used(s.tail(s.base)) as u64) / UNIT);
        ConsumeQueue {
            topic,
            id,
            min: AtomicU64::new(files.first().map_or(0, |s| s.base / UNIT)),
            chain: Chain::new(&Fs::read_only(), dir, file_len, files),
            writer: Mutex::new(None),
            next: AtomicU64::new(max),
            max: AtomicU64::new(max),
            flushed: AtomicU64::new(max),
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
    /// Whether a record's unit belongs here; not if the queue was deleted.
    pub fn is_of(&self, record: &Record<'_>) -> bool {
        self.id == record.queue_id() && *self.topic == *record.topic() && !self.chain.is_removed()
    }
    /// The counter of offsets for [`crate::log::commit_log::CommitLog::append`].
    pub fn next(&self) -> &AtomicU64 {
        &self.next
    }
    /// First offset that can be read.
    pub fn min_offset(&self) -> u64 {
        self.min.load(Ordering::Acquire)
    }
    /// Behind the last offset that can be read.
    pub fn max_offset(&self) -> u64 {
        self.max.load(Ordering::Acquire)
    }

    fn writer(&self) -> std::sync::MutexGuard<'_, Option<Writer>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the unit of `offset`. One that is there already stays. Offsets that are left out
    /// get fillers, so that every offset keeps its place.
    pub fn put(&self, offset: u64, unit: &Unit) -> Result<()> {
        let mut writer = self.writer();
        let mut max = self.max_offset();
        if offset < max {
            return Ok(());
        }
        let in_file = (self.chain.file_len() / UNIT_LEN) as u64;
        let file_start = offset - offset % in_file;
        if writer.is_none() || file_start > max.next_multiple_of(in_file) {
            // The first file of a queue, or a leap over whole files.
            self.go_on_at(&mut writer, file_start * UNIT)?;
            if max == 0 {
                self.min.store(offset, Ordering::Release);
            }
            max = file_start;
        }
        while max < offset {
            self.append(&mut writer, &Unit::FILLER)?;
            max += 1;
        }
        self.append(&mut writer, unit)?;
        self.max.store(offset + 1, Ordering::Release);
        self.next.fetch_max(offset + 1, Ordering::Relaxed);
        Ok(())
    }

    fn go_on_at(&self, writer: &mut Option<Writer>, base: u64) -> Result<()> {
        let new = self.chain.push(base)?;
        // Pages around the one that is written hold nothing, in thousands of queues.
        new.file().touch_singly(true);
        if let Some(full) = writer.replace(new) {
            full.file().touch_singly(false);
        }
        Ok(())
    }

    fn append(&self, writer: &mut Option<Writer>, unit: &Unit) -> Result<()> {
        if writer.as_ref().is_none_or(|w| w.rest() < UNIT_LEN) {
            let base = self.chain.last().map_or(0, |s| s.limit());
            self.go_on_at(writer, base)?;
        }
        let Some(writer) = writer else { return Ok(()) };
        let step = writer.position().next_power_of_two().clamp(ALLOCATE_STEP, MAX_ALLOCATE_STEP);
        writer.write(UNIT_LEN, step, |buf| buf.copy_from_slice(&unit.encode()))
    }

    /// The unit at `offset`; `None` outside the queue and where a file is missing.
    pub fn get(&self, offset: u64) -> Option<Unit> {
        if offset >= self.max_offset() {
            return None;
        }
        let at = offset.checked_mul(UNIT)?;
        Unit::decode(self.chain.find(at)?.tail(at))
    }

    /// Whether there is nothing at `offset` though its file is there: a unit was lost. Offsets that
    /// were left out have fillers, or no file.
    pub fn is_lost(&self, offset: u64) -> bool {
        let at = offset.saturating_mul(UNIT);
        offset < self.max_offset()
            && self.chain.find(at).is_some_and(|segment| Unit::decode(segment.tail(at)).is_none())
    }

    /// Shows the units from `from` on, with their offsets, until `visit` returns false.
    /// Returns the offset behind the last one shown; where files are missing, and over fillers,
    /// it goes on to what comes next.
    pub fn for_each(&self, from: u64, mut visit: impl FnMut(u64, Unit) -> bool) -> u64 {
        let max = self.max_offset();
        let mut offset = from;
        while offset < max {
            let at = offset * UNIT;
            let Some(segment) = self.chain.find(at) else {
                offset = self.chain.find_after(at).map_or(max, |s| s.base / UNIT);
                continue;
            };
            let (from_here, end) = (offset, max.min(segment.limit() / UNIT));
            for bytes in
                segment.tail(at).chunks_exact(UNIT_LEN).take(end.saturating_sub(offset) as usize)
            {
                if let Some(unit) = Unit::decode(bytes).filter(|u| !u.is_filler())
                    && !visit(offset, unit)
                {
                    return offset;
                }
                offset += 1;
            }
            // A file whose length was damaged may end within a unit.
            offset = end.max(from_here + 1);
        }
        offset
    }

    /// The first unit from `offset` on that is not a filler, with its offset.
    pub fn next_unit(&self, offset: u64) -> Option<(u64, Unit)> {
        let mut found = None;
        self.for_each(offset, |n, unit| {
            found = Some((n, unit));
            false
        });
        found
    }

    /// Whether records behind the last unit make it the end of what the log holds of this
    /// queue: the last unit, fillers left out.
    pub fn last_unit(&self) -> Option<Unit> {
        (self.min_offset()..self.max_offset())
            .rev()
            .find_map(|n| self.get(n).filter(|u| !u.is_filler()))
    }

    /// The first offset whose unit `is_behind`; they are ordered by it. `max` if none is.
    pub fn partition(&self, is_behind: impl Fn(&Unit) -> bool) -> u64 {
        let (mut low, mut high) = (self.min_offset(), self.max_offset());
        while low < high {
            let mid = low + (high - low) / 2;
            match self.next_unit(mid) {
                Some((n, unit)) if n < high && !is_behind(&unit) => low = n + 1,
                _ => high = mid,
            }
        }
        self.next_unit(low).map_or(low, |(n, _)| n)
    }

    /// The offset behind the last unit whose record is below `position`; 0 if there is none.
    pub fn behind(&self, position: u64) -> u64 {
        let (first, max) = (self.chain.first().map_or(0, |s| s.base / UNIT), self.max_offset());
        let is_below = |unit: &Unit| unit.offset < position;
        if max > 0 && self.get(max - 1).is_some_and(|unit| !unit.is_filler() && is_below(&unit)) {
            return max;
        }
        let (mut low, mut high, mut found) = (first, max, 0);
        while low < high {
            let mid = low + (high - low) / 2;
            match self.next_unit(mid) {
                Some((n, unit)) if n < high && is_below(&unit) => (low, found) = (n + 1, n + 1),
                _ => high = mid,
            }
        }
        found
    }

    /// Has the units below `offset` count as being on the disk.
    pub fn is_on_disk(&self, offset: u64) {
        self.flushed.store(offset, Ordering::Release);
    }

    /// Moves the minimum to the first unit whose record the log, which begins at
    /// `log_min`, still has.
    pub fn raise_min(&self, log_min: u64) -> u64 {
        let min = self.partition(|unit| unit.offset >= log_min);
        self.min.fetch_max(min, Ordering::AcqRel);
        min
    }

    /// [`ConsumeQueue::raise_min`], and removes files that hold only older units.
    pub fn follow_log(&self, log_min: u64) -> Result<()> {
        let in_file = (self.chain.file_len() / UNIT_LEN) as u64;
        let min = self.raise_min(log_min);
        while self.chain.first().is_some_and(|s| s.base / UNIT + in_file <= min) {
            if self.chain.drop_first()?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Whether the unit at `offset`, which points at `record`, stands in for a lost one: the record
    /// has another place in the queue.
    pub fn is_stand_in(&self, offset: u64, record: &Record<'_>) -> bool {
        let of_record = record.queue_offset().unsigned_abs();
        let at = record.physical_offset().unsigned_abs();
        of_record != offset
            && self.get(of_record).is_some_and(|unit| unit.offset == at && !unit.is_filler())
    }

    /// Cuts the queue at `offset`: the units from there on are to be written anew. Only while
    /// the store is being opened, when nobody reads. Returns the queue that goes on from there.
    pub fn cut(&self, fs: &Fs, offset: u64) -> Result<ConsumeQueue> {
        *self.writer() = None;
        let files = cut_files(fs, &self.chain, offset * UNIT)?;
        let max = files.last().map_or(0, |s| s.end() / UNIT);
        Ok(ConsumeQueue {
            topic: self.topic.clone(),
            id: self.id,
            writer: Mutex::new(files.last().map(|s| s.file.writer())),
            chain: Chain::new(fs, self.chain.dir(), self.chain.file_len(), files)
                .with_names_later(FOLDERS),
            next: AtomicU64::new(max),
            max: AtomicU64::new(max),
            min: AtomicU64::new(self.min_offset().min(max)),
            flushed: AtomicU64::new(0),
        })
    }

    /// Zeros what stands behind the last unit. Only while the store is being opened. Returns whether
    /// anything did.
    pub fn clear_behind(&self, fs: &Fs) -> Result<bool> {
        let Some(last) = self.chain.last() else { return Ok(false) };
        clear_behind(fs, last.file.path(), last.file.published() as u64)
    }

    /// Forces units to the disk if at least `least` wait.
    pub fn flush(&self, least: u64) -> Result<()> {
        let (from, to) = (self.flushed.load(Ordering::Acquire), self.max_offset());
        if from < to && to - from >= least {
            self.chain.sync(from * UNIT, to * UNIT)?;
            self.flushed.fetch_max(to, Ordering::AcqRel);
        }
        Ok(())
    }
}

/// The files of a queue, the last one writable behind its units; `used` tells how much of a file holds
/// units. Files of a wrong length or place are put into `attic`.
pub(super) fn open_files(
    fs: &Fs,
    dir: &Path,
    file_len: usize,
    used: impl Fn(&[u8]) -> usize,
    mut attic: impl FnMut(&Path) -> Result<()>,
) -> Result<Vec<Segment>> {
    let mut files: Vec<Segment> = Vec::new();
    for (base, path) in list_numbered(dir)?.0 {
        let len = path.metadata().map_or(0, |m| m.len());
        if len != file_len as u64 || base % len != 0 {
            attic(&path)?;
            continue;
        }
        files.push(Segment { base, file: Arc::new(MappedFile::open(fs, &path, file_len)?) });
    }
    if let Some(last) = files.pop() {
        let file = MappedFile::open(fs, last.file.path(), used(last.tail(last.base)))?;
        files.push(Segment { base: last.base, file: Arc::new(file) });
    }
    Ok(files)
}

/// Cuts a queue's files at a position in them. Returns those that are left.
pub(super) fn cut_files(fs: &Fs, chain: &Chain, at: u64) -> Result<Vec<Segment>> {
    let (mut files, all) = (Vec::new(), chain.all());
    for segment in &all {
        if segment.base >= at && segment.base > 0 {
            fs.remove(segment.file.path())?;
            continue;
        }
        let keep = (at - segment.base).min(segment.file.published() as u64);
        let path = segment.file.path().to_owned();
        clear_behind(fs, &path, keep)?;
        let file = Arc::new(MappedFile::open(fs, &path, keep as usize)?);
        files.push(Segment { base: segment.base, file });
    }
    if files.len() < all.len() {
        // What was removed must not come back with a power cut.
        fs.sync_dir(chain.dir())?;
    }
    Ok(files)
}

/// Zeros what stands in a file from `keep` on: it would read as units when the file is opened again.
fn clear_behind(fs: &Fs, path: &Path, keep: u64) -> Result<bool> {
    let len = fs.data_end(path)?.saturating_sub(keep);
    let mut behind = vec![0; len as usize];
    let file = std::fs::File::open(path);
    file.and_then(|file| file.read_exact_at(&mut behind, keep)).map_err(Error::io("read", path))?;
    let Some(last) = behind.iter().rposition(|b| *b != 0) else { return Ok(false) };
    fs.overwrite(path, keep, &vec![0; last + 1])?;
    Ok(true)
}

fn used(bytes: &[u8]) -> usize {
    used_bytes(bytes, UNIT_LEN, |unit| Unit::decode(unit).is_some())
}

/// Bytes up to the first place that holds no unit.
pub(super) fn used_bytes(bytes: &[u8], len: usize, is_unit: impl Fn(&[u8]) -> bool) -> usize {
    // Units are written one behind the other, so what follows the first empty place is empty
    // too, but for what a power cut may have left; that is beyond what can be counted on.
    let (mut low, mut high) = (0, bytes.len() / len);
    while low < high {
        let mid = low + (high - low) / 2;
        if is_unit(&bytes[mid * len..]) { low = mid + 1 } else { high = mid }
    }
    low * len
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> ConsumeQueue {
        ConsumeQueue::open(&Fs::default(), dir, "T".into(), 0, 200, |p| {
            panic!("{} into the attic", p.display())
        })
        .unwrap()
    }

    fn unit(n: u64) -> Unit {
        Unit { offset: n * 100, size: 100, tags_code: n as i64 }
    }

    #[test]
    fn units_over_several_files() {
        let dir = tempfile::tempdir().unwrap();
        let q = open(dir.path());
        for n in 0..25 {
            q.put(n, &unit(n)).unwrap();
            q.put(n, &unit(99)).unwrap();
        }
        for q in [q, open(dir.path())] {
            assert_eq!((q.min_offset(), q.max_offset()), (0, 25));
            assert_eq!(q.get(24), Some(unit(24)));
            assert_eq!((q.get(25), q.get(u64::MAX)), (None, None));
            assert_eq!(q.partition(|u| u.offset >= 1150), 12);
            assert_eq!(q.partition(|u| u.offset >= 9999), 25);
            let mut seen = Vec::new();
            assert_eq!(
                q.for_each(8, |n, _| {
                    seen.push(n);
                    n < 12
                }),
                12
            );
            assert_eq!(seen, [8, 9, 10, 11, 12]);
        }
    }

    #[test]
    fn the_first_offset_may_be_late_and_some_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let q = open(dir.path());
        q.put(13, &unit(13)).unwrap();
        assert_eq!((q.min_offset(), q.max_offset()), (13, 14));
        q.put(16, &unit(16)).unwrap();
        q.put(1 << 40, &unit(1 << 40)).unwrap();
        assert_eq!(q.next_unit(14), Some((16, unit(16))));
        assert_eq!(q.next_unit(17).unwrap().0, 1 << 40);
        assert_eq!(q.partition(|u| u.offset >= 1400), 16);
        assert!(std::fs::read_dir(dir.path()).unwrap().count() <= 3);
    }

    #[test]
    fn follows_the_log_and_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let q = open(dir.path());
        for n in 0..25 {
            q.put(n, &unit(n)).unwrap();
        }
        q.follow_log(1150).unwrap();
        assert_eq!((q.min_offset(), q.chain.first().unwrap().base), (12, 200));
        let q = q.cut(&Fs::default(), 15).unwrap();
        assert_eq!((q.min_offset(), q.max_offset(), q.get(15)), (12, 15, None));
        q.put(15, &unit(77)).unwrap();
        drop(q);
        let q = open(dir.path());
        assert_eq!((q.max_offset(), q.get(15)), (16, Some(unit(77))));
    }
}
