//! The tools against a broker that takes TLS only, and signed requests only.
#![allow(clippy::unwrap_used, reason = "a test that fails is a failed test")]

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Output};

use mq_broker::config::{BrokerConf, TlsMode};
use mq_broker::run::{self, Running, Settings};
use tokio::net::TcpListener;

const ACCOUNTS: &str = "accounts: [{accessKey: theTools, secretKey: toolsSecret, admin: true}]";

async fn start(home: &Path) -> Running {
    std::fs::create_dir_all(home.join("conf")).unwrap();
    std::fs::write(home.join("conf/plain_acl.yml"), ACCOUNTS).unwrap();
    let mut conf = BrokerConf {
        acl_enable: true,
        rocketmq_home: Some(home.into()),
        store_path_root_dir: home.join("store"),
        bind_address: Ipv4Addr::LOCALHOST.into(),
        broker_ip1: Some(Ipv4Addr::LOCALHOST.into()),
        mapped_file_size_commit_log: 1 << 20,
        max_index_num: 2000,
        max_hash_slot_num: 500,
        ..BrokerConf::default()
    };
    conf.tls.mode = TlsMode::Enforcing;
    let (opened, ..) = run::open(Settings::of(&conf).unwrap(), &mut |_, _| {}).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    run::serve(opened.service, listener, Default::default()).await.unwrap()
}

/// Runs a tool without what the environment has to say, but `with` it.
fn tool(path: &str, with: &[(&str, &str)], line: &str) -> Output {
    let mut command = Command::new(path);
    command.env_remove("ROCKETMQ_HOME").env_remove("MQ_SECRET_KEY").envs(with.iter().copied());
    command.args(line.split(' ')).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_use_tls_and_sign() {
    let home = tempfile::tempdir().unwrap();
    let running = start(home.path()).await;
    let bench = |with: &[(&str, &str)], line: &str| {
        let line = line.replace("BROKER", &running.addr.to_string());
        tool(env!("CARGO_BIN_EXE_mq-bench"), with, &line)
    };
    let code = |output: &Output| output.status.code();
    let signed = "--tls --access-key theTools --secret-key toolsSecret";
    let secret = [("MQ_SECRET_KEY", "toolsSecret")];
    for (line, with) in [
        (format!("send --broker BROKER --count 2000 {signed}"), &[][..]),
        (format!("send --broker BROKER --count 2000 --batch 20 --binary {signed}"), &[]),
        (format!("verify --broker BROKER --count 2000 --size 2000 {signed}"), &[]),
        ("send --broker BROKER --count 100 --tls --access-key theTools".into(), &secret),
    ] {
        let done = bench(with, &line);
        assert_eq!(code(&done), Some(0), "{line}: {done:?}");
        assert!(!String::from_utf8_lossy(&done.stdout).contains("toolsSecret"));
    }
    for line in [
        "send --broker BROKER --count 1",
        "send --broker BROKER --count 1 --tls",
        "send --broker BROKER --count 1 --tls --access-key theTools",
        "send --broker BROKER --count 1 --tls --access-key theTools --secret-key otherSecret",
        "send --broker BROKER --count 1 --access-key theTools --secret-key toolsSecret",
        "send --broker BROKER --count 1 --tls --tls-config /no/such/file",
    ] {
        let done = bench(&[], line);
        assert_eq!(code(&done), Some(2), "{line}: {done:?}");
    }

    let line = r#"{"topic":"Imported","queueId":1,"bornTimestamp":5,"body":"aGk="}"#;
    let lines = home.path().join("lines");
    std::fs::write(&lines, line).unwrap();
    let import = |with: &[(&str, &str)], flags: &str| {
        let line = format!("{} import {}{flags}", running.addr, lines.display());
        tool(env!("CARGO_BIN_EXE_mq-store-inspect"), with, &line)
    };
    for (flags, with) in
        [(format!(" {signed}"), &[][..]), (" --tls --access-key theTools".into(), &secret)]
    {
        let done = import(with, &flags);
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert_eq!(
            (code(&done), &*said),
            (Some(0), "1 messages imported, 0 refused\n"),
            "{done:?}"
        );
    }
    for (flags, why) in [
        ("", "127.0.0.1"),
        (" --tls", "No accessKey is configured"),
        (" --tls --access-key theTools", "wants --secret-key"),
        (" --tls --access-key theTools --secret-key otherSecret", "ignature"),
    ] {
        let done = import(&[], flags);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(code(&done) != Some(0) && said.contains(why), "{flags}: {done:?}");
    }

    let admin = |with: &[(&str, &str)], line: &str| {
        let line = line.replace("BROKER", &running.addr.to_string());
        tool(env!("CARGO_BIN_EXE_mqadmin"), with, &line)
    };
    let done = admin(&[], &format!("brokerStatus -b BROKER {signed}"));
    assert!(String::from_utf8_lossy(&done.stdout).contains("brokerVersion"), "{done:?}");
    std::fs::write(
        home.path().join("conf/tools.yml"),
        "accessKey: theTools\nsecretKey: toolsSecret\n",
    )
    .unwrap();
    let home_is = [("ROCKETMQ_HOME", home.path().to_str().unwrap())];
    assert_eq!(code(&admin(&home_is, "brokerStatus -b BROKER --tls")), Some(0));
    let refused = admin(&[], "brokerStatus -b BROKER --tls");
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(code(&refused) == Some(1) && why.contains("No accessKey is configured"), "{why}");
    running.stop().await.unwrap();
}
