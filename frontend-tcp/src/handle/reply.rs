//! 324, 325: a reply to a message, for the client that waits for it (326), wherever it is.

use std::sync::Arc;
use std::time::Duration;

use mq_store::codec::properties;
use tokio::time::timeout;

use super::send::{SendHeader, sending, sent_fields, with_region};
use super::{BrokerService, Failure, Handled};
use crate::conn::{Conn, Reply, Request};
use crate::wire::codes::{request, response};
use crate::wire::command::Command;

/// A client that does not take a reply in this time does not have it.
const PUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// The client that asked.
const REPLY_TO_CLIENT: &str = "REPLY_TO_CLIENT";

/// Stores a reply, if replies are stored, and pushes it to who waits for it. The answer says
/// whether that has it.
pub fn reply(service: &BrokerService, conn: &Arc<Conn>, request: &Request<'_>) -> Handled {
    let h = SendHeader::of(&request.head.fields)?;
    let text = h.properties.unwrap_or_default();
    let failed = |why: String| Failure::Code(response::SYSTEM_ERROR, why);
    let client = properties::get(text.as_bytes(), REPLY_TO_CLIENT)
        .ok_or_else(|| failed(format!("reply message properties[{REPLY_TO_CLIENT}] is null")))?;
    let sending = sending(&h, conn, request.body);
    let (stored_ms, fields) = if service.tuning().store_replies {
        let sent = service.broker.send(&sending)?;
        (sent.appended.store_timestamp, sent_fields(service, &sent))
    } else {
        service.broker.topic_to_send(&sending)?;
        // What Java's broker says of what is nowhere.
        let nowhere = Command::ok().field("msgId", "0").field("queueId", h.queue_id);
        (service.broker.now_ms(), nowhere.field("queueOffset", 0))
    };
    let answer = with_region(service, fields);
    let not_pushed = |why: String| Command {
        code: response::SYSTEM_ERROR,
        remark: Some(why.into()),
        ..answer.clone()
    };
    let Some(waiting) = service.sessions.client(client) else {
        let why = format!("push reply message fail, channel of <{client}> not found.");
        return Ok(not_pushed(why).into());
    };
    let push = Command::new(request::PUSH_REPLY_MESSAGE_TO_CLIENT)
        .field("producerGroup", h.group.to_owned())
        .field("topic", h.topic.to_owned())
        .field("defaultTopic", h.default_topic.to_owned())
        .field("defaultTopicQueueNums", h.default_queues)
        .field("queueId", h.queue_id)
        .field("sysFlag", h.sys_flag)
        .field("bornTimestamp", h.born_timestamp)
        .field("flag", h.flag)
        .field("properties", text.to_owned())
        .field("reconsumeTimes", h.reconsume_times)
        .field("unitMode", h.unit_mode)
        .field("bornHost", conn.peer().to_string())
        .field("storeHost", service.advertised.to_string())
        .field("storeTimestamp", stored_ms)
        .body(request.body.to_vec());
    let failed = not_pushed(format!("push reply message to <{client}>fail."));
    let (ticket, taken) = (request.ticket(conn), waiting.ask(push));
    tokio::spawn(async move {
        let is_taken = matches!(timeout(PUSH_TIMEOUT, taken).await, Ok(Ok(r)) if r.code == 0);
        ticket.answer(if is_taken { answer } else { failed });
    });
    Ok(Reply::Later)
}
