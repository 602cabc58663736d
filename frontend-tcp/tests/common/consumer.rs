//! A consumer that answers by hand.

use std::net::SocketAddr;

use bytes::{Buf, BufMut, BytesMut};
use mq_broker::conn::Response;
use mq_broker::wire::codes::request;
use mq_broker::wire::command::{Command, Outgoing, VERSION, decode};
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
        Consumer::join_as(addr, id, VERSION).await
    }

    /// One whose client is of a version.
    pub async fn join_as(addr: SocketAddr, id: &str, version: i32) -> Consumer {
        let body = json!({"clientID": id, "producerDataSet": [], "consumerDataSet": [{
            "groupName": "G", "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING",
            "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET", "subscriptionDataSet": [
                {"topic": "T", "subString": "*", "subVersion": 1, "expressionType": "TAG"}]}]});
        let stream = TcpStream::connect(addr).await.unwrap();
        let mut consumer = Consumer { stream, buf: BytesMut::new() };
        let head = format!(r#"{{"code":34,"opaque":1,"flag":0,"version":{version}}}"#);
        let body = body.to_string();
        let mut frame = BytesMut::new();
        frame.put_u32((4 + head.len() + body.len()) as u32);
        frame.put_u32(head.len() as u32);
        frame.put_slice(head.as_bytes());
        frame.put_slice(body.as_bytes());
        consumer.stream.write_all(&frame).await.unwrap();
        consumer.next(0).await;
        consumer
    }

    /// The next command of a code: its opaque number, and all else of it.
    pub async fn next(&mut self, code: i32) -> (i32, Response) {
        let (_, opaque, command) = self.next_of(&[code]).await;
        (opaque, command)
    }

    /// The next command of one of these codes: its code as well.
    pub async fn next_of(&mut self, codes: &[i32]) -> (i32, i32, Response) {
        loop {
            if let Parsed::Frame(frame, total) = parse(&self.buf, &FrameLimits::default()).unwrap()
            {
                let head = decode(frame.encoding, frame.header).unwrap();
                let command = Response::of(&head, frame.body);
                let (code, opaque) = (head.code, head.opaque);
                self.buf.advance(total);
                match codes.contains(&code) {
                    true => return (code, opaque, command),
                    false => continue,
                }
            }
            let read = self.stream.read_buf(&mut self.buf);
            assert!(tokio::time::timeout(TIMEOUT, read).await.unwrap().unwrap() > 0);
        }
    }

    /// Answers for ever what brokers ask of a consumer: that it has queue 0 of T, and that it
    /// consumed what it was given.
    pub async fn answer_all(mut self) {
        const STATE: &str = r#"{"mqTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:{"cachedMsgCount":7}}}"#;
        const DONE: &str = r#"{"consumeResult":"CR_SUCCESS","spentTimeMills":3}"#;
        const ASKED: [i32; 2] =
            [request::GET_CONSUMER_RUNNING_INFO, request::CONSUME_MESSAGE_DIRECTLY];
        loop {
            let (code, opaque, _) = self.next_of(&ASKED).await;
            let says = if code == ASKED[0] { STATE } else { DONE };
            self.answer(opaque, Command::ok().body(says)).await;
        }
    }

    pub async fn answer(&mut self, opaque: i32, command: Command) {
        let mut out = Outgoing::default();
        command.encode_response(opaque, Encoding::Json, &mut out);
        self.stream.write_all(&out.bytes).await.unwrap();
    }
}
