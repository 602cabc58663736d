//! What apache/rocketmq-dashboard asks, page by page, of a name server and a broker.
//!
//! A row is what one method of the dashboard's admin client sends, and what its pages read of the
//! answer. `MQ_DASHBOARD='NAMESERVER BROKER'`, addresses, asks others than ours: a Java cluster
//! proves that the rows are right.
#![allow(clippy::unwrap_used, reason = "a test that fails is a failed test")]

mod common;

use std::collections::HashMap;

use common::cluster::Cluster;
use common::consumer::Consumer;
use common::*;
use mq_broker::conn::Response;
use mq_broker::wire::client::Client;
use mq_broker::wire::command::Command;
use mq_store::codec::ids::parse_offset_msg_id;
use mq_store::codec::lenient_json;
use mq_store::store::as_record;

/// Who is asked.
#[derive(Clone, Copy, PartialEq)]
enum To {
    Names,
    Broker,
}
use To::{Broker, Names};

/// Page · method · whom · code · fields as `name=value`, body behind ` | ` · what is read.
///
/// What is read: `/a/b` a value in the JSON, `/a/b=1` that value, `.name` a field of the answer,
/// `key=` a line of a properties text, `"text"` the body of a message; `a|b` one of both. `$name` stands for a field
/// of the last answer that had it, `$at` for the place of the message it told of.
type Row = (&'static str, &'static str, To, i32, &'static str, &'static [&'static str]);

const QUEUE: &str = r#"{"brokerName":"broker-a","queueId":0,"topic":"T"}"#;

#[rustfmt::skip]
const ASKED: &[Row] = &[
    // What the dashboard's client does at start, and every 30 s.
    ("every", "DefaultMQAdminExt.start", Broker, 34, r#" | {"clientID":"dash","consumerDataSet":[],"producerDataSet":[{"groupName":"CLIENT_INNER_PRODUCER"},{"groupName":"P"}]}"#, &[]),
    // Cluster, and the collector of the first page.
    ("Cluster", "examineBrokerClusterInfo", Names, 106, "", &["/brokerAddrTable/broker-a/brokerAddrs/0", "/brokerAddrTable/broker-a/brokerName=broker-a", "/clusterAddrTable/DefaultCluster/0=broker-a"]),
    ("Cluster", "fetchBrokerRuntimeStats", Broker, 28, "", &["/table/brokerVersionDesc", "/table/putTps", "/table/getTransferedTps|/table/getTransferredTps", "/table/getTotalTps", "/table/msgPutTotalTodayNow", "/table/msgPutTotalTodayMorning", "/table/msgPutTotalYesterdayMorning", "/table/msgGetTotalTodayNow", "/table/msgGetTotalTodayMorning", "/table/msgGetTotalYesterdayMorning"]),
    ("Cluster", "getBrokerConfig", Broker, 26, "", &["brokerName=broker-a", "brokerClusterName=DefaultCluster", "listenPort=", "storePathRootDir="]),
    // Topic
    ("Topic", "createAndUpdateTopicConfig", Broker, 17, "topic=T defaultTopic=TBW102 readQueueNums=1 writeQueueNums=1 perm=6 topicFilterType=SINGLE_TAG topicSysFlag=0 order=false attributes=+message.type=NORMAL", &[]),
    ("Topic", "fetchAllTopicList", Names, 206, "", &["/topicList/0"]),
    ("Topic", "getSystemTopicList", Names, 304, "", &["/topicList/0", "/brokerAddr"]),
    ("Topic", "getSystemTopicListFromBroker", Broker, 305, "", &["/topicList/0"]),
    ("Topic", "getAllTopicConfig", Broker, 21, "topicSeq=0 maxTopicNum=1000", &["/topicConfigTable/T/topicName=T", "/topicConfigTable/T/attributes/message.type=NORMAL", "/dataVersion/counter"]),
    ("Topic", "examineTopicRouteInfo", Names, 105, "topic=T acceptStandardJsonOnly=true", &["/brokerDatas/0/brokerAddrs/0", "/brokerDatas/0/brokerName=broker-a", "/brokerDatas/0/cluster=DefaultCluster", "/queueDatas/0/brokerName=broker-a", "/queueDatas/0/perm=6", "/queueDatas/0/readQueueNums=1", "/queueDatas/0/writeQueueNums=1"]),
    ("Topic", "examineTopicConfig", Broker, 351, "topic=T", &["/topicName=T", "/readQueueNums=1", "/writeQueueNums=1", "/perm=6", "/order=false", "/attributes/message.type=NORMAL"]),
    ("Topic: send", "DefaultMQProducer.send", Broker, 310, "a=P b=T c=TBW102 d=4 e=0 f=0 g=1 h=0 i=KEYS\u{1}k\u{2}UNIQ_KEY\u{1}U\u{2}TAGS\u{1}a\u{2} j=0 k=false | hello", &[".msgId", ".queueId", ".queueOffset"]),
    ("Topic: send", "sendMessageInTransaction", Broker, 310, "a=P b=T c=TBW102 d=4 e=0 f=4 g=1 h=0 i=TRAN_MSG\u{1}true\u{2}PGROUP\u{1}P\u{2} j=0 k=false | half", &[".msgId"]),
    ("Topic: send", "endTransaction", Broker, 37, "producerGroup=P tranStateTableOffset=$queueOffset commitLogOffset=$at commitOrRollback=8 fromTransactionCheck=false", &[]),
    // Message, DLQ message and trace: by time with a pull consumer, by key, by id.
    ("Message", "DefaultMQPullConsumer.start", Broker, 34, r#" | {"clientID":"dash","producerDataSet":[{"groupName":"P"}],"consumerDataSet":[{"groupName":"TOOLS_CONSUMER","consumeType":"CONSUME_ACTIVELY","messageModel":"CLUSTERING","consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","subscriptionDataSet":[]}]}"#, &[]),
    ("Message", "searchOffset", Broker, 29, "topic=T queueId=0 timestamp=0", &[".offset"]),
    ("Message", "pull", Broker, 11, "consumerGroup=TOOLS_CONSUMER topic=T queueId=0 queueOffset=0 maxMsgNums=32 sysFlag=4 commitOffset=0 suspendTimeoutMillis=0 subscription=* subVersion=0 expressionType=TAG", &[".nextBeginOffset", ".minOffset", ".maxOffset", ".suggestWhichBrokerId", "\"hello\""]),
    ("Message", "queryMessage", Broker, 12, "topic=T key=k maxNum=64 beginTimestamp=0 endTimestamp=9223372036854775807", &[".indexLastUpdateTimestamp", ".indexLastUpdatePhyoffset", "\"hello\""]),
    ("Message", "queryMessageByUniqKey", Broker, 12, "topic=T key=U maxNum=32 beginTimestamp=0 endTimestamp=9223372036854775807 _UNIQUE_KEY_QUERY=true", &["\"hello\""]),
    ("Message", "viewMessage", Broker, 33, "offset=$at", &["\"half\""]),
    ("Message", "DefaultMQPullConsumer.shutdown", Broker, 35, "clientID=dash consumerGroup=TOOLS_CONSUMER", &[]),
    ("Topic: status", "examineTopicStats", Broker, 202, "topic=T", &["/offsetTable/QUEUE/minOffset=0", "/offsetTable/QUEUE/maxOffset=2", "/offsetTable/QUEUE/lastUpdateTimestamp"]),
    // Producer
    ("Producer", "examineProducerConnectionInfo", Broker, 204, "producerGroup=P", &["/connectionSet/0/clientId=dash", "/connectionSet/0/clientAddr", "/connectionSet/0/language", "/connectionSet/0/version"]),
    // Consumer; a member of G is there.
    ("Consumer", "createAndUpdateSubscriptionGroupConfig", Broker, 200, r#" | {"groupName":"G","consumeEnable":true,"consumeFromMinEnable":true,"consumeBroadcastEnable":true,"consumeMessageOrderly":false,"retryQueueNums":1,"retryMaxTimes":16,"brokerId":0,"whichBrokerWhenConsumeSlowly":1,"notifyConsumerIdsChangedEnable":true,"groupSysFlag":0,"consumeTimeoutMinute":15,"attributes":{}}"#, &[]),
    ("Consumer", "getAllSubscriptionGroup", Broker, 201, "", &["/subscriptionGroupTable/G/groupName=G", "/subscriptionGroupTable/G/consumeEnable=true", "/subscriptionGroupTable/G/consumeBroadcastEnable=true", "/subscriptionGroupTable/G/retryQueueNums=1", "/subscriptionGroupTable/G/retryMaxTimes=16", "/subscriptionGroupTable/G/brokerId=0", "/subscriptionGroupTable/G/whichBrokerWhenConsumeSlowly=1", "/dataVersion/counter"]),
    ("Consumer", "examineConsumeStats: route", Names, 105, "topic=%RETRY%G acceptStandardJsonOnly=true", &["/brokerDatas/0/brokerAddrs/0"]),
    ("Consumer: reset", "updateConsumeOffset", Broker, 15, "consumerGroup=G topic=T queueId=0 commitOffset=1", &[]),
    ("Consumer", "examineConsumeStats", Broker, 208, "consumerGroup=G", &["/consumeTps", "/offsetTable/QUEUE/brokerOffset=2", "/offsetTable/QUEUE/consumerOffset=1", "/offsetTable/QUEUE/lastTimestamp"]),
    ("Consumer", "examineConsumeStats of a topic", Broker, 208, "consumerGroup=G topic=T", &["/offsetTable/QUEUE/consumerOffset=1"]),
    ("Consumer, Proxy", "examineConsumerConnectionInfo", Broker, 203, "consumerGroup=G", &["/connectionSet/0/clientId=member", "/connectionSet/0/clientAddr", "/connectionSet/0/language", "/connectionSet/0/version", "/consumeType=CONSUME_PASSIVELY", "/messageModel=CLUSTERING", "/consumeFromWhere=CONSUME_FROM_LAST_OFFSET", "/subscriptionTable/T/topic=T", "/subscriptionTable/T/subString=*"]),
    ("Consumer: client", "getConsumerRunningInfo", Broker, 307, "consumerGroup=G clientId=member jstackEnable=false", &["/mqTable/QUEUE/cachedMsgCount=7"]),
    ("Topic: consumers, Message: track", "queryTopicConsumeByWho", Broker, 300, "topic=T", &["/groupList/0=G"]),
    ("Message: resend", "consumeMessageDirectly", Broker, 309, "consumerGroup=G clientId=member msgId=$msgId topic=T", &["/consumeResult=CR_SUCCESS", "/spentTimeMills=3"]),
    ("Topic, Consumer: reset", "resetOffsetByTimestamp", Broker, 222, "topic=T group=G timestamp=0 isForce=true", &["/offsetTable/QUEUE=0"]),
    ("Topic: skip", "resetOffsetByTimestampOld", Broker, 30, "topic=T queueId=0", &[".offset"]),
    // First page: what is collected every minute.
    ("Dashboard", "viewBrokerStatsData", Broker, 315, "statsName=TOPIC_PUT_NUMS statsKey=T", &["/statsMinute/tps", "/statsMinute/sum", "/statsHour/sum", "/statsDay/sum"]),
    ("Dashboard", "viewBrokerStatsData", Broker, 315, "statsName=GROUP_GET_NUMS statsKey=T@TOOLS_CONSUMER", &["/statsMinute/tps", "/statsDay/sum"]),
    // Deleting
    ("Consumer", "deleteSubscriptionGroup", Broker, 207, "groupName=G cleanOffset=true", &[]),
    ("Topic, Consumer", "deleteTopicInBroker", Broker, 215, "topic=T", &[]),
    ("Topic, Consumer", "deleteTopicInNameServer", Names, 216, "topic=T", &[]),
];

/// Asked by the page "Acl", of brokers with the accounts of 5.x. Ours has those of 4.9.
const REFUSED: std::ops::RangeInclusive<i32> = 3001..=3010;

fn check(read: &str, answer: &Response) -> Result<(), String> {
    if let Some((one, other)) = read.split_once('|') {
        return check(one, answer).or_else(|_| check(other, answer));
    }
    let text = String::from_utf8_lossy(&answer.body);
    let missing = || format!("{read} is not in {:?} {text}", answer.fields);
    let there = match read.as_bytes()[0] {
        b'.' => answer.fields.contains_key(&read[1..]),
        b'"' => as_record(&answer.body[..record_len(&answer.body).ok_or_else(missing)?])
            .is_some_and(|record| record.body() == read.trim_matches('"').as_bytes()),
        b'/' => {
            let json = lenient_json::parse(&text).map_err(|e| format!("{e}: {text}"))?;
            let (at, wanted) = read.split_once('=').map_or((read, None), |(a, w)| (a, Some(w)));
            let value = json.pointer(&at.replace("QUEUE", QUEUE)).ok_or_else(missing)?;
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            wanted.is_none_or(|wanted| wanted == shown)
        }
        _ => text.lines().any(|line| line.starts_with(read)),
    };
    if there { Ok(()) } else { Err(missing()) }
}

fn record_len(bytes: &[u8]) -> Option<usize> {
    let len = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
    (len <= bytes.len()).then_some(len)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_of_the_dashboard_have_what_they_read() {
    let dir = tempfile::tempdir().unwrap();
    let others = std::env::var("MQ_DASHBOARD").ok();
    let cluster = Cluster::start(dir.path(), |_| {}).await;
    let (names, addr) = match others.as_ref().map(|others| others.split_once(' ').unwrap()) {
        Some((names, broker)) => (names, broker.parse().unwrap()),
        None => (&*cluster.names, cluster.running.addr),
    };
    let mut names = Client::connect(names, TIMEOUT).await.unwrap();
    let mut broker = Client::connect(&addr.to_string(), TIMEOUT).await.unwrap();
    let mut known: HashMap<String, String> = HashMap::new();
    let mut wrong = Vec::new();
    for (page, method, to, code, asked, reads) in ASKED {
        let (fields, body) = asked.split_once(" | ").unwrap_or((asked, ""));
        let mut command = Command::new(*code).body(body);
        for field in fields.split(' ').filter(|f| !f.is_empty()) {
            let (name, value) = field.split_once('=').unwrap();
            let value = value.strip_prefix('$').map_or(value, |name| &known[name]);
            command = command.field(name, value.to_owned());
        }
        let client = if *to == Names { &mut names } else { &mut broker };
        let answer = call(client, command).await;
        for (name, value) in &answer.fields {
            known.insert(name.to_string(), value.to_string());
        }
        if let Some((_, at)) = answer.fields.get("msgId").and_then(|id| parse_offset_msg_id(id)) {
            known.insert("at".into(), at.to_string());
        }
        let read: Vec<_> = reads.iter().filter_map(|read| check(read, &answer).err()).collect();
        if answer.code != 0 || !read.is_empty() {
            wrong.push(format!(
                "{page}, {method} ({code}): {} {:?} {read:?}",
                answer.code, answer.remark
            ));
        }
        if *code == 200 {
            let consumer = Consumer::join(addr, "member").await;
            tokio::spawn(consumer.answer_all());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for code in REFUSED.filter(|_| others.is_none()) {
        let answer = call(&mut broker, Command::new(code)).await;
        let says = format!(" request type {code} not supported");
        assert_eq!((answer.code, answer.remark.as_deref()), (3, Some(&*says)));
    }
    cluster.running.stop().await.unwrap();
}
