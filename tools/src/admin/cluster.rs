//! The cluster that is asked: name servers, routes, brokers, and a connection to each.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use clap::Args;
use mq_broker::conn::Response;
use mq_broker::namesrv::table::QueueData;
use mq_broker::wire::client::Security;
use mq_broker::wire::codes::{request, response};
use mq_broker::wire::command::Command;
use mq_store::codec::lenient_json;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::caller::{self, Caller};
use crate::inspect::output::Output;

/// Why a command came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Call(#[from] caller::Error),
    #[error("{0}")]
    Failed(String),
    /// What was typed does not fit together.
    #[error("{0}")]
    Usage(String),
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
    #[error("{what} answered what cannot be read: {why}")]
    Answer { what: String, why: String },
}

impl Error {
    /// The code of a refusal.
    pub fn code(&self) -> Option<i32> {
        match self {
            Error::Call(e) => e.code(),
            _ => None,
        }
    }
}

pub type Result<T = ()> = std::result::Result<T, Error>;

/// Where clients of a topic go.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Route {
    pub broker_datas: Vec<BrokerData>,
    pub filter_server_table: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_topic_conf: Option<String>,
    pub queue_datas: Vec<QueueData>,
}

/// A broker, master and slaves.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerData {
    pub broker_addrs: BTreeMap<String, String>,
    pub broker_name: String,
    pub cluster: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Clusters {
    pub broker_addr_table: BTreeMap<String, BrokerData>,
    pub cluster_addr_table: BTreeMap<String, BTreeSet<String>>,
}

/// A queue of a broker, as it stands in answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Queue {
    pub topic: String,
    pub broker_name: String,
    pub queue_id: i32,
}

/// A broker that takes messages.
#[derive(Clone, Debug)]
pub struct Master {
    pub name: String,
    pub cluster: String,
    pub addr: String,
}

impl BrokerData {
    pub fn master(&self) -> Option<Master> {
        let addr = self.broker_addrs.get("0")?.clone();
        Some(Master { name: self.broker_name.clone(), cluster: self.cluster.clone(), addr })
    }
}

impl Route {
    pub fn masters(&self) -> Vec<Master> {
        self.broker_datas.iter().filter_map(BrokerData::master).collect()
    }
}

/// A broker, or all masters of a cluster.
#[derive(Args)]
pub struct Place {
    /// This broker.
    #[arg(short = 'b', long = "brokerAddr", value_name = "HOST:PORT")]
    pub broker: Option<String>,
    /// All masters of this cluster.
    #[arg(short = 'c', long = "clusterName", alias = "cluster", value_name = "NAME")]
    pub cluster: Option<String>,
}

/// What a command works with.
pub struct Session {
    pub out: Output,
    pub name_servers: Vec<String>,
    timeout: Duration,
    security: Security,
    callers: HashMap<String, Caller>,
}

impl Session {
    pub fn new(
        out: Output,
        name_servers: Vec<String>,
        timeout: Duration,
        security: Security,
    ) -> Session {
        Session { out, name_servers, timeout, security, callers: HashMap::new() }
    }

    /// A line for people; an object for machines.
    pub fn say(&mut self, text: &str) -> Result {
        match self.out.json {
            true => self.out.object(&json!({ "result": text }))?,
            false => self.out.line(text)?,
        }
        Ok(())
    }

    /// A list without titles.
    pub fn names(&mut self, what: &str, names: Vec<String>) -> Result {
        Ok(names.into_iter().try_for_each(|name| match self.out.json {
            true => self.out.object(&json!({ what: name })),
            false => self.out.line(&name),
        })?)
    }

    /// Asks; the answer may be a refusal.
    pub fn call(&mut self, addr: &str, command: &Command) -> Result<Response> {
        let mut caller = match self.callers.remove(addr) {
            Some(caller) => caller,
            None => Caller::connect(addr, self.timeout, &self.security)?,
        };
        let answer = caller.call(command)?;
        self.callers.insert(addr.to_owned(), caller);
        Ok(answer)
    }

    /// Asks for what has to succeed.
    pub fn ask(&mut self, addr: &str, command: &Command) -> Result<Response> {
        match self.call(addr, command)? {
            answer if answer.code == response::SUCCESS => Ok(answer),
            answer => Err(caller::refused(command, answer).into()),
        }
    }

    pub fn ask_for<T: DeserializeOwned>(&mut self, addr: &str, command: &Command) -> Result<T> {
        let answer = self.ask(addr, command)?;
        read(command, &answer.body)
    }

    /// Asks the first name server that can be reached.
    pub fn ask_name_server(&mut self, command: &Command) -> Result<Response> {
        let mut failed = None;
        for addr in self.name_servers.clone() {
            match self.ask(&addr, command) {
                Err(Error::Call(e)) if e.code().is_none() => failed = Some(e),
                answer => return answer,
            }
        }
        let none = || Error::Usage("name a name server: -n HOST:PORT, or NAMESRV_ADDR".into());
        Err(failed.map_or_else(none, Error::Call))
    }

    /// Changes something on every name server; they do not tell each other.
    pub fn tell_name_servers(&mut self, command: &Command) -> Result {
        for addr in self.name_servers.clone() {
            self.ask(&addr, command)?;
        }
        Ok(())
    }

    pub fn clusters(&mut self) -> Result<Clusters> {
        let command = Command::new(request::GET_BROKER_CLUSTER_INFO);
        let answer = self.ask_name_server(&command)?;
        read(&command, &answer.body)
    }

    pub fn route(&mut self, topic: &str) -> Result<Route> {
        let command = Command::new(request::GET_ROUTEINFO_BY_TOPIC)
            .field("topic", topic.to_owned())
            .field("acceptStandardJsonOnly", true);
        let answer = self.ask_name_server(&command)?;
        read(&command, &answer.body)
    }

    pub fn topics(&mut self) -> Result<Vec<String>> {
        let command = Command::new(request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER);
        let answer = self.ask_name_server(&command)?;
        let mut topics = read::<TopicList>(&command, &answer.body)?.topic_list;
        topics.sort();
        Ok(topics)
    }

    /// The masters that a place means; all of them if it says nothing and may.
    pub fn masters(&mut self, place: &Place, all: bool) -> Result<Vec<Master>> {
        if let Some(addr) = &place.broker {
            let addr = addr.clone();
            return Ok(vec![Master { name: String::new(), cluster: String::new(), addr }]);
        }
        if place.cluster.is_none() && !all {
            let text = "say where: -b HOST:PORT for a broker, -c NAME for a cluster";
            return Err(Error::Usage(text.into()));
        }
        let clusters = self.clusters()?;
        let of_cluster = |b: &Master| place.cluster.as_ref().is_none_or(|c| *c == b.cluster);
        let masters: Vec<Master> = clusters
            .broker_addr_table
            .values()
            .filter_map(BrokerData::master)
            .filter(of_cluster)
            .collect();
        if masters.is_empty() {
            let known = clusters.cluster_addr_table.into_keys().collect::<Vec<_>>().join(", ");
            let name = place.cluster.as_deref().unwrap_or("any cluster");
            return Err(Error::Failed(format!("no master of {name}; there is: {known}")));
        }
        Ok(masters)
    }

    /// The master of a broker's name.
    pub fn master_of(&mut self, name: &str) -> Result<Master> {
        let found = self.clusters()?.broker_addr_table.get(name).and_then(BrokerData::master);
        found.ok_or_else(|| Error::Failed(format!("no broker {name} is known; try clusterList")))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicList {
    pub topic_list: Vec<String>,
}

/// Reads JSON as fastjson writes it.
pub fn read<T: DeserializeOwned>(command: &Command, body: &[u8]) -> Result<T> {
    let bad = |why: String| Error::Answer { what: request::name(command.code).to_owned(), why };
    let text = std::str::from_utf8(body).map_err(|e| bad(e.to_string()))?;
    let value = lenient_json::parse(text).map_err(|e| bad(e.to_string()))?;
    serde_json::from_value(value).map_err(|e| bad(e.to_string()))
}

/// Entries of an object whose keys are queues, in order.
pub fn by_queue<T: DeserializeOwned>(table: &Value) -> Vec<(Queue, T)> {
    let entries = table.as_object().into_iter().flatten();
    let mut rows: Vec<(Queue, T)> = entries
        .filter_map(|(key, value)| {
            Some((serde_json::from_str(key).ok()?, serde_json::from_value(value.clone()).ok()?))
        })
        .collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}
