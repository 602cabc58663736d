//! 10, 310, 320: messages from producers. 36: messages back from consumers.

use std::sync::Arc;

use mq_store::Error;
use mq_store::broker::send::{Sending, Sent};
use mq_store::codec::ids::push_offset_msg_id;
use mq_store::log::commit_log::Appended;
use mq_store::log::flush::FlushPolicy;

use super::{BrokerService, Failure};
use crate::conn::{Conn, Reply, Request, Ticket};
use crate::wire::codes::{request, response};
use crate::wire::command::Command;
use crate::wire::fields::header;

header! {
    pub(super) struct SendHeader<'a> {
        group: &'a str = "a" | "producerGroup" else "",
        topic: &'a str = "b" | "topic",
        default_topic: &'a str = "c" | "defaultTopic" else "TBW102",
        default_queues: i32 = "d" | "defaultTopicQueueNums" else 4,
        queue_id: i32 = "e" | "queueId",
        sys_flag: i32 = "f" | "sysFlag" else 0,
        born_timestamp: i64 = "g" | "bornTimestamp" else 0,
        flag: i32 = "h" | "flag" else 0,
        properties: Option<&'a str> = "i" | "properties",
        reconsume_times: i32 = "j" | "reconsumeTimes" else 0,
        unit_mode: bool = "k" | "unitMode" else false,
        max_reconsume_times: Option<i32> = "l" | "maxReconsumeTimes",
        batch: bool = "m" | "batch" else false,
    }
}

/// A message that waited for less is always taken, ms.
const LEAST_WAIT_MS: u64 = 5;

/// Takes a message, or a batch.
pub fn send(
    service: &BrokerService,
    conn: &Arc<Conn>,
    request: &Request<'_>,
) -> Result<Reply, Failure> {
    service.check_load(request)?;
    let h = SendHeader::of(&request.head.fields)?;
    let sending = sending(&h, conn, request.body);
    let broker = &service.broker;
    let sent = if h.batch || request.head.code == request::SEND_BATCH_MESSAGE {
        broker.send_batch(&sending)
    } else {
        broker.send(&sending)
    };
    let sent = match sent {
        Ok(sent) => sent,
        Err(refusal) => {
            let failure = Failure::from(refusal);
            return Ok(with_region(service, failure.command()).into());
        }
    };
    let answer = with_region(service, sent_fields(service, &sent));
    if !sent.wait {
        return Ok(answer.into());
    }
    Ok(service.when_durable(&sent.appended, request.ticket(conn), answer))
}

impl BrokerService {
    /// Refuses a message when the broker does not keep up: it waited for too long, or too many
    /// wait for the disk.
    fn check_load(&self, request: &Request<'_>) -> Result<(), Failure> {
        let waited = request.read_at.elapsed().as_millis() as u64;
        let sync = self.broker.store().config().flush == FlushPolicy::Sync;
        if waited < LEAST_WAIT_MS && !sync {
            return Ok(());
        }
        let tuning = self.tuning();
        if tuning.send_wait_ms.is_some_and(|most| waited >= most.max(LEAST_WAIT_MS)) {
            return Err(Failure::Code(
                response::SYSTEM_BUSY,
                format!(
                    "[TIMEOUT_CLEAN_QUEUE]broker busy, start flow control for a while, period in queue: {waited}ms"
                ),
            ));
        }
        match sync && self.broker.store().waiting_for_flush() >= tuning.send_capacity {
            true => Err(Failure::overload()),
            false => Ok(()),
        }
    }

    /// Answers once what was appended is as durable as the flush policy wants.
    pub(super) fn when_durable(
        &self,
        appended: &Appended,
        ticket: Ticket,
        answer: Command,
    ) -> Reply {
        let store = self.broker.store();
        if store.config().flush != FlushPolicy::Sync {
            return answer.into();
        }
        let durable = Box::new(move |flushed| {
            ticket.answer(match flushed {
                Ok(()) => answer,
                // The message is there and will be on the disk: clients take that for sent.
                Err(Error::FlushTimeout) => {
                    Command { code: response::FLUSH_DISK_TIMEOUT, ..answer }
                }
                Err(e) => Failure::from(e).command(),
            });
        });
        store.when_durable(appended, durable);
        Reply::Later
    }
}

pub(super) fn sending<'a>(h: &SendHeader<'a>, conn: &Conn, body: &'a [u8]) -> Sending<'a> {
    Sending {
        topic: h.topic,
        queue_id: h.queue_id,
        default_topic: h.default_topic,
        default_queues: h.default_queues,
        unit_mode: h.unit_mode,
        sys_flag: h.sys_flag,
        flag: h.flag,
        born_timestamp: h.born_timestamp,
        born_host: conn.peer(),
        reconsume_times: h.reconsume_times,
        max_reconsume_times: h.max_reconsume_times,
        properties: h.properties.unwrap_or_default(),
        stamped: true,
        body,
    }
}

pub(super) fn sent_fields(service: &BrokerService, sent: &Sent) -> Command {
    let host = service.broker.store().log().store_host();
    let offsets = sent.physical_offsets();
    let mut ids = String::with_capacity(33 * offsets.len());
    for at in offsets {
        if !ids.is_empty() {
            ids.push(',');
        }
        push_offset_msg_id(&mut ids, host, at);
    }
    Command { fields: Vec::with_capacity(5), ..Command::ok() }
        .field("msgId", ids)
        .field("queueId", sent.queue_id)
        .field("queueOffset", sent.appended.queue_offset)
}

pub(super) fn with_region(service: &BrokerService, command: Command) -> Command {
    command.field("MSG_REGION", service.region.clone()).field("TRACE_ON", service.trace)
}

header! {
    struct SendBackHeader<'a> {
        group: &'a str = "group",
        offset: i64 = "offset",
        delay_level: i32 = "delayLevel",
        max_reconsume_times: Option<i32> = "maxReconsumeTimes",
    }
}

/// Since this version (3.4.9) clients mean what they say of `maxReconsumeTimes`.
const TELLS_MAX_RECONSUME_TIMES: i32 = 121;

/// Takes a message back.
pub fn send_back(
    service: &BrokerService,
    _: &Arc<Conn>,
    request: &Request<'_>,
) -> Result<Reply, Failure> {
    let h = SendBackHeader::of(&request.head.fields)?;
    let max = h.max_reconsume_times.filter(|_| request.head.version >= TELLS_MAX_RECONSUME_TIMES);
    service.broker.send_back(h.group, h.offset, h.delay_level, max)?;
    Ok(Command::ok().into())
}
