//! A fixed rate in, and how long each message takes to come out.
//!
//! Messages are due at fixed times whether or not the broker keeps up, and latency counts from
//! then: a broker that stops for a second shows as a second of late messages, not as one.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mq_broker::wire::codes::response;
use mq_store::codec::record::{self, Entry};

use super::admin::{self, Target};
use super::cli::E2eArgs;
use super::error::Result;
use super::net::{Link, Poller};
use super::pull::{self, Heartbeat, Pulled, Queue};
use super::report::{Live, Summary, Tally, Window, drive};
use super::request::{Messages, Template};

/// How long to wait for the last messages.
const LINGER_NS: u64 = 5_000_000_000;
/// Most sends under way on a connection; beyond, messages wait here, and are late for it.
const UNDER_WAY: usize = 1 << 16;

pub fn run(args: &E2eArgs) -> Result<bool> {
    let common = &args.common;
    let Target { mut admin, queues } = admin::find(common, true)?;
    let ends = admin.ends(&common.topic, queues)?;
    let addr = admin.addr.clone();
    let window = Window::start(args.extent.warmup, args.extent.duration);
    let live = Live::default();
    let mut due = 0;
    let worker = || {
        let mut both = Both::new(args, &window, &live, &addr, &ends)?;
        both.run()?;
        due = both.due;
        Ok(both.tally)
    };
    let (tally, costs) = drive(common, &window, &live, vec![worker])?;
    let missing = due - tally.messages;
    let seconds = (window.until - window.from) as f64 / 1e9;
    let settings = format!(
        "{queues} queues  {} msg/s due  {} + {} connections  {} B",
        args.rate, args.connections, args.connections, args.size
    );
    Summary::new("e2e", common, &addr, seconds, (tally, costs))
        .settings(settings)
        .count("missing", missing)
        .print(common, &["missing"])
}

struct Both<'a> {
    args: &'a E2eArgs,
    window: &'a Window,
    live: &'a Live,
    /// The first half sends, the second pulls.
    links: Vec<Link>,
    templates: Vec<Template>,
    queues: Vec<Queue>,
    heartbeat: Heartbeat,
    run: u64,
    /// Messages sent so far, and thereby the next one's number.
    sent: u64,
    /// Of them, those that count.
    due: u64,
    tally: Tally,
}

impl<'a> Both<'a> {
    fn new(
        args: &'a E2eArgs,
        window: &'a Window,
        live: &'a Live,
        addr: &str,
        ends: &[i64],
    ) -> Result<Both<'a>> {
        let common = &args.common;
        let (run, encoding) = (admin::run_number(), admin::encoding(common));
        let messages = Messages {
            topic: &common.topic,
            group: &common.group,
            tag: None,
            run,
            wait: args.wait_flush,
            size: args.size as usize,
            batch: 1,
        };
        let ids = 0..ends.len() as u32;
        let links: Result<_> =
            (0..2 * args.connections).map(|_| Link::connect(addr, UNDER_WAY)).collect();
        let queue = |id| Queue::new(common, id, ends[id as usize], args.batch, true, encoding);
        Ok(Both {
            args,
            window,
            live,
            links: links?,
            templates: ids
                .clone()
                .map(|id| Template::send(&messages, id, encoding, false))
                .collect(),
            queues: ids.map(queue).collect(),
            heartbeat: Heartbeat::new(common, run),
            run,
            sent: 0,
            due: 0,
            tally: Tally::new(),
        })
    }

    fn run(&mut self) -> Result<()> {
        let (clock, until) = (self.window.clock, self.window.until);
        let senders = self.args.connections as usize;
        let mut poller = Poller::new(&self.links, self.args.common.timeout)?;
        self.heartbeat.beat(&mut self.links[senders..], clock.ns())?;
        for at in 0..self.queues.len() {
            self.pull(at, clock.ns());
        }
        loop {
            let now = clock.ns();
            let next = self.send_what_is_due(now);
            for link in &mut self.links {
                link.flush()?;
            }
            let all_here = self.tally.messages == self.due && next > until;
            if all_here || now > until + LINGER_NS {
                return Ok(());
            }
            let next = if next > until { until + LINGER_NS } else { next };
            poller.wake_in(next.saturating_sub(clock.ns()))?;
            let waiting = self.links.iter().map(|l| l.slots.waiting()).sum();
            for n in poller.wait(Duration::from_millis(500), waiting)? {
                self.links[n].read()?;
                if n < senders {
                    self.acks(n, clock.ns())?;
                } else {
                    self.take(n, clock.ns())?;
                }
            }
            self.heartbeat.beat(&mut self.links[senders..], clock.ns())?;
        }
    }

    /// Sends the messages whose time has come; gives the next one's time.
    fn send_what_is_due(&mut self, now: u64) -> u64 {
        loop {
            let n = self.sent;
            let due = (u128::from(n) * 1_000_000_000 / u128::from(self.args.rate)) as u64;
            if due > now || due > self.window.until {
                return due;
            }
            let link = &mut self.links[(n % u64::from(self.args.connections)) as usize];
            // Late, but not lost: it goes when there is room, and its time stays what it was.
            let Some(opaque) = link.slots.take(due) else { return now + 1_000_000 };
            let template = &self.templates[(n % self.templates.len() as u64) as usize];
            let mut request = template.put(opaque, &mut link.outbox.bytes);
            request.keys(n);
            request.bodies(|_, body| {
                for (place, word) in body.chunks_exact_mut(8).zip([self.run, n, due]) {
                    place.copy_from_slice(&word.to_be_bytes());
                }
            });
            self.sent += 1;
            self.due += u64::from(due >= self.window.from);
        }
    }

    fn acks(&mut self, n: usize, now: u64) -> Result<()> {
        let link = &mut self.links[n];
        while let Some(frame) = link.inbox.next()? {
            let Some(answer) = link.scanner.scan(&frame)? else { continue };
            let (_, due) = link.slots.answered(answer.opaque)?;
            if answer.code != response::SUCCESS {
                self.tally.fault(answer.code, &frame);
                self.live.faults.fetch_add(1, Relaxed);
            } else if due >= self.window.from {
                self.tally.ack.saturating_record(now.saturating_sub(due));
            }
        }
        Ok(())
    }

    fn take(&mut self, n: usize, now: u64) -> Result<()> {
        let mut again = Vec::new();
        let link = &mut self.links[n];
        while let Some(frame) = link.inbox.next()? {
            let Some(answer) = link.scanner.scan(&frame)? else { continue };
            let (at, pulled) =
                pull::take(&mut self.queues, 1, answer, &frame, now, &mut self.tally)?;
            match pulled {
                Pulled::Records(records, _) => {
                    for bytes in records {
                        let Entry::Record(record) = record::decode(bytes?)? else { continue };
                        let mut words = record
                            .body()
                            .chunks_exact(8)
                            .map(|c| c.first_chunk().map_or(0, |word| u64::from_be_bytes(*word)));
                        let (run, _, due) = (words.next(), words.next(), words.next());
                        let (Some(due), true) = (due, run == Some(self.run)) else { continue };
                        if due >= self.window.from {
                            let size = record.body().len() as u64;
                            self.tally.latency.saturating_record(now.saturating_sub(due));
                            self.tally.count(1, size, now);
                            self.live.messages.fetch_add(1, Relaxed);
                            self.live.bytes.fetch_add(size, Relaxed);
                        }
                    }
                    again.push(at);
                }
                Pulled::Nothing => again.push(at),
                Pulled::Refused | Pulled::Other => {}
            }
        }
        for at in again {
            self.pull(at, now);
        }
        Ok(())
    }

    fn pull(&mut self, at: usize, now: u64) {
        let senders = self.args.connections as usize;
        let link = &mut self.links[senders + at % senders];
        self.queues[at].pull(&mut link.outbox.bytes, now);
    }
}
