//! Where everything goes that is taken out of a store or changed in it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use mq_store::os::fs::Fs;

use super::Failure;

/// A folder of its own for each repair: `attic/` and the time. Files stand there under the path
/// that they had in the store.
pub struct Attic<'a> {
    fs: &'a Fs,
    root: PathBuf,
    dir: PathBuf,
}

impl<'a> Attic<'a> {
    pub fn new(fs: &'a Fs, root: &Path) -> Result<Attic<'a>, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let dir = root.join("attic").join(now.as_millis().to_string());
        fs.create_dir(&dir)?;
        Ok(Attic { fs, root: root.to_owned(), dir })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn place_of(&self, path: &Path) -> Result<PathBuf, Failure> {
        // A log in another folder keeps the name of that folder.
        let parent = path.parent().and_then(Path::file_name).unwrap_or_default();
        let beside = Path::new(parent).join(path.file_name().unwrap_or_default());
        let place = self.dir.join(path.strip_prefix(&self.root).unwrap_or(&beside));
        self.fs.create_dir(place.parent().unwrap_or(&self.dir))?;
        Ok(place)
    }

    /// Moves a file or folder there; one that is not there is fine.
    pub fn take(&self, path: &Path) -> Result<(), Failure> {
        if !path.exists() {
            return Ok(());
        }
        let place = self.place_of(path)?;
        match self.fs.rename(path, &place) {
            Err(mq_store::Error::Io { source, .. })
                if source.kind() == io::ErrorKind::CrossesDevices =>
            {
                self.copy(path)?;
                self.fs.remove(path)?;
            }
            other => other?,
        }
        self.fs.sync_dir(path.parent().unwrap_or(&self.root))?;
        Ok(self.fs.sync_dir(place.parent().unwrap_or(&self.dir))?)
    }

    /// Copies a file, or a folder with its files, there; one that is not there is fine.
    pub fn copy(&self, path: &Path) -> Result<(), Failure> {
        if path.is_dir() {
            for entry in std::fs::read_dir(path)? {
                self.copy(&entry?.path())?;
            }
        } else if path.exists() {
            let place = self.place_of(path)?;
            std::fs::copy(path, &place)?;
            self.fs.sync_file(&place)?;
            self.fs.sync_dir(place.parent().unwrap_or(&self.dir))?;
        }
        Ok(())
    }

    /// Keeps some bytes of a file, which begin at `at` in it.
    pub fn keep(&self, path: &Path, at: u64, bytes: &[u8]) -> Result<(), Failure> {
        let mut place = self.place_of(path)?.into_os_string();
        place.push(format!(".from-{at}"));
        let mut file = File::create_new(&place)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(self.fs.sync_dir(Path::new(&place).parent().unwrap_or(&self.dir))?)
    }
}
