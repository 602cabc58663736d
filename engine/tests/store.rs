//! What a user of the store sees: appending, reading, reopening, crashing, filling up.

#![allow(clippy::unwrap_used, reason = "a test that fails is a failed test")]

mod common;

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use common::*;
use mq_store::codec::record::{Message, sys_flag};
use mq_store::config::{Retention, StoreConfig};
use mq_store::log::flush::FlushPolicy;
use mq_store::os::clock::ManualClock;
use mq_store::os::fs::{Call, Fs, Watch};
use mq_store::segment::file_name;
use mq_store::store::{MessageStore, ReadLimits, ReadStatus};
use mq_store::{Error, Limit};

const COUNT: u64 = 400;

fn filled() -> (tempfile::TempDir, MessageStore) {
    let dir = tempfile::tempdir().unwrap();
    let (store, report) = open(dir.path());
    assert_eq!((report.log, report.clean), ((0, 0), true));
    for n in 0..COUNT {
        append(&store, n);
    }
    (dir, store)
}

#[test]
fn what_was_appended_is_read_back_and_after_a_clean_restart() {
    let (dir, store) = filled();
    assert!(store.log().chain().all().len() > 4, "the log rolls over");
    assert_holds(&store, COUNT);
    let end = store.log().end();
    drop(store);
    assert!(!dir.path().join("abort").exists());
    let (store, report) = open(dir.path());
    assert!(report.clean && report.fast, "{report}");
    assert_eq!(report.log, (0, end));
    assert_holds(&store, COUNT);
    append(&store, COUNT);
    assert_holds(&store, COUNT + 1);
}

#[test]
fn a_killed_process_loses_nothing() {
    let (dir, store) = filled();
    let killed = copy_of(dir.path());
    let end = store.log().end();
    let (store, report) = open(killed.path());
    assert_eq!((report.clean, report.records, report.log), (false, COUNT, (0, end)), "{report}");
    assert_eq!((report.cut, report.units_written), (None, 0));
    assert_holds(&store, COUNT);
}

#[test]
fn derived_files_are_made_again() {
    for lost in ["consumequeue", "consumequeue/T/1", "index", "checkpoint"] {
        for clean in [true, false] {
            let (dir, store) = filled();
            while store.index_step().unwrap() {}
            let copy = if clean {
                drop(store);
                dir
            } else {
                copy_of(dir.path())
            };
            let path = copy.path().join(lost);
            let _ = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
            let (store, _) = open(copy.path());
            assert_holds(&store, COUNT);
            append(&store, COUNT);
            assert_holds(&store, COUNT + 1);
        }
    }
}

#[test]
fn a_torn_record_is_cut_and_kept_in_the_attic() {
    let (dir, store) = filled();
    let (last, end) = (append(&store, COUNT), store.log().end());
    let killed = copy_of(dir.path());
    let file = killed.path().join(format!("commitlog/{:020}", last - last % LOG_FILE as u64));
    let mut bytes = std::fs::read(&file).unwrap();
    let at = last as usize % LOG_FILE;
    bytes[at + 100..].fill(0);
    std::fs::write(&file, &bytes).unwrap();
    let (store, report) = open(killed.path());
    let cut = report.cut.expect("something is cut");
    assert_eq!((cut.at, report.log.1), (last, last));
    assert!(cut.bytes <= end - last);
    let kept = std::fs::read(&cut.kept).unwrap();
    assert_eq!(kept[..], bytes[at..at + kept.len()]);
    assert_holds(&store, COUNT);
    append(&store, COUNT);
    assert_holds(&store, COUNT + 1);
}

#[test]
fn damage_in_the_middle_costs_only_what_is_damaged() {
    let (dir, store) = filled();
    let at = store.query_position(200);
    let killed = copy_of(dir.path());
    let file = killed.path().join(format!("commitlog/{:020}", at - at % LOG_FILE as u64));
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[at as usize % LOG_FILE + 4] ^= 0xff;
    std::fs::write(&file, bytes).unwrap();
    let (store, report) = open(killed.path());
    assert_eq!((report.damage.len(), report.cut), (1, None));
    assert_eq!((report.damage[0].from, report.records), (at, COUNT - 1));
    let all: Vec<u64> = (0..3).flat_map(|q| numbers(&store, "T", q)).collect();
    assert_eq!(all.len() as u64, COUNT - 1);
    assert!(!all.contains(&200));
    append(&store, COUNT);
    assert_eq!(store.max_offset("T", (COUNT % 3) as i32), COUNT / 3 + 1);
}

trait QueryPosition {
    fn query_position(&self, n: u64) -> u64;
}
impl QueryPosition for MessageStore {
    fn query_position(&self, n: u64) -> u64 {
        while self.index_step().unwrap() {}
        self.query("T", &format!("U{n}"), 1, 0, i64::MAX).found.offsets[0]
    }
}

#[test]
fn a_missing_file_is_reported_and_the_rest_served() {
    let (dir, store) = filled();
    let killed = copy_of(dir.path());
    drop(store);
    std::fs::remove_file(killed.path().join(format!("commitlog/{:020}", 2 * LOG_FILE))).unwrap();
    let (store, report) = open(killed.path());
    assert_eq!(
        (report.damage[0].from, report.damage[0].to),
        (2 * LOG_FILE as u64, 3 * LOG_FILE as u64)
    );
    let all: usize = (0..3).map(|q| numbers(&store, "T", q).len()).sum();
    assert_eq!(all as u64, report.records);
    assert_eq!(store.max_offset("T", 0), COUNT.div_ceil(3));
}

#[test]
fn offsets_outside_a_queue_say_where_to_go() {
    let (_dir, store) = filled();
    let status = |offset| {
        let read = store.read("T", 0, offset, &ReadLimits::default(), |_| true);
        (read.status, read.next)
    };
    let max = store.max_offset("T", 0);
    assert_eq!(status(-1), (ReadStatus::OffsetTooSmall, 0));
    assert_eq!(status(max as i64), (ReadStatus::OffsetOverflowOne, max));
    assert_eq!(status(i64::MAX), (ReadStatus::OffsetOverflowBadly, max));
    let read = store.read("none", 0, 3, &ReadLimits::default(), |_| true);
    assert_eq!((read.status, read.next), (ReadStatus::NoMessageInQueue, 0));
    let read = store.read("T", 0, 0, &ReadLimits::default(), |_| false);
    assert_eq!((read.status, read.next), (ReadStatus::NoMatchedMessage, max));
    let few = ReadLimits { messages: 3, ..ReadLimits::default() };
    assert_eq!(store.read("T", 0, 5, &few, |_| true).next, 8);
    let small = ReadLimits { bytes: 1, ..ReadLimits::default() };
    assert_eq!(store.read("T", 0, 5, &small, |_| true).records.len(), 1);
}

#[test]
fn what_lies_far_behind_the_end_is_given_in_smaller_reads() {
    let (_dir, store) = filled();
    let max = store.max_offset("T", 0);
    let last = store.position("T", 0, max - 1).unwrap();
    let read = |offset, in_memory, bytes_on_disk| {
        let limits = ReadLimits {
            messages: 10,
            in_memory,
            messages_on_disk: 3,
            bytes_on_disk,
            ..ReadLimits::default()
        };
        let read = store.read("T", 0, offset as i64, &limits, |_| true);
        (read.records.len(), read.far_behind)
    };
    let all = usize::MAX;
    assert_eq!((read(0, u64::MAX, all), read(max - 2, u64::MAX, all)), ((10, false), (2, false)));
    let one = store.log().end() - last;
    assert_eq!((read(0, one, all), read(max - 2, one, all)), ((3, true), (2, false)));
    assert_eq!((read(0, 0, 1), read(max - 1, 0, 1)), ((1, true), (1, true)), "one fits always");
}

#[test]
fn limits_are_typed() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { max_body: 20_000, ..config(dir.path()) };
    let (store, _) = open_config(config);
    let refused = |m: &Message| match store.append(m) {
        Err(Error::Limit(limit)) => limit,
        other => panic!("{other:?}"),
    };
    let long = vec![0; 32_768];
    assert_eq!(refused(&message("", 0, b"")), Limit::NoTopic);
    assert!(matches!(refused(&message("../x", 0, b"")), Limit::Topic { .. }));
    assert_eq!(refused(&message("T", -1, b"")), Limit::Queue(-1));
    assert!(matches!(refused(&message("T", 0, &long)), Limit::Body { max: 20_000, .. }));
    assert!(matches!(refused(&message("T", 0, &long[..17_000])), Limit::Record { .. }));
    let m = Message { properties: &long, ..message("T", 0, b"") };
    assert!(matches!(refused(&m), Limit::Properties { .. }));
    assert_eq!((store.log().end(), store.max_offset("T", 0)), (0, 0), "nothing was stored");
}

#[test]
fn batches_are_whole_and_prepared_types_are_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let body = vec![1; 2000];
    for _ in 0..20 {
        let batch: Vec<Message> = (0..5).map(|_| message("B", 0, &body)).collect();
        let put = store.append_all(&batch).unwrap();
        let file = |at: u64| at / LOG_FILE as u64;
        assert_eq!(file(put.physical_offset), file(put.end - 1), "one file");
    }
    let m = Message { sys_flag: sys_flag::PREPARED, ..message("B", 0, b"half") };
    assert_eq!(store.append(&m).unwrap().queue_offset, 0);
    assert_eq!(store.max_offset("B", 0), 100);
    let mixed = [message("B", 0, b"a"), message("B", 1, b"b")];
    assert!(matches!(store.append_all(&mixed), Err(Error::Limit(Limit::Batch))));
}

#[test]
fn sync_flush_shows_consumers_what_is_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open_config(StoreConfig { flush: FlushPolicy::Sync, ..config(dir.path()) });
    let put = store.append(&message("T", 0, b"a")).unwrap();
    let (tx, rx) = mpsc::channel();
    store.when_durable(&put, Box::new(move |r| tx.send(r.is_ok()).unwrap()));
    assert_eq!(store.max_offset("T", 0), 0, "not flushed, not seen");
    assert!(store.record_at(0).is_none());
    assert!(rx.try_recv().is_err());
    store.flush().unwrap();
    assert_eq!((rx.try_recv(), store.max_offset("T", 0)), (Ok(true), 1));
    assert!(store.record_at(0).is_some());
}

/// Fails what it is told to.
#[derive(Default)]
struct Failing {
    syncs: AtomicBool,
    allocations: AtomicBool,
}
impl Watch for Failing {
    fn before(&self, call: &Call, path: &Path) -> io::Result<()> {
        let log = path.parent().is_some_and(|p| p.ends_with("commitlog"));
        match call {
            Call::Sync(_) if log && self.syncs.load(Ordering::SeqCst) => {
                Err(io::Error::other("the disk is gone"))
            }
            Call::Allocate(_) | Call::Create(_) if self.allocations.load(Ordering::SeqCst) => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
    fn after(&self, _: &Call, _: &Path) {}
}

/// Holds the first sync of the log until enough was appended, and counts them.
struct Slow {
    appended: Arc<AtomicUsize>,
    enough: usize,
    syncs: AtomicUsize,
}
impl Watch for Slow {
    fn before(&self, call: &Call, path: &Path) -> io::Result<()> {
        if matches!(call, Call::Sync(_)) && path.parent().is_some_and(|p| p.ends_with("commitlog"))
        {
            self.syncs.fetch_add(1, Ordering::SeqCst);
            while self.appended.load(Ordering::SeqCst) < self.enough {
                std::thread::yield_now();
            }
        }
        Ok(())
    }
    fn after(&self, _: &Call, _: &Path) {}
}

#[test]
fn threads_that_wait_for_the_disk_share_a_sync() {
    const THREADS: usize = 16;
    let dir = tempfile::tempdir().unwrap();
    let appended = Arc::new(AtomicUsize::new(0));
    let slow = Arc::new(Slow { appended: appended.clone(), enough: THREADS, syncs: 0.into() });
    let (store, _) = open_on(config(dir.path()), Fs::watched(slow.clone()));
    std::thread::scope(|s| {
        for n in 0..THREADS {
            let (store, appended) = (&store, &appended);
            s.spawn(move || {
                let put = store.append(&message("T", n as i32, b"a")).unwrap();
                appended.fetch_add(1, Ordering::SeqCst);
                store.flush_to(&put).unwrap();
                assert!(store.log().flushed() >= put.end);
            });
        }
    });
    let syncs = slow.syncs.load(Ordering::SeqCst);
    assert!((1..=2).contains(&syncs), "{syncs} syncs for {THREADS} threads");
}

#[test]
fn a_failed_sync_stops_writing_and_not_reading() {
    let dir = tempfile::tempdir().unwrap();
    let failing = Arc::new(Failing::default());
    let config = StoreConfig { flush: FlushPolicy::Sync, ..config(dir.path()) };
    let (store, _) = open_on(config, Fs::watched(failing.clone()));
    store.append(&message("T", 0, b"a")).unwrap();
    store.flush().unwrap();
    failing.syncs.store(true, Ordering::SeqCst);
    let put = store.append(&message("T", 0, b"b")).unwrap();
    let (tx, rx) = mpsc::channel();
    store.when_durable(&put, Box::new(move |r| tx.send(r).unwrap()));
    assert!(store.flush().is_err());
    assert!(matches!(rx.try_recv().unwrap(), Err(Error::Poisoned(_))));
    failing.syncs.store(false, Ordering::SeqCst);
    let refusal = store.append(&message("T", 0, b"c")).unwrap_err().to_string();
    assert!(refusal.contains("the disk is gone"), "{refusal}");
    assert!(store.flush().is_err(), "a later sync that works proves nothing");
    assert_eq!(store.max_offset("T", 0), 1);
    assert_eq!(store.read("T", 0, 0, &ReadLimits::default(), |_| true).records.len(), 1);
    drop(store);
    assert!(dir.path().join("abort").exists(), "the next start looks closely");
}

#[test]
fn a_full_disk_is_an_error_and_passes() {
    let dir = tempfile::tempdir().unwrap();
    let failing = Arc::new(Failing::default());
    let (store, _) = open_on(config(dir.path()), Fs::watched(failing.clone()));
    let mut n = 0;
    failing.allocations.store(true, Ordering::SeqCst);
    let body = [0; 1000];
    assert!(matches!(store.append(&message("F", 0, &body)), Err(Error::DiskFull { .. })));
    failing.allocations.store(false, Ordering::SeqCst);
    for _ in 0..100 {
        append(&store, n);
        n += 1;
    }
    failing.allocations.store(true, Ordering::SeqCst);
    while store.append(&message("F", 0, &body)).is_ok() {}
    let end = store.log().end();
    assert!(matches!(store.append(&message("F", 0, &body)), Err(Error::DiskFull { .. })));
    assert_eq!(store.log().end(), end, "a refused message leaves nothing behind");
    assert_eq!(numbers(&store, "T", 0).len(), 34);
    failing.allocations.store(false, Ordering::SeqCst);
    append(&store, n);
    store.upkeep_step().unwrap();
    assert_holds(&store, n + 1);
}

#[test]
fn appends_from_many_threads_leave_no_holes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let store = Arc::new(store);
    store.run_background().unwrap();
    std::thread::scope(|s| {
        for thread in 0..4u64 {
            let store = &store;
            s.spawn(move || {
                for n in 0..500u64 {
                    let body = format!("b {} {}", thread * 1000 + n, "y".repeat(n as usize % 90));
                    store.append(&message("T", (n % 2) as i32, body.as_bytes())).unwrap();
                }
            });
        }
    });
    for queue in 0..2 {
        let numbers = numbers(&store, "T", queue);
        assert_eq!(numbers.len(), 1000);
        for thread in 0..4 {
            let of_thread: Vec<_> = numbers.iter().filter(|n| **n / 1000 == thread).collect();
            assert!(of_thread.is_sorted(), "a thread's messages keep their order");
        }
    }
    store.close().unwrap();
    assert!(matches!(store.append(&message("T", 0, b"")), Err(Error::Closed)));
}

#[test]
fn old_files_go_and_everything_follows() {
    let (dir, store) = filled();
    while store.index_step().unwrap() {}
    for _ in 0..3 {
        store.log().chain().drop_first().unwrap();
    }
    store.follow_log().unwrap();
    let min = store.min_offset("T", 0);
    assert!(min > 0);
    let left = numbers(&store, "T", 0);
    assert_eq!(left.len() as u64, COUNT.div_ceil(3) - min);
    assert_eq!(
        store.read("T", 0, 0, &ReadLimits::default(), |_| true).status,
        ReadStatus::OffsetTooSmall
    );
    drop(store);
    let (store, report) = open(dir.path());
    assert!(report.fast, "{report}");
    assert_eq!((store.min_offset("T", 0), numbers(&store, "T", 0)), (min, left));
}

/// Nothing covers a store time; one that says that a file is old is not enough.
#[test]
fn no_file_goes_for_one_old_time() {
    let (dir, store) = filled();
    let begins_old = |file: u64| {
        let path = dir.path().join("commitlog").join(file_name(file * LOG_FILE as u64));
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&1i64.to_be_bytes(), 56).unwrap();
    };
    let gone = || {
        store.delete_expired().unwrap();
        store.log().min_offset() / LOG_FILE as u64
    };
    begins_old(1);
    assert_eq!(gone(), 0);
    begins_old(0);
    assert_eq!(gone(), 1);
}

#[test]
fn by_time() {
    let (_dir, store) = filled();
    let now = store.clock().now_ms();
    assert_eq!(store.offset_by_time("T", 0, now), 0);
    assert_eq!(store.offset_by_time("T", 0, now + 1), store.max_offset("T", 0));
    assert_eq!(store.store_time("T", 0, 0), Some(now));
}

#[test]
fn a_deleted_topic_stays_away_and_made_again_begins_anew() {
    let (dir, store) = filled();
    store.delete_topic("T").unwrap();
    assert_eq!((store.max_offset("T", 0), store.queues().topics().len()), (0, 0));
    let (killed, _) = open(copy_of(dir.path()).path());
    assert_eq!(killed.max_offset("T", 0), 0, "recovery does not bring it back");
    for _ in 0..3 {
        append(&store, 1002);
    }
    let killed = copy_of(dir.path());
    std::fs::remove_file(killed.path().join("config/deletedTopics.json")).unwrap();
    let (again, _) = open(killed.path());
    let killed = copy_of(killed.path());
    std::fs::remove_dir_all(killed.path().join("consumequeue")).unwrap();
    let (without_queues, _) = open(killed.path());
    for store in [&store, &again, &without_queues] {
        assert_eq!(numbers(store, "T", 0), [1002, 1002, 1002]);
    }
}

#[test]
fn one_file_that_was_cut_gets_its_length_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for n in 0..10 {
        append(&store, n);
    }
    let killed = copy_of(dir.path());
    let file = killed.path().join(format!("commitlog/{:020}", 0));
    std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(1001).unwrap();
    let (store, report) = open(killed.path());
    assert_eq!(store.log().chain().file_len(), LOG_FILE, "{report}");
    let left = report.records;
    assert!(left > 2 && left < 10, "{report}");
    for n in left..COUNT {
        append(&store, n);
    }
    assert_holds(&store, COUNT);
}

/// Deletes the topic when one of its folders is about to be synced.
#[derive(Default)]
struct Deleting {
    store: std::sync::OnceLock<std::sync::Weak<MessageStore>>,
    done: AtomicBool,
}
impl Watch for Deleting {
    fn before(&self, call: &Call, path: &Path) -> io::Result<()> {
        let store = self.store.get().and_then(|store| store.upgrade());
        if let Some(store) = store
            && *call == Call::SyncDir
            && path.ends_with("consumequeue/T/0")
            && !self.done.swap(true, Ordering::SeqCst)
        {
            store.delete_topic("T").unwrap();
        }
        Ok(())
    }
    fn after(&self, _: &Call, _: &Path) {}
}

/// A topic that goes while its queues are being forced to the disk makes no trouble: the store is closed
/// cleanly later.
#[test]
fn a_topic_may_be_deleted_while_it_is_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let watch = Arc::new(Deleting::default());
    let (store, _) = open_on(config(dir.path()), Fs::watched(watch.clone()));
    let store = Arc::new(store);
    watch.store.set(Arc::downgrade(&store)).unwrap();
    append(&store, 0);
    store.append(&message("Other", 0, b"body 1 ")).unwrap();
    store.write_checkpoint().unwrap();
    assert!(watch.done.load(Ordering::SeqCst) && !dir.path().join("consumequeue/T").exists());
    drop(store);
    let (store, report) = open(dir.path());
    assert!(report.clean && report.fast, "{report}");
    assert_eq!(numbers(&store, "Other", 0), [1]);
}

/// Holds every allocation up until it is let go.
struct Stuck(std::sync::Mutex<mpsc::Receiver<()>>, mpsc::Sender<()>);

impl Watch for Stuck {
    fn before(&self, call: &Call, _: &Path) -> io::Result<()> {
        if matches!(call, Call::Allocate(_)) {
            let _ = self.1.send(());
            let _ = self.0.lock().unwrap().recv();
        }
        Ok(())
    }
    fn after(&self, _: &Call, _: &Path) {}
}

#[test]
fn an_append_that_does_not_get_on_holds_no_other_up_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let ((go_on, wait), (tell, is_stuck)) = (mpsc::channel(), mpsc::channel());
    let fs = Fs::watched(Arc::new(Stuck(wait.into(), tell)));
    let config = StoreConfig { append_timeout_ms: 50, ..config(dir.path()) };
    let (store, _) = open_on(config, fs);
    std::thread::scope(|scope| {
        let stuck = scope.spawn(|| store.append(&message("T", 0, b"stuck")));
        is_stuck.recv().unwrap();
        let other = store.append(&message("T", 1, b"other"));
        assert!(matches!(other, Err(Error::Busy(50))), "{other:?}");
        drop(go_on);
        stuck.join().unwrap().unwrap();
    });
    assert_eq!(store.append(&message("T", 1, b"later")).unwrap().queue_offset, 0);
}

/// What was on the disk at the last checkpoint is not walked over again after a kill, unless
/// something of it is not as it was.
#[test]
fn a_killed_store_is_walked_from_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    (0..300).for_each(|n| _ = append(&store, n));
    store.write_checkpoint().unwrap();
    (300..350).for_each(|n| _ = append(&store, n));
    let killed = || copy_of(dir.path());
    let whole = killed();
    let (again, report) = open(whole.path());
    assert_eq!((report.records, report.walked_from > 0), (50, true), "{report}");
    assert_holds(&again, 350);
    drop((again, whole));

    type Harm = fn(&Path);
    let harms: [Harm; 5] = [
        |root| std::fs::remove_file(root.join("consumequeue/T/0/00000000000000000000")).unwrap(),
        |root| std::fs::remove_dir_all(root.join("consumequeue/T/1")).unwrap(),
        |root| std::fs::remove_dir_all(root.join("consumequeue")).unwrap(),
        |root| std::fs::remove_file(root.join("consumequeue/T/0/00000000000000001600")).unwrap(),
        |root| std::fs::write(root.join("mq-store.synced"), "{}").unwrap(),
    ];
    for (n, harm) in harms.iter().enumerate() {
        let harmed = killed();
        harm(harmed.path());
        let (again, report) = open(harmed.path());
        assert_eq!((report.records, report.walked_from), (350, 0), "{n}: {report}");
        assert_holds(&again, 350);
    }
    // Deleting a topic makes the queues others; soon there is another checkpoint.
    (0..9).for_each(|n| _ = store.append(&message("gone", 0, &[n])).unwrap());
    store.checkpoint_step().unwrap();
    store.write_checkpoint().unwrap();
    store.delete_topic("gone").unwrap();
    assert_eq!(open(killed().path()).1.walked_from, 0);
    store.checkpoint_step().unwrap();
    assert!(open(killed().path()).1.walked_from > 0);
}

/// A log in several folders takes turns, is found again in whatever order they are named, gets no new
/// file where it shall not, and loses old files wherever they stand.
#[test]
fn a_log_may_stand_in_several_folders() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, old] = ["a", "b", "old"].map(|name| dir.path().join(name).join("commitlog"));
    let with = |log_dirs: &[&PathBuf], old_log_dirs: &[&PathBuf]| StoreConfig {
        log_dirs: log_dirs.iter().map(|dir| dir.to_path_buf()).collect(),
        old_log_dirs: old_log_dirs.iter().map(|dir| dir.to_path_buf()).collect(),
        ..config(dir.path())
    };
    let files = |dir: &PathBuf| std::fs::read_dir(dir).unwrap().count();
    let (store, _) = open_config(with(&[&old], &[]));
    (0..200).for_each(|n| _ = append(&store, n));
    drop(store);
    let before = files(&old);
    let (store, _) = open_config(with(&[&b, &a], &[&old]));
    (200..400).for_each(|n| _ = append(&store, n));
    assert_eq!(files(&old), before);
    assert!(files(&a).abs_diff(files(&b)) <= 1, "{} {}", files(&a), files(&b));
    assert_holds(&store, 400);
    let end = store.log().end();
    drop(store);
    // What a kill leaves is walked through all of them.
    std::fs::write(dir.path().join("abort"), "").unwrap();
    std::fs::remove_file(dir.path().join("mq-store.synced")).unwrap();
    let (store, report) = open_config(with(&[&a, &b], &[&old]));
    assert_eq!((report.records, report.log, &*report.damage), (400, (0, end), &[][..]), "{report}");
    assert_holds(&store, 400);
    let paths = [&a, &b, &old].map(|dir| dir.to_str().unwrap()).join(",");
    let view = mq_store::view::StoreView::open_with_log(dir.path(), Path::new(&paths)).unwrap();
    assert_eq!((view.log().all().len(), view.misfits()), (files(&a) + files(&b) + before, &[][..]));
    drop(store);
    let clock = Arc::new(ManualClock::at(1_795_467_835_737 + 7_200_000));
    let retention = Retention { reserved_hours: 0, ..Retention::default() };
    let config = StoreConfig { retention, ..with(&[&a, &b], &[&old]) };
    let (store, _) = MessageStore::open_with(config, Fs::default(), clock, &mut |_, _| {}).unwrap();
    while files(&a) + files(&b) + files(&old) > 1 {
        store.delete_expired().unwrap();
    }
    assert_eq!(files(&old), 0);
}

/// Light queues that a Java broker wrote are made again from the log; topics with batch queues get
/// none of ours beside, and take no message from us.
#[test]
fn queues_of_other_kinds_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for n in 0..30 {
        let offsets = format!("{n},{}", n / 2);
        let names = if n % 2 == 0 { "%LMQ%a,%LMQ%b" } else { "%LMQ%a" };
        let text = format!(
            "INNER_MULTI_DISPATCH\u{1}{names}\u{2}INNER_MULTI_QUEUE_OFFSET\u{1}{offsets}\u{2}"
        );
        let body = format!("body {n} ");
        let properties = text.as_bytes();
        store.append(&Message { properties, ..message("T", 3, body.as_bytes()) }).unwrap();
        store.append(&message("Batch", 0, body.as_bytes())).unwrap();
    }
    let killed = copy_of(dir.path());
    std::fs::remove_dir_all(killed.path().join("consumequeue")).unwrap();
    std::fs::create_dir_all(killed.path().join("batchconsumequeue/Batch/0")).unwrap();
    let (store, report) = open(killed.path());
    assert_eq!((report.records, &*report.damage), (60, &[][..]), "{report}");
    assert_eq!(numbers(&store, "%LMQ%a", 0), (0..30).collect::<Vec<_>>());
    assert_eq!(numbers(&store, "%LMQ%b", 0), (0..30).step_by(2).collect::<Vec<_>>());
    assert!(!killed.path().join("consumequeue/Batch").exists());
    let refused = store.append(&message("Batch", 0, b"")).unwrap_err();
    assert!(refused.to_string().contains("BatchCQ"), "{refused}");
    assert_eq!(store.append(&message("T", 3, b"")).unwrap().queue_offset, 30);
}
