//! Key-value configuration: namespace, key, value; kept in `kvConfig.json`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use mq_store::broker::persist::ConfigFile;
use mq_store::os::fs::Fs;
use serde::{Deserialize, Serialize};

/// Bytes of all names and values.
const MAX_BYTES: usize = 4 << 20;

pub type Namespace = BTreeMap<String, String>;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Table {
    config_table: BTreeMap<String, Namespace>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    #[error("the key-value configuration would have {0} bytes; it takes {MAX_BYTES}")]
    Full(usize),
    #[error(transparent)]
    File(#[from] mq_store::Error),
}

/// The configuration and its file.
#[derive(Debug)]
pub struct Kv {
    table: RwLock<Arc<Table>>,
    /// Held by who changes something.
    file: Mutex<ConfigFile>,
}

impl Kv {
    /// Reads the file. A file that cannot be read is put aside, with a note.
    pub fn open(path: PathBuf, notes: &mut Vec<String>) -> Kv {
        let file = ConfigFile::at(&Fs::default(), path);
        let table = Arc::new(file.load(notes));
        Kv { table: RwLock::new(table), file: Mutex::new(file) }
    }

    fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn get(&self, namespace: &str, key: &str) -> Option<String> {
        self.table().config_table.get(namespace)?.get(key).cloned()
    }

    /// All of a namespace; one whose keys are all deleted is there still, and empty.
    pub fn namespace(&self, namespace: &str) -> Option<Namespace> {
        self.table().config_table.get(namespace).cloned()
    }

    /// Sets a value, or deletes it. Returns when that is on the disk; readers see it only then.
    /// Blocks.
    pub fn put(&self, namespace: &str, key: &str, value: Option<&str>) -> Result<(), KvError> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = (*self.table()).clone();
        if let Some(value) = value {
            let keys = table.config_table.entry(namespace.into()).or_default();
            keys.insert(key.into(), value.into());
        } else if table.config_table.get_mut(namespace).and_then(|keys| keys.remove(key)).is_none()
        {
            return Ok(());
        }
        let bytes = |(name, keys): (&String, &Namespace)| {
            name.len() + keys.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>()
        };
        let bytes = table.config_table.iter().map(bytes).sum();
        if bytes > MAX_BYTES && value.is_some() {
            return Err(KvError::Full(bytes));
        }
        file.touch();
        file.save(|| &table)?;
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("namesrv/kvConfig.json");
        let mut notes = Vec::new();
        let kv = Kv::open(path.clone(), &mut notes);
        assert_eq!(kv.namespace("N"), None);
        kv.put("N", "k", Some("v")).unwrap();
        kv.put("N", "l", Some("w")).unwrap();
        kv.put("N", "l", None).unwrap();
        kv.put("none", "l", None).unwrap();
        let long = "x".repeat(MAX_BYTES);
        assert!(matches!(kv.put("N", "long", Some(&long)), Err(KvError::Full(_))));
        let kv = Kv::open(path.clone(), &mut notes);
        assert_eq!(kv.get("N", "k").as_deref(), Some("v"));
        assert_eq!((kv.get("N", "l"), kv.namespace("none")), (None, None));
        kv.put("N", "k", None).unwrap();
        assert_eq!(kv.namespace("N"), Some(Namespace::new()));
        assert!(notes.is_empty() && path.with_extension("json.bak").exists());
        // What a disk refuses is not shown either.
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path.parent().unwrap(), b"").unwrap();
        assert!(kv.put("N", "k", Some("v")).is_err());
        assert_eq!(kv.get("N", "k"), None);
    }
}
