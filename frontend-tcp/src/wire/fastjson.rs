//! What fastjson writes that is not JSON: objects whose keys are numbers (`{0:17}`) or objects
//! (`{{"brokerName":"b","queueId":0,"topic":"T"}:17}`). Java clients read nothing else in their
//! place.

use std::fmt::{Display, Write as _};
use std::io::{self, Write};

use mq_store::broker::locks::MessageQueue;
use mq_store::codec::lenient_json;
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CharEscape, Formatter, Serializer};

/// A value with its numeric keys unquoted.
pub fn to_vec(value: &impl Serialize) -> Vec<u8> {
    let mut json = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut json, Unquoted::default());
    // Only a map whose keys are neither texts nor numbers fails, and there is none.
    let _ = value.serialize(&mut serializer);
    json
}

/// Writes a text's opening quote late: serde_json announces a numeric key as a text, and then
/// writes a number into it.
#[derive(Default)]
struct Unquoted {
    opening: bool,
    number: bool,
}

impl Unquoted {
    fn open(&mut self, writer: &mut (impl Write + ?Sized)) -> io::Result<()> {
        if std::mem::take(&mut self.opening) { writer.write_all(b"\"") } else { Ok(()) }
    }
}

macro_rules! numbers {
    ($($write:ident: $ty:ty,)*) => {$(
        fn $write<W: ?Sized + Write>(&mut self, writer: &mut W, n: $ty) -> io::Result<()> {
            self.number = std::mem::take(&mut self.opening);
            writer.write_all(itoa::Buffer::new().format(n).as_bytes())
        }
    )*};
}

impl Formatter for Unquoted {
    numbers! { write_i8: i8, write_i16: i16, write_i32: i32, write_i64: i64, write_u8: u8,
    write_u16: u16, write_u32: u32, write_u64: u64, }

    fn begin_string<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.opening = true;
        Ok(())
    }
    fn end_string<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer)?;
        if std::mem::take(&mut self.number) { Ok(()) } else { writer.write_all(b"\"") }
    }
    fn write_string_fragment<W: ?Sized + Write>(&mut self, w: &mut W, s: &str) -> io::Result<()> {
        self.open(w)?;
        w.write_all(s.as_bytes())
    }
    fn write_char_escape<W: ?Sized + Write>(&mut self, w: &mut W, c: CharEscape) -> io::Result<()> {
        self.open(w)?;
        serde_json::ser::CompactFormatter.write_char_escape(w, c)
    }
}

/// A value as JSON.
pub fn json(value: &(impl Serialize + ?Sized)) -> String {
    // Only a map whose keys are no texts fails, and there is none.
    serde_json::to_string(value).unwrap_or_default()
}

/// An object of keys and values that are JSON or numbers already.
pub fn object<K: Display, V: Display>(entries: impl IntoIterator<Item = (K, V)>) -> String {
    let mut out = String::from("{");
    for (n, (key, value)) in entries.into_iter().enumerate() {
        // Writing to memory does not fail.
        let _ = write!(out, "{}{key}:{value}", if n > 0 { "," } else { "" });
    }
    out.push('}');
    out
}

/// The values by queue in an object of a client's JSON, which may be written by fastjson.
pub fn by_queue(body: &[u8], field: &str) -> Option<Vec<(MessageQueue, i64)>> {
    let body = lenient_json::parse(std::str::from_utf8(body).ok()?).ok()?;
    let Value::Object(map) = body.get(field)? else { return None };
    map.iter().map(|(queue, n)| Some((serde_json::from_str(queue).ok()?, n.as_i64()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn objects_with_keys_of_all_kinds() {
        let queue =
            |queue_id| MessageQueue { broker_name: "b".into(), queue_id, topic: "T\"".into() };
        let of = |queue_id, n| (json(&queue(queue_id)), n);
        let body = object([("\"messageQueueTable\"", object([of(0, 5), of(1, -1)]))]);
        assert_eq!(
            body,
            r#"{"messageQueueTable":{{"brokerName":"b","queueId":0,"topic":"T\""}:5,{"brokerName":"b","queueId":1,"topic":"T\""}:-1}}"#
        );
        let read = by_queue(body.as_bytes(), "messageQueueTable");
        assert_eq!(read, Some(vec![(queue(0), 5), (queue(1), -1)]));
        assert_eq!(object([(0, 17), (3, 1)]), "{0:17,3:1}");
        assert_eq!(object::<i32, i32>([]), "{}");
        for bad in ["", "{}", "{messageQueueTable:[]}", "{messageQueueTable:{a:1}}", "{a:{{}:1}}"] {
            assert_eq!(by_queue(bad.as_bytes(), "messageQueueTable"), None, "{bad}");
        }
        assert_eq!(by_queue(b"\xff", "a"), None);
    }

    #[test]
    fn numeric_keys_stand_without_quotes() {
        #[derive(Serialize)]
        struct All {
            numbers: BTreeMap<i64, String>,
            texts: BTreeMap<&'static str, i32>,
        }
        let numbers = BTreeMap::from([(-1, String::new()), (2, "\"é\n".into())]);
        let texts = BTreeMap::from([("", 1), ("1", 2)]);
        let json = to_vec(&All { numbers, texts });
        assert_eq!(
            String::from_utf8(json).unwrap(),
            r#"{"numbers":{-1:"",2:"\"é\n"},"texts":{"":1,"1":2}}"#
        );
    }
}
