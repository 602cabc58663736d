//! Sending as fast as the answers come.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mq_broker::wire::codes::response;

use super::admin::{self, Target};
use super::cli::SendArgs;
use super::error::Result;
use super::net::{Link, Poller};
use super::report::{Live, Summary, Tally, Window, drive};
use super::request::{FIRST_OPAQUE, Messages, Template};

pub fn run(args: &SendArgs) -> Result<bool> {
    let common = &args.common;
    let Target { mut admin, queues } = admin::find(common, true)?;
    let ends = if args.one_way { admin.ends(&common.topic, queues)? } else { Vec::new() };
    let addr = admin.addr.clone();
    let threads = args.threads.min(args.connections);
    let duration = if args.count.is_some() { Duration::MAX } else { args.extent.duration };
    let window = Window::start(args.extent.warmup, duration);
    let live = Live::default();
    let mut workers = Vec::new();
    for thread in 0..threads {
        let (all, nth) = (u64::from(threads), u64::from(thread));
        let share = move |n: u64| n / all + u64::from(nth < n % all);
        let (window, live, addr) = (&window, &live, &addr);
        workers.push(move || {
            let links = share(args.connections.into()) as usize;
            let links: Result<_> =
                (0..links).map(|_| Link::connect(addr, args.in_flight as usize)).collect();
            let mut sender = Sender {
                args,
                window,
                live,
                links: links?,
                templates: templates(args, queues, thread),
                turn: thread as usize,
                key: 0,
                rest: args.count.map_or(u64::MAX, share),
                tally: Tally::new(),
            };
            if args.one_way {
                sender.one_way()?
            } else {
                sender.answered()?
            }
            Ok(sender.tally)
        });
    }
    let (tally, costs) = drive(common, &window, &live, workers)?;
    let seconds = tally.last.saturating_sub(window.from) as f64 / 1e9;
    let sent = tally.messages;
    let (count, flight) = (args.connections, args.in_flight);
    let way = if args.one_way { "one way".into() } else { format!("× {flight} under way") };
    let form = if common.binary { "binary" } else { "JSON" };
    let settings = format!(
        "{queues} queues  {count} connections {way}  {} B  batch {}  {form} headers",
        args.size, args.batch
    );
    let mut summary =
        Summary::new("send", common, &addr, seconds, (tally, costs)).settings(settings);
    if args.one_way {
        let now = admin.settled_ends(&common.topic, queues)?;
        let stored = now.iter().zip(&ends).map(|(now, then)| now - then).sum::<i64>() as u64;
        // The warm-up's messages were stored as well.
        let missing = if args.extent.warmup.is_zero() { sent.saturating_sub(stored) } else { 0 };
        summary = summary.count("stored", stored).count("missing", missing);
    }
    summary.print(common, &["missing"])
}

fn templates(args: &SendArgs, queues: u32, thread: u32) -> Vec<Template> {
    let messages = Messages {
        topic: &args.common.topic,
        group: &args.common.group,
        tag: args.tag.as_deref(),
        run: admin::run_number().wrapping_add(thread.into()),
        wait: args.wait_flush,
        size: args.size as usize,
        batch: args.batch as usize,
    };
    let encoding = admin::encoding(&args.common);
    (0..queues).map(|q| Template::send(&messages, q, encoding, args.one_way)).collect()
}

/// One thread's connections and what they send.
struct Sender<'a> {
    args: &'a SendArgs,
    window: &'a Window,
    live: &'a Live,
    links: Vec<Link>,
    /// One for each queue.
    templates: Vec<Template>,
    turn: usize,
    key: u64,
    /// Messages still to be sent.
    rest: u64,
    tally: Tally,
}

impl Sender<'_> {
    /// Keeps requests under way on every link until the window closes, then waits for them.
    fn answered(&mut self) -> Result<()> {
        let (clock, batch) = (self.window.clock, u64::from(self.args.batch));
        let mut poller = Poller::new(&self.links, self.args.common.timeout)?;
        for n in 0..self.links.len() {
            for _ in 0..self.args.in_flight {
                self.put(n, clock.ns());
            }
            self.links[n].flush()?;
        }
        loop {
            let waiting: usize = self.links.iter().map(|l| l.slots.waiting()).sum();
            if waiting == 0 {
                return Ok(());
            }
            for n in poller.wait(Duration::from_millis(500), waiting)? {
                self.links[n].read()?;
                let now = clock.ns();
                let (mut good, mut bad) = (0, 0);
                let link = &mut self.links[n];
                while let Some(frame) = link.inbox.next()? {
                    let Some(answer) = link.scanner.scan(&frame)? else { continue };
                    let (_, sent) = link.slots.answered(answer.opaque)?;
                    if answer.code != response::SUCCESS {
                        self.tally.fault(answer.code, &frame);
                        bad += 1;
                        continue;
                    }
                    good += batch;
                    if self.window.holds(now) {
                        self.tally.latency.saturating_record(now - sent);
                    }
                }
                self.count(good, bad, now);
                for _ in 0..self.links[n].slots.free() {
                    self.put(n, now);
                }
                self.links[n].flush()?;
            }
        }
    }

    /// Sends as fast as the sockets take it.
    fn one_way(&mut self) -> Result<()> {
        let clock = self.window.clock;
        let mut poller = Poller::new(&self.links, self.args.common.timeout)?;
        loop {
            let (now, mut busy, mut full) = (clock.ns(), false, 0);
            for n in 0..self.links.len() {
                self.links[n].flush()?;
                if !self.links[n].outbox.bytes.is_empty() {
                    full += 1;
                    continue;
                }
                for _ in 0..self.args.in_flight {
                    if self.put(n, now) {
                        busy = true;
                        self.count(self.args.batch.into(), 0, now);
                    }
                }
            }
            if !busy && full == 0 {
                return Ok(());
            }
            let most = Duration::from_millis(if busy { 0 } else { 500 });
            for n in poller.wait(most, full)? {
                self.links[n].read()?;
                // Nothing is expected, but broker may have something to say.
                while self.links[n].inbox.next()?.is_some() {}
            }
        }
    }

    fn count(&mut self, messages: u64, bad: u64, now: u64) {
        let bytes = messages * u64::from(self.args.size);
        if self.window.holds(now) {
            self.tally.count(messages, bytes, now);
        }
        self.live.messages.fetch_add(messages, Relaxed);
        self.live.bytes.fetch_add(bytes, Relaxed);
        self.live.faults.fetch_add(bad, Relaxed);
    }

    /// Writes the next request to a link's outbox, if there is to be one.
    fn put(&mut self, n: usize, now: u64) -> bool {
        if now >= self.window.until || self.rest == 0 {
            return false;
        }
        let link = &mut self.links[n];
        let opaque = if self.args.one_way {
            FIRST_OPAQUE
        } else {
            match link.slots.take(now) {
                Some(opaque) => opaque,
                None => return false,
            }
        };
        self.turn = (self.turn + 1) % self.templates.len();
        let template = &self.templates[self.turn];
        let mut request = template.put(opaque, &mut link.outbox.bytes);
        request.keys(self.key);
        request.bodies(|n, body| {
            if let Some(number) = body.first_chunk_mut::<8>() {
                *number = (self.key + n as u64).to_be_bytes();
            }
        });
        self.key += template.keys() as u64;
        if now >= self.window.from {
            self.rest = self.rest.saturating_sub(self.args.batch.into());
        }
        true
    }
}
