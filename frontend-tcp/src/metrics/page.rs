//! The page of all metrics.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::atomic::Ordering::Relaxed;

use mq_store::broker::names::{self, DLQ_PREFIX, RETRY_PREFIX};
use mq_store::broker::stats::{COMMIT_AGES_S, Histogram, SIZES};

use super::rpc::CLASSES_MS;
use crate::handle::BrokerService;
use crate::wire::codes::{request, response};
use crate::wire::command::version_name;

/// The kinds of messages, in the order of their numbers.
const KINDS: [&str; 4] = ["normal", "fifo", "delay", "transaction"];

type Labels<'a> = &'a [(&'a str, &'a str)];

/// A page in the making.
struct Page {
    text: String,
    /// Labels of every value, written out.
    common: String,
    name: &'static str,
}

impl Page {
    /// Begins a metric. Values of one metric stand together.
    fn metric(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn value(&mut self, labels: Labels<'_>, value: impl Display) {
        self.line("", labels, None, value);
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: impl Display) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        self.text.push('{');
        self.text.push_str(&self.common);
        for (name, value) in labels.iter().copied().chain(le.map(|le| ("le", le))) {
            self.text.push(',');
            push_label(&mut self.text, name, value);
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    fn histogram<const N: usize>(
        &mut self,
        labels: Labels<'_>,
        bounds: &[u64; N],
        histogram: &Histogram<N>,
    ) {
        let (classes, above, sum) = histogram.total();
        let mut count = 0;
        for (bound, n) in bounds.iter().zip(classes) {
            count += n;
            self.line("_bucket", labels, Some(&format!("{bound}.0")), count);
        }
        count += above;
        self.line("_bucket", labels, Some("+Inf"), count);
        self.line("_count", labels, None, count);
        self.line("_sum", labels, None, sum);
    }
}

fn push_label(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push_str("=\"");
    for c in value.chars() {
        match c {
            '\\' | '"' => text.extend(['\\', c]),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text.push('"');
}

fn truth(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn is_retry(topic: &str) -> bool {
    topic.starts_with(RETRY_PREFIX) || topic.starts_with(DLQ_PREFIX)
}

fn is_system_group(group: &str) -> bool {
    group.to_ascii_lowercase().starts_with("cid_rmq_sys_")
}

/// Everything that is counted and measured.
pub fn metrics(service: &BrokerService) -> String {
    let config = service.broker.config();
    let mut common = String::new();
    let own = [("cluster", &*config.cluster), ("node_id", &*config.name), ("node_type", "broker")];
    let others = service.metrics.labels.iter().map(|(name, value)| (&**name, &**value));
    for (name, value) in own.into_iter().chain(others) {
        if !common.is_empty() {
            common.push(',');
        }
        push_label(&mut common, name, value);
    }
    let mut page = Page { text: String::with_capacity(16 << 10), common, name: "" };
    node(&mut page, service);
    incoming(&mut page, service);
    outgoing(&mut page, service);
    connections(&mut page, service);
    lags(&mut page, service);
    transactions(&mut page, service);
    storage(&mut page, service);
    latencies(&mut page, service);
    page.text
}

fn node(page: &mut Page, service: &BrokerService) {
    let broker = &service.broker;
    page.metric("rocketmq_processor_watermark", "gauge", "Requests that wait");
    // Requests wait in no queue here, but pulls do, for messages.
    page.value(&[("processor", "pull")], service.holds.count());
    page.metric("rocketmq_broker_permission", "gauge", "Broker permission");
    page.value(&[], broker.config().permission);
    page.metric("rocketmq_topic_number", "gauge", "Active topic number");
    page.value(&[], broker.topics().all().topic_config_table.len());
    page.metric("rocketmq_consumer_group_number", "gauge", "Active subscription group number");
    page.value(&[], broker.groups().all().subscription_group_table.len());
}

fn incoming(page: &mut Page, service: &BrokerService) {
    let mut topics = service.broker.stats().topics();
    topics.retain(|(topic, _)| !is_retry(topic));
    topics.sort_by(|a, b| a.0.cmp(&b.0));
    let config = service.broker.config();
    let mut rows = Vec::new();
    for (topic, counters) in &topics {
        let is_system = truth(names::is_system_topic(topic, &config));
        for (kind, name) in counters.kinds.iter().zip(KINDS) {
            if kind.messages.load(Relaxed) > 0 {
                let labels =
                    [("is_system", is_system), ("message_type", name), ("topic", &**topic)];
                rows.push((labels, kind));
            }
        }
    }
    page.metric("rocketmq_messages_in_total", "counter", "Total number of incoming messages");
    for (labels, kind) in &rows {
        page.value(labels, kind.messages.load(Relaxed));
    }
    page.metric("rocketmq_throughput_in_total", "counter", "Total traffic of incoming messages");
    for (labels, kind) in &rows {
        page.value(labels, kind.bytes.load(Relaxed));
    }
    page.metric("rocketmq_message_size", "histogram", "Incoming messages size");
    for (labels, kind) in &rows {
        page.histogram(labels, &SIZES, &kind.sizes);
    }
}

fn outgoing(page: &mut Page, service: &BrokerService) {
    let config = service.broker.config();
    let mut groups = service.broker.stats().groups();
    groups.sort_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));
    let is_system = |topic: &str, group: &str| {
        truth(names::is_system_topic(topic, &config) || is_system_group(group))
    };
    let given: Vec<_> = groups
        .iter()
        .map(|(topic, group, counters)| {
            let labels = [
                ("consumer_group", &**group),
                ("is_retry", truth(is_retry(topic))),
                ("is_system", is_system(topic, group)),
                ("topic", &**topic),
            ];
            (labels, counters.gets.total())
        })
        .filter(|(_, total)| total.value > 0)
        .collect();
    page.metric("rocketmq_messages_out_total", "counter", "Total number of outgoing messages");
    given.iter().for_each(|(labels, total)| page.value(labels, total.value));
    page.metric("rocketmq_throughput_out_total", "counter", "Total traffic of outgoing messages");
    given.iter().for_each(|(labels, total)| page.value(labels, total.bytes));
    let help = "Consumer send to DLQ messages";
    page.metric("rocketmq_send_to_dlq_messages_total", "counter", help);
    for (topic, group, counters) in &groups {
        let dead = counters.dead.load(Relaxed);
        if dead > 0 {
            let system = is_system(topic, group);
            let labels = [("consumer_group", &**group), ("is_system", system), ("topic", &**topic)];
            page.value(&labels, dead);
        }
    }
}

fn connections(page: &mut Page, service: &BrokerService) {
    let mut producers = BTreeMap::<_, u64>::new();
    for member in service.sessions.all_producers().into_values().flatten() {
        let key = (member.language.to_lowercase(), version_name(member.version).to_lowercase());
        *producers.entry(key).or_default() += 1;
    }
    page.metric("rocketmq_producer_connections", "gauge", "Producer connections");
    for ((language, version), n) in &producers {
        let labels = [("language", &**language), ("protocol_type", "remoting")];
        page.value(&[labels[0], labels[1], ("version", version)], n);
    }
    let mut consumers = BTreeMap::<_, u64>::new();
    for (name, group) in service.sessions.all_consumers() {
        let mode = match group.consume_type.as_str() {
            "CONSUME_ACTIVELY" => "pull",
            "CONSUME_POP" => "pop",
            _ => "push",
        };
        for member in group.members.into_values() {
            let version = version_name(member.version).to_lowercase();
            let key = (name.clone(), member.language.to_lowercase(), version, mode);
            *consumers.entry(key).or_default() += 1;
        }
    }
    page.metric("rocketmq_consumer_connections", "gauge", "Consumer connections");
    for ((group, language, version, mode), n) in &consumers {
        let labels = [
            ("consume_mode", *mode),
            ("consumer_group", group),
            ("is_system", truth(is_system_group(group))),
            ("language", language),
            ("protocol_type", "remoting"),
            ("version", version),
        ];
        page.value(&labels, n);
    }
}

fn lags(page: &mut Page, service: &BrokerService) {
    let broker = &service.broker;
    let (config, now) = (broker.config(), broker.now_ms());
    let mut rows = Vec::new();
    for key in broker.offsets().all().offset_table.into_keys() {
        let Some((topic, group)) = key.split_once('@') else { continue };
        if !names::SYSTEM_GROUPS.contains(&group) && group != names::TRANS_GROUP {
            let lag = broker.lag(group, topic);
            rows.push((group.to_owned(), topic.to_owned(), lag));
        }
    }
    rows.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    let age = |time: Option<i64>| time.map_or(0, |time| (now - time).max(0)).unsigned_abs();
    type Of<'a> = &'a dyn Fn(&mq_store::broker::lag::Lag) -> u64;
    let metrics: [(&'static str, &str, Of<'_>); 5] = [
        ("rocketmq_consumer_lag_messages", "Consumer lag messages", &|l| l.behind),
        ("rocketmq_consumer_lag_latency_milliseconds", "Consumer lag time", &|l| {
            age(l.oldest_behind_ms)
        }),
        ("rocketmq_consumer_inflight_messages", "Consumer inflight messages", &|l| l.in_flight),
        ("rocketmq_consumer_queueing_latency_milliseconds", "Consumer queueing time", &|l| {
            age(l.oldest_ready_ms)
        }),
        ("rocketmq_consumer_ready_messages", "Consumer ready messages", &|l| l.ready),
    ];
    for (name, help, of) in metrics {
        page.metric(name, "gauge", help);
        for (group, topic, lag) in &rows {
            let system = names::is_system_topic(topic, &config) || is_system_group(group);
            let labels = [
                ("consumer_group", &**group),
                ("is_retry", truth(is_retry(topic))),
                ("is_system", truth(system)),
                ("topic", topic),
            ];
            page.value(&labels, of(lag));
        }
    }
}

fn transactions(page: &mut Page, service: &BrokerService) {
    let mut topics = service.broker.stats().topics();
    topics.sort_by(|a, b| a.0.cmp(&b.0));
    page.metric("rocketmq_commit_messages_total", "counter", "Total number of commit messages");
    for (topic, counters) in &topics {
        let n = counters.commits.load(Relaxed);
        if n > 0 {
            page.value(&[("topic", topic)], n);
        }
    }
    let help = "Total number of rollback messages";
    page.metric("rocketmq_rollback_messages_total", "counter", help);
    for (topic, counters) in &topics {
        let n = counters.rollbacks.load(Relaxed);
        if n > 0 {
            page.value(&[("topic", topic)], n);
        }
    }
    // So named by RocketMQ; the values are seconds.
    let name = "rocketmq_finish_message_latency_milliseconds";
    page.metric(name, "histogram", "Transaction finish latency");
    for (topic, counters) in &topics {
        if counters.commits.load(Relaxed) > 0 {
            page.histogram(&[("topic", topic)], &COMMIT_AGES_S, &counters.commit_ages);
        }
    }
    page.metric("rocketmq_half_messages", "gauge", "Half messages of all topics");
    for (topic, n) in service.broker.open_transactions_by_topic() {
        page.value(&[("topic", &topic)], n);
    }
}

fn storage(page: &mut Page, service: &BrokerService) {
    let store = service.broker.store();
    let log = store.log();
    let labels = &[("storage_medium", "disk"), ("storage_type", "local")];
    let mut gauge = |name, help, value: u64| {
        page.metric(name, "gauge", help);
        page.value(labels, value);
    };
    if let Ok((free, total)) = store.fs().free_and_total(&store.config().root) {
        gauge("rocketmq_storage_size_bytes", "Broker storage size", total.saturating_sub(free));
    }
    let behind = log.end().saturating_sub(log.flushed());
    gauge("rocketmq_storage_flush_behind_bytes", "Broker flush behind bytes", behind);
    let behind = store.dispatch_behind();
    gauge("rocketmq_storage_dispatch_behind_bytes", "Broker dispatch behind bytes", behind);
    if let Some(time) = log.store_time(log.min_offset()) {
        let age = (service.broker.now_ms() - time).max(0).unsigned_abs();
        let name = "rocketmq_storage_message_reserve_time_milliseconds";
        gauge(name, "Broker message reserve time", age);
    }
    let name = "rocketmq_storage_damaged_reads_total";
    page.metric(name, "counter", "Damaged messages that were passed by");
    page.value(labels, store.damaged_reads());
}

fn latencies(page: &mut Page, service: &BrokerService) {
    let Some(rpc) = &service.metrics.rpc else { return };
    page.metric("rocketmq_rpc_latency_milliseconds", "histogram", "Rpc latency");
    for (outcome, histogram) in rpc.all() {
        let asked = request::name(outcome.request).to_lowercase();
        let answered = response::name(outcome.response).to_lowercase();
        let labels = [
            ("is_long_polling", truth(outcome.held)),
            ("protocol_type", "remoting"),
            ("request_code", &*asked),
            ("response_code", &*answered),
            ("result", if outcome.one_way { "oneway" } else { "success" }),
        ];
        page.histogram(&labels, &CLASSES_MS, &histogram);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let mut text = String::new();
        push_label(&mut text, "topic", "a\"b\\c\nd");
        assert_eq!(text, "topic=\"a\\\"b\\\\c\\nd\"");
        assert!(is_system_group("CID_RMQ_SYS_TRANS") && !is_system_group("CID_RMQ_X"));
    }
}
