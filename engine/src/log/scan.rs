//! The one scanner of the log. Recovery, verification and the tools feed on it.

use std::ops::ControlFlow;

use crate::codec::record::{self, Entry, MAGIC_V1, MAGIC_V2, Record, RecordError};
use crate::segment::Segment;

/// How far behind zeros in the last file records are looked for. A power cut can lose pages in
/// front of others only among what was written since the last flush.
const SEARCH_BEHIND_ZEROS: usize = 64 << 20;

/// What a walk over the log comes by, in the order of positions.
#[derive(Debug)]
pub enum Step<'a> {
    /// A record at its place.
    Record(Record<'a>),
    /// A record whose body does not match its CRC, with intact records behind it. Its fields were read, which
    /// is no proof that they are right.
    BadBody(Record<'a>),
    /// Bytes from `from` to `to` that are no records, with intact records behind them.
    Hole { from: u64, to: u64, why: Why },
}

/// Why there is no record at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error("nothing was written there")]
    Zeros,
    #[error("a file is missing")]
    MissingFile,
    #[error(transparent)]
    Broken(#[from] RecordError),
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Position behind the last record, or the last file's end if a blank closes it.
    pub at: u64,
    /// Why no record stands at `at`.
    pub why: Why,
    /// Store time of the latest record, but for one that is ahead of both its neighbours, ms. What is
    /// no older is found behind any damage.
    pub last_time: i64,
}

/// What is checked beyond a record's form and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// The CRCs, from this position on; `u64::MAX` for none.
    pub crc_from: u64,
    /// Where zeros in the last file are its end and not a loss: from this position on. Before it, records
    /// are looked for behind them. 0: anywhere; `u64::MAX`: nowhere.
    pub zeros_end_from: u64,
    /// Store time of the record before the first, ms; 0 if that is not known.
    pub last_time: i64,
}

/// Walks the records of `segments` (oldest first) from `from`, where a record or a file begins.
/// Damage does not end the walk while intact records stand behind it. `visit` may break it off.
pub fn walk(
    segments: &[Segment],
    from: u64,
    checks: Checks,
    mut visit: impl FnMut(Step<'_>) -> ControlFlow<()>,
) -> End {
    let mut end = End { at: from, why: Why::Zeros, last_time: checks.last_time };
    let mut before = [(checks.last_time, None); 2];
    let mut n = 0;
    while n < segments.len() {
        let segment = &segments[n];
        if end.at >= segment.limit() {
            n += 1;
            continue;
        }
        let at = end.at;
        let is_last = n + 1 == segments.len();
        let why = if at < segment.base {
            Why::MissingFile
        } else {
            match record::decode(segment.tail(at)) {
                Ok(Entry::Blank) => {
                    end.at = segment.limit();
                    continue;
                }
                Ok(Entry::Record(r)) => match r.check_place(at) {
                    Ok(()) => {
                        let behind = at + r.size() as u64;
                        let checked = at >= checks.crc_from;
                        let bad = checked.then(|| r.check_body().err()).flatten();
                        if let Some(why) = bad
                            && resync(segments, n, behind, before).is_none()
                        {
                            // With nothing behind it, a torn write and not damage.
                            end.why = why.into();
                            return end;
                        }
                        before = [before[1], (r.store_timestamp(), Some(at))];
                        end.last_time = end.last_time.max(before[0].0.min(before[1].0));
                        end.at = behind;
                        let step = if bad.is_some() { Step::BadBody(r) } else { Step::Record(r) };
                        if visit(step).is_break() {
                            return end;
                        }
                        continue;
                    }
                    Err(e) => e.into(),
                },
                Ok(Entry::End) if is_last && at >= checks.zeros_end_from => {
                    end.why = Why::Zeros;
                    return end;
                }
                Ok(Entry::End) => Why::Zeros,
                Err(e) => e.into(),
            }
        };
        end.why = why;
        let Some(to) = resync(segments, n, at + 1, before) else { return end };
        if visit(Step::Hole { from: at, to, why }).is_break() {
            return end;
        }
        end.at = to;
    }
    end.why = Why::Zeros;
    end
}

/// Store time of a record, and where it stands, if its body is still to be looked at.
type Stored = (i64, Option<u64>);

/// The first intact record from `from` on that is no older than those `before`: what an earlier life of
/// a file left behind its end is.
fn resync(segments: &[Segment], n: usize, from: u64, before: [Stored; 2]) -> Option<u64> {
    let not_before = not_before(segments, before);
    segments[n..].iter().find_map(|s| next_intact(s, from.max(s.base), not_before))
}

/// The older of two store times; 0 if a record of them is damaged. Two, since nothing covers a store
/// time: one that is ahead, or a clock that was set back, must not hide what follows.
fn not_before(segments: &[Segment], before: [Stored; 2]) -> i64 {
    let is_intact = |at: u64| {
        let holder = segments.iter().find(|s| s.base <= at && at < s.limit());
        let entry = holder.map(|s| record::decode(s.tail(at)));
        matches!(entry, Some(Ok(Entry::Record(r))) if r.check_body().is_ok())
    };
    let time = |(time, at): (i64, Option<u64>)| if at.is_none_or(is_intact) { time } else { 0 };
    time(before[0]).min(time(before[1]))
}

/// The first place from `from` on in this file where an intact record stands (form, place and
/// body are right) that is no older than `not_before`.
pub fn next_intact(segment: &Segment, from: u64, not_before: i64) -> Option<u64> {
    let mut at = from;
    loop {
        let rest = segment.tail(at);
        let found = next_magic(rest)?;
        at += found as u64;
        if let Ok(Entry::Record(r)) = record::decode(&rest[found..])
            && r.check_place(at).is_ok()
            && r.check_body().is_ok()
            && r.store_timestamp() >= not_before
        {
            return Some(at);
        }
        at += 1;
    }
}

/// Where the next record may begin: four bytes before a magic number.
fn next_magic(bytes: &[u8]) -> Option<usize> {
    const FIRST: u8 = (MAGIC_V1 >> 24) as u8;
    let mut at = 4;
    let mut zeros_from = 4;
    loop {
        let ahead = bytes.get(at..)?;
        // No further: what follows may be a gigabyte of zeros.
        let ahead = &ahead[..ahead.len().min(SEARCH_BEHIND_ZEROS + 2)];
        let step = ahead.iter().position(|b| *b != 0)?;
        if step > 0 {
            zeros_from = at;
        }
        at += step;
        if at - zeros_from > SEARCH_BEHIND_ZEROS {
            return None;
        }
        if bytes[at] == FIRST {
            let word = u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
            if word == MAGIC_V1 || word == MAGIC_V2 {
                return Some(at - 4);
            }
        }
        at += 1;
        zeros_from = at;
    }
}

/// Position behind the last byte between `from` and `to` that is not zero, in the file that
/// holds them; `from` if all are zero.
pub fn dirty_to(segment: &Segment, from: u64, to: u64) -> u64 {
    let tail = segment.tail(from);
    let tail = &tail[..tail.len().min(to.saturating_sub(from) as usize)];
    from + tail.iter().rposition(|b| *b != 0).map_or(0, |n| n as u64 + 1)
}
