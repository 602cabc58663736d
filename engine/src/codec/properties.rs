//! Message properties: `name 0x01 value 0x02`, repeated, UTF-8.
//!
//! RocketMQ 4.5.2 and 5.x end every pair with 0x02, 4.9.x leaves out the last one; a
//! pair without 0x01 or with an empty side is nothing; of a name given twice the last
//! counts. The text is kept as it came and searched when asked, as most messages are
//! stored and sent without anybody looking at more than one property.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter};

/// Separates a name from its value.
pub const NAME_VALUE: u8 = 1;
/// Ends a pair.
pub const PAIR_END: u8 = 2;
/// The most bytes that fit a record's properties: the length is a signed 16-bit number.
pub const MAX_LEN: usize = 32767;

/// Names with a meaning to a broker.
pub mod name {
    pub const KEYS: &str = "KEYS";
    pub const TAGS: &str = "TAGS";
    pub const WAIT: &str = "WAIT";
    pub const DELAY: &str = "DELAY";
    pub const RETRY_TOPIC: &str = "RETRY_TOPIC";
    pub const REAL_TOPIC: &str = "REAL_TOPIC";
    pub const REAL_QID: &str = "REAL_QID";
    pub const TRAN_MSG: &str = "TRAN_MSG";
    pub const PGROUP: &str = "PGROUP";
    pub const TRAN_PREPARED_QUEUE_OFFSET: &str = "TRAN_PREPARED_QUEUE_OFFSET";
    pub const TRANSACTION_CHECK_TIMES: &str = "TRANSACTION_CHECK_TIMES";
    pub const CHECK_IMMUNITY_TIME_IN_SECONDS: &str = "CHECK_IMMUNITY_TIME_IN_SECONDS";
    pub const UNIQ_KEY: &str = "UNIQ_KEY";
    pub const ORIGIN_MESSAGE_ID: &str = "ORIGIN_MESSAGE_ID";
    pub const MSG_REGION: &str = "MSG_REGION";
    pub const TRACE_ON: &str = "TRACE_ON";
    pub const CLUSTER: &str = "CLUSTER";
    pub const INNER_NUM: &str = "INNER_NUM";
    /// Queue offset of the first message of an inner batch.
    pub const INNER_BASE: &str = "INNER_BASE";
    /// Light queues that have the message too, and its offset in each; commas between.
    pub const INNER_MULTI_DISPATCH: &str = "INNER_MULTI_DISPATCH";
    pub const INNER_MULTI_QUEUE_OFFSET: &str = "INNER_MULTI_QUEUE_OFFSET";
    /// A CRC of all that stands in front of it in the record (5.x, `enabledAppendPropCRC`).
    pub const CRC32: &str = "__CRC32#";
}

/// Bytes of the property [`name::CRC32`]: ten decimal digits, the last one first.
pub const CRC_LEN: usize = name::CRC32.len() + 1 + 10 + 1;

/// The CRC that is the last property of a text, and the text in front of it.
pub fn split_crc(text: &[u8]) -> Option<(&[u8], u64)> {
    let (before, pair) = text.split_last_chunk::<CRC_LEN>()?;
    let value = pair.strip_prefix(name::CRC32.as_bytes())?.strip_prefix(&[NAME_VALUE])?;
    let digits = value.strip_suffix(&[PAIR_END])?;
    let crc = digits.iter().rev().try_fold(0, |crc, digit| {
        digit.is_ascii_digit().then(|| crc * 10 + u64::from(digit - b'0'))
    })?;
    Some((before, crc))
}

/// Whether a text has a property [`name::CRC32`], wherever.
pub fn has_crc(text: &[u8]) -> bool {
    // Hardly any text has the sign at its end.
    memchr_iter(b'#', text).any(|at| {
        let before = text[..=at].strip_suffix(name::CRC32.as_bytes());
        before.is_some_and(|before| before.last().is_none_or(|b| *b == PAIR_END))
            && text.get(at + 1) == Some(&NAME_VALUE)
    })
}

/// A text without CRCs: each held for the record that it stood in.
pub fn without_crc(text: &[u8]) -> Cow<'_, [u8]> {
    if !has_crc(text) {
        return text.into();
    }
    let mut text = text.to_vec();
    remove(&mut text, name::CRC32);
    text.into()
}

/// Names and values as they stand in a property text.
fn raw_pairs(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = text;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let end = memchr(PAIR_END, rest).unwrap_or(rest.len());
            let pair = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or_default();
            if let Some(at) = memchr(NAME_VALUE, pair)
                && at > 0
                && at + 1 < end
            {
                return Some((&pair[..at], &pair[at + 1..]));
            }
        }
        None
    })
}

/// The pairs of a property text in their order, duplicates included.
pub fn pairs(text: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    raw_pairs(text).filter_map(|(name, value)| {
        Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
    })
}

/// The value of `name`; the last one if it is there more than once.
pub fn get<'a>(text: &'a [u8], name: &str) -> Option<&'a str> {
    get_all(text, [name])[0]
}

/// [`get`] for several names, in one pass.
pub fn get_all<'a, const N: usize>(text: &'a [u8], names: [&str; N]) -> [Option<&'a str>; N] {
    let mut values = [None; N];
    for (name, value) in raw_pairs(text) {
        if let Some(n) = names.iter().position(|wanted| wanted.as_bytes() == name)
            && let Ok(value) = std::str::from_utf8(value)
        {
            values[n] = Some(value);
        }
    }
    values
}

/// Appends a pair to `text`, closing the pair before it where its writer did not.
pub fn push(text: &mut Vec<u8>, name: &str, value: &str) {
    if text.last().is_some_and(|b| *b != PAIR_END) {
        text.push(PAIR_END);
    }
    text.extend_from_slice(name.as_bytes());
    text.push(NAME_VALUE);
    text.extend_from_slice(value.as_bytes());
    text.push(PAIR_END);
}

/// Removes every pair named `name`.
pub fn remove(text: &mut Vec<u8>, name: &str) {
    let is_named = |pair: &[u8]| {
        pair.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&NAME_VALUE))
    };
    if !text.split(|b| *b == PAIR_END).any(is_named) {
        return;
    }
    let kept: Vec<&[u8]> =
        text.split(|b| *b == PAIR_END).filter(|p| !p.is_empty() && !is_named(p)).collect();
    let mut joined = kept.join(&PAIR_END);
    if !joined.is_empty() {
        joined.push(PAIR_END);
    }
    *text = joined;
}

/// Gives `name` the value `value`, in place of any it had.
pub fn set(text: &mut Vec<u8>, name: &str, value: &str) {
    remove(text, name);
    push(text, name, value);
}

/// The keys under which a record is indexed besides its tag: its unique key, then each word
/// of KEYS.
pub fn index_keys(text: &[u8]) -> impl Iterator<Item = &str> {
    index_keys_and_tag(text).0
}

/// [`index_keys`] and the tag, in one pass.
pub fn index_keys_and_tag(text: &[u8]) -> (impl Iterator<Item = &str>, Option<&str>) {
    let [unique, keys, tag] = get_all(text, [name::UNIQ_KEY, name::KEYS, name::TAGS]);
    let words = keys.into_iter().flat_map(|k| k.split(' ')).filter(|k| !k.is_empty());
    (unique.into_iter().chain(words), tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    #[test]
    fn reads_what_the_java_versions_write() {
        let ended = b"KEYS\x01a b\x02TAGS\x01t\x02";
        let open = b"KEYS\x01a b\x02TAGS\x01t";
        for text in [&ended[..], &open[..]] {
            assert_eq!(get(text, "TAGS"), Some("t"));
            let (keys, tag) = index_keys_and_tag(text);
            assert_eq!((keys.collect::<Vec<_>>(), tag), (vec!["a", "b"], Some("t")));
        }
        assert_eq!(get(b"junk\x02a\x01\x02\x01b\x02x\x011\x01y\x02x\x012\x02", "x"), Some("2"));
        assert_eq!(get(b"a\x01b\x01c\x02", "a"), Some("b\u{1}c"));
        assert_eq!(pairs(b"junk\x02a\x01\x02\x01b\x02").count(), 0);
    }

    #[test]
    fn a_crc_at_the_end() {
        let text = b"A\x011\x02__CRC32#\x015432100000\x02";
        assert_eq!(split_crc(text), Some((&b"A\x011\x02"[..], 12345)));
        for other in
            ["A\x011\x02", "__CRC32#\x0154321x0000\x02", "__CRC32#\x015432100000\x02A\x011\x02"]
        {
            assert_eq!(split_crc(other.as_bytes()), None);
        }
    }

    #[test]
    fn crcs_are_taken_off_wherever_they_stand() {
        let one = "__CRC32#\x015432100000\x02";
        for text in [
            format!("A\x011\x02{one}"),
            format!("{one}A\x011\x02"),
            format!("{one}A\x011\x02{one}"),
            format!("A\x011\x02{}", one.trim_end_matches('\x02')),
            "A\x011\x02__CRC32#\x01?\x02".into(),
        ] {
            assert_eq!(&*without_crc(text.as_bytes()), b"A\x011\x02", "{text:?}");
        }
        for text in ["", "#", "x__CRC32#\x011\x02", "A\x01__CRC32#\x02", "__CRC32#"] {
            assert_eq!(without_crc(text.as_bytes()), Cow::Borrowed(text.as_bytes()));
        }
    }

    #[test]
    fn edits() {
        let mut text = b"A\x011".to_vec();
        push(&mut text, "B", "2");
        assert_eq!(text, b"A\x011\x02B\x012\x02");
        set(&mut text, "A", "3");
        assert_eq!(text, b"B\x012\x02A\x013\x02");
        remove(&mut text, "B");
        remove(&mut text, "A");
        remove(&mut text, "A");
        assert_eq!(text, b"");
    }

    quickcheck! {
        fn never_panics(text: Vec<u8>) -> bool {
            let mut copy = text.clone();
            set(&mut copy, "A", "x");
            pairs(&text).count() <= text.len() && get(&copy, "A") == Some("x")
                && !has_crc(&without_crc(&text))
        }
    }
}
