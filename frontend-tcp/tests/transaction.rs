//! Transactions as a producer on a socket sees them.

#![allow(clippy::unwrap_used, reason = "a test that fails is a failed test")]

mod common;

use std::collections::HashMap;

use bytes::{Buf, BytesMut};
use common::*;
use mq_broker::run::{Running, Settings};
use mq_broker::wire::codes::{request, response};
use mq_broker::wire::command::{Command, Outgoing, decode};
use mq_broker::wire::frame::{Encoding, FrameLimits, Parsed, parse};
use mq_store::store::as_record;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const COMMIT: i32 = 8;
const ROLLBACK: i32 = 12;

fn quick(root: &std::path::Path) -> Settings {
    let mut settings = settings(root);
    settings.broker.transaction_timeout_ms = 100;
    settings.broker.transaction_check_interval_ms = 20;
    settings
}

/// A connection on which the broker may ask.
struct Producer {
    stream: TcpStream,
    buf: BytesMut,
}

struct Got {
    code: i32,
    opaque: i32,
    one_way: bool,
    fields: HashMap<String, String>,
    body: Vec<u8>,
}

impl Producer {
    async fn connect(running: &Running, id: &str) -> Producer {
        let stream = TcpStream::connect(running.addr).await.unwrap();
        let mut producer = Producer { stream, buf: BytesMut::new() };
        let heartbeat = Command::new(request::HEART_BEAT)
            .body(format!(r#"{{"clientID":"{id}","producerDataSet":[{{"groupName":"P"}}]}}"#));
        producer.send(heartbeat, 1, false).await;
        assert_eq!(producer.next().await.opaque, 1);
        producer
    }

    async fn send(&mut self, command: Command, opaque: i32, one_way: bool) {
        let mut out = Outgoing::default();
        command.encode_request(opaque, one_way, Encoding::Json, &mut out);
        self.stream.write_all(&out.bytes).await.unwrap();
    }

    async fn next(&mut self) -> Got {
        loop {
            if let Parsed::Frame(f, total) = parse(&self.buf, &FrameLimits::default()).unwrap() {
                let head = decode(f.encoding, f.header).unwrap();
                let fields = head.fields.0.iter().map(|(n, v)| (n.to_string(), v.to_string()));
                let got = Got {
                    code: head.code,
                    opaque: head.opaque,
                    one_way: head.is_one_way(),
                    fields: fields.collect(),
                    body: f.body.to_vec(),
                };
                self.buf.advance(total);
                return got;
            }
            let read = tokio::time::timeout(TIMEOUT, self.stream.read_buf(&mut self.buf));
            assert!(read.await.unwrap().unwrap() > 0);
        }
    }

    /// The next check, which is about the message with this key.
    async fn asked(&mut self, key: &str) -> Got {
        loop {
            let got = self.next().await;
            assert_eq!((got.code, got.one_way), (request::CHECK_TRANSACTION_STATE, true));
            if got.fields["msgId"] == key {
                return got;
            }
        }
    }
}

fn half(body: &str) -> Command {
    let text = format!("TRAN_MSG\u{1}true\u{2}PGROUP\u{1}P\u{2}UNIQ_KEY\u{1}U-{body}\u{2}");
    send_command("T", body, &text)
}

fn end(fields: &HashMap<String, String>, how: i32) -> Command {
    // The answer to a send has the position in its id only.
    let at = fields
        .get("commitLogOffset")
        .cloned()
        .unwrap_or_else(|| i64::from_str_radix(&fields["msgId"][16..], 16).unwrap().to_string());
    let offset = fields.get("tranStateTableOffset").or(fields.get("queueOffset")).unwrap();
    Command::new(request::END_TRANSACTION)
        .field("producerGroup", "P")
        .field("tranStateTableOffset", offset.clone())
        .field("commitLogOffset", at)
        .field("commitOrRollback", how)
        .field("fromTransactionCheck", false)
        .field("msgId", "U")
}

#[tokio::test]
async fn a_half_is_shown_when_it_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path()).await;
    let mut client = connect(&running).await;
    let mut sent = Vec::new();
    for body in ["a", "b", "c"] {
        let answer = call(&mut client, half(body)).await;
        assert_eq!((answer.code, &*answer.fields["queueOffset"]), (0, &*sent.len().to_string()));
        sent.push(answer.fields);
    }
    let wrong = |name: &'static str, value: &'static str| {
        let mut command = end(&sent[0], COMMIT);
        command.fields.retain(|(n, _)| n != name);
        command.field(name, value)
    };
    for (command, remark) in [
        (wrong("producerGroup", "Q"), "The producer group wrong"),
        (wrong("tranStateTableOffset", "7"), "The transaction state table offset wrong"),
        (wrong("commitLogOffset", "7"), "Find prepared transaction message failed"),
    ] {
        let refused = call(&mut client, command).await;
        assert_eq!((refused.code, refused.remark.as_deref()), (1, Some(remark)));
    }
    // One that does not know is not answered.
    let mut producer = Producer::connect(&running, "p").await;
    producer.send(end(&sent[1], 0), 2, false).await;
    producer.send(end(&sent[1], ROLLBACK), 3, false).await;
    let answer = producer.next().await;
    assert_eq!((answer.opaque, answer.code), (3, 0));

    for _ in 0..2 {
        assert_eq!(call(&mut client, end(&sent[2], COMMIT)).await.code, 0);
    }
    let pulled = call(&mut client, pull_command("T", 0, 0)).await;
    assert_eq!(bodies(&pulled), ["c"]);
    assert_eq!(as_record(&pulled.body).unwrap().sys_flag(), 8);
    running.stop().await.unwrap();

    let mut settings = settings(dir.path());
    settings.broker.reject_transactions = true;
    let running = start_with(settings).await;
    let mut client = connect(&running).await;
    assert_eq!(call(&mut client, half("d")).await.code, response::NO_PERMISSION);
    assert_eq!(call(&mut client, end(&sent[0], COMMIT)).await.code, 0, "what is there may end");
    let pulled = call(&mut client, pull_command("T", 1, 0)).await;
    assert_eq!(bodies(&pulled), ["a"]);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_producer_of_the_group_is_asked_another_if_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let running = start_with(quick(dir.path())).await;
    let mut client = connect(&running).await;
    let mut first = Producer::connect(&running, "first").await;
    call(&mut client, half("a")).await;
    let check = first.asked("U-a").await;
    let record = as_record(&check.body).unwrap();
    assert_eq!((record.topic(), record.queue_id(), record.body()), ("T", 0, &b"a"[..]));
    assert_eq!(record.physical_offset().to_string(), check.fields["commitLogOffset"]);
    assert_eq!(record.queue_offset().to_string(), check.fields["tranStateTableOffset"]);
    assert_eq!(record.offset_msg_id(), check.fields["offsetMsgId"]);
    assert_eq!(check.fields["transactionId"], "U-a");
    first.send(end(&check.fields, COMMIT), 5, true).await;
    let pulled = call(&mut client, pull_command("T", 0, 15_000)).await;
    assert_eq!(bodies(&pulled), ["a"]);

    let mut second = Producer::connect(&running, "second").await;
    drop(first);
    while running.service.sessions.producers("P").len() > 1 {
        tokio::task::yield_now().await;
    }
    call(&mut client, half("b")).await;
    let check = second.asked("U-b").await;
    let resume = Command::new(request::RESUME_CHECK_HALF_MESSAGE)
        .field("msgId", check.fields["offsetMsgId"].clone());
    assert_eq!(call(&mut client, resume.clone()).await.code, 0);
    let check = second.asked("U-b").await;
    let times = as_record(&check.body).unwrap().property("TRANSACTION_CHECK_TIMES").unwrap();
    assert!(times.parse::<i32>().unwrap() > 0);
    second.send(end(&check.fields, ROLLBACK), 6, true).await;
    let broker = running.service.broker.clone();
    while broker.open_transactions() > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(call(&mut client, resume).await.code, 1, "it is settled");
    assert_eq!(broker.store().max_offset("T", 0), 1);
    running.stop().await.unwrap();
}
