//! A fixed rate in, and how long each message takes to come out.
//!
//! Messages are due at fixed times whether or not the broker keeps up, and latency counts from
//! then: a broker that stops for a second shows as a second of late messages, not as one. Delayed
//! messages are due once more, by their delay later, and latency counts from there.

use std::time::Duration;

use mq_broker::wire::codes::response;
use mq_store::codec::record::{self, Entry};

use super::admin::{self, Target};
use super::cli::E2eArgs;
use super::error::Result;
use super::meter::Meter;
use super::net::{Link, Poller};
use super::pull::Puller;
use super::request::{Messages, Template, run_number};

/// How long to wait for the last messages.
const LINGER_NS: u64 = 5_000_000_000;
/// Brokers count in whole milliseconds: what comes by so much too soon is in time.
const EARLY_NS: u64 = 2_000_000;
/// Most sends under way on a connection. Beyond, messages wait here, and are late for it.
const UNDER_WAY: usize = 1 << 16;

/// `delayed`: level of delay, and what that means.
pub fn run(args: &E2eArgs, delayed: Option<(u32, Duration)>) -> Result<bool> {
    let common = &args.common;
    let delay = delayed.map_or(0, |(_, delay)| delay.as_nanos() as u64);
    let Target { mut admin, queues } = admin::find(common, true)?;
    let ends = admin.ends(&common.topic, queues)?;
    let mut puller = Puller::connect(common, admin.addr(), &ends, true)?;
    let delay_level = delayed.map_or(0, |(level, _)| level);
    let size = args.size as usize;
    let messages = Messages { delay_level, size, batch: 1, ..Messages::default() };
    let links = (0..common.connections).map(|_| Link::connect(common, admin.addr(), UNDER_WAY));
    let mut producer = Producer {
        links: links.collect::<Result<_>>()?,
        templates: (0..queues)
            .map(|q| Template::send(common, &common.topic, messages, q))
            .collect(),
        rate: args.rate,
        sent: 0,
        counted: 0,
    };
    let mut poller = Poller::new(producer.links.iter().chain(&puller.links), common.timeout)?;
    let mut meter = Meter::start(common, args.warmup, args.duration);

    let senders = producer.links.len();
    let mut early = 0;
    let mut again: Vec<usize> = (0..ends.len()).collect();
    loop {
        let now = meter.now();
        for id in again.drain(..) {
            puller.pull(id, now);
        }
        puller.flush(now)?;
        let next = producer.send_what_is_due(now, &meter)?;
        meter.tick(now);
        let over = next > meter.until;
        let last = meter.until + delay + LINGER_NS;
        if over && (meter.messages >= producer.counted || now > last) {
            break;
        }
        poller.wake_in(if over { LINGER_NS } else { next.saturating_sub(meter.now()) })?;
        let waiting = producer.links.iter().map(|l| l.slots.under_way()).sum();
        for n in poller.wait(Duration::from_millis(100), waiting)? {
            if n < senders {
                producer.acks(n, &mut meter)?;
                continue;
            }
            puller.take(n - senders, &mut meter, &mut again, |meter, _, records, _| {
                let now = meter.now();
                for bytes in records {
                    let Entry::Record(record) = record::decode(bytes?)? else { continue };
                    match words(record.body()) {
                        Some([run, due]) if run == run_number() && due >= meter.from => {
                            let due = due + delay;
                            early += u64::from(now + EARLY_NS < due);
                            meter.count(1, record.body().len() as u64, now);
                            meter.latency.saturating_record(now.saturating_sub(due));
                        }
                        _ => {}
                    }
                }
                Ok(())
            })?;
        }
    }
    let missing = producer.counted - meter.messages.min(producer.counted);
    let mut settings = format!(
        "{queues} queues  {} msg/s due  {senders} + {senders} connections  {} B",
        args.rate, args.size
    );
    let mut counts = vec![("missing", missing, true)];
    let mut mode = "e2e";
    if let Some((level, delay)) = delayed {
        mode = "delay";
        settings += &format!("  level {level}, {delay:?}");
        counts.push(("early", early, true));
    }
    meter.tell([mode, admin.addr(), &settings], &counts)
}

/// Run number and due time, with which a body begins.
fn words(body: &[u8]) -> Option<[u64; 2]> {
    let word = |at: usize| body.get(at..)?.first_chunk().map(|b| u64::from_be_bytes(*b));
    Some([word(0)?, word(8)?])
}

struct Producer {
    links: Vec<Link>,
    /// By queue id.
    templates: Vec<Template>,
    rate: u32,
    /// Messages sent so far.
    sent: u64,
    /// Of them, those after the warm-up.
    counted: u64,
}

impl Producer {
    /// Sends the messages whose time has come; gives the next one's time.
    fn send_what_is_due(&mut self, now: u64, meter: &Meter<'_>) -> Result<u64> {
        let next = loop {
            let n = self.sent;
            let due = (u128::from(n) * 1_000_000_000 / u128::from(self.rate)) as u64;
            if due > now || due > meter.until {
                break due;
            }
            let links = self.links.len() as u64;
            let link = &mut self.links[(n % links) as usize];
            // Without room it goes later, but its time stays what it was.
            let Some(opaque) = link.slots.take(due) else { break now + 1_000_000 };
            let queues = self.templates.len() as u64;
            let mut request = self.templates[(n % queues) as usize].put(opaque, &mut link.out);
            request.keys(n);
            request.bodies(|_, body| {
                body[..8].copy_from_slice(&run_number().to_be_bytes());
                body[8..16].copy_from_slice(&due.to_be_bytes());
            });
            self.sent += 1;
            self.counted += u64::from(due >= meter.from);
        };
        for link in &mut self.links {
            link.flush()?;
        }
        Ok(next)
    }

    fn acks(&mut self, n: usize, meter: &mut Meter<'_>) -> Result<()> {
        let now = meter.now();
        self.links[n].answers(|slots, answer, frame| {
            let due = slots.answered(answer.opaque)?;
            if answer.code != response::SUCCESS {
                meter.fault(answer.code, frame);
            } else if due >= meter.from {
                meter.ack.saturating_record(now.saturating_sub(due));
            }
            Ok(())
        })
    }
}
