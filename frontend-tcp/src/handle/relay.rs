//! What is passed on to consumers: resets of their offsets (222), their state (223, 307), one
//! message to consume (309).

use std::sync::Arc;
use std::time::Duration;

use mq_store::broker::admin::Reset;
use mq_store::broker::offsets::QueueOffsets;
use mq_store::codec::ids::parse_offset_msg_id;
use serde::Serialize;
use tokio::time::timeout;

use super::{BrokerService, Failure, Handled};
use crate::acl;
use crate::conn::{Conn, Reply, Request};
use crate::sessions::Member;
use crate::wire::codes::{request, response};
use crate::wire::command::{Body, Command};
use crate::wire::fastjson::{by_queue, json, object};
use crate::wire::fields::header;

const RELAY_TIMEOUT: Duration = Duration::from_secs(10);
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// The version of clients (3.1.8) that first answered what is relayed to them.
const ANSWERS_SINCE: i32 = 62;

header! {
    struct ResetHeader<'a> {
        topic: &'a str = "topic",
        group: &'a str = "group",
        timestamp: i64 = "timestamp",
        force: bool = "isForce" else false,
        /// From 5.x on always there, below 0 for all.
        queue_id: Option<i32> = "queueId",
        offset: i64 = "offset" else -1,
    }
}

/// Tells a group's consumers where to go on; they commit that themselves. Without consumers the
/// broker commits it for who asks as 5.x does, and refuses the rest, who then commit themselves.
pub fn reset_offsets(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    let h = ResetHeader::of(&request.head.fields)?;
    let reset = Reset {
        timestamp: h.timestamp,
        force: h.force,
        queue_id: h.queue_id.filter(|id| *id >= 0),
        offset: (h.offset >= 0).then_some(h.offset),
    };
    let targets = service.broker.reset_targets(h.group, h.topic, &reset)?;
    let members = members(service, h.group);
    if members.is_empty() && h.queue_id.is_some() {
        for (queue_id, offset) in &targets {
            service.broker.offsets().commit(h.group, h.topic, *queue_id, *offset);
        }
    } else if members.is_empty() {
        let text = format!(
            "Consumer not online, so can not reset offset, Group: {} Topic: {} Timestamp: {}",
            h.group, h.topic, h.timestamp
        );
        return Err(Failure::Code(response::CONSUMER_NOT_ONLINE, text));
    }
    let table = as_map(service, h.topic, &targets);
    for member in members {
        let body = match &*member.language {
            "CPP" => as_list(service, h.topic, &targets),
            _ => table.clone(),
        };
        member.conn.tell(
            Command::new(request::RESET_CONSUMER_CLIENT_OFFSET)
                .field("topic", h.topic.to_owned())
                .field("group", h.group.to_owned())
                .field("timestamp", h.timestamp)
                .field("isForce", h.force)
                .body(body),
        );
    }
    Ok(Command::ok().body(table).into())
}

fn members(service: &BrokerService, group: &str) -> Vec<Member> {
    let found = service.sessions.with_group(group, |g| g.members.values().cloned().collect());
    found.unwrap_or_default()
}

fn as_map(service: &BrokerService, topic: &str, targets: &QueueOffsets) -> String {
    let table = targets.iter().map(|(id, offset)| (json(&service.queue(topic, *id)), offset));
    object([("\"offsetTable\"", object(table))])
}

/// The form that C++ clients read.
fn as_list(service: &BrokerService, topic: &str, targets: &QueueOffsets) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct QueueOffset<'a> {
        broker_name: &'a str,
        offset: i64,
        queue_id: i32,
        topic: &'a str,
    }
    let broker_name = &service.broker.config().name;
    let queue = |(id, offset): (&i32, &i64)| QueueOffset {
        broker_name,
        offset: *offset,
        queue_id: *id,
        topic,
    };
    let list: Vec<_> = targets.iter().map(queue).collect();
    object([("\"offsetTable\"", json(&list))])
}

header! {
    struct StatusHeader<'a> {
        topic: &'a str = "topic",
        group: &'a str = "group",
        client_id: &'a str = "clientAddr" else "",
    }
}

/// Asks consumers of a group for the offsets they are at.
pub fn consumer_status(
    service: &BrokerService,
    conn: &Arc<Conn>,
    request: &Request<'_>,
) -> Handled {
    let h = StatusHeader::of(&request.head.fields)?;
    let mut members = members(service, h.group);
    members.retain(|m| h.client_id.is_empty() || m.client_id == h.client_id);
    if members.is_empty() {
        let text = format!("No Any Consumer online in the consumer group: [{}]", h.group);
        return Err(Failure::Code(response::CONSUMER_NOT_ONLINE, text));
    }
    let ask = |m: Member| {
        let command = Command::new(request::GET_CONSUMER_STATUS_FROM_CLIENT)
            .field("topic", h.topic.to_owned())
            .field("group", h.group.to_owned());
        (m.client_id, m.conn.ask(command))
    };
    let asked: Vec<_> = members.into_iter().map(ask).collect();
    let ticket = request.ticket(conn);
    tokio::spawn(async move {
        let mut clients = Vec::new();
        let until = tokio::time::Instant::now() + STATUS_TIMEOUT;
        for (client_id, answer) in asked {
            let Ok(Ok(answer)) = tokio::time::timeout_at(until, answer).await else { continue };
            if let Some(queues) = by_queue(&answer.body, "messageQueueTable") {
                let queues = queues.iter().map(|(queue, offset)| (json(queue), offset));
                clients.push((json(&client_id), object(queues)));
            }
        }
        let body = object([
            ("\"consumerTable\"", object(clients)),
            ("\"messageQueueTable\"", "{}".into()),
        ]);
        ticket.answer(Command::ok().body(body));
    });
    Ok(Reply::Later)
}

header! {
    struct ClientHeader<'a> {
        group: &'a str = "consumerGroup",
        client_id: &'a str = "clientId" else "",
        msg_id: &'a str = "msgId" else "",
    }
}

/// Has a consumer tell its state.
pub fn running_info(service: &BrokerService, conn: &Arc<Conn>, request: &Request<'_>) -> Handled {
    relay(service, conn, request, Command::new(request.head.code))
}

/// Has a consumer consume a message now.
pub fn consume_directly(
    service: &BrokerService,
    conn: &Arc<Conn>,
    request: &Request<'_>,
) -> Handled {
    let h = ClientHeader::of(&request.head.fields)?;
    let at = parse_offset_msg_id(h.msg_id).map(|(_, offset)| offset);
    let record = at.and_then(|at| service.broker.store().record_at(at)).ok_or_else(|| {
        let text = format!("look message by offset failed, {}", h.msg_id);
        Failure::Code(response::SYSTEM_ERROR, text)
    })?;
    let mut command =
        Command::new(request.head.code).field("brokerName", service.broker.config().name.clone());
    command.body = Body::Records(vec![record]);
    relay(service, conn, request, command)
}

/// Sends a request on to the consumer that it names, with its fields, and the answer back.
fn relay(
    service: &BrokerService,
    conn: &Arc<Conn>,
    request: &Request<'_>,
    mut command: Command,
) -> Handled {
    let h = ClientHeader::of(&request.head.fields)?;
    let member = service.sessions.find_client(h.group, h.client_id).ok_or_else(|| {
        let text = format!("The Consumer <{}> <{}> not online", h.group, h.client_id);
        Failure::Code(response::SYSTEM_ERROR, text)
    })?;
    if member.version < ANSWERS_SINCE {
        let text = format!(
            "The Consumer <{}> Version <{}> too low to finish, please upgrade it to V3_1_8_SNAPSHOT",
            h.client_id, member.version
        );
        return Err(Failure::Code(response::SYSTEM_ERROR, text));
    }
    for (name, value) in &request.head.fields.0 {
        // Who gets to see a signature can send what it signs once more.
        if [acl::ACCESS_KEY, acl::SIGNATURE, acl::SECURITY_TOKEN].contains(&&**name) {
            continue;
        }
        if command.fields.iter().all(|(known, _)| known != name) {
            command = command.field(name.to_string(), value.to_string());
        }
    }
    let (answer, ticket) = (member.conn.ask(command), request.ticket(conn));
    let who = format!("consumer <{}> <{}>", h.group, h.client_id);
    tokio::spawn(async move {
        ticket.answer(match timeout(RELAY_TIMEOUT, answer).await {
            Ok(Ok(answer)) => Command {
                code: answer.code,
                remark: answer.remark.map(Into::into),
                fields: answer.fields.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
                body: Body::Bytes(answer.body),
            },
            Ok(Err(_)) => Command::refusal(
                response::SYSTEM_ERROR,
                format!("invoke {who} Exception: its connection ended"),
            ),
            Err(_) => {
                let ms = RELAY_TIMEOUT.as_millis();
                let text = format!("{who} Timeout: no answer in {ms} ms");
                Command::refusal(response::CONSUME_MSG_TIMEOUT, text)
            }
        });
    });
    Ok(Reply::Later)
}
