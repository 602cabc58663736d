//! The index: each item against the message that it points at.

use std::collections::BTreeMap;
use std::io;

use mq_store::codec::ids::{index_hash, tag_index_hash};
use mq_store::codec::index::Item;
use mq_store::codec::record::Record;
use mq_store::index::IndexFile;
use mq_store::store::as_record;
use mq_store::view::StoreView;

use super::{Check, Keys, Log};

/// The items of all files, in step with a walk over the log: they stand in its order.
pub struct IndexWalk {
    files: std::vec::IntoIter<IndexFile>,
    file: Option<IndexFile>,
    live: bool,
    /// One more than the items of the file.
    count: i32,
    /// Number of the next item, and what stands there.
    n: i32,
    next: Option<Item>,
    items: u64,
    /// Position that the last file ends with, if there is one.
    end: Option<u64>,
    /// Faults of the file, with the number of the first item and how many there are.
    wrong: BTreeMap<&'static str, (i32, u64)>,
    /// What was wrong with files that are done.
    told: Vec<String>,
}

/// Hashes of the record that stands at a position: made when an item points there.
type Hashes = Vec<i32>;

impl IndexWalk {
    /// Over `files`, oldest first. What is `live` grows while it is looked at.
    pub fn new(files: Vec<IndexFile>, live: bool) -> IndexWalk {
        let end = files.last().map(|f| f.header().end_offset.unsigned_abs());
        let mut walk = IndexWalk {
            files: files.into_iter(),
            file: None,
            live,
            count: 0,
            n: 0,
            next: None,
            items: 0,
            end,
            wrong: BTreeMap::new(),
            told: Vec::new(),
        };
        walk.next_file();
        walk.step();
        walk
    }

    fn next_file(&mut self) {
        if let Some(file) = &self.file {
            let path = file.path().display();
            for (fault, (first, n)) in std::mem::take(&mut self.wrong) {
                self.told.push(format!("{path}: {n} items, from {first} on, {fault}"));
            }
        }
        self.file = self.files.next();
        self.count = self.file.as_ref().map_or(0, |f| f.header().count);
        self.n = 0;
    }

    /// On to the next item.
    fn step(&mut self) {
        while let Some(file) = &self.file {
            self.n += 1;
            self.next = if self.n < self.count { file.item(self.n) } else { None };
            if self.next.is_some() {
                self.items += 1;
                return;
            }
            self.next_file();
        }
        self.next = None;
    }

    fn wrong(&mut self, fault: &'static str) {
        self.wrong.entry(fault).or_insert((self.n, 0)).1 += 1;
    }

    /// What is wrong with an item by itself.
    fn shape(&self, item: &Item) -> Option<&'static str> {
        let file = self.file.as_ref()?;
        if item.hash < 0 || item.previous >= self.n || item.previous < 0 {
            return Some("are broken");
        }
        let newest = file.slot(item.hash.unsigned_abs() % file.shape().slots);
        (newest < self.n || newest >= self.count && !self.live).then_some(UNREACHABLE)
    }

    /// The walk over the log has come to a record.
    pub fn confirm(&mut self, view: &StoreView, r: &Record<'_>, keys: &Keys<'_>) {
        let at = r.physical_offset();
        let mut hashes = None;
        while let Some(item) = self.next.filter(|item| item.offset <= at) {
            let fault = self.shape(&item).or_else(|| {
                let is_right = match item.offset == at {
                    true => hashes.get_or_insert_with(|| hashes_of(r, keys)).contains(&item.hash),
                    false => points_at_its_key(view, &item),
                };
                (!is_right).then_some(POINTS_ELSEWHERE)
            });
            if let Some(fault) = fault {
                self.wrong(fault);
            }
            self.step();
        }
    }
}

const UNREACHABLE: &str = "cannot be reached from their slot";
const POINTS_ELSEWHERE: &str = "point at no message of their key";

fn hashes_of(r: &Record<'_>, keys: &Keys<'_>) -> Hashes {
    let tag = keys.tags.map(|tag| tag_index_hash(r.topic(), tag));
    keys.each().map(|k| index_hash(r.topic(), k)).chain(tag).collect()
}

fn points_at_its_key(view: &StoreView, item: &Item) -> bool {
    let Ok(at) = u64::try_from(item.offset) else { return false };
    if at < view.log_min() {
        // Gone with the oldest files.
        return true;
    }
    let slice = view.record_at(at);
    let record = slice.as_deref().and_then(as_record);
    record.is_some_and(|r| hashes_of(&r, &Keys::of(&r)).contains(&item.hash))
}

impl Check<'_> {
    /// What the walk over the log left, and what it found.
    pub(super) fn index(&mut self, mut walk: IndexWalk, log: &Log) -> io::Result<u64> {
        while let Some(item) = walk.next {
            let behind = item.offset >= log.end as i64;
            // What came while we walked is as its writer left it a moment ago.
            if !(self.live && behind) {
                let elsewhere = || behind || !points_at_its_key(self.view, &item);
                let fault = walk.shape(&item).or_else(|| elsewhere().then_some(POINTS_ELSEWHERE));
                if let Some(fault) = fault {
                    walk.wrong(fault);
                }
            }
            walk.step();
        }
        for what in &walk.told {
            self.found.bad_index = true;
            self.tell(true, "index", what)?;
        }
        let end = walk.end;
        if let Some(last) = log.last_with_keys.filter(|last| end.is_none_or(|end| end < *last)) {
            let (is_damage, what) = match end {
                // It can be switched off.
                None => (false, "there is none".to_owned()),
                Some(end) => (
                    !self.unfinished,
                    format!("it ends with {end}, the last message with keys is at {last}"),
                ),
            };
            self.found.bad_index |= is_damage;
            self.tell(is_damage, "index", &what)?;
        }
        Ok(walk.items)
    }
}
