//! fjall: a keyspace of messages by number, and one for how far the consumer came.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::queue::{Consumer, Queue, Result, Safe, Sender, TAKE};

struct Fjall {
    db: Database,
    messages: Keyspace,
    marks: Keyspace,
    next: AtomicU64,
    safe: Safe,
}

pub fn open(dir: &Path, safe: Safe) -> Result<Box<dyn Queue>> {
    let db = Database::builder(dir).open()?;
    let messages = db.keyspace("messages", KeyspaceCreateOptions::default)?;
    let marks = db.keyspace("marks", KeyspaceCreateOptions::default)?;
    Ok(Box::new(Fjall { db, messages, marks, next: AtomicU64::new(0), safe }))
}

impl Sender for &Fjall {
    fn send(&mut self, bodies: &[Vec<u8>]) -> Result<()> {
        let first = self.next.fetch_add(bodies.len() as u64, Ordering::Relaxed);
        let mode = match self.safe {
            Safe::PowerCut => PersistMode::SyncData,
            Safe::Kill => PersistMode::Buffer,
        };
        if let ([body], Safe::Kill) = (bodies, self.safe) {
            // Which hands it to the system, as the settings are.
            return Ok(self.messages.insert(first.to_be_bytes(), body.as_slice())?);
        }
        let mut batch = self.db.batch().durability(Some(mode));
        for (number, body) in (first..).zip(bodies) {
            batch.insert(&self.messages, number.to_be_bytes(), body.as_slice());
        }
        Ok(batch.commit()?)
    }
}

struct Cursor<'q> {
    queue: &'q Fjall,
    next: u64,
}

impl Consumer for Cursor<'_> {
    fn take(&mut self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<usize> {
        let from = self.next;
        for item in self.queue.messages.range(from.to_be_bytes()..).take(TAKE) {
            let (key, body) = item.into_inner()?;
            // Another thread's message before it is still under way.
            if key[..] != self.next.to_be_bytes() {
                break;
            }
            each(&body)?;
            self.next += 1;
        }
        Ok((self.next - from) as usize)
    }

    fn mark(&mut self) -> Result<()> {
        Ok(self.queue.marks.insert("Group", self.next.to_be_bytes())?)
    }
}

impl Queue for Fjall {
    fn sender(&self) -> Result<Box<dyn Sender + '_>> {
        Ok(Box::new(self))
    }

    fn consumer(&self) -> Result<Box<dyn Consumer + '_>> {
        Ok(Box::new(Cursor { queue: self, next: 0 }))
    }
}
