//! Benchmarks, in `benches/`, and what they share. `cargo bench -p mq-benches -- NAME`, then
//! `benches/ratios`.
//!
//! A benchmark `group/name` stands beside `group/name limit WHAT`: the least that a machine has
//! to do for the same bytes.
#![allow(clippy::unwrap_used, reason = "a benchmark that fails is to stop")]

use std::sync::Arc;

use mq_store::codec::record::Message;
use mq_store::config::StoreConfig;
use mq_store::os::fs::Fs;
use mq_store::os::map::MappedTable;
use mq_store::store::MessageStore;
use tempfile::TempDir;

/// Properties as Java's clients write them.
pub const PROPERTIES: &[u8] =
    b"UNIQ_KEY\x01C0A80005000012345678000000000001\x02WAIT\x01true\x02TAGS\x01paid\x02";

/// A message for a queue of the topic `Orders`.
pub fn message(queue_id: i32, body: &[u8]) -> Message<'_> {
    Message {
        topic: "Orders",
        queue_id,
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1_795_467_835_737,
        born_host: "127.0.0.1:5000".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties: PROPERTIES,
    }
}

/// A body of bytes that differ.
pub fn body(len: usize) -> Vec<u8> {
    (0..len).map(|n| b' ' + (n * 7 % 95) as u8).collect()
}

/// A store in a folder of its own, with its background threads.
pub fn store() -> (TempDir, Arc<MessageStore>) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = MessageStore::open(StoreConfig::at(dir.path())).unwrap();
    let store = Arc::new(store);
    store.run_background().unwrap();
    (dir, store)
}

/// A mapped file of `len` bytes that are all there: on the disk, and in memory.
pub fn populated(len: usize) -> (TempDir, MappedTable) {
    let dir = tempfile::tempdir().unwrap();
    let table = MappedTable::create(&Fs::default(), &dir.path().join("map"), len).unwrap();
    table.allocate(0..len).unwrap();
    table.write(|map| map.fill(1));
    (dir, table)
}
