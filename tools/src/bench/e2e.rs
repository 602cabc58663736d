//! A fixed rate in, and how long each message takes to come out.
//!
//! Messages are due at fixed times whether or not the broker keeps up, and latency counts from
//! then: a broker that stops for a second shows as a second of late messages, not as one.

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
/// Most sends under way on a connection. Beyond, messages wait here, and are late for it.
const UNDER_WAY: usize = 1 << 16;

pub fn run(args: &E2eArgs) -> Result<bool> {
    let common = &args.common;
    let Target { mut admin, queues } = admin::find(common, true)?;
    let ends = admin.ends(&common.topic, queues)?;
    let mut puller = Puller::connect(common, &admin.addr, &ends, true)?;
    let messages = Messages { size: args.size as usize, batch: 1, ..Messages::default() };
    let links = (0..common.connections).map(|_| Link::connect(&admin.addr, UNDER_WAY));
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
        if over && (meter.messages >= producer.counted || now > meter.until + LINGER_NS) {
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
    let settings = format!(
        "{queues} queues  {} msg/s due  {senders} + {senders} connections  {} B",
        args.rate, args.size
    );
    meter.tell(["e2e", &admin.addr, &settings], &[("missing", missing, true)])
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
