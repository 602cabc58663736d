//! Any bytes as the log of a store: it opens, tells of every record that is intact, takes a
//! message, and is the same when it is opened again.
//!
//! The first byte chooses: bit 0 closed or killed, bit 1 places and sums are made right, bit 2
//! opened once more after a kill.

#![no_main]

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use libfuzzer_sys::fuzz_target;
use mq_fuzz::{LOG_FILE, NOW, Scratch, make_sound, message, open, write, write_chain};
use mq_store::log::scan::{self, Checks, Step};
use mq_store::store::{MessageStore, ReadLimits, as_record};
use mq_store::view::StoreView;

thread_local!(static SCRATCH: Scratch = Scratch::default());

fuzz_target!(|input: &[u8]| {
    let Some((choice, log @ [_, ..])) = input.split_first() else { return };
    let mut log = log[..log.len().min(3 * LOG_FILE)].to_vec();
    if choice & 2 != 0 {
        make_sound(&mut log);
    }
    SCRATCH.with(|scratch| {
        let root = scratch.empty();
        write_chain(&root.join("commitlog"), &log, LOG_FILE);
        let time = NOW.to_be_bytes();
        write(root, "checkpoint".as_ref(), &[time, time, time].concat());
        if choice & 1 != 0 {
            write(root, "abort".as_ref(), b"");
        }
        let before = intact(&StoreView::open(root).expect("there is a log"));
        let (store, report) = open(root);
        let kept: BTreeSet<u64> = before.range(..report.log.1).copied().collect();
        for at in &kept {
            assert!(store.record_at(*at).is_some(), "{at} is lost: {report}");
        }
        if choice & 1 != 0 {
            assert_eq!(kept, before, "{report}");
        }
        read_all(&store);
        while store.index_step().expect("there is room") {}
        let message = message("new", 0, b"body", b"KEYS\x01key\x02");
        let appended = store.append(&message).expect("there is room");
        let at = appended.physical_offset;
        let units: u64 = store.queues().all().iter().map(|q| q.max_offset()).sum();
        if choice & 4 != 0 {
            // What a killed process leaves.
            store.log().refuse_appends("killed");
        }
        drop(store);
        let (store, again) = open(root);
        assert_eq!(again.clean, choice & 4 == 0, "{again}");
        let record = store.record_at(at);
        let record = record.unwrap_or_else(|| panic!("{at} is not there: {report}\nthen {again}"));
        assert_eq!(as_record(&record).map(|r| r.body()), Some(&b"body"[..]));
        for at in &kept {
            assert!(store.record_at(*at).is_some(), "{at} is lost by a restart: {again}");
        }
        let now: u64 = store.queues().all().iter().map(|q| q.max_offset()).sum();
        assert_eq!(now, units, "queues changed: {report}\nthen {again}");
    });
});

/// Positions of the records that are sound, whatever stands between them.
fn intact(view: &StoreView) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    let files = view.log().all();
    scan::walk(&files, 0, Checks { crc_from: 0, zeros_end_from: u64::MAX, last_time: 0 }, |step| {
        if let Step::Record(r) = step {
            found.insert(r.physical_offset() as u64);
        }
        ControlFlow::Continue(())
    });
    found
}

fn read_all(store: &MessageStore) {
    for queue in store.queues().all() {
        let (topic, id) = (queue.topic(), queue.id());
        let mut offset = queue.min_offset();
        while offset < queue.max_offset() {
            let read = store.read(topic, id, offset as i64, &ReadLimits::default(), |_| true);
            assert!(read.next > offset, "a read moves on");
            offset = read.next;
            for record in read.records.iter().filter_map(|r| as_record(r)) {
                let _ = (record.properties().len(), record.offset_msg_id());
            }
        }
        let _ = store.offset_by_time(topic, id, NOW);
    }
}
