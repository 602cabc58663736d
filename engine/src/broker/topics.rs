//! Topics: `config/topics.json`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};

use super::persist::ConfigFile;
use crate::error::Result;
use crate::os::fs::Fs;

/// Bits of a permission.
pub mod perm {
    pub const READ: i32 = 4;
    pub const WRITE: i32 = 2;
    /// Topics that are auto-created take their settings from this one.
    pub const INHERIT: i32 = 1;

    /// RocketMQ's text of a permission: `RW-`.
    pub fn text(perm: i32) -> String {
        let letter = |bit, letter| if perm & bit != 0 { letter } else { '-' };
        [letter(READ, 'R'), letter(WRITE, 'W'), letter(INHERIT, 'X')].iter().collect()
    }
}

/// How often a table changed. Equal versions mean equal tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataVersion {
    pub counter: i64,
    pub state_version: i64,
    /// ms since 1970 of the last change.
    pub timestamp: i64,
}

impl DataVersion {
    /// The version after a change at `now_ms`.
    pub fn next(&mut self, now_ms: i64) {
        self.counter += 1;
        self.timestamp = now_ms;
    }
}

/// One topic, in RocketMQ's form. Defaults are those of a topic that says nothing of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfig {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    pub order: bool,
    /// Bits of [`perm`].
    pub perm: i32,
    pub read_queue_nums: i32,
    /// `SINGLE_TAG` or `MULTI_TAG`.
    pub topic_filter_type: String,
    pub topic_name: String,
    pub topic_sys_flag: i32,
    pub write_queue_nums: i32,
}

impl Default for TopicConfig {
    fn default() -> TopicConfig {
        TopicConfig {
            attributes: BTreeMap::new(),
            order: false,
            perm: perm::READ | perm::WRITE,
            read_queue_nums: 16,
            topic_filter_type: "SINGLE_TAG".into(),
            topic_name: String::new(),
            topic_sys_flag: 0,
            write_queue_nums: 16,
        }
    }
}

impl TopicConfig {
    /// A topic of so many queues, for reading and writing.
    pub fn new(name: impl Into<String>, queues: i32) -> TopicConfig {
        TopicConfig {
            topic_name: name.into(),
            read_queue_nums: queues,
            write_queue_nums: queues,
            ..TopicConfig::default()
        }
    }
    pub fn is_readable(&self) -> bool {
        self.perm & perm::READ != 0
    }
    pub fn is_writable(&self) -> bool {
        self.perm & perm::WRITE != 0
    }
    /// Queue ids run from 0 to below this.
    pub fn queues(&self) -> i32 {
        self.read_queue_nums.max(self.write_queue_nums)
    }
}

/// The file's content, also that of request 21.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicTable {
    pub data_version: DataVersion,
    pub topic_config_table: BTreeMap<String, TopicConfig>,
}

/// All topics of a broker.
pub struct Topics {
    table: RwLock<HashMap<Arc<str>, Arc<TopicConfig>, RandomState>>,
    version: Mutex<DataVersion>,
    pub(super) file: ConfigFile,
}

impl Topics {
    pub(super) fn open(fs: &Fs, root: &Path, notes: &mut Vec<String>) -> Topics {
        let file = ConfigFile::new(fs, root, "topics.json");
        let loaded: TopicTable = file.load(notes);
        let table = loaded
            .topic_config_table
            .into_iter()
            .map(|(name, config)| {
                // The key counts; Java writes both.
                let config = TopicConfig { topic_name: name.clone(), ..config };
                (name.into(), Arc::new(config))
            })
            .collect();
        Topics { table: RwLock::new(table), version: Mutex::new(loaded.data_version), file }
    }

    fn read(
        &self,
    ) -> std::sync::RwLockReadGuard<'_, HashMap<Arc<str>, Arc<TopicConfig>, RandomState>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, name: &str) -> Option<Arc<TopicConfig>> {
        self.read().get(name).cloned()
    }

    pub fn len(&self) -> usize {
        self.read().len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All topics by name, with the version of the table.
    pub fn all(&self) -> TopicTable {
        let table = self.read();
        let all = table.iter().map(|(name, t)| (name.to_string(), (**t).clone()));
        TopicTable { data_version: self.version(), topic_config_table: all.collect() }
    }

    /// Version of the table.
    pub fn version(&self) -> DataVersion {
        *self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a topic or gives it other settings. Returns whether anything changed.
    pub(super) fn put(&self, config: TopicConfig, now_ms: i64) -> bool {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.get(&*config.topic_name).is_some_and(|old| **old == config) {
            return false;
        }
        table.insert(config.topic_name.as_str().into(), Arc::new(config));
        self.changed(now_ms);
        true
    }

    pub(super) fn remove(&self, name: &str, now_ms: i64) -> Option<Arc<TopicConfig>> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let removed = table.remove(name)?;
        self.changed(now_ms);
        Some(removed)
    }

    /// Another version of the same topics: what is told of them has changed.
    pub(super) fn next_version(&self, now_ms: i64) {
        let _table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        self.changed(now_ms);
    }

    /// Under the table's lock, so that a version belongs to one content.
    fn changed(&self, now_ms: i64) {
        self.version.lock().unwrap_or_else(PoisonError::into_inner).next(now_ms);
        self.file.touch();
    }

    pub(super) fn save(&self) -> Result<()> {
        self.file.save(|| self.all())
    }
}
