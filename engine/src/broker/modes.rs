//! How groups ask for the messages of a topic: `config/messageRequestMode.json`. Brokers of 5.x
//! go by it; here it is kept for them, and all groups pull.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::persist::ConfigFile;
use crate::error::Result;
use crate::os::fs::Fs;

/// How one group asks for the messages of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestMode {
    pub consumer_group: String,
    /// `PULL` or `POP`.
    pub mode: String,
    #[serde(default)]
    pub pop_share_queue_num: i32,
    pub topic: String,
}

/// The file's content, also that of request 402: topic to group to mode.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModeTable {
    pub message_request_mode_map: BTreeMap<String, BTreeMap<String, RequestMode>>,
}

/// What was set on a broker.
pub struct Modes {
    table: Mutex<ModeTable>,
    file: ConfigFile,
}

impl Modes {
    pub(super) fn open(fs: &Fs, root: &Path, notes: &mut Vec<String>) -> Modes {
        let file = ConfigFile::new(fs, root, "messageRequestMode.json");
        Modes { table: Mutex::new(file.load(notes)), file }
    }

    pub fn all(&self) -> ModeTable {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn put(&self, mode: RequestMode) -> Result<()> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let groups = table.message_request_mode_map.entry(mode.topic.clone()).or_default();
        groups.insert(mode.consumer_group.clone(), mode);
        drop(table);
        self.file.touch();
        self.file.save(|| self.all())
    }
}
