//! Taking messages: from producers, and back from consumers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::names::{self, DLQ_PREFIX, RETRY_PREFIX};
use super::stats::Kind;
use super::topics::{TopicConfig, perm};
use super::{Broker, Refusal};
use crate::codec::properties::{self, name};
use crate::codec::record::{Message, encoded_len, sys_flag};
use crate::error::Result as StoreResult;
use crate::log::commit_log::Appended;
use crate::recover::SCHEDULE_TOPIC;
use crate::store::as_record;

/// Consumers that failed once wait as long as this level says, and one more each time.
const FIRST_RETRY_LEVEL: i32 = 3;
/// Bit of a topic's sysFlag: a unit topic.
const UNIT: i32 = 1;

/// A message as a producer sends it.
#[derive(Clone, Copy, Debug)]
pub struct Sending<'a> {
    pub topic: &'a str,
    /// Below 0: the broker chooses.
    pub queue_id: i32,
    /// The topic whose settings it gets if it has to be made, and how many queues at most.
    pub default_topic: &'a str,
    pub default_queues: i32,
    pub unit_mode: bool,
    pub sys_flag: i32,
    pub flag: i32,
    /// ms since 1970; 0: now.
    pub born_timestamp: i64,
    pub born_host: SocketAddr,
    pub reconsume_times: i32,
    /// How often a message on a retry topic may fail; the group's setting if not given.
    pub max_reconsume_times: Option<i32>,
    /// Property text.
    pub properties: &'a str,
    /// Whether the message is to say in which cluster and region it came in.
    pub stamped: bool,
    pub body: &'a [u8],
}

impl Sending<'_> {
    fn born(&self, now_us: i64) -> i64 {
        if self.born_timestamp == 0 { now_us.div_euclid(1000) } else { self.born_timestamp }
    }
}

/// Where a message, or the first of a batch, went.
#[derive(Clone, Debug)]
pub struct Sent {
    pub appended: Appended,
    /// The queue that was asked for, whatever topic the message waits in.
    pub queue_id: i32,
    /// Physical offsets of the further messages of a batch.
    further: Vec<u64>,
    /// Whether the producer wants to wait for the disk (property WAIT is not false).
    pub wait: bool,
}

impl Sent {
    /// Physical offset of each message.
    pub fn physical_offsets(&self) -> impl ExactSizeIterator<Item = u64> {
        let all = 0..self.further.len() + 1;
        all.map(|n| n.checked_sub(1).map_or(self.appended.physical_offset, |n| self.further[n]))
    }
}

/// What the broker looks at in a message's properties.
#[derive(Debug, Default)]
struct Known<'a> {
    delay: Option<&'a str>,
    no_wait: bool,
    transaction: bool,
    timer: bool,
    cluster: bool,
    region: bool,
    fifo: bool,
}

impl<'a> Known<'a> {
    fn of(text: &'a str) -> Known<'a> {
        let mut known = Known::default();
        for (name, value) in properties::pairs(text.as_bytes()) {
            match name {
                name::DELAY => known.delay = Some(value),
                name::WAIT => known.no_wait = value == "false",
                name::TRAN_MSG => known.transaction = value.eq_ignore_ascii_case("true"),
                name::CLUSTER => known.cluster = true,
                name::MSG_REGION => known.region = true,
                "__SHARDINGKEY" => known.fifo = true,
                "TIMER_DELAY_SEC" | "TIMER_DELAY_MS" | "TIMER_DELIVER_MS" => known.timer = true,
                _ => {}
            }
        }
        known
    }

    fn kind(&self) -> Kind {
        match self {
            Known { transaction: true, .. } => Kind::Transaction,
            Known { fifo: true, .. } => Kind::Fifo,
            Known { delay: Some(_), .. } => Kind::Delay,
            _ => Kind::Normal,
        }
    }
}

impl Broker {
    /// Takes a message. Its topic is made if that is allowed; a level of delay sends it through
    /// the schedule topic, the mark of a transaction to the half topic; one on a retry topic that failed too often goes to the dead letters.
    pub fn send(&self, m: &Sending<'_>) -> Result<Sent, Refusal> {
        let start_us = self.store.clock().now_us();
        let topic = self.topic_to_send(m)?;
        let queue_id = choose_queue(m.queue_id, &topic)?;
        let mut known = Known::of(m.properties);
        if !m.stamped {
            (known.cluster, known.region) = (true, true);
        }
        if known.transaction && self.config().reject_transactions {
            let text = "the broker takes no transactional messages (rejectTransactionMessage)";
            return Err(Refusal::NoPermission(text.into()));
        }
        if known.timer {
            return Err(Refusal::Failed(
                "accurate timer message is not enabled, timerWheelEnable is false".into(),
            ));
        }
        let sys_flag = self.sys_flag(m.sys_flag, &topic);
        let mut level = known.delay.and_then(|d| d.parse::<i32>().ok()).unwrap_or(0);
        let (mut target, mut target_queue) = (topic.topic_name.as_str(), queue_id);

        let dlq;
        if let Some(group) = target.strip_prefix(RETRY_PREFIX) {
            let group_config = self.group(group)?;
            let max = m.max_reconsume_times.unwrap_or(group_config.retry_max_times);
            if m.reconsume_times >= max {
                dlq = self.dead_letters(group)?;
                (target, target_queue, level) = (&dlq.topic_name, 0, 0);
                let origin = properties::get(m.properties.as_bytes(), name::RETRY_TOPIC);
                let counters = self.stats.group(group, origin.unwrap_or(m.topic));
                counters.dead.fetch_add(1, Ordering::Relaxed);
            }
        }

        // Clients before 4.6.1 leave the property on what they send back to a retry topic.
        let half = known.transaction && !(m.reconsume_times > 0 && level > 0);
        let may_wait = level > 0 && !half && sys_flag & sys_flag::TRANSACTION == 0;
        let properties;
        let mut text = m.properties.as_bytes();
        if may_wait {
            (properties, target_queue) = {
                let (mut text, queue) = self.delayed(text, target, target_queue, level);
                self.stamp(&mut text, &known);
                (text, queue)
            };
            text = &properties;
            target = SCHEDULE_TOPIC;
        } else if !known.cluster || !known.region {
            let mut with = Vec::with_capacity(text.len() + 80);
            with.extend_from_slice(text);
            self.stamp(&mut with, &known);
            properties = with;
            text = &properties;
        }
        let message = Message {
            topic: target,
            queue_id: target_queue,
            flag: m.flag,
            sys_flag,
            born_timestamp: m.born(start_us),
            born_host: m.born_host,
            reconsume_times: m.reconsume_times,
            prepared_transaction_offset: 0,
            body: m.body,
            properties: text,
        };
        let appended = if half {
            self.put_half(&message)?
        } else {
            self.append_from(start_us, known.kind(), &[message])?
        };
        Ok(Sent { appended, queue_id, further: Vec::new(), wait: !known.no_wait })
    }

    /// Takes the messages of a batch: its body holds, for each, `i32 size · i32 magic · i32 CRC ·
    /// i32 flag · i32 length, body · i16 length, properties`. All are stored, or none.
    pub fn send_batch(&self, m: &Sending<'_>) -> Result<Sent, Refusal> {
        let start_us = self.store.clock().now_us();
        if m.topic.starts_with(RETRY_PREFIX) {
            let text = format!("batch request does not support retry group {}", m.topic);
            return Err(Refusal::Illegal(text));
        }
        let topic = self.topic_to_send(m)?;
        let queue_id = choose_queue(m.queue_id, &topic)?;
        let sys_flag = self.sys_flag(m.sys_flag, &topic);
        let malformed = || Refusal::Illegal("a batch whose body is malformed".into());
        let max = self.store.config().max_body;
        if m.body.len() > max {
            let text = format!("a batch of {} bytes, where {max} are allowed", m.body.len());
            return Err(Refusal::Illegal(text));
        }
        let mut messages = Vec::new();
        let mut rest = m.body;
        while !rest.is_empty() {
            let (one, behind) = BatchMessage::split(rest).ok_or_else(malformed)?;
            rest = behind;
            messages.push(Message {
                topic: &topic.topic_name,
                queue_id,
                flag: one.flag,
                sys_flag,
                born_timestamp: m.born(start_us),
                born_host: m.born_host,
                reconsume_times: m.reconsume_times,
                prepared_transaction_offset: 0,
                body: one.body,
                properties: one.properties,
            });
        }
        if messages.is_empty() {
            return Err(malformed());
        }
        let known = Known::of(m.properties);
        let appended = self.append_from(start_us, known.kind(), &messages)?;
        let host = self.store.log().store_host();
        let mut at = appended.physical_offset;
        let before_last = &messages[..messages.len() - 1];
        let further = before_last.iter().map(|message| {
            let properties = &properties::without_crc(message.properties);
            at += encoded_len(&Message { properties, ..*message }, &host) as u64;
            at
        });
        let further = further.collect();
        Ok(Sent { appended, queue_id, further, wait: !known.no_wait })
    }

    /// Writes into a message where it came in: those who reply find their way by it, and
    /// consumers trace only what says its region.
    fn stamp(&self, text: &mut Vec<u8>, known: &Known<'_>) {
        let config = self.config();
        if !known.cluster {
            properties::push(text, name::CLUSTER, &config.cluster);
        }
        if !known.region {
            properties::push(text, name::MSG_REGION, &config.region);
            properties::push(text, name::TRACE_ON, if config.trace { "true" } else { "false" });
        }
    }

    fn sys_flag(&self, of_message: i32, topic: &TopicConfig) -> i32 {
        let multi = topic.topic_filter_type == "MULTI_TAG";
        of_message | if multi { sys_flag::MULTI_TAGS } else { 0 }
    }

    /// The topic of a message, made if it is not there and may be.
    pub fn topic_to_send(&self, m: &Sending<'_>) -> Result<Arc<TopicConfig>, Refusal> {
        let config = self.config();
        let from = config.takes_sends_from_ms;
        if from > 0 && self.now_ms() < from {
            let text = format!(
                "broker unable to service, until {from} ms since 1970 (startAcceptSendRequestTimeStamp)"
            );
            return Err(Refusal::Failed(text));
        }
        if let Some(topic) = self.topics.get(m.topic) {
            if names::is_closed_to_sends(m.topic) {
                let text = format!("Sending message to topic[{}] is forbidden.", m.topic);
                return Err(Refusal::NoPermission(text));
            }
            if config.permission & perm::WRITE == 0 {
                let text = "the broker takes no messages (brokerPermission)".into();
                return Err(Refusal::NoPermission(text));
            }
            return Ok(topic);
        }
        names::check_topic(m.topic).map_err(Refusal::Invalid)?;
        if names::is_closed_to_sends(m.topic) {
            let text = format!("Sending message to topic[{}] is forbidden.", m.topic);
            return Err(Refusal::NoPermission(text));
        }
        if let Some(group) = m.topic.strip_prefix(RETRY_PREFIX) {
            return self.retry_topic(group);
        }
        let may_make = m.default_topic != names::DEFAULT_TOPIC || config.auto_create_topic;
        let template = self
            .topics
            .get(m.default_topic)
            .filter(|_| may_make)
            .filter(|t| t.perm & perm::INHERIT != 0)
            .ok_or_else(|| Refusal::NoTopic(m.topic.into()))?;
        let queues = m.default_queues.clamp(0, template.write_queue_nums.max(0));
        self.put_topic(TopicConfig {
            perm: template.perm & !perm::INHERIT,
            topic_filter_type: template.topic_filter_type.clone(),
            topic_sys_flag: if m.unit_mode { UNIT } else { 0 },
            ..TopicConfig::new(m.topic, queues)
        });
        self.topics.get(m.topic).ok_or_else(|| Refusal::NoTopic(m.topic.into()))
    }

    /// The topic to which messages of a group come back.
    pub fn retry_topic(&self, group: &str) -> Result<Arc<TopicConfig>, Refusal> {
        let queues = self.group(group)?.retry_queue_nums.clamp(1, names::MAX_QUEUES);
        self.topic_made(format!("{RETRY_PREFIX}{group}"), queues)
    }

    fn dead_letters(&self, group: &str) -> Result<Arc<TopicConfig>, Refusal> {
        self.topic_made(format!("{DLQ_PREFIX}{group}"), 1)
    }

    /// A topic of the broker's own making.
    pub(super) fn topic_made(
        &self,
        topic: String,
        queues: i32,
    ) -> Result<Arc<TopicConfig>, Refusal> {
        if let Some(topic) = self.topics.get(&topic) {
            return Ok(topic);
        }
        names::check_topic(&topic).map_err(Refusal::Invalid)?;
        self.put_topic(TopicConfig::new(topic.as_str(), queues));
        self.topics.get(&topic).ok_or(Refusal::NoTopic(topic))
    }

    /// Takes a message back that a consumer of `group` could not consume. It comes again through
    /// the group's retry topic after the delay of `level` (0: the longer, the more often it
    /// failed), or goes to the dead letters: if it failed too often, or `level` is below 0.
    pub fn send_back(
        &self,
        group: &str,
        physical_offset: i64,
        level: i32,
        max_reconsume_times: Option<i32>,
    ) -> Result<Option<Appended>, Refusal> {
        let group_config = self.group(group)?;
        if self.config().permission & perm::WRITE == 0 {
            let text = "the broker takes no messages (brokerPermission)".into();
            return Err(Refusal::NoPermission(text));
        }
        if group_config.retry_queue_nums <= 0 {
            return Ok(None);
        }
        let retry = self.retry_topic(group)?;
        if !retry.is_writable() {
            let text = format!("the topic[{}] sending message is forbidden", retry.topic_name);
            return Err(Refusal::NoPermission(text));
        }
        let missing =
            || Refusal::Failed(format!("look message by offset failed, {physical_offset}"));
        let at = u64::try_from(physical_offset).map_err(|_| missing())?;
        let slice = self.store.record_at(at).ok_or_else(missing)?;
        let record = as_record(&slice).ok_or_else(missing)?;

        let mut text = record.properties().to_vec();
        if record.property(name::RETRY_TOPIC).is_none() {
            properties::set(&mut text, name::RETRY_TOPIC, record.topic());
        }
        if record.property(name::ORIGIN_MESSAGE_ID).is_none() {
            properties::set(&mut text, name::ORIGIN_MESSAGE_ID, &record.offset_msg_id());
        }
        properties::set(&mut text, name::WAIT, "false");
        let times = record.reconsume_times();
        let max = max_reconsume_times.unwrap_or(group_config.retry_max_times);
        let dlq;
        let (topic, queue_id);
        if times >= max || level < 0 {
            dlq = self.dead_letters(group)?;
            properties::set(&mut text, name::DELAY, "0");
            (topic, queue_id) = (dlq.topic_name.as_str(), 0);
        } else {
            let level = if level == 0 { FIRST_RETRY_LEVEL.saturating_add(times) } else { level };
            let queue = random_below(group_config.retry_queue_nums);
            (text, queue_id) = self.delayed(&text, &retry.topic_name, queue, level);
            topic = SCHEDULE_TOPIC;
        }
        let appended = self.append(
            Kind::Delay,
            &[Message {
                topic,
                queue_id,
                reconsume_times: times.saturating_add(1),
                properties: &text,
                ..record.message()
            }],
        )?;
        let origin = properties::get(&text, name::RETRY_TOPIC).unwrap_or(record.topic());
        let counters = self.stats.group(group, origin);
        counters.sent_back.add(1, 0);
        counters.dead.fetch_add(u64::from(topic != SCHEDULE_TOPIC), Ordering::Relaxed);
        Ok(Some(appended))
    }

    /// Appends messages of one topic and queue, and counts them.
    pub(super) fn append(&self, kind: Kind, messages: &[Message<'_>]) -> StoreResult<Appended> {
        self.append_from(self.store.clock().now_us(), kind, messages)
    }

    /// [`Broker::append`] of what came at `start_us`, which is hardly ago.
    fn append_from(
        &self,
        start_us: i64,
        kind: Kind,
        messages: &[Message<'_>],
    ) -> StoreResult<Appended> {
        let clock = self.store.clock();
        let appended = self.store.append_all_at(messages, start_us.div_euclid(1000));
        match (&appended, messages) {
            (Ok(at), [first, ..]) => {
                let (count, bytes) = (messages.len() as u64, at.end - at.physical_offset);
                let took = clock.now_us().saturating_sub(start_us).max(0);
                let took = Duration::from_micros(took.unsigned_abs());
                self.stats.put(first.topic, kind, count, bytes, took);
            }
            _ => self.stats.failed_puts.add(1, 0),
        }
        appended
    }
}

fn choose_queue(asked: i32, topic: &TopicConfig) -> Result<i32, Refusal> {
    if asked < 0 {
        return Ok(random_below(topic.write_queue_nums));
    }
    if asked >= topic.queues() {
        return Err(Refusal::Invalid(format!(
            "request queueId[{asked}] is illegal, topic[{}] has writeQueueNums={}, readQueueNums={}",
            topic.topic_name, topic.write_queue_nums, topic.read_queue_nums
        )));
    }
    Ok(asked)
}

/// Spreads well enough: multiples of the golden ratio.
fn random_below(n: i32) -> i32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let part = COUNT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9);
    ((u64::from(part) * u64::from(n.max(1).unsigned_abs())) >> 32) as i32
}

struct BatchMessage<'a> {
    flag: i32,
    body: &'a [u8],
    properties: &'a [u8],
}

impl<'a> BatchMessage<'a> {
    /// The first message of a batch body, and what is behind it.
    fn split(bytes: &'a [u8]) -> Option<(BatchMessage<'a>, &'a [u8])> {
        let number =
            |at: usize| bytes.get(at..at + 4).map(|b| i32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let size = usize::try_from(number(0)?).ok()?;
        let (this, behind) = bytes.split_at_checked(size)?;
        let flag = number(12)?;
        let body_len = usize::try_from(number(16)?).ok()?;
        let (body, rest) = this.get(20..)?.split_at_checked(body_len)?;
        let (len, properties) = rest.split_first_chunk::<2>()?;
        let len = usize::try_from(i16::from_be_bytes(*len)).ok()?;
        (properties.len() == len).then_some((BatchMessage { flag, body, properties }, behind))
    }
}
