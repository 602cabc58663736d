//! Bytes to values and back: pure functions, no I/O, no clock.

pub mod checkpoint;
pub mod ids;
pub mod index;
pub mod lenient_json;
pub mod properties;
pub mod queue_unit;
pub mod record;

/// Big-endian reads at a known place of a slice whose length the caller has checked.
pub(crate) mod be {
    pub fn i16(bytes: &[u8], at: usize) -> i16 {
        i16::from_be_bytes(array(bytes, at))
    }
    pub fn i32(bytes: &[u8], at: usize) -> i32 {
        i32::from_be_bytes(array(bytes, at))
    }
    pub fn i64(bytes: &[u8], at: usize) -> i64 {
        i64::from_be_bytes(array(bytes, at))
    }
    pub fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&bytes[at..at + N]);
        out
    }
    /// Writes `value` at `at` and returns the place behind it.
    pub fn put(buf: &mut [u8], at: usize, value: &[u8]) -> usize {
        let end = at + value.len();
        buf[at..end].copy_from_slice(value);
        end
    }
}
