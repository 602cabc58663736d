//! Subscription groups: `config/subscriptionGroup.json`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::persist::ConfigFile;
use super::topics::{DataVersion, perm};
use crate::error::Result;
use crate::os::fs::Fs;

/// One group of consumers, in RocketMQ's form and with its defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupConfig {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    pub broker_id: i64,
    pub consume_broadcast_enable: bool,
    pub consume_enable: bool,
    pub consume_from_min_enable: bool,
    pub consume_message_orderly: bool,
    pub group_name: String,
    pub notify_consumer_ids_changed_enable: bool,
    /// A message that failed more often than this goes to the dead letters.
    pub retry_max_times: i32,
    /// Queues of the retry topic; 0 switches retry off.
    pub retry_queue_nums: i32,
    pub which_broker_when_consume_slowly: i64,
    /// What newer versions add, kept as it came.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

impl Default for GroupConfig {
    fn default() -> GroupConfig {
        GroupConfig {
            attributes: BTreeMap::new(),
            broker_id: 0,
            consume_broadcast_enable: true,
            consume_enable: true,
            consume_from_min_enable: true,
            consume_message_orderly: false,
            group_name: String::new(),
            notify_consumer_ids_changed_enable: true,
            retry_max_times: 16,
            retry_queue_nums: 1,
            which_broker_when_consume_slowly: 1,
            more: BTreeMap::new(),
        }
    }
}

impl GroupConfig {
    pub fn new(name: impl Into<String>) -> GroupConfig {
        GroupConfig { group_name: name.into(), ..GroupConfig::default() }
    }
}

/// Group to topic to bits of [`perm`]: what is forbidden.
type Forbidden = BTreeMap<String, BTreeMap<String, i32>>;

/// The file's content, also that of request 201.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupTable {
    pub data_version: DataVersion,
    pub forbidden_table: Forbidden,
    pub subscription_group_table: BTreeMap<String, GroupConfig>,
}

/// All groups of a broker.
pub struct Groups {
    table: RwLock<HashMap<Arc<str>, Arc<GroupConfig>>>,
    forbidden: RwLock<Forbidden>,
    version: Mutex<DataVersion>,
    pub(super) file: ConfigFile,
}

impl Groups {
    pub(super) fn open(fs: &Fs, root: &Path, notes: &mut Vec<String>) -> Groups {
        let file = ConfigFile::new(fs, root, "subscriptionGroup.json");
        let loaded: GroupTable = file.load(notes);
        let table = loaded
            .subscription_group_table
            .into_iter()
            .map(|(name, config)| {
                let config = GroupConfig { group_name: name.clone(), ..config };
                (name.into(), Arc::new(config))
            })
            .collect();
        Groups {
            table: RwLock::new(table),
            forbidden: RwLock::new(loaded.forbidden_table),
            version: Mutex::new(loaded.data_version),
            file,
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<Arc<str>, Arc<GroupConfig>>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, name: &str) -> Option<Arc<GroupConfig>> {
        self.read().get(name).cloned()
    }

    /// All groups by name, with the version of the table.
    pub fn all(&self) -> GroupTable {
        let table = self.read();
        GroupTable {
            data_version: *self.version.lock().unwrap_or_else(PoisonError::into_inner),
            forbidden_table: self.forbidden().clone(),
            subscription_group_table: table
                .iter()
                .map(|(name, g)| (name.to_string(), (**g).clone()))
                .collect(),
        }
    }

    pub(super) fn put(&self, config: GroupConfig, now_ms: i64) -> Arc<GroupConfig> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = table.get(&*config.group_name).filter(|old| ***old == config) {
            return old.clone();
        }
        let config = Arc::new(config);
        table.insert(config.group_name.as_str().into(), config.clone());
        self.changed(now_ms);
        config
    }

    pub(super) fn remove(&self, name: &str, now_ms: i64) -> bool {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let removed = table.remove(name).is_some();
        if removed {
            self.changed(now_ms);
        }
        removed
    }

    fn forbidden(&self) -> std::sync::RwLockReadGuard<'_, Forbidden> {
        self.forbidden.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a group may pull from a topic.
    pub fn may_read(&self, group: &str, topic: &str) -> bool {
        let forbidden = self.forbidden();
        let bits = forbidden.get(group).and_then(|topics| topics.get(topic));
        bits.is_none_or(|bits| bits & perm::READ == 0)
    }

    pub(super) fn set_may_read(&self, group: &str, topic: &str, may: bool, now_ms: i64) {
        let mut forbidden = self.forbidden.write().unwrap_or_else(PoisonError::into_inner);
        let topics = forbidden.entry(group.to_owned()).or_default();
        let bits = topics.entry(topic.to_owned()).or_default();
        *bits = if may { *bits & !perm::READ } else { *bits | perm::READ };
        topics.retain(|_, bits| *bits != 0);
        forbidden.retain(|_, topics| !topics.is_empty());
        self.changed(now_ms);
    }

    fn changed(&self, now_ms: i64) {
        self.version.lock().unwrap_or_else(PoisonError::into_inner).next(now_ms);
        self.file.touch();
    }

    pub(super) fn save(&self) -> Result<()> {
        self.file.save(|| self.all())
    }
}
