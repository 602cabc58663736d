//! Names with a meaning, and what a name may be.

use super::BrokerConfig;
use super::topics::{TopicConfig, perm};
use crate::recover::SCHEDULE_TOPIC;

/// Topics are auto-created like this one.
pub const DEFAULT_TOPIC: &str = "TBW102";
pub const RETRY_PREFIX: &str = "%RETRY%";
pub const DLQ_PREFIX: &str = "%DLQ%";
/// Light queues, whose units point at records of other topics.
pub const LIGHT_PREFIX: &str = "%LMQ%";
pub const HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
pub const OP_TOPIC: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
pub const TRACE_TOPIC: &str = "RMQ_SYS_TRACE_TOPIC";
const SELF_TEST_TOPIC: &str = "SELF_TEST_TOPIC";
const BENCHMARK_TOPIC: &str = "BenchmarkTest";
const OFFSET_MOVED_TOPIC: &str = "OFFSET_MOVED_EVENT";
/// Where halves go that are never settled.
pub const CHECK_MAX_TIME_TOPIC: &str = "TRANS_CHECK_MAX_TIME_TOPIC";

/// Its offsets tell how far halves and ops are settled.
pub const TRANS_GROUP: &str = "CID_RMQ_SYS_TRANS";

/// More queues than this in a topic are a mistake.
pub const MAX_QUEUES: i32 = 100_000;
const MAX_TOPIC: usize = 127;
const MAX_GROUP: usize = 255;

/// Groups that are there from the start.
pub const SYSTEM_GROUPS: [&str; 7] = [
    "TOOLS_CONSUMER",
    "FILTERSRV_CONSUMER",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
];

/// Topics that are there from the start.
pub fn system_topics(config: &BrokerConfig) -> Vec<TopicConfig> {
    let template = |name: &str, queues, enabled| TopicConfig {
        perm: perm::INHERIT | if enabled { perm::READ | perm::WRITE } else { 0 },
        ..TopicConfig::new(name, queues)
    };
    let mut topics = vec![
        TopicConfig::new(SELF_TEST_TOPIC, 1),
        TopicConfig::new(BENCHMARK_TOPIC, 1024),
        TopicConfig::new(OFFSET_MOVED_TOPIC, 1),
        TopicConfig::new(SCHEDULE_TOPIC, 18),
        TopicConfig::new(format!("{}_REPLY_TOPIC", config.cluster), 1),
        template(&config.cluster, 16, config.cluster_topic),
        template(&config.name, 1, config.broker_topic),
    ];
    topics.extend(config.trace_topic.as_ref().map(|name| TopicConfig::new(name, 1)));
    if config.auto_create_topic {
        topics.push(template(DEFAULT_TOPIC, config.default_topic_queues, true));
    }
    topics
}

/// Topics that are a broker's own, whether they are there or not.
pub const OWN: [&str; 9] = [
    DEFAULT_TOPIC,
    SCHEDULE_TOPIC,
    BENCHMARK_TOPIC,
    HALF_TOPIC,
    OP_TOPIC,
    TRACE_TOPIC,
    CHECK_MAX_TIME_TOPIC,
    SELF_TEST_TOPIC,
    OFFSET_MOVED_TOPIC,
];

/// Whether a topic is the broker's own: it cannot be made, changed or deleted.
pub fn is_system_topic(topic: &str, config: &BrokerConfig) -> bool {
    OWN.contains(&topic)
        || topic.starts_with("rmq_sys_")
        || topic == config.cluster
        || topic == config.name
        || topic.strip_suffix("_REPLY_TOPIC") == Some(&config.cluster)
}

/// Whether clients may not send to a topic.
pub fn is_closed_to_sends(topic: &str) -> bool {
    const CLOSED: [&str; 6] = [
        SCHEDULE_TOPIC,
        HALF_TOPIC,
        OP_TOPIC,
        CHECK_MAX_TIME_TOPIC,
        SELF_TEST_TOPIC,
        OFFSET_MOVED_TOPIC,
    ];
    CLOSED.contains(&topic)
}

/// Why a name cannot be a topic's.
pub fn check_topic(topic: &str) -> Result<(), String> {
    check("topic", topic, MAX_TOPIC)
}

/// Why a name cannot be a group's.
pub fn check_group(group: &str) -> Result<(), String> {
    check("group", group, MAX_GROUP)
}

fn check(what: &str, name: &str, max: usize) -> Result<(), String> {
    if name.trim().is_empty() {
        return Err(format!("The specified {what} is blank."));
    }
    if name.len() > max {
        return Err(format!("The specified {what} is longer than {what} max length {max}."));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'%' | b'|' | b'_' | b'-');
    if !name.bytes().all(allowed) {
        return Err(format!(
            "The specified {what} contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"
        ));
    }
    Ok(())
}
