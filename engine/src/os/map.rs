//! Mapped files: the only unsafe code of the engine.
//!
//! A [`MappedFile`] has one [`Writer`] at most and any number of readers. The first
//! `published` bytes are for reading and never change any more; the bytes behind them belong to
//! the writer. As the two ranges never overlap, no byte is read while it is written.
//!
//! The file is mapped whole, once, and never gets shorter while it is mapped; disk space is
//! allocated before the writer gets to it. So no access can fault but for a disk that fails to
//! read, and what another process does to the file: the store's lock keeps other writers away.
//! Who looks at a store without the lock (the tools) may see bytes change under a broker that
//! writes; nothing that decodes relies on reading the same twice.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw, UncheckedAdvice};

use super::fs::{Call, Fs};
use crate::error::{Error, Result};

/// A file in memory, of fixed length.
pub struct MappedFile {
    raw: MmapRaw,
    path: PathBuf,
    /// Kept to allocate disk space; `None` if the file was opened for reading only.
    file: Option<File>,
    fs: Fs,
    /// Bytes from the start that readers may see. Only grows.
    published: AtomicUsize,
    has_writer: AtomicBool,
    /// Bytes from the start that have space on the disk. Only grows.
    allocated: AtomicUsize,
    /// Held while space is allocated. The writer looks at `allocated` first: it must not wait
    /// for a thread that allocates what it does not need yet.
    allocating: Mutex<()>,
}

impl MappedFile {
    /// Makes a file of `len` zeros. Its disk space is allocated as the writer advances.
    pub fn create(fs: &Fs, path: &Path, len: usize) -> Result<MappedFile> {
        let file = fs.create(path, len as u64)?;
        MappedFile::map(fs, path, file, len, 0, true)
    }

    /// Opens a file for writing behind its first `published` bytes.
    pub fn open(fs: &Fs, path: &Path, published: usize) -> Result<MappedFile> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(Error::io("open", path))?;
        let len = file_len(&file, path)?;
        MappedFile::map(fs, path, file, len, published.min(len), true)
    }

    /// Opens a file for reading only, all of it.
    pub fn open_read(path: &Path) -> Result<MappedFile> {
        MappedFile::open_read_first(path, usize::MAX)
    }

    /// Opens the first `max` bytes of a file for reading only.
    pub fn open_read_first(path: &Path, max: usize) -> Result<MappedFile> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let len = file_len(&file, path)?.min(max);
        MappedFile::map(&Fs::read_only(), path, file, len, len, false)
    }

    fn map(
        fs: &Fs,
        path: &Path,
        file: File,
        len: usize,
        published: usize,
        write: bool,
    ) -> Result<MappedFile> {
        if len == 0 {
            return Err(Error::Unusable {
                path: path.to_owned(),
                what: "the file is empty".into(),
            });
        }
        let mut options = MmapOptions::new();
        options.len(len);
        let raw = if write { options.map_raw(&file) } else { options.map_raw_read_only(&file) };
        let raw = raw.map_err(|e| {
            let hint = if e.raw_os_error() == Some(nix::libc::ENOMEM) {
                "map (too many mapped files? see vm.max_map_count)"
            } else {
                "map"
            };
            Error::io(hint, path)(e)
        })?;
        Ok(MappedFile {
            raw,
            path: path.to_owned(),
            file: write.then_some(file),
            fs: fs.clone(),
            published: AtomicUsize::new(published),
            has_writer: AtomicBool::new(!write),
            allocated: AtomicUsize::new(0),
            allocating: Mutex::new(()),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Never: an empty file cannot be mapped.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Bytes from the start that can be read.
    pub fn published(&self) -> usize {
        self.published.load(Ordering::Acquire)
    }

    /// The published bytes from `start` on.
    pub fn tail(&self, start: usize) -> &[u8] {
        self.bytes(start, self.published().saturating_sub(start)).unwrap_or_default()
    }

    /// `len` published bytes from `start`; `None` if not all of them are published.
    pub fn bytes(&self, start: usize, len: usize) -> Option<&[u8]> {
        if start.checked_add(len)? > self.published() {
            return None;
        }
        // SAFETY: `published` is at most the mapping's length, so the range is inside it and
        // initialised. It is never written again: a writer begins at `published` or behind
        // (see `Writer::write`), and `published` only grows. The Acquire load in `published()`
        // pairs with the Release store in `Writer::write`, so the bytes' writes happened
        // before. The borrow of `self` keeps the mapping.
        #[expect(unsafe_code, reason = "a view of published bytes; see SAFETY")]
        Some(unsafe { std::slice::from_raw_parts(self.raw.as_ptr().add(start), len) })
    }

    /// [`MappedFile::bytes`] that keep the file mapped for as long as they live.
    pub fn slice(self: &Arc<Self>, start: usize, len: usize) -> Option<Slice> {
        self.bytes(start, len)?;
        Some(Slice { file: self.clone(), start, len })
    }

    /// The one writer, which begins behind the published bytes.
    ///
    /// # Panics
    /// If the file has a writer already or was opened for reading.
    pub fn writer(self: &Arc<Self>) -> Writer {
        assert!(!self.has_writer.swap(true, Ordering::AcqRel), "a second writer of a file");
        Writer { file: self.clone() }
    }

    /// Makes sure that the first `end` bytes have space on the disk.
    pub fn allocate(&self, end: usize) -> Result<()> {
        let end = end.min(self.len());
        if end <= self.allocated.load(Ordering::Acquire) {
            return Ok(());
        }
        let _allocating = self.allocating.lock().unwrap_or_else(PoisonError::into_inner);
        let allocated = self.allocated.load(Ordering::Acquire);
        if end <= allocated {
            return Ok(());
        }
        let file = self.file.as_ref().ok_or(Error::Closed)?;
        // What is published has its space.
        let start = allocated.max(self.published() & !4095);
        let range = start as u64..end as u64;
        let len = (end - start) as nix::libc::off_t;
        self.fs.call("allocate space for", Call::Allocate(range), &self.path, || {
            Ok(nix::fcntl::posix_fallocate(file, start as nix::libc::off_t, len)?)
        })?;
        self.allocated.store(end, Ordering::Release);
        Ok(())
    }

    /// Brings the pages of a range into memory, ready for writing, so that the writer meets no
    /// page fault. Their disk space must be allocated. Only advice: failure is no matter.
    pub fn populate(&self, start: usize, end: usize) {
        let end = end.min(self.len());
        if start < end {
            let _ = self.raw.advise_range(Advice::PopulateWrite, start, end - start);
        }
    }

    /// Has the system bring in only the pages that are touched (`true`), or also those around them
    /// (`false`, as at first). Only advice.
    pub fn touch_singly(&self, singly: bool) {
        let _ = self.raw.advise(if singly { Advice::Random } else { Advice::Normal });
    }

    /// Gives the memory of the pages in a range back, as far as only this process keeps them: they
    /// come again from the page cache, or the disk, when they are looked at.
    pub fn release(&self, start: usize, end: usize) {
        let (start, end) = (start & !4095, end.min(self.len()));
        if start < end {
            let advice = UncheckedAdvice::DontNeed;
            // SAFETY: the mapping is shared and of a file, so what its pages hold, changed or not,
            // is in the page cache and the same when they are mapped again.
            #[expect(unsafe_code, reason = "unmapping pages of a file; see SAFETY")]
            let _ = unsafe { self.raw.unchecked_advise_range(advice, start, end - start) };
        }
    }

    /// Forces the published bytes from `start` to `end` to the disk.
    pub fn sync(&self, start: usize, end: usize) -> Result<()> {
        self.sync_unpublished(start, end.min(self.published()))
    }

    /// Forces bytes to the disk whatever they are. That of a writer's bytes promises nothing.
    pub fn sync_unpublished(&self, start: usize, end: usize) -> Result<()> {
        let end = end.min(self.len());
        if start >= end {
            return Ok(());
        }
        let range = start as u64..end as u64;
        self.fs.call("sync", Call::Sync(range), &self.path, || {
            self.raw.flush_range(start, end - start)
        })
    }
}

fn file_len(file: &File, path: &Path) -> Result<usize> {
    let len = file.metadata().map_err(Error::io("look at", path))?.len();
    usize::try_from(len).map_err(|_| Error::Unusable {
        path: path.to_owned(),
        what: format!("{len} bytes are more than this machine can map"),
    })
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedFile({}, {} of {})", self.path.display(), self.published(), self.len())
    }
}

/// The right to append to a [`MappedFile`].
#[derive(Debug)]
pub struct Writer {
    file: Arc<MappedFile>,
}

impl Writer {
    pub fn file(&self) -> &Arc<MappedFile> {
        &self.file
    }

    /// Where the next byte goes.
    pub fn position(&self) -> usize {
        self.file.published.load(Ordering::Relaxed)
    }

    /// Bytes left.
    pub fn rest(&self) -> usize {
        self.file.len() - self.position()
    }

    /// Has `fill` write the next `len` bytes and publishes them. The buffer holds whatever stood
    /// there before.
    ///
    /// # Errors
    /// No space on the disk: nothing has changed.
    ///
    /// # Panics
    /// If fewer than `len` bytes are left.
    pub fn write(&mut self, len: usize, step: usize, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        let start = self.position();
        let end = start + len;
        assert!(end <= self.file.len(), "a write of {len} bytes at {start} of {:?}", self.file);
        self.file.allocate_ahead(end, step)?;
        // SAFETY: the range is inside the mapping (asserted above), which is writable since only
        // `open` and `create` give out a writer. It lies behind `published`, so no reader has a
        // reference into it; `&mut self` of the only writer makes this the only reference. Any
        // byte pattern is a valid u8.
        #[expect(unsafe_code, reason = "the writer's exclusive range; see SAFETY")]
        let buf =
            unsafe { std::slice::from_raw_parts_mut(self.file.raw.as_mut_ptr().add(start), len) };
        fill(buf);
        self.file.published.store(end, Ordering::Release);
        Ok(())
    }
}

impl MappedFile {
    /// Allocates in steps, so that the disk is asked once for many writes.
    fn allocate_ahead(&self, end: usize, step: usize) -> Result<()> {
        if end <= self.allocated.load(Ordering::Acquire) {
            return Ok(());
        }
        self.allocate(end.next_multiple_of(step.max(1))).or_else(|e| match e {
            // The step may not fit where the bytes do.
            Error::DiskFull { .. } => self.allocate(end),
            other => Err(other),
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.file.has_writer.store(false, Ordering::Release);
    }
}

/// Published bytes of a file, which stays mapped for as long as they live. Cheap to clone.
#[derive(Clone)]
pub struct Slice {
    file: Arc<MappedFile>,
    start: usize,
    len: usize,
}

impl Deref for Slice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.file.bytes(self.start, self.len).expect("a slice is made of published bytes")
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slice({} bytes at {} of {})", self.len, self.start, self.file.path.display())
    }
}

/// A mapped file that is read and written anywhere, under a lock: an index file.
pub struct MappedTable {
    map: RwLock<MmapMut>,
    file: File,
    path: PathBuf,
    fs: Fs,
}

impl MappedTable {
    /// Makes a file of `len` zeros; what is written must be allocated first.
    pub fn create(fs: &Fs, path: &Path, len: usize) -> Result<MappedTable> {
        let file = fs.create(path, len as u64)?;
        MappedTable::map(fs, path, file)
    }

    /// Opens a file as long as it is.
    pub fn open(fs: &Fs, path: &Path) -> Result<MappedTable> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(Error::io("open", path))?;
        MappedTable::map(fs, path, file)
    }

    fn map(fs: &Fs, path: &Path, file: File) -> Result<MappedTable> {
        // SAFETY: the mapping is shared, so the file must not change under the references that
        // the lock gives out. Within this process the file is mapped here only, other writers
        // are kept away by the store's lock, and nobody makes it shorter.
        #[expect(unsafe_code, reason = "mapping a file; see SAFETY")]
        let map = unsafe { MmapMut::map_mut(&file) }.map_err(Error::io("map", path))?;
        Ok(MappedTable { map: RwLock::new(map), file, path: path.to_owned(), fs: fs.clone() })
    }

    /// Opens a file to look at: what is written stays in this process.
    pub fn open_read(path: &Path) -> Result<MappedTable> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let mut options = MmapOptions::new();
        // SAFETY: the mapping is private, and nothing here writes to it. A broker that has the
        // store open may change the file's pages; bytes are looked at as they are and believed
        // only as far as they make sense.
        #[expect(unsafe_code, reason = "mapping a file; see SAFETY")]
        let map = unsafe { options.no_reserve_swap().map_copy(&file) };
        let map = RwLock::new(map.map_err(Error::io("map", path))?);
        Ok(MappedTable { map, file, path: path.to_owned(), fs: Fs::read_only() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes sure that a range has space on the disk.
    pub fn allocate(&self, range: std::ops::Range<usize>) -> Result<()> {
        let (at, len) = (range.start as nix::libc::off_t, range.len() as nix::libc::off_t);
        let call = Call::Allocate(range.start as u64..range.end as u64);
        self.fs.call("allocate space for", call, &self.path, || {
            Ok(nix::fcntl::posix_fallocate(&self.file, at, len)?)
        })
    }

    /// Shows the bytes to `look`.
    pub fn read<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&self.map.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has `change` work on the bytes. Only allocated ones may be written.
    pub fn write<T>(&self, change: impl FnOnce(&mut [u8]) -> T) -> T {
        change(&mut self.map.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Forces the file to the disk.
    pub fn sync(&self) -> Result<()> {
        self.read(|map| {
            let call = Call::Sync(0..map.len() as u64);
            self.fs.call("sync", call, &self.path, || self.file.sync_all())
        })
    }
}

impl fmt::Debug for MappedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedTable({})", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(len: usize) -> (tempfile::TempDir, Arc<MappedFile>) {
        let dir = tempfile::tempdir().unwrap();
        let file = MappedFile::create(&Fs::default(), &dir.path().join("f"), len).unwrap();
        (dir, Arc::new(file))
    }

    #[test]
    fn readers_see_what_is_published() {
        let (_dir, file) = file(10_000);
        assert!(file.bytes(0, 1).is_none());
        let mut writer = file.writer();
        writer.write(5000, 4096, |b| b.fill(7)).unwrap();
        let slice = file.slice(4998, 2).unwrap();
        assert!(file.slice(4999, 2).is_none());
        assert!(file.bytes(usize::MAX, 2).is_none());
        writer.write(5000, 4096, |b| b.fill(8)).unwrap();
        assert_eq!((&slice[..], writer.rest()), (&[7, 7][..], 0));
        file.sync(0, 10_000).unwrap();
        file.release(0, 10_000);
        assert_eq!((file.bytes(4998, 1), file.bytes(9999, 1)), (Some(&[7][..]), Some(&[8][..])));
        drop((file, writer));
        assert_eq!(&slice[..], [7, 7], "the slice keeps the file mapped");
    }

    #[test]
    fn reopened_behind_the_end() {
        let (dir, first) = file(100);
        first.writer().write(10, 1, |b| b.fill(1)).unwrap();
        drop(first);
        let again = Arc::new(MappedFile::open(&Fs::default(), &dir.path().join("f"), 10).unwrap());
        again.writer().write(10, 1, |b| b.fill(2)).unwrap();
        assert_eq!(again.tail(8), [1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
        let read = MappedFile::open_read(&dir.path().join("f")).unwrap();
        assert_eq!(read.published(), 100);
    }

    #[test]
    #[should_panic(expected = "a second writer")]
    fn one_writer() {
        let (_dir, file) = file(10);
        let _one = file.writer();
        file.writer();
    }

    #[test]
    fn readers_race_a_writer() {
        let (_dir, file) = file(1 << 20);
        let mut writer = file.writer();
        std::thread::scope(|s| {
            s.spawn(|| {
                let mut seen = 0;
                while seen < 1 << 20 {
                    let tail = file.tail(seen);
                    assert!(tail.iter().all(|b| *b == 9));
                    seen += tail.len();
                }
            });
            for _ in 0..1 << 10 {
                writer.write(1 << 10, 1 << 16, |b| b.fill(9)).unwrap();
            }
        });
    }
}
