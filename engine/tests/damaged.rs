//! Stores that were damaged: what is intact is served, and the rest of the store stays usable.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod common;

use common::*;
use mq_store::codec::checkpoint::Checkpoint;
use mq_store::index::list_index;
use mq_store::segment::file_name;

const COUNT: u64 = 400;

/// A store that was closed, or killed.
fn filled(clean: bool) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for n in 0..COUNT {
        append(&store, n);
    }
    while store.index_step().unwrap() {}
    if clean {
        drop(store);
        return dir;
    }
    copy_of(dir.path())
}

/// With every second file missing, names alone would make the files seem twice as long.
#[test]
fn missing_files_do_not_change_the_length_of_files() {
    for clean in [true, false] {
        let dir = filled(clean);
        let log = dir.path().join("commitlog");
        let last = std::fs::read_dir(&log).unwrap().count() as u64 - 1;
        for n in (0..last).filter(|n| (last - n) % 2 == 1) {
            std::fs::remove_file(log.join(file_name(n * LOG_FILE as u64))).unwrap();
        }
        let (store, report) = open(dir.path());
        assert_eq!(report.log.1 / LOG_FILE as u64, last, "{report}");
        assert!(report.records > COUNT / 3, "{report}");
        append(&store, COUNT);
        drop(store);
        for entry in std::fs::read_dir(&log).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().len(), LOG_FILE as u64);
        }
    }
}

/// Garbage in the checkpoint is no reason to panic, to trust an index, or to be written again.
#[test]
fn a_checkpoint_that_cannot_be_true_counts_for_nothing() {
    for (time, clean) in [(i64::MIN, true), (i64::MIN, false), (i64::MAX, true), (i64::MAX, false)]
    {
        let dir = filled(clean);
        std::fs::write(dir.path().join("checkpoint"), time.to_be_bytes().repeat(6)).unwrap();
        let (store, report) = open(dir.path());
        assert_eq!(report.damage, [], "{report}");
        assert_holds(&store, COUNT);
        drop(store);
        let page = std::fs::read(dir.path().join("checkpoint")).unwrap();
        let checkpoint = Checkpoint::decode(&page);
        assert!(checkpoint.log_time > 0);
        assert_eq!(checkpoint.believable(checkpoint.log_time, 1 << 20), checkpoint);
    }
}

/// A message whose keys are at the end of one index file and the start of the next is found by
/// all of them when the second is lost.
#[test]
fn the_last_index_file_is_made_again() {
    for (clean, lost) in [(true, 1), (true, 2), (true, 3), (false, 1), (false, 2), (false, 3)] {
        let dir = filled(clean);
        let files = list_index(&dir.path().join("index")).unwrap();
        for file in files.iter().rev().take(lost) {
            std::fs::remove_file(file).unwrap();
        }
        let (store, _) = open(dir.path());
        assert_holds(&store, COUNT);
    }
}
