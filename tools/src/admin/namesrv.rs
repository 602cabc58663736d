//! Name servers: their settings, the key-value table, write permission of brokers.

use clap::Args;
use mq_broker::wire::codes::request;
use mq_broker::wire::command::Command;
use serde_json::json;

use super::cluster::{Result, Session};

/// Namespace of the queues of ordered topics.
pub const ORDER_TOPIC_CONFIG: &str = "ORDER_TOPIC_CONFIG";

pub fn put_kv(s: &mut Session, namespace: &str, key: &str, value: &str) -> Result {
    let command = Command::new(request::PUT_KV_CONFIG)
        .field("namespace", namespace.to_owned())
        .field("key", key.to_owned())
        .field("value", value.to_owned());
    s.tell_name_servers(&command)
}

pub fn get_config(s: &mut Session) -> Result {
    for addr in s.name_servers.clone() {
        let answer = s.ask(&addr, &Command::new(request::GET_NAMESRV_CONFIG))?;
        show_settings(s, &addr, &answer.body)?;
    }
    Ok(())
}

/// Settings of a server as text, `key=value` a line.
pub fn show_settings(s: &mut Session, addr: &str, body: &[u8]) -> Result {
    let text = String::from_utf8_lossy(body);
    let pairs = text.lines().filter_map(|l| l.split_once('='));
    if s.out.json {
        let all: serde_json::Map<_, _> = pairs.map(|(k, v)| (k.to_owned(), json!(v))).collect();
        return Ok(s.out.object(&json!({ "addr": addr, "settings": all }))?);
    }
    s.say(&format!("============{addr}============"))?;
    for (key, value) in pairs {
        s.say(&format!("{key:<50}=  {value}"))?;
    }
    Ok(())
}

/// A setting and its new value.
#[derive(Args)]
pub struct Setting {
    #[arg(short, long, value_name = "NAME")]
    pub key: String,
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub value: String,
}

impl Setting {
    pub fn set_on_name_servers(self, s: &mut Session) -> Result {
        let command = Command::new(request::UPDATE_NAMESRV_CONFIG).body(self.line());
        s.tell_name_servers(&command)?;
        let text = format!("update name server config success! {:?}", s.name_servers);
        s.say(&text)?;
        s.say(&format!("{} : {}", self.key, self.value))
    }

    pub fn line(&self) -> String {
        format!("{}={}\n", self.key, self.value)
    }
}

#[derive(Args)]
pub struct PutKv {
    #[arg(short = 's', long, value_name = "NAME")]
    namespace: String,
    #[command(flatten)]
    entry: Setting,
}

impl PutKv {
    pub fn run(self, s: &mut Session) -> Result {
        put_kv(s, &self.namespace, &self.entry.key, &self.entry.value)?;
        s.say("create or update kv config to namespace success.")
    }
}

#[derive(Args)]
pub struct DeleteKv {
    #[arg(short = 's', long, value_name = "NAME")]
    namespace: String,
    #[arg(short, long, value_name = "NAME")]
    key: String,
}

impl DeleteKv {
    pub fn run(self, s: &mut Session) -> Result {
        let command = Command::new(request::DELETE_KV_CONFIG)
            .field("namespace", self.namespace)
            .field("key", self.key);
        s.tell_name_servers(&command)?;
        s.say("delete kv config from namespace success.")
    }
}

#[derive(Args)]
pub struct BrokerName {
    #[arg(short = 'b', long = "brokerName", value_name = "NAME")]
    pub broker: String,
}

impl BrokerName {
    /// Clients no longer send there: the way to drain a broker.
    pub fn wipe_write_perm(self, s: &mut Session) -> Result {
        self.change(s, request::WIPE_WRITE_PERM_OF_BROKER, ("wipeTopicCount", "wipe"))
    }

    pub fn add_write_perm(self, s: &mut Session) -> Result {
        self.change(s, request::ADD_WRITE_PERM_OF_BROKER, ("addTopicCount", "add"))
    }

    fn change(self, s: &mut Session, code: i32, (field, verb): (&str, &str)) -> Result {
        for addr in s.name_servers.clone() {
            let command = Command::new(code).field("brokerName", self.broker.clone());
            let answer = s.ask(&addr, &command)?;
            let count: i64 = answer.fields.get(field).and_then(|n| n.parse().ok()).unwrap_or(0);
            s.say(&format!(
                "{verb} write perm of broker[{}] in name server[{addr}] OK, {count}",
                self.broker
            ))?;
        }
        Ok(())
    }
}
