//! Sessions with mq-store-inspect on stores of our own making.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

#[path = "../../../engine/tests/common/mod.rs"]
mod common;
mod exchange;
mod look;
mod monkey;
mod repair;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::SystemTime;

use mq_store::codec::index::Shape;
use mq_store::codec::record::{Message, sys_flag};
use mq_store::config::StoreConfig;
use mq_store::os::clock::ManualClock;
use mq_store::os::fs::Fs;
use mq_store::store::MessageStore;
use serde_json::Value;

const START: i64 = 1_795_467_835_737;
const LOG_FILE: u64 = 16 * 1024;

/// A message for queue 0, sent at the start.
fn message<'a>(topic: &'a str, body: &'a [u8], properties: &'a [u8]) -> Message<'a> {
    Message {
        topic,
        queue_id: 0,
        flag: 0,
        sys_flag: 0,
        born_timestamp: START,
        born_host: "127.0.0.1:1".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties,
    }
}

/// Ninety messages of Orders in three queues, a second apart; one compressed of each kind.
fn open(root: &Path) -> MessageStore {
    let config = StoreConfig {
        log_file_len: LOG_FILE as usize,
        queue_file_len: 400,
        index_shape: Shape { slots: 25, items: 100 },
        ..StoreConfig::at(root)
    };
    let clock = Arc::new(ManualClock::at(START));
    let fs = Fs::default();
    let (store, _) = MessageStore::open_with(config, fs, clock.clone(), &mut |_, _| {}).unwrap();
    let append = |topic, queue_id, sys_flag, body: &[u8], properties: &str| {
        let message = Message {
            queue_id,
            flag: 7,
            sys_flag,
            born_host: "[fd00::9]:5000".parse().unwrap(),
            ..message(topic, body, properties.as_bytes())
        };
        store.append(&message).unwrap();
        clock.advance(1000);
    };
    for n in 0..90 {
        let body = format!("{{\"order\":{n},\"note\":\"{}\"}}", "x".repeat(300));
        let tag = ["created", "größe"][n % 2];
        let properties = format!(
            "UNIQ_KEY\u{1}U{n}\u{2}KEYS\u{1}k{n} all\u{2}TAGS\u{1}{tag}\u{2}n\u{1}{n}\u{2}"
        );
        append("Orders", (n % 3) as i32, 0, body.as_bytes(), &properties);
    }
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), Default::default());
    zlib.write_all(b"squeezed with zlib").unwrap();
    append("Packed", 0, sys_flag::COMPRESSED, &zlib.finish().unwrap(), "");
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    lz4.write_all(b"squeezed with lz4").unwrap();
    append("Packed", 0, sys_flag::COMPRESSED | 0x100, &lz4.finish().unwrap(), "");
    let zstd = zstd::encode_all(&b"squeezed with zstd"[..], 0).unwrap();
    append("Packed", 0, sys_flag::COMPRESSED | 0x200, &zstd, "");
    store
}

/// A store that was closed, with what a broker adds.
fn store() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let config = dir.path().join("config");
    std::fs::create_dir(&config).unwrap();
    let topics =
        "{\"topicConfigTable\":{\"Orders\":{\"perm\":6,\"readQueueNums\":3},\"Packed\":{}}}";
    std::fs::write(config.join("topics.json"), topics).unwrap();
    let offsets =
        "{\n\t\"offsetTable\":{\"Orders@G\":{0:10,1:30},\"Orders@G_b@broadcast\":{2:0}}\n}";
    std::fs::write(config.join("consumerOffset.json"), offsets).unwrap();
    dir
}

/// Runs the tool; its exit code, output and errors.
fn run(store: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mq-store-inspect"));
    let out = command.env("TZ", "UTC").arg(store).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
}

fn json(store: &Path, args: &[&str]) -> Vec<Value> {
    let (code, out, errors) = run(store, &[&["--json"], args].concat());
    assert_eq!(code, 0, "{errors}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers(messages: &[Value]) -> Vec<u64> {
    messages.iter().map(|m| m["properties"]["n"].as_str().unwrap().parse().unwrap()).collect()
}

type Damage<'a> = &'a dyn Fn(&Path);
type Files = BTreeMap<PathBuf, (SystemTime, Vec<u8>)>;

fn files(dir: &Path, into: &mut Files) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, time) = (entry.path(), entry.metadata().unwrap().modified().unwrap());
        let bytes = if path.is_dir() { Vec::new() } else { std::fs::read(&path).unwrap() };
        if path.is_dir() {
            files(&path, into);
        }
        into.insert(path, (time, bytes));
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

/// The file of the log that holds a position.
fn log_file(store: &Path, position: u64) -> PathBuf {
    store.join(format!("commitlog/{:020}", position - position % LOG_FILE))
}
