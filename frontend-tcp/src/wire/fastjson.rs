//! What fastjson writes that is not JSON: objects whose keys are numbers (`{0:17}`) or objects
//! (`{{"brokerName":"b","queueId":0,"topic":"T"}:17}`). Java clients read nothing else in their
//! place, so bodies with such objects are put together here.

use std::fmt::{Display, Write};

use mq_store::broker::locks::MessageQueue;
use mq_store::codec::lenient_json;
use serde::Serialize;
use serde_json::Value;

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
}
