//! The CommitLog record.
//!
//! All integers are big-endian. `h` is 8 with an IPv4 host (address, port as i32), 20 with
//! an IPv6 one; the sysFlag tells which.
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 4 | total size, itself included |
//! | 4 | 4 | magic: version 1, version 2, or blank |
//! | 8 | 4 | CRC-32 of the stored body, without its top bit; 0 for no body |
//! | 12 | 4 | queue id |
//! | 16 | 4 | flag, the application's own |
//! | 20 | 8 | queue offset |
//! | 28 | 8 | physical offset: this record's place |
//! | 36 | 4 | sysFlag |
//! | 40 | 8 | born timestamp, ms |
//! | 48 | h | born host |
//! | | 8 | store timestamp, ms |
//! | | h | store host |
//! | | 4 | reconsume times |
//! | | 8 | prepared transaction offset |
//! | | 4 | body length, then the body |
//! | | 1 or 2 | topic length (2 in version 2), then the topic |
//! | | 2 | properties length, then the properties |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{be, properties};

/// Magic of a record whose topic length is one byte.
pub const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Magic of a record whose topic length is two bytes (RocketMQ 5.1 on, topics over 127 bytes).
pub const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Magic of the blank that fills the end of a file.
pub const MAGIC_BLANK: u32 = 0xCBD4_3194;

const TOTAL: usize = 0;
const MAGIC: usize = TOTAL + 4;
const BODY_CRC: usize = MAGIC + 4;
const QUEUE_ID: usize = BODY_CRC + 4;
const FLAG: usize = QUEUE_ID + 4;
const QUEUE_OFFSET: usize = FLAG + 4;
const PHYSICAL_OFFSET: usize = QUEUE_OFFSET + 8;
const SYS_FLAG: usize = PHYSICAL_OFFSET + 8;
const BORN_TIME: usize = SYS_FLAG + 4;
const BORN_HOST: usize = BORN_TIME + 8;

/// Bytes of a blank's head, and what is kept free behind every record of a file.
pub const BLANK_LEN: usize = 8;
/// Bytes of the smallest record: IPv4 hosts, no body, no topic, no properties.
pub const MIN_LEN: usize = 91;
/// The longest topic of a version 1 record, whose length byte Java reads as signed.
pub const MAX_TOPIC_V1: usize = 127;

/// Bits of a record's sysFlag.
pub mod sys_flag {
    /// The client compressed the body.
    pub const COMPRESSED: i32 = 0x1;
    /// The topic takes several tags a message.
    pub const MULTI_TAGS: i32 = 0x2;
    /// Mask of the transaction type.
    pub const TRANSACTION: i32 = 0xC;
    /// Transaction type: prepared, of brokers up to 4.2; never dispatched.
    pub const PREPARED: i32 = 0x4;
    /// Transaction type: committed.
    pub const COMMIT: i32 = 0x8;
    /// Transaction type: rolled back; never dispatched.
    pub const ROLLBACK: i32 = 0xC;
    /// The born host is an IPv6 address.
    pub const BORN_HOST_V6: i32 = 0x10;
    /// The store host is an IPv6 address.
    pub const STORE_HOST_V6: i32 = 0x20;
    /// One record that holds a whole batch (5.x batch queues).
    pub const INNER_BATCH: i32 = 0x80;
}

/// A message on its way into the log. Everything borrowed: nothing is copied before it is
/// encoded in its place.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// 1 to 32767 bytes; over 127 it is stored as a version 2 record.
    pub topic: &'a str,
    pub queue_id: i32,
    /// The application's own; the broker never looks at it.
    pub flag: i32,
    /// [`sys_flag`] bits; those of the hosts are set when the record is encoded.
    pub sys_flag: i32,
    /// The client's clock, ms since 1970.
    pub born_timestamp: i64,
    pub born_host: SocketAddr,
    pub reconsume_times: i32,
    /// Physical offset of the half message that this one commits; else 0.
    pub prepared_transaction_offset: i64,
    /// As the client sent it: compressed, if [`sys_flag::COMPRESSED`].
    pub body: &'a [u8],
    /// Property text, see [`super::properties`].
    pub properties: &'a [u8],
}

/// What the log gives a message when it takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    pub queue_offset: u64,
    pub physical_offset: u64,
    pub store_timestamp: i64,
    pub store_host: SocketAddr,
}

/// The CRC of a body as records carry it, and of a record.
pub fn body_crc(body: &[u8]) -> u32 {
    crc32fast::hash(body) & 0x7FFF_FFFF
}

fn host_len(host: &SocketAddr) -> usize {
    if host.is_ipv4() { 8 } else { 20 }
}

/// Bytes that `message` takes as a record, with a store host as long as `store_host`.
pub fn encoded_len(message: &Message, store_host: &SocketAddr) -> usize {
    let hosts = host_len(&message.born_host) + host_len(store_host) - 16;
    let v2 = usize::from(message.topic.len() > MAX_TOPIC_V1);
    MIN_LEN + hosts + v2 + message.body.len() + message.topic.len() + message.properties.len()
}

/// Encodes `message` into `buf`, which is exactly [`encoded_len`] long.
pub fn encode(message: &Message, place: &Placement, body_crc: u32, buf: &mut [u8]) {
    let v2 = message.topic.len() > MAX_TOPIC_V1;
    let mut sys_flag = message.sys_flag & !(sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6);
    if message.born_host.is_ipv6() {
        sys_flag |= sys_flag::BORN_HOST_V6;
    }
    if place.store_host.is_ipv6() {
        sys_flag |= sys_flag::STORE_HOST_V6;
    }
    let total = buf.len() as u32;
    let mut at = be::put(buf, TOTAL, &total.to_be_bytes());
    at = be::put(buf, at, &if v2 { MAGIC_V2 } else { MAGIC_V1 }.to_be_bytes());
    at = be::put(buf, at, &body_crc.to_be_bytes());
    at = be::put(buf, at, &message.queue_id.to_be_bytes());
    at = be::put(buf, at, &message.flag.to_be_bytes());
    at = be::put(buf, at, &place.queue_offset.to_be_bytes());
    at = be::put(buf, at, &place.physical_offset.to_be_bytes());
    at = be::put(buf, at, &sys_flag.to_be_bytes());
    at = be::put(buf, at, &message.born_timestamp.to_be_bytes());
    at = put_host(buf, at, &message.born_host);
    at = be::put(buf, at, &place.store_timestamp.to_be_bytes());
    at = put_host(buf, at, &place.store_host);
    at = be::put(buf, at, &message.reconsume_times.to_be_bytes());
    at = be::put(buf, at, &message.prepared_transaction_offset.to_be_bytes());
    at = be::put(buf, at, &(message.body.len() as u32).to_be_bytes());
    at = be::put(buf, at, message.body);
    let topic_len = message.topic.len();
    at = if v2 {
        be::put(buf, at, &(topic_len as u16).to_be_bytes())
    } else {
        be::put(buf, at, &[topic_len as u8])
    };
    at = be::put(buf, at, message.topic.as_bytes());
    at = be::put(buf, at, &(message.properties.len() as u16).to_be_bytes());
    at = be::put(buf, at, message.properties);
    assert_eq!(at, buf.len(), "a record's parts add up to its announced size");
}

fn put_host(buf: &mut [u8], at: usize, host: &SocketAddr) -> usize {
    let at = match host.ip() {
        IpAddr::V4(ip) => be::put(buf, at, &ip.octets()),
        IpAddr::V6(ip) => be::put(buf, at, &ip.octets()),
    };
    be::put(buf, at, &u32::from(host.port()).to_be_bytes())
}

/// Writes the head of the blank that takes the last `rest` (at least 8) bytes of a file.
pub fn encode_blank(rest: u32, buf: &mut [u8]) {
    let at = be::put(buf, 0, &rest.to_be_bytes());
    be::put(buf, at, &MAGIC_BLANK.to_be_bytes());
}

/// What stands at a place of the log.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    Record(Record<'a>),
    /// The rest of the file holds nothing.
    Blank,
    /// Nothing was written here: zeros, or the end of what there is.
    End,
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    #[error("{0:#010x} is no magic number of a record")]
    Magic(u32),
    #[error("a size of {size} bytes where {available} are left in the file")]
    Size { size: i32, available: usize },
    #[error("the parts do not add up to the size of {0} bytes")]
    Sum(usize),
    #[error("it says its place is {0}")]
    Place(i64),
    #[error("the topic is not UTF-8 text")]
    Topic,
    #[error("the body does not match its CRC")]
    BodyCrc,
}

/// A decoded view of one record's bytes; no copy.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    bytes: &'a [u8],
    topic: &'a str,
    body_at: usize,
    body_len: usize,
    properties: &'a [u8],
    born_host_len: usize,
}

/// Decodes what stands at the start of `bytes`, which reach to the end of the file. The body's
/// CRC is not checked, see [`Record::check_body`]; that the parts add up is.
pub fn decode(bytes: &[u8]) -> Result<Entry<'_>, RecordError> {
    if bytes.len() < BLANK_LEN {
        // What is too short for a blank is one that nobody could write.
        return Ok(if bytes.is_empty() { Entry::End } else { Entry::Blank });
    }
    let size = be::i32(bytes, TOTAL);
    let magic = be::i32(bytes, MAGIC) as u32;
    let v2 = match magic {
        MAGIC_V1 => false,
        MAGIC_V2 => true,
        MAGIC_BLANK => return Ok(Entry::Blank),
        0 if size == 0 => return Ok(Entry::End),
        _ => return Err(RecordError::Magic(magic)),
    };
    let total = match usize::try_from(size) {
        Ok(total) if (MIN_LEN..=bytes.len()).contains(&total) => total,
        _ => return Err(RecordError::Size { size, available: bytes.len() }),
    };
    let sum = RecordError::Sum(total);
    let bytes = &bytes[..total];
    let sys_flag = be::i32(bytes, SYS_FLAG);
    let host = |bit| if sys_flag & bit == 0 { 8 } else { 20 };
    let born_host_len = host(sys_flag::BORN_HOST_V6);
    let body_len_at = BORN_HOST + born_host_len + 8 + host(sys_flag::STORE_HOST_V6) + 4 + 8;
    let body_at = body_len_at + 4;
    if body_at > total {
        return Err(sum);
    }
    let body_len = usize::try_from(be::i32(bytes, body_len_at)).map_err(|_| sum)?;
    let rest = bytes.get(body_at + body_len..).ok_or(sum)?;
    let (topic_len, rest) = if v2 {
        let (len, rest) = rest.split_at_checked(2).ok_or(sum)?;
        (usize::try_from(be::i16(len, 0)).map_err(|_| sum)?, rest)
    } else {
        let (len, rest) = rest.split_first().ok_or(sum)?;
        (usize::from(*len), rest)
    };
    let (topic, rest) = rest.split_at_checked(topic_len).ok_or(sum)?;
    let (len, properties) = rest.split_at_checked(2).ok_or(sum)?;
    if usize::try_from(be::i16(len, 0)) != Ok(properties.len()) {
        return Err(sum);
    }
    let topic = std::str::from_utf8(topic).map_err(|_| RecordError::Topic)?;
    Ok(Entry::Record(Record { bytes, topic, body_at, body_len, properties, born_host_len }))
}

impl<'a> Record<'a> {
    /// All bytes of the record.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
    /// Bytes of the record.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }
    /// 1 or 2.
    pub fn version(&self) -> u8 {
        if be::i32(self.bytes, MAGIC) as u32 == MAGIC_V2 { 2 } else { 1 }
    }
    pub fn topic(&self) -> &'a str {
        self.topic
    }
    pub fn queue_id(&self) -> i32 {
        be::i32(self.bytes, QUEUE_ID)
    }
    pub fn flag(&self) -> i32 {
        be::i32(self.bytes, FLAG)
    }
    pub fn queue_offset(&self) -> i64 {
        be::i64(self.bytes, QUEUE_OFFSET)
    }
    pub fn physical_offset(&self) -> i64 {
        be::i64(self.bytes, PHYSICAL_OFFSET)
    }
    pub fn sys_flag(&self) -> i32 {
        be::i32(self.bytes, SYS_FLAG)
    }
    /// Transaction type, see [`sys_flag`].
    pub fn transaction(&self) -> i32 {
        self.sys_flag() & sys_flag::TRANSACTION
    }
    /// Whether consumers may see it: prepared and rolled-back types get no queue unit.
    pub fn is_dispatched(&self) -> bool {
        matches!(self.transaction(), 0 | sys_flag::COMMIT)
    }
    pub fn born_timestamp(&self) -> i64 {
        be::i64(self.bytes, BORN_TIME)
    }
    pub fn born_host(&self) -> SocketAddr {
        self.host(BORN_HOST, self.born_host_len)
    }
    fn store_time_at(&self) -> usize {
        BORN_HOST + self.born_host_len
    }
    pub fn store_timestamp(&self) -> i64 {
        be::i64(self.bytes, self.store_time_at())
    }
    pub fn store_host(&self) -> SocketAddr {
        // Not asked of the sysFlag again: another process may be writing it.
        let at = self.store_time_at() + 8;
        self.host(at, self.body_at - 16 - at)
    }
    pub fn reconsume_times(&self) -> i32 {
        be::i32(self.bytes, self.body_at - 16)
    }
    pub fn prepared_transaction_offset(&self) -> i64 {
        be::i64(self.bytes, self.body_at - 12)
    }
    pub fn body_crc(&self) -> u32 {
        be::i32(self.bytes, BODY_CRC) as u32
    }
    /// The body as stored: compressed, if the sysFlag says so.
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[self.body_at..self.body_at + self.body_len]
    }
    /// The property text.
    pub fn properties(&self) -> &'a [u8] {
        self.properties
    }
    /// The value of a property.
    pub fn property(&self, name: &str) -> Option<&'a str> {
        properties::get(self.properties, name)
    }
    /// Whether the body is the one that was stored.
    pub fn check_body(&self) -> Result<(), RecordError> {
        let body = self.body();
        let expected = if body.is_empty() { 0 } else { body_crc(body) };
        if self.body_crc() == expected { Ok(()) } else { Err(RecordError::BodyCrc) }
    }
    /// Whether all of the record is as it was stored, if it ends in a CRC of itself
    /// ([`properties::split_crc`]). If it is not, that is no proof of damage: a broker that adds no such
    /// CRC keeps the one of another record that a client sent along.
    pub fn check_crc(&self) -> Option<bool> {
        let (_, crc) = properties::split_crc(self.properties)?;
        let covered = &self.bytes[..self.bytes.len() - properties::CRC_LEN];
        Some(crc == u64::from(body_crc(covered)))
    }
    /// Whether the record says that it stands where it was found. Bytes of an earlier life of
    /// a file can look like records; this tells them apart.
    pub fn check_place(&self, physical_offset: u64) -> Result<(), RecordError> {
        let says = self.physical_offset();
        if u64::try_from(says) == Ok(physical_offset) {
            Ok(())
        } else {
            Err(RecordError::Place(says))
        }
    }
    /// The message, to be stored anew. It commits nothing.
    pub fn message(&self) -> Message<'a> {
        Message {
            topic: self.topic,
            queue_id: self.queue_id(),
            flag: self.flag(),
            sys_flag: self.sys_flag(),
            born_timestamp: self.born_timestamp(),
            born_host: self.born_host(),
            reconsume_times: self.reconsume_times(),
            prepared_transaction_offset: 0,
            body: self.body(),
            properties: self.properties,
        }
    }
    /// Offset message id.
    pub fn offset_msg_id(&self) -> String {
        super::ids::offset_msg_id(self.store_host(), self.physical_offset() as u64)
    }

    fn host(&self, at: usize, len: usize) -> SocketAddr {
        let ip = if len == 8 {
            IpAddr::V4(Ipv4Addr::from(be::array::<4>(self.bytes, at)))
        } else {
            IpAddr::V6(Ipv6Addr::from(be::array::<16>(self.bytes, at)))
        };
        // Ports are stored as i32; what does not fit was never a port.
        SocketAddr::new(ip, be::i32(self.bytes, at + len - 4) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::{TestResult, quickcheck};

    fn message<'a>(topic: &'a str, body: &'a [u8], properties: &'a [u8]) -> Message<'a> {
        Message {
            topic,
            queue_id: 3,
            flag: -7,
            sys_flag: sys_flag::COMMIT,
            born_timestamp: 1_795_467_835_737,
            born_host: "192.168.1.9:52001".parse().unwrap(),
            reconsume_times: 2,
            prepared_transaction_offset: 99,
            body,
            properties,
        }
    }

    fn place() -> Placement {
        Placement {
            queue_offset: 5,
            physical_offset: 4096,
            store_timestamp: 1_795_467_835_738,
            store_host: "127.0.0.1:10911".parse().unwrap(),
        }
    }

    fn encoded(m: &Message, p: &Placement) -> Vec<u8> {
        let mut buf = vec![0; encoded_len(m, &p.store_host)];
        encode(m, p, if m.body.is_empty() { 0 } else { body_crc(m.body) }, &mut buf);
        buf
    }

    fn record(bytes: &[u8]) -> Record<'_> {
        match decode(bytes).unwrap() {
            Entry::Record(r) => r,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_field_comes_back() {
        let m = message("Orders", b"hello", b"TAGS\x01a\x02");
        let bytes = encoded(&m, &place());
        assert_eq!(bytes.len(), 91 + 5 + 6 + 7);
        let r = record(&bytes);
        assert_eq!((r.topic(), r.queue_id(), r.flag()), ("Orders", 3, -7));
        assert_eq!((r.queue_offset(), r.physical_offset()), (5, 4096));
        assert_eq!((r.sys_flag(), r.version()), (sys_flag::COMMIT, 1));
        assert_eq!(r.born_timestamp(), m.born_timestamp);
        assert_eq!(r.store_timestamp(), place().store_timestamp);
        assert_eq!((r.born_host(), r.store_host()), (m.born_host, place().store_host));
        assert_eq!((r.reconsume_times(), r.prepared_transaction_offset()), (2, 99));
        assert_eq!((r.body(), r.property("TAGS")), (&b"hello"[..], Some("a")));
        assert_eq!(r.offset_msg_id(), "7F00000100002A9F0000000000001000");
        assert_eq!(r.check_body(), Ok(()));
        assert_eq!(r.check_place(4096), Ok(()));
        assert_eq!(r.check_place(0), Err(RecordError::Place(4096)));
    }

    #[test]
    fn v6_hosts_and_long_topics() {
        let topic = "T".repeat(200);
        let mut m = message(&topic, b"", b"");
        m.born_host = "[fd00::9]:1".parse().unwrap();
        let p = Placement { store_host: "[::1]:2".parse().unwrap(), ..place() };
        let bytes = encoded(&m, &p);
        assert_eq!(bytes.len(), 91 + 24 + 1 + 200);
        let r = record(&bytes);
        assert_eq!((r.born_host(), r.store_host()), (m.born_host, p.store_host));
        assert_eq!((r.version(), r.topic()), (2, &*topic));
        assert_eq!(r.sys_flag(), sys_flag::COMMIT | 0x30);
        assert_eq!(r.check_body(), Ok(()));
    }

    #[test]
    fn what_is_not_a_record_says_why() {
        let good = encoded(&message("T", b"body", b""), &place());
        let with = |at: usize, bytes: &[u8]| {
            let mut copy = good.clone();
            be::put(&mut copy, at, bytes);
            copy
        };
        assert!(matches!(decode(&[0; 40]), Ok(Entry::End)));
        assert!(matches!(decode(&good[..7]), Ok(Entry::Blank)));
        assert!(matches!(decode(&[]), Ok(Entry::End)));
        let mut blank = [9; 64];
        encode_blank(64, &mut blank);
        assert!(matches!(decode(&blank), Ok(Entry::Blank)));
        assert!(matches!(decode(&with(4, &[1])), Err(RecordError::Magic(_))));
        for size in [0u32, 90, u32::MAX, good.len() as u32 + 1] {
            let error = decode(&with(0, &size.to_be_bytes())).unwrap_err();
            assert!(matches!(error, RecordError::Size { .. }), "{error}");
        }
        assert!(matches!(decode(&with(84, &[0x7f])), Err(RecordError::Sum(_))));
        assert!(matches!(decode(&with(84, &[0xff])), Err(RecordError::Sum(_))));
        assert!(matches!(decode(&with(93, &[0xff])), Err(RecordError::Topic)));
        assert_eq!(record(&with(88, b"x")).check_body(), Err(RecordError::BodyCrc));
    }

    /// As a 5.5.0 broker with `enabledAppendPropCRC` wrote it.
    const WITH_CRC: &[u8] = b"\
        \x00\x00\x01\x12\xda\xa3 \xa77S7\xb9\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\
        \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
        \x00\x01\xa2\x12\x18\xf6;\x7f\x00\x00\x01\x00\x00\xd2\x10\x00\x00\x01\xa2\x12\
        \x18\xf6S\x7f\x00\x00\x01\x00\x00\\:\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
        \x00\x00\x00\x00\x00\x02m0\x08Features\x00\xadMSG_REGION\x01DefaultRegion\x02U\
        NIQ_KEY\x01FD00000000000000000000000000000228174E0E2F2A7DB10E3B0000\x02CLUSTER\
        \x01interop\x02TAGS\x01tag0\x02KEYS\x01m0\x02WAIT\x01true\x02TRACE_ON\x01true\
        \x02n\x010\x02__CRC32#\x015382506021\x02";

    #[test]
    fn a_crc_covers_the_whole_record() {
        let checked = |bytes: &[u8]| (record(bytes).check_body(), record(bytes).check_crc());
        assert_eq!(checked(WITH_CRC), (Ok(()), Some(true)));
        let last = WITH_CRC.len() - properties::CRC_LEN;
        for (at, body) in [(15, Ok(())), (89, Err(RecordError::BodyCrc)), (last - 3, Ok(()))] {
            let mut bytes = WITH_CRC.to_vec();
            bytes[at] ^= 1;
            assert_eq!(checked(&bytes), (body, Some(false)), "{at}");
        }
        assert_eq!(record(&encoded(&message("T", b"b", b""), &place())).check_crc(), None);
    }

    quickcheck! {
        fn round_trip(topic: String, body: Vec<u8>, properties: Vec<u8>) -> TestResult {
            if topic.len() > i16::MAX as usize || properties.len() > properties::MAX_LEN {
                return TestResult::discard();
            }
            let bytes = encoded(&message(&topic, &body, &properties), &place());
            let r = record(&bytes);
            TestResult::from_bool(
                r.topic() == topic && r.body() == body && r.properties() == properties
                    && r.check_body().is_ok(),
            )
        }

        fn damage_never_panics(body: Vec<u8>, at: usize, with: Vec<u8>) -> bool {
            let mut bytes = encoded(&message("Topic", &body, b"A\x01b\x02"), &place());
            let at = at % bytes.len();
            for (b, w) in bytes[at..].iter_mut().zip(with) {
                *b = w;
            }
            if let Ok(Entry::Record(r)) = decode(&bytes) {
                let _ = (r.check_body(), r.offset_msg_id(), r.store_host(), r.property("A"));
            }
            true
        }
    }
}
