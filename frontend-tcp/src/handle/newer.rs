//! What the tools of 5.x ask beyond those of 4.9: who may read what (353), how groups ask (401,
//! 402), replication (907, 908, 1007), timers (60, 61), POP (200056). Where a broker does not have
//! the thing asked about, the answer is that of a Java broker that has it switched off.

use std::sync::Arc;

use mq_store::broker::modes::RequestMode;
use serde::Serialize;

use super::{BrokerService, Failure, Handled};
use crate::conn::{Conn, Request};
use crate::wire::codes::response;
use crate::wire::command::Command;
use crate::wire::fields::header;

header! {
    struct ForbidHeader<'a> {
        group: &'a str = "group",
        topic: &'a str = "topic",
        readable: Option<bool> = "readable",
    }
}

/// Says whether a group may pull from a topic, after changing it if that is asked for.
pub fn forbid(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    #[derive(Serialize)]
    struct GroupForbidden<'a> {
        group: &'a str,
        readable: bool,
        topic: &'a str,
    }
    let h = ForbidHeader::of(&request.head.fields)?;
    if let Some(readable) = h.readable {
        service.broker.set_may_read(h.group, h.topic, readable)?;
    }
    let readable = service.broker.groups().may_read(h.group, h.topic);
    Ok(Command::ok().json(&GroupForbidden { group: h.group, readable, topic: h.topic }).into())
}

/// Keeps how a group shall ask for messages of a topic.
pub fn set_mode(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    let mode: RequestMode = serde_json::from_slice(request.body)?;
    if mode.mode != "PULL" {
        tracing::warn!(
            "group {} shall ask for {} by {}; that is kept, but this broker serves pulls only",
            mode.consumer_group,
            mode.topic,
            mode.mode
        );
    }
    service.broker.set_request_mode(mode)?;
    Ok(Command::ok().into())
}

pub fn all_modes(service: &BrokerService, _: &Arc<Conn>, _: &Request<'_>) -> Handled {
    Ok(Command::ok().json(&service.broker.modes().all()).into())
}

/// A master without slaves.
pub fn ha_status(service: &BrokerService, _: &Arc<Conn>, _: &Request<'_>) -> Handled {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct RuntimeInfo {
        ha_connection_info: [(); 0],
        in_sync_slave_nums: i32,
        master: bool,
        master_commit_log_max_offset: u64,
    }
    let info = RuntimeInfo {
        ha_connection_info: [],
        in_sync_slave_nums: 0,
        master: true,
        master_commit_log_max_offset: service.broker.store().log().end(),
    };
    Ok(Command::ok().json(&info).into())
}

/// Of a slave's position, or of POP's records, of which there are none.
pub fn nothing_to_do() -> Handled {
    Ok(Command::ok().into())
}

pub fn no_controller() -> Handled {
    Err(Failure::Code(response::SYSTEM_ERROR, "this request only for controllerMode".into()))
}

pub fn no_timer(what: &str) -> Handled {
    Err(Failure::Code(response::SYSTEM_ERROR, format!("The {what} is null")))
}
