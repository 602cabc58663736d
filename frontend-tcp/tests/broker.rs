//! The broker as a client on a socket sees it.

#![allow(clippy::unwrap_used, reason = "a test that fails is a failed test")]

mod common;

use std::time::Duration;

use bytes::BytesMut;
use common::*;
use mq_broker::handle::Tuning;
use mq_broker::run::Settings;
use mq_broker::wire::codes::{request, response};
use mq_broker::wire::command::{Command, Outgoing, decode};
use mq_broker::wire::frame::{Encoding, FrameLimits, Parsed, parse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn what_is_sent_is_pulled_and_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path()).await;
    let mut client = connect(&running).await;
    for n in 0..3 {
        let sent = call(&mut client, send_command("T", &format!("m{n}"), "KEYS\u{1}k\u{2}")).await;
        assert_eq!((sent.code, &*sent.fields["queueOffset"]), (0, &*n.to_string()), "{sent:?}");
        assert_eq!(sent.fields["msgId"].len(), 32);
    }
    let pulled = call(&mut client, pull_command("T", 0, 0)).await;
    assert_eq!((pulled.code, bodies(&pulled)), (0, vec!["m0".into(), "m1".into(), "m2".into()]));
    assert_eq!((&*pulled.fields["nextBeginOffset"], &*pulled.fields["maxOffset"]), ("3", "3"));
    running.stop().await.unwrap();

    let running = start(dir.path()).await;
    let mut client = connect(&running).await;
    let pulled = call(&mut client, pull_command("T", 1, 0)).await;
    assert_eq!(bodies(&pulled), ["m1", "m2"]);
    let query = Command::new(request::QUERY_MESSAGE)
        .field("topic", "T")
        .field("key", "k")
        .field("maxNum", 64)
        .field("beginTimestamp", 0)
        .field("endTimestamp", i64::MAX);
    assert_eq!(bodies(&call(&mut client, query).await).len(), 3);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_pull_at_the_end_waits_for_what_it_wants() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path()).await;
    let (mut sender, mut puller) = (connect(&running).await, connect(&running).await);
    call(&mut sender, send_command("T", "first", "")).await;

    let mut wants_b = pull_command("T", 1, 15_000);
    wants_b.fields.retain(|(name, _)| name != "subscription");
    let wants_b = wants_b.field("subscription", "b");
    let waiting = tokio::spawn(async move { call(&mut puller, wants_b).await });
    let service = running.service.clone();
    while service.holds.count() == 0 {
        tokio::task::yield_now().await;
    }
    call(&mut sender, send_command("T", "other", "TAGS\u{1}a\u{2}")).await;
    assert_eq!(service.holds.count(), 1, "a message that is not wanted does not wake it");
    call(&mut sender, send_command("T", "wanted", "TAGS\u{1}b\u{2}")).await;
    let pulled = waiting.await.unwrap();
    assert_eq!((pulled.code, bodies(&pulled)), (0, vec!["wanted".into()]));
    assert_eq!(pulled.fields["nextBeginOffset"], "3");

    let late = call(&mut sender, pull_command("T", 3, 1)).await;
    assert_eq!((late.code, late.remark.as_deref()), (19, Some("OFFSET_OVERFLOW_ONE")));
    running.stop().await.unwrap();
}

#[tokio::test]
async fn members_of_a_group_hear_of_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path()).await;
    let heartbeat = |id: &str| {
        Command::new(request::HEART_BEAT).body(format!(
            r#"{{"clientID":"{id}","consumerDataSet":[{{"groupName":"G","messageModel":"CLUSTERING",
            "consumeType":"CONSUME_PASSIVELY","consumeFromWhere":"CONSUME_FROM_LAST_OFFSET",
            "subscriptionDataSet":[{{"topic":"T","subString":"*","subVersion":1}}]}}]}}"#
        ))
    };
    let mut a = TcpStream::connect(running.addr).await.unwrap();
    let mut out = Outgoing::default();
    heartbeat("a").encode_request(1, false, Encoding::Binary, &mut out);
    a.write_all(&out.bytes).await.unwrap();
    let mut b = connect(&running).await;
    assert_eq!(call(&mut b, heartbeat("b")).await.code, 0);
    let list = || Command::new(request::GET_CONSUMER_LIST_BY_GROUP).field("consumerGroup", "G");
    let ids = call(&mut b, list()).await;
    assert_eq!(&ids.body[..], br#"{"consumerIdList":["a","b"]}"#);

    // The answer, and two notices: a came, b came.
    let mut buf = BytesMut::new();
    let mut got = Vec::new();
    while got.len() < 3 {
        assert!(a.read_buf(&mut buf).await.unwrap() > 0);
        while let Parsed::Frame(f, total) = parse(&buf, &FrameLimits::default()).unwrap() {
            let head = decode(f.encoding, f.header).unwrap();
            got.push((head.is_response(), head.code, f.encoding));
            bytes::Buf::advance(&mut buf, total);
        }
    }
    got.sort_by_key(|g| g.1);
    assert_eq!(got[0], (true, 0, Encoding::Binary), "answered in the request's encoding");
    let notice = (false, request::NOTIFY_CONSUMER_IDS_CHANGED, Encoding::Json);
    assert_eq!(got[1..], [notice, notice]);
    drop(a);
    let service = running.service.clone();
    while service.sessions.group("G").unwrap().members.len() > 1 {
        tokio::task::yield_now().await;
    }
    drop(b);
    while service.sessions.group("G").is_some() {
        tokio::task::yield_now().await;
    }
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_message_that_came_back_is_given_again_and_in_the_end_is_dead() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.store.delay_levels_ms = vec![1, 1, 1, 1, 1];
    let running = start_with(settings).await;
    let mut client = connect(&running).await;
    call(&mut client, send_command("T", "hard", "")).await;
    let mut at = 0;
    for times in 0..2 {
        let back = Command::new(request::CONSUMER_SEND_MSG_BACK)
            .field("group", "G")
            .field("offset", at)
            .field("delayLevel", 0)
            .field("maxReconsumeTimes", 2);
        // The version of our frames is new enough for that field to count.
        assert_eq!(call(&mut client, back).await.code, 0);
        let pulled = call(&mut client, pull_command("%RETRY%G", times, 15_000)).await;
        assert_eq!(bodies(&pulled), ["hard"]);
        let record = mq_store::store::as_record(&pulled.body).unwrap();
        assert_eq!(i64::from(record.reconsume_times()), times + 1);
        assert_eq!(record.property("RETRY_TOPIC"), Some("T"));
        at = record.physical_offset();
    }
    let back = Command::new(request::CONSUMER_SEND_MSG_BACK)
        .field("group", "G")
        .field("offset", at)
        .field("delayLevel", 0)
        .field("maxReconsumeTimes", 2);
    call(&mut client, back).await;
    let pulled = call(&mut client, pull_command("%DLQ%G", 0, 15_000)).await;
    assert_eq!(bodies(&pulled), ["hard"]);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_is_answered_or_closed_and_the_broker_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path()).await;
    let mut client = connect(&running).await;
    let mut code = async |command: Command| call(&mut client, command).await.code;
    let unknown = Command::new(9999);
    assert_eq!(code(unknown).await, response::REQUEST_CODE_NOT_SUPPORTED);
    assert_eq!(code(Command::new(request::SEND_MESSAGE_V2)).await, response::SYSTEM_ERROR);
    let mut wrong = send_command("T", "x", "");
    wrong.fields.retain(|(name, _)| name != "e");
    assert_eq!(code(wrong.field("e", "one")).await, response::SYSTEM_ERROR);
    assert_eq!(code(send_command("bad topic", "x", "")).await, response::INVALID_PARAMETER);
    let forbidden = send_command("SCHEDULE_TOPIC_XXXX", "x", "");
    assert_eq!(code(forbidden).await, response::NO_PERMISSION);
    assert_eq!(code(pull_command("none", 0, 0)).await, response::TOPIC_NOT_EXIST);
    let long = "x".repeat((4 << 20) + 1);
    assert_eq!(code(send_command("T", &long, "")).await, response::MESSAGE_ILLEGAL);
    let batch = Command { code: request::SEND_BATCH_MESSAGE, ..send_command("T", "no batch", "") };
    assert_eq!(code(batch).await, response::MESSAGE_ILLEGAL);
    let body = Command::new(request::HEART_BEAT).body("[1,2");
    assert_eq!(code(body).await, response::SYSTEM_ERROR);

    let garbage: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0xff; 64],
        &[0, 0, 0, 2, 0, 0],
        &[0, 0, 0, 12, 0, 0, 0, 8, b'{', b'}', b'x', b'x', b'x', b'x', b'x', b'x'],
        &[0, 0, 0, 12, 7, 0, 0, 8, 1, 1, 1, 1, 1, 1, 1, 1],
        &[0, 0, 0, 12, 1, 0, 0, 8, 1, 1, 1, 1, 1, 1, 1, 1],
    ];
    for bytes in garbage {
        let mut stream = TcpStream::connect(running.addr).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        let ended = tokio::time::timeout(Duration::from_secs(10), read).await;
        assert!(ended.is_ok(), "{bytes:?} does not keep a connection");
    }
    // One that stops in the middle of a frame.
    let mut half = TcpStream::connect(running.addr).await.unwrap();
    half.write_all(&[0, 0xf0, 0, 0, 0, 0, 0, 90, b'{']).await.unwrap();
    let sent = call(&mut client, send_command("T", "still here", "")).await;
    assert_eq!(sent.code, 0);
    running.stop().await.unwrap();
}

fn sql_pull(expression: &str, offset: i64, wait_ms: i64) -> Command {
    let mut command = pull_command("T", offset, wait_ms);
    command.fields.retain(|(name, _)| name != "subscription");
    command.field("subscription", expression.to_owned()).field("expressionType", "SQL92")
}

#[tokio::test]
async fn expressions_over_properties_are_checked_and_served_if_that_is_enabled() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path()).await;
    let mut client = connect(&running).await;
    for n in 0..5 {
        call(&mut client, send_command("T", &format!("m{n}"), &format!("n\u{1}{n}\u{2}"))).await;
    }
    let check = |expression: &str, expression_type: &str| {
        Command::new(request::CHECK_CLIENT_CONFIG).body(format!(
            r#"{{"clientId":"c","group":"G","subscriptionData":{{"topic":"T",
            "expressionType":"{expression_type}","subString":"{expression}"}}}}"#
        ))
    };
    let known = "The broker does not support consumer to filter message by SQL92";
    for refused in [check("n > 2", "SQL92"), sql_pull("n > 2", 0, 0), sql_pull("n >", 0, 0)] {
        let refused = call(&mut client, refused).await;
        assert_eq!(refused.code, response::SYSTEM_ERROR);
        assert!(refused.remark.unwrap().starts_with(known));
    }
    assert_eq!(call(&mut client, check("*", "TAG")).await.code, 0);

    running.service.tuning.write().unwrap().property_filter = true;
    assert_eq!(call(&mut client, check("n > 2", "SQL92")).await.code, 0);
    for bad in [check("n > 2 and", "SQL92"), sql_pull("n > 2 and", 0, 0)] {
        let bad = call(&mut client, bad).await;
        assert_eq!(bad.code, response::SUBSCRIPTION_PARSE_FAILED);
        assert!(
            bad.remark.unwrap().contains("at character 10: found the end, expected a property")
        );
    }
    assert_eq!(
        call(&mut client, check("n", "XPATH")).await.code,
        response::SUBSCRIPTION_PARSE_FAILED
    );
    let pulled = call(&mut client, sql_pull("n BETWEEN 1 AND 3 AND n <> 2", 0, 0)).await;
    assert_eq!((pulled.code, bodies(&pulled)), (0, vec!["m1".into(), "m3".into()]));
    assert_eq!(pulled.fields["nextBeginOffset"], "5");
    let none = call(&mut client, sql_pull("n > 9", 0, 15_000)).await;
    assert_eq!((none.code, none.remark.as_deref()), (20, Some("NO_MATCHED_MESSAGE")));
    assert_eq!(none.fields["nextBeginOffset"], "5");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_pull_by_expression_waits_for_a_message_that_matches() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path()).await;
    running.service.tuning.write().unwrap().property_filter = true;
    let (mut sender, mut puller) = (connect(&running).await, connect(&running).await);
    call(&mut sender, send_command("T", "first", "")).await;
    let waiting =
        tokio::spawn(async move { call(&mut puller, sql_pull("n >= 7", 1, 15_000)).await });
    let service = running.service.clone();
    while service.holds.count() == 0 {
        tokio::task::yield_now().await;
    }
    for properties in ["", "n\u{1}6\u{2}", "n\u{1}no number\u{2}"] {
        call(&mut sender, send_command("T", "other", properties)).await;
        assert_eq!(service.holds.count(), 1, "{properties:?} does not wake it");
    }
    call(&mut sender, send_command("T", "wanted", "n\u{1}7\u{2}")).await;
    let pulled = waiting.await.unwrap();
    assert_eq!((pulled.code, bodies(&pulled)), (0, vec!["wanted".into()]));
    assert_eq!(pulled.fields["nextBeginOffset"], "5");

    // When its time is over it has passed by what came and did not match.
    let mut puller = connect(&running).await;
    let waiting = tokio::spawn(async move { call(&mut puller, sql_pull("n > 9", 5, 500)).await });
    while service.holds.count() == 0 {
        tokio::task::yield_now().await;
    }
    call(&mut sender, send_command("T", "other", "n\u{1}8\u{2}")).await;
    let late = waiting.await.unwrap();
    assert_eq!((late.code, &*late.fields["nextBeginOffset"]), (20, "6"));
    running.stop().await.unwrap();
}

#[tokio::test]
async fn expressions_of_heartbeats_are_compiled_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path()).await;
    let mut client = connect(&running).await;
    call(&mut client, send_command("T", "a", "n\u{1}1\u{2}")).await;
    call(&mut client, send_command("T", "b", "n\u{1}2\u{2}")).await;
    let heartbeat = |expression: &str, version: i64| {
        Command::new(request::HEART_BEAT).body(format!(
            r#"{{"clientID":"c","consumerDataSet":[{{"groupName":"G","subscriptionDataSet":[{{
            "topic":"T","expressionType":"SQL92","subString":"{expression}","subVersion":{version}}}]}}]}}"#
        ))
    };
    let pull = |version: i64| {
        let mut command = pull_command("T", 0, 0);
        command.fields.retain(|(name, _)| name != "subVersion" && name != "sysFlag");
        command.field("sysFlag", 0).field("subVersion", version)
    };
    call(&mut client, heartbeat("n = 2", 5)).await;
    let off = call(&mut client, pull(5)).await;
    assert_eq!(off.code, response::SYSTEM_ERROR, "enablePropertyFilter=false");
    running.service.tuning.write().unwrap().property_filter = true;
    assert_eq!(bodies(&call(&mut client, pull(5)).await), ["b"]);
    assert_eq!(call(&mut client, pull(6)).await.code, response::SUBSCRIPTION_NOT_LATEST);
    call(&mut client, heartbeat("n = ", 6)).await;
    let bad = call(&mut client, pull(6)).await;
    assert_eq!(bad.code, response::FILTER_DATA_NOT_EXIST);
    assert!(bad.remark.unwrap().contains("at character 5"));
    call(&mut client, heartbeat("n = 1", 7)).await;
    assert_eq!(bodies(&call(&mut client, pull(7)).await), ["a"]);
    drop(client);
    let filters = running.service.broker.filters();
    while !filters.get("T", "G").unwrap().dead {
        tokio::task::yield_now().await;
    }
    running.stop().await.unwrap();
    let text = std::fs::read_to_string(dir.path().join("config/consumerFilter.json")).unwrap();
    assert!(text.contains("\"expression\": \"n = 1\"") && text.contains("\"dead\": true"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_gives_no_more_than_is_set() {
    let dir = tempfile::tempdir().unwrap();
    let tuning = Tuning { max_found: 3, max_found_unique: 2, ..Tuning::default() };
    let running = start_with(Settings { tuning, ..settings(dir.path()) }).await;
    let mut client = connect(&running).await;
    for n in 0..5 {
        let properties = "KEYS\u{1}k\u{2}UNIQ_KEY\u{1}u\u{2}";
        call(&mut client, send_command("T", &n.to_string(), properties)).await;
    }
    let mut found = async |key: &'static str, most: i32, unique: bool| {
        let query = Command::new(request::QUERY_MESSAGE)
            .field("topic", "T")
            .field("key", key)
            .field("maxNum", most)
            .field("beginTimestamp", 0)
            .field("endTimestamp", i64::MAX)
            .field("_UNIQUE_KEY_QUERY", unique);
        bodies(&call(&mut client, query).await).len()
    };
    assert_eq!((found("k", 9, false).await, found("k", 1, false).await), (3, 1));
    assert_eq!(found("u", 9, true).await, 2);
    running.stop().await.unwrap();
}
