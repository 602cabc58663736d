//! The store's lock: a record lock on the first byte of the file `lock`, as Java takes it.
//!
//! Ours is an open-file-description lock. It conflicts with the POSIX lock of a Java broker and,
//! unlike one, also with a second opening in the same process, and is not lost when some other
//! handle of the file is closed. (`flock` would see neither.)

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::error::{Error, Result};

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub struct StoreLock {
    file: File,
}

fn first_byte(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    }
}

impl StoreLock {
    /// Takes the lock of the store in `root`, an existing folder.
    pub fn take(root: &Path) -> Result<StoreLock> {
        let path = root.join("lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&first_byte(libc::F_WRLCK))) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => {
                return Err(Error::Locked { path: root.to_owned(), holder: holder(root, &file) });
            }
            Err(e) => return Err(Error::io("lock", &path)(e.into())),
        }
        file.write_all_at(b"lock", 0).map_err(Error::io("write", &path))?;
        Ok(StoreLock { file })
    }

    /// Whether a process, which is named, has the store in `root` open for writing.
    pub fn held_by(root: &Path) -> Option<String> {
        let file = File::open(root.join("lock")).ok()?;
        let mut lock = first_byte(libc::F_WRLCK);
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).ok()?;
        (libc::c_int::from(lock.l_type) != libc::F_UNLCK).then(|| holder(root, &file))
    }
}

impl Drop for StoreLock {
    /// Closing the file would do, but for a child process that was being started just then: until
    /// it executes its program it has the file too.
    fn drop(&mut self) {
        let _ = fcntl(&self.file, FcntlArg::F_OFD_SETLK(&first_byte(libc::F_UNLCK)));
    }
}

/// The kernel names the process of a POSIX lock (Java's). Ours write their number into `abort`,
/// as RocketMQ 5 does.
fn holder(root: &Path, file: &File) -> String {
    let mut lock = first_byte(libc::F_WRLCK);
    let pid = match fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) if lock.l_pid > 0 => Some(lock.l_pid),
        _ => std::fs::read_to_string(root.join("abort")).ok().and_then(|t| t.trim().parse().ok()),
    };
    let Some(pid) = pid else { return "another process".into() };
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim()),
        Err(_) => format!("process {pid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_opener_is_refused_and_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(StoreLock::held_by(dir.path()), None);
        let held = StoreLock::take(dir.path()).unwrap();
        std::fs::write(dir.path().join("abort"), std::process::id().to_string()).unwrap();
        let refusal = StoreLock::take(dir.path()).unwrap_err().to_string();
        assert!(refusal.contains(&format!("process {}", std::process::id())), "{refusal}");
        assert!(StoreLock::held_by(dir.path()).is_some());
        drop(held);
        assert_eq!(StoreLock::held_by(dir.path()), None);
        StoreLock::take(dir.path()).unwrap();
    }
}
