//! A store as it lies on the disk, to look at: live or dead, ours or a Java broker's.
//!
//! Nothing is changed: files are mapped for reading, the lock is only asked about, and every
//! call that would write is refused. Nothing is repaired either: what does not fit is told as a
//! [`Misfit`]. If a broker has the store open, a view shows what was there when it was looked
//! at.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::codec::checkpoint::Checkpoint;
use crate::codec::ids::index_hash;
use crate::codec::lenient_json;
use crate::codec::properties;
use crate::codec::record::{Entry, Record, decode};
use crate::config::split_paths;
use crate::error::{Error, Result};
use crate::index::{IndexFile, list_index};
use crate::log::commit_log;
use crate::log::scan::{self, Checks, End, Step};
use crate::os::fs::Fs;
use crate::os::lock::StoreLock;
use crate::os::map::{MappedFile, Slice};
use crate::queue::batch_queue::BatchQueue;
use crate::queue::consume_queue::ConsumeQueue;
use crate::queue::table::{folders, is_folder_name};
use crate::recover::{list_log, log_file_len, read_checkpoint};
use crate::segment::{Chain, Segment};
use crate::store::as_record;

/// Store times follow the log's order as far as the broker's clock was never set back by more
/// than this, ms.
const CLOCK_SLACK_MS: i64 = 3_600_000;
/// Stores are larger than memory: what was walked over is let go in steps of this many bytes.
const RELEASE_EVERY: u64 = 64 << 20;
/// The longest config file that is read.
const MAX_CONFIG_LEN: u64 = 256 << 20;

/// A file that is not as it should be, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    pub path: PathBuf,
    pub what: String,
}

/// A file under `config/`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConfigFile {
    /// What it says, or what its `.bak` says if it says nothing.
    pub value: Option<Value>,
    /// What is wrong with it, if it is there at all.
    pub problem: Option<Misfit>,
}

/// How far a group has come with a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// With `@broadcast` behind its name for a broadcasting group of 5.x.
    pub group: String,
    pub topic: String,
    pub queue_id: i32,
    /// The next offset the group wants.
    pub offset: i64,
}

/// A view of a store.
#[derive(Debug)]
pub struct StoreView {
    root: PathBuf,
    log: Chain,
    misfits: Vec<Misfit>,
}

impl StoreView {
    /// Looks at the store in `root`.
    pub fn open(root: &Path) -> Result<StoreView> {
        StoreView::open_with_log(root, &root.join("commitlog"))
    }

    /// [`StoreView::open`] with the log in another folder, or in several with commas between them.
    pub fn open_with_log(root: &Path, log_dir: &Path) -> Result<StoreView> {
        let unusable = |what: &str| Error::Unusable { path: root.to_owned(), what: what.into() };
        let log_dirs = split_paths(log_dir);
        std::fs::read_dir(root).map_err(Error::io("list", root))?;
        if !["commitlog", "consumequeue", "config"].iter().any(|d| root.join(d).is_dir())
            && !log_dirs.iter().any(|dir| dir.is_dir())
        {
            return Err(unusable("no store: neither commitlog nor consumequeue is there"));
        }
        let mut misfits = Vec::new();
        let (files, file_len) = open_files(&log_dirs, &mut misfits)?;
        let log = Chain::new(&Fs::read_only(), log_dir, file_len, files);
        Ok(StoreView { root: root.to_owned(), log, misfits })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
    /// The log's files.
    pub fn log(&self) -> &Chain {
        &self.log
    }
    /// What does not fit in the log's folder.
    pub fn misfits(&self) -> &[Misfit] {
        &self.misfits
    }
    /// The process that has the store open for writing.
    pub fn in_use(&self) -> Option<String> {
        StoreLock::held_by(&self.root)
    }
    /// Whether the store is open, or was not closed.
    pub fn has_abort(&self) -> bool {
        self.root.join("abort").exists()
    }
    /// `None` if there is no such file.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.root.join("checkpoint").exists().then(|| read_checkpoint(&self.root))
    }

    /// Position of the log's first byte.
    pub fn log_min(&self) -> u64 {
        self.log.first().map_or(0, |s| s.base)
    }

    /// The record that begins at a position.
    pub fn record_at(&self, physical_offset: u64) -> Option<Slice> {
        commit_log::record_at(&self.log, physical_offset)
    }

    /// Walks the whole log: see [`scan::walk`].
    pub fn walk(&self, crc: bool, visit: impl FnMut(Step<'_>) -> ControlFlow<()>) -> End {
        self.walk_files(&self.log.all(), crc, visit)
    }

    /// Walks some neighbouring files of the log.
    pub fn walk_files(
        &self,
        files: &[Segment],
        crc: bool,
        mut visit: impl FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> End {
        let mut released = 0;
        let visit = |step: Step<'_>| {
            if let Step::Record(r) = &step
                && let at = r.physical_offset().unsigned_abs()
                && at >= released + RELEASE_EVERY
            {
                release(files, released, at);
                released = at;
            }
            visit(step)
        };
        // Who writes has not come further; of others nobody knows.
        let zeros_end_from = if self.in_use().is_some() { 0 } else { u64::MAX };
        let checks =
            Checks { crc_from: if crc { 0 } else { u64::MAX }, zeros_end_from, last_time: 0 };
        scan::walk(files, files.first().map_or(0, |s| s.base), checks, visit)
    }

    /// The files that may hold records stored from `since` to `until` (ms).
    pub fn log_files_of(&self, since: i64, until: i64) -> Vec<Segment> {
        let files = self.log.all();
        let begins = |s: &Segment| match decode(s.tail(s.base)) {
            Ok(Entry::Record(r)) => Some(r.store_timestamp()),
            _ => None,
        };
        let wanted = |n: usize| {
            let too_new = |t: i64| t.saturating_sub(CLOCK_SLACK_MS) > until;
            let too_old = |t: i64| t.saturating_add(CLOCK_SLACK_MS) < since;
            !begins(&files[n]).is_some_and(too_new)
                && !files.get(n + 1).and_then(begins).is_some_and(too_old)
        };
        let first = (0..files.len()).find(|n| wanted(*n));
        let last = (0..files.len()).rev().find(|n| wanted(*n));
        match (first, last) {
            (Some(first), Some(last)) => files[first..=last].to_vec(),
            _ => Vec::new(),
        }
    }

    /// Gives back the memory in which the log's files are mapped.
    pub fn release(&self) {
        release(&self.log.all(), 0, u64::MAX);
    }

    fn queue_ids(&self, folder: &str) -> Result<BTreeMap<String, BTreeSet<i32>>> {
        let mut ids: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
        for (topic, dir) in folders(&self.root.join(folder))? {
            for (id, _) in folders(&dir)? {
                if let Ok(id) = id.parse() {
                    ids.entry(topic.clone()).or_default().insert(id);
                }
            }
        }
        Ok(ids)
    }

    /// Topics and queue ids that have a folder of ConsumeQueue files, in order.
    pub fn queues(&self) -> Result<BTreeMap<String, BTreeSet<i32>>> {
        self.queue_ids("consumequeue")
    }

    /// A ConsumeQueue; one of which nothing is there is empty. `misfits` gets what is wrong
    /// with its files.
    pub fn queue(&self, topic: &str, id: i32, misfits: &mut Vec<Misfit>) -> Result<ConsumeQueue> {
        let dir = self.queue_dir("consumequeue", topic, id)?;
        let (files, file_len) = open_files(std::slice::from_ref(&dir), misfits)?;
        let queue = ConsumeQueue::over(&dir, topic.into(), id, file_len, files);
        queue.raise_min(self.log_min());
        Ok(queue)
    }

    /// Topics and queue ids of batch queues.
    pub fn batch_queues(&self) -> Result<BTreeMap<String, BTreeSet<i32>>> {
        self.queue_ids("batchconsumequeue")
    }

    /// A batch queue.
    pub fn batch_queue(
        &self,
        topic: &str,
        id: i32,
        misfits: &mut Vec<Misfit>,
    ) -> Result<BatchQueue> {
        let dir = self.queue_dir("batchconsumequeue", topic, id)?;
        let (files, len) = open_files(std::slice::from_ref(&dir), misfits)?;
        let queue = BatchQueue::over(&dir, topic.into(), id, len, files);
        queue.raise_min(self.log_min());
        Ok(queue)
    }

    fn queue_dir(&self, folder: &str, topic: &str, id: i32) -> Result<PathBuf> {
        if is_folder_name(topic) {
            return Ok(self.root.join(folder).join(topic).join(id.to_string()));
        }
        let what = format!("{topic:?} is no topic's name");
        Err(Error::Unusable { path: self.root.clone(), what })
    }

    /// The index files, oldest first.
    pub fn index(&self, misfits: &mut Vec<Misfit>) -> Result<Vec<IndexFile>> {
        let mut files = Vec::new();
        for path in list_index(&self.root.join("index"))? {
            match IndexFile::open_read(&path) {
                Ok(Some(file)) => files.push(file),
                Ok(None) => misfits
                    .push(Misfit { path, what: "neither header nor items can be true".into() }),
                Err(e) => misfits.push(Misfit { path, what: e.to_string() }),
            }
        }
        Ok(files)
    }

    /// The newest `max` records of a topic that have `key` (a word of KEYS, or the unique
    /// key), stored from `begin` to `end` (ms); newest first. `index` is [`StoreView::index`].
    pub fn query(
        &self,
        index: &[IndexFile],
        (topic, key): (&str, &str),
        max: usize,
        (begin, end): (i64, i64),
    ) -> Vec<Slice> {
        let hash = index_hash(topic, key);
        let mut found: BTreeMap<u64, Slice> = BTreeMap::new();
        for file in index.iter().rev() {
            if found.len() >= max {
                break;
            }
            file.find(hash, |item, _| {
                let slice = u64::try_from(item.offset).ok().and_then(|at| self.record_at(at));
                if let Some(slice) = slice
                    && let Some(r) = as_record(&slice)
                    && has_key(&r, topic, key)
                    && (begin..=end).contains(&r.store_timestamp())
                {
                    found.insert(r.physical_offset().unsigned_abs(), slice);
                }
                found.len() < max
            });
        }
        found.into_values().rev().collect()
    }

    /// Reads a file of the folder `config`; its `.bak` counts where it is missing, empty or
    /// cannot be read.
    pub fn config(&self, name: &str) -> ConfigFile {
        let path = self.root.join("config").join(name);
        let backup = path.with_file_name(format!("{name}.bak"));
        match read_config(&path) {
            Ok(value) => ConfigFile { value: Some(value), problem: None },
            Err(_) if !path.exists() && !backup.exists() => ConfigFile::default(),
            Err(what) => {
                let (value, what) = match read_config(&backup) {
                    Ok(value) => (Some(value), format!("{what}; its .bak counts")),
                    Err(why) => (None, format!("{what}; and its .bak: {why}")),
                };
                ConfigFile { value, problem: Some(Misfit { path, what }) }
            }
        }
    }

    /// What the groups have committed, by topic, group and queue; and what is wrong with the
    /// files that say so.
    pub fn committed(&self) -> (Vec<Committed>, Vec<Misfit>) {
        let mut committed = Vec::new();
        let mut misfits = Vec::new();
        for name in ["consumerOffset.json", "lmqConsumerOffset.json"] {
            let file = self.config(name);
            misfits.extend(file.problem);
            let table = file.value.as_ref().and_then(|v| v.get("offsetTable")?.as_object());
            for (key, queues) in table.into_iter().flatten() {
                let Some((topic, group)) = key.split_once('@') else { continue };
                for (id, offset) in queues.as_object().into_iter().flatten() {
                    if let (Ok(queue_id), Some(offset)) = (id.parse(), offset.as_i64()) {
                        let (topic, group) = (topic.to_owned(), group.to_owned());
                        committed.push(Committed { group, topic, queue_id, offset });
                    }
                }
            }
        }
        committed.sort_by(|a, b| {
            (&a.topic, &a.group, a.queue_id).cmp(&(&b.topic, &b.group, b.queue_id))
        });
        (committed, misfits)
    }
}

/// Whether the record is one of the topic that has the key.
pub fn has_key(record: &Record<'_>, topic: &str, key: &str) -> bool {
    record.topic() == topic && properties::index_keys(record.properties()).any(|k| k == key)
}

fn release(files: &[Segment], from: u64, to: u64) {
    for s in files.iter().filter(|s| s.base < to && from < s.limit()) {
        let start = from.saturating_sub(s.base) as usize;
        s.file.release(start, usize::try_from(to - s.base).unwrap_or(usize::MAX));
    }
}

fn read_config(path: &Path) -> Result<Value, String> {
    let len = path.metadata().map_err(|e| e.to_string())?.len();
    if len > MAX_CONFIG_LEN {
        return Err(format!("{len} bytes are too many"));
    }
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    let text = String::from_utf8(bytes).map_err(|e| e.to_string())?;
    if text.trim().is_empty() {
        return Err("it is empty".into());
    }
    lenient_json::parse(&text).map_err(|e| e.to_string())
}

/// Maps the files of some folders that are named by their position; returns them with their
/// length.
fn open_files(dirs: &[PathBuf], misfits: &mut Vec<Misfit>) -> Result<(Vec<Segment>, usize)> {
    let (numbered, foreign, twice) = list_log(dirs)?;
    let file_len = log_file_len(&numbered, 0);
    let mut misfit = |path: &Path, what| misfits.push(Misfit { path: path.to_owned(), what });
    for path in foreign {
        misfit(&path, "has no business here".into());
    }
    for path in twice {
        misfit(&path, "stands in another folder as well".into());
    }
    let mut files: Vec<Segment> = Vec::new();
    for (base, path) in numbered {
        let Ok(len) = path.metadata().map(|m| m.len()) else {
            // Deleted since the folder was listed.
            continue;
        };
        if file_len == 0 || base % file_len as u64 != 0 {
            misfit(&path, format!("has no place where files have {file_len} bytes"));
            continue;
        }
        if len != file_len as u64 {
            misfit(&path, format!("has {len} bytes instead of {file_len}"));
        }
        if len == 0 {
            continue;
        }
        match MappedFile::open_read_first(&path, file_len) {
            Ok(file) => files.push(Segment { base, file: Arc::new(file) }),
            Err(e) => misfit(&path, e.to_string()),
        }
    }
    Ok((files, file_len))
}
