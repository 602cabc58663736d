//! Stores that were damaged: what is intact is served, and the rest of the store stays usable.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod common;

use common::*;
use mq_store::codec::checkpoint::Checkpoint;
use mq_store::index::list_index;
use mq_store::segment::file_name;
use mq_store::store::MessageStore;

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

/// Nothing covers a record's queue offset. One that is wrong must not carry the queue away from
/// the messages behind it.
#[test]
fn a_wrong_queue_offset_costs_one_message_at_most() {
    // Message 4 is the second of queue 1, message 0 the first of queue 0.
    let flips = [(22, 1), (26, 1), (27, 1), (27, 2), (27, 8)];
    let stores = [(true, true), (true, false), (false, true), (false, false)];
    let all = flips.iter().flat_map(|flip| stores.iter().map(move |store| (*flip, *store)));
    for (n, ((byte, bit), (queues, clean))) in [0, 4].into_iter().cycle().zip(all) {
        let dir = filled(clean);
        let _ = std::fs::remove_file(dir.path().join("mq-store.clean"));
        let log = dir.path().join("commitlog").join(file_name(0));
        let mut bytes = std::fs::read(&log).unwrap();
        let body = format!("body {n} ");
        let at = bytes.windows(body.len()).position(|w| w == body.as_bytes()).unwrap() - 88;
        bytes[at + byte] ^= bit;
        std::fs::write(&log, bytes).unwrap();
        if !queues {
            std::fs::remove_dir_all(dir.path().join("consumequeue")).unwrap();
        }
        let (store, report) = open(dir.path());
        let what = format!("{n} {byte} {bit} {queues} {clean}: {report}");
        for queue in 0..3 {
            let lost = |m: &u64| *m == n && !queues;
            let want: Vec<u64> = (0..COUNT).filter(|m| m % 3 == queue && !lost(m)).collect();
            assert_eq!(numbers(&store, "T", queue as i32), want, "{what}");
        }
        assert!(queues || byte == 27 && bit == 1 || report.damage.len() == 1, "{what}");
        let next = store.max_offset("T", 1);
        assert_eq!(store.append(&message("T", 1, b"")).unwrap().queue_offset, next);
        assert_eq!(next, (COUNT - 1).div_ceil(3));
    }
}

/// The records of a deleted topic stay in the log and do not come back in its next life.
#[test]
fn a_topic_that_was_made_again_keeps_its_new_messages() {
    for second in [10, COUNT + 50] {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        for n in 0..COUNT {
            append(&store, n);
        }
        store.queues().remove_topic("T").unwrap();
        for n in 0..second {
            append(&store, n);
        }
        let killed = copy_of(dir.path());
        let (store, report) = open(killed.path());
        assert_eq!(report.units_written, 0, "{report}");
        for queue in 0..3 {
            let want: Vec<u64> = (0..second).filter(|n| n % 3 == queue).collect();
            assert_eq!(numbers(&store, "T", queue as i32), want);
        }
    }
}

/// A page of the last file that a power cut lost does not keep the index from what is behind it.
#[test]
fn the_index_goes_on_behind_zeros() {
    let dir = filled(false);
    let index = dir.path().join("index");
    std::fs::remove_dir_all(&index).unwrap();
    let log = dir.path().join("commitlog");
    let last = std::fs::read_dir(&log).unwrap().map(|e| e.unwrap().path()).max().unwrap();
    let mut bytes = std::fs::read(&last).unwrap();
    bytes[1000..1600].fill(0);
    std::fs::write(&last, bytes).unwrap();
    let (store, report) = open(dir.path());
    assert_eq!(report.damage.len(), 1, "{report}");
    let steps = (0..100).take_while(|_| store.index_step().unwrap()).count();
    assert!(steps < 100, "the index does not get on");
    let newest = store.query("T", &format!("K{}", COUNT - 1), 9, 0, i64::MAX);
    assert_eq!(newest.records.len(), 1);
    append(&store, COUNT);
    assert!(store.index_step().unwrap() && !store.index_step().unwrap());
    store.close().unwrap();
}

fn overwrite(root: &std::path::Path, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let in_file = at % LOG_FILE as u64;
    let path = root.join("commitlog").join(file_name(at - in_file));
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, in_file).unwrap();
}

/// A message that is damaged under a running store, in whichever of its lengths, is passed by in
/// reading, and so is told; those behind it are given out.
#[test]
fn reads_pass_by_what_is_damaged() {
    // Total size, magic, place, body length, topic length.
    for (field, len) in [(0, 4), (4, 4), (28, 8), (84, 4), (0, 88)] {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        let places: Vec<u64> = (0..30).map(|n| append(&store, n)).collect();
        while store.index_step().unwrap() {}
        overwrite(dir.path(), places[7] + field, &vec![0x3f; len]);
        let want: Vec<u64> = (0..30).filter(|n| n % 3 == 1 && *n != 7).collect();
        assert_eq!(numbers(&store, "T", 1), want, "{field}");
        assert_eq!(store.damaged_reads(), 1, "{field}");
        let found = store.query("T", "all", 99, 0, i64::MAX).records.len();
        assert_eq!((found, store.damaged_reads()), (29, 2), "{field}");
    }
}

/// The same for a message that consumers were not shown yet.
#[test]
fn dispatch_passes_by_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let flush = mq_store::log::flush::FlushPolicy::Sync;
    let (store, _) = open_config(mq_store::config::StoreConfig { flush, ..config(dir.path()) });
    let places: Vec<u64> = (0..30).map(|n| append(&store, n)).collect();
    overwrite(dir.path(), places[7], &[0xff; 20]);
    store.flush().unwrap();
    let want: Vec<u64> = (0..30).filter(|n| n % 3 == 1 && *n != 7).collect();
    assert_eq!((numbers(&store, "T", 1), store.damaged_reads()), (want, 1));
    append(&store, 30);
    store.flush().unwrap();
    assert_eq!(numbers(&store, "T", 0).last(), Some(&30));
}

/// An index file that is damaged where its header does not show it is found by looking through, and
/// made again.
#[test]
fn a_damaged_index_is_found_and_made_again() {
    // A slot, the hash of an item, its offset, the item before it.
    for at in [40 + 4 * 7 + 2, 140 + 20 * 30 + 3, 140 + 20 * 30 + 10, 140 + 20 * 30 + 19] {
        let dir = filled(true);
        let files = list_index(&dir.path().join("index")).unwrap();
        let mut bytes = std::fs::read(&files[2]).unwrap();
        bytes[at] ^= 0x15;
        std::fs::write(&files[2], bytes).unwrap();
        let (store, _) = open(dir.path());
        while store.check_index_step().unwrap() {}
        assert_eq!(store.damaged_index_files(), 1, "byte {at}");
        assert_holds(&store, COUNT);
    }
}

/// Units that were lost where a start does not look any more are passed by, and so is told; a queue
/// that is taken away is made again whole.
#[test]
fn reads_pass_by_lost_units() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    (0..90).for_each(|n| _ = append(&store, n));
    store.write_checkpoint().unwrap();
    let killed = copy_of(dir.path());
    let path = killed.path().join("consumequeue/T/1/00000000000000000000");
    let mut units = std::fs::read(&path).unwrap();
    units[60..100].fill(0);
    std::fs::write(&path, units).unwrap();
    let (store, report) = open(killed.path());
    assert!(report.walked_from > 0, "{report}");
    let want = |n: &u64| n % 3 == 1 && ![10, 13].contains(n);
    assert_eq!(numbers(&store, "T", 1), (0..90).filter(want).collect::<Vec<_>>());
    assert_eq!(store.damaged_reads(), 1);
    drop(store);
    std::fs::remove_dir_all(killed.path().join("consumequeue/T/1")).unwrap();
    let (store, _) = open(killed.path());
    assert_holds(&store, 90);
}

/// Zeros in a log that was closed hide nothing that stands behind them.
#[test]
fn zeros_in_a_closed_log_are_no_end() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    (0..40).for_each(|n| _ = append(&store, n));
    let hole = store.queues().get("T", 0).unwrap().get(3).unwrap();
    store.close().unwrap();
    drop(store);
    let log = dir.path().join("commitlog").join("0".repeat(20));
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[hole.offset as usize..][..hole.size as usize].fill(0);
    std::fs::write(&log, bytes).unwrap();
    // As a Java broker leaves it: without a summary of ours.
    std::fs::remove_file(dir.path().join("mq-store.clean")).unwrap();
    let (store, report) = open(dir.path());
    assert_eq!((report.records, report.damage.len()), (39, 1), "{report}");
    let all: usize = (0..3).map(|queue| numbers(&store, "T", queue).len()).sum();
    assert_eq!(all, 39);
}

/// Where message `n` stands, which [`append`] put there, and a byte of its body.
fn body_of(store: &MessageStore, n: u64) -> (u64, u64) {
    let at = store.queues().get("T", (n % 3) as i32).unwrap().get(n / 3).unwrap().offset;
    (at, at + 88)
}

/// A body that changed on the disk is not given out, whichever way one asks, be it above the checkpoint or
/// below, where a start does not look; it is counted, and what is behind it comes.
#[test]
fn a_wrong_body_is_passed_by() {
    for (n, clean) in [(7, false), (7, true), (85, false)] {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        (0..80).for_each(|n| _ = append(&store, n));
        store.write_checkpoint().unwrap();
        (80..90).for_each(|n| _ = append(&store, n));
        let (at, body) = body_of(&store, n);
        let killed = if clean {
            drop(store);
            dir
        } else {
            copy_of(dir.path())
        };
        overwrite(killed.path(), body, b"#");
        let (store, report) = open(killed.path());
        let reported: Vec<u64> = report.damage.iter().map(|damage| damage.from).collect();
        assert_eq!(reported, if n > 80 { vec![at] } else { vec![] }, "{report}");
        assert_eq!(report.units_written, 0, "{report}");

        let queue = (n % 3) as i32;
        let want = |m: &u64| m % 3 == n % 3 && *m != n;
        assert_eq!(numbers(&store, "T", queue), (0..90).filter(want).collect::<Vec<_>>());
        assert_eq!(store.damaged_reads(), 1);
        assert!(store.record_at(at).is_none());
        while store.index_step().unwrap() {}
        assert!(store.query("T", &format!("K{n}"), 9, 0, i64::MAX).records.is_empty());
        assert_eq!(store.damaged_reads(), 3);
        // Its offset is not given again.
        append(&store, 90 + n % 3);
        assert_eq!(store.max_offset("T", queue), 31);
    }
}

/// The last message of a queue was not to be seen after a crash, and its offset was given again. When it is
/// seen again with a wrong body, it does not take the place of the one that has it since, whether bodies
/// are looked at or not, and the queue is there or made again.
#[test]
fn a_wrong_body_takes_no_offset_from_an_intact_message() {
    for (clean, lost) in [(true, false), (true, true), (false, false), (false, true)] {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        (0..90).for_each(|n| _ = append(&store, n));
        let (at, body) = body_of(&store, 88);
        let dir = copy_of(dir.path());
        overwrite(dir.path(), at + 4, &[0xff]);
        let (store, report) = open(dir.path());
        assert_eq!((report.damage.len(), store.max_offset("T", 1)), (1, 29), "{report}");
        append(&store, 88);
        (90..200).for_each(|n| _ = append(&store, n));
        while store.index_step().unwrap() {}
        let dir = if clean {
            drop(store);
            std::fs::remove_file(dir.path().join("mq-store.clean")).unwrap();
            dir
        } else {
            copy_of(dir.path())
        };
        overwrite(dir.path(), at + 4, &[0xda]);
        overwrite(dir.path(), body, b"#");
        if lost {
            std::fs::remove_dir_all(dir.path().join("consumequeue")).unwrap();
        }
        let (store, report) = open(dir.path());
        assert_eq!(report.damage.len(), usize::from(!clean), "{report}");
        assert_holds(&store, 200);
    }
}

/// Units of lost messages in the log's first file repeat a neighbour, as a Java broker would pass by that
/// whole file otherwise; elsewhere fillers stand there. Readers of ours see neither.
#[test]
fn units_of_lost_messages_stop_no_reader() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let places: Vec<u64> = (0..150).map(|n| append(&store, n)).collect();
    let dir = copy_of(dir.path());
    let lost = [0, 7, 10, 118];
    assert!(places[10] < LOG_FILE as u64 && places[118] >= LOG_FILE as u64);
    lost.iter().for_each(|n| overwrite(dir.path(), places[*n as usize] + 4, &[0xff]));
    std::fs::remove_dir_all(dir.path().join("consumequeue")).unwrap();
    let (store, report) = open(dir.path());
    assert_eq!(report.damage.len(), lost.len(), "{report}");
    for queue in 0..3 {
        let want = |n: &u64| n % 3 == queue && !lost.contains(n);
        let want: Vec<u64> = (0..150).filter(want).collect();
        assert_eq!(numbers(&store, "T", queue as i32), want);
    }
    assert_eq!(store.damaged_reads(), 0);
    let unit = |queue, offset| store.queues().get("T", queue).unwrap().get(offset).unwrap();
    assert_eq!(unit(0, 0), unit(0, 1));
    assert_eq!([unit(1, 2), unit(1, 3)], [unit(1, 1); 2]);
    assert!(unit(1, 39).is_filler());
}

/// A power cut took the log and the first file of a queue, and left the name of its second one. What
/// comes then must not get the offsets that follow: nothing in front of it makes them believable.
#[test]
fn a_queue_without_a_log_begins_anew() {
    for damage in ["missing", "empty"] {
        let dir = filled(false);
        std::fs::remove_dir_all(dir.path().join("commitlog")).unwrap();
        std::fs::remove_file(dir.path().join("checkpoint")).ok();
        let queue = dir.path().join("consumequeue/T/0");
        let mut files: Vec<_> = std::fs::read_dir(&queue).unwrap().map(|f| f.unwrap()).collect();
        files.sort_by_key(|file| file.file_name());
        for (n, file) in files.iter().enumerate() {
            match (n, damage) {
                (1, _) => {
                    let len = file.metadata().unwrap().len() as usize;
                    std::fs::write(file.path(), vec![0; len]).unwrap();
                }
                (0, "empty") => std::fs::write(file.path(), "").unwrap(),
                _ => std::fs::remove_file(file.path()).unwrap(),
            }
        }
        let (store, _) = open(dir.path());
        for n in 0..3 {
            append(&store, n);
        }
        assert_holds(&store, 3);
        let (store, report) = open(copy_of(dir.path()).path());
        assert_eq!(report.damage, [], "{report}");
        assert_holds(&store, 3);
    }
}

/// Nothing covers a store time. One that is wrong hides no message behind other damage, and does not
/// become that of new messages; nor does a clock that was set back.
#[test]
fn a_store_time_that_is_ahead_hides_nothing() {
    let now = 1_795_467_835_737;
    for (late, lost) in [(10, 11), (10, 200), (0, 1), (398, 399)] {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        let places: Vec<u64> = (0..COUNT).map(|n| append(&store, n)).collect();
        let killed = copy_of(dir.path());
        let in_a_year = i64::to_be_bytes(now + 365 * 86_400_000);
        overwrite(killed.path(), places[late] + 56, &in_a_year);
        overwrite(killed.path(), places[lost], &[b'x'; 50]);
        let (store, report) = open(killed.path());
        for queue in 0..3 {
            let want = |n: &u64| n % 3 == queue && *n != lost as u64;
            let want: Vec<u64> = (0..COUNT).filter(want).collect();
            assert_eq!(numbers(&store, "T", queue as i32), want, "{late} {lost}: {report}");
        }
        let appended = store.append(&message("T", 1, b"body 400 ")).unwrap();
        assert_eq!(appended.store_timestamp, now, "{late}");
    }

    // A Java broker's times follow its clock back.
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let places: Vec<u64> = (0..COUNT).map(|n| append(&store, n)).collect();
    let killed = copy_of(dir.path());
    for at in &places[..100] {
        overwrite(killed.path(), at + 56, &i64::to_be_bytes(now + 3_600_000));
    }
    overwrite(killed.path(), places[200], &[b'x'; 50]);
    let (store, report) = open(killed.path());
    let want: Vec<u64> = (0..COUNT).filter(|n| n % 3 == 2 && *n != 200).collect();
    assert_eq!(numbers(&store, "T", 2), want, "{report}");
}

/// Where times were ahead, what is appended later is not taken for what an earlier life left, however much
/// is lost in between.
#[test]
fn what_is_appended_is_found_behind_any_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let places: Vec<u64> = (0..30).map(|n| append(&store, n)).collect();
    let killed = copy_of(dir.path());
    for at in &places[3..5] {
        overwrite(killed.path(), at + 56, &i64::to_be_bytes(1_795_467_835_737 + 3_600_000));
    }
    let (store, _) = open(killed.path());
    append(&store, 30);
    let killed = copy_of(killed.path());
    for at in &places[5..] {
        overwrite(killed.path(), *at, &[b'x'; 50]);
    }
    let (store, report) = open(killed.path());
    assert_eq!(numbers(&store, "T", 0), [0, 3, 30], "{report}");
}

/// What stands behind a queue's units does not become units when those in front of it are written.
#[test]
fn garbage_behind_the_units_is_no_unit() {
    let dir = filled(false);
    let queue = dir.path().join("consumequeue/T/1").join(file_name(400 * (COUNT / 3 / 20)));
    let mut units = std::fs::read(&queue).unwrap();
    let end = (COUNT / 3 % 20) as usize * 20;
    // Empty places, and then what looks like units.
    units[end + 100..].fill(1);
    std::fs::write(&queue, &units).unwrap();
    let (store, report) = open(dir.path());
    assert_holds(&store, COUNT);
    let units = std::fs::read(queue).unwrap();
    assert!(units[end..].iter().all(|b| *b == 0), "{report}");
}

/// Where topics are not known either, lost queues are not taken for those of deleted topics, as nothing
/// intact in the last file says otherwise.
#[test]
fn queues_that_are_lost_with_the_settings_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let places: Vec<_> = (0..COUNT).map(|n| append(&store, n)).collect();
    let killed = copy_of(dir.path());
    std::fs::remove_dir_all(killed.path().join("consumequeue")).unwrap();
    let time = 1_795_467_835_737 + 5000;
    let checkpoint = Checkpoint { log_time: time, queue_time: time, ..Checkpoint::default() };
    std::fs::write(killed.path().join("checkpoint"), checkpoint.encode()).unwrap();
    let last = places[places.len() - 1] / LOG_FILE as u64 * LOG_FILE as u64;
    overwrite(killed.path(), last + 88, b"x");
    let second = places.iter().find(|at| **at > last).unwrap();
    overwrite(killed.path(), *second, &vec![b'x'; LOG_FILE - (second - last) as usize]);
    let (store, report) = open(killed.path());
    let left = places.iter().filter(|at| **at < last).count() as u64;
    for queue in 0..3 {
        let want: Vec<u64> = (0..left).filter(|n| n % 3 == queue).collect();
        assert_eq!(numbers(&store, "T", queue as i32), want, "{report}");
    }
}
