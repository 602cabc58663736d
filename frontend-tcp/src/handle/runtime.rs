//! How the broker itself does: its state (28), and what it counted (315).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use mq_store::broker::stats::{Counter, Rates, Sample, Span};
use mq_store::recover::{SCHEDULE_TOPIC, log_dirs};
use serde::Serialize;

use super::{BrokerService, Failure, Handled};
use crate::conn::{Conn, Request};
use crate::wire::codes::response;
use crate::wire::command::{Command, VERSION, VERSION_NAME};
use crate::wire::fields::header;

/// What the Java broker tells of its thread pools, timer wheel and buffers, of which we have none.
const NOT_HERE: [&str; 24] = [
    "sendThreadPoolQueueSize",
    "sendThreadPoolQueueCapacity",
    "sendThreadPoolQueueHeadWaitTimeMills",
    "pullThreadPoolQueueSize",
    "pullThreadPoolQueueCapacity",
    "pullThreadPoolQueueHeadWaitTimeMills",
    "queryThreadPoolQueueSize",
    "queryThreadPoolQueueCapacity",
    "queryThreadPoolQueueHeadWaitTimeMills",
    "litePullThreadPoolQueueSize",
    "litePullThreadPoolQueueCapacity",
    "litePullThreadPoolQueueHeadWaitTimeMills",
    "ackThreadPoolQueueSize",
    "ackThreadPoolQueueCapacity",
    "ackThreadPoolQueueHeadWaitTimeMills",
    "EndTransactionQueueSize",
    "EndTransactionThreadPoolQueueCapacity",
    "pageCacheLockTimeMills",
    "dispatchMaxBuffer",
    "timerReadBehind",
    "timerOffsetBehind",
    "timerCongestNum",
    "timerEnqueueTps",
    "timerDequeueTps",
];

#[derive(Serialize)]
struct Table {
    table: BTreeMap<String, String>,
}

/// The state of the broker.
pub fn runtime_info(service: &BrokerService, _: &Arc<Conn>, _: &Request<'_>) -> Handled {
    let (broker, store) = (&service.broker, service.broker.store());
    let (stats, log, root) = (broker.stats(), store.log(), &store.config().root);
    let (free, total) = store.fs().free_and_total(root)?;
    // Where the log has several folders, the emptiest takes the next file.
    let mut emptiest = f64::MAX;
    let mut ratios = BTreeMap::new();
    for dir in log_dirs(store.config()) {
        let ratio = store.fs().used_ratio(&dir)?;
        emptiest = emptiest.min(ratio);
        ratios.insert(format!("commitLogDiskRatio_{}", dir.display()), number(ratio));
    }
    let (puts, gets, mornings) = (stats.puts().total(), stats.gets.total(), stats.mornings());
    let up = (broker.now_ms() - stats.started_ms).max(0) / 1000;
    let (days, hours, minutes, seconds) = (up / 86400, up / 3600 % 24, up / 60 % 60, up % 60);
    let average = if puts.value > 0 { puts.bytes as f64 / puts.value as f64 } else { 0.0 };
    let (longest_put, longest_get) = stats.longest();
    let latency = |share| format!("{:.2}", stats.put_latency_of(share).as_secs_f64() * 1000.0);
    let transferred = tps(&[&stats.gets], |s| s.value);
    let earliest = log.store_time(log.min_offset()).unwrap_or(-1);

    let mut table: BTreeMap<String, String> =
        NOT_HERE.iter().map(|key| (key.to_string(), "0".to_string())).collect();
    let known = [
        ("brokerVersionDesc", VERSION_NAME.to_string()),
        ("brokerVersion", VERSION.to_string()),
        ("brokerActive", "true".to_string()),
        ("bootTimestamp", stats.started_ms.to_string()),
        (
            "runtime",
            format!("[ {days} days, {hours} hours, {minutes} minutes, {seconds} seconds ]"),
        ),
        ("msgPutTotalTodayNow", puts.value.to_string()),
        ("msgPutTotalTodayMorning", mornings.today.0.to_string()),
        ("msgPutTotalYesterdayMorning", mornings.yesterday.0.to_string()),
        ("msgGetTotalTodayNow", gets.value.to_string()),
        ("msgGetTotalTodayMorning", mornings.today.1.to_string()),
        ("msgGetTotalYesterdayMorning", mornings.yesterday.1.to_string()),
        ("putTps", tps(&[stats.puts()], |s| s.value)),
        ("getFoundTps", tps(&[&stats.gets], |s| s.times)),
        ("getMissTps", tps(&[&stats.misses], |s| s.times)),
        ("getTotalTps", tps(&[&stats.gets, &stats.misses], |s| s.times)),
        ("getTransferredTps", transferred.clone()),
        // So spelt up to 4.5.
        ("getTransferedTps", transferred),
        ("putMessageTimesTotal", puts.value.to_string()),
        ("putMessageSizeTotal", puts.bytes.to_string()),
        ("putMessageAverageSize", number(average)),
        ("putMessageFailedTimes", stats.failed_puts.total().times.to_string()),
        ("putMessageEntireTimeMax", longest_put.as_millis().to_string()),
        ("getMessageEntireTimeMax", longest_get.as_millis().to_string()),
        ("putMessageDistributeTime", distribution(stats.put_latencies())),
        ("putLatency99", latency(0.99)),
        ("putLatency999", latency(0.999)),
        ("commitLogDirCapacity", format!("Total : {}, Free : {}.", human(total), human(free))),
        ("commitLogDiskRatio", number(emptiest)),
        ("consumeQueueDiskRatio", number(store.fs().used_ratio(root)?)),
        ("commitLogMinOffset", log.min_offset().to_string()),
        ("commitLogMaxOffset", log.end().to_string()),
        ("remainHowManyDataToFlush", human(log.end().saturating_sub(log.flushed()))),
        ("dispatchBehindBytes", store.dispatch_behind().to_string()),
        // Ours alone.
        ("damagedReads", store.damaged_reads().to_string()),
        ("startAcceptSendRequestTimeStamp", broker.config().takes_sends_from_ms.to_string()),
        ("earliestMessageTimeStamp", earliest.to_string()),
        // What Java says where no such buffers are used.
        ("remainTransientStoreBufferNumbs", i32::MAX.to_string()),
    ];
    table.extend(known.map(|(key, value)| (key.to_string(), value)));
    table.extend(ratios);
    for (level, next) in broker.delay_offsets() {
        let max = store.max_offset(SCHEDULE_TOPIC, level - 1);
        table.insert(format!("scheduleMessageOffset_{level}"), format!("{next},{max}"));
    }
    Ok(Command::ok().json(&Table { table }).into())
}

/// As Java writes a double.
fn number(n: f64) -> String {
    format!("{n:?}")
}

/// Rates over 10 s, a minute and ten minutes; the last one is missing for the first ten.
fn tps(counters: &[&Counter], of: fn(&Sample) -> u64) -> String {
    let sum = |span, parts| {
        let rates = counters.iter().map(|c| c.latest_rates(span, parts, of).map(|r| r.tps));
        rates.sum::<Option<f64>>()
    };
    let mut text = format!("{:?} ", sum(Span::Minute, 1).unwrap_or(0.0));
    let _ = write!(text, "{:?} ", sum(Span::Minute, usize::MAX).unwrap_or(0.0));
    if let Some(tps) = sum(Span::Hour, 1) {
        let _ = write!(text, "{tps:?}");
    }
    text
}

/// The classes of RocketMQ: up to a bound in ms (below 1 ms counts as 0).
fn distribution(latencies: impl Iterator<Item = (Duration, u64)>) -> String {
    const CLASSES: [(&str, u64); 13] = [
        ("<=0ms", 1),
        ("0~10ms", 10),
        ("10~50ms", 50),
        ("50~100ms", 100),
        ("100~200ms", 200),
        ("200~500ms", 500),
        ("500ms~1s", 1_000),
        ("1~2s", 2_000),
        ("2~3s", 3_000),
        ("3~4s", 4_000),
        ("4~5s", 5_000),
        ("5~10s", 10_000),
        ("10s~", u64::MAX),
    ];
    let mut counts = [0; CLASSES.len()];
    for (bound, n) in latencies {
        let class = CLASSES.iter().position(|(_, ms)| bound <= Duration::from_millis(*ms));
        counts[class.unwrap_or(CLASSES.len() - 1)] += n;
    }
    CLASSES.iter().zip(counts).map(|((name, _), n)| format!("[{name}]:{n} ")).collect()
}

fn human(bytes: u64) -> String {
    let mut n = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if n < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{n:.1} {unit}") };
        }
        n /= 1024.0;
    }
    format!("{n:.1} PiB")
}

header! {
    struct StatsHeader<'a> {
        name: &'a str = "statsName",
        key: &'a str = "statsKey",
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatsData {
    stats_day: StatsItem,
    stats_hour: StatsItem,
    stats_minute: StatsItem,
}

#[derive(Serialize)]
struct StatsItem {
    avgpt: f64,
    sum: u64,
    tps: f64,
}

/// One of the counters over minute, hour and day.
pub fn stats_data(service: &BrokerService, _: &Arc<Conn>, request: &Request<'_>) -> Handled {
    let h = StatsHeader::of(&request.head.fields)?;
    let all = item(service, h.name, h.key).ok_or_else(|| {
        let text = format!("The stats <{}> <{}> not exist", h.name, h.key);
        Failure::Code(response::SYSTEM_ERROR, text)
    })?;
    let [stats_minute, stats_hour, stats_day] =
        all.map(|r| StatsItem { avgpt: r.average, sum: r.sum, tps: r.tps });
    Ok(Command::ok().json(&StatsData { stats_day, stats_hour, stats_minute }).into())
}

fn item(service: &BrokerService, name: &str, key: &str) -> Option<[Rates; 3]> {
    let stats = service.broker.stats();
    let spans = [Span::Minute, Span::Hour, Span::Day];
    let rates =
        |counter: &Counter, of: fn(&Sample) -> u64| Some(spans.map(|s| counter.rates(s, of)));
    let topic = || stats.find_topic(key);
    // With latencies the queue id may stand before the topic; we count all queues as one.
    let group = || {
        let (topic, group) = key.rsplit_once('@')?;
        let topic = topic.split_once('@').map_or(topic, |(_, topic)| topic);
        stats.find_group(group, topic)
    };
    let of_broker = key == service.broker.config().cluster;
    match name {
        "TOPIC_PUT_NUMS" => rates(&topic()?.puts, |s| s.value),
        "TOPIC_PUT_SIZE" => rates(&topic()?.puts, |s| s.bytes),
        "GROUP_GET_NUMS" => rates(&group()?.gets, |s| s.value),
        "GROUP_GET_SIZE" => rates(&group()?.gets, |s| s.bytes),
        "GROUP_GET_LATENCY" => rates(&group()?.latency, |s| s.value / 1000),
        "SNDBCK_PUT_NUMS" => rates(&group()?.sent_back, |s| s.value),
        "BROKER_PUT_NUMS" if of_broker => rates(stats.puts(), |s| s.value),
        "BROKER_GET_NUMS" if of_broker => rates(&stats.gets, |s| s.value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_java() {
        assert_eq!((human(0), human(1023)), ("0 B".into(), "1023 B".into()));
        assert_eq!((human(1536), human(252 << 30)), ("1.5 KiB".into(), "252.0 GiB".into()));
        assert_eq!((number(0.0), number(0.14)), ("0.0".into(), "0.14".into()));
        let text = distribution(
            [(20, 3), (1_000_000, 4), (10_000_000, 2)]
                .into_iter()
                .map(|(us, n)| (Duration::from_micros(us), n))
                .chain([(Duration::MAX, 1)]),
        );
        assert_eq!(
            text,
            "[<=0ms]:3 [0~10ms]:0 [10~50ms]:0 [50~100ms]:0 [100~200ms]:0 [200~500ms]:0 \
             [500ms~1s]:4 [1~2s]:0 [2~3s]:0 [3~4s]:0 [4~5s]:0 [5~10s]:2 [10s~]:1 "
        );
        assert_eq!(tps(&[&Counter::default()], |s| s.value), "0.0 0.0 ");
    }
}
