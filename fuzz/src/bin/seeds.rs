//! Writes the seeds of the targets that open stores into `corpus/`: `cargo run --bin seeds`.

use std::path::{Path, PathBuf};

use mq_fuzz::{Scratch, batch_template, lay_out, message, open, template, write};
use mq_store::codec::queue_unit::BATCH_UNIT_LEN;

fn main() {
    let scratch = Scratch::default();
    let files = template(&scratch);
    let of = |folder: &str| -> Vec<u8> {
        let mut parts: Vec<_> = files.iter().filter(|(path, _)| path.starts_with(folder)).collect();
        parts.sort();
        parts.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
    };
    let log = of("commitlog");
    for choice in [0, 1, 5] {
        seed("log", &format!("whole-{choice}"), choice, &log);
    }
    seed("log", "torn", 1, &log[..5000]);
    let mut damaged = log.clone();
    damaged[300..420].fill(0);
    damaged[1000] ^= 1;
    seed("log", "damaged", 1, &damaged);
    seed("log", "other-topics", 3, &other_topics(&scratch));
    let queue = of("consumequeue/T/0");
    seed("queue", "whole", 0, &queue);
    seed("queue", "short", 0, &queue[..100]);
    seed("queue", "shifted", 2, &queue[20..]);
    let batches = batch_queue(&scratch);
    for choice in [1, 3, 5] {
        seed("queue", &format!("batches-{choice}"), choice, &batches);
    }
    seed("queue", "batches-short", 5, &batches[..400]);
    seed("queue", "batches-shifted", 1, &batches[BATCH_UNIT_LEN..]);
    let (_, first) =
        files.iter().find(|(path, _)| path.starts_with("index")).expect("it has an index");
    for choice in 0..4 {
        seed("index", &format!("first-{choice}"), choice, first);
    }
    let checkpoint = of("checkpoint");
    for choice in 0..2 {
        seed("checkpoint", &format!("page-{choice}"), choice, &checkpoint[..48]);
    }
    let summary =
        br#"{"logEnd":5838,"lastRecord":5643,"lastTime":1795467835737,"queues":2,"units":30}"#;
    seed("checkpoint", "closed", 3, &[&checkpoint[..48], summary].concat());
    seed("checkpoint", "synced", 4, &[&checkpoint[..48], summary].concat());
}

/// The units of all batches.
fn batch_queue(scratch: &Scratch) -> Vec<u8> {
    let files = batch_template(scratch);
    let root = scratch.empty();
    lay_out(root, &files, "none");
    let (store, _) = open(root);
    let queue = store.queues().batch("B", 0).expect("it was made");
    queue.units().flat_map(|unit| unit.encode()).collect()
}

/// A log with a delayed message, a half and its op, tags and several topics.
fn other_topics(scratch: &Scratch) -> Vec<u8> {
    let root = scratch.empty();
    let (store, _) = open(root);
    let put = |topic: &str, queue, sys_flag, body: &[u8], properties: &str| {
        let message = message(topic, queue, body, properties.as_bytes());
        let message = mq_store::codec::record::Message { sys_flag, ..message };
        store.append(&message).expect("there is room");
    };
    put(
        "SCHEDULE_TOPIC_XXXX",
        2,
        0,
        b"later",
        "DELAY\u{1}3\u{2}REAL_TOPIC\u{1}T\u{2}REAL_QID\u{1}0\u{2}",
    );
    put("RMQ_SYS_TRANS_HALF_TOPIC", 0, 0, b"half", "REAL_TOPIC\u{1}T\u{2}REAL_QID\u{1}1\u{2}");
    put("T", 1, 4, b"prepared", "");
    put("T", 1, 8, b"committed", "UNIQ_KEY\u{1}u\u{2}");
    put("RMQ_SYS_TRANS_OP_HALF_TOPIC", 0, 0, b"0", "TAGS\u{1}d\u{2}");
    put(&"long".repeat(40), 0, 0, b"", "TAGS\u{1}a b\u{2}");
    let log = std::fs::read(root.join("commitlog").join(mq_store::segment::file_name(0)));
    let log = log.expect("it has a log");
    let end = log.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
    log[..end].to_vec()
}

fn seed(target: &str, name: &str, choice: u8, bytes: &[u8]) {
    let corpus: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    write(&corpus, Path::new(&format!("{target}/{name}")), &[&[choice], bytes].concat());
}
