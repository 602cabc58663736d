//! What a run saw: counts, latencies, errors, the processes' cost; and how it is told.

use std::collections::BTreeMap;
use std::io::{ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mq_broker::wire::codes::response;
use mq_broker::wire::frame::Frame;
use serde_json::json;

use super::cli::Common;
use super::error::Result;
use super::request;

/// Counts what happens between `from` and `until`, nanoseconds since the run began.
#[derive(Debug)]
pub struct Meter<'a> {
    common: &'a Common,
    began: Instant,
    pub from: u64,
    pub until: u64,
    pub messages: u64,
    /// Of bodies, or of records where these are not looked into.
    bytes: u64,
    /// Time of the last message that counts.
    last: u64,
    pub latency: Histogram<u64>,
    /// Of the answers to sends, where the latency is another.
    pub ack: Histogram<u64>,
    /// By code: how often, and the first remark.
    faults: BTreeMap<i32, (u64, String)>,
    /// Broker's and own usage when the counting began.
    before: [Option<Usage>; 2],
    show: bool,
    next_line: u64,
    shown: (u64, u64),
}

impl<'a> Meter<'a> {
    /// Begins now, with the warm-up.
    pub fn start(common: &'a Common, warmup: Duration, duration: Duration) -> Meter<'a> {
        // A microsecond to a minute, to three digits.
        let histogram = || {
            let h = Histogram::new_with_bounds(1_000, 60_000_000_000, 3);
            h.expect("the bounds are sound")
        };
        let from = warmup.as_nanos() as u64;
        Meter {
            common,
            began: Instant::now(),
            from,
            until: from.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
            messages: 0,
            bytes: 0,
            last: from,
            latency: histogram(),
            ack: histogram(),
            faults: BTreeMap::new(),
            before: usages(common),
            show: common.progress || std::io::stderr().is_terminal(),
            next_line: from,
            shown: (0, 0),
        }
    }

    pub fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    pub fn counts_at(&self, time: u64) -> bool {
        (self.from..=self.until).contains(&time)
    }

    /// Counts messages; that they are to be counted is the caller's to know.
    pub fn count(&mut self, messages: u64, bytes: u64, now: u64) {
        self.messages += messages;
        self.bytes += bytes;
        self.last = now;
    }

    /// Counts an answer that is an error, at whatever time it comes.
    pub fn fault(&mut self, code: i32, frame: &Frame<'_>) {
        self.faults.entry(code).or_insert_with(|| (0, request::remark(frame))).0 += 1;
    }

    /// To be called often: does what is due each second.
    pub fn tick(&mut self, now: u64) {
        if now < self.next_line {
            return;
        }
        if self.next_line == self.from {
            self.before = usages(self.common);
        } else if self.show {
            let rate = thousands(self.messages - self.shown.0);
            let mib = (self.bytes - self.shown.1) as f64 / 1048576.0;
            let faults: u64 = self.faults.values().map(|(n, _)| n).sum();
            let second = (self.next_line - self.from) / 1_000_000_000;
            eprintln!("{second:4} s  {rate:>12} msg/s  {mib:8.1} MiB/s  {faults} errors");
        }
        self.shown = (self.messages, self.bytes);
        self.next_line += 1_000_000_000;
    }

    /// Prints the end of the story. `counts` are what a mode counts besides, and whether any
    /// of it is bad. Gives whether all went well.
    pub fn tell(&self, title: [&str; 3], counts: &[(&str, u64, bool)]) -> Result<bool> {
        let [mode, broker, settings] = title;
        let seconds = self.last.saturating_sub(self.from) as f64 / 1e9;
        let per_second = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        let (rate, flow) = (per_second(self.messages), per_second(self.bytes));
        let mut table = format!("{mode}  {broker}  topic {}  {settings}\n", self.common.topic);
        let mut row = |name: &str, text: String| table += &format!("  {name:<13} {text}\n");
        let mut all = json!({
            "mode": mode, "broker": broker, "topic": self.common.topic, "settings": settings,
            "seconds": seconds, "messages": self.messages, "bytes": self.bytes,
            "messagesPerSecond": rate.round(), "bytesPerSecond": flow.round(),
        });
        row("messages", format!("{} in {seconds:.2} s", thousands(self.messages)));
        row("rate", format!("{} msg/s   {:.1} MiB/s", thousands(rate as u64), flow / 1048576.0));
        for (name, key, h) in
            [("latency", "latencyMicros", &self.latency), ("ack", "ackMicros", &self.ack)]
        {
            if !h.is_empty() {
                let micros = percentiles(h);
                row(name, micros.map(|(at, m)| format!("{at} {}", time(m))).join("   "));
                all[key] = micros.iter().map(|(at, m)| (at.to_string(), json!(m))).collect();
            }
        }
        for (name, count, _) in counts {
            row(name, thousands(*count));
            all[*name] = json!(count);
        }
        for (code, (count, remark)) in &self.faults {
            let name = response::name(*code);
            row("errors", format!("{} × {code} {name}: {remark}", thousands(*count)));
        }
        if self.faults.is_empty() {
            row("errors", "none".into());
        }
        all["errors"] = self
            .faults
            .iter()
            .map(|(code, (n, remark))| json!({"code": code, "count": n, "remark": remark}))
            .collect();
        let [broker, own] = usages(self.common);
        let cpu = |now: Option<Usage>, then: Option<Usage>| Some(now?.cpu - then?.cpu);
        if let (Some(now), Some(cpu)) = (broker, cpu(broker, self.before[0])) {
            let each = cpu * 1e6 / self.messages.max(1) as f64;
            row("broker CPU", format!("{each:.2} µs/message   {:.2} cores", cpu / seconds));
            let (rss, anonymous) = (now.rss_kib / 1024, now.anonymous_kib / 1024);
            row("broker RSS", format!("{rss} MiB, {anonymous} MiB of it no mapped files"));
            all["brokerCpuSeconds"] = json!(cpu);
            all["brokerCpuMicrosPerMessage"] = json!(each);
            all["brokerRssKib"] = json!(now.rss_kib);
            all["brokerAnonymousKib"] = json!(now.anonymous_kib);
        }
        if let Some(cpu) = cpu(own, self.before[1]) {
            row("mq-bench CPU", format!("{:.2} cores", cpu / seconds));
            all["ownCpuSeconds"] = json!(cpu);
        }
        if self.common.json {
            table = format!("{all}\n");
        }
        match std::io::stdout().write_all(table.as_bytes()) {
            Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(e.into()),
            _ => Ok(self.faults.is_empty() && !counts.iter().any(|(_, n, bad)| *bad && *n > 0)),
        }
    }
}

/// In microseconds.
fn percentiles(h: &Histogram<u64>) -> [(&'static str, f64); 6] {
    let micros = |ns: u64| ns as f64 / 1000.0;
    let at = |q| micros(h.value_at_quantile(q));
    [
        ("mean", (h.mean() / 10.0).round() / 100.0),
        ("p50", at(0.5)),
        ("p90", at(0.9)),
        ("p99", at(0.99)),
        ("p99.9", at(0.999)),
        ("max", micros(h.max())),
    ]
}

/// A process's CPU time in seconds, and its memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    pub cpu: f64,
    pub rss_kib: u64,
    pub anonymous_kib: u64,
}

impl Usage {
    /// That of a process, or of `self`; `None` if it is not there.
    pub fn of(process: &str) -> Option<Usage> {
        let file = |name| std::fs::read_to_string(format!("/proc/{process}/{name}")).ok();
        parse_usage(&file("stat")?, &file("status")?)
    }
}

fn usages(common: &Common) -> [Option<Usage>; 2] {
    [common.pid.and_then(|pid| Usage::of(&pid.to_string())), Usage::of("self")]
}

fn parse_usage(stat: &str, status: &str) -> Option<Usage> {
    // The name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    // Linux shows 100 ticks a second, whatever the kernel's own are.
    let cpu = ticks as f64 / 100.0;
    Some(Usage { cpu, rss_kib: kib("VmRSS:")?, anonymous_kib: kib("RssAnon:")? })
}

fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    groups.map(String::from_utf8_lossy).collect::<Vec<_>>().join(",")
}

fn time(micros: f64) -> String {
    match micros {
        m if m < 1_000.0 => format!("{m:.0} µs"),
        m if m < 1_000_000.0 => format!("{:.2} ms", m / 1_000.0),
        m => format!("{:.2} s", m / 1_000_000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_in_microseconds() {
        let mut h = Histogram::<u64>::new_with_bounds(1_000, 60_000_000_000, 3).unwrap();
        for ms in 1..=100u64 {
            h.saturating_record(ms * 1_000_000);
        }
        let at: BTreeMap<_, _> = percentiles(&h).into_iter().collect();
        let near = |name: &str, ms: f64| (at[name] / 1000.0 - ms).abs() < 0.1;
        assert!(near("mean", 50.5) && near("p50", 50.0) && near("p99", 99.0), "{at:?}");
        assert!(near("max", 100.0), "{at:?}");
        h.saturating_record(u64::MAX);
        assert!(h.max() < 70_000_000_000, "what is longer counts as the longest");
    }

    #[test]
    fn proc_files() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 3 4 5";
        let status = "Name:\tx\nVmRSS:\t  2048 kB\nRssAnon:\t    1024 kB\n";
        let usage = Usage { cpu: 2.0, rss_kib: 2048, anonymous_kib: 1024 };
        assert_eq!(parse_usage(stat, status), Some(usage));
        assert_eq!(parse_usage("", status), None);
    }

    #[test]
    fn numbers_for_people() {
        let n = [7, 123, 1234, 1_234_567].map(thousands);
        assert_eq!(n, ["7", "123", "1,234", "1,234,567"]);
        assert_eq!([12.3, 1234.0, 2e6].map(time), ["12 µs", "1.23 ms", "2.00 s"]);
    }
}
