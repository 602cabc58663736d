//! Message ids and the hashes that RocketMQ derives from text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Java's `String.hashCode`: over UTF-16 units, wrapping.
pub fn java_hash(text: &str) -> i32 {
    java_hash_on(0, text)
}

/// The hash of a text whose first part has the hash `h` and whose rest is `text`.
fn java_hash_on(h: i32, text: &str) -> i32 {
    let next = |h: i32, unit: u16| h.wrapping_mul(31).wrapping_add(i32::from(unit));
    if !text.is_ascii() {
        return text.encode_utf16().fold(h, next);
    }
    // Four at a time: their products do not wait for each other.
    let (fours, rest) = text.as_bytes().as_chunks::<4>();
    let h = fours.iter().fold(h, |h, four| {
        let [a, b, c, d] = four.map(i32::from);
        h.wrapping_mul(31 * 31 * 31 * 31).wrapping_add(a * 31 * 31 * 31 + b * 31 * 31 + c * 31 + d)
    });
    rest.iter().fold(h, |h, byte| next(h, u16::from(*byte)))
}

/// The hash of a ConsumeQueue unit for a message with these TAGS; 0 for none.
pub fn tags_code(tags: Option<&str>) -> i64 {
    tags.filter(|t| !t.is_empty()).map_or(0, |t| i64::from(java_hash(t)))
}

/// The hash under which `topic#key` stands in an index file: the absolute value of
/// Java's hash, 0 for `i32::MIN`.
pub fn index_hash(topic: &str, key: &str) -> i32 {
    hash_parts(&[topic, "#", key])
}

/// The hash under which a tag stands in an index file since RocketMQ 5.5: of `topic#T#tag`.
pub fn tag_index_hash(topic: &str, tags: &str) -> i32 {
    hash_parts(&[topic, "#T#", tags])
}

fn hash_parts(parts: &[&str]) -> i32 {
    parts.iter().fold(0, |h, part| java_hash_on(h, part)).checked_abs().unwrap_or(0)
}

/// The offset message id: the store host's address (4 or 16 bytes), its port as i32 and
/// the physical offset as i64, in upper-case hex; 32 or 56 digits.
pub fn offset_msg_id(store_host: SocketAddr, physical_offset: u64) -> String {
    let mut id = String::with_capacity(56);
    push_offset_msg_id(&mut id, store_host, physical_offset);
    id
}

/// Appends an [`offset_msg_id`] to a text.
pub fn push_offset_msg_id(out: &mut String, store_host: SocketAddr, physical_offset: u64) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut push = |bytes: &[u8]| {
        for b in bytes {
            out.push(char::from(HEX[usize::from(b >> 4)]));
            out.push(char::from(HEX[usize::from(b & 15)]));
        }
    };
    match store_host.ip() {
        IpAddr::V4(ip) => push(&ip.octets()),
        IpAddr::V6(ip) => push(&ip.octets()),
    }
    push(&u32::from(store_host.port()).to_be_bytes());
    push(&physical_offset.to_be_bytes());
}

/// Reads an offset message id; `None` if the text is not one.
pub fn parse_offset_msg_id(text: &str) -> Option<(SocketAddr, u64)> {
    let digits = text.as_bytes();
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let number = |from: usize, to: usize| u64::from_str_radix(&text[from..to], 16).ok();
    let (ip, rest) = match digits.len() {
        32 => (IpAddr::V4(Ipv4Addr::from(u32::try_from(number(0, 8)?).ok()?)), 8),
        56 => {
            let bits = u128::from(number(0, 16)?) << 64 | u128::from(number(16, 32)?);
            (IpAddr::V6(Ipv6Addr::from(bits)), 32)
        }
        _ => return None,
    };
    let port = u16::try_from(number(rest, rest + 8)?).ok()?;
    Some((SocketAddr::new(ip, port), number(rest + 8, rest + 24)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_javas() {
        assert_eq!(java_hash("TagA"), 2_598_919);
        assert_eq!(java_hash("AaAa"), java_hash("BBBB"));
        assert_eq!(java_hash("ta"), 3693);
        assert_eq!(java_hash("a longer text, of 33 characters ."), 484_548_328);
        assert_eq!(tags_code(Some("")), 0);
        assert_eq!(index_hash("T", "k"), java_hash("T#k").abs());
    }

    #[test]
    fn offset_ids_round_trip() {
        let v4: SocketAddr = "127.0.0.1:20911".parse().unwrap();
        assert_eq!(offset_msg_id(v4, 0x3DDD), "7F000001000051AF0000000000003DDD");
        for host in [v4, "[fd00::1]:10911".parse().unwrap()] {
            assert_eq!(parse_offset_msg_id(&offset_msg_id(host, 77)), Some((host, 77)));
        }
        for bad in ["", "7F", "7F000001000051AF0000000000003DDG", &"é".repeat(16)] {
            assert_eq!(parse_offset_msg_id(bad), None);
        }
    }
}
