//! Messages: as they are sent, and as they are read.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use mq_store::broker::names::RETRY_PREFIX;
use mq_store::codec::ids::java_hash;
use mq_store::codec::properties::{self, NAME_VALUE, PAIR_END, name};
use mq_store::codec::record::{Record, sys_flag};
use mq_store::os::map::Slice;
use mq_store::store::as_record;

use crate::error::{Error, Result};

/// Which queue of its topic a message goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Any,
    Queue(i32),
    /// The hash of a key: the same key, the same queue.
    Hash(i32),
}

/// A message to send. Topic and body are borrowed.
///
/// ```
/// use mq_embedded::Message;
/// let message = Message::new("Orders", b"one book").tag("paid").key("order-7").order_key("customer-3");
/// ```
#[derive(Clone, Debug)]
pub struct Message<'a> {
    pub(crate) topic: &'a str,
    pub(crate) body: &'a [u8],
    pub(crate) target: Target,
    pub(crate) flag: i32,
    pub(crate) properties: Vec<u8>,
    pub(crate) problem: Option<String>,
}

impl<'a> Message<'a> {
    /// A message of 0 bytes to 4 MiB (see [`Builder::max_body`](crate::Builder::max_body)).
    pub fn new<B: AsRef<[u8]> + ?Sized>(topic: &'a str, body: &'a B) -> Message<'a> {
        Message {
            topic,
            body: body.as_ref(),
            target: Target::Any,
            flag: 0,
            properties: Vec::new(),
            problem: None,
        }
    }

    /// The tag that subscriptions filter by; one.
    pub fn tag(self, tag: &str) -> Self {
        self.property(name::TAGS, tag)
    }

    /// Keys by which the message is found, with a space between them.
    pub fn key(self, keys: &str) -> Self {
        self.property(name::KEYS, keys)
    }

    /// A property, for SQL92 filters and for the receiver. Setting it again replaces it. Name
    /// and value must not be empty or hold the bytes 1 and 2; all together take 32,767 bytes at
    /// most. What breaks that is an error when the message is sent.
    pub fn property(mut self, name: &str, value: &str) -> Self {
        let is_bad = |text: &str| text.bytes().any(|b| b == NAME_VALUE || b == PAIR_END);
        if name.is_empty() || value.is_empty() || is_bad(name) || is_bad(value) {
            self.problem = Some(format!(
                "property {name:?} = {value:?}: neither may be empty or hold the bytes 1 and 2"
            ));
            return self;
        }
        properties::set(&mut self.properties, name, value);
        self
    }

    /// Delivers the message after the delay of a level: 1 for 1 s, 2 for 5 s, 3 for 10 s, 4 for
    /// 30 s, 5 to 14 for 1 to 10 min, 15 for 20 min, 16 for 30 min, 17 for 1 h, 18 for 2 h, if
    /// [`Builder::delay_levels`](crate::Builder::delay_levels) says nothing else. 0 is none.
    pub fn delay_level(self, level: u8) -> Self {
        if level == 0 { self } else { self.property(name::DELAY, &level.to_string()) }
    }

    /// Sends to this queue, counted from 0.
    pub fn queue(mut self, queue_id: i32) -> Self {
        self.target = Target::Queue(queue_id);
        self
    }

    /// Messages with the same key go to the same queue, where they keep their order.
    pub fn order_key(mut self, key: &str) -> Self {
        self.target = Target::Hash(java_hash(key));
        self
    }

    /// The property text, if nothing is wrong with it.
    pub(crate) fn properties(&self) -> Result<&str> {
        match (&self.problem, std::str::from_utf8(&self.properties)) {
            (None, Ok(text)) => Ok(text),
            (Some(problem), _) => Err(Error::Invalid(problem.clone())),
            (None, Err(e)) => Err(Error::Invalid(format!("properties that are no text: {e}"))),
        }
    }

    /// A number that is the application's own.
    pub fn flag(mut self, flag: i32) -> Self {
        self.flag = flag;
        self
    }
}

#[derive(Clone)]
enum Bytes {
    Mapped(Slice),
    Owned(Arc<[u8]>),
}

/// A message that was read. Its bytes are those of the mapped file, which stays mapped for as
/// long as the view lives; cloning it copies nothing. Take what is to be kept for long with
/// `body().to_vec()`.
#[derive(Clone)]
pub struct MessageView {
    bytes: Bytes,
    topic: Range<usize>,
    body: Range<usize>,
    properties: Range<usize>,
}

impl MessageView {
    pub(crate) fn of(slice: Slice) -> Option<MessageView> {
        let [topic, body, properties] = parts(&slice)?;
        Some(MessageView { topic, body, properties, bytes: Bytes::Mapped(slice) })
    }

    pub(crate) fn owned(bytes: Vec<u8>) -> Option<MessageView> {
        let [topic, body, properties] = parts(&bytes)?;
        Some(MessageView { topic, body, properties, bytes: Bytes::Owned(bytes.into()) })
    }

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(slice) => slice,
            Bytes::Owned(bytes) => bytes,
        }
    }

    fn record(&self) -> Record<'_> {
        as_record(self.bytes()).expect("it was decoded when the view was made")
    }

    /// The topic it was sent to, also where it comes from a retry topic.
    pub fn topic(&self) -> &str {
        let topic = std::str::from_utf8(&self.bytes()[self.topic.clone()]).unwrap_or_default();
        match topic.starts_with(RETRY_PREFIX) {
            true => self.property(name::RETRY_TOPIC).unwrap_or(topic),
            false => topic,
        }
    }

    /// The bytes that were stored, borrowed from the mapped file.
    pub fn body(&self) -> &[u8] {
        &self.bytes()[self.body.clone()]
    }

    /// The body as it was before a client compressed it, which Java's do above 4 KiB.
    ///
    /// # Errors
    /// [`Error::Compression`] for LZ4 and Zstandard, [`Error::Damaged`] if it does not unpack.
    pub fn content(&self) -> Result<Cow<'_, [u8]>> {
        let flags = self.record().sys_flag();
        if flags & sys_flag::COMPRESSED == 0 {
            return Ok(Cow::Borrowed(self.body()));
        }
        match (flags >> 8) & 7 {
            0 | 3 => {}
            1 => return Err(Error::Compression("LZ4")),
            _ => return Err(Error::Compression("Zstandard")),
        }
        let mut content = Vec::new();
        // What clients may send uncompressed, twice over: nobody fills the memory with zeros.
        let read = flate2::read::ZlibDecoder::new(self.body()).take(64 << 20);
        { read }.read_to_end(&mut content).map_err(|e| {
            Error::Damaged(format!("the body of {} does not unpack: {e}", self.id()))
        })?;
        Ok(Cow::Owned(content))
    }

    /// Whether the body has to be unpacked, see [`MessageView::content`].
    pub fn is_compressed(&self) -> bool {
        self.record().sys_flag() & sys_flag::COMPRESSED != 0
    }

    /// A property's value.
    pub fn property(&self, name: &str) -> Option<&str> {
        properties::get(&self.bytes()[self.properties.clone()], name)
    }

    /// All properties, RocketMQ's own among them.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        properties::pairs(&self.bytes()[self.properties.clone()])
    }

    /// The tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.property(name::TAGS)
    }

    /// Keys, with a space between them.
    pub fn keys(&self) -> Option<&str> {
        self.property(name::KEYS)
    }

    /// The queue in which it was found. For a message that comes again, a queue of the retry
    /// topic.
    pub fn queue_id(&self) -> i32 {
        self.record().queue_id()
    }

    /// Its number in that queue, from 0.
    pub fn queue_offset(&self) -> u64 {
        self.record().queue_offset().unsigned_abs()
    }

    /// Its position in the log.
    pub fn position(&self) -> u64 {
        self.record().physical_offset().unsigned_abs()
    }

    /// The id by which [`Mq::message`](crate::Mq::message) and `mqadmin` find it: the unique key
    /// that a Java or Go producer gave it, else the id made of its position.
    pub fn id(&self) -> String {
        match self.property(name::UNIQ_KEY) {
            Some(key) => key.to_owned(),
            None => self.record().offset_msg_id(),
        }
    }

    /// When it was stored, ms since 1970.
    pub fn store_time(&self) -> i64 {
        self.record().store_timestamp()
    }

    /// When it was sent, by the sender's clock, ms since 1970.
    pub fn born_time(&self) -> i64 {
        self.record().born_timestamp()
    }

    /// How often it came back to be consumed again.
    pub fn reconsume_times(&self) -> i32 {
        self.record().reconsume_times()
    }

    /// The number that [`Message::flag`] set.
    pub fn flag(&self) -> i32 {
        self.record().flag()
    }
}

impl fmt::Debug for MessageView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageView")
            .field("topic", &self.topic())
            .field("queue_id", &self.queue_id())
            .field("queue_offset", &self.queue_offset())
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish_non_exhaustive()
    }
}

/// Where topic, body and properties are.
fn parts(bytes: &[u8]) -> Option<[Range<usize>; 3]> {
    let record = as_record(bytes)?;
    let start = bytes.as_ptr() as usize;
    let range = |part: &[u8]| {
        let at = part.as_ptr() as usize - start;
        at..at + part.len()
    };
    Some([range(record.topic().as_bytes()), range(record.body()), range(record.properties())])
}
