//! Pulling queues: one pull under way for each, as RocketMQ's clients do it.

use mq_broker::wire::codes::response;
use mq_broker::wire::frame::{Encoding, Frame};
use mq_store::codec::record::{MAGIC_V1, MAGIC_V2, MIN_LEN};

use super::admin::{HEARTBEAT_NS, heartbeat};
use super::cli::Common;
use super::error::{Error, Result};
use super::net::Link;
use super::report::Tally;
use super::request::{self, Answer, FIRST_OPAQUE, Template};

/// How long a broker may hold a pull, as push clients have it.
const SUSPEND_MS: u64 = 15_000;

/// A queue and where it is read.
#[derive(Debug)]
pub struct Queue {
    id: u32,
    /// Next offset to be pulled.
    pub next: i64,
    /// When the pull under way went out.
    since: Option<u64>,
    template: Template,
}

impl Queue {
    pub fn new(common: &Common, id: u32, next: i64, max: u32, hold: bool, e: Encoding) -> Queue {
        let suspend = hold.then_some(SUSPEND_MS);
        let template = Template::pull((&common.group, &common.topic), id, max, suspend, e);
        Queue { id, next, since: None, template }
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    /// Writes a pull for what comes next.
    pub fn pull(&mut self, out: &mut Vec<u8>, now: u64) {
        self.since = Some(now);
        self.template.put(FIRST_OPAQUE + self.id as i32, out).offset(self.next);
    }
}

/// What a pull brought.
#[derive(Debug)]
pub enum Pulled<'a> {
    /// Records, and how long they took to come.
    Records(Records<'a>, u64),
    /// Nothing there, or not where it was looked for; the queue's next offset is right now.
    Nothing,
    /// An error, which the tally has.
    Refused,
    /// Not the answer to a pull.
    Other,
}

/// Takes in an answer for one of `queues`; the place of its queue comes with it. Among all
/// queues of a topic those of a thread are every `stride`th.
pub fn take<'a>(
    queues: &mut [Queue],
    stride: u32,
    answer: Answer,
    frame: &Frame<'a>,
    now: u64,
    tally: &mut Tally,
) -> Result<(usize, Pulled<'a>)> {
    if answer.opaque < FIRST_OPAQUE {
        if answer.code != response::SUCCESS {
            tally.fault(answer.code, frame);
        }
        return Ok((0, Pulled::Other));
    }
    let stray = || Error::Stray(answer.opaque);
    let id = (answer.opaque - FIRST_OPAQUE) as u32;
    let place = (id / stride) as usize;
    let queue = queues.get_mut(place).filter(|q| q.id == id).ok_or_else(stray)?;
    let since = queue.since.take().ok_or_else(stray)?;
    let pulled = match answer.code {
        response::SUCCESS => {
            let records = Records(frame.body);
            queue.next = match records.clone().last() {
                Some(record) => offset(record?) + 1,
                None => return Err(Error::Records(frame.body.len())),
            };
            Pulled::Records(records, now.saturating_sub(since))
        }
        response::PULL_NOT_FOUND
        | response::PULL_RETRY_IMMEDIATELY
        | response::PULL_OFFSET_MOVED => {
            queue.next = request::field(frame, "nextBeginOffset")?.unwrap_or(queue.next);
            Pulled::Nothing
        }
        code => {
            tally.fault(code, frame);
            Pulled::Refused
        }
    };
    Ok((place, pulled))
}

/// The records of a pull's body, by their heads.
#[derive(Clone, Debug)]
pub struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<&'a [u8]>;

    fn next(&mut self) -> Option<Result<&'a [u8]>> {
        let rest = std::mem::take(&mut self.0);
        if rest.is_empty() {
            return None;
        }
        let word = |at: usize| rest.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b));
        let size = word(0).unwrap_or(0) as usize;
        let known = matches!(word(4), Some(MAGIC_V1 | MAGIC_V2)) && size >= MIN_LEN;
        match rest.split_at_checked(size).filter(|_| known) {
            Some((record, rest)) => {
                self.0 = rest;
                Some(Ok(record))
            }
            None => Some(Err(Error::Records(rest.len()))),
        }
    }
}

/// The queue offset that a record's head tells.
pub fn offset(record: &[u8]) -> i64 {
    record[20..].first_chunk().map_or(0, |b| i64::from_be_bytes(*b))
}

/// Tells the broker, now and then, that the links are members of the group.
#[derive(Debug)]
pub struct Heartbeat {
    frame: Vec<u8>,
    due: u64,
}

impl Heartbeat {
    pub fn new(common: &Common, run: u64) -> Heartbeat {
        Heartbeat { frame: heartbeat(common, run), due: 0 }
    }

    pub fn beat(&mut self, links: &mut [Link], now: u64) -> Result<()> {
        if now < self.due {
            return Ok(());
        }
        self.due = now + HEARTBEAT_NS;
        for link in links {
            link.outbox.bytes.extend_from_slice(&self.frame);
            link.flush()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mq_store::codec::record::{self, Message, Placement};

    fn record(queue_offset: u64) -> Vec<u8> {
        let host = "127.0.0.1:1".parse().unwrap();
        let message = Message {
            topic: "T",
            queue_id: 0,
            flag: 0,
            sys_flag: 0,
            born_timestamp: 0,
            born_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"body",
            properties: b"",
        };
        let place =
            Placement { queue_offset, physical_offset: 0, store_timestamp: 0, store_host: host };
        let mut buf = vec![0; record::encoded_len(&message, &host)];
        record::encode(&message, &place, record::body_crc(b"body"), &mut buf);
        buf
    }

    #[test]
    fn records_one_by_one_and_damage_is_told() {
        let body = [record(7), record(8)].concat();
        let offsets: Vec<i64> = Records(&body).map(|r| offset(r.unwrap())).collect();
        assert_eq!(offsets, [7, 8]);
        let cut = &body[..body.len() - 1];
        assert_eq!(Records(cut).filter(Result::is_err).count(), 1);
        assert!(Records(&[0; 200]).next().unwrap().is_err());
        assert!(Records(&[1]).next().unwrap().is_err());
    }
}
