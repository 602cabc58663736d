//! 37: how transactions end. 39: producers are asked how theirs end. 323: they are asked anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mq_store::broker::transaction::{Check, End};
use mq_store::codec::ids::parse_offset_msg_id;
use mq_store::codec::record::sys_flag;

use super::{BrokerService, Failure, Handled};
use crate::conn::{Conn, Reply, Request};
use crate::wire::codes::{request, response};
use crate::wire::command::Command;
use crate::wire::fields::header;

header! {
    struct EndHeader<'a> {
        group: &'a str = "producerGroup",
        queue_offset: i64 = "tranStateTableOffset",
        physical_offset: i64 = "commitLogOffset",
        end: i32 = "commitOrRollback",
    }
}

/// Commits or rolls back. A producer that does not know yet gets no answer: it will be asked.
pub fn end(service: &BrokerService, conn: &Arc<Conn>, request: &Request<'_>) -> Handled {
    let h = EndHeader::of(&request.head.fields)?;
    let commit = match h.end {
        sys_flag::COMMIT => true,
        sys_flag::ROLLBACK => false,
        _ => return Ok(Reply::None),
    };
    let (group, queue_offset, physical_offset) = (h.group, h.queue_offset, h.physical_offset);
    let end = End { group, queue_offset, physical_offset, commit };
    let Some(appended) = service.broker.end_transaction(&end)? else {
        return Ok(Command::ok().into());
    };
    Ok(service.when_durable(&appended, request.ticket(conn), Command::ok()))
}

impl BrokerService {
    /// Asks some producer of a half's group, another one each time.
    pub fn ask_producer(&self, check: Check) {
        static TURN: AtomicUsize = AtomicUsize::new(0);
        let mut members = self.sessions.producers(&check.group);
        members.retain(|m| !m.conn.is_closing());
        if members.is_empty() {
            tracing::warn!(
                "no producer of group {} is there to be asked of message {}",
                check.group,
                check.offset_msg_id
            );
            return;
        }
        let member = &members[TURN.fetch_add(1, Ordering::Relaxed) % members.len()];
        member.conn.tell(
            Command::new(request::CHECK_TRANSACTION_STATE)
                .field("tranStateTableOffset", check.queue_offset)
                .field("commitLogOffset", check.physical_offset)
                .field("msgId", check.unique_key.clone())
                .field("transactionId", check.unique_key)
                .field("offsetMsgId", check.offset_msg_id)
                .body(check.record),
        );
    }
}

header! {
    struct ResumeHeader<'a> {
        msg_id: &'a str = "msgId",
    }
}

/// Has producers asked anew of a half, also of one that was given up.
pub fn resume_check(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    let h = ResumeHeader::of(&request.head.fields)?;
    let (_, at) = parse_offset_msg_id(h.msg_id).ok_or_else(|| {
        let text = format!("{:?} is no offset message id", h.msg_id);
        Failure::Code(response::SYSTEM_ERROR, text)
    })?;
    service.broker.resume_check(at)?;
    Ok(Command::ok().into())
}
