//! Reading: from a queue to slices, by key, and the walk over the log that recovery does.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails is to stop")]

use std::collections::HashMap;
use std::hint::black_box;
use std::ops::ControlFlow;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mq_benches::{body, message, store};
use mq_store::codec::record::{self, Entry};
use mq_store::log::scan::{Checks, walk};
use mq_store::store::{ReadLimits, as_record};

const MESSAGES: i64 = 100_000;

fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("read");
    for (name, size) in [("32x128", 128), ("32x1k", 1024)] {
        let (_dir, store) = store();
        let body = body(size);
        for _ in 0..MESSAGES {
            store.append(&message(0, &body)).unwrap();
        }
        let limits = ReadLimits::default();
        let pull = |at: &mut i64| {
            *at = if *at + 64 > MESSAGES { 0 } else { *at + 32 };
            let read = store.read("Orders", 0, *at, &limits, |_| true);
            assert_eq!(read.records.len(), 32);
            read
        };
        group.throughput(Throughput::Elements(32));
        group.bench_function(name, |b| {
            let mut at = 0;
            b.iter(|| pull(&mut at));
        });
        // The records as they lie behind each other in the log.
        let log = store.log().chain().all();
        let bytes = log[0].tail(0);
        let len = as_record(&store.record_at(0).unwrap()).unwrap().size() * 32;
        let mut copy = vec![0; len];
        group.bench_function(format!("{name} limit copy"), |b| {
            let mut at = 0;
            b.iter(|| {
                at = if at + 2 * len > bytes.len() { 0 } else { at + len };
                copy.copy_from_slice(black_box(&bytes[at..at + len]));
            });
        });
    }
    group.finish();
}

fn query(c: &mut Criterion) {
    let (_dir, store) = store();
    let keys: Vec<String> = (0..MESSAGES).map(|n| format!("order-{n}")).collect();
    let mut places = HashMap::new();
    for key in &keys {
        let properties = format!("KEYS\x01{key}\x02");
        let mut message = message(0, b"paid");
        message.properties = properties.as_bytes();
        let appended = store.append(&message).unwrap();
        places.insert(key.clone(), appended.physical_offset);
    }
    while store.index_step().unwrap() {}
    let mut group = c.benchmark_group("query");
    let next = |n: &mut usize| {
        *n = (*n + 7919) % keys.len();
        &keys[*n]
    };
    let count = |key: &str| store.query("Orders", key, 32, 0, i64::MAX).records.len();
    group.bench_function("key", |b| {
        let mut n = 0;
        b.iter(|| assert_eq!(count(next(&mut n)), 1));
    });
    group.bench_function("key limit hash map", |b| {
        let mut n = 0;
        b.iter(|| {
            let record = store.record_at(places[next(&mut n)]).unwrap();
            assert!(matches!(record::decode(&record), Ok(Entry::Record(_))));
        });
    });
    group.finish();
}

fn scan(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan");
    group.sample_size(10);
    for (name, size) in [("128", 128), ("1k", 1024), ("16k", 16 * 1024)] {
        let (_dir, store) = store();
        let body = body(size);
        while store.log().end() < 64 << 20 {
            store.append(&message(0, &body)).unwrap();
        }
        let log = store.log().chain().all();
        group.throughput(Throughput::Bytes(store.log().end()));
        group.bench_function(name, |b| {
            let checks = Checks { crc_from: 0, last_time: 0, zeros_end_from: 0 };
            b.iter(|| walk(&log, 0, checks, |_| ControlFlow::Continue(())));
        });
        group.bench_function(format!("{name} limit crc"), |b| {
            b.iter(|| crc32fast::hash(black_box(log[0].tail(0))));
        });
    }
    group.finish();
}

criterion_group!(benches, read, query, scan);
criterion_main!(benches);
