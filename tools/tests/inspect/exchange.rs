//! Messages out of a store and into one, and what comes while we look.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use mq_broker::run::{self, Settings};
use mq_store::config::StoreConfig;
use serde_json::Value;

use crate::{LOG_FILE, flip, json, log_file, message, numbers, open, run as inspect, store};

/// What must be the same of a message in both stores.
fn fields(messages: &[Value]) -> Vec<Value> {
    const KEPT: [&str; 13] = [
        "topic",
        "queueId",
        "queueOffset",
        "msgId",
        "keys",
        "tags",
        "flag",
        "sysFlag",
        "bornTimestamp",
        "bornHost",
        "reconsumeTimes",
        "properties",
        "body",
    ];
    messages.iter().map(|m| KEPT.map(|name| m[name].clone()).to_vec().into()).collect()
}

#[test]
fn what_is_exported_is_imported_whole() {
    let from = store();
    let out = tempfile::tempdir().unwrap();
    for name in ["all.jsonl", "all.jsonl.zst"] {
        let file = out.path().join(name);
        let file = file.to_str().unwrap();
        let (code, said, errors) = inspect(from.path(), &["export", "--output", file]);
        assert_eq!((code, said.as_str()), (0, "93 messages exported, 0 damaged\n"), "{errors}");
        assert_eq!(inspect(from.path(), &["export", "--output", file]).0, 2, "it is there already");
        let to = out.path().join(format!("{name}-store"));
        let (code, said, errors) = inspect(&to, &["import", file]);
        assert_eq!((code, said.as_str()), (0, "93 messages imported, 0 refused\n"), "{errors}");
        let messages = |store| fields(&json(store, &["messages", "--body"]));
        assert_eq!(messages(&to), messages(from.path()));
        assert_eq!(inspect(&to, &["verify"]).0, 0);
        assert_eq!(numbers(&json(&to, &["query", "--topic", "Orders", "--key", "k17"])), [17]);
        let topics = json(&to, &["topics"]);
        assert_eq!(
            (&topics[0]["topic"], &topics[0]["writeQueueNums"]),
            (&"Orders".into(), &3.into())
        );
        // Into a store that has something already.
        assert_eq!(inspect(&to, &["import", file]).0, 0);
        assert_eq!(json(&to, &["messages"]).len(), 186);
    }
    let lines = std::fs::read_to_string(out.path().join("all.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 93);
    assert!(
        std::fs::metadata(out.path().join("all.jsonl.zst")).unwrap().len() < lines.len() as u64 / 4
    );
}

#[test]
fn a_running_broker_takes_what_was_exported() {
    let from = store();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("all.jsonl");
    assert_eq!(inspect(from.path(), &["export", "--output", file.to_str().unwrap()]).0, 0);
    let root = dir.path().join("broker");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let settings = Settings {
        store: StoreConfig { log_file_len: 1 << 20, ..StoreConfig::at(&root) },
        ..Settings::at(&root)
    };
    let running = runtime.block_on(async {
        let (opened, listen, limits) = run::open(settings, &mut |_, _| {}).unwrap();
        let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
        run::serve(opened.service, listener, limits).await.unwrap()
    });
    let address = running.addr.to_string();
    let (code, said, errors) = inspect(address.as_ref(), &["import", file.to_str().unwrap()]);
    assert_eq!((code, said.as_str()), (0, "93 messages imported, 0 refused\n"), "{errors}");
    // On the live store. The broker notes who sent them, and adds what it adds to every message.
    let arrived = json(&root, &["messages", "--body"]);
    let sent = json(from.path(), &["messages", "--body"]);
    assert_eq!(numbers(&arrived[..90]), (0..90).collect::<Vec<_>>());
    for (arrived, sent) in arrived.iter().zip(&sent) {
        for name in
            ["topic", "queueId", "queueOffset", "keys", "tags", "flag", "bornTimestamp", "body"]
        {
            assert_eq!(arrived[name], sent[name], "{name}");
        }
    }
    runtime.block_on(running.stop()).unwrap();
    assert_eq!(inspect(&root, &["verify"]).0, 0);
}

#[test]
fn export_takes_filters_and_leaves_out_what_is_damaged() {
    let dir = store();
    flip(&log_file(dir.path(), 0), 100);
    let (code, out, errors) = inspect(dir.path(), &["export", "--topic", "Orders", "--queue", "0"]);
    assert_eq!((code, out.lines().count()), (1, 29));
    assert!(errors.contains("left out, the message at 0"), "{errors}");
    let (_, out, _) =
        inspect(dir.path(), &["export", "--limit", "3", "--tag", "created", "--damaged"]);
    assert_eq!(out.lines().count(), 3);
    let first: Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert_eq!(first["damaged"], "the body does not match its CRC");
}

#[test]
fn lines_that_are_no_messages_are_told_and_brokers_own_left_out() {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("lines");
    let lines = [
        r#"{"topic":"T","queueId":1,"bornTimestamp":5,"properties":{"KEYS":"k"},"body":"aGk="}"#,
        "not JSON",
        r#"{"topic":"T"}"#,
        "",
        r#"{"topic":"T","body":"?"}"#,
        r#"{"topic":"SCHEDULE_TOPIC_XXXX","body":"aGk=","properties":{"DELAY":"3"}}"#,
    ];
    std::fs::write(&file, lines.join("\n")).unwrap();
    let to = out.path().join("store");
    let (code, said, errors) = inspect(&to, &["import", file.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert_eq!(said, "1 messages imported, 1 left out (brokers' own; see --all), 3 refused\n");
    for line in [2, 3, 5] {
        assert!(errors.contains(&format!("line {line}: ")), "{errors}");
    }
    assert_eq!(json(&to, &["messages", "--key", "k"])[0]["queueId"], 1);
    assert_eq!(inspect(&to, &["import", "/nowhere"]).0, 2);
    assert_eq!(
        inspect("127.0.0.1:1".as_ref(), &["import", file.to_str().unwrap()]).0,
        2,
        "no broker"
    );
}

#[test]
fn following_shows_what_comes_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut tool = Command::new(env!("CARGO_BIN_EXE_mq-store-inspect"))
        .args(["--json".as_ref(), dir.path().as_os_str()])
        .args([
            "messages",
            "--follow",
            "--topic",
            "New",
            "--limit",
            "60",
            "--since",
            "2026-11-23T21:05:27Z",
        ])
        .env("TZ", "UTC")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let append = |topic, n: u64| {
        let body = vec![b'x'; 700];
        let properties = format!("n\u{1}{n}\u{2}");
        store.append(&message(topic, &body, properties.as_bytes())).unwrap();
    };
    let mut lines = BufReader::new(tool.stdout.take().unwrap()).lines();
    // Over several files; the first is shown before the last is written.
    append("New", 0);
    let mut seen = vec![serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap()];
    for n in 1..60 {
        append("Other", 1000 + n);
        append("New", n);
    }
    seen.extend(lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()));
    assert_eq!(numbers(&seen), (0..60).collect::<Vec<_>>());
    let last = seen[59]["commitLogOffset"].as_u64().unwrap();
    assert!(last > seen[0]["commitLogOffset"].as_u64().unwrap() + 3 * LOG_FILE);
    assert!(tool.wait().unwrap().success());
}
