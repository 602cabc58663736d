//! The open store served to RocketMQ clients, and consumed as a stream under a runtime.

use std::pin::Pin;
use std::time::Duration;

use mq_broker::wire::client::Client;
use mq_broker::wire::codes::request;
use mq_broker::wire::command::Command;
use mq_embedded::{DeliveryStream, Message, TestBroker};
use mq_store::store::as_record;

const SOON: Duration = Duration::from_secs(20);

async fn next(stream: &mut DeliveryStream) -> Option<mq_embedded::Result<mq_embedded::Delivery>> {
    std::future::poll_fn(|cx| futures_core::Stream::poll_next(Pin::new(&mut *stream), cx)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_and_the_program_share_a_store() {
    let rocketmq = TestBroker::start().unwrap();
    let mq = &rocketmq.mq;
    mq.create_topic("T", 1).unwrap();
    let consumer = mq.consumer("G").subscribe("T", "*").start().unwrap();
    let mut stream = consumer.into_stream();

    let mut client = Client::connect(&rocketmq.server.broker().to_string(), SOON).await.unwrap();
    let send = Command::new(request::SEND_MESSAGE_V2)
        .field("a", "P")
        .field("b", "T")
        .field("c", "TBW102")
        .field("d", 4)
        .field("e", 0)
        .field("f", 0)
        .field("g", 1)
        .field("h", 0)
        .field("i", "")
        .body("from a client");
    assert_eq!(client.call(&send, SOON).await.unwrap().code, 0);
    let delivery = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(delivery.body(), b"from a client");
    delivery.ack();

    // A pull that waits is answered by what the program sends.
    let pull = Command::new(request::PULL_MESSAGE)
        .field("consumerGroup", "H")
        .field("topic", "T")
        .field("queueId", 0)
        .field("queueOffset", 1)
        .field("maxMsgNums", 32)
        .field("sysFlag", 6)
        .field("commitOffset", 0)
        .field("suspendTimeoutMillis", 15_000)
        .field("subscription", "*")
        .field("subVersion", 0);
    let producer = mq.producer();
    let (pulled, _) = tokio::join!(client.call(&pull, SOON), async {
        tokio::task::yield_now().await;
        producer.send(&Message::new("T", "from the program")).unwrap()
    });
    let pulled = pulled.unwrap();
    assert_eq!(as_record(&pulled.body).unwrap().body(), b"from the program");
    assert_eq!(next(&mut stream).await.unwrap().unwrap().body(), b"from the program");

    let mut names =
        Client::connect(&rocketmq.server.name_server().to_string(), SOON).await.unwrap();
    let route = Command::new(request::GET_ROUTEINFO_BY_TOPIC).field("topic", "T");
    let route = names.call(&route, SOON).await.unwrap();
    assert!(String::from_utf8_lossy(&route.body).contains(&rocketmq.server.broker().to_string()));

    mq.close().unwrap();
    assert!(next(&mut stream).await.is_none());
}
