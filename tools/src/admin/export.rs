//! Settings of a cluster in files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use mq_broker::wire::codes::request;
use mq_broker::wire::command::Command;
use serde_json::{Value, json};

use super::cluster::{Error, Place, Result, Session};

#[derive(Args)]
pub struct Into {
    /// The folder of the files.
    #[arg(
        short = 'f',
        long = "filePath",
        default_value = "/tmp/rocketmq/export",
        value_name = "DIR"
    )]
    folder: PathBuf,
}

impl Into {
    fn write(&self, s: &mut Session, name: &str, content: &Value) -> Result {
        let path = self.folder.join(name);
        let text = serde_json::to_string_pretty(content).unwrap_or_default();
        let write =
            || std::fs::create_dir_all(&self.folder).and_then(|()| std::fs::write(&path, text));
        write().map_err(|e| Error::Failed(format!("{}: {e}", path.display())))?;
        s.say(&format!("export {} success", path.display()))
    }
}

#[derive(Args)]
pub struct Metadata {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    into: Into,
    /// Topics only.
    #[arg(short = 't', long = "topic")]
    topics: bool,
    /// Groups only.
    #[arg(short = 'g', long = "subscriptionGroup", conflicts_with = "topics")]
    groups: bool,
    /// Retry topics and dead letters too.
    #[arg(short = 's', long = "specialTopic")]
    special: bool,
}

impl Metadata {
    pub fn run(self, s: &mut Session) -> Result {
        let (mut topics, mut groups) = (BTreeMap::new(), BTreeMap::new());
        for master in s.masters(&self.place, false)? {
            let system = Command::new(request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER);
            let system = s.ask_for::<super::cluster::TopicList>(&master.addr, &system)?.topic_list;
            let all: Value =
                s.ask_for(&master.addr, &Command::new(request::GET_ALL_TOPIC_CONFIG))?;
            let wanted = |topic: &str| {
                let special = topic.starts_with("%RETRY%") || topic.starts_with("%DLQ%");
                !system.iter().any(|t| t == topic) && (self.special || !special)
            };
            add(
                &mut topics,
                &all["topicConfigTable"],
                &["readQueueNums", "writeQueueNums"],
                wanted,
            );
            let all = Command::new(request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG);
            let all: Value = s.ask_for(&master.addr, &all)?;
            let wanted =
                |group: &str| !group.starts_with("CID_") && !SYSTEM_GROUPS.contains(&group);
            add(&mut groups, &all["subscriptionGroupTable"], &["retryQueueNums"], wanted);
        }
        let time = jiff::Timestamp::now().as_millisecond();
        let (name, content) = match (self.topics, self.groups) {
            (true, _) => ("topic.json", json!({ "topicConfigTable": topics, "exportTime": time })),
            (_, true) => {
                let content = json!({ "subscriptionGroupTable": groups, "exportTime": time });
                ("subscriptionGroup.json", content)
            }
            _ => (
                "metadata.json",
                json!({ "topicConfigTable": topics, "subscriptionGroupTable": groups, "exportTime": time }),
            ),
        };
        self.into.write(s, name, &content)
    }
}

/// Groups of RocketMQ's own clients.
const SYSTEM_GROUPS: [&str; 5] = [
    "TOOLS_CONSUMER",
    "SELF_TEST_C_GROUP",
    "FILTERSRV_CONSUMER",
    "CONSUMER_SYS_TRACE",
    "DEFAULT_CONSUMER",
];

/// Adds a broker's table to a cluster's: numbers of queues add up.
fn add(
    to: &mut BTreeMap<String, Value>,
    table: &Value,
    sums: &[&str],
    wanted: impl Fn(&str) -> bool,
) {
    for (name, config) in table.as_object().into_iter().flatten().filter(|(n, _)| wanted(n)) {
        let mut config = config.clone();
        if let Some(known) = to.get(name) {
            for key in sums {
                let sum = known[key].as_i64().unwrap_or(0) + config[key].as_i64().unwrap_or(0);
                config[key] = sum.into();
            }
        }
        to.insert(name.clone(), config);
    }
}

#[derive(Args)]
pub struct Configs {
    #[arg(short = 'c', long = "clusterName", value_name = "NAME")]
    cluster: String,
    #[command(flatten)]
    into: Into,
}

impl Configs {
    pub fn run(self, s: &mut Session) -> Result {
        /// Those that tell how a cluster is set up.
        const WANTED: [&str; 16] = [
            "brokerClusterName",
            "brokerId",
            "brokerName",
            "brokerRole",
            "fileReservedTime",
            "filterServerNums",
            "flushDiskType",
            "maxMessageSize",
            "messageDelayLevel",
            "msgTraceTopicName",
            "slaveReadEnable",
            "traceOn",
            "traceTopicEnable",
            "useTLS",
            "autoCreateTopicEnable",
            "autoCreateSubscriptionGroup",
        ];
        let place = Place { broker: None, cluster: Some(self.cluster) };
        let mut brokers = BTreeMap::new();
        for master in s.masters(&place, false)? {
            let answer = s.ask(&master.addr, &Command::new(request::GET_BROKER_CONFIG))?;
            let text = String::from_utf8_lossy(&answer.body);
            let settings: BTreeMap<String, String> = text
                .lines()
                .filter_map(|l| l.split_once('='))
                .filter(|(key, _)| WANTED.contains(key))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            brokers.insert(master.name, settings);
        }
        let scale =
            json!({ "namesrvSize": s.name_servers.len(), "masterBrokerSize": brokers.len() });
        let content = json!({ "clusterScale": scale, "brokerConfigs": brokers });
        self.into.write(s, "configs.json", &content)
    }
}
