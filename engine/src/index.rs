//! IndexFiles: from topic and key to physical offsets. Layout: [`crate::codec::index`].
//!
//! An index is derived from the log: what is missing or doubtful is made again from it. It keeps
//! only hashes, so a query gives records of keys with the same hash too; who asks looks at the
//! records.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::codec::ids::{index_hash, tag_index_hash};
use crate::codec::index::{HEADER_LEN, Header, ITEM_LEN, Item, Shape};
use crate::codec::properties;
use crate::codec::record::{Record, sys_flag};
use crate::error::{Error, Result};
use crate::os::fs::Fs;
use crate::os::map::MappedTable;

/// Disk space for items is taken in steps of this many bytes.
const ALLOCATE_STEP: usize = 1 << 20;

/// One file.
#[derive(Debug)]
pub struct IndexFile {
    table: MappedTable,
    shape: Shape,
    allocated: Mutex<usize>,
}

impl IndexFile {
    fn create(fs: &Fs, path: &Path, shape: Shape) -> Result<IndexFile> {
        let table = MappedTable::create(fs, path, shape.file_len())?;
        let head = shape.item_at(1);
        if let Err(e) = table.allocate(0..head) {
            // Without its slots the file is of no use, and would be in the way.
            fs.remove(path)?;
            return Err(e);
        }
        table.write(|b| {
            let header = Header { count: 1, ..Header::default() };
            b[..HEADER_LEN].copy_from_slice(&header.encode());
        });
        Ok(IndexFile { table, shape, allocated: Mutex::new(head) })
    }

    /// Opens a file; `None` if its header cannot be true. The shape is `configured` if that
    /// has the file's length, else the one of the defaults' proportions.
    pub fn open(fs: &Fs, path: &Path, configured: Shape) -> Result<Option<IndexFile>> {
        let len = path.metadata().map_err(Error::io("look at", path))?.len();
        let shape = if len == configured.file_len() as u64 {
            Some(configured)
        } else {
            Shape::of_file_len(len)
        };
        let Some(shape) = shape else { return Ok(None) };
        Ok(IndexFile::over(MappedTable::open(fs, path)?, shape))
    }

    /// Opens a file to look at; `None` if its header cannot be true.
    pub fn open_read(path: &Path) -> Result<Option<IndexFile>> {
        let table = MappedTable::open_read(path)?;
        let shape = table.read(Shape::of_file);
        Ok(shape.and_then(|shape| IndexFile::over(table, shape)))
    }

    fn over(table: MappedTable, shape: Shape) -> Option<IndexFile> {
        let file = IndexFile { table, shape, allocated: Mutex::new(shape.item_at(1)) };
        let header = file.header();
        let sound = (1..=shape.items as i32).contains(&header.count)
            && header.begin_offset >= 0
            && header.begin_offset <= header.end_offset;
        sound.then_some(file)
    }

    pub fn path(&self) -> &Path {
        self.table.path()
    }
    pub fn shape(&self) -> Shape {
        self.shape
    }
    pub fn header(&self) -> Header {
        self.table.read(Header::decode).unwrap_or_default()
    }

    /// Item `n`; `None` if there is none of that number.
    pub fn item(&self, n: i32) -> Option<Item> {
        let n = u32::try_from(n).ok().filter(|n| *n > 0 && *n < self.shape.items)?;
        self.table.read(|b| Item::decode(b.get(self.shape.item_at(n)..)?))
    }

    /// Number of the newest item of slot `n`; 0 for none.
    pub fn slot(&self, n: u32) -> i32 {
        let at = self.shape.slot_at(n);
        self.table
            .read(|b| b.get(at..at + 4).map_or(0, |s| i32::from_be_bytes([s[0], s[1], s[2], s[3]])))
    }

    fn is_full(&self) -> bool {
        self.header().count >= self.shape.items as i32
    }

    /// Adds as many of `keys` as there is room for, and says how many. The header comes last:
    /// what it does not count is not there yet.
    fn put_all(&self, keys: &[Key]) -> Result<usize> {
        let mut header = self.header();
        let room = usize::try_from(self.shape.items as i32 - header.count).unwrap_or(0);
        let keys = &keys[..keys.len().min(room)];
        let [first, ..] = keys else { return Ok(0) };
        self.allocate(self.shape.item_at(header.count as u32 + keys.len() as u32))?;
        if header.count == 1 {
            header.begin_offset = first.offset;
            header.begin_time = first.store_time;
        }
        let slot_at = |key: &Key| self.shape.slot_at(key.hash as u32 % self.shape.slots);
        self.table.write(|b| {
            for few in keys.chunks(64) {
                // Slots lie far apart. Looked at together, they come from memory together.
                let touched = few.iter().fold(0, |sum, key| sum ^ b[slot_at(key)]);
                std::hint::black_box(touched);
                for key in few {
                    let slot = &mut b[slot_at(key)..][..4];
                    let newest = i32::from_be_bytes([slot[0], slot[1], slot[2], slot[3]]);
                    let previous = if newest > 0 && newest < header.count { newest } else { 0 };
                    slot.copy_from_slice(&header.count.to_be_bytes());
                    let seconds = key.store_time.saturating_sub(header.begin_time).max(0) / 1000;
                    let seconds = i32::try_from(seconds).unwrap_or(i32::MAX);
                    let item = Item { hash: key.hash, offset: key.offset, seconds, previous };
                    let item_at = self.shape.item_at(header.count as u32);
                    b[item_at..item_at + ITEM_LEN].copy_from_slice(&item.encode());
                    header.used_slots += i32::from(previous == 0);
                    header.count += 1;
                    header.end_offset = key.offset;
                    header.end_time = key.store_time;
                }
            }
            b[..HEADER_LEN].copy_from_slice(&header.encode());
        });
        Ok(keys.len())
    }

    fn allocate(&self, end: usize) -> Result<()> {
        let mut allocated = self.allocated.lock().unwrap_or_else(PoisonError::into_inner);
        if end > *allocated {
            let to = (end + ALLOCATE_STEP).min(self.shape.file_len());
            self.table.allocate(*allocated..to)?;
            *allocated = to;
        }
        Ok(())
    }

    /// Whether the file is as one writer leaves it: offsets in order, each item behind the newest of
    /// its slot, each slot at its newest item. Looks at every item.
    pub fn is_consistent(&self) -> bool {
        let (header, slots) = (self.header(), self.shape.slots);
        let mut newest = vec![0; slots as usize];
        let mut offset = header.begin_offset;
        for n in 1..header.count {
            let Some(item) = self.item(n) else { return false };
            let slot = &mut newest[(item.hash as u32 % slots) as usize];
            if item.hash < 0 || item.previous != *slot || item.offset < offset {
                return false;
            }
            (*slot, offset) = (n, item.offset);
        }
        offset == header.end_offset && (0..slots).all(|n| self.slot(n) == newest[n as usize])
    }

    /// Shows the items of `hash`, newest first, with the second they were stored in (ms).
    pub fn find(&self, hash: i32, mut visit: impl FnMut(&Item, i64) -> bool) {
        let header = self.header();
        let mut n = self.slot(hash as u32 % self.shape.slots);
        let mut bound = header.count;
        // Each item points to an older one, or the chain is damaged and ends here.
        while n > 0 && n < bound {
            let Some(item) = self.item(n) else { return };
            let time = header.begin_time.saturating_add(i64::from(item.seconds) * 1000);
            if item.hash == hash && !visit(&item, time) {
                return;
            }
            bound = n;
            n = item.previous;
        }
    }
}

/// A key of a record, as the index knows it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    hash: i32,
    offset: i64,
    store_time: i64,
}

impl Key {
    /// Physical offset of the record.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// The keys of a record: its unique key, the words of its KEYS, its tag.
    pub fn of<'a>(record: &Record<'a>) -> impl Iterator<Item = Key> + use<'a> {
        let topic = record.topic();
        let (offset, store_time) = (record.physical_offset(), record.store_timestamp());
        let indexed = record.transaction() != sys_flag::ROLLBACK;
        let text = if indexed { record.properties() } else { &[] };
        let (keys, tag) = properties::index_keys_and_tag(text);
        let tag = tag.map(|tag| tag_index_hash(topic, tag));
        let hashes = keys.map(move |key| index_hash(topic, key)).chain(tag);
        hashes.map(move |hash| Key { hash, offset, store_time })
    }
}

/// All index files of a store.
#[derive(Debug)]
pub struct Index {
    fs: Fs,
    dir: PathBuf,
    shape: Shape,
    /// Oldest first.
    files: RwLock<Vec<Arc<IndexFile>>>,
    /// A sync failed: a later one that works does not tell that the file is on the disk.
    doubtful: AtomicBool,
}

/// What a query finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Physical offsets, ascending, without doubles. Records of other keys may be among them.
    pub offsets: Vec<u64>,
    /// Store time (ms) and physical offset of the last record that the index knows.
    pub last_time: i64,
    pub last_offset: u64,
}

impl Index {
    /// Opens the files in `dir`. Those that are no index files, and those that end after
    /// `trusted_time` or behind `log_end`, go with `discard`; the log makes them anew.
    pub fn open(
        fs: &Fs,
        dir: &Path,
        shape: Shape,
        trusted_time: i64,
        log_end: u64,
        mut discard: impl FnMut(&Path) -> Result<()>,
    ) -> Result<Index> {
        let mut files = Vec::new();
        let mut complete = true;
        for path in list_index(dir)? {
            let file = if complete { IndexFile::open(fs, &path, shape)? } else { None };
            let trusted = |f: &IndexFile| {
                let h = f.header();
                // Only full files were flushed before the checkpoint spoke of them.
                (f.is_full() || trusted_time == i64::MAX)
                    && h.end_time <= trusted_time
                    && h.end_offset.unsigned_abs() < log_end.max(1)
            };
            match file {
                Some(file) if trusted(&file) => files.push(Arc::new(file)),
                _ => {
                    // What follows a lost file is made again with it, in order.
                    complete = false;
                    discard(&path)?;
                }
            }
        }
        let (fs, dir) = (fs.clone(), dir.to_owned());
        Ok(Index { fs, dir, shape, files: RwLock::new(files), doubtful: AtomicBool::new(false) })
    }

    /// The files, oldest first.
    pub fn files(&self) -> Vec<Arc<IndexFile>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn last(&self) -> Option<Arc<IndexFile>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }

    /// Physical offset of the last record with keys that is in the index, and whether the file
    /// is full: then some of its keys may be missing.
    pub fn end_offset(&self) -> Option<(u64, bool)> {
        let last = self.last()?;
        let header = last.header();
        (header.count > 1).then(|| (header.end_offset.unsigned_abs(), last.is_full()))
    }

    /// Adds keys, and counts in `done` those that are in. `on_full` is told of each file that is
    /// complete, flushed by then, with its end time.
    pub fn put_all(
        &self,
        keys: &[Key],
        done: &mut usize,
        now_ms: i64,
        mut on_full: impl FnMut(i64),
    ) -> Result<()> {
        while *done < keys.len() {
            let last = self.last();
            let file = match last {
                Some(file) if !file.is_full() => file,
                full => {
                    if let Some(full) = full {
                        self.sync(&full)?;
                        if !self.is_doubtful() {
                            on_full(full.header().end_time);
                        }
                    }
                    self.add_file(now_ms)?
                }
            };
            *done += file.put_all(&keys[*done..])?;
        }
        Ok(())
    }

    fn add_file(&self, now_ms: i64) -> Result<Arc<IndexFile>> {
        self.fs.create_dir(&self.dir)?;
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let mut name = file_name(now_ms);
        if let Some(last) = files.last().and_then(|f| f.path().file_name()?.to_str()) {
            // Names are the order of the files, whatever the clock does.
            while &*name <= last {
                name = format!("{:017}", last.parse::<u64>().unwrap_or(0) + 1);
            }
        }
        let file = Arc::new(IndexFile::create(&self.fs, &self.dir.join(name), self.shape)?);
        if let Err(e) = self.fs.sync_dir(&self.dir) {
            // Without a key it would count as the last file at the next start.
            self.fs.remove(file.path())?;
            return Err(e);
        }
        files.push(file.clone());
        Ok(file)
    }

    /// Records of `topic` that may have `key` and were stored in the time from `begin` to `end`
    /// (ms, whole seconds, both inclusive); at most `max`, the newest.
    pub fn query(&self, topic: &str, key: &str, max: usize, begin: i64, end: i64) -> Found {
        self.query_hash(index_hash(topic, key), max, begin, end)
    }

    /// [`Index::query`] by tag.
    pub fn query_tag(&self, topic: &str, tag: &str, max: usize, begin: i64, end: i64) -> Found {
        self.query_hash(tag_index_hash(topic, tag), max, begin, end)
    }

    fn query_hash(&self, hash: i32, max: usize, begin: i64, end: i64) -> Found {
        let mut found = Found::default();
        let files = self.files();
        if let Some(last) = files.last().map(|f| f.header()) {
            found.last_time = last.end_time;
            found.last_offset = last.end_offset.unsigned_abs();
        }
        // Items are as precise as a second.
        let begin = begin.saturating_sub(999);
        for file in files.iter().rev() {
            let header = file.header();
            // A clock that was set back can have the end before the begin.
            let times = [header.begin_time, header.end_time];
            if times.iter().all(|t| *t > end) || times.iter().all(|t| *t < begin) {
                continue;
            }
            file.find(hash, |item, time| {
                let offset = item.offset.unsigned_abs();
                if (begin..=end).contains(&time) && !found.offsets.contains(&offset) {
                    found.offsets.push(offset);
                }
                found.offsets.len() < max
            });
            if found.offsets.len() >= max {
                break;
            }
        }
        found.offsets.sort_unstable();
        found
    }

    /// Removes a file and those behind it, newest first: the log makes them anew.
    pub fn discard_from(&self, path: &Path) -> Result<()> {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        while files.last().is_some_and(|last| last.path() >= path) {
            self.fs.remove(files[files.len() - 1].path())?;
            files.pop();
        }
        Ok(())
    }

    /// Removes files all of whose records are gone from a log that begins at `log_min`.
    pub fn follow_log(&self, log_min: u64) -> Result<()> {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        while files.len() > 1 && files[0].header().end_offset.unsigned_abs() < log_min {
            self.fs.remove(files[0].path())?;
            files.remove(0);
        }
        Ok(())
    }

    /// Forces the file in use to the disk.
    pub fn flush(&self) -> Result<()> {
        self.files().last().map_or(Ok(()), |file| self.sync(file))
    }

    fn sync(&self, file: &IndexFile) -> Result<()> {
        file.table.sync().inspect_err(|_| self.doubtful.store(true, Ordering::Relaxed))
    }

    /// Whether the next start must not trust what was written since the last one.
    pub fn is_doubtful(&self) -> bool {
        self.doubtful.load(Ordering::Relaxed)
    }
}

/// Index files are named by the local time they were made at: yyyyMMddHHmmssSSS.
fn file_name(now_ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(now_ms).unwrap_or_default();
    let time = time.to_zoned(jiff::tz::TimeZone::system());
    time.strftime("%Y%m%d%H%M%S%3f").to_string()
}

/// Paths of the index files in `dir` by name; what is not named like one is left alone.
pub fn list_index(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io("list", dir))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("list", dir))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        if name.len() == 17 && name.bytes().all(|b| b.is_ascii_digit()) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::record::{self, Entry, Message, Placement};

    const SHAPE: Shape = Shape { slots: 5, items: 20 };

    fn put(index: &Index, offset: u64, time: i64, keys: &str) {
        let properties = format!("UNIQ_KEY\u{1}u{offset}\u{2}KEYS\u{1}{keys}\u{2}");
        let host = "127.0.0.1:1".parse().unwrap();
        let message = Message {
            topic: "T",
            queue_id: 0,
            flag: 0,
            sys_flag: 0,
            born_timestamp: 0,
            born_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"",
            properties: properties.as_bytes(),
        };
        let place = Placement {
            queue_offset: 0,
            physical_offset: offset,
            store_timestamp: time,
            store_host: host,
        };
        let mut bytes = vec![0; record::encoded_len(&message, &host)];
        record::encode(&message, &place, 0, &mut bytes);
        let Ok(Entry::Record(record)) = record::decode(&bytes) else { panic!() };
        let keys: Vec<Key> = Key::of(&record).collect();
        index.put_all(&keys, &mut 0, 1_795_467_835_737, |_| {}).unwrap();
    }

    fn open(dir: &Path, trusted_time: i64) -> Index {
        Index::open(&Fs::default(), dir, SHAPE, trusted_time, u64::MAX, |p| {
            std::fs::remove_file(p).map_err(Error::io("remove", p))
        })
        .unwrap()
    }

    #[test]
    fn finds_over_several_files_and_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let index = open(dir.path(), i64::MAX);
        for n in 0..50 {
            put(&index, n * 100, n as i64 * 1000, "all AaAa");
        }
        for index in [index, open(dir.path(), i64::MAX)] {
            assert!(index.files().len() > 5);
            let all = index.query("T", "all", 1000, 0, i64::MAX);
            assert_eq!(all.offsets, (0..50).map(|n| n * 100).collect::<Vec<_>>());
            assert_eq!((all.last_offset, all.last_time), (4900, 49_000));
            assert_eq!(index.query("T", "u700", 10, 0, i64::MAX).offsets, [700]);
            assert_eq!(index.query("T", "BBBB", 3, 0, i64::MAX).offsets, [4700, 4800, 4900]);
            assert_eq!(index.query("T", "all", 99, 3_000, 5_000).offsets, [300, 400, 500]);
            assert!(index.query("U", "all", 99, 0, i64::MAX).offsets.is_empty());
        }
    }

    #[test]
    fn a_begin_time_that_cannot_be_is_borne() {
        let dir = tempfile::tempdir().unwrap();
        put(&open(dir.path(), i64::MAX), 100, 1000, "k");
        for time in [i64::MIN, i64::MAX] {
            let path = list_index(dir.path()).unwrap().remove(0);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[..8].copy_from_slice(&time.to_be_bytes());
            std::fs::write(path, bytes).unwrap();
            let index = open(dir.path(), i64::MAX);
            put(&index, 200, 2000, "k");
            let found = index.query("T", "k", 9, i64::MIN, i64::MAX);
            assert_eq!(found.offsets, [100, 200], "{time}");
        }
    }

    #[test]
    fn follows_the_log_and_drops_what_is_doubtful() {
        let dir = tempfile::tempdir().unwrap();
        let index = open(dir.path(), i64::MAX);
        for n in 0..50 {
            put(&index, n * 100, n as i64 * 1000, "k");
        }
        index.follow_log(2000).unwrap();
        assert!(index.files()[0].header().end_offset >= 2000);
        let index = open(dir.path(), 30_000);
        assert!(index.end_offset().unwrap().0 <= 3000);
        std::fs::write(index.files()[0].path(), [0xff; 40 + 84 * 5]).unwrap();
        assert_eq!(open(dir.path(), i64::MAX).end_offset(), None);
        assert_eq!(list_index(dir.path()).unwrap(), [] as [PathBuf; 0]);
    }
}
