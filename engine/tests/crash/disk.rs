//! A disk whose power can be cut. It sits at `Fs::watched`, over a folder of real files, and
//! remembers what of them is on the disk: each page as it was when it was last synced, each
//! name as it was when its folder was. A cut makes a new folder of that, and of as much of the
//! rest as the seed wants.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use mq_store::os::fs::{Call, Watch};
use tempfile::TempDir;

use crate::common::harm::Rng;

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// A file, by whatever name.
#[derive(Default)]
struct Node {
    file: Option<File>,
    /// What it held when its last name went.
    left: Vec<u8>,
    /// What is on the disk.
    durable: Vec<u8>,
    durable_len: u64,
    /// Pages whose sync failed: the system takes them for written until they change.
    dropped: BTreeMap<usize, Vec<u8>>,
}

impl Node {
    fn now(&self) -> Vec<u8> {
        let Some(file) = &self.file else { return self.left.clone() };
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// What a page holds now and what of it is on the disk, if that is not the same.
    fn difference(&self, now: &[u8], page: usize) -> Option<(Vec<u8>, Vec<u8>)> {
        let of = |bytes: &[u8]| {
            let rest = bytes.get(page * PAGE..).unwrap_or_default();
            let mut page = rest[..rest.len().min(PAGE)].to_vec();
            page.resize(PAGE, 0);
            page
        };
        let (now, durable) = (of(now), of(&self.durable));
        (now != durable).then_some((now, durable))
    }

    fn write_back(&mut self, page: usize, bytes: &[u8]) {
        let to = (page + 1) * PAGE;
        self.durable.resize(self.durable.len().max(to), 0);
        self.durable[page * PAGE..to].copy_from_slice(bytes);
    }

    fn pages(now: &[u8], range: &Range<u64>) -> Range<usize> {
        let end = (range.end.min(now.len() as u64) as usize).div_ceil(PAGE);
        range.start as usize / PAGE..end
    }

    fn sync(&mut self, range: &Range<u64>) {
        let now = self.now();
        for page in Node::pages(&now, range) {
            if let Some((bytes, _)) = self.difference(&now, page)
                && self.dropped.get(&page) != Some(&bytes)
            {
                self.dropped.remove(&page);
                self.write_back(page, &bytes);
            }
        }
        self.durable.resize(self.durable.len().min(now.len().next_multiple_of(PAGE)), 0);
        self.durable_len = now.len() as u64;
    }

    fn sync_failed(&mut self, range: &Range<u64>) {
        let now = self.now();
        for page in Node::pages(&now, range) {
            if let Some((bytes, _)) = self.difference(&now, page) {
                self.dropped.insert(page, bytes);
            }
        }
    }

    /// What a cut leaves.
    fn image(&self, rng: &mut Rng, taste: u64) -> (u64, Vec<(usize, Vec<u8>)>) {
        let now = self.now();
        let keep_new = match taste {
            0 => false,
            1 => true,
            _ => rng.one_in(2),
        };
        let len = if keep_new { now.len() as u64 } else { self.durable_len };
        let mut pages = Vec::new();
        for page in 0..(len as usize).div_ceil(PAGE) {
            let mut bytes = match self.difference(&now, page) {
                None => now.get(page * PAGE..).unwrap_or_default().to_vec(),
                Some((new, old)) if self.dropped.get(&page) == Some(&new) => old,
                Some((new, old)) => match if taste < 2 { taste } else { rng.below(4) } {
                    0 => old,
                    1 => new,
                    // The first sectors are new, or any.
                    how => {
                        let first = rng.below((PAGE / SECTOR) as u64 + 1) as usize * SECTOR;
                        let mut torn = old;
                        for at in (0..PAGE).step_by(SECTOR) {
                            if if how == 2 { at < first } else { rng.one_in(2) } {
                                torn[at..at + SECTOR].copy_from_slice(&new[at..at + SECTOR]);
                            }
                        }
                        torn
                    }
                },
            };
            bytes.truncate(PAGE.min(len as usize - page * PAGE));
            if bytes.iter().any(|b| *b != 0) {
                pages.push((page, bytes));
            }
        }
        (len, pages)
    }
}

/// A change of names.
#[derive(Clone, Debug)]
enum Op {
    Add(PathBuf, usize),
    Remove(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    AddDir(PathBuf),
    RemoveDir(PathBuf),
}

impl Op {
    fn folders(&self) -> Vec<&Path> {
        let paths = match self {
            Op::Rename(from, to, _) => vec![to, from],
            Op::Add(path, _) | Op::Remove(path, _) | Op::AddDir(path) | Op::RemoveDir(path) => {
                vec![path]
            }
        };
        paths.into_iter().filter_map(|p| p.parent()).collect()
    }
}

#[derive(Clone, Default)]
struct Names {
    files: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
}

impl Names {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Add(path, node) => drop(self.files.insert(path.clone(), *node)),
            Op::Remove(path, node) => {
                if self.files.get(path) == Some(node) {
                    self.files.remove(path);
                }
            }
            Op::Rename(from, to, node) => {
                if self.files.get(from) == Some(node) {
                    self.files.remove(from);
                }
                self.files.insert(to.clone(), *node);
            }
            Op::AddDir(path) => drop(self.dirs.insert(path.clone())),
            Op::RemoveDir(path) => drop(self.dirs.remove(path)),
        }
    }

    fn is_reachable(&self, path: &Path, root: &Path) -> bool {
        let folders = path.ancestors().skip(1).take_while(|p| *p != root);
        folders.into_iter().all(|p| self.dirs.contains(p))
    }
}

/// What goes wrong, and at which call.
#[derive(Clone, Copy, Debug)]
pub enum Plan {
    Nothing,
    /// The power is cut before the call, or after it.
    Cut {
        at: u64,
        after: bool,
    },
    /// The call fails, and perhaps all that follow.
    Fail {
        at: u64,
        kind: io::ErrorKind,
        and_on: bool,
    },
}

struct State {
    rng: Rng,
    plan: Plan,
    calls: u64,
    nodes: Vec<Node>,
    live: BTreeMap<PathBuf, usize>,
    durable: Names,
    pending: Vec<Op>,
    image: Option<TempDir>,
    dead: bool,
    failed: Option<String>,
    log_sync_failed: bool,
}

pub struct Disk {
    root: PathBuf,
    trace: bool,
    state: Mutex<State>,
}

/// A folder in memory where there is one: syncs are done by us.
pub fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

impl Disk {
    /// A disk of what is in `root`, all of it durable.
    pub fn over(root: &Path, seed: u64, trace: bool) -> Disk {
        let mut state = State {
            rng: Rng(seed),
            plan: Plan::Nothing,
            calls: 0,
            nodes: Vec::new(),
            live: BTreeMap::new(),
            durable: Names::default(),
            pending: Vec::new(),
            image: None,
            dead: false,
            failed: None,
            log_sync_failed: false,
        };
        state.take_in(root);
        state.durable.files = state.live.clone();
        Disk { root: root.to_owned(), trace, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From now on, `plan` goes wrong; calls are counted anew.
    pub fn plan(&self, plan: Plan) {
        let mut state = self.lock();
        (state.plan, state.calls) = (plan, 0);
    }

    /// Whether the power is cut, or the process killed.
    pub fn is_dead(&self) -> bool {
        self.lock().dead
    }
    /// The call that was made to fail.
    pub fn failed(&self) -> Option<String> {
        self.lock().failed.clone()
    }
    pub fn log_sync_failed(&self) -> bool {
        self.lock().log_sync_failed
    }

    /// Cuts the power now, unless it is cut. The folder with what is left.
    pub fn cut(&self) -> TempDir {
        let mut state = self.lock();
        if state.image.is_none() {
            state.take_image(&self.root);
        }
        state.image.take().unwrap()
    }

    /// Lets nothing more be done by the process that runs.
    pub fn kill(&self) {
        self.lock().dead = true;
    }
    /// The next process begins.
    pub fn revive(&self) {
        let mut state = self.lock();
        (state.dead, state.log_sync_failed) = (false, false);
    }
}

impl State {
    fn take_in(&mut self, dir: &Path) {
        let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                self.durable.dirs.insert(path.clone());
                self.take_in(&path);
            } else {
                let node = self.add_node(&path);
                self.nodes[node].sync(&(0..u64::MAX));
            }
        }
    }

    fn add_node(&mut self, path: &Path) -> usize {
        self.nodes.push(Node { file: Some(File::open(path).unwrap()), ..Node::default() });
        self.live.insert(path.to_owned(), self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn take_image(&mut self, root: &Path) {
        self.dead = true;
        let dir = folder();
        let rng = &mut self.rng;
        let mut names = self.durable.clone();
        // What was done to names and not synced: all, nothing, or the first of it, of each
        // folder or of the whole disk.
        let (stop, one_journal) = ([0, 1, 4][rng.below(3) as usize], rng.one_in(2));
        let mut stopped: BTreeSet<&Path> = BTreeSet::new();
        for op in &self.pending {
            let mut folders = if one_journal { vec![root] } else { op.folders() };
            if stop > 0 && rng.one_in(stop) {
                stopped.append(&mut folders.iter().copied().collect());
            }
            folders.retain(|f| stopped.contains(f));
            if folders.is_empty() {
                names.apply(op);
            }
        }
        let taste = rng.below(4);
        for path in names.dirs.iter().filter(|p| names.is_reachable(p, root)) {
            fs::create_dir_all(dir.path().join(path.strip_prefix(root).unwrap())).unwrap();
        }
        for (path, node) in names.files.iter().filter(|(p, _)| names.is_reachable(p, root)) {
            let file = File::create(dir.path().join(path.strip_prefix(root).unwrap())).unwrap();
            let (len, pages) = self.nodes[*node].image(rng, taste);
            file.set_len(len).unwrap();
            for (page, bytes) in pages {
                file.write_all_at(&bytes, (page * PAGE) as u64).unwrap();
            }
        }
        self.image = Some(dir);
    }

    fn changed(&mut self, call: &Call, path: &Path) {
        let live = self.live.get(path).copied();
        let path = path.to_owned();
        match (call, live) {
            (Call::Create(_) | Call::Write(_), None) => {
                let node = self.add_node(&path);
                self.pending.push(Op::Add(path, node));
            }
            (Call::Write(range), Some(node)) => {
                let pages = Node::pages(&self.nodes[node].now(), range);
                self.nodes[node].dropped.retain(|page, _| !pages.contains(page));
            }
            (Call::Sync(range), Some(node)) => self.nodes[node].sync(range),
            (Call::SyncDir, _) => {
                for op in std::mem::take(&mut self.pending) {
                    if op.folders().contains(&&*path) {
                        self.durable.apply(&op);
                    } else {
                        self.pending.push(op);
                    }
                }
            }
            (Call::Rename(to), Some(node)) => {
                if let Some(old) = self.live.insert(to.clone(), node) {
                    self.nodes[old].let_go();
                }
                self.live.remove(&path);
                self.pending.push(Op::Rename(path, to.clone(), node));
            }
            (Call::Remove, Some(node)) => {
                self.live.remove(&path);
                self.nodes[node].let_go();
                self.pending.push(Op::Remove(path, node));
            }
            (Call::CreateDir, _) => self.pending.push(Op::AddDir(path)),
            (Call::RemoveDir, _) => self.pending.push(Op::RemoveDir(path)),
            _ => {}
        }
    }
}

impl Node {
    fn let_go(&mut self) {
        self.left = self.now();
        self.file = None;
    }
}

impl Watch for Disk {
    fn before(&self, call: &Call, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        if state.dead {
            return Err(io::Error::other("no power"));
        }
        state.calls += 1;
        let name = path.strip_prefix(&self.root).unwrap_or(path).display().to_string();
        if self.trace {
            println!("    {:4} {call:?} {name}", state.calls);
        }
        match state.plan {
            Plan::Cut { at, after: false } if at == state.calls => {
                state.take_image(&self.root);
                Err(io::Error::other("no power"))
            }
            Plan::Fail { at, kind, and_on } if at == state.calls || and_on && at < state.calls => {
                state.failed.get_or_insert_with(|| format!("call {at}, {call:?} {name}"));
                if let (Call::Sync(range), Some(node)) = (call, state.live.get(path).copied()) {
                    state.nodes[node].sync_failed(range);
                    state.log_sync_failed |= name.starts_with("commitlog");
                }
                Err(kind.into())
            }
            _ => Ok(()),
        }
    }

    fn after(&self, call: &Call, path: &Path) {
        let mut state = self.lock();
        state.changed(call, path);
        // The system writes pages when it likes to.
        if state.rng.one_in(8) && !state.nodes.is_empty() {
            let count = state.nodes.len() as u64;
            let node = state.rng.below(count) as usize;
            let now = state.nodes[node].now();
            let page = state.rng.below(now.len().div_ceil(PAGE) as u64) as usize;
            if let Some((bytes, _)) = state.nodes[node].difference(&now, page)
                && !state.nodes[node].dropped.contains_key(&page)
            {
                state.nodes[node].write_back(page, &bytes);
            }
        }
        if let Plan::Cut { at, after: true } = state.plan
            && at == state.calls
            && !state.dead
        {
            state.take_image(&self.root);
        }
    }
}
