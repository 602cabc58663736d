//! A consumer that answers by hand.

use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use mq_broker::conn::Response;
use mq_broker::wire::codes::request;
use mq_broker::wire::command::{Command, Outgoing, decode};
use mq_broker::wire::frame::{Encoding, FrameLimits, Parsed, parse};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::TIMEOUT;

/// A consumer that answers by hand.
pub struct Consumer {
    stream: TcpStream,
    buf: BytesMut,
}

impl Consumer {
    /// A member `id` of group G that wants topic T.
    pub async fn join(addr: SocketAddr, id: &str) -> Consumer {
        let body = json!({"clientID": id, "producerDataSet": [], "consumerDataSet": [{
            "groupName": "G", "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING",
            "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET", "subscriptionDataSet": [
                {"topic": "T", "subString": "*", "subVersion": 1, "expressionType": "TAG"}]}]});
        let stream = TcpStream::connect(addr).await.unwrap();
        let mut consumer = Consumer { stream, buf: BytesMut::new() };
        let heartbeat = Command::new(request::HEART_BEAT).body(body.to_string());
        consumer.send(|out| heartbeat.encode_request(1, false, Encoding::Json, out)).await;
        consumer.next(0).await;
        consumer
    }

    async fn send(&mut self, write: impl FnOnce(&mut Outgoing)) {
        let mut out = Outgoing::default();
        write(&mut out);
        self.stream.write_all(&out.bytes).await.unwrap();
    }

    /// The next command of a code: its opaque number, and all else of it.
    pub async fn next(&mut self, code: i32) -> (i32, Response) {
        loop {
            if let Parsed::Frame(frame, total) = parse(&self.buf, &FrameLimits::default()).unwrap()
            {
                let head = decode(frame.encoding, frame.header).unwrap();
                let found =
                    (head.code == code).then(|| (head.opaque, Response::of(&head, frame.body)));
                self.buf.advance(total);
                match found {
                    Some(found) => return found,
                    None => continue,
                }
            }
            let read = self.stream.read_buf(&mut self.buf);
            assert!(tokio::time::timeout(TIMEOUT, read).await.unwrap().unwrap() > 0);
        }
    }

    pub async fn answer(&mut self, opaque: i32, command: Command) {
        self.send(|out| command.encode_response(opaque, Encoding::Json, out)).await;
    }
}
