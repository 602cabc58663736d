//! Damaged stores, and what repair makes of them.

use std::path::Path;

use mq_store::config::StoreConfig;
use mq_store::store::{MessageStore, ReadLimits, as_record};
use serde_json::Value;

use crate::{
    Damage, Files, LOG_FILE, files, flip, json, log_file, message, numbers, open, run, store,
};

/// Where the message n of Orders stands, and how long it is.
fn place(store: &Path, n: u64) -> (u64, u64) {
    let message = &json(store, &["messages", "--property", &format!("n={n}")])[0];
    let number = |name: &str| message[name].as_u64().unwrap();
    (number("commitLogOffset"), number("storeSize"))
}

fn attic(store: &Path) -> Vec<u8> {
    let mut kept = Files::new();
    if store.join("attic").exists() {
        files(&store.join("attic"), &mut kept);
    }
    kept.into_values().flat_map(|(_, bytes)| bytes).collect()
}

/// Messages that our broker gives out of Orders, by number, and whether its start had to mend
/// anything.
fn served(root: &Path) -> Vec<u64> {
    let (store, report) = MessageStore::open(StoreConfig::at(root)).unwrap();
    assert!(
        report.clean && report.fast && report.damage.is_empty() && report.cut.is_none(),
        "{report}"
    );
    let mut all = Vec::new();
    for queue in 0..3 {
        let mut at = 0;
        loop {
            let read = store.read("Orders", queue, at, &ReadLimits::default(), |_| true);
            if read.next == at as u64 || read.next > read.max {
                break;
            }
            at = read.next as i64;
            for slice in read.records {
                let r = as_record(&slice).unwrap();
                assert_eq!(r.topic(), "Orders");
                all.push(r.property("n").unwrap().parse().unwrap());
            }
        }
    }
    all.sort();
    all.dedup();
    all
}

/// Damages a store, repairs it, and returns which messages are lost.
fn lost_by(damage: Damage<'_>) -> (Vec<u64>, String) {
    let dir = store();
    let root = dir.path();
    damage(root);
    assert_eq!(run(root, &["verify"]).0, 1);
    let (mut before, mut after) = (Files::new(), Files::new());
    files(root, &mut before);
    let (code, plan, errors) = run(root, &["repair", "--dry-run"]);
    files(root, &mut after);
    assert_eq!((code, before == after), (1, true), "a dry run changes nothing\n{plan}{errors}");
    let (code, out, errors) = run(root, &["repair"]);
    assert_eq!(code, 0, "{out}{errors}");
    assert!(out.contains("repair now        the store is sound"), "{out}");
    let (code, again, _) = run(root, &["verify"]);
    assert_eq!(code, 0, "{again}");
    assert_eq!(run(root, &["repair", "--dry-run"]).0, 0);
    let served = served(root);
    assert_eq!(numbers(&json(root, &["messages", "--topic", "Orders"])), served);
    // Every key finds its message, and no other.
    for n in [0, 17, 40, 41, 89] {
        let found =
            run(root, &["--json", "query", "--topic", "Orders", "--key", &format!("k{n}")]).1;
        assert_eq!(!found.is_empty(), served.contains(&n), "{n}");
    }
    // The store goes on.
    let (store, _) = MessageStore::open(StoreConfig::at(root)).unwrap();
    store.append(&message("Orders", b"new", b"")).unwrap();
    drop(store);
    assert_eq!(run(root, &["verify"]).0, 0);
    ((0..90).filter(|n| !served.contains(n)).collect(), out)
}

#[test]
fn damage_in_the_log_costs_only_what_is_damaged() {
    let (lost, out) = lost_by(&|s| {
        let (at, _) = place(s, 40);
        flip(&log_file(s, at), (at % LOG_FILE) as usize + 100);
    });
    assert_eq!(lost, [40]);
    assert!(out.contains("1 damaged records and 0 holes"), "{out}");
    // A broken head, at the beginning, in the middle, and three in a row over a file's end.
    // Magic number, queue offset (far off, and near by), length of the body.
    for (n, byte) in [(0, 5), (17, 5), (17, 20), (0, 27), (17, 27), (17, 99)] {
        let (lost, _) = lost_by(&|s| {
            let (at, _) = place(s, n);
            flip(&log_file(s, at), (at % LOG_FILE) as usize + byte);
        });
        assert_eq!(lost, [n], "byte {byte}");
    }
    let (lost, out) = lost_by(&|s| {
        let last_of_file = (0..90).filter(|n| place(s, *n).0 < LOG_FILE).max().unwrap();
        for n in [last_of_file - 1, last_of_file, last_of_file + 1] {
            let (at, _) = place(s, n);
            flip(&log_file(s, at), (at % LOG_FILE) as usize + 5);
        }
    });
    assert_eq!(lost.len(), 3, "{out}");
}

#[test]
fn files_that_are_missing_or_short_cost_what_was_in_them() {
    let in_file = |s: &Path, n: u64| -> Vec<u64> {
        (0..90).filter(|m| place(s, *m).0 / LOG_FILE == n).collect()
    };
    let dir = store();
    let second = in_file(dir.path(), 1);
    let (lost, _) = lost_by(&|s| std::fs::remove_file(log_file(s, LOG_FILE)).unwrap());
    assert_eq!(lost, second);
    let (lost, _) = lost_by(&|s| {
        let file = std::fs::File::options().write(true).open(log_file(s, LOG_FILE)).unwrap();
        file.set_len(5000).unwrap();
    });
    assert!(!lost.is_empty() && lost.iter().all(|n| second.contains(n)), "{lost:?}");
    // Lost pages, also in the last file.
    let last = place(dir.path(), 89).0;
    for position in [LOG_FILE, last] {
        let (lost, _) = lost_by(&|s| {
            let path = log_file(s, position);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[1000..2000].fill(0);
            std::fs::write(path, bytes).unwrap();
        });
        assert!((1..=5).contains(&lost.len()), "{lost:?}");
    }
}

#[test]
fn what_is_made_from_the_log_costs_nothing() {
    let queue = |n: i32| format!("consumequeue/Orders/{n}/{:020}", 0);
    let cases: [(&str, Damage<'_>); 8] = [
        ("queues", &|s| flip(&s.join(queue(1)), 20 * 3 + 7)),
        ("queues", &|s| flip(&s.join(queue(1)), 20 * 3 + 11)),
        ("queues", &|s| flip(&s.join(queue(2)), 20 * 3 + 19)),
        ("queues", &|s| std::fs::remove_dir_all(s.join("consumequeue/Orders/2")).unwrap()),
        ("index", &|s| {
            let index = std::fs::read_dir(s.join("index")).unwrap().next().unwrap().unwrap();
            flip(&index.path(), 40 + 4 * 25 + 20 * 50 + 10);
        }),
        ("checkpoint", &|s| flip(&s.join("checkpoint"), 0)),
        ("file", &|s| std::fs::write(s.join("commitlog/notes.txt"), "x").unwrap()),
        ("log", &|s| {
            let end = json(s, &["summary"])[0]["maxPhyOffset"].as_u64().unwrap();
            flip(&log_file(s, end), (end % LOG_FILE) as usize + 6);
        }),
    ];
    for (what, damage) in cases {
        let (lost, out) = lost_by(damage);
        assert!(lost.is_empty(), "{what}: {lost:?}");
        assert!(out.contains(&format!("repair {what}")), "{out}");
    }
}

#[test]
fn every_byte_that_is_cut_or_replaced_is_kept() {
    let dir = store();
    let root = dir.path();
    let (at, size) = place(root, 40);
    flip(&log_file(root, at), (at % LOG_FILE) as usize + 100);
    let record = std::fs::read(log_file(root, at)).unwrap();
    let record = &record[(at % LOG_FILE) as usize..][..size as usize];
    let queue = root.join(format!("consumequeue/Orders/1/{:020}", 0));
    flip(&queue, 20 * 3 + 7);
    let queue = std::fs::read(queue).unwrap();
    std::fs::write(root.join("config/topics.json.bak"), r#"{"topicConfigTable":{"Old":{}}}"#)
        .unwrap();
    flip(&root.join("config/topics.json"), 0);
    let topics = std::fs::read(root.join("config/topics.json")).unwrap();
    let (code, out, errors) = run(root, &["repair"]);
    assert_eq!(code, 0, "{out}{errors}");
    let kept = attic(root);
    for bytes in [record, &queue, &topics] {
        assert!(kept.windows(bytes.len()).any(|w| w == bytes), "{out}");
    }
    let topics: Value =
        serde_json::from_slice(&std::fs::read(root.join("config/topics.json")).unwrap()).unwrap();
    assert!(topics["topicConfigTable"]["Old"].is_object());
}

#[test]
fn an_interrupted_repair_is_done_again() {
    let dir = store();
    let root = dir.path();
    let (at, _) = place(root, 40);
    flip(&log_file(root, at), (at % LOG_FILE) as usize + 100);
    let queue = root.join(format!("consumequeue/Orders/1/{:020}", 0));
    let units = std::fs::read(&queue).unwrap();
    assert_eq!(run(root, &["repair"]).0, 0);
    // As if it had ended before the units were seen to.
    std::fs::write(&queue, units).unwrap();
    assert_eq!(run(root, &["verify"]).0, 1);
    let (code, out, errors) = run(root, &["repair"]);
    assert_eq!(code, 0, "{out}{errors}");
    assert_eq!(served(root), (0..90).filter(|n| *n != 40).collect::<Vec<_>>());
}

#[test]
fn zeros_in_a_property_take_no_message_away() {
    let dir = store();
    let root = dir.path();
    let (at, size) = place(root, 40);
    let zero = |from_end: u64| {
        let path = log_file(root, at);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[((at + size) % LOG_FILE - from_end) as usize] = 0;
        std::fs::write(path, bytes).unwrap();
    };
    zero(3);
    assert_eq!(run(root, &["repair"]).0, 1, "told, and left");
    assert_eq!(json(root, &["messages", "--topic", "Orders"]).len(), 90);
    // The end was torn off.
    zero(1);
    assert_eq!(run(root, &["repair"]).0, 0);
    assert_eq!(json(root, &["messages", "--topic", "Orders"]).len(), 89);
}

#[test]
fn offsets_behind_the_end_go_back_to_it() {
    let dir = store();
    let offsets = dir.path().join("config/consumerOffset.json");
    std::fs::write(&offsets, r#"{"offsetTable":{"Orders@G":{0:10,1:31}}}"#).unwrap();
    assert_eq!(run(dir.path(), &["verify"]).0, 1);
    assert_eq!(run(dir.path(), &["repair"]).0, 0);
    let offsets: Value = serde_json::from_slice(&std::fs::read(&offsets).unwrap()).unwrap();
    assert_eq!(offsets["offsetTable"]["Orders@G"], serde_json::json!({"0": 10, "1": 30}));
}

#[test]
fn a_store_in_use_is_not_repaired_and_a_sound_one_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let open = open(dir.path());
    let (code, _, errors) = run(dir.path(), &["repair"]);
    assert_eq!((code, errors.contains("is in use by process")), (2, true), "{errors}");
    drop(open);
    let (mut before, mut after) = (Files::new(), Files::new());
    files(dir.path(), &mut before);
    assert_eq!(run(dir.path(), &["repair"]).0, 0);
    files(dir.path(), &mut after);
    before.remove(&dir.path().join("lock"));
    after.remove(&dir.path().join("lock"));
    assert!(before == after, "a sound store is left alone");
}
