//! Any bytes as the files of a ConsumeQueue: whatever they say, the queue gives out what the log
//! holds, and nothing else.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mq_fuzz::{QUEUE_FILE, Scratch, assert_whole, lay_out, open, template, write_chain};

thread_local! {
    static SCRATCH: Scratch = Scratch::default();
    static FILES: Vec<(std::path::PathBuf, Vec<u8>)> = SCRATCH.with(template);
}

fuzz_target!(|units: &[u8]| {
    FILES.with(|files| {
        SCRATCH.with(|scratch| {
            let root = scratch.empty();
            lay_out(root, files, "consumequeue/T/0");
            let units = &units[..units.len().min(6 * QUEUE_FILE)];
            write_chain(&root.join("consumequeue/T/0"), units, QUEUE_FILE);
            let (store, report) = open(root);
            assert_whole(root, store, &report);
        });
    });
});
