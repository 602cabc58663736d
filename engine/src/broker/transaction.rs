//! Transactional messages: a *half* waits in the half topic until its producer commits it, which
//! writes it to its own topic, or rolls it back. Either is noted in the op topic. A half that is
//! not settled in time is written again at the end of the half topic, counted, and its producer
//! asked.
//!
//! On disk all is as RocketMQ has it: below the offset of [`TRANS_GROUP`] in the half topic
//! everything is settled; above it, what an op record names, at or above the group's offset in
//! the op topic. What is not is kept in memory, and found again at the start. Unlike RocketMQ we
//! give all copies of a half one origin, so that it is settled once, whichever copy is named.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::names::{CHECK_MAX_TIME_TOPIC, HALF_TOPIC, OP_TOPIC, TRANS_GROUP};
use super::stats::Kind;
use super::topics::TopicConfig;
use super::{Broker, Refusal, names};
use crate::codec::properties::{self, name};
use crate::codec::record::{self, Message, Placement, Record, sys_flag};
use crate::error::{Error, Result};
use crate::log::commit_log::Appended;
use crate::log::flush::FlushPolicy;
use crate::os::map::Slice;
use crate::store::as_record;

/// Ops whose highest half is remembered as one.
const OPS_TOGETHER: u64 = 1024;
/// Copies that are written before their producers are asked.
const A_TURN: usize = 1024;
/// A commit and its op are written one after the other: of a commit that a crash left without,
/// at most so many messages of others came behind it.
const COMMITS_LOOKED_AT: u64 = 1000;

/// How a producer ends a transaction.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    pub group: &'a str,
    /// Offset in the half queue, and position in the log.
    pub queue_offset: i64,
    pub physical_offset: i64,
    pub commit: bool,
}

/// A half of which some producer of its group shall be asked.
#[derive(Clone, Debug)]
pub struct Check {
    pub group: String,
    /// Offset in the half queue, and position in the log.
    pub queue_offset: i64,
    pub physical_offset: i64,
    pub unique_key: String,
    pub offset_msg_id: String,
    /// The half's record, with the topic and queue it is meant for.
    pub record: Vec<u8>,
}

impl Check {
    fn of(half: &Record<'_>) -> Check {
        let (topic, queue_id) = real_place(half);
        let message = Message { topic, queue_id, ..half.message() };
        let place = Placement {
            queue_offset: half.queue_offset().unsigned_abs(),
            physical_offset: half.physical_offset().unsigned_abs(),
            store_timestamp: half.store_timestamp(),
            store_host: half.store_host(),
        };
        let mut bytes = vec![0; record::encoded_len(&message, &place.store_host)];
        record::encode(&message, &place, half.body_crc(), &mut bytes);
        Check {
            group: half.property(name::PGROUP).unwrap_or_default().into(),
            queue_offset: half.queue_offset(),
            physical_offset: half.physical_offset(),
            unique_key: half.property(name::UNIQ_KEY).unwrap_or_default().into(),
            offset_msg_id: half.offset_msg_id(),
            record: bytes,
        }
    }
}

/// The topic and queue that a half is meant for.
fn real_place<'a>(half: &Record<'a>) -> (&'a str, i32) {
    let queue_id = half.property(name::REAL_QID).and_then(|id| id.parse().ok()).unwrap_or(0);
    (half.property(name::REAL_TOPIC).unwrap_or_default(), queue_id)
}

/// The offset of the first copy of a half.
fn origin_of(half: &Record<'_>) -> u64 {
    let own = half.queue_offset().unsigned_abs();
    let first = half.property(name::TRAN_PREPARED_QUEUE_OFFSET).and_then(|text| text.parse().ok());
    first.filter(|first| *first < own).unwrap_or(own)
}

/// A half that is not settled.
#[derive(Clone, Copy, Debug)]
struct Open {
    physical_offset: u64,
    origin: u64,
}

#[derive(Debug, Default)]
struct State {
    /// By queue offset: the newest copy of each half.
    open: BTreeMap<u64, Open>,
    /// Origin to the newest copy.
    newest: HashMap<u64, u64>,
    /// Behind the last half that came.
    next_half: u64,
    /// Ops below this name halves below the first open one.
    op_from: u64,
    /// Behind the last op of each few, and the highest half that they name.
    ops: VecDeque<(u64, u64)>,
    checked_ms: i64,
    /// The thread that checks sleeps until a half comes, and `next_half` when it last looked.
    checker_rests: bool,
    checker_saw: u64,
}

impl State {
    fn came(&mut self, queue_offset: u64, physical_offset: u64, origin: u64) {
        self.next_half = self.next_half.max(queue_offset + 1);
        self.open.insert(queue_offset, Open { physical_offset, origin });
        if let Some(older) = self.newest.insert(origin, queue_offset) {
            self.open.remove(&older);
        }
    }

    fn settled(&mut self, queue_offset: u64) {
        if let Some(open) = self.open.remove(&queue_offset) {
            self.newest.remove(&open.origin);
        }
    }

    fn op(&mut self, at: u64, half: u64) {
        match self.ops.back_mut().filter(|_| !at.is_multiple_of(OPS_TOGETHER)) {
            Some(last) => *last = (at + 1, half.max(last.1)),
            None => self.ops.push_back((at + 1, half)),
        }
    }

    /// Offsets of half and op topic below which everything is settled.
    fn offsets(&mut self) -> (u64, u64) {
        let half = self.open.first_key_value().map_or(self.next_half, |(first, _)| *first);
        while let Some((behind, _)) = self.ops.front().filter(|(_, highest)| *highest < half) {
            self.op_from = *behind;
            self.ops.pop_front();
        }
        (half, self.op_from)
    }
}

/// All transactions that are not settled. Whoever writes a half, or settles one, holds the lock
/// from before the write until it is counted: no offset passes by what is not counted yet.
#[derive(Debug, Default)]
pub struct Transactions(Mutex<State>);

impl Transactions {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a look at an open half gave.
enum Looked {
    /// It is too young, as all behind it are.
    Young,
    Done,
    /// Its producer is to be asked about the copy at this position.
    Ask(u64),
}

impl Broker {
    /// Halves that are not settled.
    pub fn open_transactions(&self) -> usize {
        self.transactions.lock().open.len()
    }

    /// The same by the topic that they are meant for.
    pub fn open_transactions_by_topic(&self) -> BTreeMap<String, u64> {
        let state = self.transactions.lock();
        let positions: Vec<u64> = state.open.values().map(|open| open.physical_offset).collect();
        drop(state);
        let mut by_topic = BTreeMap::new();
        for half in positions.into_iter().filter_map(|at| self.half_at(at)) {
            if let Some(half) = as_record(&half) {
                *by_topic.entry(real_place(&half).0.to_owned()).or_default() += 1;
            }
        }
        by_topic
    }

    fn half_at(&self, physical_offset: u64) -> Option<Slice> {
        let slice = self.store.log().record_at(physical_offset)?;
        let is_half = |r: Record<'_>| r.topic() == HALF_TOPIC && r.check_body().is_ok();
        as_record(&slice).is_some_and(is_half).then_some(slice)
    }

    /// Writes a message, which names its own topic and queue, as a half.
    pub(super) fn put_half(&self, message: &Message<'_>) -> Result<Appended, Refusal> {
        self.topic_made(HALF_TOPIC.into(), 1)?;
        let mut text = message.properties.to_vec();
        properties::set(&mut text, name::REAL_TOPIC, message.topic);
        properties::set(&mut text, name::REAL_QID, &message.queue_id.to_string());
        // Only the broker counts copies and checks.
        properties::remove(&mut text, name::TRAN_PREPARED_QUEUE_OFFSET);
        properties::remove(&mut text, name::TRANSACTION_CHECK_TIMES);
        let sys_flag = message.sys_flag & !sys_flag::TRANSACTION;
        let half = Message { sys_flag, properties: &text, ..*message };
        Ok(self.write_half(&mut self.transactions.lock(), half, None)?)
    }

    fn write_half(
        &self,
        state: &mut State,
        half: Message<'_>,
        origin: Option<u64>,
    ) -> Result<Appended> {
        let appended =
            self.append(Kind::Transaction, &[Message { topic: HALF_TOPIC, queue_id: 0, ..half }])?;
        let at = appended.queue_offset;
        state.came(at, appended.physical_offset, origin.unwrap_or(at));
        if std::mem::take(&mut state.checker_rests) {
            self.wake("mq-transactions");
        }
        Ok(appended)
    }

    /// Writes a half again at the end of the queue, in place of its newest copy.
    fn put_back(
        &self,
        state: &mut State,
        half: &Record<'_>,
        origin: u64,
        checks: Option<i32>,
    ) -> Result<Appended> {
        let mut text = half.properties().to_vec();
        properties::set(&mut text, name::TRAN_PREPARED_QUEUE_OFFSET, &origin.to_string());
        if let Some(checks) = checks {
            properties::set(&mut text, name::TRANSACTION_CHECK_TIMES, &checks.to_string());
        }
        let copy = Message { properties: &text, ..half.message() };
        self.write_half(state, copy, Some(origin))
    }

    /// Writes the op that settles a half.
    fn settle(&self, state: &mut State, queue_offset: u64) -> Result<Appended> {
        let mut text = Vec::new();
        properties::push(&mut text, name::TAGS, "d");
        let appended = self.append(
            Kind::Normal,
            &[Message {
                topic: OP_TOPIC,
                queue_id: 0,
                flag: 0,
                sys_flag: 0,
                born_timestamp: self.now_ms(),
                born_host: self.store.log().store_host(),
                reconsume_times: 0,
                prepared_transaction_offset: 0,
                body: queue_offset.to_string().as_bytes(),
                properties: &text,
            }],
        )?;
        state.op(appended.queue_offset, queue_offset);
        state.settled(queue_offset);
        Ok(appended)
    }

    /// Commits or rolls back. Returns the last record that was written; `None` if the half was
    /// settled before.
    pub fn end_transaction(&self, end: &End<'_>) -> Result<Option<Appended>, Refusal> {
        let failed = |text: &str| Refusal::Failed(text.into());
        let at = u64::try_from(end.physical_offset).ok();
        let slice = at.and_then(|at| self.store.record_at(at));
        let half = slice.as_deref().and_then(as_record).filter(|r| r.topic() == HALF_TOPIC);
        let half = half.ok_or_else(|| failed("Find prepared transaction message failed"))?;
        if half.property(name::PGROUP) != Some(end.group) {
            return Err(failed("The producer group wrong"));
        }
        if half.queue_offset() != end.queue_offset {
            return Err(failed("The transaction state table offset wrong"));
        }
        let (topic, queue_id) = real_place(&half);
        if end.commit && self.topics.get(topic).is_none() {
            return Err(Refusal::NoTopic(topic.into()));
        }
        self.topic_made(OP_TOPIC.into(), 1)?;
        let mut state = self.transactions.lock();
        let Some(newest) = state.newest.get(&origin_of(&half)).copied() else { return Ok(None) };
        if end.commit {
            let mut text = half.properties().to_vec();
            properties::remove(&mut text, name::REAL_TOPIC);
            properties::remove(&mut text, name::REAL_QID);
            self.append(
                Kind::Transaction,
                &[Message {
                    topic,
                    queue_id,
                    sys_flag: half.sys_flag() & !sys_flag::TRANSACTION | sys_flag::COMMIT,
                    prepared_transaction_offset: end.physical_offset,
                    properties: &text,
                    ..half.message()
                }],
            )?;
        }
        let settled = self.settle(&mut state, newest)?;
        let age = self.now_ms() - half.born_timestamp();
        self.stats.ended(topic, end.commit.then_some(age));
        Ok(Some(settled))
    }

    /// Starts anew to ask about a half, also one that was given up.
    pub fn resume_check(&self, physical_offset: u64) -> Result<(), Refusal> {
        let failed = |why: &str| {
            let text = "Exception was thrown when putting message back to";
            Refusal::Failed(format!("{text} {HALF_TOPIC}. ({why})"))
        };
        let slice = self.store.record_at(physical_offset);
        let record = slice.as_deref().and_then(as_record);
        let record = record.ok_or_else(|| failed("there is no such message"))?;
        match record.topic() {
            HALF_TOPIC => {
                let mut state = self.transactions.lock();
                let origin = origin_of(&record);
                if !state.newest.contains_key(&origin) {
                    return Err(failed("it is settled"));
                }
                self.put_back(&mut state, &record, origin, Some(0))?;
            }
            CHECK_MAX_TIME_TOPIC => {
                let mut text = record.properties().to_vec();
                properties::remove(&mut text, name::TRAN_PREPARED_QUEUE_OFFSET);
                properties::set(&mut text, name::TRANSACTION_CHECK_TIMES, "0");
                let half = Message { properties: &text, ..record.message() };
                self.write_half(&mut self.transactions.lock(), half, None)?;
            }
            _ => return Err(failed("it is no half message")),
        }
        Ok(())
    }

    // ---- background ----

    /// [`Broker::check_step`], if it is due. What `on_check` was given is asked.
    pub fn check_due_step(&self) -> Result<()> {
        let now = self.now_ms();
        let interval = self.config().transaction_check_interval_ms;
        {
            let mut state = self.transactions.lock();
            if state.open.is_empty() || (now - state.checked_ms).abs() < interval {
                return Ok(());
            }
            state.checked_ms = now;
        }
        self.check_step(&mut |check| {
            if let Some(ask) = self.on_check.get() {
                ask(check);
            }
        })
    }

    /// How long the thread that checks may sleep: while none is open, until one comes.
    pub(super) fn pause_of_checks(&self) -> Duration {
        let mut state = self.transactions.lock();
        let next = state.next_half;
        let nothing_came = std::mem::replace(&mut state.checker_saw, next) == next;
        if state.open.is_empty() && nothing_came {
            state.checker_rests = true;
            return Duration::MAX;
        }
        let interval = self.config().transaction_check_interval_ms.clamp(1, 1000);
        Duration::from_millis(interval.unsigned_abs())
    }

    /// Looks at every half that is open by now: puts back what its producer has to be asked of,
    /// and what may not be asked of yet; gives up what was asked of too often or is too old.
    pub fn check_step(&self, ask: &mut dyn FnMut(Check)) -> Result<()> {
        let (end, now) = (self.transactions.lock().next_half, self.now_ms());
        let mut from = 0;
        loop {
            let mut copies = Vec::new();
            let looked = self.look_at_some(&mut from, end, now, &mut copies);
            if !copies.is_empty() && self.store.config().flush == FlushPolicy::Sync {
                // An answer has to find it.
                self.store.flush()?;
            }
            for slice in copies.iter().filter_map(|at| self.half_at(*at)) {
                if let Some(half) = as_record(&slice) {
                    ask(Check::of(&half));
                }
            }
            if !looked? {
                return self.commit_transaction_offsets();
            }
        }
    }

    /// Looks at halves from `from` on. Returns whether there may be more.
    fn look_at_some(
        &self,
        from: &mut u64,
        end: u64,
        now: i64,
        copies: &mut Vec<u64>,
    ) -> Result<bool> {
        while copies.len() < A_TURN {
            // Not longer than for one half: producers wait for it.
            let mut state = self.transactions.lock();
            let next = state.open.range(*from..end).next().map(|(at, open)| (*at, *open));
            let Some((queue_offset, open)) = next else { return Ok(false) };
            match self.look_at(&mut state, queue_offset, open, now)? {
                Looked::Young => return Ok(false),
                Looked::Done => {}
                Looked::Ask(physical_offset) => copies.push(physical_offset),
            }
            *from = queue_offset + 1;
        }
        Ok(true)
    }

    fn look_at(
        &self,
        state: &mut State,
        queue_offset: u64,
        open: Open,
        now: i64,
    ) -> Result<Looked> {
        let slice = self.half_at(open.physical_offset);
        let Some(half) = slice.as_deref().and_then(as_record) else {
            tracing::error!("a half message at {} is gone: passed by", open.physical_offset);
            state.settled(queue_offset);
            return Ok(Looked::Done);
        };
        let config = self.config();
        let number = |name| half.property(name).and_then(|text| text.parse::<i64>().ok());
        let checks = number(name::TRANSACTION_CHECK_TIMES).unwrap_or(0);
        let age = now - half.store_timestamp();
        // A clock that was set back makes nothing young for long.
        let young = age.abs() < config.transaction_timeout_ms;
        // By our clock; the client's may say anything.
        let whole_age = self.store.store_time(HALF_TOPIC, 0, open.origin).map(|t| now - t);
        let immunity = number(name::CHECK_IMMUNITY_TIME_IN_SECONDS).filter(|s| *s >= 0);
        let waits = match (immunity, whole_age) {
            (Some(seconds), Some(age)) if checks == 0 => age < seconds.saturating_mul(1000),
            _ => young,
        };
        if waits && young {
            return Ok(Looked::Young);
        }
        let reserved_ms = self.store.retention().reserved_hours.saturating_mul(3_600_000);
        let too_old = whole_age.is_some_and(|age| u64::try_from(age).unwrap_or(0) > reserved_ms);
        if !too_old && (waits || checks < i64::from(config.transaction_check_max)) {
            let counted = (!waits).then(|| i32::try_from(checks + 1).unwrap_or(i32::MAX));
            match self.put_back(state, &half, open.origin, counted) {
                Ok(_) if waits => return Ok(Looked::Done),
                Ok(copy) => return Ok(Looked::Ask(copy.physical_offset)),
                // Its properties are full: it cannot be counted.
                Err(Error::Limit(_)) => {}
                Err(e) => return Err(e),
            }
        }
        self.give_up(state, queue_offset, &half)?;
        Ok(Looked::Done)
    }

    fn give_up(&self, state: &mut State, queue_offset: u64, half: &Record<'_>) -> Result<()> {
        let (group, at) = (half.property(name::PGROUP).unwrap_or_default(), half.physical_offset());
        tracing::warn!(
            "a half message of group {group} at {at} was never settled: moved to {CHECK_MAX_TIME_TOPIC}"
        );
        for topic in [CHECK_MAX_TIME_TOPIC, OP_TOPIC] {
            // Their names are good, so it cannot be refused.
            let _ = self.topic_made(topic.into(), 1);
        }
        self.append(
            Kind::Transaction,
            &[Message { topic: CHECK_MAX_TIME_TOPIC, queue_id: 0, ..half.message() }],
        )?;
        self.settle(state, queue_offset).map(drop)
    }

    /// Commits how far everything is settled. What that relies on is flushed first: a power cut
    /// must not take a copy, or a committed message, whose half was passed by.
    pub(super) fn commit_transaction_offsets(&self) -> Result<()> {
        let (half, op) = self.transactions.lock().offsets();
        let places = [(HALF_TOPIC, half as i64), (OP_TOPIC, op as i64)];
        let known =
            |(topic, at): &(&str, i64)| self.offsets.get(TRANS_GROUP, topic, 0).unwrap_or(0) == *at;
        if places.iter().all(known) {
            return Ok(());
        }
        self.store.flush()?;
        for (topic, at) in places {
            self.offsets.commit(TRANS_GROUP, topic, 0, at);
        }
        Ok(())
    }

    /// Finds what is not settled, when the broker starts.
    pub(super) fn find_open_halves(&self) -> Result<()> {
        let mut state = self.transactions.lock();
        state.checked_ms = self.now_ms();
        let queue = |topic| {
            let queue = self.store.queues().get(topic, 0)?;
            let committed = self.offsets.get(TRANS_GROUP, topic, 0).unwrap_or(0).unsigned_abs();
            let from = committed.clamp(queue.min_offset(), queue.max_offset());
            Some((queue, from))
        };
        let Some((halves, from)) = queue(HALF_TOPIC) else { return Ok(()) };
        state.next_half = halves.max_offset();
        halves.for_each(from, |at, unit| {
            let slice = self.half_at(unit.offset);
            if let Some(half) = slice.as_deref().and_then(as_record) {
                state.came(at, unit.offset, origin_of(&half));
            }
            true
        });
        if let Some((ops, from)) = queue(OP_TOPIC) {
            state.op_from = from;
            ops.for_each(from, |at, unit| {
                let slice = self.store.log().record_at(unit.offset);
                let body = slice.as_deref().and_then(as_record).map_or(&b""[..], |op| op.body());
                // 5.x names many halves in one.
                let named = body.split(|b| *b == b',').filter_map(|n| str::from_utf8(n).ok());
                for half in named.filter_map(|n| n.trim().parse::<u64>().ok()) {
                    state.op(at, half);
                    let newest = state.newest.get(&half).copied();
                    state.settled(newest.unwrap_or(half));
                }
                true
            });
        }
        if !self.store.was_closed() {
            self.settle_delivered(&mut state)?;
        }
        Ok(())
    }

    /// Settles what a crash kept from being settled between the two writes of a commit, or of
    /// giving up.
    fn settle_delivered(&self, state: &mut State) -> Result<()> {
        let mut places = BTreeSet::new();
        for open in state.open.values() {
            let slice = self.half_at(open.physical_offset);
            if let Some(half) = slice.as_deref().and_then(as_record) {
                let (topic, queue_id) = real_place(&half);
                places.insert((topic.to_owned(), queue_id));
            }
        }
        if !places.is_empty() && self.topics.get(CHECK_MAX_TIME_TOPIC).is_some() {
            places.insert((CHECK_MAX_TIME_TOPIC.into(), 0));
        }
        for (topic, queue_id) in places.into_iter().rev() {
            if self.topics.get(&topic).is_none() && names::check_topic(&topic).is_ok() {
                // Nothing but halves came yet, and its settings were not saved.
                let queues = queue_id.saturating_add(1).clamp(1, names::MAX_QUEUES);
                self.put_topic(TopicConfig::new(&*topic, queues));
            }
            let Some(queue) = self.store.queues().get(&topic, queue_id) else { continue };
            let mut delivered = Vec::new();
            let from = queue.max_offset().saturating_sub(COMMITS_LOOKED_AT);
            queue.for_each(from.max(queue.min_offset()), |_, unit| {
                let slice = self.store.log().record_at(unit.offset);
                let Some(record) = slice.as_deref().and_then(as_record) else { return true };
                if topic == CHECK_MAX_TIME_TOPIC {
                    let origin = record.property(name::TRAN_PREPARED_QUEUE_OFFSET);
                    delivered.extend(origin.and_then(|text| text.parse::<u64>().ok()));
                } else if record.transaction() == sys_flag::COMMIT {
                    let half = u64::try_from(record.prepared_transaction_offset()).ok();
                    let half = half.and_then(|at| self.half_at(at));
                    let half = half.as_deref().and_then(as_record);
                    delivered.extend(half.map(|half| origin_of(&half)));
                }
                true
            });
            for origin in delivered {
                if let Some(newest) = state.newest.get(&origin).copied() {
                    self.settle(state, newest)?;
                }
            }
        }
        Ok(())
    }
}
