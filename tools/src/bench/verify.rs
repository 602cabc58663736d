//! Sends numbered messages, consumes them, and compares.
//!
//! One send is under way for each queue, so the numbers of a queue have to come back in their
//! order. A send whose answer is an error may have been stored or not; either is right.

use std::time::Duration;

use mq_broker::wire::codes::response;
use mq_store::codec::record::{self, Entry, Record};

use super::admin::{self, Target};
use super::cli::VerifyArgs;
use super::error::Result;
use super::meter::Meter;
use super::net::{Link, Poller};
use super::pull::Puller;
use super::request::{self, Messages, Template, run_number};

pub fn run(args: &VerifyArgs) -> Result<bool> {
    let common = &args.common;
    let Target { mut admin, queues } = admin::find(common, true)?;
    let ends = admin.ends(&common.topic, queues)?;
    let mut puller = Puller::connect(common, admin.addr(), &ends, true)?;
    let links = (0..common.connections).map(|_| Link::connect(common, admin.addr(), ends.len()));
    let mut links = links.collect::<Result<Vec<_>>>()?;
    let messages = Messages { size: args.size as usize, batch: 1, ..Messages::default() };
    let lane = |(id, end): (u32, &i64)| Lane {
        id: id.into(),
        template: Template::send(common, &common.topic, messages, id),
        total: args.count / u64::from(queues)
            + u64::from(u64::from(id) < args.count % u64::from(queues)),
        fates: Vec::new(),
        last: None,
        expected: *end,
    };
    let mut lanes: Vec<Lane> = (0..).zip(&ends).map(lane).collect();
    let mut found = Found::default();
    let mut poller = Poller::new(links.iter().chain(&puller.links), common.timeout)?;
    let mut meter = Meter::start(common, Duration::ZERO, Duration::MAX);

    let senders = links.len();
    let mut heard = 0;
    let (mut pull, mut send): (Vec<usize>, Vec<usize>) =
        ((0..ends.len()).collect(), (0..ends.len()).collect());
    loop {
        let now = meter.now();
        for id in pull.drain(..) {
            puller.pull(id, now);
        }
        for id in send.drain(..) {
            lanes[id].send(&mut links[id % senders]);
        }
        puller.flush(now)?;
        for link in &mut links {
            link.flush()?;
        }
        meter.tick(now);
        let waiting = links.iter().map(|l| l.slots.under_way()).sum();
        let done = waiting == 0 && lanes.iter().all(Lane::done);
        // What is still missing after so long a silence is lost.
        if done || now.saturating_sub(heard) > common.timeout.as_nanos() as u64 {
            break;
        }
        for n in poller.wait(Duration::from_millis(100), waiting)? {
            if n < senders {
                links[n].answers(|slots, answer, frame| {
                    heard = now;
                    let id = slots.answered(answer.opaque)? as usize;
                    send.push(id);
                    if answer.code != response::SUCCESS {
                        meter.fault(answer.code, frame);
                        return Ok(());
                    }
                    let offset = request::field(frame, "queueOffset")?;
                    lanes[id].acked(offset.unwrap_or(-1), &mut found);
                    Ok(())
                })?;
                continue;
            }
            puller.take(n - senders, &mut meter, &mut pull, |meter, id, records, _| {
                heard = meter.now();
                for bytes in records {
                    let Entry::Record(record) = record::decode(bytes?)? else { continue };
                    if lanes[id].take(&record, &mut found) {
                        meter.count(1, record.body().len() as u64, heard);
                    }
                }
                Ok(())
            })?;
        }
    }
    let lost = lanes.iter().map(Lane::lost).sum();
    let settings = format!("{queues} queues  {} messages to send  {} B", args.count, args.size);
    let counts = [
        ("lost", lost, true),
        ("duplicates", found.duplicates, true),
        ("outOfOrder", found.out_of_order, true),
        ("damaged", found.damaged, true),
        ("misplaced", found.misplaced, true),
        ("foreign", found.foreign, false),
    ];
    meter.tell(["verify", admin.addr(), &settings], &counts)
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

/// What became of a message: the queue offset that its answer told, and that of its record.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    acked: Option<i64>,
    seen: Option<i64>,
}

/// The messages of one queue.
#[derive(Debug)]
struct Lane {
    id: u64,
    template: Template,
    /// How many are to be sent.
    total: u64,
    /// Of those that were sent.
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

    /// Sends the next message, if there is one.
    fn send(&mut self, link: &mut Link) {
        let number = self.fates.len() as u64;
        if number == self.total {
            return;
        }
        // There is a slot for every queue.
        let Some(opaque) = link.slots.take(self.id) else { return };
        self.fates.push(Fate::default());
        let mut request = self.template.put(opaque, &mut link.out);
        request.keys(self.id << 40 | number);
        request.bodies(|_, body| write_body(body, [run_number(), self.id, number]));
    }

    /// The last message that was sent is stored.
    fn acked(&mut self, offset: i64, found: &mut Found) {
        if let Some(fate) = self.fates.last_mut() {
            fate.acked = Some(offset);
            // It may have been consumed before its answer came.
            found.misplaced += u64::from(fate.seen.is_some_and(|seen| seen != offset));
        }
    }

    /// Looks at a record of the queue. Whether it is a message of this run, and whole.
    fn take(&mut self, record: &Record<'_>, found: &mut Found) -> bool {
        let offset = record.queue_offset();
        let here = offset == self.expected && i64::from(record.queue_id()) == self.id as i64;
        found.misplaced += u64::from(!here);
        self.expected = offset + 1;
        match read_body(record.body()) {
            Some([run, ..]) if run != run_number() => found.foreign += 1,
            Some([_, id, number]) if id == self.id && record.check_body().is_ok() => {
                self.see(number, offset, found);
                return true;
            }
            _ => found.damaged += 1,
        }
        false
    }

    /// Message `number` stands at `offset`.
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
            id: 0,
            template: Template::default(),
            total: 5,
            fates: vec![acked(10), acked(11), acked(12), Fate::default(), acked(14)],
            last: None,
            expected: 10,
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
