//! The rules of messaging, with a clock that a test moves.

#![allow(clippy::unwrap_used, reason = "a test that fails is a failed test")]

mod common;

use std::path::Path;
use std::sync::Arc;

use mq_store::broker::filter::Filter;
use mq_store::broker::send::Sending;
use mq_store::broker::topics::{TopicConfig, perm};
use mq_store::broker::{Broker, BrokerConfig, Refusal};
use mq_store::os::clock::{Clock, ManualClock};
use mq_store::os::fs::Fs;
use mq_store::store::{MessageStore, ReadLimits, ReadStatus, as_record};

struct House {
    broker: Arc<Broker>,
    clock: Arc<ManualClock>,
    notes: Vec<String>,
}

fn open_with(root: &Path, config: BrokerConfig, now_ms: i64) -> House {
    let clock = Arc::new(ManualClock::at(now_ms));
    let (store, _) =
        MessageStore::open_with(common::config(root), Fs::default(), clock.clone(), &mut |_, _| {})
            .unwrap();
    let (broker, notes) = Broker::open(Arc::new(store), config, Box::new(|_| {}));
    House { broker, clock, notes }
}

const NOW: i64 = 1_795_467_835_737;

fn open(root: &Path) -> House {
    open_with(root, BrokerConfig::default(), NOW)
}

fn sending<'a>(topic: &'a str, body: &'a str, properties: &'a str) -> Sending<'a> {
    Sending {
        topic,
        queue_id: 0,
        default_topic: "TBW102",
        default_queues: 4,
        unit_mode: false,
        sys_flag: 0,
        flag: 7,
        born_timestamp: 1,
        born_host: "127.0.0.1:5000".parse().unwrap(),
        reconsume_times: 0,
        max_reconsume_times: None,
        properties,
        stamped: true,
        body: body.as_bytes(),
    }
}

fn bodies(broker: &Broker, topic: &str) -> Vec<String> {
    let limits = ReadLimits { messages: 1000, ..ReadLimits::default() };
    let read = broker.store().read(topic, 0, 0, &limits, |_| true);
    let body = |slice| String::from_utf8(as_record(slice).unwrap().body().to_vec()).unwrap();
    read.records.iter().map(|slice| body(slice)).collect()
}

#[test]
fn a_delayed_message_comes_when_it_is_due_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let House { broker, clock, .. } = open(dir.path());
    // Levels 1, 2 and 3 are 1, 5 and 10 s.
    for (body, level) in [("ten", 3), ("one", 1), ("five", 2), ("longest", 99)] {
        let properties = format!("DELAY\u{1}{level}\u{2}TAGS\u{1}t\u{2}");
        let sent = broker.send(&sending("T", body, &properties)).unwrap();
        assert_eq!(sent.queue_id, 0, "what was asked for");
    }
    assert_eq!(broker.deliver_step().unwrap(), Some(NOW + 1000));
    assert_eq!(bodies(&broker, "T").len(), 0);
    clock.advance(999);
    broker.deliver_step().unwrap();
    assert_eq!(bodies(&broker, "T").len(), 0, "not a millisecond early");
    clock.advance(1);
    assert_eq!(broker.deliver_step().unwrap(), Some(NOW + 5000));
    assert_eq!(bodies(&broker, "T"), ["one"]);
    broker.close().unwrap();
    drop(broker);

    let House { broker, clock, .. } = open_with(dir.path(), BrokerConfig::default(), NOW + 20_000);
    assert_eq!(broker.deliver_step().unwrap(), Some(NOW + 7_200_000));
    assert_eq!(bodies(&broker, "T"), ["one", "five", "ten"], "each once");
    let tagged = Filter::tags("t").unwrap();
    let read = broker.store().read("T", 0, 1, &ReadLimits::default(), |code| tagged.wants(code));
    let record = as_record(&read.records[0]).unwrap();
    assert_eq!((record.flag(), record.store_timestamp()), (7, clock.now_ms()));
    // A clock that was set back: what is ahead of it waits no longer than its delay.
    clock.advance(-60_000);
    broker.send(&sending("T", "again", "DELAY\u{1}1\u{2}")).unwrap();
    clock.advance(1000);
    broker.deliver_step().unwrap();
    assert_eq!(bodies(&broker, "T")[3..], ["again"]);
    broker.send(&sending("T", "ahead", "DELAY\u{1}1\u{2}")).unwrap();
    clock.advance(-3000);
    assert_eq!(broker.deliver_step().unwrap(), Some(NOW + 7_200_000));
    assert_eq!(bodies(&broker, "T")[4..], ["ahead"]);
    clock.advance(-86_400_000);
    broker.deliver_step().unwrap();
    assert_eq!(bodies(&broker, "T")[5..], ["longest"], "in no order, but not days late");
}

#[test]
fn topics_are_made_when_first_sent_to_if_that_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let House { broker, .. } = open(dir.path());
    let mut wants_16 = sending("Wide", "x", "");
    wants_16.default_queues = 16;
    broker.send(&wants_16).unwrap();
    let wide = broker.topics().get("Wide").unwrap();
    assert_eq!((wide.write_queue_nums, wide.perm), (8, perm::READ | perm::WRITE));
    let mut queue = sending("Wide", "x", "");
    queue.queue_id = 8;
    assert!(matches!(broker.send(&queue), Err(Refusal::Invalid(_))));
    queue.queue_id = -1;
    assert!((0..8).contains(&broker.send(&queue).unwrap().queue_id));
    drop(broker);

    let config = BrokerConfig { auto_create_topic: false, ..BrokerConfig::default() };
    let other = tempfile::tempdir().unwrap();
    let House { broker, .. } = open_with(other.path(), config, NOW);
    assert!(matches!(broker.send(&sending("T", "x", "")), Err(Refusal::NoTopic(_))));
    broker.update_topic(TopicConfig::new("T", 2)).unwrap();
    broker.send(&sending("T", "x", "")).unwrap();
    for bad in ["TBW102", "DefaultCluster", "bad name", "", "../x"] {
        let refused = broker.update_topic(TopicConfig::new(bad, 2));
        assert!(matches!(refused, Err(Refusal::Invalid(_))), "{bad:?}");
    }
}

#[test]
fn settings_and_offsets_survive_and_lost_topics_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let House { broker, .. } = open(dir.path());
    broker.send(&sending("T", "x", "")).unwrap();
    let mut third = sending("T", "x", "");
    third.queue_id = 2;
    broker.send(&third).unwrap();
    broker.group("G").unwrap();
    broker.offsets().commit("G", "T", 0, 1);
    broker.offsets().commit("G", "T", 1, -1);
    let version = broker.topics().version();
    broker.close().unwrap();
    drop(broker);
    let House { broker, notes, .. } = open(dir.path());
    assert_eq!((broker.topics().version(), notes.len()), (version, 0), "{notes:?}");
    assert_eq!(broker.offsets().get("G", "T", 0), Some(1));
    assert_eq!(broker.consumer_offset("G", "T", 0), Some(1));
    assert_eq!(broker.consumer_offset("G", "T", 1), Some(0), "-1 means none");
    assert!(broker.groups().get("G").is_some());
    broker.close().unwrap();
    drop(broker);

    std::fs::write(dir.path().join("config/topics.json"), "{ broken").unwrap();
    std::fs::write(dir.path().join("config/topics.json.bak"), "").unwrap();
    let House { broker, notes, .. } = open(dir.path());
    assert_eq!(notes.len(), 3, "two files put aside, one topic made anew: {notes:?}");
    assert_eq!(broker.topics().get("T").unwrap().write_queue_nums, 3);
    assert_eq!(bodies(&broker, "T"), ["x"]);
    broker.delete_topic("T").unwrap();
    broker.close().unwrap();
    drop(broker);
    let House { broker, notes, .. } = open(dir.path());
    assert!(broker.topics().get("T").is_none() && notes.is_empty(), "{notes:?}");
    assert_eq!(broker.offsets().get("G", "T", 0), None);
}

/// A message of a batch.
fn in_batch(body: &str, properties: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let size = 22 + body.len() + properties.len();
    for n in [size as i32, 0, 0, 5, body.len() as i32] {
        bytes.extend_from_slice(&n.to_be_bytes());
    }
    bytes.extend_from_slice(body.as_bytes());
    bytes.extend_from_slice(&(properties.len() as i16).to_be_bytes());
    bytes.extend_from_slice(properties.as_bytes());
    bytes
}

#[test]
fn batches_come_apart_or_are_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let House { broker, .. } = open(dir.path());
    let bytes = [in_batch("a", "TAGS\u{1}x\u{2}"), in_batch("b", ""), in_batch("c", "")].concat();
    let batch = |body| Sending { body, ..sending("B", "", "") };
    let sent = broker.send_batch(&batch(&bytes)).unwrap();
    assert_eq!((sent.appended.queue_offset, sent.physical_offsets().len()), (0, 3));
    for (at, body) in sent.physical_offsets().zip(["a", "b", "c"]) {
        let slice = broker.store().record_at(at).unwrap();
        let record = as_record(&slice).unwrap();
        assert_eq!((record.body(), record.flag()), (body.as_bytes(), 5));
    }
    for cut in 0..bytes.len() {
        let whole = cut == 0 || cut == bytes.len() / 3 * 2;
        if let Ok(sent) = broker.send_batch(&batch(&bytes[..cut])) {
            assert!(sent.physical_offsets().len() < 3 || whole, "cut at {cut}");
        }
    }
    let mut wrong = bytes.clone();
    wrong[16] = 0x7f;
    assert!(matches!(broker.send_batch(&batch(&wrong)), Err(Refusal::Illegal(_))));
}

/// The CRC of the record that a message was before is not stored, wherever it stands among the
/// properties, and the places of a batch are told right.
#[test]
fn a_crc_that_a_client_sends_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let House { broker, clock, .. } = open(dir.path());
    let (crc, other) = ("__CRC32#\u{1}5382506021\u{2}", "A\u{1}1\u{2}");
    let texts =
        [format!("{other}{crc}"), format!("{crc}{other}"), format!("{other}DELAY\u{1}1\u{2}{crc}")];
    for text in &texts {
        broker.send(&sending("C", "x", text)).unwrap();
    }
    clock.advance(1000);
    broker.deliver_step().unwrap();
    let batch: Vec<u8> = texts[..2].iter().flat_map(|text| in_batch("y", text)).collect();
    let sent = broker.send_batch(&Sending { body: &batch, ..sending("C", "", "") }).unwrap();
    for at in sent.physical_offsets() {
        assert_eq!(as_record(&broker.store().record_at(at).unwrap()).unwrap().body(), b"y");
    }
    let read = broker.store().read("C", 0, 0, &ReadLimits::default(), |_| true);
    assert_eq!(read.records.len(), 5);
    for slice in &read.records {
        let record = as_record(slice).unwrap();
        assert_eq!((record.property("A"), record.property("__CRC32#")), (Some("1"), None));
    }
}

#[test]
fn a_message_on_a_retry_topic_that_failed_too_often_is_dead() {
    let dir = tempfile::tempdir().unwrap();
    let House { broker, .. } = open(dir.path());
    let m =
        |times| Sending { reconsume_times: times, ..sending("%RETRY%G", "m", "DELAY\u{1}3\u{2}") };
    broker.send(&m(15)).unwrap();
    assert_eq!(broker.store().max_offset("SCHEDULE_TOPIC_XXXX", 2), 1);
    broker.send(&m(16)).unwrap();
    assert_eq!(bodies(&broker, "%DLQ%G"), ["m"]);
    assert_eq!(broker.topics().get("%RETRY%G").unwrap().write_queue_nums, 1);
    assert!(matches!(broker.send_back("G", 999_999, 0, None), Err(Refusal::Failed(_))));
    let at = broker.send(&sending("T", "straight", "")).unwrap().appended.physical_offset;
    broker.send_back("G", at as i64, -1, None).unwrap();
    assert_eq!(bodies(&broker, "%DLQ%G"), ["m", "straight"]);
}

#[test]
fn offsets_beyond_what_a_crash_left_go_back_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let House { broker, .. } = open(dir.path());
    broker.send(&sending("T", "x", "")).unwrap();
    broker.offsets().commit("G", "T", 0, 5);
    broker.offsets().commit("H", "T", 0, 1);
    broker.save_step().unwrap();
    let killed = common::copy_of(dir.path());
    let House { broker, notes, .. } = open(killed.path());
    assert_eq!((broker.offsets().get("G", "T", 0), notes.len()), (Some(1), 1), "{notes:?}");
    assert_eq!(broker.offsets().get("H", "T", 0), Some(1));
}

#[test]
fn a_pull_gives_what_an_expression_wants() {
    let dir = tempfile::tempdir().unwrap();
    let House { broker, .. } = open(dir.path());
    for n in 0..1000 {
        let properties = format!("n\u{1}{n}\u{2}TAGS\u{1}t{}\u{2}", n % 2);
        broker.send(&sending("T", &format!("m{n}"), &properties)).unwrap();
    }
    broker.send(&sending("T", "none", "")).unwrap();
    let counters = broker.stats().group("G", "T");
    let pull = |expression: &str, offset| {
        let filter = Filter::parse("SQL92", expression).unwrap();
        let read = broker.pull("T", 0, offset, &ReadLimits::default(), &filter, &counters);
        let body = |slice| String::from_utf8(as_record(slice).unwrap().body().to_vec()).unwrap();
        (read.status, read.next, read.records.iter().map(|slice| body(slice)).collect::<Vec<_>>())
    };
    let some = |bodies: &[&str]| bodies.iter().map(|b| b.to_string()).collect::<Vec<_>>();
    let wanted = some(&["m3", "m5"]);
    assert_eq!(pull("n BETWEEN 2 AND 6 AND TAGS = 't1'", 0), (ReadStatus::Found, 800, wanted));
    assert_eq!(pull("n > 900", 0), (ReadStatus::NoMatchedMessage, 800, some(&[])));
    let (status, next, bodies) = pull("n > 900", 800);
    assert_eq!(
        (status, next, bodies.len()),
        (ReadStatus::Found, 933, 32),
        "the limit is of matches"
    );
    assert_eq!(pull("n IS NULL", 801), (ReadStatus::Found, 1001, some(&["none"])));
    assert_eq!(pull("n IS NULL", 1001).0, ReadStatus::OffsetOverflowOne);
    broker.close().unwrap();
}

#[test]
fn no_message_is_taken_before_the_time_that_is_set() {
    let dir = tempfile::tempdir().unwrap();
    let config = BrokerConfig { takes_sends_from_ms: NOW + 10, ..BrokerConfig::default() };
    let House { broker, clock, .. } = open_with(dir.path(), config, NOW);
    let refused = broker.send(&sending("T", "early", "")).unwrap_err();
    assert!(refused.to_string().starts_with("broker unable to service, until "), "{refused}");
    assert!(broker.topics().get("T").is_none());
    clock.advance(10);
    broker.send(&sending("T", "late", "")).unwrap();
    assert_eq!(bodies(&broker, "T"), ["late"]);
}

#[test]
fn topics_named_like_cluster_and_broker_are_closed_if_that_is_set() {
    let perm = |cluster_topic, broker_topic| {
        let dir = tempfile::tempdir().unwrap();
        let config = BrokerConfig { cluster_topic, broker_topic, ..BrokerConfig::default() };
        let broker = open_with(dir.path(), config, NOW).broker;
        ["DefaultCluster", "broker-a"].map(|topic| broker.topics().get(topic).unwrap().perm)
    };
    assert_eq!((perm(true, true), perm(true, false), perm(false, true)), ([7, 7], [7, 1], [1, 7]));
}

#[test]
fn name_servers_hear_of_another_permission_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let House { broker, .. } = open(dir.path());
    let told = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = told.clone();
    broker.on_topics_changed(Box::new(move || {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }));
    let before = broker.topics().version();
    let config = BrokerConfig { trace_topic: Some("TRACES".into()), ..BrokerConfig::default() };
    broker.set_config(BrokerConfig { permission: perm::READ, ..config });
    assert_ne!(broker.topics().version(), before, "a version that is known is not taken in");
    assert_eq!(told.load(std::sync::atomic::Ordering::SeqCst), 2, "of the trace topic, and of it");
    assert!(broker.topics().get("TRACES").is_some());
}
