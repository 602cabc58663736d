//! What clients that ask for too much get, and that others are served meanwhile.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::consumer::Consumer;
use common::{TIMEOUT, bodies, call, connect, pull_command, send_command, settings, start_with};
use mq_broker::config::BrokerConf;
use mq_broker::conn::{Conn, Reply, Request};
use mq_broker::handle::Tuning;
use mq_broker::run::Settings;
use mq_broker::server::{Limits, Service};
use mq_broker::wire::codes::{request, response};
use mq_broker::wire::command::{self, Command, Outgoing};
use mq_broker::wire::frame::{self, Encoding, FrameLimits, Parsed};
use mq_store::log::flush::FlushPolicy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn encoded(command: &Command, opaque: i32) -> Vec<u8> {
    let mut out = Outgoing::default();
    command.encode_request(opaque, false, Encoding::Json, &mut out);
    out.bytes.to_vec()
}

/// The codes of the next `n` answers on a connection.
async fn codes(stream: &mut TcpStream, n: usize) -> Vec<i32> {
    let (mut bytes, mut codes) = (Vec::new(), Vec::new());
    while codes.len() < n {
        while let Parsed::Frame(frame, total) =
            frame::parse(&bytes, &FrameLimits::default()).unwrap()
        {
            codes.push(command::decode(frame.encoding, frame.header).unwrap().code);
            bytes.drain(..total);
        }
        if codes.len() < n {
            let read = tokio::time::timeout(TIMEOUT, stream.read_buf(&mut bytes)).await;
            assert!(read.expect("more answers").unwrap() > 0);
        }
    }
    codes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_reads_far_behind_may_no_longer_consume() {
    let dir = tempfile::tempdir().unwrap();
    let running = start_with(settings(dir.path())).await;
    let mut client = connect(&running).await;
    for _ in 0..3 {
        call(&mut client, send_command("T", "a message of some bytes", "")).await;
    }
    assert_eq!(call(&mut client, pull_command("T", 0, 0)).await.code, 0);
    let protect = |most| {
        running.service.tuning.write().unwrap().fall_behind = most;
        running.service.protect_step();
    };
    protect(Some(100));
    assert_eq!(call(&mut client, pull_command("T", 0, 0)).await.code, 0, "nobody is there");
    let _member = Consumer::join(running.addr, "c1").await;
    for most in [None, Some(1 << 20)] {
        protect(most);
        assert_eq!(call(&mut client, pull_command("T", 0, 0)).await.code, 0, "{most:?}");
    }
    assert_eq!(call(&mut client, pull_command("T", 3, 0)).await.code, 19);
    protect(Some(100));
    assert_eq!(call(&mut client, pull_command("T", 0, 0)).await.code, 0, "it was at the end");
    protect(Some(100));
    let refused = call(&mut client, pull_command("T", 0, 0)).await;
    let why = "subscription group no permission, G (consumeEnable)";
    assert_eq!((refused.code, refused.remark.as_deref()), (16, Some(why)));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn old_messages_come_in_smaller_pulls_and_a_slave_is_suggested_if_slaves_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut conf = BrokerConf::default();
    for (key, value) in [
        ("accessMessageInMemoryMaxRatio", "0"),
        ("maxTransferCountOnMessageInDisk", "2"),
        ("maxTransferBytesOnMessageInDisk", "100000"),
    ] {
        conf.set(key, value).unwrap();
    }
    conf.store_path_root_dir = dir.path().into();
    let of_conf = |conf: &BrokerConf| Settings::of(conf).unwrap().tuning;
    let running = start_with(Settings { tuning: of_conf(&conf), ..settings(dir.path()) }).await;
    let mut client = connect(&running).await;
    for n in 0..5 {
        call(&mut client, send_command("T", &n.to_string(), "")).await;
    }
    let mut pull = async |offset| {
        let answer = call(&mut client, pull_command("T", offset, 0)).await;
        (bodies(&answer), answer.fields["suggestWhichBrokerId"].clone())
    };
    assert_eq!(pull(0).await, (vec!["0".into(), "1".into()], "0".into()));
    conf.set("slaveReadEnable", "true").unwrap();
    *running.service.tuning.write().unwrap() = of_conf(&conf);
    assert_eq!(pull(2).await, (vec!["2".into(), "3".into()], "1".into()));
    assert_eq!(pull(5).await, (vec![], "0".into()), "it keeps up");
    conf.set("maxTransferBytesOnMessageInDisk", "1").unwrap();
    *running.service.tuning.write().unwrap() = of_conf(&conf);
    assert_eq!(pull(2).await, (vec!["2".into()], "1".into()));
    conf.set("accessMessageInMemoryMaxRatio", "40").unwrap();
    *running.service.tuning.write().unwrap() = of_conf(&conf);
    assert_eq!(pull(2).await, (vec!["2".into(), "3".into(), "4".into()], "0".into()));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_beyond_the_limit_are_refused_and_the_others_wait_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.tuning = Tuning { pull_capacity: 3000, ..Tuning::default() };
    let running = start_with(settings).await;
    let mut client = connect(&running).await;
    call(&mut client, send_command("T", "first", "")).await;
    let mut many = TcpStream::connect(running.addr).await.unwrap();
    let pull = pull_command("T", 1, 60_000);
    let all: Vec<u8> = (0..4000).flat_map(|n| encoded(&pull, n)).collect();
    many.write_all(&all).await.unwrap();
    let refused = codes(&mut many, 1000).await;
    assert!(refused.iter().all(|code| *code == response::SYSTEM_BUSY), "{refused:?}");
    assert_eq!(running.service.holds.count(), 3000);
    let answer = call(&mut client, pull_command("T", 1, 60_000)).await;
    assert_eq!(answer.code, response::SYSTEM_BUSY);
    assert!(answer.remark.unwrap().starts_with("[OVERLOAD]"));
    call(&mut client, send_command("T", "second", "")).await;
    let answered = codes(&mut many, 3000).await;
    assert!(answered.iter().all(|code| *code == response::SUCCESS));
    assert_eq!(running.service.holds.count(), 0);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_reads_is_read_no_more_and_then_closed() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { idle: Duration::from_secs(2), ..Limits::default() };
    let running = start_with(Settings { limits, ..settings(dir.path()) }).await;
    let mut deaf = TcpStream::connect(running.addr).await.unwrap();
    let ask = encoded(&Command::new(request::GET_ALL_TOPIC_CONFIG), 1).repeat(100);
    let (mut written, mut stalled) = (0, false);
    let ended = loop {
        match tokio::time::timeout(Duration::from_millis(300), deaf.write(&ask)).await {
            Ok(Ok(n)) => written += n,
            Ok(Err(e)) => break e,
            Err(_) => {
                stalled = true;
                let mut other = connect(&running).await;
                assert_eq!(call(&mut other, send_command("T", "m", "")).await.code, 0);
            }
        }
        assert!(written < 64 << 20, "the broker takes everything in");
    };
    assert!(stalled, "{ended}");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn large_requests_share_a_budget_and_small_ones_pass() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { in_flight: 16 << 20, ..Limits::default() };
    let running = start_with(Settings { limits, ..settings(dir.path()) }).await;
    let begun = [0, 0xff, 0xff, 0xf0, 0, 0, 0, 90];
    let mut first = TcpStream::connect(running.addr).await.unwrap();
    first.write_all(&begun).await.unwrap();
    // More than the sockets hold: the broker has begun to take it, and has given it the budget.
    first.write_all(&vec![b' '; 14 << 20]).await.unwrap();
    let mut second = TcpStream::connect(running.addr).await.unwrap();
    second.write_all(&begun).await.unwrap();
    let endless = vec![b' '; 1 << 20];
    let mut taken = 0;
    while let Ok(n) = tokio::time::timeout(Duration::from_secs(1), second.write(&endless)).await {
        taken += n.unwrap();
        assert!(taken < 15 << 20, "nobody holds the second one up");
    }
    let mut other = connect(&running).await;
    assert_eq!(call(&mut other, send_command("T", "small", "")).await.code, 0);
    drop(first);
    let more = tokio::time::timeout(TIMEOUT, second.write_all(&endless)).await;
    more.expect("the budget is free again").unwrap();
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_waited_too_long_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let running = start_with(settings(dir.path())).await;
    let send = |waited: u64| {
        let bytes = encoded(&send_command("T", "m", ""), 1);
        let Ok(Parsed::Frame(frame, _)) = frame::parse(&bytes, &FrameLimits::default()) else {
            panic!("no frame")
        };
        let head = command::decode(frame.encoding, frame.header).unwrap();
        let read_at = Instant::now() - Duration::from_millis(waited);
        let (encoding, body) = (frame.encoding, frame.body);
        let request = Request { head: &head, body, encoding, read_at };
        let here = "127.0.0.1:1".parse().unwrap();
        let conn: Arc<Conn> = Conn::new(here, here);
        match running.service.handle(&conn, &request) {
            Reply::Now(command) => command,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(send(0).code, response::SUCCESS);
    let refused = send(1000);
    assert_eq!(refused.code, response::SYSTEM_BUSY);
    assert!(refused.remark.unwrap().starts_with("[TIMEOUT_CLEAN_QUEUE]broker busy"));
    running.service.tuning.write().unwrap().send_wait_ms = None;
    assert_eq!(send(1000).code, response::SUCCESS, "brokerFastFailureEnable=false");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_that_wait_for_the_disk_are_limited() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.store.flush = FlushPolicy::Sync;
    let running = start_with(settings).await;
    let mut client = connect(&running).await;
    assert_eq!(call(&mut client, send_command("T", "m", "")).await.code, 0);
    running.service.tuning.write().unwrap().send_capacity = 0;
    let refused = call(&mut client, send_command("T", "m", "")).await;
    assert_eq!(refused.code, response::SYSTEM_BUSY);
    assert_eq!(bodies(&call(&mut client, pull_command("T", 0, 0)).await), ["m"]);
    running.stop().await.unwrap();
}
