//! Appending to the log: one message or a batch at a time, by one thread or several.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails is to stop")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mq_benches::{body, message, populated, store};
use mq_store::codec::record::{Message, encoded_len};

/// Bytes appended to one store at most: a file of the log.
const MOST: u64 = 1 << 30;
/// Bytes of the mapping that the limits write to: more than the caches hold.
const MAP: usize = 64 << 20;

/// Time that `threads` take to append `count` messages, `batch` at a time, to a queue each.
/// `populated`: the pages of the log are there before, so that the engine is measured and not how
/// fast the kernel makes new ones.
fn append(count: u64, threads: u64, batch: u64, size: usize, populated: bool) -> Duration {
    let (body, mut left, mut took) = (body(size), count, Duration::ZERO);
    while left > 0 {
        let (_dir, store) = store();
        let now = left.min(MOST / (size as u64 + 256));
        if populated {
            store.append(&message(0, &body)).unwrap();
            let file = store.log().chain().last().unwrap().file;
            let end = (now as usize * (size + 256)).min(file.len());
            file.allocate(end).unwrap();
            file.populate(0, end);
        }
        let work = |queue: u64| {
            let messages: Vec<Message<'_>> =
                (0..batch).map(|_| message(queue as i32, black_box(&body))).collect();
            for _ in 0..now.div_ceil(threads * batch) {
                store.append_all(&messages).unwrap();
            }
        };
        let began = Instant::now();
        std::thread::scope(|scope| {
            (1..threads).for_each(|queue| drop(scope.spawn(move || work(queue))));
            work(0);
        });
        took += began.elapsed();
        left -= now;
    }
    took
}

/// Time that `threads` take to copy `count` records of bodies of `size` into a mapped file, each
/// into its part of it, and for the CRCs of the bodies, if wanted.
fn limit(map: &mut [u8], count: u64, threads: u64, size: usize, crc: bool) -> Duration {
    let body = body(size);
    let record = vec![2; encoded_len(&message(0, &body), &"127.0.0.1:10911".parse().unwrap())];
    let work = |part: &mut [u8]| {
        let mut at = 0;
        for _ in 0..count.div_ceil(threads) {
            if crc {
                black_box(crc32fast::hash(black_box(&body)));
            }
            if at + record.len() > part.len() {
                at = 0;
            }
            part[at..at + record.len()].copy_from_slice(black_box(&record));
            at += record.len();
        }
    };
    let mut parts = map.chunks_exact_mut(map.len() / threads as usize);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let own = parts.next();
        parts.for_each(|part| drop(scope.spawn(|| work(part))));
        own.into_iter().for_each(work);
    });
    began.elapsed()
}

fn all(c: &mut Criterion) {
    let (_dir, table) = populated(MAP);
    let mut group = c.benchmark_group("append");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for (name, size, batch, threads) in [
        ("128", 128, 1, &[1, 2, 4][..]),
        ("1k", 1024, 1, &[1, 2, 4]),
        ("16k", 16 * 1024, 1, &[1, 2, 4]),
        ("32x128", 128, 32, &[1]),
    ] {
        group.throughput(Throughput::Bytes(size as u64));
        for &threads in threads {
            let name = if threads == 1 { name.into() } else { format!("{name} {threads} threads") };
            for (name, populated) in [(name.clone(), false), (format!("{name} populated"), true)] {
                group.bench_function(name, |b| {
                    b.iter_custom(|count| append(count, threads, batch, size, populated));
                });
            }
            for (what, crc) in [("copy", false), ("copy and crc", true)] {
                group.bench_function(format!("{name} limit {what}"), |b| {
                    b.iter_custom(|count| table.write(|map| limit(map, count, threads, size, crc)));
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, all);
criterion_main!(benches);
