//! Any bytes as the checkpoint, and what is behind them as the summary of a close, or of a checkpoint:
//! a killed or closed store shows what its log holds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mq_fuzz::{Scratch, assert_whole, lay_out, open, template, write};
use mq_store::codec::checkpoint::Checkpoint;

thread_local! {
    static SCRATCH: Scratch = Scratch::default();
    static FILES: Vec<(std::path::PathBuf, Vec<u8>)> = SCRATCH.with(template);
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    let read = Checkpoint::decode(bytes);
    assert_eq!(Checkpoint::decode(&read.encode()), read);
    FILES.with(|files| {
        SCRATCH.with(|scratch| {
            let root = scratch.empty();
            // Index files of a store that was not closed are trusted by the checkpoint's word.
            let without = if choice & 1 != 0 { "abort" } else { "index" };
            lay_out(root, files, without);
            let (page, summary) = bytes.split_at(bytes.len().min(48));
            write(root, "checkpoint".as_ref(), page);
            if choice & 2 != 0 {
                write(root, "mq-store.clean".as_ref(), summary);
            }
            if choice & 4 != 0 {
                write(root, "mq-store.synced".as_ref(), summary);
            }
            let (store, report) = open(root);
            assert_whole(root, store, &report);
        });
    });
});
