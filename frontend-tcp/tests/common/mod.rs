//! A broker in the test's process, and a client of it.
#![allow(dead_code, reason = "not every test uses every helper")]
#![allow(clippy::unwrap_used, reason = "a test helper that fails is a failed test")]

pub mod cluster;
pub mod consumer;

use std::path::Path;
use std::time::Duration;

use mq_broker::conn::Response;
use mq_broker::run::{self, Running, Settings};
use mq_broker::wire::client::Client;
use mq_broker::wire::codes::request;
use mq_broker::wire::command::Command;
use mq_store::codec::index::Shape;
use mq_store::config::StoreConfig;
use mq_store::store::as_record;
use tokio::net::TcpListener;

pub const TIMEOUT: Duration = Duration::from_secs(20);

pub fn settings(root: &Path) -> Settings {
    Settings {
        store: StoreConfig {
            log_file_len: 1 << 20,
            queue_file_len: 2000,
            index_shape: Shape { slots: 500, items: 2000 },
            ..StoreConfig::at(root)
        },
        ..Settings::at(root)
    }
}

pub async fn start_with(settings: Settings) -> Running {
    let (opened, listen, limits) = run::open(settings, &mut |_, _| {}).unwrap();
    run::serve(opened.service, TcpListener::bind(listen).await.unwrap(), limits).await.unwrap()
}

pub async fn start(root: &Path) -> Running {
    start_with(settings(root)).await
}

pub async fn connect(running: &Running) -> Client {
    Client::connect(&running.addr.to_string(), TIMEOUT).await.unwrap()
}

/// Sends to queue 0 of a topic that is made if need be.
pub fn send_command(topic: &str, body: &str, properties: &str) -> Command {
    Command::new(request::SEND_MESSAGE_V2)
        .field("a", "P")
        .field("b", topic.to_owned())
        .field("c", "TBW102")
        .field("d", 4)
        .field("e", 0)
        .field("f", 0)
        .field("g", 1)
        .field("h", 0)
        .field("i", properties.to_owned())
        .body(body.to_owned())
}

pub fn pull_command(topic: &str, offset: i64, wait_ms: i64) -> Command {
    Command::new(request::PULL_MESSAGE)
        .field("consumerGroup", "G")
        .field("topic", topic.to_owned())
        .field("queueId", 0)
        .field("queueOffset", offset)
        .field("maxMsgNums", 32)
        .field("sysFlag", if wait_ms > 0 { 6 } else { 4 })
        .field("commitOffset", 0)
        .field("suspendTimeoutMillis", wait_ms)
        .field("subscription", "*")
        .field("subVersion", 0)
}

pub async fn call(client: &mut Client, command: Command) -> Response {
    client.call(&command, TIMEOUT).await.unwrap()
}

/// The bodies of the records that a pull gave.
pub fn bodies(response: &Response) -> Vec<String> {
    let mut rest = &response.body[..];
    let mut bodies = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        let record = as_record(&rest[..len]).unwrap();
        bodies.push(String::from_utf8(record.body().to_vec()).unwrap());
        rest = &rest[len..];
    }
    bodies
}
