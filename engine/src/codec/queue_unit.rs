//! The 20-byte unit of a ConsumeQueue: where a record stands, how long it is, its tags code.

use super::be;

const OFFSET: usize = 0;
const SIZE: usize = OFFSET + 8;
const TAGS: usize = SIZE + 4;
/// Bytes of a unit.
pub const UNIT_LEN: usize = TAGS + 8;

/// The size that marks a place whose message is gone. RocketMQ fills the start of a queue's
/// first file with such units when its first message has a queue offset above 0.
const FILLER_SIZE: i32 = i32::MAX;

/// One unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Physical offset of the record.
    pub offset: u64,
    /// Bytes of the record.
    pub size: u32,
    /// Hash of the tag, sign-extended; the time of delivery in the schedule queues.
    pub tags_code: i64,
}

impl Unit {
    /// Stands where no message can be read.
    pub const FILLER: Unit = Unit { offset: 0, size: FILLER_SIZE as u32, tags_code: 0 };

    /// Whether there is no message at this place.
    pub fn is_filler(&self) -> bool {
        self.size == Unit::FILLER.size
    }

    /// Physical offset behind the record.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.size)
    }

    /// Reads a unit; `None` for a place that was never written (offset below 0, or size 0 or
    /// below) or for fewer than 20 bytes.
    pub fn decode(bytes: &[u8]) -> Option<Unit> {
        if bytes.len() < UNIT_LEN {
            return None;
        }
        let size = u32::try_from(be::i32(bytes, SIZE)).ok().filter(|s| *s > 0)?;
        let offset = u64::try_from(be::i64(bytes, OFFSET)).ok()?;
        Some(Unit { offset, size, tags_code: be::i64(bytes, TAGS) })
    }

    /// The unit's bytes.
    pub fn encode(&self) -> [u8; UNIT_LEN] {
        let mut out = [0; UNIT_LEN];
        be::put(&mut out, OFFSET, &self.offset.to_be_bytes());
        be::put(&mut out, SIZE, &self.size.to_be_bytes());
        be::put(&mut out, TAGS, &self.tags_code.to_be_bytes());
        out
    }
}

const STORE_TIME: usize = UNIT_LEN;
const BASE: usize = STORE_TIME + 8;
const COUNT: usize = BASE + 8;
/// Bytes of a unit of a batch queue (5.x).
pub const BATCH_UNIT_LEN: usize = COUNT + 2 + 8;

/// A unit of a batch queue: one record that holds several messages, and so takes several queue
/// offsets. Units have no place by arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchUnit {
    pub unit: Unit,
    /// Store time of the record, ms.
    pub store_timestamp: i64,
    /// Queue offset of the first message, and the number of messages.
    pub base: u64,
    pub count: u16,
}

impl BatchUnit {
    /// Reads a unit; `None` for a place that was never written, one with no messages, or fewer than 46
    /// bytes.
    pub fn decode(bytes: &[u8]) -> Option<BatchUnit> {
        let unit = Unit::decode(bytes).filter(|_| bytes.len() >= BATCH_UNIT_LEN)?;
        Some(BatchUnit {
            unit,
            store_timestamp: be::i64(bytes, STORE_TIME),
            base: u64::try_from(be::i64(bytes, BASE)).ok()?,
            count: u16::try_from(be::i16(bytes, COUNT)).ok().filter(|n| *n > 0)?,
        })
    }

    /// The unit's bytes.
    pub fn encode(&self) -> [u8; BATCH_UNIT_LEN] {
        let mut out = [0; BATCH_UNIT_LEN];
        be::put(&mut out, 0, &self.unit.encode());
        be::put(&mut out, STORE_TIME, &self.store_timestamp.to_be_bytes());
        be::put(&mut out, BASE, &self.base.to_be_bytes());
        let at = be::put(&mut out, COUNT, &self.count.to_be_bytes());
        // Where compaction put it: nowhere. Four bytes behind are of no use.
        be::put(&mut out, at, &(-1i32).to_be_bytes());
        out
    }

    /// Queue offset behind the last message.
    pub fn end(&self) -> u64 {
        self.base.saturating_add(u64::from(self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    #[test]
    fn what_was_never_written_is_no_unit() {
        assert_eq!(Unit::decode(&[0; 20]), None);
        assert_eq!(Unit::decode(&[1; 19]), None);
        assert_eq!(Unit::decode(&[0xff; 20]), None);
        assert!(Unit::decode(&Unit::FILLER.encode()).unwrap().is_filler());
        assert_eq!(BatchUnit::decode(&[1; 45]), None);
    }

    #[test]
    fn batch_units() {
        let unit = Unit { offset: 9904, size: 723, tags_code: 0 };
        let mut bytes = unit.encode().to_vec();
        bytes.extend(1_795_470_956_580i64.to_be_bytes());
        bytes.extend(7i64.to_be_bytes());
        bytes.extend([0, 3, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        let batch = BatchUnit::decode(&bytes).unwrap();
        assert_eq!((batch.unit, batch.base, batch.end()), (unit, 7, 10));
        assert_eq!(batch.encode(), *bytes);
    }

    quickcheck! {
        fn round_trip(offset: u64, size: u32, tags_code: i64) -> bool {
            let unit = Unit { offset: offset >> 1, size: (size >> 1).max(1), tags_code };
            Unit::decode(&unit.encode()) == Some(unit)
        }
    }
}
