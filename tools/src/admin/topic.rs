//! Topics.

use clap::Args;
use mq_broker::wire::codes::request;
use mq_broker::wire::command::Command;
use mq_store::broker::topics::TopicConfig;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cluster::{Error, Place, Queue, Result, Session, by_queue};
use super::namesrv::{ORDER_TOPIC_CONFIG, put_kv};
use crate::inspect::output::Cell;

/// Topics that are a group's own.
fn is_of_a_group(topic: &str) -> bool {
    topic.starts_with("%RETRY%") || topic.starts_with("%DLQ%")
}

#[derive(Args)]
pub struct OneTopic {
    #[arg(short = 't', long, value_name = "TOPIC")]
    pub topic: String,
}

#[derive(Args)]
pub struct List {
    /// With the cluster and the groups that consume each.
    #[arg(short = 'c', long = "clusterModel")]
    clusters: bool,
}

impl List {
    pub fn run(self, s: &mut Session) -> Result {
        let topics = s.topics()?;
        if !self.clusters {
            return s.names("topic", topics);
        }
        let titles =
            [("cluster", "#Cluster Name"), ("topic", "#Topic"), ("group", "#Consumer Group")];
        s.out.table(&titles)?;
        for topic in topics.into_iter().filter(|t| !is_of_a_group(t)) {
            let cluster = match s.route(&topic) {
                Ok(route) => route.masters().first().map(|m| m.cluster.clone()).unwrap_or_default(),
                Err(_) => String::new(),
            };
            let mut groups = groups_of(s, &topic).unwrap_or_default();
            if groups.is_empty() {
                groups.push(String::new());
            }
            for group in groups {
                let cells = [cluster.clone(), topic.clone(), group];
                s.out.item(cells.map(Cell::Text))?;
            }
        }
        Ok(())
    }
}

/// The groups that consume a topic.
pub fn groups_of(s: &mut Session, topic: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct GroupList {
        group_list: Vec<String>,
    }
    let mut all = Vec::new();
    for master in s.route(topic)?.masters() {
        let ask =
            Command::new(request::QUERY_TOPIC_CONSUME_BY_WHO).field("topic", topic.to_owned());
        all.extend(s.ask_for::<GroupList>(&master.addr, &ask)?.group_list);
    }
    all.sort();
    all.dedup();
    Ok(all)
}

#[derive(Args)]
pub struct Route {
    #[command(flatten)]
    of: OneTopic,
    /// As a table.
    #[arg(short, long)]
    list: bool,
}

impl Route {
    pub fn run(self, s: &mut Session) -> Result {
        let route = s.route(&self.of.topic)?;
        if s.out.json {
            return Ok(s.out.object(&route)?);
        }
        if !self.list {
            let text = serde_json::to_string_pretty(&route).unwrap_or_default();
            return s.say(&text);
        }
        s.out.table(&[
            ("cluster", "#ClusterName"),
            ("brokerName", "#BrokerName"),
            ("brokerAddrs", "#BrokerAddrs"),
            ("readQueueNums", ">#ReadQueue"),
            ("writeQueueNums", ">#WriteQueue"),
            ("perm", ">#Perm"),
        ])?;
        for q in &route.queue_datas {
            let broker = route.broker_datas.iter().find(|b| b.broker_name == q.broker_name);
            let addrs = broker.map(|b| b.broker_addrs.values().cloned().collect::<Vec<_>>());
            s.out.item([
                Cell::Text(broker.map(|b| b.cluster.clone()).unwrap_or_default()),
                Cell::Text(q.broker_name.clone()),
                Cell::Text(addrs.unwrap_or_default().join(",")),
                Cell::Number(q.read_queue_nums.into()),
                Cell::Number(q.write_queue_nums.into()),
                Cell::Number(q.perm.into()),
            ])?;
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Offsets {
    min_offset: i64,
    max_offset: i64,
    last_update_timestamp: i64,
}

impl OneTopic {
    /// The queues, first and next offset, last store time.
    pub fn status(self, s: &mut Session) -> Result {
        let mut rows: Vec<(Queue, Offsets)> = Vec::new();
        for master in s.route(&self.topic)?.masters() {
            let ask =
                Command::new(request::GET_TOPIC_STATS_INFO).field("topic", self.topic.clone());
            let stats: Value = s.ask_for(&master.addr, &ask)?;
            rows.extend(by_queue(&stats["offsetTable"]));
        }
        s.out.table(&[
            ("brokerName", "#Broker Name"),
            ("queueId", ">#QID"),
            ("minOffset", ">#Min Offset"),
            ("maxOffset", ">#Max Offset"),
            ("lastUpdateTimestamp", "#Last Updated"),
        ])?;
        for (queue, offsets) in rows {
            let time = offsets.last_update_timestamp;
            s.out.item([
                Cell::Text(queue.broker_name),
                Cell::Number(queue.queue_id.into()),
                Cell::Number(offsets.min_offset),
                Cell::Number(offsets.max_offset),
                Cell::Time((time > 0).then_some(time)),
            ])?;
        }
        Ok(())
    }

    pub fn clusters(self, s: &mut Session) -> Result {
        let mut clusters: Vec<String> =
            s.route(&self.topic)?.broker_datas.into_iter().map(|b| b.cluster).collect();
        clusters.sort();
        clusters.dedup();
        s.names("cluster", clusters)
    }
}

#[derive(Args)]
pub struct Update {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    of: OneTopic,
    #[arg(short = 'r', long = "readQueueNums", default_value_t = 8, value_name = "N")]
    read: i32,
    #[arg(short = 'w', long = "writeQueueNums", default_value_t = 8, value_name = "N")]
    write: i32,
    /// 2 write, 4 read, 6 both.
    #[arg(short = 'p', long, default_value_t = 6, value_name = "BITS")]
    perm: i32,
    /// Clients of an ordered topic see its queues even while a broker is away.
    #[arg(short = 'o', long, default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    order: bool,
    #[arg(short = 'u', long, default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    unit: bool,
    #[arg(short = 's', long = "hasUnitSub", default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    has_unit_sub: bool,
    /// Changes of attributes: +name=value sets one, -name removes one.
    #[arg(short = 'a', long, value_name = "LIST", allow_hyphen_values = true)]
    attributes: Option<String>,
}

impl Update {
    pub fn run(self, s: &mut Session) -> Result {
        let topic = TopicConfig {
            order: self.order,
            perm: self.perm,
            write_queue_nums: self.write,
            topic_sys_flag: i32::from(self.unit) | i32::from(self.has_unit_sub) << 1,
            ..TopicConfig::new(self.of.topic, self.read)
        };
        let masters = s.masters(&self.place, false)?;
        for master in &masters {
            let command = update_command(&topic, self.attributes.as_deref());
            s.ask(&master.addr, &command)?;
            s.say(&format!("create topic to {} success.", master.addr))?;
        }
        if self.order && self.place.cluster.is_some() {
            let queues: Vec<_> =
                masters.iter().map(|m| format!("{}:{}", m.name, self.write)).collect();
            put_kv(s, ORDER_TOPIC_CONFIG, &topic.topic_name, &queues.join(";"))?;
        }
        show_config(s, &topic)
    }
}

fn update_command(topic: &TopicConfig, attributes: Option<&str>) -> Command {
    let command = Command::new(request::UPDATE_AND_CREATE_TOPIC)
        .field("topic", topic.topic_name.clone())
        .field("defaultTopic", "TBW102")
        .field("readQueueNums", topic.read_queue_nums)
        .field("writeQueueNums", topic.write_queue_nums)
        .field("perm", topic.perm)
        .field("topicFilterType", topic.topic_filter_type.clone())
        .field("topicSysFlag", topic.topic_sys_flag)
        .field("order", topic.order);
    match attributes {
        Some(attributes) => command.field("attributes", attributes.to_owned()),
        None => command,
    }
}

fn show_config(s: &mut Session, topic: &TopicConfig) -> Result {
    if s.out.json {
        return Ok(s.out.object(topic)?);
    }
    s.say(&format!(
        "TopicConfig [topicName={}, readQueueNums={}, writeQueueNums={}, perm={}, topicFilterType={}, topicSysFlag={}, order={}]",
        topic.topic_name,
        topic.read_queue_nums,
        topic.write_queue_nums,
        topic.perm,
        topic.topic_filter_type,
        topic.topic_sys_flag,
        topic.order
    ))
}

#[derive(Args)]
pub struct Perm {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    of: OneTopic,
    /// 2 write, 4 read, 6 both.
    #[arg(short, long, value_name = "BITS", value_parser = clap::value_parser!(i32).range(0..=6))]
    perm: i32,
}

impl Perm {
    pub fn run(self, s: &mut Session) -> Result {
        for master in s.masters(&self.place, false)? {
            let ask = Command::new(request::GET_TOPIC_CONFIG).field("topic", self.of.topic.clone());
            let config: TopicConfig = s.ask_for(&master.addr, &ask)?;
            let old = config.perm;
            let config = TopicConfig { perm: self.perm, ..config };
            s.ask(&master.addr, &update_command(&config, None))?;
            let text = format!(
                "update topic perm from {old} to {} in {} success.",
                self.perm, master.addr
            );
            s.say(&text)?;
        }
        Ok(())
    }
}

#[derive(Args)]
pub struct Delete {
    #[arg(short = 'c', long = "clusterName", value_name = "NAME")]
    cluster: String,
    #[command(flatten)]
    of: OneTopic,
}

impl Delete {
    pub fn run(self, s: &mut Session) -> Result {
        let place = Place { broker: None, cluster: Some(self.cluster.clone()) };
        for master in s.masters(&place, false)? {
            let command =
                Command::new(request::DELETE_TOPIC_IN_BROKER).field("topic", self.of.topic.clone());
            s.ask(&master.addr, &command)?;
        }
        let command = Command::new(request::DELETE_TOPIC_IN_NAMESRV)
            .field("topic", self.of.topic.clone())
            .field("clusterName", self.cluster.clone());
        s.tell_name_servers(&command)?;
        let text =
            format!("delete topic [{}] from cluster [{}] success.", self.of.topic, self.cluster);
        s.say(&text)?;
        let text = format!("delete topic [{}] from NameServer success.", self.of.topic);
        s.say(&text)
    }
}

#[derive(Args)]
pub struct Allocate {
    #[command(flatten)]
    of: OneTopic,
    /// Clients, parted by commas.
    #[arg(
        short = 'i',
        long = "ipList",
        value_name = "LIST",
        value_delimiter = ',',
        required = true
    )]
    clients: Vec<String>,
}

impl Allocate {
    /// Which client of a group would get which queue, by the average strategy.
    pub fn run(self, s: &mut Session) -> Result {
        let route = s.route(&self.of.topic)?;
        let mut queues = Vec::new();
        for q in route.queue_datas.iter().filter(|q| q.perm & 4 != 0) {
            queues.extend((0..q.read_queue_nums).map(|queue_id| Queue {
                topic: self.of.topic.clone(),
                broker_name: q.broker_name.clone(),
                queue_id,
            }));
        }
        queues.sort();
        let (each, more) = (queues.len() / self.clients.len(), queues.len() % self.clients.len());
        let mut rest = queues.as_slice();
        let mut result = serde_json::Map::new();
        for (n, client) in self.clients.into_iter().enumerate() {
            let (mine, others) = rest.split_at(each + usize::from(n < more));
            rest = others;
            result.insert(client, json!(mine));
        }
        Ok(s.out.object(&json!({ "result": result }))?)
    }
}

#[derive(Args)]
pub struct Order {
    #[command(flatten)]
    of: OneTopic,
    #[arg(short, long, value_name = "METHOD", value_parser = ["get", "put", "delete"])]
    method: String,
    /// For put: broker and queues, as broker-a:4;broker-b:4.
    #[arg(short = 'v', long = "orderConf", value_name = "CONF")]
    conf: Option<String>,
}

impl Order {
    pub fn run(self, s: &mut Session) -> Result {
        let topic = self.of.topic;
        let kv = |code| {
            Command::new(code).field("namespace", ORDER_TOPIC_CONFIG).field("key", topic.clone())
        };
        let text = match (&*self.method, self.conf) {
            ("get", _) => {
                let answer = s.ask_name_server(&kv(request::GET_KV_CONFIG))?;
                let conf = answer.fields.get("value").cloned().unwrap_or_default();
                format!("get orderConf success. topic=[{topic}], orderConf=[{conf}]")
            }
            ("delete", _) => {
                s.tell_name_servers(&kv(request::DELETE_KV_CONFIG))?;
                format!("delete orderConf success. topic=[{topic}]")
            }
            (_, Some(conf)) => {
                put_kv(s, ORDER_TOPIC_CONFIG, &topic, &conf)?;
                format!("update orderConf success. topic=[{topic}], orderConf=[{conf}]")
            }
            _ => return Err(Error::Usage("please set orderConf with option -v.".into())),
        };
        s.say(&text)
    }
}

#[derive(Args)]
pub struct StatsAll {
    /// Only topics with messages in the last day.
    #[arg(short = 'a', long = "activeTopic")]
    active: bool,
    /// Only this topic.
    #[arg(short, long, value_name = "TOPIC")]
    topic: Option<String>,
}

/// One counter of a broker: rate of the last minute, sum of the day.
fn counter(s: &mut Session, addr: &str, name: &'static str, key: String) -> (f64, i64) {
    let ask = Command::new(request::VIEW_BROKER_STATS_DATA)
        .field("statsName", name)
        .field("statsKey", key);
    // What was never counted is not there.
    let data: Value = s.ask_for(addr, &ask).unwrap_or_default();
    let tps = data["statsMinute"]["tps"].as_f64().unwrap_or(0.0);
    let sum = data["statsDay"]["sum"].as_i64().filter(|n| *n > 0);
    (tps, sum.or(data["statsHour"]["sum"].as_i64()).unwrap_or(0))
}

impl StatsAll {
    pub fn run(self, s: &mut Session) -> Result {
        s.out.table(&[
            ("topic", "#Topic"),
            ("group", "#Consumer Group"),
            ("accumulation", ">#Accumulation"),
            ("inTps", ">#InTPS"),
            ("outTps", ">#OutTPS"),
            ("inMsg24Hour", ">#InMsg24Hour"),
            ("outMsg24Hour", ">#OutMsg24Hour"),
        ])?;
        let topics = s.topics()?.into_iter();
        let wanted = |t: &String| match &self.topic {
            Some(topic) => topic == t,
            None => !is_of_a_group(t),
        };
        for topic in topics.filter(wanted) {
            let Ok(route) = s.route(&topic) else { continue };
            let masters = route.masters();
            let (mut in_tps, mut came) = (0.0, 0);
            for master in &masters {
                let (tps, sum) = counter(s, &master.addr, "TOPIC_PUT_NUMS", topic.clone());
                in_tps += tps;
                came += sum;
            }
            if self.active && came == 0 {
                continue;
            }
            let mut groups: Vec<Option<String>> =
                groups_of(s, &topic)?.into_iter().map(Some).collect();
            if groups.is_empty() {
                groups.push(None);
            }
            for group in groups {
                let (mut out_tps, mut went, mut behind) = (0.0, 0, 0);
                if let Some(group) = &group {
                    for master in &masters {
                        let key = format!("{topic}@{group}");
                        let (tps, sum) = counter(s, &master.addr, "GROUP_GET_NUMS", key);
                        out_tps += tps;
                        went += sum;
                        let progress = super::group::progress(s, &master.addr, group, Some(&topic));
                        behind += progress.map_or(0, |p| p.behind());
                    }
                }
                s.out.item([
                    Cell::Text(topic.clone()),
                    Cell::Text(group.unwrap_or_default()),
                    Cell::Number(behind),
                    Cell::Text(format!("{in_tps:.2}")),
                    Cell::Text(format!("{out_tps:.2}")),
                    Cell::Number(came),
                    Cell::Number(went),
                ])?;
            }
        }
        Ok(())
    }
}
