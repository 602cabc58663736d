//! redb: a table of messages by number, and one for how far the consumer came.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{Database, Durability, ReadableDatabase, StorageBackend, TableDefinition};

use crate::queue::{Consumer, Queue, Result, Safe, Sender, TAKE};

const MESSAGES: TableDefinition<u64, &[u8]> = TableDefinition::new("messages");
const MARKS: TableDefinition<&str, u64> = TableDefinition::new("marks");

/// A file that is not synced. redb's own way without a sync ([`Durability::None`]) keeps
/// commits in memory, so that a killed process loses them.
#[derive(Debug)]
struct Unsynced(File);

impl StorageBackend for Unsynced {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

struct Redb {
    db: Database,
    next: AtomicU64,
}

pub fn open(dir: &Path, safe: Safe) -> Result<Box<dyn Queue>> {
    let path = dir.join("queue.redb");
    let db = match safe {
        Safe::PowerCut => Database::create(path)?,
        Safe::Kill => Database::builder().create_with_backend(Unsynced(File::create_new(path)?))?,
    };
    let write = db.begin_write()?;
    write.open_table(MESSAGES)?;
    write.open_table(MARKS)?;
    write.commit()?;
    Ok(Box::new(Redb { db, next: AtomicU64::new(0) }))
}

impl Sender for &Redb {
    fn send(&mut self, bodies: &[Vec<u8>]) -> Result<()> {
        let write = self.db.begin_write()?;
        let mut messages = write.open_table(MESSAGES)?;
        // One transaction writes at a time.
        let first = self.next.fetch_add(bodies.len() as u64, Ordering::Relaxed);
        for (number, body) in (first..).zip(bodies) {
            messages.insert(number, body.as_slice())?;
        }
        drop(messages);
        Ok(write.commit()?)
    }
}

struct Cursor<'q> {
    queue: &'q Redb,
    next: u64,
}

impl Consumer for Cursor<'_> {
    fn take(&mut self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<usize> {
        let from = self.next;
        let read = self.queue.db.begin_read()?;
        for item in read.open_table(MESSAGES)?.range(from..)?.take(TAKE) {
            each(item?.1.value())?;
            self.next += 1;
        }
        Ok((self.next - from) as usize)
    }

    fn mark(&mut self) -> Result<()> {
        let mut write = self.queue.db.begin_write()?;
        write.set_durability(Durability::None)?;
        write.open_table(MARKS)?.insert("Group", self.next)?;
        Ok(write.commit()?)
    }
}

impl Queue for Redb {
    fn sender(&self) -> Result<Box<dyn Sender + '_>> {
        Ok(Box::new(self))
    }

    fn consumer(&self) -> Result<Box<dyn Consumer + '_>> {
        Ok(Box::new(Cursor { queue: self, next: 0 }))
    }
}
