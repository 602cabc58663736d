//! What opening a store does, and the report of it.
//!
//! The log is the truth. Queues, index, checkpoint and the summary of the last close are hints:
//! where they agree with the log they save time, where they don't they are mended from it.
//! Bytes that are cut off the log go to the folder `attic` first.

mod batches;
mod queues;
mod walk_from;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::batches::BatchCheck;
use self::queues::QueueCheck;
pub use self::queues::is_of_an_earlier_life;
use crate::codec::checkpoint::Checkpoint;
use crate::codec::lenient_json;
use crate::codec::properties;
use crate::codec::queue_unit::{BATCH_UNIT_LEN, UNIT_LEN, Unit};
use crate::codec::record::{Entry, Record, RecordError, decode, sys_flag};
use crate::config::StoreConfig;
use crate::error::{Error, Result};
use crate::log::scan::{self, Checks, End, Step, Why};
use crate::os::fs::{Fs, NumberedFiles, list_numbered};
use crate::os::map::MappedFile;
use crate::queue::table::QueueTable;
use crate::segment::{Chain, Segment, file_name};
use crate::summary::{self, Summary};

/// The topic whose queues hold delayed messages, a queue for each level.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
/// Clean files and clocks agree only so far, ms.
const CHECKPOINT_SLACK_MS: i64 = 3000;
/// A clock may have been set back by so much since the checkpoint was written, ms.
const CLOCK_SLACK_MS: i64 = 86_400_000;
/// Bytes of a batch queue's file where there is none yet: RocketMQ's default.
const BATCH_FILE_LEN: usize = 300_000 * BATCH_UNIT_LEN;

/// What opening found, and did. Shown at start; nothing is dropped without a line here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The store was closed by its last user.
    pub clean: bool,
    /// What the last close wrote down still holds, so the log was not walked.
    pub fast: bool,
    /// Position of the log's first byte, and behind its last record.
    pub log: (u64, u64),
    /// Where the walk over the log began. What is below was on the disk at a checkpoint.
    pub walked_from: u64,
    /// Records walked.
    pub records: u64,
    /// Damage with intact records behind it.
    pub damage: Vec<Damage>,
    /// What was cut off the end.
    pub cut: Option<Cut>,
    /// Queues that were cut or completed, and units that were written for them.
    pub queues_mended: u64,
    pub units_written: u64,
    /// Everything else worth a line.
    pub notes: Vec<String>,
    /// How long it took, ms.
    pub took_ms: u64,
}

/// Bytes in the middle of the log that are not what was stored. They stay as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub from: u64,
    pub to: u64,
    pub what: String,
}

/// Bytes that stood behind the last intact record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub at: u64,
    pub bytes: u64,
    pub why: String,
    /// The file in which they are kept.
    pub kept: PathBuf,
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.log.1 == 0 && self.clean && self.notes.is_empty() {
            return f.write_str("a new store");
        }
        let how = if self.clean { "closed cleanly" } else { "not closed (a crash, or kill)" };
        write!(f, "the store was {how}; log {} to {}", self.log.0, self.log.1)?;
        match self.fast {
            true => write!(f, ", as it was left")?,
            false if self.walked_from > self.log.0 => {
                write!(f, ", {} records checked from {} on", self.records, self.walked_from)?;
            }
            false => write!(f, ", {} records checked", self.records)?,
        }
        write!(f, " in {} ms", self.took_ms)?;
        if self.units_written > 0 {
            write!(f, "\n{} queues mended, {} units", self.queues_mended, self.units_written)?;
        }
        for d in &self.damage {
            write!(
                f,
                "\nDAMAGE from {} to {}: {}; records behind it are kept",
                d.from, d.to, d.what
            )?;
        }
        if let Some(c) = &self.cut {
            let kept = c.kept.display();
            write!(f, "\ncut {} bytes at {}: {}", c.bytes, c.at, c.why)?;
            write!(f, "; no intact record is behind; kept in {kept}")?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n{note}"))
    }
}

/// A store's parts, sound and ready to be continued.
#[derive(Debug)]
pub struct Recovered {
    pub log: Chain,
    /// What is appended must be no older, ms.
    pub last_time: i64,
    pub queues: QueueTable,
    pub checkpoint: Checkpoint,
    pub report: RecoveryReport,
}

/// The time a unit of the schedule queues is due, or the hash of the tag.
pub fn tags_code(record: &Record<'_>, delay_levels_ms: &[i64]) -> i64 {
    if record.topic() == SCHEDULE_TOPIC
        && let Some(level) = record.property(properties::name::DELAY)
        && let Ok(level) = level.parse::<usize>()
        && level > 0
    {
        let level = level.min(delay_levels_ms.len());
        let delay = level.checked_sub(1).and_then(|n| delay_levels_ms.get(n)).unwrap_or(&1000);
        return record.store_timestamp().saturating_add(*delay);
    }
    crate::codec::ids::tags_code(record.property(properties::name::TAGS))
}

/// The unit that a record has in its queue, and its queue offset; `None` if it has none there.
pub fn unit_of(record: &Record<'_>, delay_levels_ms: &[i64]) -> Option<(u64, Unit)> {
    if !record.is_dispatched() || record.sys_flag() & sys_flag::INNER_BATCH != 0 {
        return None;
    }
    let offset = u64::try_from(record.queue_offset()).ok().filter(|n| *n < 1 << 56)?;
    let unit = Unit {
        offset: record.physical_offset().unsigned_abs(),
        size: record.size() as u32,
        tags_code: tags_code(record, delay_levels_ms),
    };
    Some((offset, unit))
}

/// Opens the parts of the store in `config.root`, which is locked. `progress` is told how far
/// the walk over the log is: position and end.
pub fn recover(
    fs: &Fs,
    config: &StoreConfig,
    now_ms: i64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Recovered> {
    let began = std::time::Instant::now();
    let root = &config.root;
    let mut report = RecoveryReport { clean: !root.join("abort").exists(), ..Default::default() };
    let attic = Attic { fs, dir: root.join("attic").join(now_ms.to_string()) };

    let (log_dirs, queue_dir) = (log_dirs(config), root.join("consumequeue"));
    let (segments, log_file_len) = open_log(fs, config, &attic, &mut report)?;
    let file_len = queue_file_len(&queue_dir, UNIT_LEN, config.queue_file_len)?;

    let log_limit = segments.last().map_or(0, Segment::limit);
    let checkpoint =
        read_checkpoint(root).believable(now_ms.saturating_add(CLOCK_SLACK_MS), log_limit);
    let mut queues = QueueTable::open(fs, &queue_dir, file_len, |path| {
        report.notes.push(format!("{} is no queue file; moved to the attic", path.display()));
        attic.keep(path)
    })?;

    let batch_dir = root.join("batchconsumequeue");
    let file_len = queue_file_len(&batch_dir, BATCH_UNIT_LEN, BATCH_FILE_LEN)?;
    queues.open_batches(&batch_dir, file_len, batch_topics(root), |path| {
        report.notes.push(format!("{} is no queue file; moved to the attic", path.display()));
        attic.keep(path)
    })?;
    let log_min = segments.first().map_or(0, |s| s.base);
    let holds = |name| Summary::read(root, name).filter(|s| s.holds(&segments, &queues));
    let summary = if report.clean { holds(summary::CLEAN) } else { None };
    let synced = if report.clean { None } else { holds(summary::SYNCED) };
    for queue in queues.all() {
        // What a killed process wrote since is in the page cache, perhaps not on the disk.
        let on_disk = synced.as_ref().map_or(0, |s| queue.behind(s.log_end));
        queue.is_on_disk(if report.clean { queue.max_offset() } else { on_disk });
    }
    for queue in queues.batches() {
        let on_disk = synced.as_ref().map_or(0, |s| queue.behind(s.log_end));
        queue.is_on_disk(if report.clean { queue.end() } else { on_disk });
    }
    let crc_from = match &synced {
        Some(synced) => synced.log_end,
        None => crc_from(&segments, report.clean, &checkpoint),
    };
    // Of our stores the checkpoint alone says nothing of the queues, which may have been changed since.
    let is_foreign = !report.clean && !root.join(summary::SYNCED).exists();
    let is_whole = || walk_from::is_whole(root, &segments, &queues, crc_from);
    let from = match &synced {
        Some(synced) => synced.log_end,
        None if is_foreign && crc_from > log_min && is_whole() => crc_from,
        None => log_min,
    };
    // From here on a crash may have left bytes that only the page cache has.
    let unsynced_from = if report.clean { u64::MAX } else { crc_from };
    let end = match summary.filter(|s| s.is_all(&segments, &queues)) {
        Some(summary) => {
            report.fast = true;
            End { at: summary.log_end, why: Why::Zeros, last_time: summary.last_time }
        }
        None => {
            let last_time = synced.as_ref().map_or(0, |s| s.last_time);
            // Of a log that was closed, queues know the end.
            let behind = |unit: Unit| unit.offset.saturating_add(u64::from(unit.size));
            let ends = queues.all().into_iter().filter_map(|q| q.last_unit().map(behind)).max();
            let zeros_end_from = if report.clean { ends.unwrap_or(0) } else { u64::MAX };
            let checks = Checks { crc_from, zeros_end_from, last_time };
            let must_follow = synced.is_none() && from > log_min;
            let walk = Walk { from, must_follow, checks };
            check_log(fs, &segments, walk, &queues, config, &mut report, progress)?
        }
    };
    report.log = (log_min, end.at);

    let log = cut_log(fs, log_dirs, log_file_len, segments, &end, &attic, &mut report)?;
    for segment in log.all().iter().filter(|s| s.limit() > unsynced_from) {
        fs.sync_file(segment.file.path())?;
    }
    for queue in queues.all() {
        queue.follow_log(log_min)?;
    }
    for queue in queues.batches() {
        queue.follow_log(log_min)?;
    }
    summary::remove(fs, root, summary::CLEAN)?;
    if report.clean && !report.fast && end.at > 0 {
        summary::distrust(fs, root)?;
    }
    report.took_ms = began.elapsed().as_millis() as u64;
    Ok(Recovered { log, last_time: end.last_time, queues, checkpoint, report })
}

/// Topics of which a Java broker's settings say that they have batch queues.
fn batch_topics(root: &Path) -> Vec<String> {
    let settings = ["config/topics.json", "config/topics.json.bak"].iter().find_map(|name| {
        let text = std::fs::read_to_string(root.join(name)).ok()?;
        lenient_json::parse(&text).ok().filter(|settings| settings.is_object())
    });
    let settings = settings.unwrap_or_default();
    let all = settings["topicConfigTable"].as_object().into_iter().flatten();
    let is_batch = |of: &serde_json::Value| of["attributes"]["queue.type"] == "BatchCQ";
    all.filter(|(_, of)| is_batch(of)).map(|(topic, _)| topic.clone()).collect()
}

/// The folders that new files of the log go to.
pub fn log_dirs(config: &StoreConfig) -> Vec<PathBuf> {
    match &config.log_dirs[..] {
        [] => vec![config.root.join("commitlog")],
        dirs => dirs.to_vec(),
    }
}

/// The log's files in several folders by position, all else that is there, and files whose position
/// another has.
pub fn list_log(dirs: &[PathBuf]) -> Result<(NumberedFiles, Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut files, mut foreign, mut twice) = (NumberedFiles::new(), Vec::new(), Vec::new());
    let mut listed: Vec<&PathBuf> = Vec::new();
    for dir in dirs {
        if listed.contains(&dir) {
            continue;
        }
        listed.push(dir);
        let (numbered, other) = list_numbered(dir)?;
        files.extend(numbered);
        foreign.extend(other);
    }
    // Of two the first folder's counts.
    files.sort_by_key(|(base, _)| *base);
    files.dedup_by(|second, first| {
        let is_twice = second.0 == first.0;
        if is_twice {
            twice.push(second.1.clone());
        }
        is_twice
    });
    Ok((files, foreign, twice))
}

/// Where files and bytes go that are taken out of a store.
struct Attic<'a> {
    fs: &'a Fs,
    dir: PathBuf,
}

impl Attic<'_> {
    fn keep(&self, path: &Path) -> Result<()> {
        self.fs.rename(path, &self.place_for(path)?)
    }

    fn keep_bytes(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        self.fs.create_dir(&self.dir)?;
        let path = self.dir.join(name);
        self.fs.replace(&path, bytes, None)?;
        Ok(path)
    }

    fn place_for(&self, path: &Path) -> Result<PathBuf> {
        self.fs.create_dir(&self.dir)?;
        let parts: Vec<_> = path.iter().rev().take(3).filter_map(|p| p.to_str()).collect();
        Ok(self.dir.join(parts.into_iter().rev().collect::<Vec<_>>().join("_")))
    }
}

/// Bytes of each of `files` in the order of their names: the length that most of them have,
/// if their names agree with it, else the distance of the names, else as configured.
pub fn log_file_len(files: &[(u64, PathBuf)], configured: usize) -> usize {
    let distance = files.windows(2).map(|w| w[1].0 - w[0].0).min();
    let mut lens: HashMap<u64, usize> = HashMap::new();
    for (_, path) in files {
        *lens.entry(path.metadata().map_or(0, |m| m.len())).or_default() += 1;
    }
    // Where files are missing the distance is too long, where one was cut its length too short.
    lens.retain(|len, _| {
        *len > 0 && distance.is_none_or(|d| *len <= d) && files.iter().all(|f| f.0 % len == 0)
    });
    let len = lens.into_iter().max_by_key(|(len, count)| (*count, *len)).map(|(len, _)| len);
    let len = len.or(distance).and_then(|len| usize::try_from(len).ok());
    // One file alone, of a length that nobody sets up, was cut.
    let is_cut = |len: &usize| files.len() == 1 && *len < configured && !len.is_multiple_of(4096);
    len.filter(|len| *len > 0 && !is_cut(len)).unwrap_or(configured)
}

fn open_log(
    fs: &Fs,
    config: &StoreConfig,
    attic: &Attic<'_>,
    report: &mut RecoveryReport,
) -> Result<(Vec<Segment>, usize)> {
    let dirs = [log_dirs(config), config.old_log_dirs.clone()].concat();
    let (files, foreign, twice) = list_log(&dirs)?;
    for path in twice {
        report
            .notes
            .push(format!("{} stands in another folder as well; left alone", path.display()));
    }
    for path in foreign {
        report.notes.push(format!("{} is no log file; left alone", path.display()));
    }
    let file_len = log_file_len(&files, config.log_file_len);
    let mut segments: Vec<Segment> = Vec::new();
    for (base, path) in files {
        if base % file_len as u64 != 0 {
            report.notes.push(format!("{} has no place in the log; left alone", path.display()));
            continue;
        }
        let len = path.metadata().map_err(Error::io("look at", &path))?.len();
        if len != file_len as u64 {
            report.notes.push(format!(
                "{} had {len} bytes instead of {file_len}; its length was mended",
                path.display()
            ));
            if len > file_len as u64 {
                let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
                attic.keep_bytes(&format!("{}.excess", file_name(base)), &bytes[file_len..])?;
            }
            fs.set_len(&path, file_len as u64)?;
        }
        segments.push(Segment { base, file: Arc::new(MappedFile::open_read(&path)?) });
    }
    // A file made ahead of its time that was never written.
    while let Some(last) = segments.last() {
        if fs.data_end(last.file.path())? > 0 {
            break;
        }
        fs.remove(last.file.path())?;
        segments.pop();
    }
    Ok((segments, file_len))
}

/// Bytes of a queue's file: the length that most of them have, of which `unit_len` is a part.
pub fn queue_file_len(dir: &Path, unit_len: usize, configured: usize) -> Result<usize> {
    let mut lens: HashMap<u64, usize> = HashMap::new();
    for topic in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        for queue in std::fs::read_dir(topic.path()).into_iter().flatten().flatten() {
            for (_, path) in list_numbered(&queue.path())?.0 {
                *lens.entry(path.metadata().map_or(0, |m| m.len())).or_default() += 1;
            }
            // One is as good as thousands.
            if lens.values().sum::<usize>() > 16 {
                break;
            }
        }
    }
    lens.retain(|len, _| *len > 0 && len.is_multiple_of(unit_len as u64));
    let most = lens.into_iter().max_by_key(|(_, count)| *count);
    Ok(most.and_then(|(len, _)| usize::try_from(len).ok()).unwrap_or(configured))
}

/// The checkpoint; zeros, which say nothing, if there is none.
pub fn read_checkpoint(root: &Path) -> Checkpoint {
    Checkpoint::decode(&std::fs::read(root.join("checkpoint")).unwrap_or_default())
}

/// From where on bodies are checked: the last file after a clean exit; after a crash the last
/// file that begins with a record older than what the checkpoint knows to be on the disk.
fn crc_from(segments: &[Segment], clean: bool, checkpoint: &Checkpoint) -> u64 {
    let bases = segments.iter().rev();
    if clean {
        return bases.map(|s| s.base).next().unwrap_or(0);
    }
    let known = checkpoint.log_time.min(checkpoint.queue_time) - CHECKPOINT_SLACK_MS;
    let first_time = |s: &Segment| match decode(s.tail(s.base)) {
        Ok(Entry::Record(r)) if r.check_place(s.base).is_ok() => Some(r.store_timestamp()),
        _ => None,
    };
    bases.filter(|s| first_time(s).is_some_and(|t| t <= known)).map(|s| s.base).next().unwrap_or(0)
}

/// A walk over the log.
struct Walk {
    from: u64,
    /// What the queues have of older records is to be compared with the first of each.
    must_follow: bool,
    checks: Checks,
}

/// Walks the log and compares each queue with it; from its start, if it turns out that the queues have not
/// all of what is older.
fn check_log(
    fs: &Fs,
    segments: &[Segment],
    walk: Walk,
    queues: &QueueTable,
    config: &StoreConfig,
    report: &mut RecoveryReport,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<End> {
    // A log that was lost whole has no unit in any queue.
    let log_min = segments.first().map_or(0, |s| s.base);
    let log_limit = segments.last().map_or(0, Segment::limit);
    let deleted = read_deleted(&config.root);
    let mut check = QueueCheck {
        fs,
        segments,
        queues,
        deleted,
        seen: HashMap::new(),
        lost_bytes: 0,
        damage: Vec::new(),
        light_units: 0,
        from_start: walk.from == log_min,
        must_follow: walk.must_follow,
        is_broken: false,
    };
    let from = walk.from;
    let mut batches = BatchCheck::new(fs, segments, queues, from);
    if from > log_min {
        check.begin_at(from);
    } else if !report.clean {
        // What is mended is not on the disk at once, whatever was.
        summary::distrust(fs, &config.root)?;
    }
    (report.walked_from, report.records) = (from, 0);
    report.damage.clear();
    let mut failed = Ok(());
    let mut shown = from;
    let end = scan::walk(segments, from, walk.checks, |step| {
        let (record, is_damaged) = match step {
            Step::Record(r) => (r, false),
            Step::BadBody(r) => {
                let from = r.physical_offset().unsigned_abs();
                let why = RecordError::BodyCrc;
                let what = format!("a message of {}: {why}; reads pass it by", r.topic());
                report.damage.push(Damage { from, to: from + r.size() as u64, what });
                (r, true)
            }
            Step::Hole { from, to, why } => {
                report.damage.push(Damage { from, to, what: why.to_string() });
                check.lost_bytes += to - from;
                return ControlFlow::Continue(());
            }
        };
        report.records += 1;
        let at = record.physical_offset().unsigned_abs();
        if at - shown >= 64 << 20 {
            progress(at, log_limit);
            shown = at;
        }
        let done = match unit_of(&record, &config.delay_levels_ms) {
            Some((offset, unit)) if is_damaged => {
                check.damaged(&record, offset, unit);
                Ok(())
            }
            Some((offset, unit)) => {
                check.unit(&record, offset, unit).and_then(|()| check.light(&record, &unit))
            }
            None if is_damaged || check.is_deleted(record.topic(), at) => Ok(()),
            None => batches.record(&record),
        };
        failed = done;
        if failed.is_err() || check.is_broken {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    failed?;
    if check.is_broken {
        let whole = Walk { from: log_min, must_follow: false, ..walk };
        return check_log(fs, segments, whole, queues, config, report, progress);
    }
    check.finish()?;
    let seen = || check.seen.values().flat_map(BTreeMap::values);
    report.units_written = seen().map(|s| s.written).sum::<u64>() + check.light_units;
    report.queues_mended = seen().filter(|s| s.written > 0).count() as u64;
    report.queues_mended += check.cut_what_the_log_lacks(log_min, end.at)?;
    let (mended, written) = batches.finish()?;
    report.queues_mended += mended;
    report.units_written += written;
    report.damage.append(&mut check.damage);
    Ok(end)
}

/// Topics that were deleted, and where the log ended then: older records of theirs get no units
/// when queues are made again.
pub type DeletedTopics = BTreeMap<String, u64>;

const DELETED: &str = "config/deletedTopics.json";

/// Reads them. A file that is not there, or damaged, means that none were.
pub fn read_deleted(root: &Path) -> DeletedTopics {
    let bytes = std::fs::read(root.join(DELETED)).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Writes them down.
pub fn write_deleted(fs: &Fs, root: &Path, deleted: &DeletedTopics) -> Result<()> {
    fs.create_dir(&root.join("config"))?;
    fs.replace(&root.join(DELETED), &serde_json::to_vec(deleted).unwrap_or_default(), None)
}

/// Makes the log end at `end`: what stands behind is kept in the attic, zeroed, and the
/// last file opened for writing.
fn cut_log(
    fs: &Fs,
    dirs: Vec<PathBuf>,
    file_len: usize,
    segments: Vec<Segment>,
    end: &End,
    attic: &Attic<'_>,
    report: &mut RecoveryReport,
) -> Result<Chain> {
    let mut kept: Vec<Segment> = Vec::new();
    for segment in segments {
        // A log that ends with its last file goes on with a new one.
        let holds_end = segment.base <= end.at && end.at < segment.limit();
        if segment.limit() <= end.at {
            kept.push(segment);
            continue;
        }
        let from = end.at.max(segment.base);
        let data_end = fs.data_end(segment.file.path())?.min(file_len as u64) + segment.base;
        let dirty_to = scan::dirty_to(&segment, from, data_end);
        let path = segment.file.path().to_owned();
        if dirty_to > from {
            let bytes =
                segment.file.bytes((from - segment.base) as usize, (dirty_to - from) as usize);
            let bytes = bytes.unwrap_or_default();
            let name = format!("{}.cut-at-{from}", file_name(segment.base));
            let kept = attic.keep_bytes(&name, bytes)?;
            if holds_end {
                fs.overwrite(&path, from - segment.base, &vec![0; bytes.len()])?;
            }
            let bytes = bytes.len() as u64 + report.cut.as_ref().map_or(0, |c| c.bytes);
            report.cut = Some(Cut { at: end.at, bytes, why: end.why.to_string(), kept });
        }
        if holds_end {
            let file = MappedFile::open(fs, &path, (end.at - segment.base) as usize)?;
            kept.push(Segment { base: segment.base, file: Arc::new(file) });
        } else {
            fs.remove(&path)?;
        }
    }
    // A full last file gets its successor at the first append.
    Ok(Chain::in_dirs(fs, dirs, file_len, kept))
}
