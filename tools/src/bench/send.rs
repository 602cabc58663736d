//! Sending as fast as the answers come.

use std::time::Duration;

use mq_broker::wire::codes::response;

use super::admin::{self, Target};
use super::cli::SendArgs;
use super::error::Result;
use super::meter::Meter;
use super::net::{Link, Poller};
use super::request::{self, FIRST_OPAQUE, Messages, Template};

pub fn run(args: &SendArgs) -> Result<bool> {
    let common = &args.common;
    let Target { mut admin, queues } = admin::find(common, true)?;
    let name = |n| if n == 0 { common.topic.clone() } else { format!("{}-{n}", common.topic) };
    let topics: Vec<String> = (0..args.topics).map(name).collect();
    let before = if args.one_way { admin.ends(&common.topic, queues)? } else { Vec::new() };
    let messages = Messages {
        tag: args.tag.as_deref(),
        size: args.size as usize,
        batch: args.batch as usize,
        one_way: args.one_way,
        delay_level: args.delay_level,
        transaction: args.transaction,
    };
    let mut templates = Vec::new();
    for topic in &topics {
        let queues = admin.queues(common, topic, true)?;
        templates.extend((0..queues).map(|q| Template::send(common, topic, messages, q)));
    }
    let links = (0..common.connections)
        .map(|_| Link::connect(common, admin.addr(), args.in_flight as usize));
    let duration = if args.count.is_some() { Duration::MAX } else { args.duration };
    let mut sender = Sender {
        args,
        links: links.collect::<Result<_>>()?,
        templates,
        turn: 0,
        sent: 0,
        meter: Meter::start(common, args.warmup, duration),
    };
    if args.one_way {
        sender.one_way()?
    } else {
        sender.answered()?
    }

    let way =
        if args.one_way { "one way".into() } else { format!("× {} under way", args.in_flight) };
    let form = if common.binary { "binary" } else { "JSON" };
    let settings = format!(
        "{} queues  {} connections {way}  {} B  batch {}  {form} headers",
        sender.templates.len(),
        common.connections,
        args.size,
        args.batch
    );
    let mut counts = Vec::new();
    if args.one_way {
        let after = admin.settled_ends(&common.topic, queues)?;
        let stored = after.iter().zip(&before).map(|(after, before)| after - before).sum::<i64>();
        let stored = stored.max(0) as u64;
        let missing = (sender.sent * u64::from(args.batch)).saturating_sub(stored);
        counts = vec![("stored", stored, false), ("missing", missing, true)];
    }
    sender.meter.tell(["send", admin.addr(), &settings], &counts)
}

struct Sender<'a> {
    args: &'a SendArgs,
    links: Vec<Link>,
    /// By topic and queue id.
    templates: Vec<Template>,
    /// Queue of the last request.
    turn: usize,
    /// Requests so far.
    sent: u64,
    meter: Meter<'a>,
}

impl Sender<'_> {
    /// Keeps requests under way on every link until time or messages are used up, then waits
    /// for the answers.
    fn answered(&mut self) -> Result<()> {
        let batch = u64::from(self.args.batch);
        let bytes = batch * u64::from(self.args.size);
        let mut poller = Poller::new(&self.links, self.args.common.timeout)?;
        for n in 0..self.links.len() {
            self.fill(n, self.meter.now())?;
        }
        loop {
            let waiting: usize = self.links.iter().map(|l| l.slots.under_way()).sum();
            if waiting == 0 && self.is_over(self.meter.now()) {
                return Ok(());
            }
            for n in poller.wait(self.pause(), waiting)? {
                let meter = &mut self.meter;
                let now = meter.now();
                let counts = meter.counts_at(now);
                let (common, transaction) = (&self.args.common, self.args.transaction);
                let mut commits = Vec::new();
                self.links[n].answers(|slots, answer, frame| {
                    let sent = slots.answered(answer.opaque)?;
                    if answer.code != response::SUCCESS {
                        meter.fault(answer.code, frame);
                        return Ok(());
                    }
                    if counts {
                        meter.count(batch, bytes, now);
                        meter.latency.saturating_record(now.saturating_sub(sent));
                    }
                    if transaction {
                        commits.extend(request::commit(common, frame)?);
                    }
                    Ok(())
                })?;
                self.links[n].out.append(&mut commits);
                self.fill(n, now)?;
            }
            if self.args.rate.is_some() {
                for n in 0..self.links.len() {
                    self.fill(n, self.meter.now())?;
                }
            }
            self.meter.tick(self.meter.now());
        }
    }

    /// Sends as fast as the sockets take it.
    fn one_way(&mut self) -> Result<()> {
        let batch = u64::from(self.args.batch);
        let bytes = batch * u64::from(self.args.size);
        let mut poller = Poller::new(&self.links, self.args.common.timeout)?;
        loop {
            let (now, before) = (self.meter.now(), self.sent);
            for n in 0..self.links.len() {
                self.fill(n, now)?;
            }
            let new = self.sent - before;
            if self.meter.counts_at(now) {
                self.meter.count(new * batch, new * bytes, now);
            }
            self.meter.tick(now);
            let full = self.links.iter().filter(|l| !l.out.is_empty()).count();
            if new == 0 && full == 0 && self.is_over(now) {
                return Ok(());
            }
            let most = if new > 0 { Duration::ZERO } else { self.pause() };
            for n in poller.wait(most, full)? {
                // None is expected, but that is how to see that the broker is still there.
                self.links[n].answers(|_, _, _| Ok(()))?;
            }
        }
    }

    /// Whether nothing more is to be sent.
    fn is_over(&self, now: u64) -> bool {
        let messages = self.sent * u64::from(self.args.batch);
        now >= self.meter.until || self.args.count.is_some_and(|count| messages >= count)
    }

    /// How long to wait for news at most.
    fn pause(&self) -> Duration {
        Duration::from_millis(if self.args.rate.is_some() { 1 } else { 100 })
    }

    /// Sends on a link as many requests as may be.
    fn fill(&mut self, n: usize, now: u64) -> Result<()> {
        let (until, count) = (self.meter.until, self.args.count);
        let link = &mut self.links[n];
        link.flush()?;
        // What is one way waits for the socket, not for answers.
        let room = if self.args.one_way && !link.out.is_empty() { 0 } else { self.args.in_flight };
        let due = self
            .args
            .rate
            .map_or(u64::MAX, |rate| (u128::from(now) * u128::from(rate) / 1_000_000_000) as u64);
        for _ in 0..room {
            let messages = self.sent * u64::from(self.args.batch);
            if messages >= due || now >= until || count.is_some_and(|count| messages >= count) {
                break;
            }
            let opaque = if self.args.one_way { Some(FIRST_OPAQUE) } else { link.slots.take(now) };
            let Some(opaque) = opaque else { break };
            self.turn = (self.turn + 1) % self.templates.len();
            let mut request = self.templates[self.turn].put(opaque, &mut link.out);
            request.keys(self.sent);
            request.bodies(|n, body| {
                if let Some(number) = body.first_chunk_mut::<8>() {
                    *number = (messages + n as u64).to_be_bytes();
                }
            });
            self.sent += 1;
        }
        link.flush()
    }
}
