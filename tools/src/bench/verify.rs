//! Sends numbered messages, consumes them, and compares.
//!
//! One send is under way for each queue, so the numbers of a queue have to come back in their
//! order. A send whose answer is an error may have been stored or not; either is right.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mq_broker::wire::codes::response;
use mq_store::codec::record::{self, Entry};

use super::admin::{self, Target};
use super::cli::VerifyArgs;
use super::error::Result;
use super::net::{Link, Poller};
use super::pull::{self, Heartbeat, Pulled, Queue};
use super::report::{Live, Summary, Tally, Window, drive};
use super::request::{self, Messages, Template};

pub fn run(args: &VerifyArgs) -> Result<bool> {
    let common = &args.common;
    let Target { mut admin, queues } = admin::find(common, true)?;
    let ends = admin.ends(&common.topic, queues)?;
    let addr = admin.addr.clone();
    let window = Window::start(Duration::ZERO, Duration::MAX);
    let live = Live::default();
    let mut found = Found::default();
    let mut lost = 0;
    let worker = || {
        let mut check = Check::new(args, &window, &live, &addr, &ends)?;
        check.run()?;
        lost = check.lanes.iter().map(Lane::lost).sum();
        found = check.found;
        Ok(check.tally)
    };
    let (tally, costs) = drive(common, &window, &live, vec![worker])?;
    let seconds = tally.last as f64 / 1e9;
    let settings = format!("{queues} queues  {} messages  {} B", args.count, args.size);
    let bad = ["lost", "duplicates", "outOfOrder", "damaged", "misplaced"];
    Summary::new("verify", common, &addr, seconds, (tally, costs))
        .settings(settings)
        .count("lost", lost)
        .count("duplicates", found.duplicates)
        .count("outOfOrder", found.out_of_order)
        .count("damaged", found.damaged)
        .count("misplaced", found.misplaced)
        .count("foreign", found.foreign)
        .print(common, &bad)
}

/// What was seen that should not be.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    duplicates: u64,
    out_of_order: u64,
    /// Body, its CRC or its check word wrong.
    damaged: u64,
    /// In another queue than asked, or at another offset than the answer said, or with a gap
    /// before it.
    misplaced: u64,
    /// Messages of others; not wrong.
    foreign: u64,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    /// Queue offset of the answer.
    acked: Option<i64>,
    /// Queue offset where it was found.
    seen: Option<i64>,
}

/// The messages of one queue.
#[derive(Debug, Default)]
struct Lane {
    /// How many are to be sent.
    total: u64,
    fates: Vec<Fate>,
    /// Number of the last message that was seen.
    last: Option<u64>,
    /// Queue offset that the next record has.
    expected: i64,
}

impl Lane {
    fn lost(&self) -> u64 {
        self.fates.iter().filter(|f| f.acked.is_some() && f.seen.is_none()).count() as u64
    }
    fn done(&self) -> bool {
        self.fates.len() as u64 == self.total && self.lost() == 0
    }

    /// Takes note that message `number` stands at `offset`.
    fn see(&mut self, number: u64, offset: i64, found: &mut Found) {
        let Some(fate) = self.fates.get_mut(number as usize) else {
            found.damaged += 1;
            return;
        };
        if fate.seen.is_some() {
            found.duplicates += 1;
            return;
        }
        fate.seen = Some(offset);
        found.misplaced += u64::from(fate.acked.is_some_and(|acked| acked != offset));
        found.out_of_order += u64::from(self.last.is_some_and(|last| last > number));
        self.last = self.last.max(Some(number));
    }
}

struct Check<'a> {
    args: &'a VerifyArgs,
    window: &'a Window,
    live: &'a Live,
    /// The first half sends, the second pulls.
    links: Vec<Link>,
    templates: Vec<Template>,
    queues: Vec<Queue>,
    lanes: Vec<Lane>,
    /// Queue and number of the send in each slot of each link.
    under_way: Vec<Vec<(usize, u64)>>,
    heartbeat: Heartbeat,
    run: u64,
    found: Found,
    tally: Tally,
}

impl<'a> Check<'a> {
    fn new(
        args: &'a VerifyArgs,
        window: &'a Window,
        live: &'a Live,
        addr: &str,
        ends: &[i64],
    ) -> Result<Check<'a>> {
        let common = &args.common;
        let (run, encoding) = (admin::run_number(), admin::encoding(common));
        let messages = Messages {
            topic: &common.topic,
            group: &common.group,
            tag: None,
            run,
            wait: true,
            size: args.size as usize,
            batch: 1,
        };
        let lanes = ends.len() as u64;
        let ids = 0..ends.len() as u32;
        let links: Result<Vec<_>> =
            (0..2 * args.connections).map(|_| Link::connect(addr, ends.len())).collect();
        let lane = |(n, end): (u64, &i64)| {
            let total = args.count / lanes + u64::from(n < args.count % lanes);
            Lane { total, expected: *end, ..Lane::default() }
        };
        Ok(Check {
            args,
            window,
            live,
            links: links?,
            templates: ids
                .clone()
                .map(|id| Template::send(&messages, id, encoding, false))
                .collect(),
            queues: ids
                .map(|id| Queue::new(common, id, ends[id as usize], 32, true, encoding))
                .collect(),
            lanes: (0..).zip(ends).map(lane).collect(),
            under_way: vec![vec![(0, 0); ends.len()]; args.connections as usize],
            heartbeat: Heartbeat::new(common, run),
            run,
            found: Found::default(),
            tally: Tally::new(),
        })
    }

    fn run(&mut self) -> Result<()> {
        let clock = self.window.clock;
        let senders = self.args.connections as usize;
        let mut poller = Poller::new(&self.links, self.args.common.timeout)?;
        self.heartbeat.beat(&mut self.links[senders..], clock.ns())?;
        for at in 0..self.queues.len() {
            self.pull(at, clock.ns());
            self.send(at, clock.ns());
        }
        let mut heard = clock.ns();
        while !self.lanes.iter().all(Lane::done) {
            for link in &mut self.links {
                link.flush()?;
            }
            let waiting = self.links.iter().map(|l| l.slots.waiting()).sum();
            for n in poller.wait(Duration::from_millis(200), waiting)? {
                self.links[n].read()?;
                if n < senders {
                    self.acks(n, clock.ns())?;
                    heard = clock.ns();
                } else {
                    self.take(n, clock.ns(), &mut heard)?;
                }
            }
            if clock.ns() - heard > self.args.common.timeout.as_nanos() as u64 {
                // What is still missing then is lost.
                return Ok(());
            }
            self.heartbeat.beat(&mut self.links[senders..], clock.ns())?;
        }
        Ok(())
    }

    /// Sends a queue's next message, if it has one.
    fn send(&mut self, at: usize, now: u64) {
        let (lane, n) = (&mut self.lanes[at], at % self.args.connections as usize);
        let number = lane.fates.len() as u64;
        let link = &mut self.links[n];
        let Some(opaque) = (number < lane.total).then(|| link.slots.take(now)).flatten() else {
            return;
        };
        let slot = link.slots.of(opaque);
        self.under_way[n][slot] = (at, number);
        lane.fates.push(Fate::default());
        let mut request = self.templates[at].put(opaque, &mut link.outbox.bytes);
        request.keys((at as u64) << 40 | number);
        request.bodies(|_, body| write_body(body, [self.run, at as u64, number]));
    }

    fn acks(&mut self, n: usize, now: u64) -> Result<()> {
        let mut again = Vec::new();
        let link = &mut self.links[n];
        while let Some(frame) = link.inbox.next()? {
            let Some(answer) = link.scanner.scan(&frame)? else { continue };
            let (slot, sent) = link.slots.answered(answer.opaque)?;
            let (at, number) = self.under_way[n][slot];
            again.push(at);
            if answer.code != response::SUCCESS {
                self.tally.fault(answer.code, &frame);
                self.live.faults.fetch_add(1, Relaxed);
                continue;
            }
            self.tally.ack.saturating_record(now - sent);
            let offset = request::field(&frame, "queueOffset")?;
            let fate = &mut self.lanes[at].fates[number as usize];
            fate.acked = Some(offset.unwrap_or(-1));
            // It may have been consumed before its answer came.
            self.found.misplaced += u64::from(fate.seen.is_some() && fate.seen != fate.acked);
        }
        for at in again {
            self.send(at, now);
        }
        Ok(())
    }

    fn take(&mut self, n: usize, now: u64, heard: &mut u64) -> Result<()> {
        let mut again = Vec::new();
        let link = &mut self.links[n];
        while let Some(frame) = link.inbox.next()? {
            let Some(answer) = link.scanner.scan(&frame)? else { continue };
            let (at, pulled) =
                pull::take(&mut self.queues, 1, answer, &frame, now, &mut self.tally)?;
            match pulled {
                Pulled::Records(records, _) => {
                    *heard = now;
                    again.push(at);
                    for bytes in records {
                        let Entry::Record(record) = record::decode(bytes?)? else { continue };
                        let (lane, found) = (&mut self.lanes[at], &mut self.found);
                        let offset = record.queue_offset();
                        let in_place = offset == lane.expected && record.queue_id() == at as i32;
                        found.misplaced += u64::from(!in_place);
                        lane.expected = offset + 1;
                        let size = record.body().len() as u64;
                        match read_body(record.body()) {
                            Some([run, ..]) if run != self.run => found.foreign += 1,
                            Some([_, queue, number])
                                if queue == at as u64 && record.check_body().is_ok() =>
                            {
                                lane.see(number, offset, found);
                                self.tally.count(1, size, now);
                                self.live.messages.fetch_add(1, Relaxed);
                                self.live.bytes.fetch_add(size, Relaxed);
                            }
                            _ => found.damaged += 1,
                        }
                    }
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

/// Body: three words, then a check word over everything else, then filler of the number's own.
fn write_body(body: &mut [u8], words: [u64; 3]) {
    let (head, filler) = body.split_at_mut(32);
    for (place, word) in head.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    let mut state = words[2] | 1;
    for place in filler.chunks_mut(8) {
        state = state.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        place.copy_from_slice(&state.to_be_bytes()[..place.len()]);
    }
    let check = check_word(body);
    body[24..32].copy_from_slice(&check.to_be_bytes());
}

/// The words of a body whose check word is right.
fn read_body(body: &[u8]) -> Option<[u64; 3]> {
    let word = |at: usize| body.get(at..)?.first_chunk().map(|b| u64::from_be_bytes(*b));
    let words = [word(0)?, word(8)?, word(16)?];
    (word(24)? == check_word(body)).then_some(words)
}

fn check_word(body: &[u8]) -> u64 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&body[..24]);
    crc.update(&body[32..]);
    u64::from(crc.finalize()) << 32 | body.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_body_is_told() {
        for size in [32, 33, 100] {
            let mut body = vec![0; size];
            write_body(&mut body, [1, 2, 3]);
            assert_eq!(read_body(&body), Some([1, 2, 3]));
            for at in 0..size {
                body[at] ^= 1;
                assert_eq!(read_body(&body), None, "byte {at}");
                body[at] ^= 1;
            }
            assert_eq!(read_body(&body[..size - 1]), None);
        }
    }

    #[test]
    fn fates() {
        let mut found = Found::default();
        let acked = |at| Fate { acked: Some(at), seen: None };
        let mut lane = Lane {
            total: 5,
            fates: vec![acked(10), acked(11), acked(12), Fate::default(), acked(14)],
            ..Lane::default()
        };
        lane.see(0, 10, &mut found);
        lane.see(2, 11, &mut found);
        lane.see(1, 12, &mut found);
        lane.see(1, 13, &mut found);
        lane.see(99, 14, &mut found);
        assert_eq!((found.duplicates, found.out_of_order, found.misplaced), (1, 1, 2));
        assert_eq!((found.damaged, lane.lost(), lane.done()), (1, 1, false));
        lane.see(4, 14, &mut found);
        assert!(lane.done(), "the one without an answer may be missing");
    }
}
