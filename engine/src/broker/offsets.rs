//! How far each group has consumed: `config/consumerOffset.json`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use serde::{Deserialize, Serialize};

use super::persist::ConfigFile;
use crate::error::Result;
use crate::os::fs::Fs;

/// Offsets of a topic and group by queue id: the next to be consumed.
pub type QueueOffsets = BTreeMap<i32, i64>;

/// The file's content, also that of request 43. Keys are `topic@group`; a topic has no `@`
/// in its name. 5.x broadcasting groups have a third part.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OffsetTable {
    pub offset_table: BTreeMap<String, QueueOffsets>,
}

/// The offsets of all groups.
pub struct Offsets {
    table: RwLock<HashMap<String, QueueOffsets>>,
    pub(super) file: ConfigFile,
}

fn key(topic: &str, group: &str) -> String {
    [topic, "@", group].concat()
}

impl Offsets {
    pub(super) fn open(fs: &Fs, root: &Path, notes: &mut Vec<String>) -> Offsets {
        let file = ConfigFile::new(fs, root, "consumerOffset.json");
        let loaded: OffsetTable = file.load(notes);
        Offsets { table: RwLock::new(loaded.offset_table.into_iter().collect()), file }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, QueueOffsets>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<String, QueueOffsets>> {
        self.file.touch();
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The committed offset. Below 0, which some clients commit, means none.
    pub fn get(&self, group: &str, topic: &str, queue_id: i32) -> Option<i64> {
        let offset = *self.read().get(&key(topic, group))?.get(&queue_id)?;
        (offset >= 0).then_some(offset)
    }

    /// Commits an offset, whatever was there before.
    pub fn commit(&self, group: &str, topic: &str, queue_id: i32, offset: i64) {
        let key = key(topic, group);
        {
            // What is consumed again and again from the same place needs no write.
            let table = self.read();
            if table.get(&key).and_then(|q| q.get(&queue_id)) == Some(&offset) {
                return;
            }
        }
        self.write().entry(key).or_default().insert(queue_id, offset);
    }

    /// All offsets of a group in a topic.
    pub fn of(&self, group: &str, topic: &str) -> Option<QueueOffsets> {
        self.read().get(&key(topic, group)).cloned()
    }

    pub fn all(&self) -> OffsetTable {
        let table = self.read();
        OffsetTable { offset_table: table.iter().map(|(k, v)| (k.clone(), v.clone())).collect() }
    }

    /// The topics in which a group has offsets.
    pub fn topics_of(&self, group: &str) -> BTreeSet<String> {
        let table = self.read();
        let pairs = table.keys().filter_map(|key| key.split_once('@'));
        pairs.filter(|(_, g)| *g == group).map(|(topic, _)| topic.to_owned()).collect()
    }

    /// The groups that have offsets in a topic.
    pub fn groups_of(&self, topic: &str) -> BTreeSet<String> {
        let table = self.read();
        let pairs = table.keys().filter_map(|key| key.split_once('@'));
        pairs.filter(|(t, _)| *t == topic).map(|(_, group)| group.to_owned()).collect()
    }

    /// Gives `to` the offsets of `from`, in one topic or in all.
    pub fn copy_group(&self, from: &str, to: &str, topic: Option<&str>) {
        for topic in self.topics_of(from).iter().filter(|t| topic.is_none_or(|one| one == *t)) {
            if let Some(offsets) = self.of(from, topic) {
                self.write().insert(key(topic, to), offsets);
            }
        }
    }

    /// Forgets a topic's offsets, of all groups.
    pub(super) fn remove_topic(&self, topic: &str) {
        self.write().retain(|key, _| key.split_once('@').is_none_or(|(t, _)| t != topic));
    }

    /// Forgets a group's offsets, in all topics.
    pub(super) fn remove_group(&self, group: &str) {
        self.write().retain(|key, _| key.split_once('@').is_none_or(|(_, g)| g != group));
    }

    pub(super) fn save(&self) -> Result<()> {
        self.file.save(|| self.all())
    }
}
