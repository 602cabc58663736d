//! A message as a line of JSON, with the names and forms of RocketMQ's message class.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mq_store::codec::properties::{self, name};
use mq_store::codec::record::Record;
use serde::Serialize;
use serde_json::Value;

use super::verify::damage_of;

/// A message as JSON. Names and forms are those of RocketMQ's message class.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line<'a> {
    pub topic: &'a str,
    pub queue_id: i32,
    pub queue_offset: i64,
    pub commit_log_offset: i64,
    pub store_size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msg_id: Option<&'a str>,
    pub offset_msg_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<&'a str>,
    pub flag: i32,
    pub sys_flag: i32,
    pub born_timestamp: i64,
    pub born_host: String,
    pub store_timestamp: i64,
    pub store_host: String,
    pub reconsume_times: i32,
    pub prepared_transaction_offset: i64,
    #[serde(rename = "bodyCRC")]
    pub body_crc: u32,
    pub body_length: usize,
    pub properties: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Only there if the record is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
    /// What the message means beyond its fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoded: Option<Value>,
}

/// Address and port, an IPv6 address with all its zeros, as Java writes it.
pub fn host(address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(_) => address.to_string(),
        IpAddr::V6(ip) => {
            let groups = ip.segments().map(|group| format!("{group:x}"));
            format!("[{}]:{}", groups.join(":"), address.port())
        }
    }
}

impl<'a> Line<'a> {
    pub fn of(r: &Record<'a>, with_body: bool) -> Line<'a> {
        let properties: BTreeMap<_, _> = properties::pairs(r.properties()).collect();
        let property = |name: &str| properties.get(name).copied();
        Line {
            topic: r.topic(),
            queue_id: r.queue_id(),
            queue_offset: r.queue_offset(),
            commit_log_offset: r.physical_offset(),
            store_size: r.size(),
            msg_id: property(name::UNIQ_KEY),
            offset_msg_id: r.offset_msg_id(),
            keys: property(name::KEYS),
            tags: property(name::TAGS),
            flag: r.flag(),
            sys_flag: r.sys_flag(),
            born_timestamp: r.born_timestamp(),
            born_host: host(r.born_host()),
            store_timestamp: r.store_timestamp(),
            store_host: host(r.store_host()),
            reconsume_times: r.reconsume_times(),
            prepared_transaction_offset: r.prepared_transaction_offset(),
            body_crc: r.body_crc(),
            body_length: r.body().len(),
            body: with_body.then(|| STANDARD.encode(r.body())),
            damaged: damage_of(r),
            decoded: None,
            properties,
        }
    }
}
