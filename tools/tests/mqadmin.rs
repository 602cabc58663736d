//! `mqadmin` as a user runs it, against a broker and a name server in the test's process.
#![allow(clippy::unwrap_used, reason = "a test that fails is a failed test")]

#[path = "../../frontend-tcp/tests/common/cluster.rs"]
mod cluster;
#[path = "../../frontend-tcp/tests/common/consumer.rs"]
mod consumer;

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::Duration;

use cluster::Cluster;
use consumer::Consumer;
use mq_broker::wire::client::Client;
use mq_broker::wire::codes::request;
use mq_broker::wire::command;
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(20);

fn mqadmin(names: &str, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mqadmin"));
    command.env_remove("ROCKETMQ_HOME").env("NAMESRV_ADDR", names);
    command.args(line.split(' ')).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What is typed · what it shows · what `--json` shows, if it is asked for that too.
///
/// BROKER stands for its address, NAMES for that of the name server, DIR for a folder, UNIQUE and
/// PLACE for the ids of the message that was sent first.
type Row = (&'static str, &'static [&'static str], Option<&'static str>);

#[rustfmt::skip]
const BEFORE: &[Row] = &[
    ("updateTopic -c DefaultCluster -t T -r 1 -w 1 -o true", &["create topic to BROKER success.", "TopicConfig [topicName=T, readQueueNums=1, writeQueueNums=1, perm=6,"], Some(r#""topicName":"T""#)),
    ("updateSubGroup -c DefaultCluster -g G -r 8", &["create subscription group to BROKER success.", "groupName=G", "retryMaxTimes=8"], None),
    ("sendMessage -t T -p hello -k key-1 -c red -b broker-a -i 0", &["#Send Result", "SEND_OK"], None),
];

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // topics
    ("topicList", &["T\n", "%RETRY%G\n"], Some(r#"{"topic":"T"}"#)),
    ("topicList -c", &["#Cluster Name", "DefaultCluster"], Some(r#""group":"G""#)),
    ("topicRoute -t T", &[r#""brokerName": "broker-a""#], Some(r#""brokerAddrs":{"0":"BROKER"}"#)),
    ("topicRoute -t T -l", &["#WriteQueue", "DefaultCluster", "BROKER"], None),
    ("topicClusterList -t T", &["DefaultCluster\n"], Some(r#"{"cluster":"DefaultCluster"}"#)),
    ("topicStatus -t T", &["#Max Offset", "broker-a"], Some(r#""maxOffset":1,"#)),
    ("updateOrderConf -m get -t T", &["get orderConf success. topic=[T], orderConf=[broker-a:1]"], None),
    ("updateOrderConf -m put -t T -v broker-a:2", &["update orderConf success. topic=[T], orderConf=[broker-a:2]"], None),
    ("updateOrderConf -m delete -t T", &["delete orderConf success. topic=[T]"], None),
    ("updateTopicPerm -c DefaultCluster -t T -p 6", &["update topic perm from 6 to 6 in BROKER success."], None),
    ("allocateMQ -t T -i 10.0.0.1,10.0.0.2", &[r#"{"result":{"10.0.0.1":[{"#, r#""10.0.0.2":[]"#], None),
    ("statsAll -t T", &["#InMsg24Hour", "T"], Some(r#""accumulation":1"#)),
    // groups
    ("getConsumerConfig -g G", &["DefaultCluster:broker-a", "retryMaxTimes                           =  8\n"], Some(r#""retryMaxTimes":8"#)),
    ("consumerProgress", &["#Diff Total", "PUSH", "CLUSTERING"], Some(r#""diffTotal":1"#)),
    ("consumerProgress -g G -s", &["#Consumer Offset", "c1", "Consume Diff Total: 1"], Some(r#""consumerOffset":0"#)),
    ("consumerStatus -g G", &["#Queues", "c1"], Some(r#""queues":1"#)),
    ("consumerStatus -g G -i c1", &[r#""mqTable""#, "cachedMsgCount"], Some(r#""mqTable""#)),
    ("consumerConnection -g G", &["c1", "#SubExpression", "ConsumeType: CONSUME_PASSIVELY", "MessageModel: CLUSTERING", "ConsumeFromWhere: CONSUME_FROM_LAST_OFFSET"], Some(r#""messageModel":"CLUSTERING""#)),
    ("producerConnection -g P -t T", &["#ClientAddr", "p1"], Some(r#""clientId":"p1""#)),
    ("producer -b BROKER", &["#Last Heard", "p1"], Some(r#""group":"P""#)),
    ("brokerConsumeStats -b BROKER", &["#Diff", "Diff Total: 1"], Some(r#""diff":1"#)),
    // offsets
    ("resetOffsetByTime -g G -t T -s -1", &["#offset", "broker-a"], Some(r#""offset":1"#)),
    ("skipAccumulatedMessage -g G -t T", &["#offset", "broker-a"], Some(r#""offset":1"#)),
    ("cloneGroupOffset -s G -d H -t T", &["clone group offset success. srcGroup[G], destGroup=[H], topic[T]"], None),
    // messages
    ("consumeMessage -t T", &["MSGID: UNIQUE QID: 0 OFFSET: 0 ", "KEYS: key-1 BODY: hello"], Some(r#""body":"aGVsbG8=""#)),
    ("printMsg -t T -s red", &["MSGID: UNIQUE ", "BODY: hello"], None),
    ("printMsgByQueue -t T -a broker-a -i 0 -p true -f true", &["BODY: hello", "red"], None),
    ("queryMsgById -i PLACE", &["OffsetID:            PLACE", "Message Body:        hello"], Some(r#""keys":"key-1""#)),
    ("queryMsgById -i PLACE -g G -d c1", &["CR_SUCCESS"], None),
    ("queryMsgByKey -t T -k key-1", &["#Message ID", "UNIQUE"], Some(r#""queueOffset":0"#)),
    ("queryMsgByUniqueKey -t T -i UNIQUE", &["Tags:                [red]", "Queue Offset:        0"], Some(r#""tags":"red""#)),
    ("queryMsgByOffset -t T -b broker-a -i 0 -o 0", &["Message Body:        hello"], None),
    ("sendMessage -t RMQ_SYS_TRACE_TOPIC -k UNIQUE -p Pub\u{1}1700000000000\u{1}R\u{1}P\u{1}T\u{1}UNIQUE\u{1}\u{1}\u{1}h\u{1}5\u{1}9\u{1}0\u{1}o\u{1}true\u{2}", &["SEND_OK"], None),
    ("queryMsgTraceById -i UNIQUE", &["#CostTimes", "Pub", "9ms", "success"], Some(r#""group":"P""#)),
    ("queryCq -t T -q 0 -i 0 -c 1", &["Queue data: 0 to 1", "#PhysicOffset"], Some(r#""physicOffset":0"#)),
    ("decodeMessageId -i PLACE", &["ip=BROKER\toffset=0"], Some(r#""offset":0"#)),
    ("checkMsgSendRT -t T -a 2", &["#RT", "true", "Avg RT: "], None),
    // brokers
    ("clusterList", &["#SPACE", "DefaultCluster", "V4_9_7"], Some(r#""brokerName":"broker-a""#)),
    ("clusterList -m", &["#InTotalToday"], Some(r#""inTotalYesterday":0"#)),
    ("clusterRT -a 1 -i 0", &["#successCount", "broker-a"], Some(r#""failCount":0"#)),
    ("brokerStatus -b BROKER", &["brokerVersionDesc               : V4_9_7\n", "msgPutTotalTodayNow"], Some(r#""putMessageTimesTotal""#)),
    ("updateBrokerConfig -b BROKER -k fileReservedTime -v 48", &["update broker config success, BROKER"], None),
    ("getBrokerConfig -b BROKER", &["============BROKER============", "fileReservedTime                                  =  48\n"], Some(r#""fileReservedTime":"48""#)),
    ("sendMsgStatus -b broker-a -c 1", &["rt=", "SendResult [sendStatus=SEND_OK, msgId="], None),
    ("cleanExpiredCQ -b BROKER", &["success\n"], None),
    ("cleanUnusedTopic -c DefaultCluster", &["success\n"], None),
    ("deleteExpiredCommitLog -b BROKER", &["success\n"], None),
    ("haStatus -b BROKER", &["#MasterAddr\tBROKER\n", "#SlaveNum\t0\n"], Some(r#""master":true"#)),
    // name servers
    ("updateNamesrvConfig -k orderMessageEnable -v true", &["update name server config success!", "orderMessageEnable : true"], None),
    ("getNamesrvConfig", &["============NAMES============", "orderMessageEnable                                =  true\n"], Some(r#""orderMessageEnable":"true""#)),
    ("updateKvConfig -s N -k k -v v", &["create or update kv config to namespace success."], None),
    ("deleteKvConfig -s N -k k", &["delete kv config from namespace success."], None),
    ("wipeWritePerm -b broker-a", &["wipe write perm of broker[broker-a] in name server[NAMES] OK, "], None),
    ("addWritePerm -b broker-a", &["add write perm of broker[broker-a] in name server[NAMES] OK, "], None),
    // files
    ("exportMetadata -c DefaultCluster -f DIR", &["export DIR/metadata.json success"], None),
    ("exportConfigs -c DefaultCluster -f DIR", &["export DIR/configs.json success"], None),
    // access control
    ("updateAclConfig -c DefaultCluster -a theShop -s theSecret -t T=PUB", &["create or update plain access config to BROKER success."], None),
    ("getAclConfig -b BROKER", &["theShop", "T=PUB"], Some("theShop")),
    ("clusterAclConfigVersion -c DefaultCluster", &["#AclConfigVersionNum", "broker-a"], Some(r#""brokerAddr""#)),
    ("updateGlobalWhiteAddr -c DefaultCluster -g 127.0.0.1,10.0.0.*", &["update global white remote addresses to BROKER success."], None),
    ("deleteAclConfig -c DefaultCluster -a theShop", &["delete plain access config account from BROKER success."], None),
    // what shells need, and the end of it all
    ("completion bash", &["complete -F _mqadmin_names", "topicClusterList"], None),
    ("completion zsh", &["#compdef mqadmin", "topicClusterList"], None),
    ("deleteSubGroup -c DefaultCluster -g G -r true", &["delete subscription group [G] from broker [BROKER] success."], None),
    ("deleteTopic -c DefaultCluster -t T", &["delete topic [T] from cluster [DefaultCluster] success.", "delete topic [T] from NameServer success."], None),
];

/// What is typed · exit code · what is said on standard error.
#[rustfmt::skip]
const FAILURES: &[(&str, i32, &str)] = &[
    ("topicLost", 2, "topicList"),
    ("topicStatus", 2, "--topic <TOPIC>"),
    ("topicStatus -t T --nosuch", 2, "--nosuch"),
    ("brokerStatus", 2, "say where: -b HOST:PORT for a broker, -c NAME for a cluster"),
    ("updateTopicPerm -c DefaultCluster -t T -p 9", 2, "9 is not in 0..=6"),
    ("updateOrderConf -m put -t T", 2, "please set orderConf with option -v."),
    ("queryMsgById -i xyz", 2, "a unique key takes queryMsgByUniqueKey"),
    ("resetOffsetByTime -g G -t T -s yesterday", 2, "yesterday"),
    ("clusterRT -a 0", 2, "-a 0 sends nothing"),
    ("topicRoute -t none", 1, "No topic route info in name server for the topic: none"),
    ("brokerStatus -c NoCluster", 1, "no master of NoCluster; there is: DefaultCluster"),
    ("sendMessage -t T -p x -b broker-a -i 9", 1, "the topic has no such queue; try topicStatus"),
    ("queryMsgByKey -t T -k none", 1, "no message of T has the key none"),
    ("queryMsgByOffset -t T -b broker-a -i 0 -o 999", 1, "nothing at 999; the queue ends at 1"),
    ("updateBrokerConfig -b BROKER -k listenPort -v 1", 1, "listenPort takes effect at start only"),
    ("consumerConnection -g none", 1, "%RETRY%none"),
    ("exportConfigs -c DefaultCluster -f /proc/no", 1, "/proc/no/configs.json"),
    ("-n 127.0.0.1:1 topicList", 1, "cannot reach 127.0.0.1:1: "),
    ("brokerStatus -b 127.0.0.1:1", 1, "cannot reach 127.0.0.1:1: "),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_command_shows_what_it_found_or_says_why_not() {
    let home = tempfile::tempdir().unwrap();
    // Without access control there is nothing to administer of it.
    std::fs::create_dir_all(home.path().join("conf")).unwrap();
    let accounts = "globalWhiteRemoteAddresses: [127.0.0.1]\naccounts: []\n";
    std::fs::write(home.path().join("conf/plain_acl.yml"), accounts).unwrap();
    let cluster = Cluster::start(home.path(), |conf| {
        conf.rocketmq_home = Some(home.path().into());
        (conf.acl_enable, conf.trace_topic_enable) = (true, true);
    })
    .await;
    let (names, broker) = (cluster.names.clone(), cluster.running.addr.to_string());
    let dir = home.path().join("export").display().to_string();
    let mut ids = (String::new(), String::new());
    let fill = |text: &str, (unique, place): &(String, String)| {
        let text = text.replace("BROKER", &broker).replace("NAMES", &names);
        text.replace("DIR", &dir).replace("UNIQUE", unique).replace("PLACE", place)
    };
    let check = |(line, shows, json): &Row, ids: &(String, String)| {
        let done = mqadmin(&names, &fill(line, ids));
        assert_eq!(done.status.code(), Some(0), "{line}: {done:?}");
        let shown = text(&done.stdout);
        for part in *shows {
            assert!(shown.contains(&fill(part, ids)), "{line}: {part} is not in\n{shown}");
        }
        assert!(!shown.contains("theSecret"), "{line}: {shown}");
        let Some(part) = json else { return };
        let shown = text(&mqadmin(&names, &format!("--json {}", fill(line, ids))).stdout);
        assert!(shown.lines().all(|l| serde_json::from_str::<Value>(l).is_ok()), "{line}: {shown}");
        assert!(shown.contains(&fill(part, ids)), "{line} --json: {part} is not in\n{shown}");
    };
    BEFORE.iter().for_each(|row| check(row, &ids));

    // The first message, a consumer that has not consumed it, and a producer.
    let found = mqadmin(&names, "--json queryMsgByOffset -t T -b broker-a -i 0 -o 0");
    let first: Value = serde_json::from_slice(&found.stdout).unwrap();
    let id = |name: &str| first[name].as_str().unwrap().to_owned();
    ids = (id("msgId"), id("offsetMsgId"));
    let consumer = Consumer::join(cluster.running.addr, "c1").await;
    let consumer = tokio::spawn(consumer.answer_all());
    let mut client = Client::connect(&broker, TIMEOUT).await.unwrap();
    let heartbeat =
        r#"{"clientID":"p1","consumerDataSet":[],"producerDataSet":[{"groupName":"P"}]}"#;
    let commit = command::Command::new(request::UPDATE_CONSUMER_OFFSET)
        .field("consumerGroup", "G")
        .field("topic", "T")
        .field("queueId", 0)
        .field("commitOffset", 0);
    for told in [command::Command::new(request::HEART_BEAT).body(heartbeat), commit] {
        assert_eq!(client.call(&told, TIMEOUT).await.unwrap().code, 0);
    }

    for (line, code, why) in FAILURES {
        let done = mqadmin(&names, &fill(line, &ids));
        assert_eq!(done.status.code(), Some(*code), "{line}: {done:?}");
        let said = text(&done.stderr);
        assert!(said.contains(why) && done.stdout.is_empty(), "{line}: {why} is not in\n{done:?}");
    }
    ROWS.iter().for_each(|row| check(row, &ids));

    let help = text(&mqadmin(&names, "--help").stdout);
    let commands = help.split_once("Commands:\n").unwrap().1.lines();
    let commands: BTreeSet<_> = commands
        .take_while(|l| !l.is_empty())
        .filter_map(|l| l.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    let rows = BEFORE.iter().chain(ROWS).filter_map(|(line, ..)| line.split(' ').next());
    assert_eq!(rows.collect::<BTreeSet<_>>(), commands, "every command is here");
    consumer.abort();
    cluster.running.stop().await.unwrap();
}
