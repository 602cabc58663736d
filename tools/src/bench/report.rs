//! Counting, the line each second, the processes' cost, and the final table.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use hdrhistogram::Histogram;
use mq_broker::wire::codes::response;
use mq_broker::wire::frame::Frame;
use serde::Serialize;

use super::admin;
use super::cli::Common;
use super::error::Result;
use super::net::Clock;
use super::request;

/// What is counted: nothing before `from`; nothing is begun after `until`.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub clock: Clock,
    pub from: u64,
    pub until: u64,
}

impl Window {
    /// Begins now, with the warm-up.
    pub fn start(warmup: Duration, duration: Duration) -> Window {
        let from = warmup.as_nanos() as u64;
        let until = from.saturating_add(duration.as_nanos().min(u64::MAX.into()) as u64);
        Window { clock: Clock::start(), from, until }
    }
    pub fn holds(&self, time: u64) -> bool {
        (self.from..=self.until).contains(&time)
    }
}

/// Totals that grow while the run goes on.
#[derive(Debug, Default)]
pub struct Live {
    pub messages: AtomicU64,
    pub bytes: AtomicU64,
    pub faults: AtomicU64,
}

/// What one thread saw.
#[derive(Debug)]
pub struct Tally {
    pub messages: u64,
    /// Of message bodies, or of records where these were not looked into.
    pub bytes: u64,
    /// Time of the last message that counted.
    pub last: u64,
    /// Nanoseconds.
    pub latency: Histogram<u64>,
    /// Of sends, where the latency is another.
    pub ack: Histogram<u64>,
    faults: BTreeMap<i32, (u64, String)>,
}

impl Tally {
    pub fn new() -> Tally {
        // One microsecond to a minute, to three digits; these bounds are valid.
        let histogram = || {
            let mut h = Histogram::new_with_bounds(1_000, 60_000_000_000, 3)
                .unwrap_or_else(|e| unreachable!("{e}"));
            h.auto(true);
            h
        };
        Tally {
            messages: 0,
            bytes: 0,
            last: 0,
            latency: histogram(),
            ack: histogram(),
            faults: BTreeMap::new(),
        }
    }

    /// Counts messages that were seen at `now`.
    pub fn count(&mut self, messages: u64, bytes: u64, now: u64) {
        self.messages += messages;
        self.bytes += bytes;
        self.last = self.last.max(now);
    }

    /// Counts an answer that is an error.
    pub fn fault(&mut self, code: i32, frame: &Frame<'_>) {
        self.faults.entry(code).or_insert_with(|| (0, request::remark(frame))).0 += 1;
    }


    fn add(&mut self, other: Tally) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.last = self.last.max(other.last);
        self.latency += other.latency;
        self.ack += other.ack;
        for (code, (count, remark)) in other.faults {
            self.faults.entry(code).or_insert((0, remark)).0 += count;
        }
    }
}

/// A process's CPU time and memory, as /proc has them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub resident_kib: u64,
    pub anonymous_kib: u64,
}

impl Usage {
    /// `process` is a number or "self".
    pub fn of(process: &str) -> Option<Usage> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        Usage::parse(&stat, &status)
    }

    fn parse(stat: &str, status: &str) -> Option<Usage> {
        // The name, in parentheses, may hold anything.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
        let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name))?;
            line.split_ascii_whitespace().next()?.parse().ok()
        };
        Some(Usage {
            // Linux shows 100 ticks a second, whatever the kernel's own are.
            cpu_seconds: ticks as f64 / 100.0,
            resident_kib: kib("VmRSS:")?,
            anonymous_kib: kib("RssAnon:")?,
        })
    }
}

/// Runs `workers`, each on a thread, with the line each second beside them. Gives the sum of
/// what they saw, and the seconds it took.
pub fn drive<F>(
    common: &Common,
    window: &Window,
    live: &Live,
    workers: Vec<F>,
) -> Result<(Tally, Costs)>
where
    F: FnOnce() -> Result<Tally> + Send,
{
    let show = common.progress || std::io::stderr().is_terminal();
    let pid = common.pid.map(|pid| pid.to_string());
    let usage = || (pid.as_deref().and_then(Usage::of), Usage::of("self"));
    let mut before = usage();
    let (done, finished) = mpsc::channel();
    std::thread::scope(|scope| {
        let threads: Vec<_> = workers
            .into_iter()
            .map(|work| {
                let done = done.clone();
                scope.spawn(move || {
                    let tally = work();
                    // Nobody listens any more only if the run has failed.
                    let _ = done.send(());
                    tally
                })
            })
            .collect();
        let (mut running, mut next, mut seen) = (threads.len(), window.from, (0, 0));
        while running > 0 {
            let rest = Duration::from_nanos(next.saturating_sub(window.clock.ns()));
            match finished.recv_timeout(rest) {
                Ok(()) => running -= 1,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    if next == window.from {
                        before = usage();
                    } else if show {
                        seen = line(next - window.from, live, seen);
                    }
                    next += 1_000_000_000;
                }
            }
        }
        let after = usage();
        let mut sum = Tally::new();
        for thread in threads {
            match thread.join() {
                Ok(tally) => sum.add(tally?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        let cost = |before: Option<Usage>, after: Option<Usage>| {
            let (before, after) = (before?, after?);
            let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
            Some(Usage { cpu_seconds, ..after })
        };
        Ok((sum, Costs { broker: cost(before.0, after.0), own: cost(before.1, after.1) }))
    })
}

/// What a run cost the broker, and this tool.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    broker: Option<Usage>,
    own: Option<Usage>,
}

fn line(ns: u64, live: &Live, (messages, bytes): (u64, u64)) -> (u64, u64) {
    let now = (live.messages.load(Ordering::Relaxed), live.bytes.load(Ordering::Relaxed));
    let rate = thousands(now.0 - messages);
    let mib = (now.1 - bytes) as f64 / 1048576.0;
    let faults = live.faults.load(Ordering::Relaxed);
    eprintln!("{:4} s  {rate:>12} msg/s  {mib:8.1} MiB/s  {faults} errors", ns / 1_000_000_000);
    now
}

/// Percentiles in microseconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    #[serde(rename = "p99.9")]
    p999: f64,
    max: f64,
}

impl Latency {
    pub fn of(h: &Histogram<u64>) -> Option<Latency> {
        let at = |q| h.value_at_quantile(q) as f64 / 1000.0;
        (!h.is_empty()).then(|| Latency {
            mean: (h.mean() / 10.0).round() / 100.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: h.max() as f64 / 1000.0,
        })
    }
}

#[derive(Debug, Serialize)]
struct Fault {
    code: i32,
    name: &'static str,
    count: u64,
    remark: String,
}

/// What is printed at the end.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    mode: &'static str,
    broker: String,
    topic: String,
    /// The settings of this mode, for people.
    settings: String,
    seconds: f64,
    messages: u64,
    bytes: u64,
    messages_per_second: f64,
    bytes_per_second: f64,
    latency_micros: Option<Latency>,
    ack_micros: Option<Latency>,
    /// What this mode alone counts.
    #[serde(flatten)]
    counts: BTreeMap<&'static str, u64>,
    errors: Vec<Fault>,
    broker_cpu_seconds: Option<f64>,
    broker_cpu_micros_per_message: Option<f64>,
    broker_resident_kib: Option<u64>,
    broker_anonymous_kib: Option<u64>,
    own_cpu_seconds: Option<f64>,
    #[serde(skip)]
    latency_name: &'static str,
}

impl Summary {
    pub fn new(
        mode: &'static str,
        common: &Common,
        addr: &str,
        seconds: f64,
        (tally, costs): (Tally, Costs),
    ) -> Summary {
        let per_second = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        let faults = tally.faults.into_iter().map(|(code, (count, remark))| Fault {
            code,
            name: response::name(code),
            count,
            remark,
        });
        let micros = |u: Usage| u.cpu_seconds * 1e6 / tally.messages.max(1) as f64;
        Summary {
            mode,
            broker: addr.to_owned(),
            topic: common.topic.clone(),
            settings: String::new(),
            seconds,
            messages: tally.messages,
            bytes: tally.bytes,
            messages_per_second: per_second(tally.messages).round(),
            bytes_per_second: per_second(tally.bytes).round(),
            latency_micros: Latency::of(&tally.latency),
            ack_micros: Latency::of(&tally.ack),
            counts: BTreeMap::new(),
            errors: faults.collect(),
            broker_cpu_seconds: costs.broker.map(|u| u.cpu_seconds),
            broker_cpu_micros_per_message: costs.broker.map(micros),
            broker_resident_kib: costs.broker.map(|u| u.resident_kib),
            broker_anonymous_kib: costs.broker.map(|u| u.anonymous_kib),
            own_cpu_seconds: costs.own.map(|u| u.cpu_seconds),
            latency_name: "latency",
        }
    }

    pub fn settings(mut self, settings: String) -> Summary {
        self.settings = settings;
        self
    }
    pub fn count(mut self, name: &'static str, n: u64) -> Summary {
        self.counts.insert(name, n);
        self
    }
    pub fn latency_name(mut self, name: &'static str) -> Summary {
        self.latency_name = name;
        self
    }

    /// Prints it. Whether all went well: no errors, and none of the counts named in `bad`.
    pub fn print(&self, common: &Common, bad: &[&str]) -> Result<bool> {
        let text = if common.json {
            // Names and numbers only: this does not fail.
            serde_json::to_string(self).unwrap_or_default() + "\n"
        } else {
            self.table()
        };
        match std::io::stdout().write_all(text.as_bytes()) {
            Err(e) if !admin::is_broken_pipe(&e) => return Err(e.into()),
            _ => {}
        }
        let counted = |name: &&str| self.counts.get(name).is_some_and(|n| *n > 0);
        Ok(self.errors.is_empty() && !bad.iter().any(counted))
    }

    fn table(&self) -> String {
        let mut t = format!("{}  {}  topic {}", self.mode, self.broker, self.topic);
        t += &format!("  {}\n", self.settings);
        let mut row = |name: &str, text: String| t += &format!("  {name:<12} {text}\n");
        let mib = self.bytes_per_second / 1048576.0;
        row("messages", format!("{} in {:.2} s", thousands(self.messages), self.seconds));
        let rate = thousands(self.messages_per_second as u64);
        row("rate", format!("{rate} msg/s   {mib:.1} MiB/s"));
        let both = [(self.latency_name, &self.latency_micros), ("ack", &self.ack_micros)];
        for (name, latency) in both {
            if let Some(l) = latency {
                let [mean, p50, p90, p99, p999, max] =
                    [l.mean, l.p50, l.p90, l.p99, l.p999, l.max].map(time);
                row(
                    name,
                    format!(
                        "mean {mean}   p50 {p50}   p90 {p90}   p99 {p99}   p99.9 {p999}   max {max}"
                    ),
                );
            }
        }
        for (name, count) in &self.counts {
            row(name, thousands(*count));
        }
        if self.errors.is_empty() {
            row("errors", "none".into());
        }
        for e in &self.errors {
            row("errors", format!("{} × {} {}: {}", thousands(e.count), e.code, e.name, e.remark));
        }
        let cores = |seconds: f64| seconds / self.seconds.max(1e-9);
        if let (Some(cpu), Some(each), Some(rss), Some(anon)) = (
            self.broker_cpu_seconds,
            self.broker_cpu_micros_per_message,
            self.broker_resident_kib,
            self.broker_anonymous_kib,
        ) {
            let (rss, anon) = (rss / 1024, anon / 1024);
            row("broker CPU", format!("{each:.2} µs/message   {:.2} cores", cores(cpu)));
            row("broker RSS", format!("{rss} MiB, of it {anon} MiB its own (not mapped files)"));
        }
        if let Some(cpu) = self.own_cpu_seconds {
            row("mq-bench CPU", format!("{:.2} cores", cores(cpu)));
        }
        t
    }
}

fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
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
    fn sums_keep_counts_percentiles_and_the_first_remark() {
        use mq_broker::wire::frame::Encoding;
        let header = br#"{"code":2,"flag":1,"opaque":1,"remark":"busy"}"#;
        let frame = Frame { encoding: Encoding::Json, header, body: b"" };
        let (mut a, mut b) = (Tally::new(), Tally::new());
        for ms in 1..=100u64 {
            a.latency.saturating_record(ms * 1_000_000);
        }
        a.count(1, 10, 5);
        b.count(2, 20, 9);
        b.fault(2, &frame);
        b.fault(2, &frame);
        a.add(b);
        assert_eq!((a.messages, a.bytes, a.last, a.faults[&2].0), (3, 30, 9, 2));
        assert_eq!(a.faults[&2].1, "busy");
        let l = Latency::of(&a.latency).unwrap();
        let near = |x: f64, ms: f64| (x / 1000.0 - ms).abs() < 0.1;
        assert!(near(l.p50, 50.0) && near(l.p99, 99.0) && near(l.max, 100.0), "{l:?}");
        assert!(Latency::of(&a.ack).is_none());
    }

    #[test]
    fn proc_files() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 3 4 5";
        let status = "Name:\tx\nVmRSS:\t  2048 kB\nRssAnon:\t    1024 kB\n";
        let usage = Usage { cpu_seconds: 2.0, resident_kib: 2048, anonymous_kib: 1024 };
        assert_eq!(Usage::parse(stat, status), Some(usage));
        assert_eq!(Usage::parse("", status), None);
        assert!(Usage::of("self").is_some());
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(
            [thousands(7), thousands(1234), thousands(1_234_567)],
            ["7", "1,234", "1,234,567"]
        );
        assert_eq!([time(12.3), time(1234.0), time(2e6)], ["12 µs", "1.23 ms", "2.00 s"]);
    }
}
