//! Setting up: topics (17, 18, 21, 215, 305, 351), groups (200, 201, 207, 225, 352), the broker's
//! settings (25, 26), offsets (43, 45, 314), cleaning up (306, 316, 329).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mq_store::broker::groups::GroupConfig;
use mq_store::broker::topics::{DataVersion, TopicConfig};
use serde::{Deserialize, Serialize};

use super::{BrokerService, Failure, Handled};
use crate::conn::{Conn, Reply, Request};
use crate::wire::codes::response;
use crate::wire::command::Command;
use crate::wire::fastjson::{json, object};
use crate::wire::fields::header;

/// With more topics, who makes one does not wait until name servers know it.
const WAITS_UP_TO: usize = 1000;
/// How long a changed topic waits for name servers that do not answer.
const REGISTER: Duration = Duration::from_secs(1);

type All = Box<dyn Fn() -> Vec<(String, String)> + Send + Sync>;
type Set = Box<dyn Fn(&BrokerService, &[(String, String)]) -> Result<(), String> + Send + Sync>;

/// The broker's settings as text, for requests 25 and 26.
pub struct ConfigAccess {
    /// All settings with their values.
    all: All,
    /// Changes settings, all that are given or none, and keeps them; or says why not.
    set: Set,
    version: Mutex<DataVersion>,
}

impl ConfigAccess {
    pub fn new(all: All, set: Set) -> ConfigAccess {
        ConfigAccess { all, set, version: Mutex::default() }
    }
}

impl Default for ConfigAccess {
    /// Nothing to show, nothing to change.
    fn default() -> ConfigAccess {
        let set =
            |_: &BrokerService, _: &[_]| Err("this broker's settings cannot be changed".to_owned());
        ConfigAccess::new(Box::new(Vec::new), Box::new(set))
    }
}

// ---- topics ----

header! {
    struct TopicHeader<'a> {
        topic: &'a str = "topic",
        read_queue_nums: i32 = "readQueueNums",
        write_queue_nums: i32 = "writeQueueNums",
        perm: i32 = "perm",
        filter_type: &'a str = "topicFilterType" else "SINGLE_TAG",
        sys_flag: i32 = "topicSysFlag" else 0,
        order: bool = "order" else false,
        attributes: &'a str = "attributes" else "",
    }
}

/// Makes or changes a topic.
/// Answers when name servers know of it, so that clients that start now find it whole; those
/// that do not answer are not waited for long.
fn once_registered(service: &BrokerService, conn: &Arc<Conn>, request: &Request<'_>) -> Reply {
    let Some(registered) = service.registered.get() else { return Command::ok().into() };
    // Name servers are told of all topics at once. With so many it takes its time, and whoever makes the
    // next thousand should not wait for it each time.
    if service.broker.topics().len() > WAITS_UP_TO {
        return Command::ok().into();
    }
    let (registered, ticket) = (registered(), request.ticket(conn));
    tokio::spawn(async move {
        let _ = tokio::time::timeout(REGISTER, registered).await;
        ticket.answer(Command::ok());
    });
    Reply::Later
}

pub fn update_topic(service: &BrokerService, conn: &Arc<Conn>, request: &Request<'_>) -> Handled {
    let h = TopicHeader::of(&request.head.fields)?;
    let attributes = h.attributes.split(',').map(str::trim).filter(|a| !a.is_empty());
    let attributes = attributes.map(|a| a.split_once('=').unwrap_or((a, "")));
    service.broker.update_topic(TopicConfig {
        attributes: attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        order: h.order,
        perm: h.perm,
        read_queue_nums: h.read_queue_nums,
        topic_filter_type: h.filter_type.to_owned(),
        topic_name: h.topic.to_owned(),
        topic_sys_flag: h.sys_flag,
        write_queue_nums: h.write_queue_nums,
    })?;
    Ok(once_registered(service, conn, request))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TopicsBody {
    topic_config_list: Vec<TopicConfig>,
}

/// Makes or changes topics; those before one that is refused stay.
pub fn update_topics(service: &BrokerService, conn: &Arc<Conn>, request: &Request<'_>) -> Handled {
    let b: TopicsBody = serde_json::from_slice(request.body)?;
    for topic in b.topic_config_list {
        service.broker.update_topic(topic)?;
    }
    Ok(once_registered(service, conn, request))
}

header! {
    struct OneTopic<'a> {
        topic: &'a str = "topic",
    }
}

pub fn delete_topic(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    let h = OneTopic::of(&request.head.fields)?;
    service.broker.delete_topic(h.topic)?;
    Ok(Command::ok().into())
}

pub fn topic_config(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    let h = OneTopic::of(&request.head.fields)?;
    let config = service.broker.topics().get(h.topic).ok_or_else(|| {
        let text = format!("No topic in this broker. topic: {}", h.topic);
        Failure::Code(response::TOPIC_NOT_EXIST, text)
    })?;
    Ok(Command::ok().json(&*config).into())
}

header! {
    /// A part of a table, by name; all of it if nothing is said.
    struct Page<'a> {
        topic_from: i32 = "topicSeq" else 0,
        topics: i32 = "maxTopicNum" else i32::MAX,
        group_from: i32 = "groupSeq" else 0,
        groups: i32 = "maxGroupNum" else i32::MAX,
    }
}

fn page<V>(table: BTreeMap<String, V>, from: i32, most: i32) -> BTreeMap<String, V> {
    let number = |n: i32| usize::try_from(n).unwrap_or(0);
    table.into_iter().skip(number(from)).take(number(most)).collect()
}

pub fn all_topics(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    let h = Page::of(&request.head.fields)?;
    let mut all = service.broker.topics().all();
    let total = all.topic_config_table.len() as u64;
    all.topic_config_table = page(all.topic_config_table, h.topic_from, h.topics);
    Ok(Command::ok().field("totalTopicNum", total).json(&all).into())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TopicList {
    pub broker_addr: String,
    pub topic_list: Vec<String>,
}

pub fn system_topics(service: &BrokerService, _: &Arc<Conn>, _: &Request<'_>) -> Handled {
    let topic_list = service.broker.system_topics().into_iter().collect();
    let list = TopicList { broker_addr: service.advertised.to_string(), topic_list };
    Ok(Command::ok().json(&list).into())
}

// ---- groups ----

/// Makes or changes a group.
pub fn update_group(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    service.broker.update_group(serde_json::from_slice(request.body)?)?;
    Ok(Command::ok().into())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupsBody {
    group_config_list: Vec<GroupConfig>,
}

/// Makes or changes groups; those before one that is refused stay.
pub fn update_groups(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    let b: GroupsBody = serde_json::from_slice(request.body)?;
    for group in b.group_config_list {
        service.broker.update_group(group)?;
    }
    Ok(Command::ok().into())
}

header! {
    struct DeleteGroup<'a> {
        group: &'a str = "groupName",
        clean_offset: bool = "cleanOffset" else false,
    }
}

pub fn delete_group(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    let h = DeleteGroup::of(&request.head.fields)?;
    service.broker.delete_group(h.group, h.clean_offset)?;
    Ok(Command::ok().into())
}

header! {
    struct OneGroup<'a> {
        group: &'a str = "group",
    }
}

/// A group's settings; it is made if it is not there and may be.
pub fn group_config(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    let h = OneGroup::of(&request.head.fields)?;
    Ok(Command::ok().json(&*service.broker.group(h.group)?).into())
}

pub fn all_groups(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    let h = Page::of(&request.head.fields)?;
    let mut all = service.broker.groups().all();
    let total = all.subscription_group_table.len() as u64;
    all.subscription_group_table = page(all.subscription_group_table, h.group_from, h.groups);
    Ok(Command::ok().field("totalGroupNum", total).json(&all).into())
}

// ---- settings ----

/// Changes settings; the body is lines `key=value`.
pub fn update_config(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    /// Where the file is, and what may not be changed, is not for the network to say.
    const CLOSED: [&str; 3] = ["brokerConfigPath", "configBlackList", "adminAllowedAddresses"];
    let failed = |text: String| Failure::Code(response::SYSTEM_ERROR, text);
    let text = std::str::from_utf8(request.body).map_err(|e| failed(e.to_string()))?;
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    let changes: Vec<(String, String)> = lines
        .map(|line| {
            let pair = line.split_once('=').map(|(k, v)| (k.trim().into(), v.trim().into()));
            pair.ok_or_else(|| failed(format!("{line:?} is no key=value")))
        })
        .collect::<Result<_, _>>()?;
    if let Some((key, _)) = changes.iter().find(|(key, _)| CLOSED.contains(&key.as_str())) {
        let text = format!("Can not update config in black list. {key}");
        return Err(Failure::Code(response::NO_PERMISSION, text));
    }
    if !changes.is_empty() {
        (service.config.set)(service, &changes).map_err(failed)?;
        let mut version = service.config.version.lock().unwrap_or_else(PoisonError::into_inner);
        version.next(service.broker.now_ms());
    }
    Ok(Command::ok().into())
}

pub fn config(service: &BrokerService, _: &Arc<Conn>, _: &Request<'_>) -> Handled {
    /// What tools expect of any broker, where this one has nothing to set.
    const ALWAYS: [(&str, &str); 5] = [
        ("brokerRole", "ASYNC_MASTER"),
        ("filterServerNums", "0"),
        ("slaveReadEnable", "false"),
        ("traceOn", "true"),
        ("useTLS", "false"),
    ];
    let mut all: BTreeMap<String, String> =
        ALWAYS.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    all.extend((service.config.all)());
    let lines: String = all.into_iter().map(|(k, v)| format!("{k}={v}\n")).collect();
    let version = *service.config.version.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Command::ok().field("version", json(&version)).body(lines).into())
}

// ---- offsets ----

pub fn all_offsets(service: &BrokerService, _: &Arc<Conn>, _: &Request<'_>) -> Handled {
    let all = service.broker.offsets().all().offset_table;
    let table = object(all.iter().map(|(key, queues)| (json(key), object(queues))));
    Ok(Command::ok().body(object([("\"offsetTable\"", table)])).into())
}

pub fn delay_offsets(service: &BrokerService, _: &Arc<Conn>, _: &Request<'_>) -> Handled {
    let table = object(service.broker.delay_offsets());
    Ok(Command::ok().body(object([("\"offsetTable\"", table)])).into())
}

header! {
    struct CloneHeader<'a> {
        from: &'a str = "srcGroup",
        to: &'a str = "destGroup",
        topic: Option<&'a str> = "topic",
    }
}

/// Gives a group the offsets of another one.
pub fn clone_offsets(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    let h = CloneHeader::of(&request.head.fields)?;
    let topic = h.topic.filter(|t| !t.trim().is_empty());
    service.broker.offsets().copy_group(h.from, h.to, topic);
    Ok(Command::ok().into())
}

// ---- cleaning up ----

/// Removes files of queues whose records are gone.
pub fn clean_queues(service: &BrokerService, _: &Arc<Conn>, _: &Request<'_>) -> Handled {
    service.broker.store().follow_log()?;
    Ok(Command::ok().into())
}

/// Removes queues of topics that are gone.
pub fn clean_topics(service: &BrokerService, _: &Arc<Conn>, _: &Request<'_>) -> Handled {
    for topic in service.broker.clean_unused_topics()? {
        tracing::info!("queues of topic {topic:?}, which has no settings, are removed");
    }
    Ok(Command::ok().into())
}

/// Removes files of the log that are expired.
pub fn delete_expired(service: &BrokerService, _: &Arc<Conn>, _: &Request<'_>) -> Handled {
    service.broker.store().delete_expired()?;
    Ok(Command::ok().into())
}
