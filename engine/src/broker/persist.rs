//! Files under `config/`: JSON as RocketMQ writes it, the content before in a `.bak` beside.
//!
//! They are caches of what was set up: one that cannot be read never keeps a broker from
//! starting. It is put aside, and its `.bak` taken.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::codec::lenient_json;
use crate::error::Result;
use crate::os::fs::Fs;
use crate::rest::Rest;

/// One file.
#[derive(Debug)]
pub struct ConfigFile {
    fs: Fs,
    path: PathBuf,
    dirty: AtomicBool,
    writing: Mutex<()>,
    saver: OnceLock<Arc<Rest>>,
}

impl ConfigFile {
    /// The file `name` in the folder `config` of the store in `root`.
    pub fn new(fs: &Fs, root: &Path, name: &str) -> ConfigFile {
        ConfigFile::at(fs, root.join("config").join(name))
    }

    /// A file anywhere.
    pub fn at(fs: &Fs, path: PathBuf) -> ConfigFile {
        ConfigFile {
            fs: fs.clone(),
            path,
            dirty: AtomicBool::new(false),
            writing: Mutex::new(()),
            saver: OnceLock::new(),
        }
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(ending);
        name.into()
    }

    /// Reads the file, or its `.bak`, or the default. What could not be read is put aside, with
    /// a note.
    pub fn load<T: DeserializeOwned + Default>(&self, notes: &mut Vec<String>) -> T {
        for path in [self.path.clone(), self.beside(".bak")] {
            let why = match std::fs::read(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => e.to_string(),
                Ok(bytes) => match parse(&bytes) {
                    Ok(value) => return value,
                    Err(why) => why,
                },
            };
            let aside = path.with_extension(format!(
                "{}.damaged",
                path.extension().and_then(|e| e.to_str()).unwrap_or_default()
            ));
            let kept = match self.fs.rename(&path, &aside) {
                Ok(()) => format!("kept as {}", aside.display()),
                Err(e) => e.to_string(),
            };
            notes.push(format!("{} cannot be read ({why}); {kept}", path.display()));
        }
        T::default()
    }

    /// Has the thread that saves, which may rest there, woken when there is something to save.
    pub(super) fn saved_by(&self, saver: &Arc<Rest>) {
        let _ = self.saver.set(saver.clone());
    }

    /// Notes that there is something to save.
    pub fn touch(&self) {
        self.dirty.store(true, Ordering::SeqCst);
        if let Some(saver) = self.saver.get() {
            saver.stir();
        }
    }

    /// Whether there is something to save.
    pub fn is_touched(&self) -> bool {
        self.dirty.load(Ordering::SeqCst)
    }

    /// Saves what `content` gives, if there is something to save.
    pub fn save<T: Serialize>(&self, content: impl FnOnce() -> T) -> Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let saved =
            self.fs.create_dir(self.path.parent().unwrap_or(Path::new("."))).and_then(|()| {
                self.fs.replace(&self.path, &to_json(&content()), Some(&self.beside(".bak")))
            });
        if saved.is_err() {
            self.touch();
        }
        saved
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> std::result::Result<T, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let value = lenient_json::parse(text).map_err(|e| e.to_string())?;
    serde_json::from_value(value).map_err(|e| e.to_string())
}

/// Indented by tabs, as RocketMQ does.
fn to_json(content: &impl Serialize) -> Vec<u8> {
    let mut json = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut json, PrettyFormatter::with_indent(b"\t"));
    // Only a map whose keys are no texts fails, and there is none.
    let _ = content.serialize(&mut serializer);
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn saves_when_touched_and_falls_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = ConfigFile::new(&Fs::default(), dir.path(), "a.json");
        let load = || {
            let mut notes = Vec::new();
            let map: BTreeMap<i32, i64> = file.load(&mut notes);
            (map, notes)
        };
        assert_eq!(load(), (BTreeMap::new(), vec![]));
        let map = |n| BTreeMap::from([(1, n)]);
        file.save(|| map(0)).unwrap();
        assert!(!file.path.exists(), "nothing to save");
        for n in 1..3 {
            file.touch();
            file.save(|| map(n)).unwrap();
        }
        assert_eq!(load(), (map(2), vec![]));
        std::fs::write(&file.path, "{1:7}").unwrap();
        assert_eq!(load().0, map(7), "the form that fastjson writes");
        std::fs::write(&file.path, "").unwrap();
        let (content, notes) = load();
        assert_eq!((content, notes.len()), (map(1), 1), "{notes:?}");
        assert!(dir.path().join("config/a.json.damaged").exists());
    }
}
