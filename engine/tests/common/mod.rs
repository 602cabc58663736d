//! Helpers of the store's tests.
#![allow(dead_code, reason = "not every test uses every helper")]
#![allow(clippy::unwrap_used, reason = "a test helper that fails is a failed test")]

pub mod harm;

use std::path::Path;
use std::sync::Arc;

use mq_store::codec::index::Shape;
use mq_store::codec::record::Message;
use mq_store::config::{Retention, StoreConfig};
use mq_store::os::clock::ManualClock;
use mq_store::os::fs::Fs;
use mq_store::recover::RecoveryReport;
use mq_store::store::{MessageStore, ReadLimits, as_record};

pub const LOG_FILE: usize = 16 * 1024;

/// A store with files so small that everything rolls over, which does not mind how full the disk is.
pub fn config(root: &Path) -> StoreConfig {
    let retention =
        Retention { max_used: 2.0, force_clean: 2.0, refuse_writes: 2.0, ..Retention::default() };
    StoreConfig {
        retention,
        log_file_len: LOG_FILE,
        queue_file_len: 400,
        index_shape: Shape { slots: 25, items: 100 },
        ..StoreConfig::at(root)
    }
}

pub fn open(root: &Path) -> (MessageStore, RecoveryReport) {
    open_config(config(root))
}

pub fn open_config(config: StoreConfig) -> (MessageStore, RecoveryReport) {
    open_on(config, Fs::default())
}

pub fn open_on(config: StoreConfig, fs: Fs) -> (MessageStore, RecoveryReport) {
    let clock = Arc::new(ManualClock::at(1_795_467_835_737));
    MessageStore::open_with(config, fs, clock, &mut |_, _| {}).unwrap()
}

pub fn message<'a>(topic: &'a str, queue_id: i32, body: &'a [u8]) -> Message<'a> {
    Message {
        topic,
        queue_id,
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: "127.0.0.1:5000".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties: b"",
    }
}

/// Appends message `n`: to one of three queues, with a key, a tag and a body told by `n`.
pub fn append(store: &MessageStore, n: u64) -> u64 {
    let body = format!("body {n} {}", "x".repeat(n as usize % 300));
    let properties =
        format!("UNIQ_KEY\u{1}U{n}\u{2}KEYS\u{1}K{} all\u{2}TAGS\u{1}t{}\u{2}", n, n % 2);
    let m = Message {
        properties: properties.as_bytes(),
        ..message("T", (n % 3) as i32, body.as_bytes())
    };
    store.append(&m).unwrap().physical_offset
}

/// The bodies' numbers of a queue, read from its minimum to its maximum.
pub fn numbers(store: &MessageStore, topic: &str, queue: i32) -> Vec<u64> {
    let mut offset = store.min_offset(topic, queue);
    let mut numbers = Vec::new();
    while offset < store.max_offset(topic, queue) {
        let read = store.read(topic, queue, offset as i64, &ReadLimits::default(), |_| true);
        assert!(read.next > offset, "a read moves on");
        for slice in &read.records {
            let record = as_record(slice).unwrap();
            record.check_body().unwrap();
            let body = std::str::from_utf8(record.body()).unwrap();
            numbers.push(body.split(' ').nth(1).unwrap().parse().unwrap());
        }
        offset = read.next;
    }
    numbers
}

/// Checks that the store holds exactly messages 0 to `count`, whichever way one looks.
pub fn assert_holds(store: &MessageStore, count: u64) {
    while store.index_step().unwrap() {}
    for queue in 0..3 {
        let want: Vec<u64> = (0..count).filter(|n| n % 3 == queue).collect();
        assert_eq!(numbers(store, "T", queue as i32), want, "queue {queue}");
        assert_eq!(store.max_offset("T", queue as i32), want.len() as u64);
    }
    for n in 0..count {
        for key in [format!("K{n}"), format!("U{n}")] {
            let found = store.query("T", &key, 9, 0, i64::MAX);
            assert_eq!(found.records.len(), 1, "key {key}");
        }
    }
}

/// What a process that is killed now would leave: the files as they are.
pub fn copy_of(root: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(root, dir.path());
    dir
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(path, to).unwrap();
        }
    }
}
