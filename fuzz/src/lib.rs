//! Small stores for the targets that open one per run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mq_store::codec::index::Shape;
use mq_store::codec::queue_unit::BATCH_UNIT_LEN;
use mq_store::codec::record::{self, Entry, Message, sys_flag};
use mq_store::config::{Retention, StoreConfig};
use mq_store::os::clock::ManualClock;
use mq_store::os::fs::Fs;
use mq_store::recover::RecoveryReport;
use mq_store::segment::file_name;
use mq_store::store::{MessageStore, ReadLimits, as_record};

pub const NOW: i64 = 1_795_467_835_737;
pub const LOG_FILE: usize = 4096;
pub const QUEUE_FILE: usize = 200;
pub const BATCH_FILE: usize = 3 * BATCH_UNIT_LEN;

/// A folder of this process, emptied and used again by every run.
pub struct Scratch(PathBuf);

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch(std::env::temp_dir().join(format!("mq-fuzz-{}", std::process::id())))
    }
}

impl Scratch {
    /// The folder, empty.
    pub fn empty(&self) -> &Path {
        let _ = fs::remove_dir_all(&self.0);
        fs::create_dir_all(&self.0).expect("a folder for the run");
        &self.0
    }
}

/// Settings with files so small that all of them roll over.
pub fn config(root: &Path) -> StoreConfig {
    StoreConfig {
        log_file_len: LOG_FILE,
        queue_file_len: QUEUE_FILE,
        index_shape: Shape { slots: 5, items: 20 },
        // The disk under the run is not what it is about.
        retention: Retention {
            max_used: 2.0,
            force_clean: 2.0,
            refuse_writes: 2.0,
            ..Retention::default()
        },
        ..StoreConfig::at(root)
    }
}

/// Opens the store in `root`.
pub fn open(root: &Path) -> (MessageStore, RecoveryReport) {
    let clock = Arc::new(ManualClock::at(NOW));
    MessageStore::open_with(config(root), Fs::default(), clock, &mut |_, _| {})
        .expect("a store always opens")
}

pub fn message<'a>(
    topic: &'a str,
    queue_id: i32,
    body: &'a [u8],
    properties: &'a [u8],
) -> Message<'a> {
    Message {
        topic,
        queue_id,
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: ([127, 0, 0, 1], 5000).into(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties,
    }
}

/// Number of messages in [`template`], one queue after the other.
pub const MESSAGES: u64 = 30;

/// Appends message `n` of a [`template`].
pub fn append(store: &MessageStore, n: u64) {
    let (body, properties) =
        (n.to_be_bytes().repeat(12), format!("KEYS\u{1}K{n}\u{2}TAGS\u{1}t\u{2}"));
    store
        .append(&message("T", (n % 2) as i32, &body, properties.as_bytes()))
        .expect("there is room");
}

/// What a killed process left of [`MESSAGES`] messages in two queues.
pub fn template(scratch: &Scratch) -> Vec<(PathBuf, Vec<u8>)> {
    let root = scratch.empty();
    let (store, _) = open(root);
    (0..MESSAGES).for_each(|n| append(&store, n));
    while store.index_step().expect("there is room") {}
    store.write_checkpoint().expect("there is room");
    let mut files = Vec::new();
    collect(root, Path::new(""), &mut files);
    // It would keep recovery from looking at what the targets damage.
    files.retain(|(path, _)| path != Path::new("mq-store.synced"));
    files
}

/// Number of batches in [`batch_template`].
pub const BATCHES: u64 = 20;

/// What a killed Java broker left of [`BATCHES`] batches, but for their queue.
pub fn batch_template(scratch: &Scratch) -> Vec<(PathBuf, Vec<u8>)> {
    let root = scratch.empty();
    let (store, _) = open(root);
    let mut base = 0;
    for n in 0..BATCHES {
        let count = 1 + n % 4;
        let properties = format!("INNER_BASE\u{1}{base}\u{2}INNER_NUM\u{1}{count}\u{2}");
        let body = n.to_be_bytes().repeat(12);
        let message = message("B", 0, &body, properties.as_bytes());
        let message = Message { sys_flag: sys_flag::INNER_BATCH, ..message };
        store.append(&message).expect("there is room");
        base += count;
    }
    store.write_checkpoint().expect("there is room");
    let topics = r#"{"topicConfigTable":{"B":{"attributes":{"queue.type":"BatchCQ"}}}}"#;
    write(root, "config/topics.json".as_ref(), topics.as_bytes());
    let mut files = Vec::new();
    collect(root, Path::new(""), &mut files);
    files.retain(|(path, _)| path != Path::new("mq-store.synced"));
    files
}

fn collect(root: &Path, under: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(root.join(under)).into_iter().flatten().flatten() {
        let path = under.join(entry.file_name());
        match entry.path().is_dir() {
            true => collect(root, &path, files),
            false => files.push((path, fs::read(entry.path()).unwrap_or_default())),
        }
    }
}

/// Writes the files of a template, but for those under `without`.
pub fn lay_out(root: &Path, files: &[(PathBuf, Vec<u8>)], without: &str) {
    for (path, bytes) in files.iter().filter(|(path, _)| !path.starts_with(without)) {
        write(root, path, bytes);
    }
}

pub fn write(root: &Path, path: &Path, bytes: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap_or(root)).expect("a folder");
    fs::write(path, bytes).expect("a file");
}

/// Writes `bytes` as files of `len` bytes into a folder, as many as they need.
pub fn write_chain(dir: &Path, bytes: &[u8], len: usize) {
    for (n, part) in bytes.chunks(len).enumerate() {
        let mut part = part.to_vec();
        part.resize(len, 0);
        write(dir, Path::new(&file_name((n * len) as u64)), &part);
    }
}

/// The template's messages, or batches, that a queue gives out, in order.
pub fn numbers(store: &MessageStore, topic: &str, queue: i32) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut offset = store.min_offset(topic, queue);
    while offset < store.max_offset(topic, queue) {
        let read = store.read(topic, queue, offset as i64, &ReadLimits::default(), |_| true);
        assert!(read.next > offset, "a read moves on");
        offset = read.next;
        let bodies = read.records.iter().filter_map(|r| Some(as_record(r)?.body().to_owned()));
        numbers.extend(bodies.filter_map(|b| b.first_chunk::<8>().map(|n| u64::from_be_bytes(*n))));
    }
    numbers
}

/// Checks that all messages of the template are there, by queue and key, and that the store
/// can be closed and opened again.
pub fn assert_whole(root: &Path, store: MessageStore, report: &RecoveryReport) {
    for queue in 0..2 {
        let want: Vec<u64> = (0..MESSAGES).filter(|n| n % 2 == queue as u64).collect();
        assert_eq!(numbers(&store, "T", queue), want, "queue {queue}: {report}");
    }
    while store.index_step().expect("there is room") {}
    for n in 0..MESSAGES {
        let found = store.query("T", &format!("K{n}"), 9, 0, i64::MAX);
        assert_eq!(found.records.len(), 1, "key K{n}: {report}");
    }
    append(&store, MESSAGES);
    drop(store);
    let (store, report) = open(root);
    assert!(report.clean, "{report}");
    let count: usize = [0, 1].map(|queue| numbers(&store, "T", queue).len()).iter().sum();
    assert_eq!(count, MESSAGES as usize + 1);
}

/// Checks that all batches of the template are there but for one that may be lost, that each is found by
/// the offset of each of its messages, and that this is so after a close.
pub fn assert_batches_whole(root: &Path, store: MessageStore, lost: Option<u64>) {
    let want: Vec<u64> = (0..BATCHES).filter(|n| Some(*n) != lost).collect();
    let check = |store: &MessageStore, report: &dyn std::fmt::Display| {
        assert_eq!(numbers(store, "B", 0), want, "{report}");
        let mut base = 0;
        for n in 0..BATCHES {
            for offset in base..=base + (n % 4) as i64 {
                let limits = ReadLimits { messages: 1, ..ReadLimits::default() };
                let read = store.read("B", 0, offset, &limits, |_| true);
                let first = read.records.first().and_then(|r| as_record(r));
                let number = first.map(|r| r.body()[7].into());
                assert!(Some(n) == lost || number == Some(n), "{offset}: {number:?}, {report}");
            }
            base += 1 + (n % 4) as i64;
        }
    };
    check(&store, &"opened");
    drop(store);
    let (store, report) = open(root);
    assert!(report.clean, "{report}");
    check(&store, &report);
}

/// Has whatever looks like a record tell its place and the sum of its body, which no fuzzer
/// would guess.
pub fn make_sound(log: &mut [u8]) {
    let mut at = 0;
    while at + 40 <= log.len() {
        let end = (at / LOG_FILE + 1) * LOG_FILE;
        let end = end.min(log.len());
        log[at + 28..at + 36].copy_from_slice(&(at as u64).to_be_bytes());
        match record::decode(&log[at..end]) {
            Ok(Entry::Record(r)) => {
                let (size, crc) = (r.size(), record::body_crc(r.body()));
                log[at + 8..at + 12].copy_from_slice(&crc.to_be_bytes());
                at += size;
            }
            Ok(Entry::Blank) => at = end,
            _ => at += 4,
        }
    }
}
