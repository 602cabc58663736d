//! Looking at topics and groups: queues (202, 321), progress (208, 317, 303, 308), members (203,
//! 204, 328), who consumes what (300, 343, 345).

use std::collections::BTreeMap;
use std::sync::Arc;

use mq_store::broker::locks::MessageQueue;
use mq_store::broker::stats::Span;
use serde::Serialize;

use super::admin::TopicList;
use super::{BrokerService, Failure, Handled};
use crate::conn::{Conn, Request};
use crate::sessions::{Member, SubscriptionData};
use crate::wire::codes::response;
use crate::wire::command::Command;
use crate::wire::fastjson::{json, object};
use crate::wire::fields::header;

/// Units that one look at a queue gives at most.
const MAX_UNITS: i32 = 1000;

impl BrokerService {
    /// A queue of this broker.
    pub(super) fn queue(&self, topic: &str, queue_id: i32) -> MessageQueue {
        let broker_name = self.broker.config().name.clone();
        MessageQueue { broker_name, queue_id, topic: topic.to_owned() }
    }

    /// Whether a group consumes a topic: what its members subscribe to counts, if it has any.
    fn subscribes(&self, group: &str, topic: &str) -> bool {
        let live = self.sessions.with_group(group, |g| {
            g.subscriptions.is_empty() || g.subscriptions.contains_key(topic)
        });
        live.unwrap_or(true)
    }

    /// How a group stands in topics, as JSON, and how many messages it is behind.
    fn progress(&self, group: &str, topics: &[String]) -> (String, i64) {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Progress {
            broker_offset: u64,
            consumer_offset: i64,
            last_timestamp: i64,
            /// 5.x tells by it what consumers hold and have not consumed.
            pull_offset: i64,
        }
        let (mut queues, mut behind, mut tps) = (Vec::new(), 0, 0.0);
        for topic in topics.iter().filter(|topic| self.subscribes(group, topic)) {
            let counters = self.broker.stats().find_group(group, topic);
            let pulled = |queue_id| counters.as_ref()?.pull_offset(queue_id);
            for q in self.broker.consume_stats(group, topic) {
                behind += q.broker_offset as i64 - q.consumer_offset;
                let progress = Progress {
                    broker_offset: q.broker_offset,
                    consumer_offset: q.consumer_offset,
                    last_timestamp: q.last_time,
                    pull_offset: pulled(q.queue_id).unwrap_or(q.consumer_offset),
                };
                queues.push((json(&self.queue(&q.topic, q.queue_id)), json(&progress)));
            }
            tps += counters.as_ref().map_or(0.0, |c| c.gets.rates(Span::Minute, |s| s.value).tps);
        }
        let body = object([("\"consumeTps\"", json(&tps)), ("\"offsetTable\"", object(queues))]);
        (body, behind)
    }
}

header! {
    struct TopicOnly<'a> {
        topic: &'a str = "topic",
    }
}

/// The queues of a topic.
pub fn topic_stats(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Offsets {
        last_update_timestamp: i64,
        max_offset: u64,
        min_offset: u64,
    }
    let h = TopicOnly::of(&request.head.fields)?;
    let queues = service.broker.topic_stats(h.topic)?.into_iter().map(|q| {
        let offsets = Offsets {
            last_update_timestamp: q.last_time,
            max_offset: q.max_offset,
            min_offset: q.min_offset,
        };
        (json(&service.queue(h.topic, q.queue_id)), json(&offsets))
    });
    let counter = service.broker.stats().find_topic(h.topic);
    let tps = counter.map_or(0.0, |c| c.puts.rates(Span::Minute, |s| s.value).tps);
    let body = object([("\"offsetTable\"", object(queues)), ("\"topicPutTps\"", json(&tps))]);
    Ok(Command::ok().body(body).into())
}

header! {
    struct ConsumeStatsHeader<'a> {
        group: &'a str = "consumerGroup",
        topic: &'a str = "topic" else "",
    }
}

/// How a group stands, in one topic or in all.
pub fn consume_stats(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    let h = ConsumeStatsHeader::of(&request.head.fields)?;
    let topics = match h.topic {
        "" => service.broker.topics_of_group(h.group),
        topic => vec![topic.to_owned()],
    };
    Ok(Command::ok().body(service.progress(h.group, &topics).0).into())
}

header! {
    struct OrderHeader<'a> {
        is_order: bool = "isOrder" else false,
    }
}

/// How all groups stand, each in each of its topics.
pub fn broker_consume_stats(
    service: &BrokerService,
    _: &Arc<Conn>,
    request: &Request<'_>,
) -> Handled {
    let h = OrderHeader::of(&request.head.fields)?;
    let broker = &service.broker;
    let mut total = 0;
    let mut groups = Vec::new();
    for group in broker.groups().all().subscription_group_table.into_keys() {
        let mut of_group = Vec::new();
        for topic in broker.topics_of_group(&group) {
            let config = broker.topics().get(&topic);
            let wanted = config.is_some_and(|t| t.order || !h.is_order);
            if wanted && service.subscribes(&group, &topic) {
                let (progress, behind) = service.progress(&group, &[topic]);
                total += behind;
                of_group.push(progress);
            }
        }
        groups.push(object([(json(&group), format!("[{}]", of_group.join(",")))]));
    }
    let body = object([
        ("\"brokerAddr\"", json(&service.advertised)),
        ("\"consumeStatsList\"", format!("[{}]", groups.join(","))),
        ("\"totalDiff\"", total.to_string()),
    ]);
    Ok(Command::ok().body(body).into())
}

header! {
    struct TopicAndGroup<'a> {
        topic: &'a str = "topic",
        group: &'a str = "group",
    }
}

/// When the messages of a topic were stored, and the last that a group consumed.
pub fn time_spans(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Span {
        consume_time_stamp: i64,
        consume_time_stamp_str: String,
        delay_time: i64,
        max_time_stamp: i64,
        max_time_stamp_str: String,
        message_queue: MessageQueue,
        min_time_stamp: i64,
        min_time_stamp_str: String,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Spans {
        consume_time_span_set: Vec<Span>,
    }
    let h = TopicAndGroup::of(&request.head.fields)?;
    let spans = service.broker.time_spans(h.group, h.topic)?.into_iter().map(|s| Span {
        consume_time_stamp: s.consumed,
        consume_time_stamp_str: local_time(s.consumed),
        delay_time: s.delay,
        max_time_stamp: s.last,
        max_time_stamp_str: local_time(s.last),
        message_queue: service.queue(h.topic, s.queue_id),
        min_time_stamp: s.first,
        min_time_stamp_str: local_time(s.first),
    });
    Ok(Command::ok().json(&Spans { consume_time_span_set: spans.collect() }).into())
}

fn local_time(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    let time = time.to_zoned(jiff::tz::TimeZone::system());
    format!("{}:{:03}", time.strftime("%Y-%m-%d#%H:%M:%S"), time.millisecond())
}

header! {
    struct CorrectionHeader<'a> {
        topic: &'a str = "topic",
        compared: &'a str = "compareGroup",
        left_out: &'a str = "filterGroups" else "",
    }
}

/// The least offsets of all groups, for one that is ahead of them.
pub fn correction_offsets(
    service: &BrokerService,
    _: &Arc<Conn>,
    request: &Request<'_>,
) -> Handled {
    let h = CorrectionHeader::of(&request.head.fields)?;
    let left_out: Vec<&str> = h.left_out.split(',').map(str::trim).collect();
    let offsets = service.broker.correction_offsets(h.topic, h.compared, &left_out);
    Ok(Command::ok().body(object([("\"correctionOffsets\"", object(offsets))])).into())
}

// ---- members ----

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    client_addr: String,
    client_id: String,
    language: String,
    version: i32,
}

fn connection(member: &Member) -> Connection {
    Connection {
        client_addr: member.conn.peer().to_string(),
        client_id: member.client_id.clone(),
        language: member.language.clone(),
        version: member.version,
    }
}

header! {
    struct ConsumerGroupOnly<'a> {
        group: &'a str = "consumerGroup",
    }
}

/// The members of a consumer group, and what it subscribes to.
pub fn consumers(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Consumers {
        connection_set: Vec<Connection>,
        consume_from_where: String,
        consume_type: String,
        message_model: String,
        subscription_table: BTreeMap<String, SubscriptionData>,
    }
    let h = ConsumerGroupOnly::of(&request.head.fields)?;
    let consumers = service.sessions.with_group(h.group, |g| {
        let subscriptions = g.subscriptions.iter().map(|(t, s)| (t.clone(), s.data.clone()));
        Consumers {
            connection_set: g.members.values().map(connection).collect(),
            consume_from_where: g.consume_from_where.clone(),
            consume_type: g.consume_type.clone(),
            message_model: g.message_model.clone(),
            subscription_table: subscriptions.collect(),
        }
    });
    let consumers = consumers.ok_or_else(|| {
        let text = format!("the consumer group[{}] not online", h.group);
        Failure::Code(response::CONSUMER_NOT_ONLINE, text)
    })?;
    Ok(Command::ok().json(&consumers).into())
}

header! {
    struct ProducerGroupOnly<'a> {
        group: &'a str = "producerGroup",
    }
}

/// The members of a producer group.
pub fn producers(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Producers {
        connection_set: Vec<Connection>,
    }
    let h = ProducerGroupOnly::of(&request.head.fields)?;
    let members = service.sessions.producers(h.group);
    if members.is_empty() {
        let text = format!("the producer group[{}] not exist", h.group);
        return Err(Failure::Code(response::SYSTEM_ERROR, text));
    }
    let connection_set = members.iter().map(connection).collect();
    Ok(Command::ok().json(&Producers { connection_set }).into())
}

/// The members of all producer groups.
pub fn all_producers(service: &BrokerService, _: &Arc<Conn>, _: &Request<'_>) -> Handled {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Producer {
        client_id: String,
        language: String,
        last_update_timestamp: i64,
        #[serde(rename = "remoteIP")]
        remote_ip: String,
        version: i32,
    }
    #[derive(Serialize)]
    struct All {
        data: BTreeMap<String, Vec<Producer>>,
    }
    let producer = |m: Member| Producer {
        client_id: m.client_id,
        language: m.language,
        last_update_timestamp: m.heard_ms,
        // As Java shows a socket's address.
        remote_ip: format!("/{}", m.conn.peer()),
        version: m.version,
    };
    let all = service.sessions.all_producers().into_iter();
    let data: BTreeMap<String, Vec<Producer>> =
        all.map(|(group, members)| (group, members.into_iter().map(producer).collect())).collect();
    if data.is_empty() {
        let text = "no producer is online".to_owned();
        return Err(Failure::Code(response::SYSTEM_ERROR, text));
    }
    Ok(Command::ok().json(&All { data }).into())
}

// ---- who consumes what ----

/// The groups that subscribe to a topic, or have offsets in it.
pub fn groups_of_topic(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct GroupList {
        group_list: Vec<String>,
    }
    let h = TopicOnly::of(&request.head.fields)?;
    let mut groups = service.sessions.groups_of_topic(h.topic);
    groups.extend(service.broker.offsets().groups_of(h.topic));
    Ok(Command::ok().json(&GroupList { group_list: groups.into_iter().collect() }).into())
}

header! {
    struct GroupOnly<'a> {
        group: &'a str = "group",
        topic: &'a str = "topic" else "",
    }
}

/// The topics in which a group has offsets.
pub fn topics_of_group(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    let h = GroupOnly::of(&request.head.fields)?;
    let topics = service.broker.offsets().topics_of(h.group).into_iter().collect();
    let list = TopicList { broker_addr: service.advertised.to_string(), topic_list: topics };
    Ok(Command::ok().json(&list).into())
}

/// What a live group subscribes to in a topic.
pub fn subscription(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body<'a> {
        group: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        subscription_data: Option<SubscriptionData>,
        topic: &'a str,
    }
    let h = GroupOnly::of(&request.head.fields)?;
    let subscription_data = subscription_of(service, h.group, h.topic).map(|s| s.data.clone());
    let body = Body { group: h.group, subscription_data, topic: h.topic };
    Ok(Command::ok().json(&body).into())
}

fn subscription_of(
    service: &BrokerService,
    group: &str,
    topic: &str,
) -> Option<Arc<crate::sessions::Subscription>> {
    service.sessions.with_group(group, |g| g.subscriptions.get(topic).cloned()).flatten()
}

header! {
    struct UnitsHeader<'a> {
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        index: i64 = "index",
        count: i32 = "count",
        group: Option<&'a str> = "consumerGroup",
    }
}

/// The units of a queue, and whether a group wants them.
pub fn queue_units(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct QueueUnit {
        eval: bool,
        physic_offset: u64,
        physic_size: i64,
        tags_code: i64,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body {
        #[serde(skip_serializing_if = "Option::is_none")]
        filter_data: Option<String>,
        max_queue_index: u64,
        min_queue_index: u64,
        queue_data: Vec<QueueUnit>,
        #[serde(skip_serializing_if = "Option::is_none")]
        subscription_data: Option<SubscriptionData>,
    }
    let h = UnitsHeader::of(&request.head.fields)?;
    let queue = service.broker.store().queues().get(h.topic, h.queue_id).ok_or_else(|| {
        let text = format!("{}@{} is not exist!", h.queue_id, h.topic);
        Failure::Code(response::SYSTEM_ERROR, text)
    })?;
    let index = u64::try_from(h.index).ok().filter(|i| *i < queue.max_offset());
    let Some(index) = index else {
        let text = format!("Index {} of {}@{} is not exist!", h.index, h.queue_id, h.topic);
        return Ok(Command::ok().remark(text).into());
    };
    let subscription = h.group.and_then(|group| subscription_of(service, group, h.topic));
    let wants = |code| match subscription.as_deref() {
        Some(s) => s.filter.as_ref().is_ok_and(|filter| filter.wants(code)),
        None => true,
    };
    let count = usize::try_from(h.count.clamp(1, MAX_UNITS)).unwrap_or(1);
    let mut queue_data = Vec::new();
    queue.for_each(index, |_, unit| {
        queue_data.push(QueueUnit {
            eval: wants(unit.tags_code),
            physic_offset: unit.offset,
            physic_size: unit.size.into(),
            tags_code: unit.tags_code,
        });
        queue_data.len() < count
    });
    let filter_data = match (h.group, &subscription) {
        (None, _) => None,
        (Some(group), None) => Some(format!("{group}@{} is not online!", h.topic)),
        (Some(group), Some(_)) => {
            Some(serde_json::to_string_pretty(&service.broker.filters().get(h.topic, group))?)
        }
    };
    let body = Body {
        filter_data,
        max_queue_index: queue.max_offset(),
        min_queue_index: queue.min_offset(),
        queue_data,
        subscription_data: subscription.as_ref().map(|s| s.data.clone()),
    };
    Ok(Command::ok().json(&body).into())
}
