//! Replies to messages, for the client that waits.
#![allow(clippy::unwrap_used, reason = "a test that fails is a failed test")]

mod common;

use common::consumer::Consumer;
use common::*;
use mq_broker::wire::codes::request;
use mq_broker::wire::command::Command;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_is_pushed_and_stored_if_replies_are_stored() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path()).await;
    let mut client = connect(&running).await;
    let mut waiting = Consumer::join(running.addr, "c1").await;
    for (stores, msg_id_len, kept) in [(true, 32, 1), (false, 1, 1)] {
        running.service.tuning.write().unwrap().store_replies = stores;
        let reply = Command {
            code: request::SEND_REPLY_MESSAGE_V2,
            ..send_command("R", "yes", "REPLY_TO_CLIENT\u{1}c1\u{2}CORRELATION_ID\u{1}7\u{2}")
        };
        let mut replier = connect(&running).await;
        let asked = tokio::spawn(async move { call(&mut replier, reply).await });
        let (opaque, push) = waiting.next(request::PUSH_REPLY_MESSAGE_TO_CLIENT).await;
        assert_eq!((&push.body[..], &*push.fields["topic"]), (&b"yes"[..], "R"));
        assert!(push.fields["storeTimestamp"].parse::<i64>().unwrap() > 1_700_000_000_000);
        waiting.answer(opaque, Command::ok()).await;
        let answer = asked.await.unwrap();
        assert_eq!((answer.code, answer.fields["msgId"].len()), (0, msg_id_len), "{answer:?}");
        let max = Command::new(request::GET_MAX_OFFSET).field("topic", "R").field("queueId", 0);
        assert_eq!(call(&mut client, max).await.fields["offset"], kept.to_string());
    }
    running.stop().await.unwrap();
}
