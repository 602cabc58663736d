//! Remoting commands: a request or a response, in either header encoding.
//!
//! JSON: an object with `code`, `language`, `version`, `opaque`, `flag` (bit 0 response, bit 1
//! one-way), `remark`, `extFields` (names to texts), `serializeTypeCurrentRPC`.
//!
//! Binary: `i16 code · u8 language · i16 version · i32 opaque · i32 flag · i32 length, remark ·
//! i32 length, fields`, each field `i16 length, name · i32 length, value`.

use std::borrow::Cow;
use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use mq_store::os::map::Slice;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::codes;
use super::fields::Fields;
use super::frame::{self, Encoding};
use super::plain_json;

/// The version that our commands carry: RocketMQ 4.9.7, whose codes are the ones we serve.
pub const VERSION: i32 = 407;
/// RocketMQ's name of [`VERSION`].
pub const VERSION_NAME: &str = "V4_9_7";

/// RocketMQ's name of a version: from 3.9.1 on each has two numbers, for its snapshots and for
/// itself. Of older ones the number.
pub fn version_name(version: i32) -> String {
    let n = (i64::from(version) + 587) / 2;
    match (version, version % 2) {
        (..194, _) => format!("{version}"),
        (_, 0) => format!("V{}_{}_{}_SNAPSHOT", (n + 1) / 100, (n + 1) / 10 % 10, (n + 1) % 10),
        _ => format!("V{}_{}_{}", n / 100, n / 10 % 10, n % 10),
    }
}

/// Records shorter than this, on average, are copied.
const SHORT: usize = 512;
const FLAG_RESPONSE: i32 = 1;
const FLAG_ONE_WAY: i32 = 2;
/// Language numbers of the binary form.
const LANGUAGES: [&str; 14] = [
    "JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO", "PHP",
    "OMS", "RUST", "NODE_JS",
];

/// A decoded header. Texts are borrowed from the frame where nothing in them was escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head<'a> {
    pub code: i32,
    pub language: Cow<'a, str>,
    /// The sender's version number, see [`VERSION`].
    pub version: i32,
    /// Correlates a response with its request.
    pub opaque: i32,
    pub flag: i32,
    pub remark: Option<Cow<'a, str>>,
    pub fields: Fields<'a>,
}

impl Head<'_> {
    pub fn is_response(&self) -> bool {
        self.flag & FLAG_RESPONSE != 0
    }
    pub fn is_one_way(&self) -> bool {
        self.flag & FLAG_ONE_WAY != 0
    }
}

/// Why bytes are no header.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    #[error("a JSON header that cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a binary header that is cut short or not UTF-8")]
    Binary,
}

/// Decodes a frame's header.
pub fn decode(encoding: Encoding, header: &[u8]) -> Result<Head<'_>, HeadError> {
    match encoding {
        Encoding::Json => match plain_json::head(header) {
            Some(head) => Ok(head),
            None => Ok(serde_json::from_slice::<JsonHead>(header)?.0),
        },
        Encoding::Binary => decode_binary(header).ok_or(HeadError::Binary),
    }
}

fn decode_binary(mut b: &[u8]) -> Option<Head<'_>> {
    fn take<'a>(b: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = b.split_at_checked(n)?;
        *b = rest;
        Some(taken)
    }
    fn number<const N: usize>(b: &mut &[u8]) -> Option<i32> {
        let bytes = take(b, N)?;
        let sign = if bytes.first()? & 0x80 != 0 && N > 1 { -1 } else { 0 };
        Some(bytes.iter().fold(sign, |n, byte| n << 8 | i32::from(*byte)))
    }
    fn text<'a>(b: &mut &'a [u8], len: i32) -> Option<&'a str> {
        std::str::from_utf8(take(b, usize::try_from(len).ok()?)?).ok()
    }
    let mut head = Head { code: number::<2>(&mut b)?, ..Head::default() };
    let language = number::<1>(&mut b)?;
    head.language = LANGUAGES.get(language as usize).copied().unwrap_or("OTHER").into();
    head.version = number::<2>(&mut b)?;
    head.opaque = number::<4>(&mut b)?;
    head.flag = number::<4>(&mut b)?;
    let len = number::<4>(&mut b)?;
    head.remark = Some(text(&mut b, len)?).filter(|r| !r.is_empty()).map(Cow::Borrowed);
    let len = number::<4>(&mut b)?;
    let mut fields = take(&mut b, usize::try_from(len).ok()?)?;
    while !fields.is_empty() {
        let len = number::<2>(&mut fields)?;
        let name = text(&mut fields, len)?;
        let len = number::<4>(&mut fields)?;
        head.fields.0.push((name.into(), text(&mut fields, len)?.into()));
    }
    Some(head)
}

/// The JSON form as serde reads it. By hand, since texts are to be borrowed, and values may be
/// numbers, booleans or null as well.
struct JsonHead<'a>(Head<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for JsonHead<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeadVisitor;
        impl<'de> Visitor<'de> for HeadVisitor {
            type Value = JsonHead<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a command's header")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut head = Head::default();
                while let Some(Text(name)) = map.next_key()? {
                    match name.as_deref().unwrap_or_default() {
                        "code" => head.code = map.next_value()?,
                        "language" => {
                            head.language = map.next_value::<Text>()?.0.unwrap_or_default();
                        }
                        "version" => {
                            head.version = map.next_value::<Option<i32>>()?.unwrap_or(0);
                        }
                        "opaque" => head.opaque = map.next_value::<Option<i32>>()?.unwrap_or(0),
                        "flag" => head.flag = map.next_value::<Option<i32>>()?.unwrap_or(0),
                        "remark" => {
                            head.remark = map.next_value::<Text>()?.0.filter(|r| !r.is_empty());
                        }
                        "extFields" => {
                            head.fields =
                                map.next_value::<Option<JsonFields>>()?.unwrap_or_default().0;
                        }
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(JsonHead(head))
            }
        }
        deserializer.deserialize_map(HeadVisitor)
    }
}

#[derive(Default)]
struct JsonFields<'a>(Fields<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for JsonFields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = JsonFields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("fields")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields(Vec::with_capacity(16));
                while let Some((Text(name), Text(value))) = map.next_entry()? {
                    if let (Some(name), Some(value)) = (name, value) {
                        fields.0.push((name, value));
                    }
                }
                Ok(JsonFields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// A text, or a number or boolean as text, or null.
struct Text<'a>(Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Borrowed(v))))
            }
            fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Owned(v.to_owned()))))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Self::Value, E> {
                Ok(Text(Some(v.to_string().into())))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Self::Value, E> {
                Ok(Text(Some(v.to_string().into())))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Self::Value, E> {
                Ok(Text(Some(v.to_string().into())))
            }
            fn visit_bool<E>(self, v: bool) -> Result<Self::Value, E> {
                Ok(Text(Some(if v { "true" } else { "false" }.into())))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Text(None))
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

/// A field's value on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Number(i64),
    Text(Cow<'static, str>),
}

macro_rules! values {
    ($($ty:ty => $make:expr;)*) => {$(
        impl From<$ty> for Value {
            fn from(v: $ty) -> Value {
                let make: fn($ty) -> Value = $make;
                make(v)
            }
        }
    )*};
}
values! {
    i32 => |v| Value::Number(v.into());
    u32 => |v| Value::Number(v.into());
    i64 => Value::Number;
    // Offsets and positions; none gets near the sign bit.
    u64 => |v| Value::Number(v as i64);
    bool => |v| Value::Text(if v { "true" } else { "false" }.into());
    String => |v| Value::Text(v.into());
    &'static str => |v| Value::Text(v.into());
}

/// What follows a header.
#[derive(Clone, Debug, Default)]
pub enum Body {
    #[default]
    Empty,
    Bytes(Bytes),
    /// Records, straight from their mapped file.
    Records(Vec<Slice>),
}

impl Body {
    /// Bytes of the body.
    pub fn len(&self) -> usize {
        match self {
            Body::Empty => 0,
            Body::Bytes(bytes) => bytes.len(),
            Body::Records(records) => records.iter().map(|r| r.len()).sum(),
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A command that we send: the answer to a request, or a request of our own.
#[derive(Clone, Debug, Default)]
pub struct Command {
    pub code: i32,
    pub remark: Option<Cow<'static, str>>,
    pub fields: Vec<(Cow<'static, str>, Value)>,
    pub body: Body,
}

impl Command {
    /// A command of a code, with nothing in it.
    pub fn new(code: i32) -> Command {
        Command { code, ..Command::default() }
    }
    /// The answer that all went well.
    pub fn ok() -> Command {
        Command::new(codes::response::SUCCESS)
    }
    /// An answer that says why not.
    pub fn refusal(code: i32, remark: impl Into<Cow<'static, str>>) -> Command {
        Command::new(code).remark(remark)
    }
    pub fn remark(mut self, remark: impl Into<Cow<'static, str>>) -> Command {
        self.remark = Some(remark.into());
        self
    }
    pub fn field(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Value>) -> Command {
        self.fields.push((name.into(), value.into()));
        self
    }
    pub fn body(mut self, body: impl Into<Bytes>) -> Command {
        self.body = Body::Bytes(body.into());
        self
    }
    /// An answer with a JSON body.
    pub fn json(self, body: &impl serde::Serialize) -> Command {
        // Only a map whose keys are no texts fails, and there is none.
        self.body(serde_json::to_vec(body).unwrap_or_default())
    }

    /// Writes the answer to the request `opaque`, whose encoding it takes. Records go to
    /// `out` as they are, without a copy.
    pub fn encode_response(&self, opaque: i32, encoding: Encoding, out: &mut Outgoing) {
        self.encode(opaque, FLAG_RESPONSE, encoding, out);
    }

    /// Writes a request.
    pub fn encode_request(
        &self,
        opaque: i32,
        one_way: bool,
        encoding: Encoding,
        out: &mut Outgoing,
    ) {
        self.encode(opaque, if one_way { FLAG_ONE_WAY } else { 0 }, encoding, out);
    }

    fn encode(&self, opaque: i32, flag: i32, encoding: Encoding, out: &mut Outgoing) {
        // Codes over 16 bits exist, and the binary form has no room for them.
        let encoding = if i16::try_from(self.code).is_err() { Encoding::Json } else { encoding };
        let buf = &mut out.bytes;
        let start = buf.len();
        buf.extend_from_slice(&frame::PLACE);
        match encoding {
            Encoding::Json => self.write_json(opaque, flag, buf),
            Encoding::Binary => self.write_binary(opaque, flag, buf),
        }
        frame::finish(buf, start, encoding, self.body.len());
        match &self.body {
            Body::Empty => {}
            Body::Bytes(bytes) => buf.extend_from_slice(bytes),
            // The kernel takes longer over a short slice than a copy takes.
            Body::Records(records) if self.body.len() < records.len() * SHORT => {
                records.iter().for_each(|record| buf.extend_from_slice(record));
            }
            Body::Records(records) => {
                let at = buf.len();
                out.slices.extend(records.iter().map(|r| (at, r.clone())));
            }
        }
    }

    fn write_json(&self, opaque: i32, flag: i32, out: &mut BytesMut) {
        out.extend_from_slice(b"{\"code\":");
        put_number(out, self.code.into());
        if !self.fields.is_empty() {
            out.extend_from_slice(b",\"extFields\":{");
            for (n, (name, value)) in self.fields.iter().enumerate() {
                if n > 0 {
                    out.put_u8(b',');
                }
                put_json_text(out, name);
                out.put_u8(b':');
                match value {
                    Value::Number(n) => {
                        out.put_u8(b'"');
                        put_number(out, *n);
                        out.put_u8(b'"');
                    }
                    Value::Text(text) => put_json_text(out, text),
                }
            }
            out.put_u8(b'}');
        }
        out.extend_from_slice(b",\"flag\":");
        put_number(out, flag.into());
        out.extend_from_slice(b",\"language\":\"JAVA\",\"opaque\":");
        put_number(out, opaque.into());
        if let Some(remark) = &self.remark {
            out.extend_from_slice(b",\"remark\":");
            put_json_text(out, remark);
        }
        out.extend_from_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
        put_number(out, VERSION.into());
        out.put_u8(b'}');
    }

    fn write_binary(&self, opaque: i32, flag: i32, out: &mut BytesMut) {
        out.put_i16(self.code as i16);
        out.put_u8(0);
        out.put_i16(VERSION as i16);
        out.put_i32(opaque);
        out.put_i32(flag);
        let remark = self.remark.as_deref().unwrap_or_default();
        out.put_u32(remark.len() as u32);
        out.extend_from_slice(remark.as_bytes());
        let at = out.len();
        out.put_u32(0);
        for (name, value) in &self.fields {
            out.put_u16(name.len() as u16);
            out.extend_from_slice(name.as_bytes());
            let value_at = out.len();
            out.put_u32(0);
            match value {
                Value::Number(n) => put_number(out, *n),
                Value::Text(text) => out.extend_from_slice(text.as_bytes()),
            }
            let len = (out.len() - value_at - 4) as u32;
            out[value_at..value_at + 4].copy_from_slice(&len.to_be_bytes());
        }
        let len = (out.len() - at - 4) as u32;
        out[at..at + 4].copy_from_slice(&len.to_be_bytes());
    }
}

fn put_number(out: &mut BytesMut, n: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

fn put_json_text(out: &mut BytesMut, text: &str) {
    if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        out.put_u8(b'"');
        out.extend_from_slice(text.as_bytes());
        out.put_u8(b'"');
        return;
    }
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(out.writer(), text);
}

/// Bytes to be sent, with records of mapped files between them.
#[derive(Debug, Default)]
pub struct Outgoing {
    pub bytes: BytesMut,
    /// Records and the place in `bytes` before which each goes, ascending.
    pub slices: Vec<(usize, Slice)>,
}

impl Outgoing {
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Everything in the order it is to be sent.
    pub fn io_slices(&self) -> Vec<std::io::IoSlice<'_>> {
        let mut all = Vec::with_capacity(2 * self.slices.len() + 1);
        let mut from = 0;
        for (at, slice) in &self.slices {
            if *at > from {
                all.push(std::io::IoSlice::new(&self.bytes[from..*at]));
                from = *at;
            }
            all.push(std::io::IoSlice::new(slice));
        }
        if from < self.bytes.len() {
            all.push(std::io::IoSlice::new(&self.bytes[from..]));
        }
        all
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.slices.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{FrameLimits, Parsed, parse};
    use quickcheck::quickcheck;

    fn encoded(command: &Command, encoding: Encoding) -> Vec<u8> {
        let mut out = Outgoing::default();
        command.encode_response(-5, encoding, &mut out);
        out.bytes.to_vec()
    }

    #[test]
    fn versions_have_names() {
        let numbers = [VERSION, 406, 513, 317, 5, i32::MAX, -1];
        let names = ["V4_9_7_SNAPSHOT", "V5_5_0", "V4_5_2", "5", "V10737421_1_7", "-1"];
        assert_eq!(version_name(numbers[0]), VERSION_NAME);
        assert_eq!(numbers[1..].iter().map(|n| version_name(*n)).collect::<Vec<_>>(), names);
    }

    #[test]
    fn json_as_java_writes_it() {
        let header = br#"{"code":105,"extFields":{"topic":"TBW\u0001102","n":5,"b":true,"x":null},
            "flag":0,"language":"JAVA","opaque":5,"serializeTypeCurrentRPC":"JSON","version":317}
"#;
        let head = decode(Encoding::Json, header).unwrap();
        assert_eq!((head.code, head.opaque, head.version), (105, 5, 317));
        assert_eq!((&*head.language, head.remark.clone()), ("JAVA", None));
        let f = &head.fields;
        assert_eq!(
            [f.get("topic"), f.get("n"), f.get("b"), f.get("x")],
            [Some("TBW\u{1}102"), Some("5"), Some("true"), None,]
        );
        assert!(!head.is_response() && !head.is_one_way());
        let head = decode(Encoding::Json, b"{\"language\":9,\"remark\":\"\",\"flag\":3}").unwrap();
        assert!(head.is_response() && head.is_one_way() && head.remark.is_none());
        let plain = br#"{"code":10,"extFields":{"i":"a\u0001b\u0002\\\/\n","e":"0"},"opaque":-1}"#;
        let head = plain_json::head(plain).unwrap();
        assert_eq!((head.fields.get("i"), head.opaque), (Some("a\u{1}b\u{2}\\/\n"), -1));
        for odd in
            [r#"{"code":01}"#, r#"{"code": 1}"#, r#"{"remark":"\ud83d\ude00"}"#, r#"{"x":[]}"#]
        {
            assert_eq!(plain_json::head(odd.as_bytes()), None, "{odd}");
        }
        for bad in [&b"{"[..], b"[]", b"{\"code\":\"x\"}", b"{\"code\":1}x", b"\xff", b""] {
            assert!(decode(Encoding::Json, bad).is_err());
        }
    }

    #[test]
    fn binary_as_java_writes_it() {
        // A 4.9.7 client's question for a route.
        let hex = "006900019700000000000000000000000000 00000E0005746F70696300000003525254";
        let bytes: Vec<u8> = hex.bytes().filter(|b| *b != b' ').collect();
        let bytes: Vec<u8> = bytes
            .chunks(2)
            .map(|c| u8::from_str_radix(std::str::from_utf8(c).unwrap(), 16).unwrap())
            .collect();
        let head = decode(Encoding::Binary, &bytes).unwrap();
        assert_eq!((head.code, head.version, head.fields.get("topic")), (105, 407, Some("RRT")));
        for n in 0..bytes.len() {
            assert!(decode(Encoding::Binary, &bytes[..n]).is_err(), "cut at {n}");
        }
    }

    #[test]
    fn the_answer_has_the_form_clients_know() {
        let command = Command::refusal(17, "No \"route\"\n").field("n", -1i64).field("t", "é\u{1}");
        let bytes = encoded(&command, Encoding::Json);
        let text = std::str::from_utf8(&bytes[8..]).unwrap();
        assert_eq!(
            text,
            "{\"code\":17,\"extFields\":{\"n\":\"-1\",\"t\":\"é\\u0001\"},\"flag\":1,\"language\":\"JAVA\",\"opaque\":-5,\"remark\":\"No \\\"route\\\"\\n\",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":407}"
        );
        let big = encoded(&Command::new(200_050), Encoding::Binary);
        assert_eq!(big[4], 0, "a code that does not fit goes as JSON");
    }

    quickcheck! {
        fn round_trip(code: i16, remark: String, fields: Vec<(String, String)>, body: Vec<u8>) -> bool {
            [Encoding::Json, Encoding::Binary].into_iter().all(|encoding| {
                let mut command = Command::refusal(code.into(), remark.clone()).body(body.clone());
                for (name, value) in &fields {
                    command = command.field(name.clone(), value.clone());
                }
                let bytes = encoded(&command, encoding);
                let Ok(Parsed::Frame(f, total)) = parse(&bytes, &FrameLimits::default()) else {
                    return false;
                };
                let head = decode(f.encoding, f.header).unwrap();
                let got: Vec<(String, String)> =
                    head.fields.0.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
                total == bytes.len() && f.body == body && head.code == i32::from(code)
                    && head.opaque == -5 && head.is_response() && got == fields
                    && head.remark.as_deref().unwrap_or_default() == remark
            })
        }

        /// Serde, which knows all of JSON, has nothing to add to what the quick way reads.
        fn both_ways_read_the_same(fields: Vec<(String, String)>, remark: String, opaque: i32) -> bool {
            let fields: Vec<String> = fields
                .iter()
                .map(|(n, v)| format!("{}:{}", serde_json::json!(n), serde_json::json!(v)))
                .collect();
            let header = format!(
                "{{\"code\":310,\"extFields\":{{{}}},\"remark\":{},\"opaque\":{opaque}}}",
                fields.join(","),
                serde_json::json!(remark),
            );
            let slow = serde_json::from_str::<JsonHead>(&header).map(|h| h.0).ok();
            let quick = plain_json::head(header.as_bytes());
            slow.is_some() && (quick.is_none() || quick == slow)
        }

        fn any_bytes_as_a_header(bytes: Vec<u8>) -> bool {
            let _ = (decode(Encoding::Json, &bytes), decode(Encoding::Binary, &bytes));
            true
        }
    }
}
