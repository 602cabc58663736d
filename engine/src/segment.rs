//! The chain of equally long files in a folder, each named by the position of its first byte
//! in 20 digits. The commit log is one chain; every ConsumeQueue is one.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::error::Result;
use crate::os::fs::Fs;
use crate::os::map::{MappedFile, Slice, Writer};

/// A disk that is in use by more than this share gets no new file while another has space.
const FULL: f64 = 0.85;

/// One file and the position of its first byte.
#[derive(Clone, Debug)]
pub struct Segment {
    pub base: u64,
    pub file: Arc<MappedFile>,
}

impl Segment {
    /// Position behind the file's last byte.
    pub fn limit(&self) -> u64 {
        self.base + self.file.len() as u64
    }
    /// Position behind the last published byte.
    pub fn end(&self) -> u64 {
        self.base + self.file.published() as u64
    }
    /// The published bytes from `position` on.
    pub fn tail(&self, position: u64) -> &[u8] {
        self.file.tail(position.saturating_sub(self.base) as usize)
    }
    /// `len` published bytes at `position`, which keep the file mapped.
    pub fn slice(&self, position: u64, len: usize) -> Option<Slice> {
        self.file.slice(usize::try_from(position.checked_sub(self.base)?).ok()?, len)
    }
}

/// The name of the file that begins at `base`.
pub fn file_name(base: u64) -> String {
    format!("{base:020}")
}

/// The files of a folder, oldest first, without gaps unless some went missing.
#[derive(Debug)]
pub struct Chain {
    fs: Fs,
    /// New files go to each in turn.
    dirs: Vec<PathBuf>,
    file_len: usize,
    files: RwLock<VecDeque<Segment>>,
    /// The next file, made ahead of its time.
    spare: Mutex<Option<Segment>>,
    /// How many folders, from a file's own upwards, get new names synced with the first content
    /// only; 0: all do at once.
    names_later: usize,
    /// Names wait for that.
    names_wait: AtomicBool,
    is_removed: AtomicBool,
}

impl Chain {
    /// A chain of `files`, which stand in `dir`, oldest first.
    pub fn new(fs: &Fs, dir: &Path, file_len: usize, files: Vec<Segment>) -> Chain {
        Chain::in_dirs(fs, vec![dir.to_owned()], file_len, files)
    }

    /// A chain whose new files go to several folders in turn; there is one at least. Those that it
    /// has may stand anywhere.
    pub fn in_dirs(fs: &Fs, mut dirs: Vec<PathBuf>, file_len: usize, files: Vec<Segment>) -> Chain {
        // As RocketMQ orders them.
        dirs.sort();
        Chain {
            fs: fs.clone(),
            dirs,
            file_len,
            files: RwLock::new(files.into()),
            spare: Mutex::new(None),
            names_later: 0,
            names_wait: AtomicBool::new(false),
            is_removed: AtomicBool::new(false),
        }
    }

    /// Has new files, in so many folders of their own, named on the disk not before something in them is
    /// synced: for files that can be made again, thousands at a time.
    pub fn with_names_later(mut self, folders: usize) -> Chain {
        self.names_later = folders;
        // Whoever made the files that are there may have been killed before their names were synced.
        *self.names_wait.get_mut() = true;
        self
    }

    /// The folder, or the first of several.
    pub fn dir(&self) -> &Path {
        &self.dirs[0]
    }

    /// Where the file at `base` is to be made.
    fn dir_of(&self, base: u64) -> &Path {
        let turn = (base / self.file_len as u64) as usize;
        let has_space = |dir: &&PathBuf| self.fs.used_ratio(dir).is_ok_and(|used| used < FULL);
        let open: Vec<&PathBuf> = match self.dirs.len() {
            1 => Vec::new(),
            _ => self.dirs.iter().filter(has_space).collect(),
        };
        match open.len() {
            0 => &self.dirs[turn % self.dirs.len()],
            n => open[turn % n],
        }
    }
    /// Bytes of a file.
    pub fn file_len(&self) -> usize {
        self.file_len
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, VecDeque<Segment>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file that holds `position`.
    pub fn find(&self, position: u64) -> Option<Segment> {
        let files = self.read();
        let first = files.front()?.base;
        // With no file missing it stands where arithmetic says.
        let guess = (position.checked_sub(first)? / self.file_len as u64) as usize;
        let holds = |s: &&Segment| s.base <= position && position < s.limit();
        files.get(guess).filter(holds).or_else(|| files.iter().find(holds)).cloned()
    }

    /// The first file that begins behind `position`.
    pub fn find_after(&self, position: u64) -> Option<Segment> {
        self.read().iter().find(|s| s.base > position).cloned()
    }

    pub fn first(&self) -> Option<Segment> {
        self.read().front().cloned()
    }
    pub fn last(&self) -> Option<Segment> {
        self.read().back().cloned()
    }
    /// How many files begin below a position.
    pub fn files_below(&self, position: u64) -> usize {
        self.read().partition_point(|s| s.base < position)
    }
    /// All files, oldest first.
    pub fn all(&self) -> Vec<Segment> {
        self.read().iter().cloned().collect()
    }

    fn make(&self, base: u64) -> Result<Segment> {
        let dir = self.dir_of(base);
        match self.names_later {
            0 => self.fs.create_dir(dir)?,
            _ => self.fs.create_dir_unsynced(dir)?,
        }
        let path = dir.join(file_name(base));
        if path.exists() {
            // Nothing is in it: its folder could not be synced when it was made.
            self.fs.remove(&path)?;
        }
        let file = Arc::new(MappedFile::create(&self.fs, &path, self.file_len)?);
        // The name must survive a power cut, or what is synced into the file would be lost.
        match self.names_later {
            0 => self.fs.sync_dir(dir)?,
            _ => self.names_wait.store(true, Ordering::Release),
        }
        Ok(Segment { base, file })
    }

    /// Makes the file at `base` ahead of time, unless it is there already.
    pub fn prepare(&self, base: u64) -> Result<Segment> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        // The writer may have gone on to it since the caller looked: it must not be made anew.
        if let Some(there) = self.read().iter().rev().find(|s| s.base == base) {
            return Ok(there.clone());
        }
        match &*spare {
            Some(s) if s.base == base => Ok(s.clone()),
            _ => Ok(spare.insert(self.make(base)?).clone()),
        }
    }

    /// Adds the file at `base` to the chain's end.
    pub fn push(&self, base: u64) -> Result<Writer> {
        // Held until the file is in the chain, where `prepare` looks for it.
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let segment = match spare.take().filter(|s| s.base == base) {
            Some(segment) => segment,
            None => self.make(base)?,
        };
        let writer = segment.file.writer();
        self.files.write().unwrap_or_else(PoisonError::into_inner).push_back(segment);
        Ok(writer)
    }

    /// Takes the oldest file out of the chain and removes it from the disk; who still reads it
    /// may go on. The last file stays.
    pub fn drop_first(&self) -> Result<Option<Segment>> {
        let first = {
            let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
            if files.len() < 2 {
                return Ok(None);
            }
            files.pop_front()
        };
        let Some(first) = first else { return Ok(None) };
        self.fs.remove(first.file.path())?;
        Ok(Some(first))
    }

    /// Removes all files, and the folder if nothing else is in it; who still reads may go on.
    pub fn remove(&self) -> Result<()> {
        self.is_removed.store(true, Ordering::Release);
        for segment in self.all() {
            self.fs.remove(segment.file.path())?;
        }
        if self.dir().exists() {
            self.fs.sync_dir(self.dir())?;
        }
        // A folder that is not empty holds something that is not ours.
        let _ = self.fs.remove_dir(self.dir());
        Ok(())
    }

    /// Whether [`Chain::remove`] was called.
    pub fn is_removed(&self) -> bool {
        self.is_removed.load(Ordering::Acquire)
    }

    /// Removes the file that was made ahead and not used.
    pub fn drop_spare(&self) -> Result<()> {
        match self.spare.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(spare) => self.fs.remove(spare.file.path()),
            None => Ok(()),
        }
    }

    /// Forces what is published between two positions to the disk.
    pub fn sync(&self, from: u64, to: u64) -> Result<()> {
        if self.names_wait.swap(false, Ordering::AcqRel) {
            // From above: a name counts only in a folder that is there.
            let mut folders: Vec<&Path> = self.dir().ancestors().take(self.names_later).collect();
            folders.reverse();
            if let Err(e) = folders.into_iter().try_for_each(|dir| self.fs.sync_dir(dir)) {
                if self.is_removed() && !self.dir().exists() {
                    // Nothing is left to be named.
                    return Ok(());
                }
                self.names_wait.store(true, Ordering::Release);
                return Err(e);
            }
        }
        let files: Vec<Segment> =
            self.read().iter().filter(|s| s.limit() > from && s.base < to).cloned().collect();
        for s in files {
            let start = from.saturating_sub(s.base) as usize;
            s.file.sync(start, (to - s.base).min(s.file.len() as u64) as usize)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let chain = Chain::new(&Fs::default(), &dir.path().join("c"), 100, vec![]);
        let mut writer = chain.push(0).unwrap();
        writer.write(3, 100, |buf| buf.copy_from_slice(b"abc")).unwrap();
        chain.prepare(0).unwrap();
        assert_eq!(std::fs::read(chain.last().unwrap().file.path()).unwrap()[..3], *b"abc");
    }

    #[test]
    fn files_by_position() {
        let dir = tempfile::tempdir().unwrap();
        let chain = Chain::new(&Fs::default(), &dir.path().join("c"), 100, vec![]);
        assert!(chain.find(0).is_none());
        for base in [300, 400, 600] {
            chain.push(base).unwrap().write(100, 1, |b| b.fill(1)).unwrap();
        }
        let base = |p| chain.find(p).map(|s| s.base);
        assert_eq!(
            [base(299), base(300), base(499), base(500)],
            [None, Some(300), Some(400), None]
        );
        assert_eq!([base(600), base(700)], [Some(600), None]);
        assert_eq!(chain.find_after(400).unwrap().base, 600);
        chain.sync(350, 650).unwrap();
        assert_eq!(chain.prepare(700).unwrap().base, 700);
        assert!(dir.path().join("c").join(file_name(700)).exists());
        chain.drop_spare().unwrap();
        chain.drop_first().unwrap();
        chain.drop_first().unwrap();
        assert!(chain.drop_first().unwrap().is_none());
        assert_eq!(chain.all().len(), 1);
        assert_eq!(std::fs::read_dir(chain.dir()).unwrap().count(), 1);
    }
}
