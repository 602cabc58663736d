//! Transactions and delayed messages whose process is killed, or whose power is cut, at every
//! step of their life: behind each record that is written, before and after each call that
//! changes a file. The next life settles what is open, and each must be there once.

#![allow(clippy::unwrap_used, reason = "a test that fails is a failed test")]

mod common;
#[allow(dead_code, reason = "only its cuts are used")]
#[path = "crash/disk.rs"]
mod disk;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use disk::{Disk, Plan, folder};
use mq_store::broker::send::Sending;
use mq_store::broker::transaction::{Check, End};
use mq_store::broker::{Broker, BrokerConfig};
use mq_store::config::StoreConfig;
use mq_store::log::commit_log::Appended;
use mq_store::log::flush::FlushPolicy;
use mq_store::os::clock::{Clock, ManualClock};
use mq_store::os::fs::{Call, Fs, Watch};
use mq_store::store::{MessageStore, ReadLimits, as_record};
use tempfile::TempDir;

const NOW: i64 = 1_795_467_835_737;
/// By their first letters: committed, rolled back, never settled, delayed.
const MESSAGES: [&str; 10] = [
    "commit",
    "rollback",
    "unknown",
    "commit when asked",
    "rollback when asked",
    "commit late",
    "delay 1",
    "delay 1 again",
    "delay 2",
    "delay 1 late",
];

/// What the world was told when the end came.
#[derive(Clone, Default)]
struct Told {
    acknowledged: BTreeSet<&'static str>,
    now: i64,
    doing: String,
}

struct House {
    broker: Arc<Broker>,
    clock: Arc<ManualClock>,
}

fn open(
    root: &Path,
    fs: Fs,
    flush: FlushPolicy,
    now: i64,
    wrote: impl Fn(&str) + Send + Sync + 'static,
) -> House {
    let clock = Arc::new(ManualClock::at(now));
    let config = StoreConfig { flush, ..common::config(root) };
    let (store, _) = MessageStore::open_with(config, fs, clock.clone(), &mut |_, _| {}).unwrap();
    let config = BrokerConfig { transaction_check_max: 2, ..BrokerConfig::default() };
    let (broker, _) =
        Broker::open(Arc::new(store), config, Box::new(move |arrival| wrote(arrival.topic)));
    House { broker, clock }
}

/// One life, up to its natural end or until `is_over`.
struct Life<'a> {
    house: House,
    told: &'a Mutex<Told>,
    is_over: &'a dyn Fn() -> bool,
}

impl Life<'_> {
    fn broker(&self) -> &Broker {
        &self.house.broker
    }

    fn doing(&self, what: impl Into<String>) {
        let mut told = self.told.lock().unwrap();
        (told.doing, told.now) = (what.into(), self.house.clock.now_ms());
    }

    fn pass(&self, ms: i64) {
        self.house.clock.advance(ms);
    }

    /// Under sync flush the answer waits for the disk.
    fn is_durable(&self, appended: &Appended) -> bool {
        let store = self.broker().store();
        store.config().flush != FlushPolicy::Sync || store.flush_to(appended).is_ok()
    }

    fn send(&self, body: &'static str, properties: &str) -> (i64, i64) {
        self.doing(format!("send {body}"));
        let properties = format!("{properties}\u{2}UNIQ_KEY\u{1}U-{body}\u{2}");
        let sent = self.broker().send(&Sending {
            topic: "T",
            queue_id: 1,
            default_topic: "TBW102",
            default_queues: 4,
            unit_mode: false,
            sys_flag: 0,
            flag: 0,
            born_timestamp: 1,
            born_host: "127.0.0.1:5000".parse().unwrap(),
            reconsume_times: 0,
            max_reconsume_times: None,
            properties: &properties,
            stamped: true,
            body: body.as_bytes(),
        });
        let Ok(sent) = sent else { return (0, 0) };
        if self.is_durable(&sent.appended) && !(self.is_over)() {
            self.told.lock().unwrap().acknowledged.insert(body);
        }
        (sent.appended.queue_offset as i64, sent.appended.physical_offset as i64)
    }

    fn half(&self, body: &'static str) -> (i64, i64) {
        self.send(body, "TRAN_MSG\u{1}true\u{2}PGROUP\u{1}P")
    }

    fn delayed(&self, body: &'static str, level: i32) {
        self.send(body, &format!("DELAY\u{1}{level}"));
    }

    fn end(&self, (queue_offset, physical_offset): (i64, i64), commit: bool) {
        self.doing(format!("end {queue_offset}, commit: {commit}"));
        let end = End { group: "P", queue_offset, physical_offset, commit };
        if let Ok(Some(appended)) = self.broker().end_transaction(&end) {
            self.is_durable(&appended);
        }
    }

    fn checks(&self) -> Vec<Check> {
        self.doing("check");
        let mut checks = Vec::new();
        let _ = self.broker().check_step(&mut |check| checks.push(check));
        checks
    }

    fn answer(&self, check: &Check) {
        let record = as_record(&check.record).unwrap();
        let commit = record.body().starts_with(b"commit");
        if commit || record.body().starts_with(b"rollback") {
            self.end((check.queue_offset, check.physical_offset), commit);
        }
    }

    fn deliver(&self) {
        self.doing("deliver");
        let _ = self.broker().deliver_step();
    }

    fn save(&self) {
        self.doing("save");
        let _ = self.broker().save_step();
    }

    fn live(&self) {
        let commit = self.half("commit");
        let rollback = self.half("rollback");
        self.half("unknown");
        self.half("commit when asked");
        self.half("rollback when asked");
        self.delayed("delay 1", 1);
        self.delayed("delay 1 again", 1);
        self.delayed("delay 2", 2);
        self.save();
        self.end(commit, true);
        self.end(rollback, false);
        self.save();
        self.pass(1_000);
        self.deliver();
        self.pass(10_000);
        self.save();
        let asked = self.checks();
        self.deliver();
        self.save();
        asked.iter().for_each(|check| self.answer(check));
        let late = self.half("commit late");
        self.delayed("delay 1 late", 1);
        self.pass(10_000);
        self.save();
        self.deliver();
        self.checks();
        self.end(late, true);
        self.pass(10_000);
        self.save();
        self.checks();
        self.save();
        self.doing("close");
        let _ = self.broker().close();
    }
}

/// But for records that a power cut tore: under async flush one without some of its properties
/// is nobody's.
fn bodies(broker: &Broker, topic: &str, queue_id: i32) -> Vec<String> {
    let limits = ReadLimits { messages: 1000, ..ReadLimits::default() };
    let read = broker.store().read(topic, queue_id, 0, &limits, |_| true);
    let records = read.records.iter().map(|slice| as_record(slice).unwrap());
    let whole = records.filter(|record| !record.properties().contains(&0));
    whole.map(|record| String::from_utf8_lossy(record.body()).into_owned()).collect()
}

/// The next life: all that is open is settled, and counted. `promised`: what was acknowledged
/// must be there.
fn settle(root: &Path, flush: FlushPolicy, told: &Told, promised: bool, how: &str) {
    let house = open(root, Fs::default(), flush, told.now, |_| {});
    let told_now = Mutex::default();
    let life = Life { house, told: &told_now, is_over: &|| false };
    for _ in 0..6 {
        life.pass(10_000);
        life.deliver();
        life.checks().iter().for_each(|check| life.answer(check));
        life.save();
    }
    assert_eq!(life.broker().open_transactions(), 0);
    let shown = bodies(life.broker(), "T", 1);
    let given_up = bodies(life.broker(), "TRANS_CHECK_MAX_TIME_TOPIC", 0);
    for message in MESSAGES {
        let count = |bodies: &[String]| bodies.iter().filter(|b| *b == message).count();
        let (place, not_there) = match &message[..1] {
            "c" | "d" => (&shown, &given_up),
            _ => (&given_up, &shown),
        };
        let times = count(place);
        let must =
            promised && told.acknowledged.contains(message) && !message.starts_with("rollback");
        let may = usize::from(!message.starts_with("rollback"));
        assert!(
            (usize::from(must)..=may).contains(&times) && count(not_there) == 0,
            "{message:?} is there {times} times after {how} at {:?}: {shown:?}, {given_up:?}",
            told.doing
        );
    }
}

/// Stops at each step: behind each record, before and after each call that changes a file.
struct Steps {
    told: Arc<Mutex<Told>>,
    at_each: Box<dyn Fn(Told) + Send + Sync>,
}

impl Steps {
    fn step(&self, what: String) {
        let mut told = self.told.lock().unwrap().clone();
        if !told.doing.is_empty() {
            told.doing += &format!(", {what}");
            (self.at_each)(told);
        }
    }
}

impl Watch for Steps {
    fn before(&self, call: &Call, path: &Path) -> std::io::Result<()> {
        self.step(format!("before {call:?} of {}", path.display()));
        Ok(())
    }
    fn after(&self, call: &Call, path: &Path) {
        self.step(format!("after {call:?} of {}", path.display()));
    }
}

fn flush() -> FlushPolicy {
    StoreConfig::at(Path::new("x")).flush
}

/// A whole life, with something done at each step.
fn live_in_steps(root: &Path, at_each: Box<dyn Fn(Told) + Send + Sync>) {
    let told: Arc<Mutex<Told>> = Arc::default();
    let steps = Arc::new(Steps { told: told.clone(), at_each });
    let weak: Weak<Steps> = Arc::downgrade(&steps);
    let wrote = move |topic: &str| {
        if let Some(steps) = weak.upgrade() {
            steps.step(format!("a record of {topic} written"));
        }
    };
    let house = open(root, Fs::watched(steps), flush(), NOW, wrote);
    Life { house, told: &told, is_over: &|| false }.live();
}

/// This test runs itself in a process that stops at a step, says what was acknowledged, and waits
/// for its SIGKILL; for each step one.
#[test]
fn a_kill_at_any_step_loses_and_doubles_nothing() {
    const ME: &str = "a_kill_at_any_step_loses_and_doubles_nothing";
    const STOPPED: &str = "stopped: ";
    if let Ok(at) = std::env::var("MQ_KILL_AT") {
        let root = std::env::var_os("MQ_KILL_ROOT").unwrap();
        let left = AtomicUsize::new(at.parse().unwrap());
        let stop = move |told: Told| {
            if left.fetch_sub(1, Ordering::SeqCst) == 1 {
                let places = MESSAGES.iter().map(|m| told.acknowledged.contains(m));
                let acknowledged: String = places.map(|is| if is { '1' } else { '0' }).collect();
                println!("\n{STOPPED}{} {acknowledged} {}", told.now, told.doing);
                loop {
                    std::thread::park();
                }
            }
        };
        live_in_steps(Path::new(&root), Box::new(stop));
        return;
    }
    for at in 1.. {
        let dir = folder();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", ME, "--nocapture"])
            .env("MQ_KILL_AT", at.to_string())
            .env("MQ_KILL_ROOT", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let stopped = lines.map_while(Result::ok).find(|line| line.starts_with(STOPPED));
        let Some(stopped) = stopped else {
            let status = process.wait().unwrap();
            assert!(status.success() && at > 100, "{status} at step {at}");
            return;
        };
        process.kill().unwrap();
        assert_eq!(process.wait().unwrap().signal(), Some(9));
        let mut parts = stopped[STOPPED.len()..].splitn(3, ' ');
        let now = parts.next().unwrap().parse().unwrap();
        let places = parts.next().unwrap().chars().zip(MESSAGES);
        let acknowledged = places.filter(|(is, _)| *is == '1').map(|(_, m)| m).collect();
        let told = Told { acknowledged, now, doing: parts.next().unwrap().to_owned() };
        settle(dir.path(), flush(), &told, true, "a SIGKILL");
    }
}

/// Lives and has the power cut at some call, or behind some record. False if it never came.
fn cut(flush: FlushPolicy, plan: Plan, at_record: Option<u64>, seed: u64) -> bool {
    let dir = folder();
    let disk = Arc::new(Disk::over(dir.path(), seed, false));
    let image: Arc<Mutex<Option<TempDir>>> = Arc::default();
    let (told, left) = (Mutex::<Told>::default(), Mutex::new(at_record));
    let wrote = {
        let (disk, image) = (disk.clone(), image.clone());
        move |_: &str| {
            let mut left = left.lock().unwrap();
            if let Some(n) = left.as_mut() {
                *n -= 1;
                if *n == 0 {
                    *left = None;
                    *image.lock().unwrap() = Some(disk.cut());
                }
            }
        }
    };
    let house = open(dir.path(), Fs::watched(disk.clone()), flush, NOW, wrote);
    disk.plan(plan);
    let is_over = || disk.is_dead();
    Life { house, told: &told, is_over: &is_over }.live();
    if !disk.is_dead() {
        return false;
    }
    let image = image.lock().unwrap().take().unwrap_or_else(|| disk.cut());
    let told = told.lock().unwrap();
    let sync = flush == FlushPolicy::Sync;
    settle(image.path(), flush, &told, sync, &format!("a power cut ({plan:?}, {at_record:?})"));
    true
}

#[test]
fn a_power_cut_at_any_step_doubles_nothing_and_under_sync_flush_loses_nothing() {
    for flush in [flush(), FlushPolicy::Sync] {
        for after in [false, true] {
            let calls = (1..).take_while(|at| cut(flush, Plan::Cut { at: *at, after }, None, *at));
            assert!(calls.count() > 20);
        }
        let records = (1..).take_while(|n| cut(flush, Plan::Nothing, Some(*n), *n));
        assert!(records.count() > 20);
    }
}
