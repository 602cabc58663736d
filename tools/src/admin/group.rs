//! Groups: settings, progress, members.

use std::collections::BTreeMap;

use clap::Args;
use mq_broker::wire::codes::{request, response};
use mq_broker::wire::command::{Command, version_name};
use mq_store::broker::groups::GroupConfig;
use mq_store::codec::lenient_json;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cluster::{Error, Place, Queue, Result, Session, by_queue};
use crate::inspect::output::Cell;

#[derive(Args)]
pub struct OneGroup {
    #[arg(short = 'g', long = "groupName", alias = "consumerGroup", value_name = "GROUP")]
    pub group: String,
}

#[derive(Args)]
pub struct Update {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    of: OneGroup,
    /// The group may consume.
    #[arg(short = 's', long = "consumeEnable", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    consume: bool,
    #[arg(short = 'm', long = "consumeFromMinEnable", default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    from_min: bool,
    /// The group may consume by broadcasting.
    #[arg(short = 'd', long = "consumeBroadcastEnable", default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    broadcast: bool,
    #[arg(short = 'o', long = "consumeMessageOrderly", default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    orderly: bool,
    /// Queues of the retry topic.
    #[arg(short = 'q', long = "retryQueueNums", default_value_t = 1, value_name = "N")]
    retry_queues: i32,
    /// A message that failed more often goes to the dead letters.
    #[arg(short = 'r', long = "retryMaxTimes", default_value_t = 16, value_name = "N")]
    retries: i32,
    #[arg(short = 'i', long = "brokerId", default_value_t = 0, value_name = "ID")]
    broker_id: i64,
    #[arg(
        short = 'w',
        long = "whichBrokerWhenConsumeSlowly",
        default_value_t = 1,
        value_name = "ID"
    )]
    slow_broker: i64,
    #[arg(short = 'a', long = "notifyConsumerIdsChanged", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    notify: bool,
}

impl Update {
    pub fn run(self, s: &mut Session) -> Result {
        let group = GroupConfig {
            consume_enable: self.consume,
            consume_from_min_enable: self.from_min,
            consume_broadcast_enable: self.broadcast,
            consume_message_orderly: self.orderly,
            retry_queue_nums: self.retry_queues,
            retry_max_times: self.retries,
            broker_id: self.broker_id,
            which_broker_when_consume_slowly: self.slow_broker,
            notify_consumer_ids_changed_enable: self.notify,
            ..GroupConfig::new(self.of.group)
        };
        for master in s.masters(&self.place, false)? {
            let command = Command::new(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).json(&group);
            s.ask(&master.addr, &command)?;
            s.say(&format!("create subscription group to {} success.", master.addr))?;
        }
        if s.out.json {
            return Ok(s.out.object(&group)?);
        }
        s.say(&format!(
            "SubscriptionGroupConfig{{groupName={}, consumeEnable={}, consumeFromMinEnable={}, consumeBroadcastEnable={}, consumeMessageOrderly={}, retryQueueNums={}, retryMaxTimes={}, brokerId={}, whichBrokerWhenConsumeSlowly={}, notifyConsumerIdsChangedEnable={}}}",
            group.group_name,
            group.consume_enable,
            group.consume_from_min_enable,
            group.consume_broadcast_enable,
            group.consume_message_orderly,
            group.retry_queue_nums,
            group.retry_max_times,
            group.broker_id,
            group.which_broker_when_consume_slowly,
            group.notify_consumer_ids_changed_enable
        ))
    }
}

#[derive(Args)]
pub struct Delete {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    of: OneGroup,
    /// Its offsets too.
    #[arg(short = 'r', long = "removeOffset", default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    offsets: bool,
}

impl Delete {
    pub fn run(self, s: &mut Session) -> Result {
        let group = self.of.group;
        for master in s.masters(&self.place, false)? {
            let command = Command::new(request::DELETE_SUBSCRIPTIONGROUP)
                .field("groupName", group.clone())
                .field("cleanOffset", self.offsets);
            s.ask(&master.addr, &command)?;
            let text = format!(
                "delete subscription group [{group}] from broker [{}] success.",
                master.addr
            );
            s.say(&text)?;
        }
        if self.place.cluster.is_some() {
            for topic in [format!("%RETRY%{group}"), format!("%DLQ%{group}")] {
                for master in s.masters(&self.place, false)? {
                    let command =
                        Command::new(request::DELETE_TOPIC_IN_BROKER).field("topic", topic.clone());
                    s.ask(&master.addr, &command)?;
                }
                let command = Command::new(request::DELETE_TOPIC_IN_NAMESRV).field("topic", topic);
                s.tell_name_servers(&command)?;
            }
        }
        Ok(())
    }
}

impl OneGroup {
    /// The group's settings on every broker.
    pub fn config(self, s: &mut Session) -> Result {
        for master in s.masters(&Place { broker: None, cluster: None }, true)? {
            let ask = Command::new(request::GET_SUBSCRIPTIONGROUP_CONFIG)
                .field("group", self.group.clone());
            let config: Value = s.ask_for(&master.addr, &ask)?;
            if s.out.json {
                s.out.object(&json!({ "brokerName": master.name, "config": config }))?;
                continue;
            }
            s.say(&format!(
                "============================={}:{}=============================",
                master.cluster, master.name
            ))?;
            for (key, value) in config.as_object().into_iter().flatten() {
                s.say(&format!("{key:<40}=  {value}"))?;
            }
        }
        Ok(())
    }
}

// ---- progress ----

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offset {
    pub broker_offset: i64,
    pub consumer_offset: i64,
    last_timestamp: i64,
}

impl Offset {
    fn behind(&self) -> i64 {
        self.broker_offset - self.consumer_offset
    }
}

/// How a group stands on a broker.
pub struct Progress {
    pub queues: Vec<(Queue, Offset)>,
    tps: f64,
}

impl Progress {
    pub fn behind(&self) -> i64 {
        self.queues.iter().map(|(_, o)| o.behind()).sum()
    }
}

pub fn progress(s: &mut Session, addr: &str, group: &str, topic: Option<&str>) -> Result<Progress> {
    let mut ask = Command::new(request::GET_CONSUME_STATS).field("consumerGroup", group.to_owned());
    if let Some(topic) = topic {
        ask = ask.field("topic", topic.to_owned());
    }
    let stats: Value = s.ask_for(addr, &ask)?;
    Ok(Progress {
        queues: by_queue(&stats["offsetTable"]),
        tps: stats["consumeTps"].as_f64().unwrap_or(0.0),
    })
}

/// How a group stands everywhere.
fn progress_of(s: &mut Session, group: &str, topic: Option<&str>) -> Result<Progress> {
    let mut all = Progress { queues: Vec::new(), tps: 0.0 };
    for master in s.route(&format!("%RETRY%{group}"))?.masters() {
        let one = progress(s, &master.addr, group, topic)?;
        all.queues.extend(one.queues);
        all.tps += one.tps;
    }
    all.queues.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}

/// What the members of a group are, and what it subscribes to.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Members {
    connection_set: Vec<Member>,
    consume_from_where: String,
    consume_type: String,
    message_model: String,
    subscription_table: BTreeMap<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Member {
    client_addr: String,
    client_id: String,
    language: String,
    version: i32,
}

fn members(s: &mut Session, group: &str, broker: Option<&str>) -> Result<Members> {
    let addr = match broker {
        Some(addr) => addr.to_owned(),
        // Clients tell every broker that they are there.
        None => {
            let masters = s.route(&format!("%RETRY%{group}"))?.masters();
            let none = || Error::Failed(format!("no broker has the group {group}"));
            masters.into_iter().next().ok_or_else(none)?.addr
        }
    };
    let ask = Command::new(request::GET_CONSUMER_CONNECTION_LIST)
        .field("consumerGroup", group.to_owned());
    s.ask_for(&addr, &ask)
}

#[derive(Args)]
pub struct ProgressArgs {
    /// Of this group, queue by queue; otherwise all groups.
    #[arg(short = 'g', long = "groupName", value_name = "GROUP")]
    group: Option<String>,
    /// Of this topic only.
    #[arg(short = 't', long = "topicName", value_name = "TOPIC")]
    topic: Option<String>,
    /// With the client that has each queue.
    #[arg(short = 's', long = "showClientIP", num_args = 0..=1, default_value = "false", default_missing_value = "true", value_name = "BOOL")]
    show_client: bool,
}

impl ProgressArgs {
    pub fn run(self, s: &mut Session) -> Result {
        match &self.group {
            Some(group) => self.of_group(s, group),
            None => all_groups(s),
        }
    }

    fn of_group(&self, s: &mut Session, group: &str) -> Result {
        let progress = progress_of(s, group, self.topic.as_deref())?;
        let clients = if self.show_client { clients_of_queues(s, group)? } else { BTreeMap::new() };
        s.out.table(&[
            ("topic", "#Topic"),
            ("brokerName", "#Broker Name"),
            ("queueId", ">#QID"),
            ("brokerOffset", ">#Broker Offset"),
            ("consumerOffset", ">#Consumer Offset"),
            ("client", "#Client IP"),
            ("diff", ">#Diff"),
            ("lastTimestamp", "#LastTime"),
        ])?;
        for (queue, offset) in &progress.queues {
            let client = clients.get(queue).map_or(Cell::None, |c| Cell::Text(c.clone()));
            let time = offset.last_timestamp;
            s.out.item([
                Cell::Text(queue.topic.clone()),
                Cell::Text(queue.broker_name.clone()),
                Cell::Number(queue.queue_id.into()),
                Cell::Number(offset.broker_offset),
                Cell::Number(offset.consumer_offset),
                client,
                Cell::Number(offset.behind()),
                Cell::Time((time > 0).then_some(time)),
            ])?;
        }
        if !s.out.json {
            s.say(&format!("\nConsume TPS: {:.2}", progress.tps))?;
            s.say(&format!("Consume Diff Total: {}", progress.behind()))?;
        }
        Ok(())
    }
}

/// Which client's address has each queue, as the clients tell.
fn clients_of_queues(s: &mut Session, group: &str) -> Result<BTreeMap<Queue, String>> {
    let mut found = BTreeMap::new();
    for member in members(s, group, None)?.connection_set {
        let info = running_info(s, group, &member.client_id, false)?;
        for (queue, _) in by_queue::<Value>(&info["mqTable"]) {
            let ip = member.client_id.split('@').next().unwrap_or_default();
            found.insert(queue, ip.to_owned());
        }
    }
    Ok(found)
}

fn all_groups(s: &mut Session) -> Result {
    s.out.table(&[
        ("group", "#Group"),
        ("count", ">#Count"),
        ("version", "#Version"),
        ("type", "#Type"),
        ("model", "#Model"),
        ("tps", ">#TPS"),
        ("diffTotal", ">#Diff Total"),
    ])?;
    for topic in s.topics()? {
        let Some(group) = topic.strip_prefix("%RETRY%") else { continue };
        let Ok(progress) = progress_of(s, group, None) else { continue };
        let members = members(s, group, None).unwrap_or_default();
        let count = members.connection_set.len();
        let version = members.connection_set.iter().map(|m| m.version).min();
        let kind = match &*members.consume_type {
            "CONSUME_ACTIVELY" => "PULL",
            "" => "",
            _ => "PUSH",
        };
        s.out.item([
            Cell::Text(group.to_owned()),
            Cell::number(count as u64),
            Cell::Text(version.map_or("OFFLINE".into(), version_name)),
            Cell::Text(kind.into()),
            Cell::Text(members.message_model),
            Cell::Text(format!("{:.0}", progress.tps)),
            Cell::Number(progress.behind()),
        ])?;
    }
    Ok(())
}

#[derive(Args)]
pub struct BrokerStats {
    #[arg(short = 'b', long = "brokerAddr", value_name = "HOST:PORT")]
    broker: String,
    /// Topics with an order only.
    #[arg(short = 'o', long, default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    order: bool,
    /// Queues that are behind by so many messages at least.
    #[arg(short = 'l', long, default_value_t = 0, value_name = "N")]
    level: i64,
}

impl BrokerStats {
    pub fn run(self, s: &mut Session) -> Result {
        let ask = Command::new(request::GET_BROKER_CONSUME_STATS).field("isOrder", self.order);
        let all: Value = s.ask_for(&self.broker, &ask)?;
        s.out.table(&[
            ("topic", "#Topic"),
            ("group", "#Group"),
            ("brokerName", "#Broker Name"),
            ("queueId", ">#QID"),
            ("brokerOffset", ">#Broker Offset"),
            ("consumerOffset", ">#Consumer Offset"),
            ("diff", ">#Diff"),
            ("lastTimestamp", "#LastTime"),
        ])?;
        let groups = all["consumeStatsList"].as_array().into_iter().flatten();
        for (group, list) in groups.filter_map(Value::as_object).flatten() {
            for stats in list.as_array().into_iter().flatten() {
                for (queue, offset) in by_queue::<Offset>(&stats["offsetTable"]) {
                    if offset.behind() < self.level {
                        continue;
                    }
                    let time = offset.last_timestamp;
                    s.out.item([
                        Cell::Text(queue.topic),
                        Cell::Text(group.clone()),
                        Cell::Text(queue.broker_name),
                        Cell::Number(queue.queue_id.into()),
                        Cell::Number(offset.broker_offset),
                        Cell::Number(offset.consumer_offset),
                        Cell::Number(offset.behind()),
                        Cell::Time((time > 0).then_some(time)),
                    ])?;
                }
            }
        }
        if !s.out.json {
            s.say(&format!("\nDiff Total: {}", all["totalDiff"]))?;
        }
        Ok(())
    }
}

// ---- members ----

#[derive(Args)]
pub struct Connection {
    #[command(flatten)]
    of: OneGroup,
    /// As this broker knows it.
    #[arg(short = 'b', long = "brokerAddr", value_name = "HOST:PORT")]
    broker: Option<String>,
}

fn member_table(s: &mut Session, members: Vec<Member>) -> Result {
    s.out.table(&[
        ("clientId", "#ClientId"),
        ("clientAddr", "#ClientAddr"),
        ("language", "#Language"),
        ("version", "#Version"),
    ])?;
    for m in members {
        s.out.item([
            Cell::Text(m.client_id),
            Cell::Text(m.client_addr),
            Cell::Text(m.language),
            Cell::Text(version_name(m.version)),
        ])?;
    }
    Ok(())
}

impl Connection {
    pub fn run(self, s: &mut Session) -> Result {
        let members = members(s, &self.of.group, self.broker.as_deref())?;
        member_table(s, members.connection_set)?;
        if s.out.json {
            return Ok(s.out.object(&json!({
                "consumeType": members.consume_type, "messageModel": members.message_model,
                "consumeFromWhere": members.consume_from_where,
                "subscriptionTable": members.subscription_table,
            }))?);
        }
        s.say("\nBelow is subscription:")?;
        s.out.table(&[("topic", "#Topic"), ("subString", "#SubExpression")])?;
        for (topic, subscription) in members.subscription_table {
            let sub = subscription["subString"].as_str().unwrap_or_default().to_owned();
            s.out.item([topic, sub].map(Cell::Text))?;
        }
        s.say(&format!("\nConsumeType: {}", members.consume_type))?;
        s.say(&format!("MessageModel: {}", members.message_model))?;
        s.say(&format!("ConsumeFromWhere: {}", members.consume_from_where))
    }
}

#[derive(Args)]
pub struct Producers {
    #[arg(short = 'g', long = "producerGroup", value_name = "GROUP")]
    group: String,
    #[arg(short, long, value_name = "TOPIC")]
    topic: String,
}

impl Producers {
    pub fn run(self, s: &mut Session) -> Result {
        let mut found = Vec::new();
        let mut refused = None;
        for master in s.route(&self.topic)?.masters() {
            let ask = Command::new(request::GET_PRODUCER_CONNECTION_LIST)
                .field("producerGroup", self.group.clone());
            match s.ask_for::<Members>(&master.addr, &ask) {
                Ok(members) => found.extend(members.connection_set),
                Err(e) if e.code().is_some() => refused = Some(e),
                Err(e) => return Err(e),
            }
        }
        match refused {
            Some(e) if found.is_empty() => Err(e),
            _ => member_table(s, found),
        }
    }
}

#[derive(Args)]
pub struct AllProducers {
    #[arg(short = 'b', long = "broker", alias = "brokerAddr", value_name = "HOST:PORT")]
    broker: String,
}

impl AllProducers {
    pub fn run(self, s: &mut Session) -> Result {
        let all: Value = s.ask_for(&self.broker, &Command::new(request::GET_ALL_PRODUCER_INFO))?;
        s.out.table(&[
            ("group", "#Group"),
            ("clientId", "#ClientId"),
            ("remoteIP", "#ClientAddr"),
            ("language", "#Language"),
            ("version", "#Version"),
            ("lastUpdateTimestamp", "#Last Heard"),
        ])?;
        for (group, clients) in all["data"].as_object().into_iter().flatten() {
            for client in clients.as_array().into_iter().flatten() {
                let text = |key: &str| Cell::Text(client[key].as_str().unwrap_or_default().into());
                s.out.item([
                    Cell::Text(group.clone()),
                    text("clientId"),
                    text("remoteIP"),
                    text("language"),
                    Cell::Text(
                        client["version"]
                            .as_i64()
                            .map_or_else(String::new, |v| version_name(v as i32)),
                    ),
                    Cell::Time(client["lastUpdateTimestamp"].as_i64()),
                ])?;
            }
        }
        Ok(())
    }
}

#[derive(Args)]
pub struct Status {
    #[command(flatten)]
    connection: Connection,
    /// What this client tells of itself, in full.
    #[arg(short = 'i', long = "clientId", value_name = "ID")]
    client: Option<String>,
    /// With the stacks of its threads.
    #[arg(short = 's', long = "jstack", requires = "client")]
    jstack: bool,
}

impl Status {
    pub fn run(self, s: &mut Session) -> Result {
        let group = &self.connection.of.group;
        if let Some(client) = &self.client {
            let info = running_info(s, group, client, self.jstack)?;
            if s.out.json {
                return Ok(s.out.object(&info)?);
            }
            let text = serde_json::to_string_pretty(&info).unwrap_or_default();
            return s.say(&text);
        }
        let members = members(s, group, self.connection.broker.as_deref())?.connection_set;
        s.out.table(&[
            ("index", ">#Index"),
            ("clientId", "#ClientId"),
            ("version", "#Version"),
            ("queues", ">#Queues"),
        ])?;
        for (n, member) in members.into_iter().enumerate() {
            let info = running_info(s, group, &member.client_id, false);
            let queues = info.map(|i| i["mqTable"].as_object().map_or(0, |t| t.len()));
            s.out.item([
                Cell::number(n as u64 + 1),
                Cell::Text(member.client_id),
                Cell::Text(version_name(member.version)),
                queues.map_or(Cell::None, |n| Cell::number(n as u64)),
            ])?;
        }
        Ok(())
    }
}

/// What a consumer tells of itself, through a broker.
fn running_info(s: &mut Session, group: &str, client: &str, jstack: bool) -> Result<Value> {
    let ask = Command::new(request::GET_CONSUMER_RUNNING_INFO)
        .field("consumerGroup", group.to_owned())
        .field("clientId", client.to_owned())
        .field("jstackEnable", jstack);
    let masters = s.route(&format!("%RETRY%{group}"))?.masters();
    let mut last = Error::Failed(format!("no broker has the group {group}"));
    for master in masters {
        let answer = s.call(&master.addr, &ask)?;
        if answer.code == response::SUCCESS {
            let text = String::from_utf8_lossy(&answer.body);
            return lenient_json::parse(&text)
                .map_err(|e| Error::Failed(format!("client {client} sent no JSON: {e}")));
        }
        last = crate::caller::refused(&ask, answer).into();
    }
    Err(last)
}
