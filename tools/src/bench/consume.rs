//! Pulling as fast as the broker gives.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mq_broker::wire::codes::request;

use super::admin::{self, Target};
use super::cli::{ConsumeArgs, From};
use super::error::Result;
use super::net::{Link, Poller};
use super::pull::{self, Heartbeat, Pulled, Queue};
use super::report::{Live, Summary, Tally, Window, drive};

pub fn run(args: &ConsumeArgs) -> Result<bool> {
    let common = &args.common;
    let Target { mut admin, queues } = admin::find(common, args.from == From::Tail)?;
    let ends = admin.ends(&common.topic, queues)?;
    let starts = match args.from {
        From::Tail => ends.clone(),
        From::Start => {
            let first = |q| admin.offset(request::GET_MIN_OFFSET, &common.topic, q);
            (0..queues).map(first).collect::<Result<_>>()?
        }
    };
    let addr = admin.addr.clone();
    let threads = args.threads.min(args.connections).min(queues);
    let window = Window::start(args.extent.warmup, args.extent.duration);
    let live = Live::default();
    let run = admin::run_number();
    let hold = args.from == From::Tail;
    let mut workers = Vec::new();
    for thread in 0..threads {
        let (window, live, addr, starts, ends) = (&window, &live, &addr, &starts, &ends);
        let encoding = admin::encoding(common);
        workers.push(move || {
            let ids = (thread..queues).step_by(threads as usize);
            let links = (args.connections / threads).max(1) as usize;
            let links: Result<_> = (0..links).map(|_| Link::connect(addr, 1)).collect();
            let queue =
                |id: u32| Queue::new(common, id, starts[id as usize], args.batch, hold, encoding);
            let mut consumer = Consumer {
                args,
                window,
                live,
                links: links?,
                queues: ids.map(queue).collect(),
                stride: threads,
                starts,
                ends,
                heartbeat: Heartbeat::new(common, run + u64::from(thread)),
                tally: Tally::new(),
            };
            consumer.run()?;
            Ok(consumer.tally)
        });
    }
    let (tally, costs) = drive(common, &window, &live, workers)?;
    let seconds = tally.last.saturating_sub(window.from) as f64 / 1e9;
    let settings = format!(
        "{queues} queues  {} connections  {} messages a pull  from {}{}",
        args.connections,
        args.batch,
        if hold { "tail" } else { "start" },
        if args.repeat { ", over and over" } else { "" }
    );
    let summary = Summary::new("consume", common, &addr, seconds, (tally, costs));
    summary.settings(settings).latency_name("pull").print(common, &[])
}

struct Consumer<'a> {
    args: &'a ConsumeArgs,
    window: &'a Window,
    live: &'a Live,
    links: Vec<Link>,
    queues: Vec<Queue>,
    stride: u32,
    /// Of all the topic's queues.
    starts: &'a [i64],
    ends: &'a [i64],
    heartbeat: Heartbeat,
    tally: Tally,
}

impl Consumer<'_> {
    fn run(&mut self) -> Result<()> {
        let clock = self.window.clock;
        let most = self.args.count.unwrap_or(u64::MAX).div_ceil(self.stride.into());
        let mut poller = Poller::new(&self.links, self.args.common.timeout)?;
        self.heartbeat.beat(&mut self.links, clock.ns())?;
        let mut open = 0;
        for at in 0..self.queues.len() {
            open += usize::from(self.pull(at, clock.ns()));
        }
        for link in &mut self.links {
            link.flush()?;
        }
        while open > 0 {
            // A pull that is held is answered late, and that is right.
            let waiting = if self.args.from == From::Tail { 0 } else { open };
            for n in poller.wait(Duration::from_millis(100), waiting)? {
                self.links[n].read()?;
                open -= self.take(n, clock.ns())?;
                self.links[n].flush()?;
            }
            let now = clock.ns();
            if now > self.window.until || self.tally.messages >= most {
                return Ok(());
            }
            self.heartbeat.beat(&mut self.links, now)?;
        }
        Ok(())
    }

    /// Takes in what came on a link. Gives how many queues are done with.
    fn take(&mut self, n: usize, now: u64) -> Result<usize> {
        let (mut messages, mut bytes, mut faults, mut done) = (0, 0, 0, 0);
        let mut again = Vec::new();
        let link = &mut self.links[n];
        while let Some(frame) = link.inbox.next()? {
            let Some(answer) = link.scanner.scan(&frame)? else { continue };
            let tally = &mut self.tally;
            let (at, pulled) =
                pull::take(&mut self.queues, self.stride, answer, &frame, now, tally)?;
            match pulled {
                Pulled::Records(records, took) => {
                    for record in records {
                        messages += 1;
                        bytes += record?.len() as u64;
                    }
                    if self.window.holds(now) {
                        self.tally.latency.saturating_record(took);
                    }
                    again.push(at);
                }
                Pulled::Nothing => again.push(at),
                Pulled::Refused => {
                    faults += 1;
                    done += 1;
                }
                Pulled::Other => {}
            }
        }
        if self.window.holds(now) {
            self.tally.count(messages, bytes, now);
        }
        self.live.messages.fetch_add(messages, Relaxed);
        self.live.bytes.fetch_add(bytes, Relaxed);
        self.live.faults.fetch_add(faults, Relaxed);
        for at in again {
            done += usize::from(!self.pull(at, now));
        }
        Ok(done)
    }

    /// Asks for what comes next in a queue; `false` if its end is reached.
    fn pull(&mut self, at: usize, now: u64) -> bool {
        let links = self.links.len();
        let queue = &mut self.queues[at];
        let id = queue.id() as usize;
        let (start, end) = (self.starts[id], self.ends[id]);
        if self.args.from == From::Start && queue.next >= end {
            if !self.args.repeat || start == end {
                return false;
            }
            queue.next = start;
        }
        queue.pull(&mut self.links[at % links].outbox.bytes, now);
        true
    }
}
