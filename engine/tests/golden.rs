//! Stores that Java brokers wrote, against what these brokers say of them: the small ones in
//! `fixtures/`, which `interop/make-fixtures` makes, and larger ones that are no part of the project.
//! `MQ_GOLDEN=folder cargo test -p mq-store --test golden -- --nocapture` reads every
//! `<name>.tar.zst` there with its manifest `<name>.json.gz`, and damages a store as `damage.json`
//! tells; that needs gzip and python3.

#![allow(clippy::unwrap_used, reason = "a test that fails is a failed test")]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use mq_store::codec::checkpoint::Checkpoint;
use mq_store::codec::properties;
use mq_store::codec::queue_unit::{BATCH_UNIT_LEN, BatchUnit, Unit};
use mq_store::codec::record::Record;
use mq_store::config::StoreConfig;
use mq_store::os::clock::{ManualClock, SystemClock};
use mq_store::os::fs::Fs;
use mq_store::recover::RecoveryReport;
use mq_store::segment::file_name;
use mq_store::store::{MessageStore, ReadLimits, as_record};
use mq_store::view::StoreView;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

fn golden() -> Option<PathBuf> {
    std::env::var_os("MQ_GOLDEN").map(PathBuf::from)
}

fn unpack(archive: &Path) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let zstd = zstd::Decoder::new(std::fs::File::open(archive).unwrap()).unwrap();
    tar::Archive::new(zstd).unpack(dir.path()).unwrap();
    dir
}

fn manifest(archive: &Path) -> Value {
    let name = archive.to_str().unwrap().replace(".tar.zst", ".json.gz");
    let json = Command::new("gzip").arg("-dc").arg(&name).output().unwrap().stdout;
    serde_json::from_slice(&json).unwrap()
}

fn open(root: &Path) -> (MessageStore, RecoveryReport) {
    // With the default lengths of files: the store's own are seen.
    let config = StoreConfig::at(root);
    MessageStore::open_with(config, Fs::default(), Arc::new(SystemClock), &mut |_, _| {}).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What differs between a record and what the manifest says of it.
fn differences(r: &Record<'_>, want: &Value) -> Vec<String> {
    let text: BTreeMap<&str, &str> = properties::pairs(r.properties()).collect();
    let said = |key: &str| Value::from(text.get(key).copied());
    let born = r.born_host().to_string();
    let got = [
        ("recordSha256", hex(r.bytes()).into()),
        ("topic", r.topic().into()),
        ("queueId", r.queue_id().into()),
        ("queueOffset", r.queue_offset().into()),
        ("commitLogOffset", r.physical_offset().into()),
        ("storeSize", r.size().into()),
        ("offsetMsgId", r.offset_msg_id().into()),
        ("keys", said("KEYS")),
        ("tags", said("TAGS")),
        ("flag", r.flag().into()),
        ("sysFlag", r.sys_flag().into()),
        ("bornTimestamp", r.born_timestamp().into()),
        ("bornHost", born.into()),
        ("storeTimestamp", r.store_timestamp().into()),
        ("storeHost", r.store_host().to_string().into()),
        ("reconsumeTimes", r.reconsume_times().into()),
        ("preparedTransactionOffset", r.prepared_transaction_offset().into()),
        ("bodyCRC", r.body_crc().into()),
        ("bodyLength", r.body().len().into()),
        ("bodySha256", hex(r.body()).into()),
        ("properties", serde_json::to_value(&text).unwrap()),
    ];
    // Java writes out all eight groups of an IPv6 address.
    let host = |v: &Value| v.as_str()?.parse::<SocketAddr>().ok();
    let is_same = |a: &Value, b: &Value| a == b || host(a).is_some_and(|a| Some(a) == host(b));
    let is_other = |name: &str, got: &Value| want.get(name).is_some_and(|want| !is_same(want, got));
    let other = got.iter().filter(|(name, got)| is_other(name, got));
    other.map(|(name, got)| format!("{name} is {got}, not {}", want[*name])).collect()
}

/// The record that a queue gives out at an offset.
fn read_one(
    store: &MessageStore,
    topic: &str,
    queue: i32,
    offset: i64,
) -> Option<mq_store::os::map::Slice> {
    let one = ReadLimits { messages: 1, scan: 1, ..ReadLimits::default() };
    store.read(topic, queue, offset, &one, |_| true).records.pop()
}

fn name_of(queue: &Value) -> (&str, i32) {
    (queue["topic"].as_str().unwrap(), queue["queueId"].as_i64().unwrap() as i32)
}

/// Compares all that the manifest says with what the store gives; number of messages seen.
fn compare(store: &MessageStore, manifest: &Value, wrong: &mut Vec<String>) -> usize {
    let mut seen = 0;
    for queue in list(manifest, "queues") {
        let (topic, id) = name_of(queue);
        // Compacted topics have a log of their own, which is left alone.
        if topic == "Compact" {
            continue;
        }
        let is_batch = store.queues().is_batch(topic);
        let limits = [store.min_offset(topic, id), store.max_offset(topic, id)].map(Value::from);
        let killed = manifest["about"]["kind"] == "killed";
        if !killed && limits != [queue["min"].clone(), queue["max"].clone()] {
            wrong
                .push(format!("{topic}/{id} is {limits:?}, not {} {}", queue["min"], queue["max"]));
        }
        let min = queue["min"].as_i64().unwrap_or(0);
        for (n, want) in list(queue, "units").iter().enumerate() {
            let unit = store.queues().get(topic, id).and_then(|q| q.get(min as u64 + n as u64));
            // An address in an extension, which is lost with the queue.
            let is_address = want[2].as_i64().is_some_and(|code| code <= -2_147_483_649);
            let code = |code: i64| if is_address { want[2].clone() } else { code.into() };
            let unit = unit.map(|u| serde_json::json!([u.offset, u.size, code(u.tags_code)]));
            if !is_batch && unit.as_ref() != Some(want) {
                wrong.push(format!("unit {n} of {topic}/{id} is {unit:?}, not {want}"));
            }
        }
        for want in list(queue, "messages") {
            let at = want["commitLogOffset"].as_u64().unwrap();
            let light = topic.starts_with("%LMQ%");
            let slice = read_one(store, topic, id, want["queueOffset"].as_i64().unwrap());
            match slice.as_ref().and_then(|slice| as_record(slice)) {
                None => {
                    wrong.push(format!("{topic}/{id}, offset {}, is missing", want["queueOffset"]))
                }
                Some(r) => {
                    // A light queue gives out another queue's record; a batch holds several messages.
                    let mut other = if light || is_batch { vec![] } else { differences(&r, want) };
                    if r.physical_offset().unsigned_abs() != at {
                        other.push(format!("it is that at {}", r.physical_offset()));
                    }
                    let what = format!("{topic}/{id}, offset {}: ", want["queueOffset"]);
                    wrong.extend(other.into_iter().map(|other| what.clone() + &other));
                    seen += 1;
                }
            }
        }
    }
    while store.index_step().unwrap() {}
    while store.check_index_step().unwrap() {}
    assert_eq!(store.damaged_index_files(), 0);
    for query in list(manifest, "keyQueries") {
        let (topic, key) = (query["topic"].as_str().unwrap(), query["key"].as_str().unwrap());
        let found = store.query(topic, key, 64, 0, i64::MAX).records;
        let found: Vec<i64> =
            found.iter().filter_map(|s| Some(as_record(s)?.physical_offset())).collect();
        for want in list(query, "found").iter().filter_map(Value::as_i64) {
            let is_of_key = store.record_at(want as u64).is_some_and(|slice| {
                as_record(&slice).is_some_and(|r| mq_store::view::has_key(&r, topic, key))
            });
            if is_of_key && !found.contains(&want) {
                wrong.push(format!("{topic}, key {key}: {want} is not among {found:?}"));
            }
        }
    }
    seen
}

/// What a producer had an answer for is there.
fn compare_acknowledged(store: &MessageStore, manifest: &Value, wrong: &mut Vec<String>) -> usize {
    let acknowledged = list(&manifest["about"], "acknowledged");
    let mut seen = 0;
    for ack in acknowledged {
        for id in ack[3].as_str().unwrap().split(',') {
            let at = u64::from_str_radix(&id[id.len() - 16..], 16).unwrap();
            let slice = store.record_at(at);
            let record = slice.as_ref().and_then(|slice| as_record(slice));
            match record.map(|r| r.check_body()) {
                Some(Ok(())) => seen += 1,
                other => wrong.push(format!("the acknowledged {id} is {other:?}")),
            }
        }
    }
    seen
}

fn compare_offsets(root: &Path, manifest: &Value, wrong: &mut Vec<String>) {
    let view = StoreView::open(root).unwrap();
    let (committed, _) = view.committed();
    let table = manifest["config"]["consumerOffsets"]["offsetTable"].as_object();
    for (key, queues) in table.into_iter().flatten() {
        let (topic, group) = key.split_once('@').unwrap();
        for (id, want) in queues.as_object().unwrap() {
            let is = |c: &&mq_store::view::Committed| {
                (&*c.topic, &*c.group, c.queue_id.to_string()) == (topic, group, id.clone())
            };
            let got = committed.iter().find(is).map(|c| c.offset);
            if got != want.as_i64() {
                wrong.push(format!("{key}/{id} is at {got:?}, not {want}"));
            }
        }
    }
}

/// Reads a store as it is, goes on with it, and reads it again. What is wrong, after a line that
/// tells what was there.
fn check(root: &Path, manifest: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    if manifest["about"]["kind"] != "killed" {
        compare_offsets(root, manifest, &mut wrong);
    }
    let (store, report) = open(root);
    let seen = compare(&store, manifest, &mut wrong);
    let acknowledged = compare_acknowledged(&store, manifest, &mut wrong);
    for n in 0..100 {
        common::append(&store, n);
    }
    drop(store);
    let (store, again) = open(root);
    assert!(again.fast, "{again}");
    if wrong.is_empty() {
        compare(&store, manifest, &mut wrong);
    }
    common::assert_holds(&store, 100);
    assert!(seen > 0);
    println!("{seen} messages, {acknowledged} acknowledged, {} wrong; {report}", wrong.len());
    wrong.iter().take(20).for_each(|w| println!("    {w}"));
    wrong
}

fn archives(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut archives: Vec<_> =
        paths.filter(|path| path.to_str().unwrap().ends_with(".tar.zst")).collect();
    archives.sort();
    archives
}

#[test]
fn fixtures_of_java_brokers_are_read_as_they_are() {
    let fixtures = archives(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"));
    assert_eq!(fixtures.len(), 4);
    for archive in fixtures {
        println!("{}", archive.display());
        for killed in [false, true] {
            let dir = unpack(&archive);
            let manifest = std::fs::read(dir.path().join("manifest.json")).unwrap();
            if killed {
                std::fs::write(dir.path().join("abort"), "").unwrap();
                std::fs::remove_dir_all(dir.path().join("consumequeue")).unwrap();
                let _ = std::fs::remove_dir_all(dir.path().join("batchconsumequeue"));
            }
            let wrong = check(dir.path(), &serde_json::from_slice(&manifest).unwrap());
            assert!(wrong.is_empty(), "{}, killed: {killed}: {wrong:?}", archive.display());
        }
    }
}

#[test]
fn stores_of_java_brokers_are_read_as_they_are() {
    let Some(golden) = golden() else { return };
    let mut bad = 0;
    for archive in archives(&golden) {
        println!("{}", archive.display());
        let manifest = manifest(&archive);
        bad += check(unpack(&archive).path(), &manifest).len();
        // Without its queues and killed it is the same.
        let lost = unpack(&archive);
        std::fs::write(lost.path().join("abort"), "").unwrap();
        std::fs::remove_dir_all(lost.path().join("consumequeue")).unwrap();
        let _ = std::fs::remove_dir_all(lost.path().join("batchconsumequeue"));
        let (store, _) = open(lost.path());
        let mut wrong = Vec::new();
        compare(&store, &manifest, &mut wrong);
        println!("its queues made again: {} wrong", wrong.len());
        wrong.iter().take(20).for_each(|w| println!("    {w}"));
        bad += wrong.len();
        if archive.to_str().unwrap().contains("features") {
            let refused = store.append(&common::message("InnerBatch", 0, b"")).unwrap_err();
            assert!(refused.to_string().contains("BatchCQ"), "{refused}");
            assert!(!lost.path().join("consumequeue/InnerBatch").exists());
        }
    }
    assert_eq!(bad, 0);
}

/// The small store of what only 5.x writes: batch queues, records of version 2, CRCs of whole records.
fn features() -> (TempDir, Value) {
    let dir = unpack(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/5.5.0-features.tar.zst"),
    );
    let manifest = std::fs::read(dir.path().join("manifest.json")).unwrap();
    let manifest = serde_json::from_slice(&manifest).unwrap();
    (dir, manifest)
}

fn batch_files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(root.join("batchconsumequeue/Batches/0")).unwrap();
    let named = |path: PathBuf| (path.to_str().unwrap().to_owned(), std::fs::read(path).unwrap());
    files.map(|e| named(e.unwrap().path())).collect()
}

/// Batch queues that are gone, behind, damaged or ahead of the log become what they were, byte for
/// byte, after a kill and after a clean stop of the Java broker.
#[test]
fn batch_queues_are_made_as_java_makes_them() {
    type Harm = fn(&mut Vec<u8>);
    let harms: [(&str, Harm); 5] = [
        ("gone", |file| file.clear()),
        ("behind", |file| file[46..].fill(0)),
        ("short", |file| file.truncate(100)),
        ("flipped", |file| file[46 + 30] ^= 8),
        ("garbage", |file| file[92..].fill(0x11)),
    ];
    for (name, harm) in harms {
        for file in 0..2 {
            for killed in [false, true] {
                let (dir, manifest) = features();
                let sound = batch_files(dir.path());
                assert_eq!(sound.len(), 2);
                let (path, bytes) = sound.iter().nth(file).unwrap();
                let mut bytes = bytes.clone();
                harm(&mut bytes);
                std::fs::write(path, &bytes).unwrap();
                if bytes.is_empty() {
                    std::fs::remove_file(path).unwrap();
                }
                if killed {
                    std::fs::write(dir.path().join("abort"), "").unwrap();
                }
                let mut wrong = Vec::new();
                compare(&open(dir.path()).0, &manifest, &mut wrong);
                assert!(wrong.is_empty(), "{name}, file {file}, killed: {killed}: {wrong:?}");
                assert_eq!(batch_files(dir.path()), sound, "{name}, file {file}, {killed}");
            }
        }
    }
}

/// In place of the unit of a batch that the log has lost no other is believed whose offsets are those of
/// batches in front of it: they would not be found.
#[test]
fn a_lost_batch_lends_its_place_to_no_other() {
    for killed in [false, true] {
        let (dir, _) = features();
        let (path, mut units) = batch_files(dir.path()).pop_first().unwrap();
        let places = [0, 1, 2].map(|n| BatchUnit::decode(&units[n * BATCH_UNIT_LEN..]).unwrap());
        let lost = places[2].unit.offset;
        let other = Unit { offset: lost + 1, ..places[2].unit };
        let other = BatchUnit { unit: other, base: 0, count: 1, ..places[2] };
        units[2 * BATCH_UNIT_LEN..].copy_from_slice(&other.encode());
        std::fs::write(path, units).unwrap();
        let log = dir.path().join("commitlog").join(file_name(0));
        let mut bytes = std::fs::read(&log).unwrap();
        bytes[lost as usize + 4] ^= 1;
        std::fs::write(log, bytes).unwrap();
        if killed {
            std::fs::write(dir.path().join("abort"), "").unwrap();
        }
        let (store, report) = open(dir.path());
        let first = |offset| {
            let read = store.read("Batches", 0, offset, &ReadLimits::default(), |_| true);
            as_record(&read.records[0]).unwrap().physical_offset().unsigned_abs()
        };
        assert_eq!([first(0), first(2)], [places[0], places[1]].map(|p| p.unit.offset), "{report}");
        assert!(first(5) > lost, "{report}");
    }
}

/// What a batch queue gives: the batch that holds the message asked for, whole, and those behind it, as
/// many as their messages are wanted.
#[test]
fn batches_are_read_whole() {
    let (dir, _) = features();
    let (store, _) = open(dir.path());
    // Batches of 2, 3, 4, 5 and 6 messages.
    let read = |offset, messages| {
        let limits = ReadLimits { messages, ..ReadLimits::default() };
        let read = store.read("Batches", 0, offset, &limits, |_| true);
        (read.status.name(), read.records.len(), read.next)
    };
    assert_eq!((store.min_offset("Batches", 0), store.max_offset("Batches", 0)), (0, 20));
    assert_eq!(read(0, 32), ("FOUND", 5, 20));
    assert_eq!(read(1, 5), ("FOUND", 2, 5));
    assert_eq!(read(2, 1), ("FOUND", 1, 5));
    assert_eq!(read(19, 1), ("FOUND", 1, 20));
    assert_eq!(read(20, 1), ("OFFSET_OVERFLOW_ONE", 0, 20));
    assert_eq!(read(21, 1), ("OFFSET_OVERFLOW_BADLY", 0, 20));
    assert_eq!(read(-1, 1), ("OFFSET_TOO_SMALL", 0, 0));
    let time = store.store_time("Batches", 0, 6).unwrap();
    assert_eq!(store.offset_by_time("Batches", 0, time), 5);
    assert_eq!(store.offset_by_time("Batches", 0, i64::MAX), 20);
    store.delete_topic("Batches").unwrap();
    assert_eq!(read(0, 32).0, "NO_MESSAGE_IN_QUEUE");
    drop(store);
    std::fs::write(dir.path().join("abort"), "").unwrap();
    let (store, _) = open(dir.path());
    assert_eq!(store.max_offset("Batches", 0), 0, "it was deleted");
}

/// A CRC at a record's end that is another record's, as a client may have sent it along, or that does not
/// fit since something beside the body changed, hides no message.
#[test]
fn a_wrong_crc_at_the_end_hides_no_message() {
    let (dir, manifest) = features();
    let third = &list(&manifest, "queues")[0]["messages"][2];
    let at = third["commitLogOffset"].as_u64().unwrap();
    let size = third["storeSize"].as_u64().unwrap();
    let path = dir.path().join("commitlog").join(file_name(0));
    let sound = std::fs::read(&path).unwrap();
    // Born time, store host, reconsume times, a property; the CRC itself.
    for place in [45, 66, 75, size - 25, size - 5] {
        let mut bytes = sound.clone();
        bytes[(at + place) as usize] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let killed = common::copy_of(dir.path());
        std::fs::write(killed.path().join("abort"), "").unwrap();
        let (store, report) = open(killed.path());
        assert_eq!((report.damage.len(), report.cut), (0, None), "{place}");
        let slice = store.record_at(at).unwrap();
        let record = as_record(&slice).unwrap();
        assert_eq!((record.check_body(), record.check_crc()), (Ok(()), Some(false)), "{place}");
        let offset = record.queue_offset();
        let read =
            store.read(record.topic(), record.queue_id(), offset, &ReadLimits::default(), |_| true);
        assert_eq!(read.records[0].len() as u64, size, "{place}");
        assert_eq!(store.damaged_reads(), 0, "{place}");
    }
}

/// Messages of the manifest that a damaged log still holds, and what is shown of them.
#[test]
fn damaged_stores_show_what_is_intact() {
    let Some(golden) = golden() else { return };
    let recipes = golden.join("damage.json");
    let damage: Value = serde_json::from_slice(&std::fs::read(&recipes).unwrap()).unwrap();
    let archive = golden.join("5.5.0-clean.tar.zst");
    let manifest = manifest(&archive);
    let file_len = damage["log_file_size"].as_u64().unwrap();
    let mut bad = Vec::new();
    println!("{:32} ours: shown lost      Java: shown missing changed", "damage");
    for variant in list(&damage, "variants") {
        let name = variant["name"].as_str().unwrap();
        let dir = unpack(&archive);
        let python = Command::new("python3")
            .arg(golden.join("damage.py"))
            .args(["apply", recipes.to_str().unwrap(), name, dir.path().to_str().unwrap()])
            .status();
        assert!(python.unwrap().success(), "{name}");
        let intact = |want: &Value| {
            let at = want["commitLogOffset"].as_u64().unwrap();
            let base = at - at % file_len;
            let file = std::fs::read(dir.path().join("commitlog").join(file_name(base)));
            let from = (at - base) as usize;
            let bytes = file.ok()?.get(from..from + want["storeSize"].as_u64()? as usize)?.to_vec();
            (hex(&bytes) == want["recordSha256"].as_str()?).then_some(())
        };
        let wanted: Vec<_> = list(&manifest, "queues")
            .iter()
            .flat_map(|queue| list(queue, "messages").iter().map(move |m| (name_of(queue), m)))
            .map(|(queue, m)| (queue, m, intact(m).is_some()))
            .collect();
        let (store, _report) = open(dir.path());
        let (mut shown, mut lost) = (0, Vec::new());
        for ((topic, id), want, intact) in wanted {
            let offset = want["queueOffset"].as_i64().unwrap();
            let slice = read_one(&store, topic, id, offset);
            let record = slice.as_ref().and_then(|slice| as_record(slice));
            if record.is_some_and(|r| differences(&r, want).is_empty()) {
                shown += 1;
            } else if intact {
                lost.push(format!("{topic}/{id} {offset}"));
            }
        }
        common::append(&store, 0);
        let java = &variant["java_result"];
        let java = match java["starts"].as_bool() {
            Some(true) => format!("{} {} {}", java["shown"], java["missing"], java["changed"]),
            _ => "does not start".into(),
        };
        println!("{name:32} {shown} {}      {java}", lost.len());
        lost.iter().take(5).for_each(|l| println!("    {l} is intact, and not shown"));
        if !lost.is_empty() {
            bad.push(name.to_owned());
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
}

/// A Java broker that was killed leaves times up to which log and queues were on the disk: the walk begins
/// with the last file that is older, if the queues have all that is below.
#[test]
fn what_a_java_broker_left_is_walked_from_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_795_467_835_737));
    let open = |root: &Path| {
        MessageStore::open_with(common::config(root), Fs::default(), clock.clone(), &mut |_, _| {})
            .unwrap()
    };
    let (store, _) = open(dir.path());
    (0..5).for_each(|n| _ = store.append(&common::message("quiet", 0, &[n])).unwrap());
    let places: Vec<u64> = (0..350)
        .map(|n| {
            clock.advance(100);
            common::append(&store, n)
        })
        .collect();
    let time = store.log().store_time(places[250]).unwrap();
    let checkpoint = Checkpoint { log_time: time + 500, queue_time: time, ..Default::default() };
    std::fs::write(dir.path().join("checkpoint"), checkpoint.encode()).unwrap();
    let settings = dir.path().join("config");
    std::fs::create_dir(&settings).unwrap();
    let topics = r#"{"topicConfigTable":{"T":{"perm":6},"quiet":{"perm":6}}}"#;
    std::fs::write(settings.join("topics.json"), topics).unwrap();
    let offsets = r#"{"offsetTable":{"quiet@G":{0:5},"T@G":{0:7},"gone@G":{0:999}}}"#;
    std::fs::write(settings.join("consumerOffset.json"), offsets).unwrap();

    // 3 s older than the checkpoint is message 220.
    let begins_file = |n: &usize| places[*n].is_multiple_of(common::LOG_FILE as u64);
    let first = (0..=220).rev().find(begins_file).unwrap();
    let mut killed = common::copy_of(dir.path());
    for _ in 0..2 {
        let (again, report) = open(killed.path());
        assert_eq!(report.walked_from, places[first], "{report}");
        assert_eq!(report.records as usize, 350 - first, "{report}");
        common::assert_holds(&again, 350);
        // Killed again before there is a checkpoint of ours.
        killed = common::copy_of(killed.path());
    }

    type Harm = fn(&Path);
    let harms: [Harm; 6] = [
        |root| std::fs::remove_dir_all(root.join("consumequeue/T/1")).unwrap(),
        |root| std::fs::remove_dir_all(root.join("consumequeue")).unwrap(),
        |root| {
            // What is left of the queue is older than where the walk would begin.
            for unit in [40, 60, 80, 100] {
                let _ =
                    std::fs::remove_file(root.join(format!("consumequeue/T/1/{:020}", unit * 20)));
            }
        },
        |root| std::fs::remove_dir_all(root.join("consumequeue/quiet")).unwrap(),
        |root| std::fs::write(root.join("mq-store.synced"), "{}").unwrap(),
        |root| std::fs::remove_file(root.join("checkpoint")).unwrap(),
    ];
    for (n, harm) in harms.iter().enumerate() {
        let harmed = common::copy_of(dir.path());
        harm(harmed.path());
        let (again, report) = open(harmed.path());
        assert_eq!((report.records, report.walked_from), (355, 0), "{n}: {report}");
        common::assert_holds(&again, 350);
        assert_eq!(again.max_offset("quiet", 0), 5, "{n}: {report}");
    }
}
