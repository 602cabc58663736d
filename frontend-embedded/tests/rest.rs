//! An idle store costs no CPU, and wakes when something comes.
#![allow(clippy::unwrap_used, reason = "a test helper that fails is a failed test")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mq_embedded::{Message, Mq, Outcome};

const SOON: Duration = Duration::from_secs(10);

/// How often each thread of the engine has been given the CPU.
fn wake_ups() -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let read = |file| std::fs::read_to_string(task.as_ref().unwrap().path().join(file));
        let (name, status) = (read("comm").unwrap(), read("status").unwrap());
        if name.starts_with("mq-") {
            let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            all.insert(name.trim().to_owned(), line.unwrap().trim().parse().unwrap());
        }
    }
    all
}

/// Of all threads, over a time.
fn wake_ups_in(time: Duration) -> u64 {
    let before: u64 = wake_ups().values().sum();
    std::thread::sleep(time);
    wake_ups().values().sum::<u64>() - before
}

#[test]
fn an_idle_store_sleeps_until_something_comes() {
    let dir = tempfile::tempdir().unwrap();
    let mq = Mq::builder().log_file_len(1 << 20).index_shape(2000, 500).open(dir.path()).unwrap();
    let outbox = mq.transactions("P", |_| Outcome::Unknown).unwrap();
    let consumer = mq.consumer("G").subscribe("T", "*").start().unwrap();
    let send = |message: &Message<'_>| mq.producer().send(message).unwrap();
    send(&Message::new("T", "x").delay_level(1));
    assert!(outbox.begin(&Message::new("T", "x")).unwrap().commit().unwrap());
    for _ in 0..2 {
        consumer.poll(1, SOON).unwrap().into_iter().for_each(|m| m.ack());
    }
    send(&Message::new("U", "x").key("k")).durable().wait().unwrap();

    // What was done is saved 5 and 10 s later, and a thread lies down when nothing came for a
    // while. Then two look at the calendar, each every 10 s.
    let since = Instant::now();
    while wake_ups_in(Duration::from_secs(6)) > 3 {
        assert!(since.elapsed() < Duration::from_secs(60), "no rest: {:?}", wake_ups());
    }

    let rested = wake_ups();
    let are_awake = |names: &[&str]| {
        let now = wake_ups();
        names.iter().all(|name| now[*name] > rested[*name])
    };
    send(&Message::new("U", "x").key("k"));
    wait_for(|| are_awake(&["mq-checkpoint", "mq-flush", "mq-index", "mq-upkeep"]));
    drop(outbox.begin(&Message::new("T", "x")).unwrap());
    wait_for(|| are_awake(&["mq-transactions"]));
    send(&Message::new("T", "late").delay_level(1));
    let late = consumer.poll(1, SOON).unwrap().pop().unwrap();
    assert_eq!(late.body(), b"late");
    late.ack();
    let saved = dir.path().join("config/topics.json");
    let is_saved = || std::fs::read_to_string(&saved).is_ok_and(|text| text.contains("\"V\""));
    send(&Message::new("V", "x"));
    wait_for(is_saved);
}

fn wait_for(is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < SOON);
        std::thread::sleep(Duration::from_millis(5));
    }
}
