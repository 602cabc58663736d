//! Appending to the log, beside its limit: the CRC of the same bodies and a copy of the same
//! bytes into a mapped file whose pages are there.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails is to stop")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mq_store::codec::record::Message;
use mq_store::config::StoreConfig;
use mq_store::store::MessageStore;

/// Appended to one store at most, so that the disk holds it.
const MOST: u64 = 2 << 30;

fn message(body: &[u8]) -> Message<'_> {
    Message {
        topic: "Orders",
        queue_id: 0,
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1_795_467_835_737,
        born_host: "127.0.0.1:5000".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties: b"UNIQ_KEY\x01C0A80005000012345678000000000001\x02WAIT\x01true\x02",
    }
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for size in [128, 1024, 16 * 1024] {
        let body = vec![7u8; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("{size}"), |b| {
            b.iter_custom(|count| {
                let (mut left, mut took) = (count, Duration::ZERO);
                while left > 0 {
                    let dir = tempfile::tempdir().unwrap();
                    let (store, _) = MessageStore::open(StoreConfig::at(dir.path())).unwrap();
                    let store = Arc::new(store);
                    store.run_background().unwrap();
                    let now = left.min(MOST / (size as u64 + 256));
                    let began = Instant::now();
                    for _ in 0..now {
                        store.append(&message(black_box(&body))).unwrap();
                    }
                    took += began.elapsed();
                    left -= now;
                }
                took
            });
        });
        group.bench_function(format!("limit {size}"), |b| {
            let len = 64 << 20;
            let mut map = memmap2::MmapMut::map_anon(len).unwrap();
            map.fill(1);
            let record = size + 160;
            let mut at = 0;
            b.iter(|| {
                if at + record > len {
                    at = 0;
                }
                black_box(crc32fast::hash(black_box(&body)));
                map[at..at + size].copy_from_slice(black_box(&body));
                map[at + size..at + record].fill(2);
                at += record;
            });
        });
    }
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
