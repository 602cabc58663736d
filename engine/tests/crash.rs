//! What a power cut, a kill or a failing disk leaves, by simulation: random work on a small
//! store over a disk that is cut at some call; then what was promised is compared with what is
//! there. A seed tells it all:
//!
//! - `MQ_CRASH_SEEDS=N` runs N seeds instead of the usual number, from `MQ_CRASH_FROM=K` on, on
//!   `MQ_CRASH_THREADS=T` threads
//! - `MQ_CRASH_SEED=K` runs that one, and prints each step and call
//!
//! At length: `MQ_CRASH_SEEDS=100000 MQ_CRASH_THREADS=2 cargo test --release -p mq-store --test crash
//! a_power_cut -- --nocapture`. That it is able to fail is what `crash/prove` proves.

#![allow(clippy::unwrap_used, reason = "a test that fails is a failed test")]

mod common;
#[path = "crash/disk.rs"]
mod disk;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use common::harm::Rng;
use disk::{Disk, Plan, folder};
use mq_store::broker::topics::TopicConfig;
use mq_store::broker::{Broker, BrokerConfig};
use mq_store::codec::record::Message;
use mq_store::config::{Retention, StoreConfig};
use mq_store::log::flush::FlushPolicy;
use mq_store::os::clock::ManualClock;
use mq_store::os::fs::Fs;
use mq_store::recover::RecoveryReport;
use mq_store::store::{MessageStore, ReadLimits, as_record};
use tempfile::TempDir;

const NOW: i64 = 1_795_467_835_737;
const TOPICS: [&str; 4] = ["A", "B", "C", "D"];
const QUEUES: i32 = 3;
const GROUP: &str = "G";

type Place = (&'static str, i32, u64);

/// A message that an append returned.
#[derive(Clone, Debug)]
struct Sent {
    place: Place,
    at: u64,
    end: u64,
    /// It must be there, whatever happens.
    promised: bool,
    /// It must be there, unless the power is cut.
    cached: bool,
    /// Came back without all that was stored, when nothing was promised yet.
    torn: bool,
}

/// What callbacks tell.
#[derive(Default)]
struct Told {
    durable: Vec<u64>,
    shown: BTreeSet<Place>,
    wrong: Vec<String>,
}

struct World {
    rng: Rng,
    trace: bool,
    sync: bool,
    dir: TempDir,
    disk: Arc<Disk>,
    clock: Arc<ManualClock>,
    broker: Option<Arc<Broker>>,
    told: Arc<Mutex<Told>>,
    sent: BTreeMap<u64, Sent>,
    /// The messages that have a place now: those of deleted topics have none.
    places: BTreeMap<Place, u64>,
    next: u64,
    /// Files below may have been deleted.
    dropped_to: u64,
    deleted: BTreeSet<&'static str>,
    /// Topics whose settings were answered for.
    made: BTreeSet<&'static str>,
    /// A topic whose deletion did not return.
    half_deleted: Option<&'static str>,
    consumed: BTreeSet<u64>,
    /// Topics of which nobody can say: to delete them failed.
    unknown: BTreeSet<&'static str>,
    /// What is in `sent` is what this life began with, and what it did.
    checked: bool,
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(7, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// A body that tells its number and whether it is whole.
fn body(n: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng(n);
    let mut body = n.to_be_bytes().to_vec();
    body.extend((0..len).map(|_| rng.next() as u8 | 1));
    body.extend(sum(&body).to_be_bytes());
    body
}

fn number(body: &[u8]) -> Option<u64> {
    let (rest, check) = body.split_last_chunk::<8>()?;
    (sum(rest) == u64::from_be_bytes(*check))
        .then(|| rest.first_chunk::<8>().map(|n| u64::from_be_bytes(*n)))?
}

fn properties(n: u64) -> String {
    format!("UNIQ_KEY\u{1}U{n}\u{2}KEYS\u{1}K{n}\u{2}TAGS\u{1}t{}\u{2}", n % 3)
}

impl World {
    fn new(seed: u64, trace: bool) -> World {
        let mut rng = Rng(seed);
        let dir = folder();
        let disk = Arc::new(Disk::over(dir.path(), rng.next(), trace));
        World {
            sync: rng.one_in(2),
            rng,
            trace,
            dir,
            disk,
            clock: Arc::new(ManualClock::at(NOW)),
            broker: None,
            told: Arc::default(),
            sent: BTreeMap::new(),
            places: BTreeMap::new(),
            next: 0,
            dropped_to: 0,
            deleted: BTreeSet::new(),
            made: BTreeSet::new(),
            half_deleted: None,
            consumed: BTreeSet::new(),
            checked: false,
            unknown: BTreeSet::new(),
        }
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{}", text());
        }
    }

    fn config(&self) -> StoreConfig {
        StoreConfig {
            flush: if self.sync { FlushPolicy::Sync } else { FlushPolicy::default() },
            // Five units: a cut may lose one file of a queue and leave the next.
            queue_file_len: 100,
            // The real disk is not what this is about.
            retention: Retention {
                reserved_hours: 1,
                delete_when: (0..24).collect(),
                max_used: 2.0,
                force_clean: 2.0,
                refuse_writes: 2.0,
                may_force: false,
            },
            ..common::config(self.dir.path())
        }
    }

    fn open(&mut self) -> Result<RecoveryReport, mq_store::Error> {
        let fs = Fs::watched(self.disk.clone());
        let (store, report) =
            MessageStore::open_with(self.config(), fs, self.clock.clone(), &mut |_, _| {})?;
        self.say(|| format!("OPENED {report}"));
        let (told, disk, sync) = (self.told.clone(), self.disk.clone(), self.sync);
        let on_arrival = move |a: mq_store::store::Arrival<'_>| {
            let topic = TOPICS.iter().find(|t| **t == a.topic);
            if let Some(topic) = topic
                && sync
                && !disk.is_dead()
            {
                told.lock().unwrap().shown.insert((topic, a.queue_id, a.queue_offset));
            }
        };
        let (broker, notes) =
            Broker::open(Arc::new(store), BrokerConfig::default(), Box::new(on_arrival));
        self.say(|| notes.join("\n"));
        self.broker = Some(broker);
        Ok(report)
    }

    fn broker(&self) -> Arc<Broker> {
        self.broker.clone().unwrap()
    }

    /// The process ends, by whatever. What it was told while it lived is noted.
    fn end(&mut self, killed: bool) {
        let Some(broker) = self.broker.take() else { return };
        // What the last life lost is not known before the check.
        let flushed = if self.checked { broker.store().log().flushed() } else { 0 };
        self.checked = false;
        drop(broker);
        let mut told = std::mem::take(&mut *self.told.lock().unwrap());
        assert!(told.wrong.is_empty(), "{:?}", told.wrong);
        let sync = self.sync;
        for (n, sent) in &mut self.sent {
            let shown = told.shown.remove(&sent.place) && self.places.get(&sent.place) == Some(n);
            sent.cached = killed;
            sent.promised |= (!sync && sent.end <= flushed) || shown;
        }
        for n in told.durable {
            if let Some(sent) = self.sent.get_mut(&n) {
                sent.promised = true;
            }
        }
    }

    /// Goes on with what a power cut left.
    fn after_the_cut(&mut self) {
        let dir = self.disk.cut();
        self.end(false);
        self.sent.values_mut().for_each(|sent| sent.cached = false);
        self.disk = Arc::new(Disk::over(dir.path(), self.rng.next(), self.trace));
        self.dir = dir;
    }

    // ---- work ----

    fn append(&mut self, count: u64) {
        let broker = self.broker();
        let topic = TOPICS[self.rng.below(4) as usize];
        let queue = self.rng.below(QUEUES as u64) as i32;
        if self.unknown.contains(topic) {
            return;
        }
        if broker.topics().get(topic).is_none() {
            self.made.remove(topic);
            self.deleted.remove(topic);
            let made = broker.update_topic(TopicConfig::new(topic, QUEUES));
            if self.disk.is_dead() {
                return;
            }
            if made.is_ok() {
                self.made.insert(topic);
            }
        }
        let first = self.next;
        self.next += count;
        let bodies: Vec<(Vec<u8>, String)> = (first..self.next)
            .map(|n| {
                let longest = [20, 60, 300, 1500, 6000][self.rng.below(5) as usize];
                let longest = if count > 1 { 400.min(longest) } else { longest };
                (body(n, self.rng.below(longest) as usize), properties(n))
            })
            .collect();
        let messages: Vec<Message<'_>> = bodies
            .iter()
            .map(|(body, text)| Message {
                properties: text.as_bytes(),
                ..common::message(topic, queue, body)
            })
            .collect();
        let host = broker.store().log().store_host();
        let lens = messages.iter().map(|m| mq_store::codec::record::encoded_len(m, &host) as u64);
        let appended = match broker.store().append_all(&messages) {
            Ok(appended) => appended,
            Err(e) => return self.say(|| format!("  refused: {e}")),
        };
        let mut at = appended.physical_offset;
        for (n, len) in lens.enumerate() {
            let place = (topic, queue, appended.queue_offset + n as u64);
            let n = first + n as u64;
            self.say(|| format!("  {n} is {place:?} at {at}, {len} bytes"));
            let end = appended.end;
            self.sent
                .insert(n, Sent { place, at, end, promised: false, cached: false, torn: false });
            let before = self.places.insert(place, n);
            assert!(before.is_none(), "{place:?} was {before:?}'s, and is {n}'s now");
            at += len;
        }
        assert_eq!(at, appended.end);
        if self.sync && !self.disk.is_dead() {
            let (told, disk, numbers) = (self.told.clone(), self.disk.clone(), first..self.next);
            let (weak, end) = (Arc::downgrade(&broker), appended.end);
            let flushed = move || weak.upgrade().map(|b| b.store().log().flushed());
            broker.store().when_durable(
                &appended,
                Box::new(move |result| {
                    let mut told = told.lock().unwrap();
                    if result.is_ok() && flushed().is_some_and(|flushed| flushed < end) {
                        told.wrong.push(format!("{numbers:?} durable after a failed sync"));
                    }
                    if result.is_ok() && !disk.is_dead() {
                        told.durable.extend(numbers);
                    }
                }),
            );
        }
    }

    fn consume(&mut self) {
        let broker = self.broker();
        let topic = TOPICS[self.rng.below(4) as usize];
        let queue = self.rng.below(QUEUES as u64) as i32;
        let from = broker.offsets().get(GROUP, topic, queue).unwrap_or(0);
        let read = broker.store().read(topic, queue, from, &ReadLimits::default(), |_| true);
        for record in read.records.iter().filter_map(|slice| as_record(slice)) {
            self.consumed.extend(number(record.body()));
        }
        if !self.disk.is_dead() && read.next as i64 >= from {
            self.say(|| format!("  consumed {topic}/{queue} up to {}", read.next));
            broker.offsets().commit(GROUP, topic, queue, read.next as i64);
        }
    }

    fn delete(&mut self) {
        let topic = TOPICS[self.rng.below(4) as usize];
        self.half_deleted = Some(topic);
        self.made.remove(topic);
        let deleted = self.broker().delete_topic(topic);
        self.say(|| format!("  deleted {topic}: {deleted:?}"));
        if deleted.is_ok() && !self.disk.is_dead() {
            self.half_deleted = None;
            self.forget(topic);
        } else if !self.disk.is_dead() {
            self.half_deleted = None;
            self.forget(topic);
            self.deleted.remove(topic);
            self.unknown.insert(topic);
        }
    }

    fn drop_old(&mut self, broker: &Broker, step: impl FnOnce(&MessageStore)) {
        let log = broker.store().log();
        let last = log.chain().last().map_or(0, |segment| segment.base);
        self.dropped_to = self.dropped_to.max(last);
        step(broker.store());
        if !self.disk.is_dead() {
            self.dropped_to = log.min_offset();
        }
    }

    fn forget(&mut self, topic: &'static str) {
        self.places.retain(|place, _| place.0 != topic);
        self.sent.retain(|_, sent| sent.place.0 != topic);
        self.told.lock().unwrap().shown.retain(|place| place.0 != topic);
        self.deleted.insert(topic);
    }

    fn step(&mut self) {
        let broker = self.broker();
        let store = broker.store();
        let hour = self.rng.one_in(40);
        self.clock.advance(if hour { 1_200_000 } else { 1 + self.rng.below(50) as i64 });
        let what = self.rng.below(100);
        self.say(|| format!("step {what}"));
        // What fails is tried again later, as the threads do.
        match what {
            0..45 => self.append(1),
            45..55 => {
                let count = 2 + self.rng.below(6);
                self.append(count);
            }
            55..67 => drop(store.flush()),
            67..70 => drop(store.flush_step()),
            70..78 => self.drop_old(&broker, |store| drop(store.upkeep_step())),
            78..84 => drop(store.index_step()),
            84..87 => drop(store.write_checkpoint()),
            87..90 => self.drop_old(&broker, |store| drop(store.delete_expired())),
            90..95 => self.consume(),
            95..98 => drop(broker.save_step()),
            _ if self.half_deleted.is_none() => self.delete(),
            _ => {}
        }
    }

    // ---- what is there ----

    /// Compares all that can be read with what was promised; what is there is promised from
    /// now on.
    fn check(&mut self) {
        let broker = self.broker();
        let store = broker.store();
        while let Ok(true) = store.index_step() {}
        while let Ok(true) = store.check_index_step() {}
        if self.disk.is_dead() {
            return;
        }
        assert_eq!(store.damaged_index_files(), 0, "a damaged index was trusted");
        assert!(store.log().min_offset() <= self.dropped_to, "files went that nobody deleted");
        let mut found = BTreeSet::new();
        if let Some(topic) = self.half_deleted.take() {
            // All is there, or nothing.
            if broker.topics().get(topic).is_none() {
                self.forget(topic);
            }
        }
        for topic in &self.made {
            assert!(broker.topics().get(topic).is_some(), "the settings of {topic} are lost");
        }
        for topic in &self.deleted {
            assert!(broker.topics().get(topic).is_none(), "{topic} is there again");
            let there = (0..QUEUES).any(|queue| store.max_offset(topic, queue) > 0);
            assert!(!there, "{topic} has messages again");
        }
        for topic in TOPICS.into_iter().filter(|topic| !self.unknown.contains(topic)) {
            for queue in 0..QUEUES {
                let next = broker.offsets().get(GROUP, topic, queue).unwrap_or(0);
                let (min, max) = (store.min_offset(topic, queue), store.max_offset(topic, queue));
                assert!(next <= max as i64, "{topic}/{queue} is consumed up to {next} of {max}");
                for offset in min..max {
                    let place = (topic, queue, offset);
                    let one = ReadLimits { messages: 1, scan: 1, ..ReadLimits::default() };
                    let read = store.read(topic, queue, offset as i64, &one, |_| true);
                    let record = read.records.first().and_then(|slice| as_record(slice));
                    let Some(record) = record.filter(|r| r.queue_offset() == offset as i64) else {
                        // What was lost there was not promised, as is seen below.
                        let unit = store.queues().get(topic, queue).and_then(|q| q.get(offset));
                        let lost = unit.is_none_or(|unit| unit.is_filler());
                        assert!(lost || read.records.is_empty(), "{place:?} is {unit:?}");
                        continue;
                    };
                    assert_eq!((record.topic(), record.queue_id()), (topic, queue));
                    let n = *self.places.get(&place).unwrap_or_else(|| {
                        panic!(
                            "{place:?}, {:?} at {}, was never appended",
                            number(record.body()),
                            record.physical_offset()
                        )
                    });
                    let sent = self.sent.get_mut(&n).unwrap();
                    assert_eq!(record.physical_offset() as u64, sent.at, "{n}");
                    assert_eq!(number(record.body()), Some(n), "{place:?} has another body");
                    if record.properties() != properties(n).as_bytes() {
                        assert!(sent.torn || !sent.promised, "{n}, {sent:?}, is damaged");
                        sent.torn = true;
                    }
                    found.insert(n);
                    let passed_by = offset < next as u64 && !self.consumed.contains(&n);
                    assert!(!passed_by || sent.torn, "{n}, {sent:?}, is passed by: {next}");
                }
            }
        }
        for (n, sent) in self.sent.iter().filter(|(_, sent)| sent.at >= self.dropped_to) {
            let expected = sent.promised || sent.cached;
            assert!(!expected || found.contains(n), "{n}, {sent:?}, is lost");
            let by_position = store.record_at(sent.at);
            let record = by_position.as_ref().and_then(|slice| as_record(slice));
            let is_whole = record.as_ref().is_none_or(|r| number(r.body()).is_some());
            assert!(is_whole, "what stands at {} is given out with another body", sent.at);
            if !found.contains(n) || sent.torn {
                continue;
            }
            assert_eq!(number(record.unwrap().body()), Some(*n), "at {}", sent.at);
            for key in [format!("K{n}"), format!("U{n}")] {
                let found = store.query(sent.place.0, &key, 9, 0, i64::MAX).records;
                let numbers: Vec<_> = found
                    .iter()
                    .map(|slice| as_record(slice).and_then(|r| number(r.body())))
                    .collect();
                assert_eq!(numbers, [Some(*n)], "by the key {key} of {sent:?}");
            }
        }
        self.checked = true;
        self.dropped_to = store.log().min_offset();
        self.sent.retain(|n, _| found.contains(n));
        self.places.retain(|_, n| found.contains(n));
        self.sent.values_mut().for_each(|sent| sent.promised = true);
        let passed_on = self.sent.len();
        self.say(|| format!("CHECKED, {passed_on} messages"));
    }

    /// Opens what the last life left and looks at it, with another cut on the way, perhaps.
    fn reopen_and_check(&mut self) {
        loop {
            if self.rng.one_in(2) {
                let (at, after) = (1 + self.rng.below(60), self.rng.one_in(2));
                self.disk.plan(Plan::Cut { at, after });
                self.say(|| format!("opening, with a cut at {at}, after: {after}"));
            } else {
                self.disk.plan(Plan::Nothing);
            }
            let opened = self.open();
            if !self.disk.is_dead() {
                opened.unwrap();
                self.check();
            }
            if !self.disk.is_dead() {
                return self.disk.plan(Plan::Nothing);
            }
            self.after_the_cut();
        }
    }

    /// Some lives of a store, each of which ends one way or another.
    fn live(&mut self) {
        for _ in 0..2 + self.rng.below(4) {
            self.reopen_and_check();
            let (at, after) = (1 + self.rng.below(300), self.rng.one_in(2));
            self.say(|| format!("working, with a cut at {at}, after: {after}"));
            self.disk.plan(Plan::Cut { at, after });
            let steps = 20 + self.rng.below(150);
            for _ in 0..steps {
                self.step();
                if self.disk.is_dead() {
                    break;
                }
            }
            let how = self.rng.below(4);
            if !self.disk.is_dead() && how == 0 {
                self.say(|| "kill".into());
                self.disk.kill();
                self.end(true);
                self.disk.revive();
                continue;
            }
            if !self.disk.is_dead() && how == 1 {
                self.say(|| "close".into());
                let closed = self.broker().close();
                if !self.disk.is_dead() {
                    closed.unwrap();
                    self.end(true);
                    self.sent.values_mut().for_each(|sent| sent.promised = true);
                    if self.rng.one_in(2) {
                        self.after_the_cut();
                    }
                    continue;
                }
            }
            self.after_the_cut();
        }
        self.reopen_and_check();
    }
}

/// Work with one call that fails, or all from one on. Then the process is killed, or the power
/// cut. False if nothing failed.
fn fail(at: u64, kind: ErrorKind, and_on: bool, trace: bool) -> bool {
    let mut world = World::new(at * 2 + u64::from(kind == ErrorKind::StorageFull), trace);
    // The same work for each call.
    world.rng = Rng(1);
    world.sync = !at.is_multiple_of(3);
    world.disk.plan(Plan::Fail { at, kind, and_on });
    let opened = world.open();
    if opened.is_err() {
        assert!(world.disk.failed().is_some(), "{opened:?}");
    } else {
        world.checked = true;
        for _ in 0..150 {
            world.step();
        }
        let (broker, clock) = (world.broker(), world.clock.clone());
        let poisoned = broker.store().log().poison().is_some();
        assert!(!poisoned || world.disk.log_sync_failed(), "poisoned by {:?}", world.disk.failed());
        world.disk.plan(Plan::Nothing);
        if !poisoned {
            for _ in 0..30 {
                clock.advance(1);
                let before = world.next;
                world.append(1);
                if world.unknown.len() == TOPICS.len() {
                    break;
                }
                let last = world.sent.last_key_value().map(|(n, _)| n + 1);
                let refused = world.next > before && last != Some(world.next);
                assert!(!refused, "appends are refused after {:?}", world.disk.failed());
            }
            broker.store().flush().unwrap();
            broker.store().upkeep_step().unwrap();
        }
        if world.rng.one_in(3) {
            drop(broker.close());
        }
    }
    let failed = world.disk.failed();
    if at.is_multiple_of(2) {
        world.disk.kill();
        world.end(true);
        world.disk.revive();
    } else {
        world.after_the_cut();
    }
    world.disk.plan(Plan::Nothing);
    world.open().unwrap();
    world.check();
    for _ in 0..20 {
        world.step();
    }
    world.broker().close().unwrap();
    world.end(true);
    world.open().unwrap();
    world.check();
    failed.is_some()
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn a_power_cut_takes_nothing_that_was_promised() {
    let began = std::time::Instant::now();
    let from = setting("MQ_CRASH_FROM").unwrap_or(0);
    let (seeds, trace) = match setting("MQ_CRASH_SEED") {
        Some(seed) => (seed..seed + 1, true),
        None => (from..from + setting("MQ_CRASH_SEEDS").unwrap_or(300), false),
    };
    let (next, bad) = (AtomicU64::new(seeds.start), Mutex::new(BTreeSet::new()));
    std::thread::scope(|scope| {
        for _ in 0..setting("MQ_CRASH_THREADS").unwrap_or(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    if catch_unwind(AssertUnwindSafe(|| World::new(seed, trace).live())).is_err() {
                        println!("seed {seed} fails: MQ_CRASH_SEED={seed} cargo test -p mq-store --test crash");
                        bad.lock().unwrap().insert(seed);
                    }
                    let done = seed + 1 - seeds.start;
                    if done.is_multiple_of(10_000) {
                        println!("{done} seeds after {} s", began.elapsed().as_secs());
                    }
                }
            });
        }
    });
    let (bad, count) = (bad.into_inner().unwrap(), seeds.end - seeds.start);
    println!(
        "{count} seeds, {seeds:?}, in {} s: {} violations",
        began.elapsed().as_secs(),
        bad.len()
    );
    assert!(bad.is_empty(), "seeds {bad:?} fail; MQ_CRASH_SEED=<seed> replays one");
}

#[test]
fn a_call_that_fails_costs_nothing_that_was_promised() {
    let one = setting("MQ_CRASH_SEED");
    let mut bad = Vec::new();
    for (kind, and_on) in [
        (ErrorKind::Other, false),
        (ErrorKind::StorageFull, false),
        (ErrorKind::Other, true),
        (ErrorKind::StorageFull, true),
    ] {
        let calls = one.map_or(1..u64::MAX, |call| call..call + 1);
        let step = if std::env::var_os("MQ_CRASH_SEEDS").is_some() { 1 } else { 5 };
        for at in calls.step_by(step) {
            match catch_unwind(AssertUnwindSafe(|| fail(at, kind, and_on, one.is_some()))) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => {
                    println!("call {at} with {kind:?}, and on: {and_on}, fails");
                    bad.push((at, kind, and_on));
                }
            }
        }
    }
    assert!(bad.is_empty(), "calls {bad:?} fail; MQ_CRASH_SEED=<call> replays one");
}
