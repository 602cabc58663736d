//! Transactional messages, with a clock that a test moves.

#![allow(clippy::unwrap_used, reason = "a test that fails is a failed test")]

mod common;

use std::path::Path;
use std::sync::Arc;

use mq_store::broker::send::{Sending, Sent};
use mq_store::broker::transaction::{Check, End};
use mq_store::broker::{Broker, BrokerConfig, Refusal};
use mq_store::codec::record::Message;
use mq_store::config::StoreConfig;
use mq_store::log::flush::FlushPolicy;
use mq_store::os::clock::{Clock, ManualClock};
use mq_store::os::fs::Fs;
use mq_store::store::{MessageStore, ReadLimits, as_record};

const NOW: i64 = 1_795_467_835_737;
const HALF: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
const OP: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
const GIVEN_UP: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
const GROUP: &str = "CID_RMQ_SYS_TRANS";

struct House {
    broker: Arc<Broker>,
    clock: Arc<ManualClock>,
}

fn open_with(root: &Path, config: BrokerConfig, flush: FlushPolicy, now_ms: i64) -> House {
    let clock = Arc::new(ManualClock::at(now_ms));
    let store = StoreConfig { flush, ..common::config(root) };
    let (store, _) =
        MessageStore::open_with(store, Fs::default(), clock.clone(), &mut |_, _| {}).unwrap();
    let (broker, notes) = Broker::open(Arc::new(store), config, Box::new(|_| {}));
    assert!(notes.iter().all(|n| n.contains("no settings")), "{notes:?}");
    House { broker, clock }
}

fn open_at(root: &Path, now_ms: i64) -> House {
    let flush = StoreConfig::at(root).flush;
    open_with(root, BrokerConfig::default(), flush, now_ms)
}

fn open(root: &Path) -> House {
    open_at(root, NOW)
}

fn sending<'a>(body: &'a str, properties: &'a str) -> Sending<'a> {
    Sending {
        topic: "T",
        queue_id: 1,
        default_topic: "TBW102",
        default_queues: 4,
        unit_mode: false,
        sys_flag: 4,
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

fn half(broker: &Broker, body: &str, more: &str) -> Sent {
    let text = format!(
        "TRAN_MSG\u{1}true\u{2}PGROUP\u{1}P\u{2}UNIQ_KEY\u{1}U-{body}\u{2}TAGS\u{1}t{more}"
    );
    broker.send(&sending(body, &text)).unwrap()
}

fn end_of(sent: &Sent, commit: bool) -> End<'static> {
    End {
        group: "P",
        queue_offset: sent.appended.queue_offset as i64,
        physical_offset: sent.appended.physical_offset as i64,
        commit,
    }
}

fn answer(check: &Check, commit: bool) -> End<'static> {
    let (queue_offset, physical_offset) = (check.queue_offset, check.physical_offset);
    End { group: "P", queue_offset, physical_offset, commit }
}

/// Of each record of a queue what `look` finds.
fn all<T>(
    broker: &Broker,
    topic: &str,
    queue_id: i32,
    look: impl Fn(mq_store::codec::record::Record<'_>) -> T,
) -> Vec<T> {
    let limits = ReadLimits { messages: 1000, ..ReadLimits::default() };
    let read = broker.store().read(topic, queue_id, 0, &limits, |_| true);
    read.records.iter().map(|slice| look(as_record(slice).unwrap())).collect()
}

fn bodies(broker: &Broker, topic: &str) -> Vec<String> {
    let queue_id = i32::from(topic == "T");
    all(broker, topic, queue_id, |r| String::from_utf8(r.body().to_vec()).unwrap())
}

fn checks(broker: &Broker) -> Vec<Check> {
    let mut checks = Vec::new();
    broker.check_step(&mut |check| checks.push(check)).unwrap();
    checks
}

fn offsets(broker: &Broker) -> (Option<i64>, Option<i64>) {
    (broker.offsets().get(GROUP, HALF, 0), broker.offsets().get(GROUP, OP, 0))
}

#[test]
fn records_are_as_rocketmq_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    let House { broker, .. } = open(dir.path());
    assert!(broker.topics().get(HALF).is_none(), "made when first used");
    let zero = half(&broker, "zero", "");
    let sent = half(&broker, "one", "\u{2}DELAY\u{1}3\u{2}TRANSACTION_CHECK_TIMES\u{1}99");
    assert_eq!((sent.appended.queue_offset, sent.queue_id), (1, 1), "of half queue; as asked");
    let text = |r: mq_store::codec::record::Record<'_>| {
        String::from_utf8(r.properties().to_vec()).unwrap().replace('\u{1}', "=")
    };
    let halves = all(&broker, HALF, 0, |r| (r.sys_flag(), r.flag(), text(r)));
    let common = "TRAN_MSG=true\u{2}PGROUP=P\u{2}UNIQ_KEY=U-zero\u{2}TAGS=t\u{2}\
        CLUSTER=DefaultCluster\u{2}MSG_REGION=DefaultRegion\u{2}TRACE_ON=true\u{2}";
    assert_eq!(halves[0], (0, 7, format!("{common}REAL_TOPIC=T\u{2}REAL_QID=1\u{2}")));
    assert!(!halves[1].2.contains("CHECK_TIMES"), "that is for the broker to say");
    assert_eq!(broker.store().max_offset("T", 1), 0);

    broker.end_transaction(&end_of(&sent, true)).unwrap().unwrap();
    broker.end_transaction(&end_of(&zero, false)).unwrap().unwrap();
    let ops = all(&broker, OP, 0, |r| {
        (String::from_utf8(r.body().to_vec()).unwrap(), r.sys_flag(), text(r))
    });
    let op = |n: &str| (n.to_owned(), 0, "TAGS=d\u{2}".to_owned());
    assert_eq!(ops, [op("1"), op("0")]);
    let at = sent.appended.physical_offset as i64;
    let real = all(&broker, "T", 1, |r| {
        assert_eq!((r.born_timestamp(), r.body()), (1, &b"one"[..]));
        assert!(r.property("REAL_TOPIC").is_none() && r.property("REAL_QID").is_none());
        assert_eq!((r.property("TRAN_MSG"), r.property("PGROUP")), (Some("true"), Some("P")));
        (r.sys_flag(), r.prepared_transaction_offset())
    });
    assert_eq!(real, [(8, at)]);
    for topic in [HALF, OP] {
        let config = broker.topics().get(topic).unwrap();
        assert_eq!((config.write_queue_nums, config.perm), (1, 6));
    }
    assert_eq!(broker.store().max_offset("SCHEDULE_TOPIC_XXXX", 2), 0, "no delay");
    broker.close().unwrap();
    assert_eq!(offsets(&broker), (Some(2), Some(2)));
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_delivered_twice() {
    let dir = tempfile::tempdir().unwrap();
    let House { broker, .. } = open(dir.path());
    let sent = half(&broker, "m", "");
    let good = end_of(&sent, true);
    let other = broker.send(&Sending { sys_flag: 0, ..sending("other", "PGROUP\u{1}P\u{2}") });
    let other = other.unwrap().appended.physical_offset as i64;
    for (end, text) in [
        (End { physical_offset: good.physical_offset + 1, ..good }, "Find prepared transaction"),
        (End { physical_offset: -1, ..good }, "Find prepared transaction message failed"),
        (End { physical_offset: other, ..good }, "Find prepared transaction message failed"),
        (End { group: "Q", ..good }, "The producer group wrong"),
        (End { queue_offset: 1, ..good }, "The transaction state table offset wrong"),
    ] {
        let refused = broker.end_transaction(&end).unwrap_err();
        assert!(matches!(&refused, Refusal::Failed(why) if why.starts_with(text)), "{refused}");
    }
    assert!(broker.end_transaction(&good).unwrap().is_some());
    assert!(broker.end_transaction(&good).unwrap().is_none());
    assert!(broker.end_transaction(&end_of(&sent, false)).unwrap().is_none());
    assert_eq!(bodies(&broker, "T"), ["other", "m"]);

    let gone = half(&broker, "gone", "");
    broker.delete_topic("T").unwrap();
    let refused = broker.end_transaction(&end_of(&gone, true));
    assert!(matches!(refused, Err(Refusal::NoTopic(_))), "it waits for the topic to be made");
    assert_eq!(broker.open_transactions(), 1);

    let config = BrokerConfig { reject_transactions: true, ..BrokerConfig::default() };
    broker.set_config(config);
    let refused = broker.send(&sending("m", "TRAN_MSG\u{1}TRUE\u{2}"));
    assert!(matches!(refused, Err(Refusal::NoPermission(_))));
    // What a client before 4.6.1 sends back to a retry topic.
    let back = Sending {
        topic: "%RETRY%G",
        queue_id: 0,
        reconsume_times: 1,
        sys_flag: 0,
        ..sending("back", "TRAN_MSG\u{1}true\u{2}DELAY\u{1}3\u{2}")
    };
    broker.set_config(BrokerConfig::default());
    broker.send(&back).unwrap();
    assert_eq!(bodies(&broker, "SCHEDULE_TOPIC_XXXX").len() + broker.open_transactions(), 1);
    assert_eq!(broker.store().max_offset("SCHEDULE_TOPIC_XXXX", 2), 1);
}

#[test]
fn an_unsettled_half_is_asked_about_until_it_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let House { broker, clock } = open(dir.path());
    let first = half(&broker, "first", "");
    half(&broker, "second", "");
    clock.advance(5_999);
    assert!(checks(&broker).is_empty(), "too young");
    clock.advance(1);
    half(&broker, "third", "");
    let asked = checks(&broker);
    assert_eq!(asked.len(), 2);
    let check = &asked[0];
    assert_eq!((&*check.group, &*check.unique_key, check.queue_offset), ("P", "U-first", 3));
    let record = as_record(&check.record).unwrap();
    record.check_body().unwrap();
    assert_eq!((record.topic(), record.queue_id(), record.queue_offset()), ("T", 1, 3));
    assert_eq!(record.property("TRANSACTION_CHECK_TIMES"), Some("1"));
    assert_eq!(record.property("TRAN_PREPARED_QUEUE_OFFSET"), Some("0"));
    assert_eq!(record.offset_msg_id(), check.offset_msg_id);
    assert_eq!(record.physical_offset(), check.physical_offset);
    let stored = broker.store().record_at(check.physical_offset as u64).unwrap();
    assert_eq!(as_record(&stored).unwrap().topic(), HALF);
    assert_eq!(offsets(&broker), (Some(2), Some(0)), "the copies count now; third is young");
    assert!(checks(&broker).is_empty(), "the copies are young");

    broker.end_transaction(&answer(&asked[0], true)).unwrap().unwrap();
    assert!(broker.end_transaction(&end_of(&first, true)).unwrap().is_none(), "settled already");
    clock.advance(6_000);
    let again = checks(&broker);
    assert_eq!(again.iter().map(|c| &*c.unique_key).collect::<Vec<_>>(), ["U-third", "U-second"]);
    // A late answer that names an older copy counts as well.
    broker.end_transaction(&answer(&asked[1], true)).unwrap().unwrap();
    assert!(broker.end_transaction(&answer(&again[1], true)).unwrap().is_none());
    broker.end_transaction(&answer(&again[0], false)).unwrap().unwrap();
    assert_eq!(bodies(&broker, "T"), ["first", "second"]);
    assert_eq!(bodies(&broker, OP), ["3", "6", "5"], "the newest copies are settled");
    clock.advance(60_000);
    assert!(checks(&broker).is_empty());
    assert_eq!(offsets(&broker), (Some(7), Some(3)));
    assert_eq!(broker.open_transactions(), 0);
    let end = broker.store().log().end();
    assert!(checks(&broker).is_empty() && broker.store().log().end() == end, "nothing to do");
}

#[test]
fn one_that_is_never_settled_is_given_up_and_may_be_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let flush = StoreConfig::at(dir.path()).flush;
    let config = BrokerConfig { transaction_check_max: 2, ..BrokerConfig::default() };
    let House { broker, clock } = open_with(dir.path(), config, flush, NOW);
    let sent = half(&broker, "stuck", "");
    let mut asked = Vec::new();
    for _ in 0..4 {
        clock.advance(6_000);
        asked.extend(checks(&broker));
    }
    assert_eq!((asked.len(), bodies(&broker, GIVEN_UP)), (2, vec!["stuck".into()]));
    assert_eq!((offsets(&broker), broker.open_transactions()), ((Some(3), Some(1)), 0));
    assert!(broker.end_transaction(&answer(&asked[1], true)).unwrap().is_none(), "too late");
    let of_half = sent.appended.physical_offset;
    assert!(matches!(broker.resume_check(of_half), Err(Refusal::Failed(_))), "settled");
    assert!(matches!(broker.resume_check(1), Err(Refusal::Failed(_))));
    let given_up = all(&broker, GIVEN_UP, 0, |r| r.physical_offset().unsigned_abs());
    broker.resume_check(given_up[0]).unwrap();
    clock.advance(6_000);
    let again = checks(&broker);
    assert_eq!(again.len(), 1);
    let record = as_record(&again[0].record).unwrap();
    assert_eq!(record.property("TRANSACTION_CHECK_TIMES"), Some("1"), "counted anew");
    broker.resume_check(again[0].physical_offset as u64).unwrap();
    for _ in 0..2 {
        clock.advance(6_000);
        assert_eq!(checks(&broker).len(), 1);
    }
    broker.end_transaction(&answer(&again[0], true)).unwrap().unwrap();
    assert_eq!(bodies(&broker, "T"), ["stuck"]);

    // Nobody was there to look for longer than files are kept.
    half(&broker, "old", "");
    clock.advance(72 * 3_600_000 + 1);
    assert!(checks(&broker).is_empty());
    assert_eq!(bodies(&broker, GIVEN_UP), ["stuck", "old"]);
}

#[test]
fn a_half_is_not_asked_about_while_it_is_immune() {
    let dir = tempfile::tempdir().unwrap();
    let House { broker, clock } = open(dir.path());
    let immune = half(&broker, "immune", "\u{2}CHECK_IMMUNITY_TIME_IN_SECONDS\u{1}30\u{2}");
    half(&broker, "quick", "\u{2}CHECK_IMMUNITY_TIME_IN_SECONDS\u{1}1\u{2}");
    half(&broker, "odd", "\u{2}CHECK_IMMUNITY_TIME_IN_SECONDS\u{1}x\u{2}");
    clock.advance(6_000);
    let keys =
        |checks: &[Check]| -> Vec<String> { checks.iter().map(|c| c.unique_key.clone()).collect() };
    assert_eq!(keys(&checks(&broker)), ["U-quick", "U-odd"], "nothing is held up");
    clock.advance(23_999);
    assert_eq!(keys(&checks(&broker)), ["U-quick", "U-odd"]);
    let copies = all(&broker, HALF, 0, |r| {
        (r.property("TRAN_PREPARED_QUEUE_OFFSET").map(str::to_owned), r.body() == b"immune")
    });
    assert_eq!(copies[6], (Some("0".into()), true), "put back twice, not counted");
    drop(broker.close());
    drop(broker);
    let House { broker, clock } = open_at(dir.path(), NOW + 29_999);
    assert!(checks(&broker).is_empty());
    clock.advance(6_001);
    let asked = checks(&broker);
    assert_eq!(keys(&asked), ["U-immune", "U-quick", "U-odd"]);
    // The producer knows the first copy only.
    broker.end_transaction(&end_of(&immune, true)).unwrap().unwrap();
    assert!(broker.end_transaction(&answer(&asked[0], true)).unwrap().is_none());
    assert_eq!(bodies(&broker, "T"), ["immune"]);
}

#[test]
fn every_state_survives_a_restart_and_a_crash() {
    for flush in [StoreConfig::at(Path::new("x")).flush, FlushPolicy::Sync] {
        let dir = tempfile::tempdir().unwrap();
        let reopen = |root: &Path, now| open_with(root, BrokerConfig::default(), flush, now);
        let House { broker, clock } = reopen(dir.path(), NOW);
        let sent: Vec<Sent> = ["open", "committed", "rolled", "checked", "checked and committed"]
            .map(|body| half(&broker, body, ""))
            .into();
        broker.store().flush().unwrap();
        broker.end_transaction(&end_of(&sent[1], true)).unwrap().unwrap();
        broker.end_transaction(&end_of(&sent[2], false)).unwrap().unwrap();
        let crashed_early = common::copy_of(dir.path());
        clock.advance(6_000);
        let asked = checks(&broker);
        assert_eq!(asked.len(), 3);
        broker.end_transaction(&answer(&asked[2], true)).unwrap().unwrap();
        broker.store().flush().unwrap();
        let unsaved = common::copy_of(dir.path());
        broker.save_step().unwrap();
        let saved = common::copy_of(dir.path());
        broker.close().unwrap();
        drop(broker);

        let early = reopen(crashed_early.path(), NOW + 6_000).broker;
        assert_eq!(early.open_transactions(), 3);
        let twice = early.end_transaction(&end_of(&sent[1], true)).unwrap();
        assert!(twice.is_none() && bodies(&early, "T") == ["committed"]);
        for root in [unsaved.path(), saved.path(), dir.path()] {
            let House { broker, clock } = reopen(root, NOW + 6_000);
            assert_eq!(broker.open_transactions(), 2, "{root:?}");
            assert!(checks(&broker).is_empty(), "the copies are young");
            clock.advance(6_000);
            let again = checks(&broker);
            let keys: Vec<_> = again.iter().map(|c| &*c.unique_key).collect();
            assert_eq!(keys, ["U-open", "U-checked"]);
            let twice = as_record(&again[0].record).unwrap();
            assert_eq!(twice.property("TRANSACTION_CHECK_TIMES"), Some("2"));
            for settled in [&answer(&asked[2], true), &end_of(&sent[4], true)] {
                assert!(broker.end_transaction(settled).unwrap().is_none());
            }
            broker.end_transaction(&end_of(&sent[0], true)).unwrap().unwrap();
            broker.store().flush().unwrap();
            assert_eq!(bodies(&broker, "T"), ["committed", "checked and committed", "open"]);
            broker.close().unwrap();
            drop(broker);
            assert_eq!(reopen(root, clock.now_ms()).broker.open_transactions(), 1);
        }
    }
}

#[test]
fn a_crash_between_commit_and_op_delivers_once() {
    let dir = tempfile::tempdir().unwrap();
    let House { broker, .. } = open(dir.path());
    let sent = half(&broker, "m", "");
    half(&broker, "other", "");
    let killed = common::copy_of(dir.path());
    let early = open(killed.path()).broker;
    early.end_transaction(&end_of(&sent, true)).unwrap().unwrap();
    assert_eq!(bodies(&early, "T"), ["m"], "the topic's settings were not saved");
    // What a commit writes first.
    let commit = Message {
        sys_flag: 8,
        prepared_transaction_offset: sent.appended.physical_offset as i64,
        ..common::message("T", 1, b"m")
    };
    broker.store().append(&commit).unwrap();
    broker.store().append(&common::message("T", 1, b"behind")).unwrap();
    let killed = common::copy_of(dir.path());
    let House { broker, .. } = open(killed.path());
    assert_eq!((broker.open_transactions(), bodies(&broker, OP)), (1, vec!["0".into()]));
    assert!(broker.end_transaction(&end_of(&sent, true)).unwrap().is_none());
    assert_eq!(bodies(&broker, "T"), ["m", "behind"]);
}

#[test]
fn ops_of_newer_versions_are_read_and_settled_ones_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let House { broker, clock } = open(dir.path());
    let first = half(&broker, "first", "");
    for n in 1..3000 {
        let sent = half(&broker, &n.to_string(), "");
        if n > 4 {
            broker.end_transaction(&end_of(&sent, false)).unwrap();
        }
    }
    let joined = Message { properties: b"TAGS\x01d\x02", ..common::message(OP, 0, b"1,2,4,") };
    broker.store().append(&joined).unwrap();
    assert_eq!(broker.open_transactions(), 5);
    broker.save_step().unwrap();
    assert_eq!(offsets(&broker), (None, None), "the first one is open");
    let killed = common::copy_of(dir.path());
    let House { broker, .. } = open(killed.path());
    assert_eq!(broker.open_transactions(), 2, "first and 3");
    drop(broker);
    broker_moves_on(dir.path(), &clock, &first);
}

fn broker_moves_on(root: &Path, _: &ManualClock, first: &Sent) {
    let killed = common::copy_of(root);
    let House { broker, clock } = open(killed.path());
    broker.end_transaction(&end_of(first, false)).unwrap().unwrap();
    clock.advance(6_000);
    assert_eq!(checks(&broker).len(), 1);
    let (half, op) = offsets(&broker);
    assert_eq!((half, op), (Some(3000), Some(2997)), "only the copy of 3 is left to look at");
    broker.close().unwrap();
    drop(broker);
    let again = open_at(killed.path(), clock.now_ms());
    assert_eq!(again.broker.open_transactions(), 1);
}
