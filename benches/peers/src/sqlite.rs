//! SQLite: a table of messages, a connection for each thread, a write-ahead log.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior, params};

use crate::queue::{Consumer, Queue, Result, Safe, Sender, TAKE};

struct Sqlite {
    path: PathBuf,
    safe: Safe,
}

pub fn open(dir: &Path, safe: Safe) -> Result<Box<dyn Queue>> {
    let sqlite = Sqlite { path: dir.join("queue.sqlite"), safe };
    sqlite.connect(safe)?.execute_batch(
        "CREATE TABLE message (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
         CREATE TABLE mark (consumer TEXT PRIMARY KEY, id INTEGER NOT NULL) WITHOUT ROWID;",
    )?;
    Ok(Box::new(sqlite))
}

impl Sqlite {
    fn connect(&self, safe: Safe) -> Result<Connection> {
        let connection = Connection::open(&self.path)?;
        connection.busy_timeout(Duration::from_secs(60))?;
        connection.execute_batch(match safe {
            Safe::PowerCut => "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;",
            Safe::Kill => "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;",
        })?;
        connection.execute_batch("PRAGMA cache_size = -65536; PRAGMA mmap_size = 4294967296;")?;
        Ok(connection)
    }
}

struct Writer(Connection);

impl Sender for Writer {
    fn send(&mut self, bodies: &[Vec<u8>]) -> Result<()> {
        let all = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut insert = all.prepare_cached("INSERT INTO message (body) VALUES (?)")?;
        for body in bodies {
            insert.execute([body])?;
        }
        drop(insert);
        Ok(all.commit()?)
    }
}

struct Cursor {
    connection: Connection,
    last: i64,
}

impl Consumer for Cursor {
    fn take(&mut self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<usize> {
        let mut select = self
            .connection
            .prepare_cached("SELECT id, body FROM message WHERE id > ? ORDER BY id LIMIT ?")?;
        let mut rows = select.query(params![self.last, TAKE as i64])?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            each(row.get_ref(1)?.as_blob()?)?;
            self.last = row.get(0)?;
            count += 1;
        }
        Ok(count)
    }

    fn mark(&mut self) -> Result<()> {
        let save = "INSERT OR REPLACE INTO mark (consumer, id) VALUES ('Group', ?)";
        self.connection.execute(save, [self.last])?;
        Ok(())
    }
}

impl Queue for Sqlite {
    fn sender(&self) -> Result<Box<dyn Sender + '_>> {
        Ok(Box::new(Writer(self.connect(self.safe)?)))
    }

    fn consumer(&self) -> Result<Box<dyn Consumer + '_>> {
        Ok(Box::new(Cursor { connection: self.connect(Safe::Kill)?, last: 0 }))
    }
}
