//! What monitoring sees.
#![allow(clippy::unwrap_used)]

mod common;

use common::{TIMEOUT, call, connect, pull_command, send_command, settings, start, start_with};
use mq_broker::metrics::Metrics;
use mq_broker::run::Running;
use mq_broker::wire::codes::request;
use mq_broker::wire::command::Command;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn watched(root: &std::path::Path) -> Running {
    let labels = vec![("zone".into(), "a".into())];
    let metrics = Metrics::new(Some("127.0.0.1:0".parse().unwrap()), labels);
    start_with(mq_broker::run::Settings { metrics, ..settings(root) }).await
}

async fn http(running: &Running, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(running.metrics.unwrap()).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(TIMEOUT, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

async fn get(running: &Running, path: &str) -> String {
    http(running, format!("GET {path} HTTP/1.1\r\nHost: b\r\n\r\n").as_bytes()).await
}

fn value(page: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let line = page.lines().find(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'))
            && labels.iter().all(|label| line.contains(label))
    })?;
    line.rsplit_once(' ')?.1.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_latencies_and_lag() {
    let dir = tempfile::tempdir().unwrap();
    let running = watched(dir.path()).await;
    let mut client = connect(&running).await;
    for n in 0..3 {
        let sent = call(&mut client, send_command("T", &format!("m{n}"), "")).await;
        assert_eq!(sent.code, 0);
    }
    call(&mut client, send_command("T", &"x".repeat(5000), "__SHARDINGKEY\u{1}k\u{2}")).await;
    call(&mut client, pull_command("T", 0, 0)).await;
    call(&mut client, pull_command("T", 4, 1)).await;
    let commit = Command::new(request::UPDATE_CONSUMER_OFFSET)
        .field("consumerGroup", "G")
        .field("topic", "T")
        .field("queueId", 0)
        .field("commitOffset", 1);
    call(&mut client, commit).await;
    call(&mut client, Command::new(77_777)).await;

    let page = get(&running, "/metrics").await;
    assert!(
        page.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"),
        "{page}"
    );
    let of = |name: &str, labels: &[&str]| value(&page, name, labels);
    let normal = &["topic=\"T\"", "message_type=\"normal\"", "is_system=\"false\""];
    let own = &["cluster=\"DefaultCluster\"", "node_type=\"broker\"", "zone=\"a\""];
    assert_eq!(of("rocketmq_messages_in_total", normal), Some(3.0));
    assert_eq!(of("rocketmq_messages_in_total", own), of("rocketmq_messages_in_total", &[]));
    let fifo = "message_type=\"fifo\"";
    assert_eq!(of("rocketmq_messages_in_total", &[fifo]), Some(1.0));
    assert_eq!(of("rocketmq_message_size_bucket", &[fifo, "le=\"4096.0\""]), Some(0.0));
    assert_eq!(of("rocketmq_message_size_bucket", &[fifo, "le=\"524288.0\""]), Some(1.0));
    let group = &["consumer_group=\"G\"", "topic=\"T\"", "is_retry=\"false\""];
    assert_eq!(of("rocketmq_messages_out_total", group), Some(4.0));
    assert_eq!(of("rocketmq_consumer_lag_messages", group), Some(3.0));
    assert_eq!(of("rocketmq_consumer_inflight_messages", group), Some(3.0));
    assert_eq!(of("rocketmq_consumer_ready_messages", group), Some(0.0));
    assert!(of("rocketmq_consumer_lag_latency_milliseconds", group).is_some());
    assert_eq!(of("rocketmq_broker_permission", &[]), Some(6.0));
    assert!(of("rocketmq_storage_size_bytes", &["storage_medium=\"disk\""]).unwrap() > 0.0);
    let rpc = "rocketmq_rpc_latency_milliseconds_count";
    let sent = &["request_code=\"send_message_v2\"", "response_code=\"success\""];
    assert_eq!(of(rpc, sent), Some(4.0));
    let held = &["request_code=\"pull_message\"", "is_long_polling=\"true\""];
    assert_eq!(of(rpc, held), Some(1.0), "{page}");
    assert_eq!(of(rpc, &["request_code=\"unknown\""]), Some(1.0));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_messages_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let running = watched(dir.path()).await;
    let mut client = connect(&running).await;
    for body in ["damaged", "sound"] {
        assert_eq!(call(&mut client, send_command("T", body, "")).await.code, 0);
    }
    let name = "rocketmq_storage_damaged_reads_total";
    assert_eq!(value(&get(&running, "/metrics").await, name, &[]), Some(0.0));
    let path = dir.path().join(format!("commitlog/{:020}", 0));
    let log = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    // The magic number of the first.
    std::os::unix::fs::FileExt::write_all_at(&log, &[0xff; 4], 4).unwrap();
    call(&mut client, pull_command("T", 0, 0)).await;
    let page = get(&running, "/metrics").await;
    assert_eq!(value(&page, name, &["storage_type=\"local\""]), Some(1.0), "{page}");
    let info = call(&mut client, Command::new(request::GET_BROKER_RUNTIME_INFO)).await;
    let info = String::from_utf8_lossy(&info.body);
    assert!(info.contains("\"damagedReads\":\"1\""), "{info}");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_what_is_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let running = watched(dir.path()).await;
    assert!(get(&running, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(&running, "/readyz").await.ends_with("\r\n\r\nready\n"));
    assert!(get(&running, "/").await.starts_with("HTTP/1.1 404"));
    assert!(http(&running, b"HEAD /healthz HTTP/1.1\r\n\r\n").await.ends_with("\r\n\r\n"));
    assert!(http(&running, b"PUT / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405"));
    assert!(http(&running, b"\x16\x03\x01\x00\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    let endless = format!("GET / HTTP/1.1\r\na: {}", "b".repeat(9000));
    assert!(http(&running, endless.as_bytes()).await.starts_with("HTTP/1.1 431"));
    running.service.metrics.stopping();
    let answer = get(&running, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("stopping\n"), "{answer}");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_ready_whose_log_takes_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let running = watched(dir.path()).await;
    running.service.broker.store().log().refuse_appends("the disk is broken");
    let answer = get(&running, "/readyz").await;
    assert!(answer.contains("503") && answer.contains("the disk is broken"), "{answer}");
    let _ = running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_measured_unless_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path()).await;
    let mut client = connect(&running).await;
    call(&mut client, send_command("T", "m", "")).await;
    assert!(running.metrics.is_none() && running.service.metrics.rpc.is_none());
    let topic = running.service.broker.stats().find_topic("T").unwrap();
    let counted = |k: &mq_store::broker::stats::KindCounters| k.sizes.total().2;
    assert_eq!(topic.kinds.iter().map(counted).sum::<u64>(), 0);
    running.stop().await.unwrap();
}
