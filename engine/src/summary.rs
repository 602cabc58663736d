//! What a close and each checkpoint leave for the next start, so that it need not walk over what was
//! on the disk by then. It is compared with what is there, and believed only where it holds.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::codec::queue_unit::UNIT_LEN;
use crate::codec::record::{Entry, decode};
use crate::error::Result;
use crate::os::fs::Fs;
use crate::queue::table::QueueTable;
use crate::segment::Segment;

/// Of the last close. Removed by the next opening.
pub const CLEAN: &str = "mq-store.clean";
/// Of the last checkpoint. It goes on to hold when the process is killed or the power cut.
pub const SYNCED: &str = "mq-store.synced";

/// A state in which log and queues were on the disk, all of them up to a position.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Position behind the last record.
    pub log_end: u64,
    /// Physical offset of the last record.
    pub last_record: Option<u64>,
    pub last_time: i64,
    /// Queues that have units of records below `log_end`.
    queues: usize,
    /// Sum of the offsets behind these units; of batch queues, of the places behind them.
    units: u64,
    /// Files that have these units.
    queue_files: usize,
}

impl Summary {
    /// Of a log up to `log_end`, whose last record has a position and a store time.
    pub fn of(log_end: u64, last_record: Option<(u64, i64)>, queues: &QueueTable) -> Summary {
        let (queues, units, queue_files) = count(queues, log_end);
        Summary {
            log_end,
            last_record: last_record.map(|(at, _)| at),
            last_time: last_record.map_or(0, |(_, time)| time),
            queues,
            units,
            queue_files,
        }
    }

    /// Reads a file of the store in `root`.
    pub fn read(root: &Path, name: &str) -> Option<Summary> {
        serde_json::from_slice(&std::fs::read(root.join(name)).ok()?).ok()
    }

    /// Writes a file of the store in `root`. What it says must be on the disk.
    pub fn write(&self, fs: &Fs, root: &Path, name: &str) -> Result<()> {
        fs.replace(&root.join(name), &serde_json::to_vec(self).unwrap_or_default(), None)
    }

    /// Whether log and queues are as they were, up to `log_end`.
    pub fn holds(&self, segments: &[Segment], queues: &QueueTable) -> bool {
        let last_is_there = match self.last_record {
            None => self.log_end == 0,
            Some(at) => match entry(segments, at) {
                Some(Ok(Entry::Record(r))) => {
                    r.check_place(at).is_ok()
                        && r.check_body().is_ok()
                        && r.store_timestamp() == self.last_time
                        && at + r.size() as u64 == self.log_end
                }
                _ => false,
            },
        };
        last_is_there
            && segments.windows(2).all(|w| w[0].limit() == w[1].base)
            && count(queues, self.log_end) == (self.queues, self.units, self.queue_files)
    }

    /// Whether this is all there is.
    pub fn is_all(&self, segments: &[Segment], queues: &QueueTable) -> bool {
        matches!(entry(segments, self.log_end), None | Some(Ok(Entry::End)))
            && queues.all().iter().map(|q| q.max_offset()).sum::<u64>()
                + queues.batches().iter().map(|q| q.end()).sum::<u64>()
                == self.units
    }
}

fn entry(
    segments: &[Segment],
    at: u64,
) -> Option<std::result::Result<Entry<'_>, crate::codec::record::RecordError>> {
    let segment = segments.iter().find(|s| s.base <= at && at < s.limit())?;
    Some(decode(segment.tail(at)))
}

fn count(queues: &QueueTable, log_end: u64) -> (usize, u64, usize) {
    let behind = queues.all().into_iter().map(|q| {
        let behind = q.behind(log_end);
        (behind, q.chain().files_below(behind * UNIT_LEN as u64))
    });
    let batches = queues.batches().into_iter().map(|q| {
        let behind = q.behind(log_end);
        (behind, q.chain().files_below(behind))
    });
    let behind = behind.chain(batches).filter(|(behind, _)| *behind > 0);
    behind.fold((0, 0, 0), |(queues, units, files), (n, in_files)| {
        (queues + 1, units + n, files + in_files)
    })
}

/// Has no later start believe in a checkpoint of the store in `root`, until the next one.
pub fn distrust(fs: &Fs, root: &Path) -> Result<()> {
    fs.replace(&root.join(SYNCED), b"{}", None)
}

/// Removes a file of the store in `root`.
pub fn remove(fs: &Fs, root: &Path, name: &str) -> Result<()> {
    if root.join(name).exists() {
        fs.remove(&root.join(name))?;
        fs.sync_dir(root)?;
    }
    Ok(())
}
