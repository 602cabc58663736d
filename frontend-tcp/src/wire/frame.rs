//! Frames: `i32 length · u8 header type · u24 header length · header · body`.
//!
//! The length counts what follows it.

/// Bytes of the length and of the header word.
const LENGTH: usize = 4;
const WORD: usize = 4;

/// How a command's header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Json,
    /// RocketMQ's own binary form.
    Binary,
}

/// The parts of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub encoding: Encoding,
    pub header: &'a [u8],
    pub body: &'a [u8],
}

/// How large a frame may be.
#[derive(Clone, Copy, Debug)]
pub struct FrameLimits {
    /// Bytes of a whole frame; Java's is 16 MiB.
    pub frame: usize,
    /// Bytes of a header. Properties, at most 32 KiB, grow up to sixfold when JSON escapes them.
    pub header: usize,
}

impl Default for FrameLimits {
    fn default() -> FrameLimits {
        FrameLimits { frame: 16 << 20, header: 512 << 10 }
    }
}

/// Why a connection's bytes are no frame. There is no way to find the next one, so the
/// connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes, over the limit")]
    TooLong(u32),
    #[error("a frame of {0} bytes, too short for its header")]
    TooShort(u32),
    #[error("a header of {header} bytes in a frame of {frame}, or over the limit")]
    Header { header: u32, frame: u32 },
    #[error("header type {0} is not known")]
    Encoding(u8),
}

/// What the start of a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A frame, and its bytes in all.
    Frame(Frame<'a>, usize),
    /// Not all of it yet; so many bytes are wanted in all.
    Incomplete(usize),
}

/// Looks at the start of `buf`. A bad frame is told as soon as its first bytes are there.
pub fn parse<'a>(buf: &'a [u8], limits: &FrameLimits) -> Result<Parsed<'a>, FrameError> {
    let Some((length, rest)) = buf.split_first_chunk::<LENGTH>() else {
        return Ok(Parsed::Incomplete(LENGTH + WORD));
    };
    let length = u32::from_be_bytes(*length);
    let total = length as usize + LENGTH;
    if total > limits.frame {
        return Err(FrameError::TooLong(length));
    }
    if (length as usize) < WORD {
        return Err(FrameError::TooShort(length));
    }
    let Some((word, rest)) = rest.split_first_chunk::<WORD>() else {
        return Ok(Parsed::Incomplete(total));
    };
    let header = u32::from_be_bytes([0, word[1], word[2], word[3]]);
    if header > length - WORD as u32 || header as usize > limits.header {
        return Err(FrameError::Header { header, frame: length });
    }
    let encoding = match word[0] {
        0 => Encoding::Json,
        1 => Encoding::Binary,
        other => return Err(FrameError::Encoding(other)),
    };
    let Some(content) = rest.get(..length as usize - WORD) else {
        return Ok(Parsed::Incomplete(total));
    };
    let (header, body) = content.split_at(header as usize);
    Ok(Parsed::Frame(Frame { encoding, header, body }, total))
}

/// Writes a frame's first eight bytes once its header stands in `out` from `start + 8` on, and
/// `body` more bytes are to follow.
pub(super) fn finish(out: &mut [u8], start: usize, encoding: Encoding, body: usize) {
    let header = out.len() - start - LENGTH - WORD;
    let length = (WORD + header + body) as u32;
    let word = (header as u32) | if encoding == Encoding::Binary { 1 << 24 } else { 0 };
    out[start..start + LENGTH].copy_from_slice(&length.to_be_bytes());
    out[start + LENGTH..start + LENGTH + WORD].copy_from_slice(&word.to_be_bytes());
}

/// What [`finish`] fills in.
pub(super) const PLACE: [u8; LENGTH + WORD] = [0; LENGTH + WORD];

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    const LIMITS: FrameLimits = FrameLimits { frame: 1000, header: 100 };

    #[test]
    fn whole_partial_and_bad() {
        let bytes = [0, 0, 0, 7, 1, 0, 0, 2, b'h', b'i', b'!', 99];
        let frame = Frame { encoding: Encoding::Binary, header: b"hi", body: b"!" };
        assert_eq!(parse(&bytes, &LIMITS), Ok(Parsed::Frame(frame, 11)));
        for n in 4..11 {
            assert_eq!(parse(&bytes[..n], &LIMITS), Ok(Parsed::Incomplete(11)));
        }
        assert_eq!(parse(&[0, 0, 0], &LIMITS), Ok(Parsed::Incomplete(8)));
        assert_eq!(parse(&[0xff, 0, 0, 0], &LIMITS), Err(FrameError::TooLong(0xff00_0000)));
        assert_eq!(parse(&[0, 0, 0, 3, 0], &LIMITS), Err(FrameError::TooShort(3)));
        let header = FrameError::Header { header: 4, frame: 7 };
        assert_eq!(parse(&[0, 0, 0, 7, 0, 0, 0, 4], &LIMITS), Err(header));
        let header = FrameError::Header { header: 101, frame: 700 };
        assert_eq!(parse(&[0, 0, 2, 188, 0, 0, 0, 101], &LIMITS), Err(header));
        assert_eq!(parse(&[0, 0, 0, 7, 9, 0, 0, 2], &LIMITS), Err(FrameError::Encoding(9)));
    }

    quickcheck! {
        fn any_bytes(bytes: Vec<u8>) -> bool {
            match parse(&bytes, &LIMITS) {
                Ok(Parsed::Frame(f, total)) => total == 8 + f.header.len() + f.body.len(),
                Ok(Parsed::Incomplete(wanted)) => wanted > bytes.len(),
                Err(_) => true,
            }
        }
    }
}
