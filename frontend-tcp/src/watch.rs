//! Files that people change while a server runs.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::SystemTime;

/// Files as they were at some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

/// Time of the last change, length and inode; `None` if there is no such file.
type Stamp = (SystemTime, u64, u64);

impl Stamps {
    pub fn of(paths: impl IntoIterator<Item = PathBuf>) -> Stamps {
        let stamp = |path: PathBuf| {
            let stamp = std::fs::metadata(&path).ok();
            let stamp = stamp.and_then(|m| Some((m.modified().ok()?, m.len(), m.ino())));
            (path, stamp)
        };
        Stamps(paths.into_iter().map(stamp).collect())
    }
}
