//! What is only looked at.

use std::process::{Command, Stdio};

use mq_store::codec::ids::tags_code;
use mq_store::codec::record::{Message, body_crc, sys_flag};
use serde_json::Value;

use crate::{
    Damage, Files, LOG_FILE, START, files, flip, json, log_file, message, numbers, open, run, store,
};

#[test]
fn nothing_in_the_store_changes() {
    let dir = store();
    let (mut before, mut after) = (Files::new(), Files::new());
    files(dir.path(), &mut before);
    for args in [
        "summary",
        "topics",
        "queues",
        "queues --units",
        "messages --body",
        "messages --reverse",
        "messages --topic Orders --queue 1",
        "message 0",
        "message U7",
        "message U7 --scan",
        "query --topic Orders --key all",
        "query --topic Orders --key all --scan",
        "offsets",
        "verify",
    ] {
        let args: Vec<_> = args.split(' ').collect();
        assert_eq!(run(dir.path(), &args).0, 0, "{args:?}");
        json(dir.path(), &args);
    }
    files(dir.path(), &mut after);
    assert!(before == after, "a file changed");
}

#[test]
fn summary_of_a_store_closed_killed_and_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (_, out, _) = run(dir.path(), &["summary"]);
    assert!(out.contains("IN USE by process"), "{out}");
    assert!(run(dir.path(), &["verify"]).1.contains("sound, as far as"));
    drop(store);
    let (_, out, _) = run(dir.path(), &["summary"]);
    for part in [
        "state       closed\n",
        "messages    93 of 2 topics\n",
        "93 of record version 1, 3 compressed\n",
        "stored      2026-11-23 21:03:55.737 to 2026-11-23 21:05:27.737\n",
        "files of 16,384 (16.0 KiB) bytes, 0 to ",
        "checkpoint  log 2026-11-23 21:05:27.737",
    ] {
        assert!(out.contains(part), "{part} in\n{out}");
    }
    std::fs::write(dir.path().join("abort"), "").unwrap();
    assert!(run(dir.path(), &["summary"]).1.contains("not closed"));
    assert_eq!(json(dir.path(), &["summary"])[0]["messages"], 93);
}

#[test]
fn topics_queues_and_groups() {
    let dir = store();
    let (_, out, _) = run(dir.path(), &["topics"]);
    let line = out.lines().nth(1).unwrap();
    assert!(line.starts_with("Orders       3        90"), "{out}");
    assert!(line.ends_with("2026-11-23 21:05:24.737     3      -     6"), "{out}");
    let queues = json(dir.path(), &["queues", "--topic", "Orders"]);
    assert_eq!(queues.len(), 3);
    assert_eq!((&queues[1]["minOffset"], &queues[1]["maxOffset"]), (&0.into(), &30.into()));
    let units = json(dir.path(), &["queues", "--units", "--topic", "Orders"]);
    assert_eq!((units.len(), &units[1]["tagsCode"]), (90, &tags_code(Some("größe")).into()));
    let lags: Vec<_> = json(dir.path(), &["offsets"])
        .iter()
        .map(|o| (o["group"].as_str().unwrap().to_owned(), o["lag"].as_i64().unwrap()))
        .collect();
    assert_eq!(lags, [("G".into(), 20), ("G".into(), 0), ("G_b@broadcast".into(), 30)]);
}

#[test]
fn messages_by_every_filter() {
    let dir = store();
    let find = |args: &str| {
        let args = format!("messages {args}");
        numbers(&json(dir.path(), &args.split(' ').collect::<Vec<_>>()))
    };
    assert_eq!(find("--topic Orders"), (0..90).collect::<Vec<_>>());
    assert_eq!(find("--topic Orders --queue 1 --offset 2..4"), [7, 10]);
    assert_eq!(find("--topic Orders --queue 1 --reverse --limit 2"), [88, 85]);
    assert_eq!(find("--topic Orders --reverse --limit 2"), [89, 88]);
    assert_eq!(find("--queue 2 --offset 5 --tag größe"), [17]);
    assert_eq!(find("--property n=5"), [5]);
    assert_eq!(find("--key k6"), [6]);
    assert_eq!(find("--key U6"), [6]);
    assert_eq!(find("--text \"order\":41,"), [41]);
    assert_eq!(find("--position ..800"), [0, 1]);
    let since = (START + 88_000).to_string();
    assert_eq!(find(&format!("--topic Orders --since {since}")), [88, 89]);
    assert_eq!(find("--until 2026-11-23T21:03:56.737Z"), [0, 1]);
    let packed = json(dir.path(), &["messages", "--text", "squeezed with"]);
    assert_eq!(packed.len(), 3);

    let first = &json(dir.path(), &["messages", "--limit", "1", "--body"])[0];
    assert_eq!(first["bornHost"], "[fd00:0:0:0:0:0:0:9]:5000");
    assert_eq!(first["storeHost"], "127.0.0.1:10911");
    assert_eq!(first["msgId"], "U0");
    assert!(first["body"].as_str().unwrap().starts_with("eyJvcmRlciI6MCw"));
    assert_eq!(first["bodyLength"], 321);
}

#[test]
fn one_message_in_full() {
    let dir = store();
    let message = &json(dir.path(), &["message", "U41"])[0];
    let ids = ["commitLogOffset", "offsetMsgId"].map(|field| match &message[field] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    for id in ids {
        assert_eq!(json(dir.path(), &["message", &id]), std::slice::from_ref(message));
        let (_, out, _) = run(dir.path(), &["message", &id]);
        assert!(out.contains("tags            größe\n"), "{out}");
        assert!(out.contains("322 bytes, JSON\n{\n"), "{out}");
    }
    let (code, _, errors) = run(dir.path(), &["message", "nobody"]);
    assert_eq!((code, errors.as_str()), (1, "mq-store-inspect: no message nobody\n"));
    for (n, kind) in ["zlib", "lz4", "zstd"].iter().enumerate() {
        let packed = &json(dir.path(), &["messages", "--topic", "Packed"])[n];
        let at = packed["commitLogOffset"].to_string();
        let (_, out, _) = run(dir.path(), &["message", &at]);
        assert!(out.contains(&format!("{kind} of ")), "{out}");
        assert!(out.ends_with(&format!("squeezed with {kind}\n")), "{out}");
    }
}

#[test]
fn queries_with_and_without_the_index() {
    let dir = store();
    let all: Vec<u64> = (0..90).rev().collect();
    for scan in [&[][..], &["--scan"]] {
        let find = |args: &[&str]| numbers(&json(dir.path(), &[&["query"], args, scan].concat()));
        assert_eq!(find(&["--topic", "Orders", "--key", "all", "--limit", "100"]), all);
        assert_eq!(find(&["--topic", "Orders", "--key", "all", "--limit", "2"]), [89, 88]);
        assert_eq!(find(&["--topic", "Orders", "--key", "k17"]), [17]);
        let none = [&["query", "--topic", "Packed", "--key", "all"], scan].concat();
        assert_eq!(run(dir.path(), &none).0, 1);
    }
}

#[test]
fn verify_finds_what_is_damaged() {
    let verify = |damage: Damage<'_>| {
        let dir = store();
        damage(dir.path());
        let (code, out, _) = run(dir.path(), &["verify"]);
        (code, out)
    };
    let (code, out) = verify(&|_| {});
    assert_eq!((code, out.contains("committed offsets: sound")), (0, true), "{out}");
    let log = |n: u64| format!("commitlog/{:020}", n * LOG_FILE);
    let cases: [(&str, Damage<'_>); 9] = [
        ("the message at 0 (Orders): the body does not match", &|s| flip(&s.join(log(0)), 100)),
        ("bytes from 0 on are lost", &|s| flip(&s.join(log(0)), 4)),
        ("a file is missing", &|s| std::fs::remove_file(s.join(log(1))).unwrap()),
        ("behind the last record", &|s| {
            let end = json(s, &["summary"])[0]["maxPhyOffset"].as_u64().unwrap();
            flip(&s.join(log(end / LOG_FILE)), (end % LOG_FILE) as usize);
        }),
        ("Orders queue 1: 1 units point at something other", &|s| {
            flip(&s.join("consumequeue/Orders/1").join(format!("{:020}", 0)), 20 * 3 + 7);
        }),
        ("30 messages are in the log and not yet in the queue (0 to 29)", &|s| {
            std::fs::remove_dir_all(s.join("consumequeue/Orders/2")).unwrap();
        }),
        ("point at no message of their key", &|s| {
            let index = std::fs::read_dir(s.join("index")).unwrap().next().unwrap().unwrap();
            flip(&index.path(), 40 + 4 * 25 + 20 * 50 + 10);
        }),
        ("speaks of times", &|s| flip(&s.join("checkpoint"), 0)),
        ("its .bak", &|s| flip(&s.join("config/topics.json"), 0)),
    ];
    for (what, damage) in cases {
        let (code, out) = verify(damage);
        assert_eq!((code, out.contains(what)), (1, true), "{what} in\n{out}");
    }
}

#[test]
fn what_cannot_be_looked_at_is_two_and_a_closed_pipe_is_no_error() {
    let dir = store();
    assert_eq!(run(&dir.path().join("none"), &["summary"]).0, 2);
    assert_eq!(run(tempfile::tempdir().unwrap().path(), &["summary"]).0, 2);
    assert_eq!(run(dir.path(), &["messages", "--since", "yesterday"]).0, 2);
    assert!(run(dir.path(), &["--help"]).1.contains("Exit codes: 0 done"));
    let mut tool = Command::new(env!("CARGO_BIN_EXE_mq-store-inspect"));
    let tool = tool.arg(dir.path()).args(["messages", "--body"]).stdout(Stdio::piped());
    let mut tool = tool.spawn().unwrap();
    drop(tool.stdout.take());
    assert!(tool.wait().unwrap().success());
}

/// A CRC of a whole record, which 5.x brokers can add, is believed where records around it have right
/// ones. Elsewhere a wrong one may be another record's. In no case it costs the message.
#[test]
fn crcs_of_whole_records() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let places = [0; 5].map(|_| {
        // We write none: this keeps its place.
        let message = message("Summed", b"x", b"__crc32#\x010000000000\x02");
        store.append(&message).unwrap().physical_offset
    });
    drop(store);
    let path = log_file(dir.path(), places[0]);
    let without = std::fs::read(&path).unwrap();
    let size = (places[1] - places[0]) as usize;
    // Of each record: r a right one, w a wrong one, - none.
    for (kinds, damage, suspicious) in [
        ("rrrrr", 0, 0),
        ("rrwrr", 1, 0),
        ("--w--", 0, 1),
        ("rw--w", 0, 2),
        ("-wr--", 0, 1),
        ("rwwr-", 0, 2),
    ] {
        let mut log = without.clone();
        for (at, kind) in places.iter().zip(kinds.chars()).filter(|(_, kind)| *kind != '-') {
            let record = &mut log[(at % LOG_FILE) as usize..][..size];
            let (covered, property) = record.split_at_mut(size - 20);
            let crc = body_crc(covered) ^ u32::from(kind == 'w');
            let digits: String = format!("{crc:010}").chars().rev().collect();
            property[..8].copy_from_slice(b"__CRC32#");
            property[9..19].copy_from_slice(digits.as_bytes());
        }
        std::fs::write(&path, log).unwrap();
        let (code, out, _) = run(dir.path(), &["--json", "verify"]);
        let told: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
        assert_eq!(code, i32::from(damage > 0), "{kinds}: {out}");
        assert_eq!(told["damage"], damage, "{kinds}: {out}");
        assert_eq!(told["suspicious"], suspicious, "{kinds}: {out}");
        assert_eq!(run(dir.path(), &["repair"]).0, code, "{kinds}");
        assert_eq!(json(dir.path(), &["messages", "--topic", "Summed"]).len(), 5, "{kinds}");
    }
    let (_, out, _) = run(dir.path(), &["verify"]);
    assert!(out.contains("sound; 2 messages are suspicious"), "{out}");
}

#[test]
fn a_message_says_what_it_means() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let append = |topic, sys_flag, half, body: &[u8], properties: &str| {
        let message = Message {
            sys_flag,
            prepared_transaction_offset: half,
            ..message(topic, body, properties.as_bytes())
        };
        store.append(&message).unwrap().physical_offset as i64
    };
    let (half, op) = ("RMQ_SYS_TRANS_HALF_TOPIC", "RMQ_SYS_TRANS_OP_HALF_TOPIC");
    let halves = ["committed", "rolled", "open"].map(|key| {
        let properties = format!(
            "UNIQ_KEY\u{1}{key}\u{2}REAL_TOPIC\u{1}T\u{2}REAL_QID\u{1}2\u{2}PGROUP\u{1}P\u{2}"
        );
        append(half, 0, 0, b"x", &properties)
    });
    append("T", sys_flag::COMMIT, halves[0], b"x", "UNIQ_KEY\u{1}committed\u{2}");
    append(op, 0, 0, b"0,1,", "TAGS\u{1}d\u{2}");
    let delayed =
        append("SCHEDULE_TOPIC_XXXX", 0, 0, b"x", "DELAY\u{1}2\u{2}REAL_TOPIC\u{1}T\u{2}");
    drop(store);
    for (at, state) in halves.iter().zip(["committed", "rolled back", "open"]) {
        let decoded = &json(dir.path(), &["message", &at.to_string()])[0]["decoded"];
        assert_eq!((&decoded["state"], &decoded["realTopic"]), (&state.into(), &"T".into()));
    }
    let (_, out, _) = run(dir.path(), &["message", &delayed.to_string()]);
    assert!(
        out.contains("meaning         delayed: delay level 2, due 2026-11-23 21:05:3"),
        "{out}"
    );
    let (_, out, _) = run(dir.path(), &["messages", "--topic", "T", "--decode"]);
    assert!(out.contains("    committed transaction: half position "), "{out}");
    assert!(!run(dir.path(), &["messages", "--topic", "T"]).1.contains("half"));
    let listed = json(dir.path(), &["messages", "--topic", op, "--decode"]);
    assert_eq!(listed[0]["decoded"]["halfQueueOffsets"], "0,1");
}
