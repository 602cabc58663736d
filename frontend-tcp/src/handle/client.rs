//! Clients and their groups: heartbeats (34), leaving (35), lists (38), locks (41, 42), checks (46).

use std::sync::Arc;

use mq_store::broker::filter::data::Subscribed;
use mq_store::broker::filter::{Filter, is_tag_type};
use mq_store::broker::locks::MessageQueue;
use serde::{Deserialize, Serialize};

use super::{BrokerService, Failure};
use crate::conn::{Conn, Reply, Request};
use crate::sessions::{ConsumerData, Heartbeat, Member, SubscriptionData};
use crate::wire::codes::{request, response};
use crate::wire::command::Command;
use crate::wire::fields::header;

impl BrokerService {
    /// Whether expressions of this type are served now.
    pub(super) fn check_expression_type(&self, expression_type: &str) -> Result<(), Failure> {
        if is_tag_type(expression_type) || self.tuning().property_filter {
            return Ok(());
        }
        // The beginning is what a Java broker says.
        let text = format!(
            "The broker does not support consumer to filter message by {expression_type} (enablePropertyFilter=false)"
        );
        Err(Failure::Code(response::SYSTEM_ERROR, text))
    }

    /// A member left a consumer group.
    pub(super) fn left(&self, group: &str, others: &[Arc<Conn>]) {
        if others.is_empty() {
            self.broker.filters().unregister(group, self.broker.now_ms());
        }
        self.tell_group_changed(group, others);
    }

    /// Keeps what a group subscribes to by expressions.
    fn register_filters(&self, data: &ConsumerData) {
        let subscribed = data.subscription_data_set.iter().map(|s| Subscribed {
            topic: &s.topic,
            expression_type: &s.expression_type,
            expression: &s.sub_string,
            version: s.sub_version,
        });
        let is_sound = |s: &Subscribed<'_>| Filter::parse(s.expression_type, s.expression).is_ok();
        let filters = self.broker.filters();
        filters.register(&data.group_name, subscribed, is_sound, self.broker.now_ms());
    }

    /// Tells members that others came or went, so that they share the queues anew.
    pub(super) fn tell_group_changed(&self, group: &str, members: &[Arc<Conn>]) {
        let wants = self
            .broker
            .groups()
            .get(group)
            .is_none_or(|config| config.notify_consumer_ids_changed_enable);
        if wants && self.tuning().notify_changes {
            for conn in members {
                conn.tell(
                    Command::new(request::NOTIFY_CONSUMER_IDS_CHANGED)
                        .field("consumerGroup", group.to_owned()),
                );
            }
        }
    }
}

/// A client says that it is there, and what it is.
pub fn heartbeat(
    service: &BrokerService,
    conn: &Arc<Conn>,
    request: &Request<'_>,
) -> Result<Reply, Failure> {
    let heartbeat: Heartbeat = serde_json::from_slice(request.body)?;
    let member = || Member {
        client_id: heartbeat.client_id.clone(),
        conn: conn.clone(),
        language: request.head.language.to_string(),
        version: request.head.version,
        heard_ms: service.broker.now_ms(),
    };
    for data in &heartbeat.consumer_data_set {
        // A group that is not there and may not be made is no reason to fail the others.
        if service.broker.group(&data.group_name).is_err() {
            continue;
        }
        let _ = service.broker.retry_topic(&data.group_name);
        let changed = service.sessions.consumer(data, member());
        service.register_filters(data);
        if changed {
            let members = service.sessions.conns(&data.group_name);
            service.tell_group_changed(&data.group_name, &members);
        }
    }
    for data in &heartbeat.producer_data_set {
        service.sessions.producer(&data.group_name, member());
    }
    Ok(Command::ok().into())
}

header! {
    struct UnregisterHeader<'a> {
        client_id: Option<&'a str> = "clientID",
        producer_group: Option<&'a str> = "producerGroup",
        consumer_group: Option<&'a str> = "consumerGroup",
    }
}

/// A client leaves its groups.
pub fn unregister(
    service: &BrokerService,
    conn: &Arc<Conn>,
    request: &Request<'_>,
) -> Result<Reply, Failure> {
    let h = UnregisterHeader::of(&request.head.fields)?;
    let left = service.sessions.leave(conn.id(), h.producer_group, h.consumer_group);
    if let Some(group) = h.consumer_group {
        // It let go of the queues that it knew of; a lock whose answer it never saw is left.
        if let Some(client) = h.client_id {
            service.broker.locks().leave(group, client);
        }
        service.left(group, &left);
    }
    Ok(Command::ok().into())
}

header! {
    struct GroupHeader<'a> {
        group: &'a str = "consumerGroup",
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConsumerList {
    consumer_id_list: Vec<String>,
}

/// The clients of a group.
pub fn consumer_list(
    service: &BrokerService,
    _: &Arc<Conn>,
    request: &Request<'_>,
) -> Result<Reply, Failure> {
    let h = GroupHeader::of(&request.head.fields)?;
    let ids = service
        .sessions
        .with_group(h.group, |group| group.members.values().map(|m| m.client_id.clone()).collect());
    match ids {
        Some(consumer_id_list) => Ok(Command::ok().json(&ConsumerList { consumer_id_list }).into()),
        None => {
            let text = format!("no consumer for this group, {}", h.group);
            Err(Failure::Code(response::SYSTEM_ERROR, text))
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LockBody {
    client_id: String,
    consumer_group: String,
    #[serde(default)]
    mq_set: Vec<MessageQueue>,
}

#[derive(Serialize)]
struct Locked {
    #[serde(rename = "lockOKMQSet")]
    queues: Vec<MessageQueue>,
}

/// Takes or renews locks of queues.
pub fn lock(
    service: &BrokerService,
    _: &Arc<Conn>,
    request: &Request<'_>,
) -> Result<Reply, Failure> {
    let b: LockBody = serde_json::from_slice(request.body)?;
    let now = service.broker.now_ms();
    let queues = service.broker.locks().lock(&b.consumer_group, &b.client_id, b.mq_set, now);
    Ok(Command::ok().json(&Locked { queues }).into())
}

/// Lets go of locks.
pub fn unlock(
    service: &BrokerService,
    _: &Arc<Conn>,
    request: &Request<'_>,
) -> Result<Reply, Failure> {
    let b: LockBody = serde_json::from_slice(request.body)?;
    service.broker.locks().unlock(&b.consumer_group, &b.client_id, &b.mq_set);
    Ok(Command::ok().into())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CheckBody {
    subscription_data: SubscriptionData,
}

/// Whether the broker can filter as a subscription wants.
pub fn check_client_config(
    service: &BrokerService,
    _: &Arc<Conn>,
    request: &Request<'_>,
) -> Result<Reply, Failure> {
    let b: CheckBody = serde_json::from_slice(request.body)?;
    let s = &b.subscription_data;
    if s.is_tag() {
        return Ok(Command::ok().into());
    }
    service.check_expression_type(&s.expression_type)?;
    match Filter::parse(&s.expression_type, &s.sub_string) {
        Ok(_) => Ok(Command::ok().into()),
        Err(e) => Err(Failure::Code(response::SUBSCRIPTION_PARSE_FAILED, e.to_string())),
    }
}
