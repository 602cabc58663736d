//! Sending, consuming, and what is there after a restart.
#![allow(clippy::unwrap_used, reason = "a test helper that fails is a failed test")]

use std::future::{Future, IntoFuture};
use std::sync::Arc;
use std::time::Duration;

use mq_embedded::{Consumer, Error, Flush, ManualClock, Message, Mq, Outcome, Seek};

const SOON: Duration = Duration::from_secs(10);

fn open(dir: &tempfile::TempDir) -> Mq {
    Mq::builder()
        .log_file_len(1 << 20)
        .queue_file_messages(1000)
        .index_shape(2000, 500)
        .open(dir.path())
        .unwrap()
}

#[test]
fn what_is_acknowledged_is_done_and_the_rest_comes_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mq = open(&dir);
    let producer = mq.producer();
    for n in 0..10 {
        let sent = producer.send(&Message::new("Jobs", &format!("{n}")).queue(1)).unwrap();
        assert_eq!((sent.queue_id(), sent.queue_offset()), (1, n));
    }
    let consumer = mq.consumer("workers").subscribe("Jobs", "*").start().unwrap();
    let mut jobs = consumer.poll(10, SOON).unwrap();
    let bodies: Vec<String> =
        jobs.iter().map(|j| String::from_utf8_lossy(j.body()).into_owned()).collect();
    assert_eq!(bodies, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    jobs.drain(..4).for_each(|job| job.ack());
    let error = Mq::open(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::InUse { path, .. } if path == dir.path()), "{error}");
    drop(jobs);
    mq.close().unwrap();
    assert!(matches!(consumer.poll(1, SOON), Err(Error::Closed)));

    let mq = open(&dir);
    assert_eq!(mq.recovery(), [] as [String; 0]);
    let consumer = mq.consumer("workers").subscribe("Jobs", "*").start().unwrap();
    let jobs = consumer.poll(32, SOON).unwrap();
    assert_eq!(jobs.iter().map(|j| j.queue_offset()).collect::<Vec<_>>(), [4, 5, 6, 7, 8, 9]);
}

#[test]
fn waiting_ends_when_a_message_comes_and_when_the_store_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let mq = open(&dir);
    mq.create_topic("T", 2).unwrap();
    let consumer = mq.consumer("G").subscribe("T", "*").start().unwrap();
    let mut tail = mq.reader("T", Seek::End).unwrap();
    std::thread::scope(|s| {
        let polled = s.spawn(|| consumer.poll(1, Duration::MAX).unwrap().len());
        let followed = s.spawn(|| tail.follow(Duration::MAX).unwrap().is_some());
        mq.producer().send(&Message::new("T", "x")).unwrap();
        assert_eq!((polled.join().unwrap(), followed.join().unwrap()), (1, true));
        let polled = s.spawn(|| consumer.poll(1, Duration::MAX));
        let iterated = s.spawn(|| consumer.iter().count());
        mq.close().unwrap();
        assert!(matches!(polled.join().unwrap(), Err(Error::Closed)));
        assert_eq!(iterated.join().unwrap(), 0);
    });
    assert!(matches!(mq.producer().send(&Message::new("T", "x")), Err(Error::Closed)));
}

#[test]
fn members_share_the_queues_and_take_over_what_one_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let mq = open(&dir);
    mq.create_topic("T", 4).unwrap();
    let join = || mq.consumer("G").subscribe("T", "*").start().unwrap();
    let first = join();
    for queue in 0..4 {
        mq.producer().send(&Message::new("T", "x").queue(queue)).unwrap();
    }
    let in_hand = first.poll(10, SOON).unwrap();
    assert_eq!(in_hand.len(), 4);
    let second = join();
    let queues = |c: &Consumer| c.queues().iter().filter(|q| q.0 == "T").count();
    assert_eq!((queues(&first), queues(&second)), (2, 2));
    assert!(second.poll(10, Duration::ZERO).unwrap().is_empty(), "they are in the first's hands");
    let mut in_hand = in_hand.into_iter();
    in_hand.next().unwrap().ack();
    drop(first);
    assert_eq!(second.poll(10, SOON).unwrap().len(), 3);
    in_hand.for_each(|d| d.ack());
    assert_eq!(mq.lag("G").iter().map(|l| l.behind).sum::<u64>(), 3, "they count no more");
    second.commit();
    assert_eq!(mq.lag("G").iter().map(|l| l.behind).sum::<u64>(), 0);
    let error = mq.consumer("G").subscribe("T", "a").start().unwrap_err();
    assert!(matches!(error, Error::Disagreement { what: "subscriptions", .. }), "{error}");
}

#[test]
fn time_is_the_clocks_and_messages_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_800_000_000_000));
    let mq = Mq::builder()
        .clock(clock.clone())
        .background(false)
        .index_shape(2000, 500)
        .open(dir.path())
        .unwrap();
    let producer = mq.producer();
    let late = Message::new("T", "late").delay_level(2);
    producer.send(&late).unwrap();
    let sent = producer.send(&Message::new("T", "now").key("k1 k2")).unwrap();
    let consumer = mq.consumer("G").subscribe("T", "*").start().unwrap();
    let bodies = || -> Vec<Vec<u8>> {
        let all = consumer.poll(9, Duration::ZERO).unwrap().into_iter();
        all.map(|d| d.into_message().body().to_vec()).collect()
    };
    mq.step().unwrap();
    assert_eq!(bodies(), [b"now"]);
    clock.advance(4_999);
    mq.step().unwrap();
    assert!(bodies().is_empty());
    clock.advance(1);
    mq.step().unwrap();
    assert_eq!(bodies(), [b"late"]);

    assert_eq!(mq.by_key("T", "k2", 9).unwrap()[0].body(), b"now");
    let found = mq.message("T", &sent.id()).unwrap().unwrap();
    assert_eq!((found.body(), found.id()), (&b"now"[..], sent.id()));
    assert!(mq.message("U", &sent.id()).unwrap().is_none());
    assert!(mq.message("T", "nonsense").unwrap().is_none());
}

#[test]
fn batches_are_whole_and_bad_messages_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let mq = Mq::builder().flush(Flush::Sync).auto_create_topics(false).open(dir.path()).unwrap();
    let producer = mq.producer();
    assert!(matches!(producer.send(&Message::new("T", "x")), Err(Error::NoTopic(t)) if t == "T"));
    mq.create_topic("T", 2).unwrap();
    let batch = [Message::new("T", "a").queue(1).tag("t"), Message::new("T", "b")];
    let sent = producer.send_batch(&batch).unwrap();
    assert_eq!(
        sent.iter().map(|s| (s.queue_id(), s.queue_offset())).collect::<Vec<_>>(),
        [(1, 0), (1, 1)]
    );
    let read: Vec<_> = mq.queue_reader("T", 1, Seek::Begin).unwrap().collect();
    assert_eq!((read[0].tag(), read[1].body(), read[1].id()), (Some("t"), &b"b"[..], sent[1].id()));
    for bad in [
        Message::new("T", "x").queue(2),
        Message::new("T", "x").queue(-1),
        Message::new("T", "x").property("a", "b\u{1}c"),
        Message::new("T", "x").property("", "b"),
    ] {
        assert!(matches!(producer.send(&bad), Err(Error::Invalid(_))), "{bad:?}");
    }
    assert!(matches!(producer.send_batch(&[]), Err(Error::Invalid(_))));
    let other = [Message::new("T", "x"), Message::new("U", "x")];
    assert!(matches!(producer.send_batch(&other), Err(Error::Invalid(_))));
    assert!(matches!(mq.reader("U", Seek::Begin), Err(Error::NoTopic(_))));
    let filter = mq.consumer("G").subscribe_sql("T", "a >").start();
    assert!(matches!(filter, Err(Error::Filter(_))));
    assert_eq!(mq.verify().unwrap().damages, 0);
}

#[test]
fn durability_is_awaited_under_any_runtime() {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    for flush in [Flush::Async, Flush::Sync] {
        let dir = tempfile::tempdir().unwrap();
        let mq = Mq::builder().flush(flush).open(dir.path()).unwrap();
        let sent = mq.producer().append(&Message::new("T", "x")).unwrap();
        let mut durable = std::pin::pin!(sent.durable().into_future());
        let waker = Arc::new(Unpark(std::thread::current())).into();
        let mut context = std::task::Context::from_waker(&waker);
        while durable.as_mut().poll(&mut context).is_pending() {
            std::thread::park();
        }
        assert!(mq.statistics().log_flushed > sent.position());
    }
}

#[test]
fn an_open_transaction_of_an_earlier_run_is_asked_about() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_800_000_000_000));
    let open = || {
        let builder = Mq::builder().clock(clock.clone()).background(false);
        builder.transaction_checks(1000, 15, 1000).open(dir.path()).unwrap()
    };
    let mq = open();
    let outbox = mq.transactions("P", |_| panic!("this run is over")).unwrap();
    drop(outbox.begin(&Message::new("T", "x").key("7")).unwrap());
    drop(outbox);
    mq.close().unwrap();

    let mq = open();
    let _outbox = mq
        .transactions("P", |half| {
            assert_eq!((half.topic(), half.body(), half.keys()), ("T", &b"x"[..], Some("7")));
            Outcome::Commit
        })
        .unwrap();
    let read = || mq.reader("T", Seek::Begin).unwrap().count();
    mq.step().unwrap();
    assert_eq!(read(), 0);
    clock.advance(1001);
    mq.step().unwrap();
    assert_eq!(read(), 1);
}
