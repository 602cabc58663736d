//! The checkpoint page: six big-endian i64 at the start of 4096 bytes.

use super::be;

/// Bytes of the file.
pub const LEN: usize = 4096;

/// What the file says was on disk when it was written. A hint where to begin, never evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Store time of the last record known to be flushed, ms.
    pub log_time: i64,
    /// Store time of the last record whose queue unit is flushed, ms.
    pub queue_time: i64,
    /// End time of the last index file flushed when full, ms.
    pub index_time: i64,
    /// Replication's; kept as found (5.0 on).
    pub master_flushed_offset: i64,
    /// Where the last valid record began at the last recovery (5.0 on).
    pub confirm_offset: i64,
    /// Log position of the last record whose queue unit is flushed (5.5).
    pub queue_physical_offset: i64,
}

impl Checkpoint {
    /// Reads the page; a short or empty one reads as zeros, which is safe: it says nothing.
    pub fn decode(bytes: &[u8]) -> Checkpoint {
        let at = |n: usize| bytes.get(n * 8..n * 8 + 8).map_or(0, |b| be::i64(b, 0));
        Checkpoint {
            log_time: at(0),
            queue_time: at(1),
            index_time: at(2),
            master_flushed_offset: at(3),
            confirm_offset: at(4),
            queue_physical_offset: at(5),
        }
    }

    /// The same, or zeros if times or positions cannot be true: nothing is later than `latest`
    /// (ms) or behind `log_limit`. (Java's -1 is no position.)
    pub fn believable(self, latest: i64, log_limit: u64) -> Checkpoint {
        let times = [self.log_time, self.queue_time, self.index_time];
        let offsets = [self.confirm_offset, self.queue_physical_offset];
        let limit = i64::try_from(log_limit).unwrap_or(i64::MAX);
        let is_true = times.iter().all(|t| (0..=latest).contains(t))
            && offsets.iter().all(|o| (-1..=limit).contains(o));
        if is_true { self } else { Checkpoint::default() }
    }

    /// The page's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let fields = [
            self.log_time,
            self.queue_time,
            self.index_time,
            self.master_flushed_offset,
            self.confirm_offset,
            self.queue_physical_offset,
        ];
        let mut out = vec![0; LEN];
        for (n, field) in fields.iter().enumerate() {
            be::put(&mut out, n * 8, &field.to_be_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_short_pages() {
        let c = Checkpoint { log_time: 1, queue_time: 2, index_time: 3, ..Checkpoint::default() };
        assert_eq!(c.encode().len(), LEN);
        assert_eq!(Checkpoint::decode(&c.encode()), c);
        assert_eq!(Checkpoint::decode(b""), Checkpoint::default());
        assert_eq!(Checkpoint::decode(&c.encode()[..12]).log_time, 1);
    }
}
