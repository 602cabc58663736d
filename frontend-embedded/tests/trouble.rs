//! What is not on the disk yet, what fails again and again, what is damaged, and what is refused.
#![allow(clippy::unwrap_used, reason = "a test helper that fails is a failed test")]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use mq_embedded::{Error, ErrorKind, Flush, Message, Mq, Seek};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn consumers_see_what_is_on_the_disk_under_sync_flush() {
    let dir = tempfile::tempdir().unwrap();
    let sync = || Mq::builder().flush(Flush::Sync);
    let mq = sync().background(false).open(dir.path()).unwrap();
    let consumer = mq.consumer("G").subscribe("T", "*").start().unwrap();
    let sent = mq.producer().append(&Message::new("T", "x")).unwrap();
    assert!(consumer.poll(1, Duration::ZERO).unwrap().is_empty(), "the power may go");
    assert!(mq.message("T", &sent.id()).unwrap().is_none());
    std::thread::scope(|s| {
        let polled = s.spawn(|| consumer.poll(1, SOON).unwrap().pop().unwrap());
        sent.durable().wait().unwrap();
        let delivery = polled.join().unwrap();
        assert_eq!((delivery.body(), delivery.id()), (&b"x"[..], sent.id()));
        delivery.ack();
    });
    mq.close().unwrap();

    // With threads nobody has to wait for the disk for others to see it.
    let mq = sync().open(dir.path()).unwrap();
    let consumer = mq.consumer("G").subscribe("T", "*").start().unwrap();
    mq.producer().append(&Message::new("T", "y")).unwrap();
    mq.producer().send(&Message::new("T", "z")).unwrap();
    let mut bodies = Vec::new();
    while bodies.len() < 2 {
        let got = consumer.poll(2, SOON).unwrap();
        assert!(!got.is_empty());
        bodies.extend(got.into_iter().map(|d| d.into_message().body().to_vec()));
    }
    bodies.sort();
    assert_eq!(bodies, [b"y", b"z"]);
}

#[test]
fn in_order_a_message_that_fails_holds_up_its_queue_until_it_is_dead() {
    let dir = tempfile::tempdir().unwrap();
    let mq = Mq::open(dir.path()).unwrap();
    for body in ["bad", "good"] {
        mq.producer().send(&Message::new("T", body).queue(0)).unwrap();
    }
    let consumer = mq.consumer("G").subscribe("T", "*").orderly().max_reconsume_times(2);
    let consumer = consumer.suspend(Duration::from_millis(1)).start().unwrap();
    let next = || consumer.poll(1, SOON).unwrap().pop().unwrap();
    for failed in 0..3 {
        let delivery = next();
        assert_eq!((delivery.body(), delivery.failed_times()), (&b"bad"[..], failed));
        assert!(consumer.poll(1, Duration::ZERO).unwrap().is_empty(), "it is in hand");
        delivery.retry().unwrap();
    }
    let delivery = next();
    assert_eq!((delivery.body(), delivery.failed_times()), (&b"good"[..], 0));
    delivery.ack();
    let dead: Vec<_> = mq.reader("%DLQ%G", Seek::Begin).unwrap().collect();
    assert_eq!(dead.iter().map(|d| d.body()).collect::<Vec<_>>(), [b"bad"]);
    assert_eq!(mq.lag("G").iter().map(|l| l.behind).sum::<u64>(), 0);
}

#[test]
fn verifying_tells_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Mq::builder().log_file_len(1 << 16).queue_file_messages(100).open(dir.path());
    let mq = open().unwrap();
    let bodies = ["first body", "second body", "third body"];
    let sent = bodies.map(|body| mq.producer().send(&Message::new("T", body).queue(0)).unwrap());
    let found = mq.verify().unwrap();
    assert_eq!((found.records, found.places, found.damages), (3, 3, 0), "{found:?}");
    mq.close().unwrap();

    let write = |path: &str, at, bytes: &[u8]| {
        let file = OpenOptions::new().write(true).open(dir.path().join(path)).unwrap();
        file.write_all_at(bytes, at).unwrap();
    };
    let log = std::fs::read(dir.path().join("commitlog/00000000000000000000")).unwrap();
    let body = log.windows(10).position(|w| w == b"first body").unwrap();
    write("commitlog/00000000000000000000", body as u64, b"worst");
    // Places take 20 bytes, and begin with a position in the log.
    let third = sent[2].position().to_be_bytes();
    write("consumequeue/T/0/00000000000000000000", 20, &third);
    let mq = open().unwrap();
    let found = mq.verify().unwrap();
    assert_eq!((found.records, found.places, found.damages), (2, 2, 2), "{found:?}");
    assert!(found.told[0].contains("the body of the message at 0 "), "{found:?}");
    assert!(found.told[1].contains("offset 1 of queue 0 of T points at"), "{found:?}");
    assert_eq!(mq.reader("T", Seek::Begin).unwrap().count(), 1);
    assert_eq!(mq.statistics().damaged_reads, 1);
}

#[test]
fn errors_have_kinds() {
    let dir = tempfile::tempdir().unwrap();
    let builder = || Mq::builder().auto_create_topics(false).max_body(1000);
    let mq = builder().open(dir.path()).unwrap();
    mq.create_topic("T", 1).unwrap();
    let kind = |result: Result<_, Error>| result.map(drop).unwrap_err().kind();
    let send = |message: &Message<'_>| kind(mq.producer().send(message).map(drop));
    assert_eq!(send(&Message::new("U", "x")), ErrorKind::NotFound);
    assert_eq!(send(&Message::new("T", &[0; 1001])), ErrorKind::Invalid);
    assert_eq!(send(&Message::new("T", "x").queue(1)), ErrorKind::Invalid);
    let wrong = mq.consumer("G").subscribe_sql("T", "a >").start();
    assert_eq!(kind(wrong.map(drop)), ErrorKind::Invalid);
    assert_eq!(kind(builder().open(dir.path()).map(drop)), ErrorKind::Locked);
    assert_eq!(kind(Mq::open("/dev/null/store").map(drop)), ErrorKind::Io);
    mq.close().unwrap();
    assert_eq!(send(&Message::new("T", "x")), ErrorKind::Closed);
}
