//! The settings of a name server: its configuration, and what was changed while it ran.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use mq_store::os::fs::Fs;

use crate::config::properties::{Kept, read_kept, write_kept};
use crate::config::{Entry, NamesrvConf, SetError};
use crate::handle::Failure;
use crate::wire::codes::response;

pub struct Settings {
    conf: RwLock<NamesrvConf>,
    /// Held by who changes something.
    kept: Mutex<Kept>,
}

/// Where changes are kept: beside the key-value configuration.
fn file(conf: &NamesrvConf) -> PathBuf {
    conf.kv_config_path.with_file_name("namesrv-changed.properties")
}

impl Settings {
    /// A configuration with what was changed on its files; notes tell of that.
    pub fn open(mut conf: NamesrvConf, notes: &mut Vec<String>) -> Settings {
        let kept = read_kept(&file(&conf));
        for (key, value) in &kept {
            notes.push(match conf.set(key, value) {
                Ok(()) => format!("{key}={value}, as it was set while a name server ran"),
                Err(e) => format!("set while a name server ran: {e}"),
            });
        }
        Settings { conf: RwLock::new(conf), kept: Mutex::new(kept) }
    }

    pub fn now(&self) -> RwLockReadGuard<'_, NamesrvConf> {
        self.conf.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes all keys or none; keys that nobody knows are passed by. Returns when the change
    /// is on the disk; readers see it only then.
    pub fn change(&self, entries: Vec<Entry>, by: SocketAddr) -> Result<(), Failure> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut conf, mut keep) = (self.now().clone(), kept.clone());
        for Entry { key, value, .. } in entries {
            match conf.set(&key, &value) {
                Ok(()) => tracing::info!("{by} sets {key}={value}"),
                Err(SetError::Unknown(_)) => continue,
                Err(e @ SetError::AtStart(_)) => {
                    let remark = format!("Can not update config in black list. {e}");
                    return Err(Failure::Code(response::NO_PERMISSION, remark));
                }
                Err(e) => return Err(Failure::Code(response::SYSTEM_ERROR, e.to_string())),
            }
            keep.insert(key, value);
        }
        if keep != *kept {
            write_kept(&Fs::default(), &file(&conf), &keep)?;
            *kept = keep;
        }
        *self.conf.write().unwrap_or_else(PoisonError::into_inner) = conf;
        Ok(())
    }
}
