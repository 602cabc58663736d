//! What the tools of 5.x ask beyond those of 4.9.
#![allow(clippy::unwrap_used, reason = "a test that fails is a failed test")]

mod common;

use common::*;
use mq_broker::wire::client::Client;
use mq_broker::wire::codes::request;
use mq_broker::wire::command::Command;
use serde_json::{Value, json};

async fn value(client: &mut Client, command: Command) -> Value {
    let answer = call(client, command).await;
    assert_eq!(answer.code, 0, "{:?}", answer.remark);
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test]
async fn a_group_is_forbidden_to_read_a_topic() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path()).await;
    let mut client = connect(&running).await;
    call(&mut client, send_command("T", "hello", "")).await;
    let ask = |readable: Option<bool>| {
        let command = Command::new(request::UPDATE_AND_GET_GROUP_FORBIDDEN);
        let command = command.field("group", "G").field("topic", "T");
        readable.map_or(command.clone(), |readable| command.field("readable", readable))
    };
    let says = |readable: bool| json!({"group": "G", "readable": readable, "topic": "T"});
    assert_eq!(value(&mut client, ask(None)).await, says(true));
    assert_eq!(value(&mut client, ask(Some(false))).await, says(false));
    running.stop().await.unwrap();

    let running = start(dir.path()).await;
    let mut client = connect(&running).await;
    assert_eq!(value(&mut client, ask(None)).await, says(false), "it outlives the broker");
    let refused = call(&mut client, pull_command("T", 0, 0)).await;
    let why = "the consumer group[G] is forbidden for topic[T]";
    assert_eq!((refused.code, refused.remark.as_deref()), (16, Some(why)));
    assert_eq!(value(&mut client, ask(Some(true))).await, says(true));
    assert_eq!(bodies(&call(&mut client, pull_command("T", 0, 0)).await), ["hello"]);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn how_groups_ask_is_kept_and_a_master_tells_of_its_slaves() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path()).await;
    let mut client = connect(&running).await;
    let mode = json!({"topic": "T", "consumerGroup": "G", "mode": "POP", "popShareQueueNum": 2});
    let set = Command::new(request::SET_MESSAGE_REQUEST_MODE);
    assert_eq!(call(&mut client, set.clone().body(mode.to_string())).await.code, 17);
    call(&mut client, send_command("T", "hello", "")).await;
    assert_eq!(call(&mut client, set.clone().body(mode.to_string())).await.code, 0);
    let of_retries = json!({"topic": "%RETRY%G", "consumerGroup": "G", "mode": "POP"});
    assert_eq!(call(&mut client, set.clone().body(of_retries.to_string())).await.code, 16);
    assert_eq!(call(&mut client, set.body("{}")).await.code, 1);
    running.stop().await.unwrap();

    let running = start(dir.path()).await;
    let mut client = connect(&running).await;
    let all = value(&mut client, Command::new(request::GET_ALL_MESSAGE_REQUEST_MODE)).await;
    assert_eq!(all, json!({"messageRequestModeMap": {"T": {"G": mode}}}));

    let end = running.service.broker.store().log().end();
    let status = value(&mut client, Command::new(request::GET_BROKER_HA_STATUS)).await;
    let alone = json!({"haConnectionInfo": [], "inSyncSlaveNums": 0, "master": true,
        "masterCommitLogMaxOffset": end});
    assert_eq!(status, alone);
    running.stop().await.unwrap();
}
