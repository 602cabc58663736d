//! What administrators ask a broker.

#![allow(clippy::unwrap_used, reason = "a test that fails is a failed test")]

mod common;

use std::sync::{Arc, Mutex};

use common::cluster::conf;
use common::consumer::Consumer;
use common::*;
use mq_broker::conn::{Conn, Reply, Request, Response};
use mq_broker::handle::admin::ConfigAccess;
use mq_broker::run::{Settings, read_overrides};
use mq_broker::server::Service;
use mq_broker::wire::client::Client;
use mq_broker::wire::codes::request;
use mq_broker::wire::command::{Command, Head};
use mq_broker::wire::frame::Encoding;
use mq_store::store::as_record;
use serde_json::{Value, json};

fn text(response: &Response) -> &str {
    std::str::from_utf8(&response.body).unwrap()
}

fn value(response: &Response) -> Value {
    assert_eq!(response.code, 0, "{:?}", response.remark);
    serde_json::from_slice(&response.body).unwrap()
}

async fn make_topic(client: &mut Client, topic: &'static str, queues: i32) -> Response {
    let command = Command::new(request::UPDATE_AND_CREATE_TOPIC)
        .field("topic", topic)
        .field("defaultTopic", "TBW102")
        .field("readQueueNums", queues)
        .field("writeQueueNums", queues)
        .field("perm", 6)
        .field("topicFilterType", "SINGLE_TAG")
        .field("order", false)
        .field("attributes", "+message.type=FIFO");
    call(client, command).await
}

async fn commit(client: &mut Client, queue_id: i32, offset: i64) {
    let command = Command::new(request::UPDATE_CONSUMER_OFFSET)
        .field("consumerGroup", "G")
        .field("topic", "T")
        .field("queueId", queue_id)
        .field("commitOffset", offset);
    assert_eq!(call(client, command).await.code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path()).await;
    let mut client = connect(&running).await;
    assert_eq!(make_topic(&mut client, "T", 2).await.code, 0);
    assert_eq!(make_topic(&mut client, "TBW102", 2).await.code, 29);
    assert_eq!(make_topic(&mut client, "a b", 2).await.code, 29);
    let one = call(&mut client, Command::new(request::GET_TOPIC_CONFIG).field("topic", "T")).await;
    let config = value(&one);
    assert_eq!((&config["readQueueNums"], &config["perm"]), (&json!(2), &json!(6)));
    assert_eq!(config["attributes"], json!({"message.type": "FIFO"}));
    let page =
        Command::new(request::GET_ALL_TOPIC_CONFIG).field("topicSeq", 3).field("maxTopicNum", 2);
    let page = call(&mut client, page).await;
    assert_eq!(value(&page)["topicConfigTable"].as_object().unwrap().len(), 2);
    assert_eq!(page.fields["totalTopicNum"], "9");

    for n in 0..3 {
        call(&mut client, send_command("T", &format!("m{n}"), "TAGS\u{1}a\u{2}")).await;
    }
    running.service.broker.stats().step(running.service.broker.now_ms() + 60_000);
    let stats = Command::new(request::GET_TOPIC_STATS_INFO).field("topic", "T");
    let stats = call(&mut client, stats).await;
    let body = text(&stats);
    let head = r#"{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:{"lastUpdateTimestamp":"#;
    assert!(body.starts_with(head), "{body}");
    assert!(
        body.contains(r#","maxOffset":3,"minOffset":0},{"brokerName":"broker-a","queueId":1,"#),
        "{body}"
    );
    assert!(
        body.contains(r#":{"lastUpdateTimestamp":0,"maxOffset":0,"minOffset":0}},"topicPutTps":"#),
        "{body}"
    );

    let data = |name: &'static str, key: &'static str| {
        Command::new(request::VIEW_BROKER_STATS_DATA)
            .field("statsName", name)
            .field("statsKey", key)
    };
    let puts = value(&call(&mut client, data("TOPIC_PUT_NUMS", "T")).await);
    // 0.3, unless the background happened to take a sample in between.
    let tps = puts["statsMinute"]["tps"].as_f64().unwrap();
    assert_eq!(puts["statsMinute"], json!({"avgpt": 1.0, "sum": 3, "tps": tps}));
    assert!(tps > 0.0 && body.ends_with(&format!("{tps:?}}}")), "{body}");
    let all = value(&call(&mut client, data("BROKER_PUT_NUMS", "DefaultCluster")).await);
    assert_eq!(all["statsMinute"]["sum"], json!(3));
    let none = call(&mut client, data("TOPIC_PUT_NUMS", "zz")).await;
    assert_eq!(none.remark.as_deref(), Some("The stats <TOPIC_PUT_NUMS> <zz> not exist"));

    let info = value(&call(&mut client, Command::new(request::GET_BROKER_RUNTIME_INFO)).await);
    let info = |key: &str| info["table"][key].as_str().unwrap_or_else(|| panic!("{key}"));
    assert_eq!((info("brokerVersionDesc"), info("putMessageTimesTotal")), ("V4_9_7", "3"));
    assert!(!info("putTps").starts_with("0.0 0.0 "), "{}", info("putTps"));
    assert!(info("putMessageDistributeTime").starts_with("[<=0ms]:"));
    assert!(info("earliestMessageTimeStamp").parse::<i64>().unwrap() > 0);

    let units = Command::new(request::QUERY_CONSUME_QUEUE)
        .field("topic", "T")
        .field("queueId", 0)
        .field("index", 1)
        .field("count", 10);
    let units = value(&call(&mut client, units).await);
    assert_eq!(
        (&units["maxQueueIndex"], units["queueData"].as_array().unwrap().len()),
        (&json!(3), 2)
    );
    assert_eq!(units["queueData"][0]["tagsCode"], json!(97));

    let delete = || Command::new(request::DELETE_TOPIC_IN_BROKER).field("topic", "T");
    assert_eq!(call(&mut client, delete()).await.code, 0);
    assert_eq!(call(&mut client, delete()).await.code, 0, "also if it is not there");
    let one = call(&mut client, Command::new(request::GET_TOPIC_CONFIG).field("topic", "T")).await;
    assert_eq!(one.code, 17);
    assert_eq!(call(&mut client, data("TOPIC_PUT_NUMS", "T")).await.code, 1);
    for code in [
        request::CLEAN_EXPIRED_CONSUMEQUEUE,
        request::CLEAN_UNUSED_TOPIC,
        request::DELETE_EXPIRED_COMMITLOG,
    ] {
        assert_eq!(call(&mut client, Command::new(code)).await.code, 0);
    }
    running.stop().await.unwrap();
}

#[tokio::test]
async fn groups_and_how_they_stand() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path()).await;
    let mut client = connect(&running).await;
    let group = json!({"groupName": "G", "consumeEnable": true, "retryQueueNums": 2, "x": 1});
    let update = Command::new(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).body(group.to_string());
    assert_eq!(call(&mut client, update).await.code, 0);
    let one = Command::new(request::GET_SUBSCRIPTIONGROUP_CONFIG).field("group", "G");
    let config = value(&call(&mut client, one).await);
    assert_eq!((&config["retryQueueNums"], &config["x"]), (&json!(2), &json!(1)));

    make_topic(&mut client, "T", 1).await;
    for n in 0..4 {
        call(&mut client, send_command("T", &format!("m{n}"), "")).await;
    }
    assert_eq!(bodies(&call(&mut client, pull_command("T", 0, 0)).await).len(), 4);
    commit(&mut client, 0, 1).await;
    running.service.broker.stats().step(running.service.broker.now_ms() + 60_000);
    let stats =
        call(&mut client, Command::new(request::GET_CONSUME_STATS).field("consumerGroup", "G"))
            .await;
    let body = text(&stats);
    let tps = r#"{"consumeTps":0."#;
    let table = r#","offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:{"brokerOffset":4,"consumerOffset":1,"lastTimestamp":"#;
    assert!(body.starts_with(tps) && body.contains(table), "{body}");
    let all = Command::new(request::GET_BROKER_CONSUME_STATS).field("isOrder", false);
    let all = call(&mut client, all).await;
    assert!(text(&all).contains(r#"{"G":[{"consumeTps":0."#), "{}", text(&all));
    assert!(text(&all).ends_with(r#""totalDiff":3}"#), "{}", text(&all));
    let get = |name: &'static str| {
        Command::new(request::VIEW_BROKER_STATS_DATA)
            .field("statsName", name)
            .field("statsKey", "T@G")
    };
    assert_eq!(
        value(&call(&mut client, get("GROUP_GET_NUMS")).await)["statsMinute"]["sum"],
        json!(4)
    );
    assert_eq!(call(&mut client, get("GROUP_GET_LATENCY")).await.code, 0);

    let spans =
        Command::new(request::QUERY_CONSUME_TIME_SPAN).field("topic", "T").field("group", "G");
    let spans = value(&call(&mut client, spans).await);
    let span = &spans["consumeTimeSpanSet"][0];
    assert_eq!(span["messageQueue"], json!({"brokerName": "broker-a", "queueId": 0, "topic": "T"}));
    assert_eq!(span["minTimeStampStr"].as_str().unwrap().len(), "2026-11-23#21:03:45:586".len());
    assert!(span["consumeTimeStamp"].as_i64().unwrap() > 0);

    let clone =
        Command::new(request::CLONE_GROUP_OFFSET).field("srcGroup", "G").field("destGroup", "H");
    assert_eq!(call(&mut client, clone).await.code, 0);
    let offsets = call(&mut client, Command::new(request::GET_ALL_CONSUMER_OFFSET)).await;
    assert_eq!(text(&offsets), r#"{"offsetTable":{"T@G":{0:1},"T@H":{0:1}}}"#);
    let delays = call(&mut client, Command::new(request::GET_ALL_DELAY_OFFSET)).await;
    assert_eq!(text(&delays), r#"{"offsetTable":{}}"#);
    commit(&mut client, 0, 3).await;
    let correct = Command::new(request::QUERY_CORRECTION_OFFSET)
        .field("topic", "T")
        .field("compareGroup", "G")
        .field("filterGroups", "");
    assert_eq!(text(&call(&mut client, correct).await), r#"{"correctionOffsets":{0:1}}"#);
    let who =
        call(&mut client, Command::new(request::QUERY_TOPIC_CONSUME_BY_WHO).field("topic", "T"))
            .await;
    assert_eq!(value(&who), json!({"groupList": ["G", "H"]}));
    let delete = Command::new(request::DELETE_SUBSCRIPTIONGROUP)
        .field("groupName", "H")
        .field("cleanOffset", true);
    assert_eq!(call(&mut client, delete).await.code, 0);
    let offsets = call(&mut client, Command::new(request::GET_ALL_CONSUMER_OFFSET)).await;
    assert_eq!(text(&offsets), r#"{"offsetTable":{"T@G":{0:3}}}"#);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_on_to_consumers_and_their_answers_back() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path()).await;
    let mut admin = connect(&running).await;
    make_topic(&mut admin, "T", 2).await;
    let sent = call(&mut admin, send_command("T", "hello", "")).await;
    let reset = |group: &'static str| {
        Command::new(request::INVOKE_BROKER_TO_RESET_OFFSET)
            .field("topic", "T")
            .field("group", group)
            .field("timestamp", -1)
            .field("isForce", true)
    };
    let unknown = call(&mut admin, reset("G")).await;
    assert_eq!(
        (unknown.code, unknown.remark.as_deref()),
        (1, Some("THe consumer group <G> not exist"))
    );
    commit(&mut admin, 0, 0).await;
    assert_eq!(call(&mut admin, reset("G")).await.code, 206, "nobody is there to be told");
    let by_broker = call(&mut admin, reset("G").field("queueId", -1)).await;
    assert_eq!(
        (by_broker.code, text(&by_broker)),
        (
            0,
            r#"{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:1,{"brokerName":"broker-a","queueId":1,"topic":"T"}:0}}"#
        ),
        "asked as 5.x asks"
    );
    let offsets = call(&mut admin, Command::new(request::GET_ALL_CONSUMER_OFFSET)).await;
    assert_eq!(text(&offsets), r#"{"offsetTable":{"T@G":{0:1,1:0}}}"#);

    let mut consumer = Consumer::join(running.addr, "c1").await;
    let connections = |group: &'static str| {
        Command::new(request::GET_CONSUMER_CONNECTION_LIST).field("consumerGroup", group)
    };
    let members = value(&call(&mut admin, connections("G")).await);
    assert_eq!(members["connectionSet"][0]["clientId"], json!("c1"));
    assert_eq!(members["subscriptionTable"]["T"]["subString"], json!("*"));
    assert_eq!(call(&mut admin, connections("H")).await.code, 206);

    let answer = call(&mut admin, reset("G")).await;
    let (_, told) = consumer.next(request::RESET_CONSUMER_CLIENT_OFFSET).await;
    assert_eq!(
        text(&told),
        r#"{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:1,{"brokerName":"broker-a","queueId":1,"topic":"T"}:0}}"#
    );
    assert_eq!((answer.code, text(&answer)), (0, text(&told)));

    let ask = Command::new(request::GET_CONSUMER_RUNNING_INFO)
        .field("consumerGroup", "G")
        .field("clientId", "c1")
        .field("jstackEnable", true);
    let asked = tokio::spawn(async move { (call(&mut admin, ask).await, admin) });
    let (opaque, question) = consumer.next(request::GET_CONSUMER_RUNNING_INFO).await;
    assert_eq!(question.fields["jstackEnable"], "true");
    let mq_table = r#"{"mqTable":{{"topic":"T"}:{}}}"#;
    consumer.answer(opaque, Command::ok().field("x", 1).body(mq_table)).await;
    let (answer, mut admin) = asked.await.unwrap();
    assert_eq!((answer.code, text(&answer), &*answer.fields["x"]), (0, mq_table, "1"));

    let direct = Command::new(request::CONSUME_MESSAGE_DIRECTLY)
        .field("consumerGroup", "G")
        .field("clientId", "c1")
        .field("msgId", sent.fields["msgId"].clone());
    let asked = tokio::spawn(async move { (call(&mut admin, direct).await, admin) });
    let (opaque, question) = consumer.next(request::CONSUME_MESSAGE_DIRECTLY).await;
    assert_eq!(question.fields["brokerName"], "broker-a");
    assert_eq!(as_record(&question.body).unwrap().body(), b"hello");
    consumer.answer(opaque, Command::refusal(1, "no")).await;
    let (answer, mut admin) = asked.await.unwrap();
    assert_eq!((answer.code, answer.remark.as_deref()), (1, Some("no")));

    let status = Command::new(request::INVOKE_BROKER_TO_GET_CONSUMER_STATUS)
        .field("topic", "T")
        .field("group", "G");
    let asked = tokio::spawn(async move { (call(&mut admin, status).await, admin) });
    let (opaque, _) = consumer.next(request::GET_CONSUMER_STATUS_FROM_CLIENT).await;
    let queues = r#"{{"brokerName":"broker-a","queueId":0,"topic":"T"}:7}"#;
    let own = format!(r#"{{"consumerTable":{{}},"messageQueueTable":{queues}}}"#);
    consumer.answer(opaque, Command::ok().body(own)).await;
    let (answer, mut admin) = asked.await.unwrap();
    assert_eq!(
        text(&answer),
        format!(r#"{{"consumerTable":{{"c1":{queues}}},"messageQueueTable":{{}}}}"#)
    );

    let ask = Command::new(request::GET_CONSUMER_RUNNING_INFO)
        .field("consumerGroup", "G")
        .field("clientId", "c1");
    let asked = tokio::spawn(async move { (call(&mut admin, ask).await, admin) });
    consumer.next(request::GET_CONSUMER_RUNNING_INFO).await;
    drop(consumer);
    let (answer, mut admin) = asked.await.unwrap();
    assert_eq!(answer.code, 1, "it left without an answer");
    let ask = Command::new(request::GET_CONSUMER_RUNNING_INFO).field("consumerGroup", "G");
    let gone = call(&mut admin, ask).await;
    assert_eq!(gone.remark.as_deref(), Some("The Consumer <G> <> not online"));
    running.stop().await.unwrap();
}

/// Each folder of the log has its gauge.
#[tokio::test]
async fn the_state_tells_of_every_folder_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.store.log_dirs = vec![dir.path().join("a"), dir.path().join("b")];
    let folders = settings.store.log_dirs.clone();
    let running = start_with(settings).await;
    let mut client = connect(&running).await;
    let info = value(&call(&mut client, Command::new(request::GET_BROKER_RUNTIME_INFO)).await);
    let share = |name: String| info["table"][name].as_str().unwrap().parse::<f64>().unwrap();
    for dir in folders {
        assert!(share(format!("commitLogDiskRatio_{}", dir.display())) > 0.0);
    }
    assert!(share("commitLogDiskRatio".into()) > 0.0);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn who_is_elsewhere_may_look_and_not_change() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Arc::new(Mutex::new(vec![("b".to_string(), "2".to_string())]));
    let (all, set) = (kept.clone(), kept.clone());
    let mut settings = settings(dir.path());
    settings.config = ConfigAccess::new(
        Box::new(move || all.lock().unwrap().clone()),
        Box::new(move |_, changes| {
            set.lock().unwrap().extend_from_slice(changes);
            Ok(())
        }),
    );
    let running = start_with(settings).await;
    let ask = |peer: &str, code: i32, body: &str| {
        let head = Head { code, ..Head::default() };
        let request = Request {
            head: &head,
            body: body.as_bytes(),
            encoding: Encoding::Json,
            read_at: std::time::Instant::now(),
        };
        match running
            .service
            .handle(&Conn::new(peer.parse().unwrap(), "10.0.0.1:10911".parse().unwrap()), &request)
        {
            Reply::Now(command) => command,
            other => panic!("{other:?}"),
        }
    };
    let (here, there) = ("127.0.0.1:5", "192.0.2.9:5");
    for code in [17, 18, 25, 200, 207, 215, 222, 225, 306, 314, 316, 329] {
        let refused = ask(there, code, "");
        assert_eq!(refused.code, 16, "{code}: {:?}", refused.remark);
    }
    for code in [request::GET_BROKER_CONFIG, request::GET_BROKER_RUNTIME_INFO] {
        let answer = ask(there, code, "");
        assert_eq!(answer.code, 0, "{code}: {:?}", answer.remark);
    }
    assert_eq!(ask(here, request::UPDATE_BROKER_CONFIG, "# c\na=1\n").code, 0);
    assert_eq!(ask(here, request::UPDATE_BROKER_CONFIG, "nonsense").code, 1);
    assert_eq!(
        ask(here, request::UPDATE_BROKER_CONFIG, "adminAllowedAddresses=0.0.0.0/0").code,
        16
    );
    let mut client = connect(&running).await;
    let config = call(&mut client, Command::new(request::GET_BROKER_CONFIG)).await;
    assert!(text(&config).starts_with("a=1\nb=2\nbrokerRole="), "{}", text(&config));
    let version: Value = serde_json::from_str(&config.fields["version"]).unwrap();
    assert_eq!(version["counter"], json!(1));
    running.stop().await.unwrap();
}

#[tokio::test]
async fn settings_change_all_or_none_and_those_of_other_brokers_are_passed_by() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::of(&conf(dir.path())).unwrap();
    settings.listen.set_port(0);
    let running = start_with(settings).await;
    let mut client = connect(&running).await;
    let update = |text: &'static str| Command::new(request::UPDATE_BROKER_CONFIG).body(text);
    let answer = call(&mut client, update("onlyIn5x=1\nfileReservedTime=48\n")).await;
    assert_eq!((answer.code, answer.remark), (0, None));
    let moved = Arc::new(Mutex::new(Vec::new()));
    let told = moved.clone();
    let move_to = move |servers: &[String]| told.lock().unwrap().extend_from_slice(servers);
    assert!(running.service.move_to.set(Box::new(move_to)).is_ok());
    for _ in 0..2 {
        call(&mut client, update("namesrvAddr=a:1;b:2\n")).await;
    }
    assert_eq!(*moved.lock().unwrap(), ["a:1", "b:2"]);
    for (text, why) in [
        ("namesrvAddr=\n", "namesrvAddr names no name server"),
        ("fileReservedTime=50\nlistenPort=1\n", "listenPort takes effect at start only"),
        ("fileReservedTime=50\nbrokerPermission=9\n", "brokerPermission has the value \"9\""),
    ] {
        let answer = call(&mut client, update(text)).await;
        assert!(answer.code == 1 && answer.remark.clone().unwrap().starts_with(why), "{answer:?}");
    }
    let config = call(&mut client, Command::new(request::GET_BROKER_CONFIG)).await;
    let config = text(&config);
    assert!(config.contains("\nfileReservedTime=48\n") && !config.contains("onlyIn5x"), "{config}");
    let kept = read_overrides(dir.path());
    let kept: Vec<_> = kept.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(kept, [("fileReservedTime", "48"), ("namesrvAddr", "a:1;b:2")]);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn consumers_that_are_too_old_are_not_asked() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path()).await;
    let mut admin = connect(&running).await;
    let sent = call(&mut admin, send_command("T", "hello", "")).await;
    // 61 is the version before the first that answers, V3_1_8_SNAPSHOT.
    let _old = Consumer::join_as(running.addr, "old", 61).await;
    for code in [request::GET_CONSUMER_RUNNING_INFO, request::CONSUME_MESSAGE_DIRECTLY] {
        let ask = Command::new(code)
            .field("consumerGroup", "G")
            .field("clientId", "old")
            .field("msgId", sent.fields["msgId"].clone());
        let answer = call(&mut admin, ask).await;
        let why = "The Consumer <old> Version <61> too low to finish, please upgrade it to V3_1_8_SNAPSHOT";
        assert_eq!((answer.code, answer.remark.as_deref()), (1, Some(why)));
    }
    running.stop().await.unwrap();
}
