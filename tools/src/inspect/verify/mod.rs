//! `verify`: the log against itself, and everything else against the log.
//!
//! The log is walked once. Each record confirms its unit and its index items on the way; what
//! no record confirmed is looked at one by one afterwards.

mod index;
mod keys;
mod queues;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use mq_store::codec::record::{MIN_LEN, Record, sys_flag};
use mq_store::config::StoreConfig;
use mq_store::log::scan::{self, Checks, End, Step, Why};
use mq_store::view::{ConfigFile, Misfit, StoreView};
use serde_json::json;

use super::output::{Output, Progress, count, printable};
use super::summary::max_offset;
use super::{Answer, Failure};
use index::IndexWalk;
use keys::Keys;
use queues::{Fault, Queues};

/// Files of the folder `config` that are looked at.
const CONFIG: [&str; 5] = [
    "topics.json",
    "subscriptionGroup.json",
    "consumerOffset.json",
    "lmqConsumerOffset.json",
    "delayOffset.json",
];
const TORN: &str = "the properties are torn";
const WRONG_CRC: &str = "something in it, though not the body, does not match the CRC at its end";
/// Memory is given back when so many bytes of the log were walked.
const RELEASE_EVERY: u64 = 64 << 20;

/// What was found, for whoever wants to mend it.
#[derive(Default)]
pub struct Findings {
    /// Places where something is damaged.
    pub damage: u64,
    /// Messages that may be damaged beside their body.
    suspicious: u64,
    /// From where to where bytes of the log are no records, with intact ones behind them.
    pub holes: Vec<(u64, u64)>,
    /// Records that cannot be believed.
    pub bad_records: Vec<(u64, u64)>,
    /// Behind the last record, and whether something else stands there.
    pub end: u64,
    pub has_tail: bool,
    pub bad_queues: BTreeSet<(String, i32)>,
    pub bad_index: bool,
    pub bad_checkpoint: bool,
    pub bad_config: Vec<&'static str>,
    /// Groups that committed more than their queue has.
    pub ahead: u64,
    pub misfits: Vec<Misfit>,
    records: u64,
    units: u64,
    items: u64,
    groups: u64,
}

struct Check<'a> {
    view: &'a StoreView,
    out: &'a mut Output,
    /// Somebody has the store open, so its ends are moving.
    live: bool,
    /// The next start will do what was left undone.
    unfinished: bool,
    config: StoreConfig,
    queues: Queues,
    misfits: Vec<Misfit>,
    faults: BTreeMap<(String, i32, Fault), (u64, u64, u64)>,
    batches: BTreeMap<(String, i32), u64>,
    crcs: Crcs,
    found: Findings,
    failed: Result<(), Failure>,
    released: u64,
}

/// Whether to believe a record's CRC of itself that is not right. A broker that adds them adds one to
/// every record, so that of a record between two right ones is its own. Elsewhere it may have come with
/// the message, from another record.
#[derive(Default)]
struct Crcs {
    /// Whether the record before ends in a right one.
    before: bool,
    /// A record that does not match, of which the next one will tell: whether one that does is in front of
    /// it, and what to say.
    doubtful: Option<(bool, String)>,
}

pub fn verify(view: &StoreView, args: &super::Verify, out: &mut Output) -> Answer {
    let began = Instant::now();
    let live = view.in_use().is_some();
    let unfinished = live || view.has_abort();
    let found = check(view, live, out)?;
    let damage = found.damage;
    let took = began.elapsed();
    if out.json {
        out.object(&json!({
            "sound": damage == 0, "damage": damage, "suspicious": found.suspicious,
            "records": found.records,
            "units": found.units, "indexItems": found.items, "committedOffsets": found.groups,
        }))?;
    } else {
        let verdict = match (damage, live, unfinished) {
            (0, true, _) => "sound, as far as can be told of a store in use".into(),
            (0, _, true) => "sound; it was not closed, and the next start has work to do".into(),
            (0, ..) => "sound".into(),
            (n, ..) => out.alarm(&format!("DAMAGE in {n} places")),
        };
        let suspicious = match found.suspicious {
            0 => String::new(),
            n => format!("; {} messages are suspicious", count(n)),
        };
        let [r, u, i, g] = [found.records, found.units, found.items, found.groups].map(count);
        out.line(&format!(
            "{r} records, {u} units, {i} keys, {g} committed offsets: {verdict}{suspicious}"
        ))?;
    }
    if args.speed {
        speed(view, found.end, took, out)?;
    }
    Ok(damage == 0)
}

/// Sets the time that it took beside that of nothing but a CRC over the log up to `end`.
fn speed(view: &StoreView, end: u64, took: Duration, out: &mut Output) -> Result<(), Failure> {
    let began = Instant::now();
    let mut bytes = 0;
    for file in view.log().all().iter().filter(|s| s.base < end) {
        let tail = file.tail(file.base);
        let used = &tail[..tail.len().min((end - file.base) as usize)];
        // As verify does it: mapped, and given back.
        for piece in used.chunks(RELEASE_EVERY as usize) {
            std::hint::black_box(crc32fast::hash(piece));
            view.release();
        }
        bytes += used.len();
    }
    let rate = |time: Duration| bytes as f64 / 1e9 / time.as_secs_f64().max(1e-9);
    let (verify, crc) = (rate(took), rate(began.elapsed()));
    if out.json {
        return Ok(
            out.object(&json!({"bytes": bytes, "gbPerSecond": verify, "crcGbPerSecond": crc}))?
        );
    }
    let percent = verify / crc * 100.0;
    let line =
        format!("{verify:.2} GB/s of log; a CRC alone {crc:.2} GB/s: {percent:.0} % of that");
    Ok(out.line(&line)?)
}

/// Checks everything and tells what is wrong. A store that is not `live` is at rest.
pub fn check(view: &StoreView, live: bool, out: &mut Output) -> Result<Findings, Failure> {
    let mut check = Check {
        view,
        out,
        live,
        unfinished: live || view.has_abort(),
        config: StoreConfig::at(view.root()),
        queues: Queues::default(),
        misfits: view.misfits().to_vec(),
        faults: BTreeMap::new(),
        batches: BTreeMap::new(),
        crcs: Crcs::default(),
        found: Findings::default(),
        failed: Ok(()),
        released: 0,
    };
    let mut index = IndexWalk::new(view.index(&mut check.misfits)?, live);
    let log = check.log(&mut index)?;
    check.found.units = check.all_queues(log.end)?;
    check.found.items = check.index(index, &log)?;
    check.checkpoint(&log)?;
    check.found.groups = check.offsets()?;
    for Misfit { path, what } in &std::mem::take(&mut check.misfits) {
        check.tell(true, "file", &format!("{}: {what}", path.display()))?;
        check.found.misfits.push(Misfit { path: path.clone(), what: what.clone() });
    }
    Ok(check.found)
}

/// What the walk over the log told.
struct Log {
    end: u64,
    /// The latest store time, ms.
    last_time: i64,
    /// Position of the last record that has keys.
    last_with_keys: Option<u64>,
}

impl Check<'_> {
    fn tell(&mut self, is_damage: bool, kind: &str, what: &str) -> io::Result<()> {
        self.found.damage += u64::from(is_damage);
        let severity = if is_damage { "damage" } else { "note" };
        if self.out.json {
            return self.out.object(&json!({"severity": severity, "kind": kind, "what": what}));
        }
        let mut severity = format!("{severity:<7}");
        if is_damage {
            severity = self.out.alarm(&severity);
        }
        self.out.line(&format!("{severity}{kind:<11}{}", printable(what)))
    }

    fn log(&mut self, index: &mut IndexWalk) -> Result<Log, Failure> {
        let mut log = Log { end: 0, last_time: 0, last_with_keys: None };
        let files = self.view.log().all();
        let from = files.first().map_or(0, |s| s.base);
        let limit = files.last().map_or(0, |s| s.limit());
        let mut progress = Progress::new("log", limit - from);
        let checks = Checks {
            crc_from: 0,
            last_time: 0,
            zeros_end_from: if self.live { 0 } else { u64::MAX },
        };
        let End { at, why, .. } = scan::walk(&files, from, checks, |step| {
            let result = match &step {
                Step::Record(r) | Step::BadBody(r) => {
                    let at = r.physical_offset().unsigned_abs();
                    progress.at(at - from);
                    self.found.records += 1;
                    log.last_time = log.last_time.max(r.store_timestamp());
                    let keys = Keys::of(r);
                    if keys.any() && r.transaction() != sys_flag::ROLLBACK {
                        log.last_with_keys = Some(at);
                    }
                    index.confirm(self.view, r, &keys);
                    self.release(at);
                    self.record(r, &keys, matches!(step, Step::BadBody(_)))
                }
                Step::Hole { from, to, why } => {
                    self.found.holes.push((*from, *to));
                    let what = format!("{} bytes from {from} on are lost: {why}", to - from);
                    self.tell(true, "log", &what).map_err(Failure::from)
                }
            };
            match result {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => {
                    self.failed = Err(e);
                    ControlFlow::Break(())
                }
            }
        });
        progress.clear();
        std::mem::replace(&mut self.failed, Ok(()))?;
        self.crc(None, String::new)?;
        (log.end, self.found.end) = (at, at);
        if let Why::Broken(e) = why {
            // The record may be just being written.
            self.found.has_tail = true;
            let what = format!("what stands at {at}, behind the last record: {e}");
            self.tell(!self.live, "log", &what)?;
        }
        Ok(log)
    }

    fn record(&mut self, r: &Record<'_>, keys: &Keys<'_>, is_bad: bool) -> Result<(), Failure> {
        let at = r.physical_offset().unsigned_abs();
        let damage = if is_bad { damage_of(r) } else { damage_beside_body(r) };
        // There is no room for more messages in front of it.
        let has_place = u64::try_from(r.queue_offset()).is_ok_and(|n| n <= at / MIN_LEN as u64);
        let misplaced =
            || (!has_place && r.is_dispatched()).then(|| "its queue offset cannot be".into());
        if let Some(what) = damage.or_else(misplaced) {
            // A producer may have put zeros into a property. With a sound body and end such a
            // message is told of, and not taken away.
            if is_bad || what != TORN || r.properties().last() == Some(&0) {
                self.found.bad_records.push((at, at + r.size() as u64));
            }
            self.tell(true, "log", &format!("the message at {at} ({}): {what}", r.topic()))?;
        }
        // A wrong body was told of.
        let crc = if is_bad { None } else { r.check_crc() };
        self.crc(crc, || format!("the message at {at} ({}): {WRONG_CRC}", r.topic()))?;
        if r.sys_flag() & sys_flag::INNER_BATCH != 0 {
            *self.batches.entry((r.topic().to_owned(), r.queue_id())).or_default() += 1;
        } else if r.is_dispatched() && has_place {
            self.has_unit(r.topic(), r.queue_id(), r.queue_offset().unsigned_abs(), r, keys);
        }
        for (topic, offset) in keys.light_queues() {
            self.has_unit(topic, 0, offset, r, keys);
        }
        Ok(())
    }

    /// Takes in whether the next record matches the CRC at its end, if it has one.
    fn crc(&mut self, crc: Option<bool>, what: impl FnOnce() -> String) -> io::Result<()> {
        let is_right = crc == Some(true);
        if let Some((before, what)) = self.crcs.doubtful.take() {
            let is_damage = before && is_right;
            self.found.suspicious += u64::from(!is_damage);
            let may_be = if is_damage { "" } else { ", which may be another record's" };
            self.tell(is_damage, "log", &format!("{what}{may_be}"))?;
        }
        if crc == Some(false) {
            self.crcs.doubtful = Some((self.crcs.before, what()));
        }
        self.crcs.before = is_right;
        Ok(())
    }

    /// Lets go of what is mapped, now and then.
    fn release(&mut self, at: u64) {
        if at.abs_diff(self.released) >= RELEASE_EVERY {
            let (from, to) = (self.released.min(at), self.released.max(at));
            let files = self.view.log().all();
            for s in files.iter().filter(|s| s.base < to && from < s.limit()) {
                s.file.release(from.saturating_sub(s.base) as usize, (to - s.base) as usize);
            }
            self.queues.release();
            self.released = at;
        }
    }

    fn checkpoint(&mut self, log: &Log) -> io::Result<()> {
        let Some(c) = self.view.checkpoint() else {
            return self.tell(false, "checkpoint", "there is none");
        };
        // Index files are named and flushed a little later than their last record.
        let latest = log.last_time.saturating_add(1000);
        if c.believable(latest, log.end) != c && !self.live {
            self.found.bad_checkpoint = true;
            self.tell(true, "checkpoint", "it speaks of times or positions that the log lacks")?;
        }
        Ok(())
    }

    fn offsets(&mut self) -> Result<u64, Failure> {
        let (committed, _) = self.view.committed();
        if self.view.config("topics.json") == ConfigFile::default() {
            self.tell(false, "config", "there is no topics.json")?;
        }
        let wheel = self.view.root().join("timerwheel");
        let timer = self.view.queue("rmq_sys_wheel_timer", 0, &mut Vec::new())?;
        if timer.max_offset() > 0 && !wheel.exists() {
            self.tell(false, "timer", "there is no timerwheel: all timed messages come again")?;
        }
        for name in CONFIG {
            let file = self.view.config(name);
            if let Some(Misfit { path, what }) = file.problem {
                // A crash may leave half a file, and a good .bak.
                let is_damage = file.value.is_none() || !self.unfinished;
                self.found.bad_config.push(name);
                self.tell(is_damage, "config", &format!("{}: {what}", path.display()))?;
            }
        }
        for c in &committed {
            let Some(seen) = self.seen(&c.topic, c.queue_id) else { continue };
            let (min, mut max) = (seen.queue.min_offset(), seen.queue.max_offset().max(seen.next));
            if max == 0 {
                max = max_offset(self.view, &c.topic, c.queue_id)?;
            }
            let who = format!("{} in {} queue {}", c.group, c.topic, c.queue_id);
            if u64::try_from(c.offset).is_ok_and(|n| n > max) && !self.live {
                self.found.ahead += 1;
                let what = format!("{who}: {} is behind the queue's end, {max}", c.offset);
                self.tell(true, "offset", &what)?;
            } else if c.offset < min as i64 && max > 0 && c.offset >= 0 {
                let what = format!("{who}: {} is before the first, {min}", c.offset);
                self.tell(false, "offset", &what)?;
            }
        }
        Ok(committed.len() as u64)
    }
}

/// What is wrong with a record of the right form.
pub fn damage_of(r: &Record<'_>) -> Option<String> {
    if let Err(e) = r.check_body() {
        return Some(e.to_string());
    }
    damage_beside_body(r)
}

fn damage_beside_body(r: &Record<'_>) -> Option<String> {
    // Often nothing else covers the properties: a torn write ends in zeros.
    r.properties().contains(&0).then(|| TORN.into())
}
