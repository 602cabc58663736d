//! Counts of what comes and goes, with sums and rates over the last minute, hour and day.
//!
//! Counting is a few relaxed additions. Every 10 s a sample of each counter is kept, as RocketMQ
//! does, and rates are differences of samples. All is lost with the process.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use foldhash::fast::RandomState;

pub(super) const SAMPLE_MS: i64 = 10_000;
/// Every so many samples one is kept for the hour, and for the day.
const TEN_MINUTES: u64 = 60;
const HOUR: u64 = 360;
/// Samples kept for minute, hour and day: both ends of six spans of 10 s and 10 min, and
/// of 24 hours.
const KEPT: [usize; 3] = [7, 7, 25];
const SPANS_MS: [i64; 3] = [SAMPLE_MS, SAMPLE_MS * TEN_MINUTES as i64, SAMPLE_MS * HOUR as i64];

/// Upper bounds of the classes of put latency, in µs; a last class has none.
const LATENCIES_US: [u64; 20] = [
    20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000, 10_000_000,
];

/// Upper bounds of the classes of message sizes (bytes of a record), as 5.x's metrics have them.
pub const SIZES: [u64; 6] = [1 << 10, 4 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];
/// Upper bounds of the classes of ages at which transactions are committed, s.
pub const COMMIT_AGES_S: [u64; 6] = [5, 60, 600, 3_600, 43_200, 86_400];

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a counter showed at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    pub at_ms: i64,
    /// How often something happened.
    pub times: u64,
    /// How many messages (or µs) it was in all.
    pub value: u64,
    pub bytes: u64,
}

impl Sample {
    fn add(&mut self, more: &Sample) {
        self.times += more.times;
        self.value += more.value;
        self.bytes += more.bytes;
    }
}

/// Over which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    Minute = 0,
    Hour = 1,
    Day = 2,
}

/// Sum and rates over a span.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub sum: u64,
    /// Per second.
    pub tps: f64,
    /// Per time.
    pub average: f64,
}

/// Counts one kind of event.
#[derive(Debug, Default)]
pub struct Counter {
    times: AtomicU64,
    value: AtomicU64,
    bytes: AtomicU64,
    samples: Mutex<[VecDeque<Sample>; 3]>,
}

impl Counter {
    pub fn add(&self, value: u64, bytes: u64) {
        self.times.fetch_add(1, Relaxed);
        self.value.fetch_add(value, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Everything since the start.
    pub fn total(&self) -> Sample {
        Sample {
            at_ms: 0,
            times: self.times.load(Relaxed),
            value: self.value.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }

    fn sample(&self, now_ms: i64, step: u64) {
        let now = Sample { at_ms: now_ms, ..self.total() };
        let mut samples = lock(&self.samples);
        for (n, every) in [1, TEN_MINUTES, HOUR].into_iter().enumerate() {
            if step.is_multiple_of(every) {
                let list = &mut samples[n];
                if list.is_empty() {
                    list.push_back(Sample { at_ms: now_ms - SPANS_MS[n], ..Sample::default() });
                }
                list.push_back(now);
                if list.len() > KEPT[n] {
                    list.pop_front();
                }
            }
        }
    }

    /// Sum and rates of a part of the samples, over the whole span or the last `parts` of it.
    pub fn rates(&self, span: Span, of: fn(&Sample) -> u64) -> Rates {
        self.latest_rates(span, usize::MAX, of).unwrap_or_default()
    }

    /// The same over the last `parts` of a span's samples; none if there are no samples.
    pub fn latest_rates(&self, span: Span, parts: usize, of: fn(&Sample) -> u64) -> Option<Rates> {
        let samples = lock(&self.samples);
        let list = &samples[span as usize];
        let last = list.back()?;
        let first = list.get(list.len().saturating_sub(parts.saturating_add(1)))?;
        let sum = of(last).saturating_sub(of(first));
        let (ms, times) = (last.at_ms - first.at_ms, last.times.saturating_sub(first.times));
        Some(Rates {
            sum,
            tps: if ms > 0 { sum as f64 * 1000.0 / ms as f64 } else { 0.0 },
            average: if times > 0 { sum as f64 / times as f64 } else { 0.0 },
        })
    }
}

/// Things by name, made when first asked for. Finding one allocates nothing.
#[derive(Debug)]
struct Table<V>(RwLock<HashMap<Arc<str>, Arc<V>, RandomState>>);

impl<V> Default for Table<V> {
    fn default() -> Self {
        Table(RwLock::default())
    }
}

impl<V: Default> Table<V> {
    fn get(&self, name: &str) -> Option<Arc<V>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
    fn get_or_make(&self, name: &str) -> Arc<V> {
        self.get(name).unwrap_or_else(|| {
            let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
            all.entry(name.into()).or_default().clone()
        })
    }
    fn with(&self, name: &str, visit: impl FnOnce(&V)) {
        if let Some(value) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return visit(value);
        }
        visit(&self.get_or_make(name));
    }
    fn remove(&self, name: &str) -> Option<Arc<V>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(name)
    }
    fn all(&self) -> Vec<(Arc<str>, Arc<V>)> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }
    fn for_each(&self, mut visit: impl FnMut(&V)) {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().for_each(|v| visit(v));
    }
}

/// Values by class, for `N` bounds and what is above them.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    classes: [AtomicU64; N],
    above: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        let classes = std::array::from_fn(|_| AtomicU64::new(0));
        Histogram { classes, above: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }
}

impl<const N: usize> Histogram<N> {
    /// Counts a value in the first class whose bound it does not exceed.
    pub fn add(&self, bounds: &[u64; N], value: u64) {
        let class = bounds.partition_point(|bound| *bound < value);
        self.classes.get(class).unwrap_or(&self.above).fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// How many values are in each class and above all, and their sum.
    pub fn total(&self) -> ([u64; N], u64, u64) {
        let classes = std::array::from_fn(|n| self.classes[n].load(Relaxed));
        (classes, self.above.load(Relaxed), self.sum.load(Relaxed))
    }
}

/// What kind of message, as 5.x's metrics tell them apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    Normal = 0,
    Fifo = 1,
    Delay = 2,
    Transaction = 3,
}

/// Messages of one kind that came to a topic.
#[derive(Debug, Default)]
pub struct KindCounters {
    pub messages: AtomicU64,
    pub bytes: AtomicU64,
    /// A batch counts as one message of the average size.
    pub sizes: Histogram<6>,
}

/// A topic.
#[derive(Debug, Default)]
pub struct TopicCounters {
    /// Messages that were stored in it.
    pub puts: Counter,
    /// The same by [`Kind`]; counted only if [`Stats::count_kinds`] says so.
    pub kinds: [KindCounters; 4],
    /// Transactions that were committed to it, how old they were, and those rolled back.
    pub commits: AtomicU64,
    pub commit_ages: Histogram<6>,
    pub rollbacks: AtomicU64,
}

/// A group in a topic.
#[derive(Debug, Default)]
pub struct GroupCounters {
    /// Pulls that found something, and what.
    pub gets: Counter,
    /// µs that they took.
    pub latency: Counter,
    /// Messages that consumers gave back.
    pub sent_back: Counter,
    /// Messages that went to the group's dead letters.
    pub dead: AtomicU64,
    /// From where each queue was pulled last; below 0: it was not.
    pulled: RwLock<Vec<AtomicI64>>,
}

impl GroupCounters {
    /// A pull from `offset` came.
    pub fn pulled_from(&self, queue_id: i32, offset: i64) {
        let Ok(queue) = usize::try_from(queue_id) else { return };
        let store = |all: &Vec<AtomicI64>| all.get(queue).map(|p| p.store(offset, Relaxed));
        let known = store(&self.pulled.read().unwrap_or_else(PoisonError::into_inner));
        if known.is_none() {
            let mut all = self.pulled.write().unwrap_or_else(PoisonError::into_inner);
            let len = all.len().max(queue + 1);
            all.resize_with(len, || AtomicI64::new(-1));
            store(&all);
        }
    }

    /// From where a queue was pulled last.
    pub fn pull_offset(&self, queue_id: i32) -> Option<i64> {
        let all = self.pulled.read().unwrap_or_else(PoisonError::into_inner);
        let offset = all.get(usize::try_from(queue_id).ok()?)?.load(Relaxed);
        (offset >= 0).then_some(offset)
    }
}

/// Totals as the day began, today and yesterday: messages put, messages given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mornings {
    pub today: (u64, u64),
    pub yesterday: (u64, u64),
}

#[derive(Debug, Default)]
struct Steps {
    due_ms: i64,
    count: u64,
    day: Option<jiff::civil::Date>,
    mornings: Mornings,
}

/// All counters of a broker.
#[derive(Debug, Default)]
pub struct Stats {
    /// ms since 1970 when counting began.
    pub started_ms: i64,
    /// Messages that were stored, as of the last [`Stats::puts`], and those of topics that are gone.
    puts: Counter,
    gone_puts: Mutex<Sample>,
    pub failed_puts: Counter,
    /// Messages that were given.
    pub gets: Counter,
    /// Pulls that found nothing.
    pub misses: Counter,
    put_classes: [AtomicU64; LATENCIES_US.len() + 1],
    put_max_us: AtomicU64,
    get_max_us: AtomicU64,
    topics: Table<TopicCounters>,
    groups: Table<Table<GroupCounters>>,
    counts_kinds: AtomicBool,
    steps: Mutex<Steps>,
}

impl Stats {
    pub(super) fn new(started_ms: i64) -> Stats {
        Stats { started_ms, ..Stats::default() }
    }

    /// Counts what comes also by kind and size, from now on.
    pub fn count_kinds(&self) {
        self.counts_kinds.store(true, Relaxed);
    }

    /// Messages came to a topic.
    pub(super) fn put(&self, topic: &str, kind: Kind, messages: u64, bytes: u64, took: Duration) {
        let us = micros(took);
        self.put_classes[LATENCIES_US.partition_point(|bound| *bound <= us)].fetch_add(1, Relaxed);
        if us > self.put_max_us.load(Relaxed) {
            self.put_max_us.fetch_max(us, Relaxed);
        }
        self.topics.with(topic, |topic| {
            topic.puts.add(messages, bytes);
            if self.counts_kinds.load(Relaxed) {
                let kind = &topic.kinds[kind as usize];
                kind.messages.fetch_add(messages, Relaxed);
                kind.bytes.fetch_add(bytes, Relaxed);
                kind.sizes.add(&SIZES, bytes / messages.max(1));
            }
        });
    }

    /// Messages that were stored: what topics count, added up when somebody asks.
    pub fn puts(&self) -> &Counter {
        let mut sum = *lock(&self.gone_puts);
        self.topics.for_each(|topic| sum.add(&topic.puts.total()));
        // Who asks at the same time may have seen less.
        self.puts.times.fetch_max(sum.times, Relaxed);
        self.puts.value.fetch_max(sum.value, Relaxed);
        self.puts.bytes.fetch_max(sum.bytes, Relaxed);
        &self.puts
    }

    /// A transaction that was `age_ms` old was committed to a topic, or (without an age) rolled
    /// back.
    pub(super) fn ended(&self, topic: &str, age_ms: Option<i64>) {
        let topic = self.topics.get_or_make(topic);
        match age_ms {
            Some(age) => {
                topic.commits.fetch_add(1, Relaxed);
                topic.commit_ages.add(&COMMIT_AGES_S, u64::try_from(age / 1000).unwrap_or(0));
            }
            None => drop(topic.rollbacks.fetch_add(1, Relaxed)),
        }
    }

    /// A pull ended.
    pub(super) fn get(&self, group: &GroupCounters, messages: u64, bytes: u64, took: Duration) {
        if messages == 0 {
            return self.misses.add(0, 0);
        }
        let us = micros(took);
        if us > self.get_max_us.load(Relaxed) {
            self.get_max_us.fetch_max(us, Relaxed);
        }
        self.gets.add(messages, bytes);
        group.gets.add(messages, bytes);
        group.latency.add(us, 0);
    }

    /// The counters of a group in a topic, made if they are not there.
    pub fn group(&self, group: &str, topic: &str) -> Arc<GroupCounters> {
        self.groups.get_or_make(topic).get_or_make(group)
    }

    /// The counters of a group in a topic, if it ever pulled there.
    pub fn find_group(&self, group: &str, topic: &str) -> Option<Arc<GroupCounters>> {
        self.groups.get(topic)?.get(group)
    }

    /// The counters of a topic, if anything came to it.
    pub fn find_topic(&self, topic: &str) -> Option<Arc<TopicCounters>> {
        self.topics.get(topic)
    }

    /// All topics to which anything came.
    pub fn topics(&self) -> Vec<(Arc<str>, Arc<TopicCounters>)> {
        self.topics.all()
    }

    /// All groups that ever pulled, by topic: topic, group, counters.
    pub fn groups(&self) -> Vec<(Arc<str>, Arc<str>, Arc<GroupCounters>)> {
        let of_topic = |(topic, groups): (Arc<str>, Arc<Table<GroupCounters>>)| {
            groups.all().into_iter().map(move |(group, counters)| (topic.clone(), group, counters))
        };
        self.groups.all().into_iter().flat_map(of_topic).collect()
    }

    pub(super) fn forget_topic(&self, topic: &str) {
        if let Some(topic) = self.topics.remove(topic) {
            lock(&self.gone_puts).add(&topic.puts.total());
        }
        self.groups.remove(topic);
    }

    pub(super) fn forget_group(&self, group: &str) {
        self.groups.for_each(|of_topic| drop(of_topic.remove(group)));
    }

    pub fn mornings(&self) -> Mornings {
        lock(&self.steps).mornings
    }

    /// The longest put and the longest get so far.
    pub fn longest(&self) -> (Duration, Duration) {
        let longest = |us: &AtomicU64| Duration::from_micros(us.load(Relaxed));
        (longest(&self.put_max_us), longest(&self.get_max_us))
    }

    /// Puts by how long they took: the bound that a class stays below, and how many there were.
    pub fn put_latencies(&self) -> impl Iterator<Item = (Duration, u64)> {
        let bounds = LATENCIES_US.into_iter().map(Duration::from_micros).chain([Duration::MAX]);
        bounds.zip(self.put_classes.iter().map(|n| n.load(Relaxed)))
    }

    /// A duration that a share of all puts did not exceed.
    pub fn put_latency_of(&self, share: f64) -> Duration {
        let total: u64 = self.put_latencies().map(|(_, n)| n).sum();
        let mut below = 0;
        let found = self.put_latencies().find(|(_, n)| {
            below += n;
            below > 0 && below as f64 >= total as f64 * share
        });
        found.map_or(Duration::ZERO, |(bound, _)| bound.min(self.longest().0))
    }

    /// Background step: takes samples, if they are due.
    pub fn step(&self, now_ms: i64) {
        let mut steps = lock(&self.steps);
        if now_ms < steps.due_ms {
            return;
        }
        steps.due_ms = now_ms + SAMPLE_MS;
        steps.count += 1;
        let today = local_day(now_ms);
        if steps.day.replace(today).is_some_and(|before| before != today) {
            let total = (self.puts().total().value, self.gets.total().value);
            steps.mornings = Mornings { today: total, yesterday: steps.mornings.today };
        }
        let sample = |counter: &Counter| counter.sample(now_ms, steps.count);
        [self.puts(), &self.failed_puts, &self.gets, &self.misses].into_iter().for_each(sample);
        self.topics.for_each(|topic| sample(&topic.puts));
        self.groups.for_each(|of_topic| {
            of_topic.for_each(|g| [&g.gets, &g.latency, &g.sent_back].into_iter().for_each(sample));
        });
    }
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

fn local_day(ms: i64) -> jiff::civil::Date {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    time.to_zoned(jiff::tz::TimeZone::system()).date()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_of_samples() {
        let stats = Stats::new(0);
        let put = |n| stats.put("T", Kind::Normal, n, n * 100, Duration::from_micros(30));
        put(2);
        let topic = &stats.find_topic("T").unwrap().puts;
        assert_eq!(topic.rates(Span::Minute, |s| s.value), Rates::default(), "no sample yet");
        let day = 86_400_000;
        for step in 0..3 * HOUR as i64 {
            stats.step(day + step * SAMPLE_MS);
            stats.step(day + step * SAMPLE_MS + 1);
            put(1);
        }
        let minute = topic.rates(Span::Minute, |s| s.bytes);
        assert_eq!(minute, Rates { sum: 600, tps: 10.0, average: 100.0 });
        assert_eq!(topic.rates(Span::Hour, |s| s.value).sum, 360);
        assert_eq!(topic.rates(Span::Day, |s| s.value).sum, 3 * 360 + 1, "all there is");
        let last = topic.latest_rates(Span::Hour, 1, |s| s.value).unwrap();
        assert_eq!((last.sum, last.tps), (60, 0.1));
        assert_eq!(stats.puts().total().value, 3 * 360 + 2);
        stats.forget_topic("T");
        assert_eq!(stats.puts().total().value, 3 * 360 + 2);
        stats.step(3 * day);
        assert_eq!(stats.mornings().today, (3 * 360 + 2, 0));
        stats.forget_topic("T");
        assert!(stats.find_topic("T").is_none());
    }

    #[test]
    fn kinds_and_sizes_are_counted_when_asked_for() {
        let stats = Stats::new(0);
        let put = |bytes| stats.put("T", Kind::Delay, 2, bytes, Duration::ZERO);
        put(10);
        stats.count_kinds();
        put(2048);
        put(2050);
        put(100 << 20);
        let topic = stats.find_topic("T").unwrap();
        let delayed = &topic.kinds[Kind::Delay as usize];
        assert_eq!(delayed.messages.load(Relaxed), 6);
        let sum = 1024 + 1025 + (50 << 20);
        assert_eq!(delayed.sizes.total(), ([1, 1, 0, 0, 0, 0], 1, sum), "a bound is in its class");
        stats.ended("T", Some(61_000));
        stats.ended("T", None);
        assert_eq!(topic.commit_ages.total(), ([0, 0, 1, 0, 0, 0], 0, 61));
        assert_eq!((topic.commits.load(Relaxed), topic.rollbacks.load(Relaxed)), (1, 1));
        let group = stats.group("G", "T");
        assert_eq!(group.pull_offset(3), None);
        group.pulled_from(3, 7);
        group.pulled_from(-1, 9);
        assert_eq!((group.pull_offset(3), group.pull_offset(2)), (Some(7), None));
        assert_eq!((stats.groups().len(), stats.topics().len()), (1, 1));
    }

    #[test]
    fn latencies() {
        let stats = Stats::new(0);
        assert_eq!(stats.put_latency_of(0.99), Duration::ZERO);
        for n in 0..1000 {
            stats.put(
                "T",
                Kind::Normal,
                1,
                1,
                Duration::from_micros(if n < 995 { 60 } else { 12_000 }),
            );
        }
        assert_eq!(stats.put_latency_of(0.99), Duration::from_micros(100));
        assert_eq!(stats.put_latency_of(0.999), Duration::from_micros(12_000));
        let group = stats.group("G", "T");
        stats.get(&group, 3, 30, Duration::from_micros(7));
        stats.get(&group, 0, 0, Duration::from_micros(7));
        assert_eq!((stats.gets.total().value, stats.misses.total().times), (3, 1));
        assert_eq!(stats.find_group("G", "T").unwrap().gets.total().bytes, 30);
        stats.forget_group("G");
        assert!(stats.find_group("G", "T").is_none());
    }
}
