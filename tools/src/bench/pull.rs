//! Pulling queues: one pull under way for each, as RocketMQ's clients do it.

use mq_broker::wire::codes::response;
use mq_store::codec::record::{MAGIC_V1, MAGIC_V2, MIN_LEN};

use super::admin::heartbeat;
use super::cli::Common;
use super::error::{Error, Result};
use super::meter::Meter;
use super::net::Link;
use super::request::{self, FIRST_OPAQUE, Template};

/// How long a broker may hold a pull, as push clients have it.
const SUSPEND_MS: u64 = 15_000;
/// How often a consumer has to say that it is there.
const HEARTBEAT_NS: u64 = 30_000_000_000;

/// A queue and where it is read.
#[derive(Debug)]
pub struct Queue {
    /// Next offset to be pulled.
    pub next: i64,
    /// When the pull under way went out.
    since: Option<u64>,
    template: Template,
}

/// The queues of a topic, spread over some connections.
#[derive(Debug)]
pub struct Puller {
    pub links: Vec<Link>,
    /// By queue id.
    pub queues: Vec<Queue>,
    heartbeat: Vec<u8>,
    next_heartbeat: u64,
}

impl Puller {
    /// Reads from `starts`; the broker may `hold` pulls that find nothing.
    pub fn connect(common: &Common, addr: &str, starts: &[i64], hold: bool) -> Result<Puller> {
        let links = (0..common.connections).map(|_| Link::connect(common, addr, 0));
        let suspend = hold.then_some(SUSPEND_MS);
        let queue = |(id, start): (u32, &i64)| Queue {
            next: *start,
            since: None,
            template: Template::pull(common, id, suspend),
        };
        Ok(Puller {
            links: links.collect::<Result<_>>()?,
            queues: (0..).zip(starts).map(queue).collect(),
            heartbeat: heartbeat(common),
            next_heartbeat: 0,
        })
    }

    /// Writes a pull for what comes next in a queue; [`Puller::flush`] sends it.
    pub fn pull(&mut self, id: usize, now: u64) {
        let links = self.links.len();
        let (queue, out) = (&mut self.queues[id], &mut self.links[id % links].out);
        queue.since = Some(now);
        queue.template.put(FIRST_OPAQUE + id as i32, out).offset(queue.next);
    }

    /// How many queues have a pull under way.
    pub fn under_way(&self) -> usize {
        self.queues.iter().filter(|q| q.since.is_some()).count()
    }

    /// Sends what waits, and a heartbeat when one is due.
    pub fn flush(&mut self, now: u64) -> Result<()> {
        let beat = now >= self.next_heartbeat;
        if beat {
            self.next_heartbeat = now + HEARTBEAT_NS;
        }
        for link in &mut self.links {
            if beat {
                link.out.extend_from_slice(&self.heartbeat);
            }
            link.flush()?;
        }
        Ok(())
    }

    /// Reads what has come on a link. Records go to `each`, with their queue and how long they
    /// took; queues that are to be pulled again go to `again`. A queue whose pull is refused is
    /// not: the meter has counted it, and asking again would bring the same.
    pub fn take(
        &mut self,
        link: usize,
        meter: &mut Meter<'_>,
        again: &mut Vec<usize>,
        mut each: impl FnMut(&mut Meter<'_>, usize, Records<'_>, u64) -> Result<()>,
    ) -> Result<()> {
        let now = meter.now();
        let queues = &mut self.queues;
        self.links[link].answers(|_, answer, frame| {
            if answer.opaque < FIRST_OPAQUE {
                if answer.code != response::SUCCESS {
                    meter.fault(answer.code, frame);
                }
                return Ok(());
            }
            let stray = Error::Stray(answer.opaque);
            let id = (answer.opaque - FIRST_OPAQUE) as usize;
            let Some(queue) = queues.get_mut(id) else { return Err(stray) };
            let Some(since) = queue.since.take() else { return Err(stray) };
            match answer.code {
                response::SUCCESS => {
                    let records = Records(frame.body);
                    queue.next = match records.clone().last() {
                        Some(record) => offset(record?) + 1,
                        None => return Err(Error::Records(0)),
                    };
                    each(meter, id, records, now.saturating_sub(since))?;
                }
                response::PULL_NOT_FOUND
                | response::PULL_RETRY_IMMEDIATELY
                | response::PULL_OFFSET_MOVED => {
                    queue.next = request::field(frame, "nextBeginOffset")?.unwrap_or(queue.next);
                }
                code => {
                    meter.fault(code, frame);
                    return Ok(());
                }
            }
            again.push(id);
            Ok(())
        })
    }
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
fn offset(record: &[u8]) -> i64 {
    record[20..].first_chunk().map_or(0, |b| i64::from_be_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_one_by_one_and_damage_is_told() {
        let record = |offset: i64| {
            let mut record = vec![0; MIN_LEN];
            record[..4].copy_from_slice(&(MIN_LEN as u32).to_be_bytes());
            record[4..8].copy_from_slice(&MAGIC_V1.to_be_bytes());
            record[20..28].copy_from_slice(&offset.to_be_bytes());
            record
        };
        let body = [record(7), record(8)].concat();
        let offsets: Vec<i64> = Records(&body).map(|r| offset(r.unwrap())).collect();
        assert_eq!(offsets, [7, 8]);
        let cut = &body[..body.len() - 1];
        assert_eq!(Records(cut).filter(Result::is_err).count(), 1);
        assert!(Records(&[0; 200]).next().unwrap().is_err());
        assert!(Records(&[1]).next().unwrap().is_err());
    }
}
