//! Damaged stretches of the log, made records that every broker reads and nobody is shown.

use std::net::SocketAddr;
use std::path::PathBuf;

use mq_store::codec::record::{
    BLANK_LEN, MIN_LEN, Message, Placement, body_crc, encode, encode_blank, sys_flag,
};
use mq_store::os::fs::Fs;
use mq_store::segment::{Segment, file_name};
use mq_store::store::as_record;
use mq_store::view::StoreView;

use super::{Attic, Failure, Findings};

/// The topic of fillers. Their type, rolled back, is one that no broker dispatches.
const FILLER_TOPIC: &str = "RMQ_SYS_DAMAGED";
/// Bytes of the longest filler: a Java broker reads a record into memory as a whole.
const MAX_FILLER: u64 = 1 << 20;

/// A stretch of one file, or a file that is missing.
struct Patch {
    path: PathBuf,
    /// Position of the file's first byte.
    base: u64,
    file_len: u64,
    from: u64,
    to: u64,
    /// Store time of fillers: that of the record before, or behind.
    time: i64,
}

/// What is to be filled, in the order of positions.
#[derive(Default)]
pub struct Patches(Vec<Patch>);

pub fn plan(view: &StoreView, found: &Findings) -> Patches {
    let files = view.log().all();
    let file_len = view.log().file_len() as u64;
    let mut ranges: Vec<_> = found.holes.iter().chain(&found.bad_records).copied().collect();
    ranges.sort_unstable();
    ranges.dedup();
    let mut patches = Patches::default();
    for (from, to) in ranges {
        let mut at = from;
        while at < to && file_len > 0 {
            let base = at - at % file_len;
            let until = to.min(base + file_len);
            let path = match view.log().find(at) {
                Some(file) => file.file.path().to_owned(),
                None => view.log().dir().join(file_name(base)),
            };
            let time = time_near(&files, from, to);
            patches.0.push(Patch { path, base, file_len, from: at, to: until, time });
            at = until;
        }
    }
    patches
}

/// The store time of the record at `to`, which is intact; of damage at the very end of a file,
/// that of the file's first record.
fn time_near(files: &[Segment], from: u64, to: u64) -> i64 {
    let at = |position: u64| {
        let file = files.iter().find(|s| s.base <= position && position < s.limit())?;
        as_record(file.tail(position)).map(|r| r.store_timestamp())
    };
    let base = files.iter().find(|s| s.base <= from && from < s.limit()).map(|s| s.base);
    at(to).or_else(|| base.and_then(at)).unwrap_or(0)
}

impl Patches {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|p| p.to - p.from).sum()
    }

    /// From where to where, in order.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|p| (p.from, p.to))
    }

    /// Keeps what stands there, and puts fillers in its place.
    pub fn write(&self, fs: &Fs, attic: &Attic<'_>, view: &StoreView) -> Result<(), Failure> {
        for patch in &self.0 {
            let place = patch.from - patch.base;
            match view.log().find(patch.from) {
                Some(file) => {
                    let bytes = file.tail(patch.from);
                    let len = ((patch.to - patch.from) as usize).min(bytes.len());
                    attic.keep(&patch.path, place, &bytes[..len])?;
                }
                None => {
                    std::fs::File::create_new(&patch.path)?;
                    fs.set_len(&patch.path, patch.file_len)?;
                    fs.sync_dir(view.log().dir())?;
                }
            }
            patch.fill(|at, bytes| Ok(fs.overwrite(&patch.path, at - patch.base, bytes)?))?;
        }
        Ok(())
    }
}

impl Patch {
    /// The bytes to write, piece by piece with their positions.
    fn fill(
        &self,
        mut write: impl FnMut(u64, &[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if self.to == self.base + self.file_len {
            // A blank closes the file.
            let rest = self.to - self.from;
            if rest < BLANK_LEN as u64 {
                return Ok(());
            }
            let mut blank = [0; BLANK_LEN];
            encode_blank(rest as u32, &mut blank);
            return write(self.from, &blank);
        }
        let mut at = self.from;
        while at < self.to {
            let rest = self.to - at;
            // What is left must be long enough for a record.
            let len = if rest > 2 * MAX_FILLER { MAX_FILLER } else { rest };
            match filler(at, len as usize, self.time) {
                Some(bytes) => write(at, &bytes)?,
                None => {
                    eprintln!(
                        "mq-store-inspect: the {len} bytes at {at} are too few for a record and stay as they are"
                    );
                }
            }
            at += len;
        }
        Ok(())
    }
}

/// A record of exactly `len` bytes that no broker shows; `None` if they are too few.
fn filler(at: u64, len: usize, time: i64) -> Option<Vec<u8>> {
    let room = len.checked_sub(MIN_LEN)?;
    let topic = &FILLER_TOPIC[..FILLER_TOPIC.len().min(room)];
    let body = vec![0; room - topic.len()];
    let host = SocketAddr::from(([127, 0, 0, 1], 0));
    let message = Message {
        topic,
        queue_id: 0,
        flag: 0,
        sys_flag: sys_flag::ROLLBACK,
        born_timestamp: time,
        born_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: &body,
        properties: b"",
    };
    let place =
        Placement { queue_offset: 0, physical_offset: at, store_timestamp: time, store_host: host };
    let crc = if body.is_empty() { 0 } else { body_crc(&body) };
    let mut bytes = vec![0; len];
    encode(&message, &place, crc, &mut bytes);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fillers_of_every_length_are_records_that_nobody_is_shown() {
        assert!(filler(0, MIN_LEN - 1, 5).is_none());
        for len in [MIN_LEN, MIN_LEN + 3, MIN_LEN + FILLER_TOPIC.len(), 5000] {
            let bytes = filler(4096, len, 5).unwrap();
            let r = as_record(&bytes).unwrap();
            assert_eq!((r.size(), r.store_timestamp(), r.is_dispatched()), (len, 5, false));
            assert!(r.check_place(4096).is_ok() && r.check_body().is_ok());
        }
    }

    #[test]
    fn a_long_stretch_gets_several_and_one_that_reaches_the_end_a_blank() {
        let mut patch = Patch {
            path: PathBuf::new(),
            base: 0,
            file_len: 64 << 20,
            from: 1000,
            to: 5_000_000,
            time: 5,
        };
        let mut at = patch.from;
        patch
            .fill(|from, bytes| {
                assert_eq!(from, at);
                at += bytes.len() as u64;
                Ok(())
            })
            .unwrap();
        assert_eq!(at, patch.to);
        patch.to = patch.file_len;
        patch
            .fill(|from, bytes| {
                assert_eq!((from, bytes.len()), (1000, BLANK_LEN));
                Ok(())
            })
            .unwrap();
    }
}
