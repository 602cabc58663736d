//! The name server over sockets, asked as brokers, clients and mqadmin ask it.
#![allow(clippy::unwrap_used, reason = "a test helper that fails is a failed test")]

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use mq_broker::config::{BrokerConf, NamesrvConf};
use mq_broker::conn::{Conn, Reply, Request, Response};
use mq_broker::namesrv::NameServer;
use mq_broker::namesrv::address_server::AddressServer;
use mq_broker::namesrv::register::{Registrar, Registration, Timing};
use mq_broker::server::{self, Limits, Service};
use mq_broker::wire::client::Client;
use mq_broker::wire::codes::{request, response};
use mq_broker::wire::command::{Command, Head};
use mq_broker::wire::frame::Encoding;
use mq_store::broker::topics::{DataVersion, TopicConfig, TopicTable};
use mq_store::os::clock::{Clock, ManualClock};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

const TIMEOUT: Duration = Duration::from_secs(20);

struct Served {
    server: Arc<NameServer>,
    clock: Arc<ManualClock>,
    addr: String,
    stop: watch::Sender<bool>,
    dir: tempfile::TempDir,
}

async fn serve_at(addr: &str, change: impl FnOnce(&mut NamesrvConf)) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let mut conf = NamesrvConf { kv_config_path: dir.path().join("kv.json"), ..Default::default() };
    change(&mut conf);
    let clock = Arc::new(ManualClock::at(1_000_000));
    let (server, notes) = NameServer::new(conf, clock.clone());
    assert!(notes.iter().all(|note| note.ends_with("as it was set while a name server ran")));
    let listener = TcpListener::bind(addr).await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(server::serve(
        listener,
        server.clone(),
        Limits::default(),
        Default::default(),
        stopped,
    ));
    Served { server, clock, addr, stop, dir }
}

async fn serve() -> Served {
    serve_at("127.0.0.1:0", |_| {}).await
}

impl Served {
    async fn client(&self) -> Client {
        Client::connect(&self.addr, TIMEOUT).await.unwrap()
    }
}

async fn call(client: &mut Client, command: Command) -> Response {
    client.call(&command, TIMEOUT).await.unwrap()
}

async fn ask(client: &mut Client, code: i32, fields: &[(&'static str, &'static str)]) -> Response {
    let command = fields.iter().fold(Command::new(code), |c, (name, value)| c.field(*name, *value));
    call(client, command).await
}

fn registration(names: &[&str]) -> Registration {
    let topic = |name: &&str| (name.to_string(), TopicConfig::new(*name, 4));
    Registration {
        cluster: "DefaultCluster".into(),
        broker_name: "broker-a".into(),
        broker_id: 0,
        broker_addr: "127.0.0.1:10911".into(),
        ha_server_addr: "127.0.0.1:10912".into(),
        topics: TopicTable {
            data_version: DataVersion { counter: 1, ..DataVersion::default() },
            topic_config_table: names.iter().map(topic).collect(),
        },
    }
}

fn text(response: &Response) -> &str {
    assert_eq!(response.code, 0, "{:?}", response.remark);
    std::str::from_utf8(&response.body).unwrap()
}

fn json(response: &Response) -> Value {
    serde_json::from_str(text(response)).unwrap()
}

#[tokio::test]
async fn a_broker_comes_and_goes() {
    let served = serve().await;
    let (mut broker, mut client) = (served.client().await, served.client().await);
    let refused = call(&mut broker, registration(&["T"]).register()).await;
    assert_eq!((refused.code, refused.remark.as_deref()), (1, Some("register broker failed")));
    let answer = call(&mut broker, registration(&["T", "TBW102"]).register()).await;
    assert_eq!((answer.code, answer.body.len()), (0, 0));

    let route = ask(&mut client, request::GET_ROUTEINFO_BY_TOPIC, &[("topic", "T")]).await;
    let quoted = r#"{"brokerDatas":[{"brokerAddrs":{"0":"127.0.0.1:10911"},"brokerName":"broker-a","cluster":"DefaultCluster","enableActingMaster":false}],"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}]}"#;
    assert_eq!(text(&route), quoted);
    let info = ask(&mut client, request::GET_BROKER_CLUSTER_INFO, &[]).await;
    let unquoted = r#"{"brokerAddrTable":{"broker-a":{"brokerAddrs":{0:"127.0.0.1:10911"},"brokerName":"broker-a","cluster":"DefaultCluster","enableActingMaster":false}},"clusterAddrTable":{"DefaultCluster":["broker-a"]}}"#;
    assert_eq!(text(&info), unquoted);
    let member = [("clusterName", "DefaultCluster"), ("brokerName", "broker-a")];
    let member = ask(&mut client, request::GET_BROKER_MEMBER_GROUP, &member).await;
    assert!(text(&member).starts_with(r#"{"brokerMemberGroup":{"brokerAddrs":{0:"127"#));
    let route = ask(&mut client, request::GET_ROUTEINFO_BY_TOPIC, &[("topic", "no")]).await;
    assert_eq!(route.code, response::TOPIC_NOT_EXIST);
    assert!(
        route.remark.unwrap().starts_with("No topic route info in name server for the topic: no\n")
    );

    let all = json(&ask(&mut client, request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, &[]).await);
    assert_eq!(all["topicList"].as_array().unwrap().len(), 2);
    let of = json(&ask(&mut client, request::GET_TOPICS_BY_CLUSTER, &[("cluster", "x")]).await);
    assert_eq!(of, json!({"topicList": []}));
    let system = json(&ask(&mut client, request::GET_SYSTEM_TOPIC_LIST_FROM_NS, &[]).await);
    let names = json!(["DefaultCluster", "broker-a"]);
    assert_eq!(system, json!({"topicList": names, "brokerAddr": "127.0.0.1:10911"}));

    let name = [("brokerName", "broker-a")];
    let wiped = ask(&mut client, request::WIPE_WRITE_PERM_OF_BROKER, &name).await;
    assert_eq!(wiped.fields["wipeTopicCount"], "2");
    let added = ask(&mut client, request::ADD_WRITE_PERM_OF_BROKER, &name).await;
    assert_eq!(added.fields["addTopicCount"], "2");
    ask(&mut client, request::DELETE_TOPIC_IN_NAMESRV, &[("topic", "TBW102")]).await;
    let body = r#"{"queueDatas":[{"brokerName":"broker-a","perm":6}],"brokerDatas":[{"brokerAddrs":{0:"x"}}]}"#;
    let command = Command::new(request::REGISTER_TOPIC_IN_NAMESRV).field("topic", "N").body(body);
    assert_eq!(call(&mut client, command).await.code, 0);
    let all = json(&ask(&mut client, request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, &[]).await);
    assert_eq!(all["topicList"].as_array().unwrap().len(), 2);

    let version = |counter: i64| {
        let body = format!(r#"{{"counter":{counter},"timestamp":0}}"#);
        let mut command = registration(&[]).unregister().body(body);
        command.code = request::QUERY_DATA_VERSION;
        command
    };
    let same = call(&mut broker, version(1)).await;
    assert_eq!(same.fields["changed"], "false");
    assert_eq!(json(&same), json!({"counter": 1, "stateVersion": 0, "timestamp": 0}));
    assert_eq!(call(&mut broker, version(2)).await.fields["changed"], "true");

    assert_eq!(call(&mut broker, registration(&[]).unregister()).await.code, 0);
    let info = ask(&mut client, request::GET_BROKER_CLUSTER_INFO, &[]).await;
    assert_eq!(text(&info), r#"{"brokerAddrTable":{},"clusterAddrTable":{}}"#);
}

#[tokio::test]
async fn silent_brokers_and_ended_connections() {
    let served = serve().await;
    let mut client = served.client().await;
    let mut broker = served.client().await;
    let register = registration(&["S", "T"]).register();
    call(&mut broker, register.clone()).await;
    served.clock.advance(100_000);
    let mut beat = registration(&[]).unregister();
    beat.code = request::BROKER_HEARTBEAT;
    assert_eq!(call(&mut client, beat).await.code, 0);
    served.clock.advance(120_000);
    served.server.expire_step(served.clock.now_ms());
    let route = [("topic", "T")];
    let code = request::GET_ROUTEINFO_BY_TOPIC;
    assert_eq!(ask(&mut client, code, &route).await.code, 0);
    served.clock.advance(1);
    served.server.expire_step(served.clock.now_ms());
    assert_eq!(ask(&mut client, code, &route).await.code, response::TOPIC_NOT_EXIST);
    broker.ended().await;

    let mut broker = served.client().await;
    call(&mut broker, register.clone()).await;
    let mut again = served.client().await;
    call(&mut again, register).await;
    drop(broker);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(ask(&mut client, code, &route).await.code, 0, "it registered on another since");
    drop(again);
    while ask(&mut client, code, &route).await.code == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn key_value_configuration() {
    let served = serve_at("127.0.0.1:0", |conf| conf.order_message_enable = true).await;
    let mut client = served.client().await;
    let key = [("namespace", "ORDER_TOPIC_CONFIG"), ("key", "T")];
    let namespace = &key[..1];
    let missing = ask(&mut client, request::GET_KV_CONFIG, &key).await;
    let remark = "No config item, Namespace: ORDER_TOPIC_CONFIG Key: T";
    assert_eq!((missing.code, missing.remark.as_deref()), (22, Some(remark)));
    assert_eq!(ask(&mut client, request::GET_KVLIST_BY_NAMESPACE, namespace).await.code, 22);
    let put = [key[0], key[1], ("value", "broker-a:4")];
    assert_eq!(ask(&mut client, request::PUT_KV_CONFIG, &put).await.code, 0);
    let got = ask(&mut client, request::GET_KV_CONFIG, &key).await;
    assert_eq!(got.fields["value"], "broker-a:4");
    let file = std::fs::read_to_string(served.dir.path().join("kv.json")).unwrap();
    let file: Value = serde_json::from_str(&file).unwrap();
    assert_eq!(file, json!({"configTable": {"ORDER_TOPIC_CONFIG": {"T": "broker-a:4"}}}));

    let table = call(&mut client, registration(&["S", "T"]).register()).await;
    assert_eq!(json(&table), json!({"table": {"T": "broker-a:4"}}));
    let route = ask(&mut client, request::GET_ROUTEINFO_BY_TOPIC, &[("topic", "T")]).await;
    assert_eq!(json(&route)["orderTopicConf"], "broker-a:4");

    assert_eq!(ask(&mut client, request::DELETE_KV_CONFIG, &key).await.code, 0);
    assert_eq!(ask(&mut client, request::DELETE_KV_CONFIG, &key).await.code, 0);
    let list = ask(&mut client, request::GET_KVLIST_BY_NAMESPACE, namespace).await;
    assert_eq!(text(&list), r#"{"table":{}}"#);
    let bad = ask(&mut client, request::PUT_KV_CONFIG, &key[..1]).await;
    assert_eq!((bad.code, bad.remark.as_deref()), (1, Some("namespace or key is null")));
}

#[tokio::test]
async fn configuration() {
    let served = serve().await;
    let mut client = served.client().await;
    let update = |text: &'static str| Command::new(request::UPDATE_NAMESRV_CONFIG).body(text);
    let answer = call(&mut client, update("orderMessageEnable=true\nnosuch=1\n")).await;
    assert_eq!(answer.code, 0);
    let config = ask(&mut client, request::GET_NAMESRV_CONFIG, &[]).await;
    assert!(text(&config).contains("\norderMessageEnable=true\n"), "{}", text(&config));
    for text in [
        "kvConfigPath=/x",
        "configStorePath=/x",
        "rocketmqHome=/x",
        "enableAllTopicList=false\nadminAllowedAddresses=0.0.0.0/0",
    ] {
        let answer = call(&mut client, update(text)).await;
        assert_eq!(answer.code, response::NO_PERMISSION, "{text}");
        assert!(answer.remark.unwrap().starts_with("Can not update config in black list."));
    }
    for (text, remark) in [
        ("a=\\u1", "string2Properties error"),
        (
            "orderMessageEnable=maybe",
            "orderMessageEnable has the value \"maybe\"; it takes true or false",
        ),
    ] {
        let answer = call(&mut client, update(text)).await;
        assert_eq!((answer.code, answer.remark.as_deref()), (1, Some(remark)));
    }
    let all = ask(&mut client, request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, &[]).await;
    assert_eq!(all.code, 0, "a text that is refused changes nothing");
    call(&mut client, update("enableAllTopicList=false")).await;
    let all = ask(&mut client, request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, &[]).await;
    assert_eq!((all.code, all.remark.as_deref()), (1, Some("disable")));

    // Another one on these files.
    let conf =
        NamesrvConf { kv_config_path: served.dir.path().join("kv.json"), ..Default::default() };
    let (_, notes) = NameServer::new(conf.clone(), served.clock.clone());
    assert_eq!(
        notes,
        ["enableAllTopicList=false", "orderMessageEnable=true"]
            .map(|set| format!("{set}, as it was set while a name server ran"))
    );
    let again = serve_at("127.0.0.1:0", |c| *c = conf).await;
    let config = ask(&mut again.client().await, request::GET_NAMESRV_CONFIG, &[]).await;
    assert!(text(&config).contains("enableAllTopicList=false\n"), "{}", text(&config));
}

/// The body that brokers send with compressedRegister=true.
fn compressed(topics: &[&str]) -> Vec<u8> {
    fn put(plain: &mut Vec<u8>, bytes: &[u8]) {
        plain.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        plain.extend_from_slice(bytes);
    }
    let mut plain = Vec::new();
    put(&mut plain, br#"{"counter":7,"timestamp":1}"#);
    plain.extend_from_slice(&(topics.len() as u32).to_be_bytes());
    for topic in topics {
        put(&mut plain, topic.as_bytes());
    }
    put(&mut plain, b"[]");
    plain.extend_from_slice(&[0; 4]);
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(&plain).unwrap();
    zlib.finish().unwrap()
}

#[tokio::test]
async fn compressed_and_bad_registrations() {
    let served = serve().await;
    let mut client = served.client().await;
    let with_flag = |body: Vec<u8>, crc: i32, compressed: bool| {
        let mut command = registration(&[]).register().body(body);
        command.fields.retain(|(name, _)| name != "compressed" && name != "bodyCrc32");
        command.field("compressed", compressed).field("bodyCrc32", crc)
    };
    let with = |body, crc| with_flag(body, crc, true);
    let good = compressed(&["S 4 4 6 SINGLE_TAG", "T 3 2 4 MULTI_TAG {\"a\":\"b c\"}"]);
    assert_eq!(call(&mut client, with(good.clone(), 0)).await.code, 0);
    // Brokers of 5.x say that it is not.
    assert_eq!(call(&mut client, with_flag(good.clone(), 0, false)).await.code, 0);
    let route = ask(&mut client, request::GET_ROUTEINFO_BY_TOPIC, &[("topic", "T")]).await;
    let data = &json(&route)["queueDatas"][0];
    assert_eq!((&data["readQueueNums"], &data["perm"]), (&json!(3), &json!(4)));

    let mismatch = call(&mut client, with(good.clone(), 1)).await;
    assert_eq!((mismatch.code, mismatch.remark.as_deref()), (1, Some("crc32 not match")));
    let mut bad = vec![compressed(&["S 4 x 6 SINGLE_TAG"]), compressed(&[""]), b"{}".to_vec()];
    bad.extend((0..good.len() / 2).map(|n| good[..n].to_vec()));
    for body in bad.into_iter().filter(|body| !body.is_empty()) {
        assert_eq!(call(&mut client, with(body, 0)).await.code, 1);
    }
    for body in ["[", "{\"topicConfigSerializeWrapper\":7}", "\u{0}"] {
        assert_eq!(call(&mut client, registration(&[]).register().body(body)).await.code, 1);
    }
    let missing = ask(&mut client, request::REGISTER_BROKER, &[("brokerName", "b")]).await;
    let remark = "the custom field <clusterName> is null";
    assert_eq!((missing.code, missing.remark.as_deref()), (1, Some(remark)));
    let unknown = ask(&mut client, request::HEART_BEAT, &[]).await;
    assert_eq!(
        (unknown.code, unknown.remark.as_deref()),
        (3, Some(" request type 34 not supported"))
    );
    let none = ask(&mut client, request::GET_ROUTEINFO_BY_TOPIC, &[]).await;
    assert_eq!(none.code, response::TOPIC_NOT_EXIST);
}

async fn until(served: &Served, topic: &'static str, code: i32) {
    let mut client = served.client().await;
    while ask(&mut client, request::GET_ROUTEINFO_BY_TOPIC, &[("topic", topic)]).await.code != code
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_registrar_finds_its_name_servers_again() {
    let names = Arc::new(std::sync::Mutex::new(vec!["S", "T"]));
    let (first, second) = (serve().await, serve().await);
    let what = {
        let names = names.clone();
        move || registration(&names.lock().unwrap())
    };
    let timing = Timing { period: Duration::from_secs(60), timeout: TIMEOUT, ..Timing::default() };
    let registrar = Registrar::start(
        &[first.addr.clone(), second.addr.clone()],
        timing,
        Default::default(),
        what,
    );
    until(&first, "T", 0).await;
    until(&second, "T", 0).await;
    names.lock().unwrap().push("U");
    registrar.changed()();
    registrar.told()().await;
    for served in [&first, &second] {
        let mut client = served.client().await;
        let route = ask(&mut client, request::GET_ROUTEINFO_BY_TOPIC, &[("topic", "U")]).await;
        assert_eq!(route.code, response::SUCCESS, "who was told knows it");
    }

    let addr = first.addr.clone();
    first.stop.send(true).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let first = serve_at(&addr, |_| {}).await;
    until(&first, "T", 0).await;

    registrar.stop().await;
    until(&first, "T", response::TOPIC_NOT_EXIST).await;
    until(&second, "T", response::TOPIC_NOT_EXIST).await;
}

#[tokio::test]
async fn a_registrar_goes_where_an_address_server_says() {
    let (first, second) = (serve().await, serve().await);
    let told = Arc::new(std::sync::Mutex::new("\n".to_owned()));
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut conf = BrokerConf::default();
    conf.put("fetchNamesrvAddrByAddressServer", "true").unwrap();
    conf.put("rmqAddressServerDomain", &http.local_addr().unwrap().to_string()).unwrap();
    let answer = told.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = http.accept().await {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut asked).await.unwrap();
            }
            assert!(asked.starts_with(b"GET /rocketmq/nsaddr HTTP/1.0\r\n"));
            let text = format!("HTTP/1.1 200 OK\r\n\r\n{}\n", answer.lock().unwrap());
            stream.write_all(text.as_bytes()).await.unwrap();
        }
    });
    let what = || registration(&["S", "T"]);
    let registrar = Registrar::start(&[], Timing::default(), Default::default(), what);
    registrar.follow(AddressServer::of(&conf).unwrap(), Duration::from_millis(20));
    for (here, gone) in [(&first, &second), (&second, &first)] {
        told.lock().unwrap().clone_from(&here.addr);
        until(here, "T", 0).await;
        until(gone, "T", response::TOPIC_NOT_EXIST).await;
    }
    told.lock().unwrap().clear();
    registrar.stop().await;
    until(&second, "T", response::TOPIC_NOT_EXIST).await;
}

#[tokio::test]
async fn who_may_change_something() {
    let served = serve_at("127.0.0.1:0", |conf| {
        conf.put("adminAllowedAddresses", "10.0.0.0/8").unwrap();
    })
    .await;
    for (peer, allowed) in [
        ("192.168.0.1:1", false),
        ("10.1.2.3:1", true),
        ("192.0.2.7:1", true),
        ("127.0.0.9:1", true),
        ("[::1]:1", true),
    ] {
        let conn = Conn::new(peer.parse().unwrap(), "192.0.2.7:9876".parse().unwrap());
        let refused = |code| {
            let head = Head { code, ..Head::default() };
            let request = Request {
                head: &head,
                body: b"",
                encoding: Encoding::Json,
                read_at: std::time::Instant::now(),
            };
            match served.server.handle(&conn, &request) {
                Reply::Now(c) if c.code == response::NO_PERMISSION => {
                    assert!(c.remark.unwrap().contains("adminAllowedAddresses"));
                    true
                }
                _ => false,
            }
        };
        for code in [100, 102, 205, 216, 217, 318, 327] {
            assert_eq!(refused(code), !allowed, "{code} from {peer}");
        }
        for code in [101, 103, 104, 105, 106, 206, 219, 224, 304, 311, 319, 322, 901, 904] {
            assert!(!refused(code), "{code} from {peer}");
        }
    }
}
