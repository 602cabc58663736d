//! Bytes to values and back: records, headers of both encodings, SQL92 over properties.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails is to stop")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mq_benches::{body, message, populated};
use mq_broker::wire::codes::request;
use mq_broker::wire::command::{self, Command, Outgoing};
use mq_broker::wire::frame::{Encoding, FrameLimits, Parsed, parse};
use mq_store::broker::filter::Filter;
use mq_store::codec::record::{self, Entry, Placement, body_crc, encoded_len};

fn records(c: &mut Criterion) {
    let store_host = "127.0.0.1:10911".parse().unwrap();
    let place = Placement { queue_offset: 7, physical_offset: 0, store_timestamp: 9, store_host };
    let (_dir, table) = populated(1 << 20);
    for (name, size) in [("128", 128), ("1k", 1024), ("16k", 16 * 1024)] {
        let body = body(size);
        let message = message(0, &body);
        let mut bytes = vec![0; encoded_len(&message, &store_host)];
        record::encode(&message, &place, body_crc(&body), &mut bytes);

        let mut group = c.benchmark_group("encode");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| {
            table.write(|map| {
                let buf = &mut map[..bytes.len()];
                b.iter(|| record::encode(black_box(&message), &place, 1, black_box(buf)));
            });
        });
        group.bench_function(format!("{name} limit copy"), |b| {
            table.write(|map| {
                let buf = &mut map[..bytes.len()];
                b.iter(|| black_box(&mut *buf).copy_from_slice(black_box(&bytes)));
            });
        });
        group.finish();

        let mut group = c.benchmark_group("decode");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| match record::decode(black_box(&bytes)) {
                Ok(Entry::Record(record)) => record.check_body().unwrap(),
                other => panic!("{other:?}"),
            });
        });
        group.bench_function(format!("{name} limit crc"), |b| {
            b.iter(|| crc32fast::hash(black_box(&body)));
        });
        group.finish();
    }
}

/// A send as clients write it.
fn send_request(encoding: Encoding) -> Vec<u8> {
    let properties = String::from_utf8(mq_benches::PROPERTIES.to_vec()).unwrap();
    let command = Command::new(request::SEND_MESSAGE_V2)
        .field("a", "producers")
        .field("b", "Orders")
        .field("c", "TBW102")
        .field("d", 4)
        .field("e", 3)
        .field("f", 0)
        .field("g", 1_795_467_835_737i64)
        .field("h", 0)
        .field("i", properties)
        .field("j", 0)
        .field("k", false)
        .field("m", false);
    let mut out = Outgoing::default();
    command.encode_request(1_000_000_007, false, encoding, &mut out);
    out.bytes.to_vec()
}

fn headers(c: &mut Criterion) {
    let answer = Command::ok()
        .field("msgId", "7F00000100002A9F0000000000001234".to_owned())
        .field("queueId", 3)
        .field("queueOffset", 123_456u64)
        .field("MSG_REGION", "DefaultRegion")
        .field("TRACE_ON", true);
    for (name, encoding) in [("json", Encoding::Json), ("binary", Encoding::Binary)] {
        let request = send_request(encoding);
        let header = match parse(&request, &FrameLimits::default()) {
            Ok(Parsed::Frame(frame, _)) => frame.header,
            other => panic!("{other:?}"),
        };
        let mut group = c.benchmark_group("header");
        group.throughput(Throughput::Bytes(header.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| black_box(command::decode(encoding, black_box(header)).unwrap()).opaque);
        });
        // Texts have to be UTF-8, so every byte has to be looked at.
        group.bench_function(format!("{name} limit utf8"), |b| {
            b.iter(|| std::str::from_utf8(black_box(header)).is_ok());
        });
        group.finish();

        let mut out = Outgoing::default();
        answer.encode_response(1_000_000_007, encoding, &mut out);
        let bytes = out.bytes.to_vec();
        let mut group = c.benchmark_group("answer");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                out.bytes.clear();
                black_box(&answer).encode_response(1_000_000_007, encoding, &mut out);
            });
        });
        group.bench_function(format!("{name} limit copy"), |b| {
            b.iter(|| {
                out.bytes.clear();
                out.bytes.extend_from_slice(black_box(&bytes));
            });
        });
        group.finish();
    }
}

fn filter(c: &mut Criterion) {
    let mut properties = mq_benches::PROPERTIES.to_vec();
    properties.extend_from_slice(b"amount\x011250\x02country\x01NL\x02level\x01gold\x02");
    let mut group = c.benchmark_group("filter");
    for (name, expression) in [
        ("compare", "amount > 1000"),
        ("mixed", "amount BETWEEN 1000 AND 2000 AND country IN ('DE', 'NL') AND level <> 'base'"),
    ] {
        let filter = Filter::parse("SQL92", expression).unwrap();
        assert!(filter.wants_properties(&properties));
        group.bench_function(name, |b| b.iter(|| filter.wants_properties(black_box(&properties))));
        // Where every pair ends has to be found.
        group.bench_function(format!("{name} limit pass"), |b| {
            b.iter(|| black_box(&properties).iter().filter(|b| **b <= 2).count());
        });
    }
    group.finish();
}

criterion_group!(benches, records, headers, filter);
criterion_main!(benches);
