//! Any bytes as the files of a ConsumeQueue, or of a batch queue: whatever they say, the queue gives
//! out what the log holds, and nothing else.
//!
//! The first byte chooses: bit 0 a batch queue, bit 1 closed and not killed, bit 2 a batch is lost.

#![no_main]

use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use mq_fuzz::{
    BATCH_FILE, QUEUE_FILE, Scratch, assert_batches_whole, assert_whole, batch_template, lay_out,
    open, template, write, write_chain,
};
use mq_store::segment::file_name;

/// The batch that may be lost.
const LOST: u64 = 7;

thread_local! {
    static SCRATCH: Scratch = Scratch::default();
    static FILES: Vec<(PathBuf, Vec<u8>)> = SCRATCH.with(template);
    static BATCHES: Vec<(PathBuf, Vec<u8>)> = SCRATCH.with(batch_template);
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, units)) = input.split_first() else { return };
    let (is_batch, is_closed, is_lost) = (choice & 1 != 0, choice & 2 != 0, choice & 4 != 0);
    let (files, folder, len) = match is_batch {
        false => (&FILES, "consumequeue/T/0", QUEUE_FILE),
        true => (&BATCHES, "batchconsumequeue/B/0", BATCH_FILE),
    };
    files.with(|files| {
        SCRATCH.with(|scratch| {
            let root = scratch.empty();
            lay_out(root, files, folder);
            if is_closed {
                let _ = std::fs::remove_file(root.join("abort"));
            }
            if is_batch && is_lost {
                lose(root, files);
            }
            write_chain(&root.join(folder), &units[..units.len().min(6 * len)], len);
            let (store, report) = open(root);
            match is_batch {
                false => assert_whole(root, store, &report),
                true => assert_batches_whole(root, store, is_lost.then_some(LOST)),
            }
        });
    });
});

/// Overwrites the magic number of a batch's record, 84 bytes in front of the body.
fn lose(root: &std::path::Path, files: &[(PathBuf, Vec<u8>)]) {
    let path = PathBuf::from("commitlog").join(file_name(0));
    let (_, log) = files.iter().find(|(p, _)| *p == path).expect("it has a log");
    let body = LOST.to_be_bytes().repeat(12);
    let at = log.windows(body.len()).position(|w| w == body).expect("it is in the first file");
    let mut log = log.clone();
    log[at - 84] ^= 0xff;
    write(root, &path, &log);
}
