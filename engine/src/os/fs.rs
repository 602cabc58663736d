//! Every file-system call that changes something, in one place, each announced to a watcher.
//!
//! In production there is no watcher. A test's watcher can refuse a call (a full disk, a failed
//! sync), or take a picture of what a power cut at that moment would leave.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};

/// A call that changes a file or a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// A new file of a length.
    Create(u64),
    /// Disk space for a range of a file.
    Allocate(Range<u64>),
    /// Bytes written by a call, not through a mapping.
    Write(Range<u64>),
    /// A range of a file forced to the disk.
    Sync(Range<u64>),
    /// The entries of a folder forced to the disk.
    SyncDir,
    /// Another name for the file.
    Rename(PathBuf),
    /// No name for the file any more.
    Remove,
    /// A new folder.
    CreateDir,
    /// The folder, which is empty, is no more.
    RemoveDir,
}

/// Is told of each [`Call`] before it is done, and may refuse it, and again after it.
pub trait Watch: Send + Sync {
    /// Before the call; an error is what the call then fails with.
    fn before(&self, call: &Call, path: &Path) -> io::Result<()>;
    /// After the call succeeded.
    fn after(&self, call: &Call, path: &Path);
}

/// Refuses every call.
struct ReadOnly;

impl Watch for ReadOnly {
    fn before(&self, _: &Call, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn after(&self, _: &Call, _: &Path) {}
}

/// The file system.
#[derive(Clone, Default)]
pub struct Fs {
    watch: Option<Arc<dyn Watch>>,
}

impl fmt::Debug for Fs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.watch.is_some() { "Fs(watched)" } else { "Fs" })
    }
}

impl Fs {
    /// The file system with every changing call shown to `watch`.
    pub fn watched(watch: Arc<dyn Watch>) -> Fs {
        Fs { watch: Some(watch) }
    }

    /// The file system with every changing call refused.
    pub fn read_only() -> Fs {
        Fs::watched(Arc::new(ReadOnly))
    }

    pub(super) fn call<T>(
        &self,
        op: &'static str,
        call: Call,
        path: &Path,
        run: impl FnOnce() -> io::Result<T>,
    ) -> Result<T> {
        let Some(watch) = &self.watch else {
            return run().map_err(Error::io(op, path));
        };
        watch.before(&call, path).map_err(Error::io(op, path))?;
        let done = run().map_err(Error::io(op, path))?;
        watch.after(&call, path);
        Ok(done)
    }

    /// A new file of `len` zeros without disk space of its own yet. An old one of that name is
    /// an error.
    pub(super) fn create(&self, path: &Path, len: u64) -> Result<File> {
        self.call("create", Call::Create(len), path, || {
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
            file.set_len(len).inspect_err(|_| drop(fs::remove_file(path)))?;
            Ok(file)
        })
    }

    /// Creates a folder and those above it.
    pub fn create_dir(&self, path: &Path) -> Result<()> {
        self.create_dirs(path, true)
    }

    /// [`Fs::create_dir`] without forcing the entries to the disk.
    pub fn create_dir_unsynced(&self, path: &Path) -> Result<()> {
        self.create_dirs(path, false)
    }

    fn create_dirs(&self, path: &Path, sync: bool) -> Result<()> {
        if path.is_dir() || path.as_os_str().is_empty() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        self.create_dirs(parent, sync)?;
        self.call("create the folder", Call::CreateDir, path, || match fs::create_dir(path) {
            // Another thread was faster.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            other => other,
        })?;
        if sync { self.sync_dir(parent) } else { Ok(()) }
    }

    /// Removes an empty folder.
    pub fn remove_dir(&self, path: &Path) -> Result<()> {
        self.call("remove the folder", Call::RemoveDir, path, || fs::remove_dir(path))
    }

    /// Forces a folder's entries to the disk.
    pub fn sync_dir(&self, path: &Path) -> Result<()> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        self.call("sync the folder", Call::SyncDir, path, || File::open(path)?.sync_all())
    }

    /// Renames within a file system.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.call("rename", Call::Rename(to.to_owned()), from, || fs::rename(from, to))
    }

    /// Removes a file; one that is not there is fine.
    pub fn remove(&self, path: &Path) -> Result<()> {
        self.call("remove", Call::Remove, path, || match fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        })
    }

    /// Gives `path` the content `bytes` in one step: after a crash at any moment the file has
    /// its old content or the new one. With `backup` the old content stays under that name.
    pub fn replace(&self, path: &Path, bytes: &[u8], backup: Option<&Path>) -> Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        let temp = path.with_extension("tmp");
        let len = bytes.len() as u64;
        self.call("write", Call::Write(0..len), &temp, || File::create(&temp)?.write_all(bytes))?;
        self.call("sync", Call::Sync(0..len), &temp, || File::open(&temp)?.sync_all())?;
        if let Some(backup) = backup.filter(|_| path.exists()) {
            // From here to the next rename only the backup is there; readers know of it.
            self.rename(path, backup)?;
        }
        self.rename(&temp, path)?;
        self.sync_dir(dir)
    }

    /// Overwrites a range of a file and forces it to the disk.
    pub fn overwrite(&self, path: &Path, at: u64, bytes: &[u8]) -> Result<()> {
        let file = OpenOptions::new().write(true).open(path).map_err(Error::io("open", path))?;
        let range = at..at + bytes.len() as u64;
        self.call("write", Call::Write(range.clone()), path, || file.write_all_at(bytes, at))?;
        self.call("sync", Call::Sync(range), path, || file.sync_all())
    }

    /// Gives a file another length; what is added is zeros.
    pub fn set_len(&self, path: &Path, len: u64) -> Result<()> {
        self.call("change the length of", Call::Create(len), path, || {
            OpenOptions::new().write(true).open(path)?.set_len(len)
        })?;
        self.sync_file(path)
    }

    /// Forces a whole file to the disk.
    pub fn sync_file(&self, path: &Path) -> Result<()> {
        self.call("sync", Call::Sync(0..u64::MAX), path, || File::open(path)?.sync_all())
    }

    /// Behind the last byte of a file that may be other than zero: what lies further is
    /// a hole that was never written.
    pub fn data_end(&self, path: &Path) -> Result<u64> {
        use nix::errno::Errno;
        use nix::unistd::{Whence, lseek};
        let file = File::open(path).map_err(Error::io("open", path))?;
        let failed = |e: Errno| Error::io("look for data in", path)(e.into());
        let mut end = 0;
        // The last run of data: each hole's end is where the next run begins.
        loop {
            match lseek(&file, end, Whence::SeekData) {
                Ok(data) => end = lseek(&file, data, Whence::SeekHole).map_err(failed)?,
                Err(Errno::ENXIO) => return Ok(end.unsigned_abs()),
                // A file system that knows no holes.
                Err(Errno::EINVAL | Errno::ENOTSUP) => {
                    return Ok(file.metadata().map_err(Error::io("look at", path))?.len());
                }
                Err(e) => return Err(failed(e)),
            }
        }
    }

    /// Share of the file system under `path` that is in use, 0 to 1, as `df` counts it.
    pub fn used_ratio(&self, path: &Path) -> Result<f64> {
        let (free, total) = self.free_and_total(path)?;
        Ok(if total == 0 { 0.0 } else { 1.0 - free as f64 / total as f64 })
    }

    /// Bytes free for us, and bytes in all, of the file system under `path`, or under what is
    /// there of it.
    pub fn free_and_total(&self, path: &Path) -> Result<(u64, u64)> {
        let there = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("."));
        let path = if there.as_os_str().is_empty() { Path::new(".") } else { there };
        let stat = nix::sys::statvfs::statvfs(path)
            .map_err(|e| Error::io("look at the file system of", path)(e.into()))?;
        let block = stat.fragment_size();
        let reserved = stat.blocks_free() - stat.blocks_available();
        Ok((stat.blocks_available() * block, (stat.blocks() - reserved) * block))
    }
}

/// Files by the number that their name is.
pub type NumberedFiles = Vec<(u64, PathBuf)>;

/// The files of a folder whose names are 20 digits, by that number, and the names of all else.
/// A folder that is not there is empty.
pub fn list_numbered(dir: &Path) -> Result<(NumberedFiles, Vec<PathBuf>)> {
    let (mut numbered, mut foreign) = (Vec::new(), Vec::new());
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((numbered, foreign)),
        other => other.map_err(Error::io("list", dir))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io("list", dir))?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .filter(|n| n.len() == 20 && n.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|n| n.parse().ok());
        match number {
            Some(number) if entry.path().is_file() => numbered.push((number, entry.path())),
            _ => foreign.push(entry.path()),
        }
    }
    numbered.sort();
    foreign.sort();
    Ok((numbered, foreign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_keeps_a_backup() {
        let dir = tempfile::tempdir().unwrap();
        let (path, bak) = (dir.path().join("a.json"), dir.path().join("a.json.bak"));
        let fs = Fs::default();
        fs.replace(&path, b"1", Some(&bak)).unwrap();
        assert!(!bak.exists());
        fs.replace(&path, b"2", Some(&bak)).unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::read(&bak).unwrap()), (b"2".into(), b"1".into()));
    }

    #[test]
    fn lists_by_number() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["00000000000000001000", "00000000000000000000", ".DS_Store", "12"] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        let (numbered, foreign) = list_numbered(dir.path()).unwrap();
        assert_eq!(numbered.iter().map(|n| n.0).collect::<Vec<_>>(), [0, 1000]);
        assert_eq!(foreign.len(), 2);
        assert!(list_numbered(&dir.path().join("none")).unwrap().0.is_empty());
    }
}
