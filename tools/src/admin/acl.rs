//! Access control: accounts and white lists of plain_acl.yml.

use clap::Args;
use mq_broker::wire::codes::request;
use mq_broker::wire::command::Command;
use serde_json::Value;

use super::cluster::{Place, Result, Session};
use crate::inspect::output::Cell;

#[derive(Args)]
pub struct Update {
    #[command(flatten)]
    place: Place,
    #[arg(short = 'a', long = "accessKey", value_name = "TEXT")]
    access_key: String,
    #[arg(short = 's', long = "secretKey", value_name = "TEXT")]
    secret_key: Option<String>,
    #[arg(short = 'w', long = "whiteRemoteAddress", value_name = "ADDRESSES")]
    white: Option<String>,
    /// DENY, PUB, SUB or PUB|SUB.
    #[arg(short = 'i', long = "defaultTopicPerm", value_name = "PERM")]
    topic_perm: Option<String>,
    #[arg(short = 'u', long = "defaultGroupPerm", value_name = "PERM")]
    group_perm: Option<String>,
    /// As topicA=DENY,topicB=SUB.
    #[arg(short = 't', long = "topicPerms", value_name = "LIST")]
    topic_perms: Option<String>,
    #[arg(short = 'g', long = "groupPerms", value_name = "LIST")]
    group_perms: Option<String>,
    /// It may administer.
    #[arg(short = 'm', long, value_name = "BOOL")]
    admin: Option<bool>,
}

impl Update {
    pub fn run(self, s: &mut Session) -> Result {
        let mut command = Command::new(request::UPDATE_AND_CREATE_ACL_CONFIG)
            .field("accessKey", self.access_key)
            .field("admin", self.admin.unwrap_or(false));
        for (name, value) in [
            ("secretKey", self.secret_key),
            ("whiteRemoteAddress", self.white),
            ("defaultTopicPerm", self.topic_perm),
            ("defaultGroupPerm", self.group_perm),
            ("topicPerms", self.topic_perms),
            ("groupPerms", self.group_perms),
        ] {
            if let Some(value) = value {
                command = command.field(name, value);
            }
        }
        tell(s, &self.place, &command, "create or update plain access config to {} success.")
    }
}

fn tell(s: &mut Session, place: &Place, command: &Command, done: &str) -> Result {
    for master in s.masters(place, false)? {
        s.ask(&master.addr, command)?;
        s.say(&done.replace("{}", &master.addr))?;
    }
    Ok(())
}

#[derive(Args)]
pub struct Delete {
    #[command(flatten)]
    place: Place,
    #[arg(short = 'a', long = "accessKey", value_name = "TEXT")]
    access_key: String,
}

impl Delete {
    pub fn run(self, s: &mut Session) -> Result {
        let command = Command::new(request::DELETE_ACL_CONFIG).field("accessKey", self.access_key);
        tell(s, &self.place, &command, "delete plain access config account from {} success.")
    }
}

#[derive(Args)]
pub struct White {
    #[command(flatten)]
    place: Place,
    /// Addresses that need no key, parted by commas.
    #[arg(short = 'g', long = "globalWhiteRemoteAddresses", value_name = "ADDRESSES")]
    addresses: String,
    #[arg(short = 'p', long = "aclFileFullPath", value_name = "PATH")]
    file: Option<String>,
}

impl White {
    pub fn run(self, s: &mut Session) -> Result {
        let mut command = Command::new(request::UPDATE_GLOBAL_WHITE_ADDRS_CONFIG)
            .field("globalWhiteAddrs", self.addresses);
        if let Some(file) = self.file {
            command = command.field("aclFileFullPath", file);
        }
        tell(s, &self.place, &command, "update global white remote addresses to {} success.")
    }
}

#[derive(Args)]
pub struct At {
    #[command(flatten)]
    place: Place,
}

impl At {
    pub fn versions(self, s: &mut Session) -> Result {
        s.out.table(&[
            ("cluster", "#Cluster Name"),
            ("brokerName", "#Broker Name"),
            ("brokerAddr", "#Broker Addr"),
            ("version", "#AclConfigVersionNum"),
        ])?;
        for master in s.masters(&self.place, false)? {
            let answer =
                s.ask(&master.addr, &Command::new(request::GET_BROKER_CLUSTER_ACL_INFO))?;
            let field = |name: &str| answer.fields.get(name).cloned().unwrap_or_default();
            s.out.item(
                ["clusterName", "brokerName", "brokerAddr", "version"].map(field).map(Cell::Text),
            )?;
        }
        Ok(())
    }

    pub fn config(self, s: &mut Session) -> Result {
        for master in s.masters(&self.place, false)? {
            let config: Value =
                s.ask_for(&master.addr, &Command::new(request::GET_BROKER_CLUSTER_ACL_CONFIG))?;
            if s.out.json {
                s.out.object(&config)?;
                continue;
            }
            s.say(&format!("globalWhiteRemoteAddresses: {}", config["globalWhiteAddrs"]))?;
            s.out.table(&[
                ("account", "#AccessKey"),
                ("admin", "#Admin"),
                ("config", "#Config"),
            ])?;
            for account in config["plainAccessConfigs"].as_array().into_iter().flatten() {
                let mut shown = account.clone();
                // Keys are for brokers, not for screens.
                shown["secretKey"] = Value::Null;
                s.out.item([
                    Cell::Text(account["accessKey"].as_str().unwrap_or_default().into()),
                    Cell::Text(account["admin"].to_string()),
                    Cell::Text(shown.to_string()),
                ])?;
            }
        }
        Ok(())
    }
}
