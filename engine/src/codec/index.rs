//! The layout of an index file: header, hash slots, items.
//!
//! Neither the number of slots nor of items stands in the file; both come from the
//! configuration, or from the file's length where the defaults' ratio of 1 to 4 holds.

use super::be;

/// Bytes of the header.
pub const HEADER_LEN: usize = 40;
/// Bytes of a slot: the number of its newest item, 0 for none.
pub const SLOT_LEN: usize = 4;
/// Bytes of an item.
pub const ITEM_LEN: usize = 20;

/// How many slots and items a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Hash slots (`maxHashSlotNum`).
    pub slots: u32,
    /// Items, the unused item 0 included (`maxIndexNum`).
    pub items: u32,
}

impl Shape {
    /// Bytes of a file of this shape.
    pub fn file_len(&self) -> usize {
        HEADER_LEN + self.slots as usize * SLOT_LEN + self.items as usize * ITEM_LEN
    }

    /// Where slot `n` stands.
    pub fn slot_at(&self, n: u32) -> usize {
        HEADER_LEN + n as usize * SLOT_LEN
    }

    /// Where item `n` stands.
    pub fn item_at(&self, n: u32) -> usize {
        self.slot_at(self.slots) + n as usize * ITEM_LEN
    }

    /// The shape of a file of `len` bytes with the defaults' four items a slot.
    pub fn of_file_len(len: u64) -> Option<Shape> {
        let pair = (SLOT_LEN + 4 * ITEM_LEN) as u64;
        let body = len.checked_sub(HEADER_LEN as u64).filter(|b| *b > 0 && b % pair == 0)?;
        let slots = u32::try_from(body / pair).ok()?;
        Some(Shape { slots, items: slots.checked_mul(4)? })
    }

    /// The shape of `file`: the defaults' proportions if they fit what stands in it, else the
    /// first that does.
    pub fn of_file(file: &[u8]) -> Option<Shape> {
        let usual = Shape::of_file_len(file.len() as u64);
        if usual.is_some_and(|shape| shape.fits(file)) {
            return usual;
        }
        let body = file.len().checked_sub(HEADER_LEN)?;
        (1..).take_while(|slots| slots * SLOT_LEN + ITEM_LEN <= body).find_map(|slots| {
            let items = body - slots * SLOT_LEN;
            let shape = Shape {
                slots: u32::try_from(slots).ok()?,
                items: u32::try_from(items / ITEM_LEN).ok()?,
            };
            (items.is_multiple_of(ITEM_LEN) && shape.fits(file)).then_some(shape)
        })
    }

    /// Whether the newest item stands where this shape has it: with the offset that the header
    /// says, and in its slot.
    fn fits(&self, file: &[u8]) -> bool {
        let Some(header) = Header::decode(file) else { return false };
        let Some(newest) = u32::try_from(header.count).ok().and_then(|n| n.checked_sub(1)) else {
            return false;
        };
        if newest == 0 {
            return true;
        }
        let item = file.get(self.item_at(newest)..).and_then(Item::decode);
        newest < self.items
            && item.is_some_and(|item| {
                let slot = self.slot_at(item.hash as u32 % self.slots);
                item.hash >= 0
                    && item.offset == header.end_offset
                    && be::i32(file, slot) == header.count - 1
            })
    }
}

/// The header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Store time of the first record, ms.
    pub begin_time: i64,
    /// Store time of the last record, ms.
    pub end_time: i64,
    /// Physical offset of the first record.
    pub begin_offset: i64,
    /// Physical offset of the last record.
    pub end_offset: i64,
    /// Slots in use.
    pub used_slots: i32,
    /// One more than the keys in the file: the number of the next item.
    pub count: i32,
}

impl Header {
    /// Reads the first 40 bytes; `None` if there are fewer.
    pub fn decode(b: &[u8]) -> Option<Header> {
        (b.len() >= HEADER_LEN).then(|| Header {
            begin_time: be::i64(b, 0),
            end_time: be::i64(b, 8),
            begin_offset: be::i64(b, 16),
            end_offset: be::i64(b, 24),
            used_slots: be::i32(b, 32),
            count: be::i32(b, 36),
        })
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut at = be::put(&mut out, 0, &self.begin_time.to_be_bytes());
        at = be::put(&mut out, at, &self.end_time.to_be_bytes());
        at = be::put(&mut out, at, &self.begin_offset.to_be_bytes());
        at = be::put(&mut out, at, &self.end_offset.to_be_bytes());
        at = be::put(&mut out, at, &self.used_slots.to_be_bytes());
        be::put(&mut out, at, &self.count.to_be_bytes());
        out
    }
}

/// One key of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// [`super::ids::index_hash`] of topic and key.
    pub hash: i32,
    /// Physical offset of the record.
    pub offset: i64,
    /// Whole seconds from the file's begin time to the record's store time.
    pub seconds: i32,
    /// The item that was the slot's newest before this one; 0 for none.
    pub previous: i32,
}

impl Item {
    /// Reads an item; `None` for fewer than 20 bytes.
    pub fn decode(b: &[u8]) -> Option<Item> {
        (b.len() >= ITEM_LEN).then(|| Item {
            hash: be::i32(b, 0),
            offset: be::i64(b, 4),
            seconds: be::i32(b, 12),
            previous: be::i32(b, 16),
        })
    }

    /// The item's bytes.
    pub fn encode(&self) -> [u8; ITEM_LEN] {
        let mut out = [0; ITEM_LEN];
        be::put(&mut out, 0, &self.hash.to_be_bytes());
        be::put(&mut out, 4, &self.offset.to_be_bytes());
        be::put(&mut out, 12, &self.seconds.to_be_bytes());
        be::put(&mut out, 16, &self.previous.to_be_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let default = Shape { slots: 5_000_000, items: 20_000_000 };
        assert_eq!(default.file_len(), 420_000_040);
        assert_eq!(Shape::of_file_len(420_000_040), Some(default));
        assert_eq!(Shape::of_file_len(40), None);
        assert_eq!(Shape::of_file_len(41), None);
    }

    #[test]
    fn shapes_told_by_the_content() {
        let shape = Shape { slots: 7, items: 9 };
        let mut file = vec![0; shape.file_len()];
        assert_eq!(Shape::of_file(&file), None);
        let header = Header { count: 3, end_offset: 500, ..Header::default() };
        file[..HEADER_LEN].copy_from_slice(&header.encode());
        assert_eq!(Shape::of_file(&file), None);
        let item = Item { hash: 12, offset: 500, seconds: 0, previous: 0 };
        let at = shape.item_at(2);
        file[at..at + ITEM_LEN].copy_from_slice(&item.encode());
        let at = shape.slot_at(12 % 7);
        file[at..at + SLOT_LEN].copy_from_slice(&2i32.to_be_bytes());
        assert_eq!(Shape::of_file(&file), Some(shape));
        assert_eq!(Shape::of_file(&file[..30]), None);
    }

    #[test]
    fn round_trips() {
        let header = Header {
            begin_time: 1,
            end_time: 2,
            begin_offset: 3,
            end_offset: 4,
            used_slots: 5,
            count: 6,
        };
        assert_eq!(Header::decode(&header.encode()), Some(header));
        let item = Item { hash: 7, offset: 8, seconds: 9, previous: 10 };
        assert_eq!(Item::decode(&item.encode()), Some(item));
    }
}
