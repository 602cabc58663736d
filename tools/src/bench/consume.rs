//! Pulling as fast as the broker gives.

use std::time::Duration;

use mq_broker::wire::codes::request;

use super::admin::{self, Target};
use super::cli::{ConsumeArgs, Place};
use super::error::Result;
use super::meter::Meter;
use super::net::Poller;
use super::pull::Puller;

pub fn run(args: &ConsumeArgs) -> Result<bool> {
    let common = &args.common;
    let at_tail = args.from == Place::Tail;
    let Target { mut admin, queues } = admin::find(common, at_tail)?;
    let ends = admin.ends(&common.topic, queues)?;
    let first = |q| admin.offset(request::GET_MIN_OFFSET, &common.topic, q);
    let starts: Vec<i64> =
        if at_tail { ends.clone() } else { (0..queues).map(first).collect::<Result<_>>()? };
    let mut puller = Puller::connect(common, admin.addr(), &starts, at_tail)?;
    let mut poller = Poller::new(&puller.links, common.timeout)?;
    let mut meter = Meter::start(common, args.warmup, args.duration);

    let mut again: Vec<usize> = (0..starts.len()).collect();
    loop {
        let now = meter.now();
        for id in again.drain(..) {
            let queue = &mut puller.queues[id];
            if !at_tail && queue.next >= ends[id] {
                if !args.repeat || starts[id] == ends[id] {
                    continue;
                }
                queue.next = starts[id];
            }
            puller.pull(id, now);
        }
        puller.flush(now)?;
        meter.tick(now);
        let enough = args.count.is_some_and(|count| meter.messages >= count);
        let open = puller.under_way();
        if open == 0 || now > meter.until || enough {
            break;
        }
        // A pull that is held is answered late, and that is right.
        let waiting = if at_tail { 0 } else { open };
        for link in poller.wait(Duration::from_millis(100), waiting)? {
            puller.take(link, &mut meter, &mut again, |meter, _, records, took| {
                let (mut messages, mut bytes) = (0, 0);
                for record in records {
                    messages += 1;
                    bytes += record?.len() as u64;
                }
                let now = meter.now();
                if meter.counts_at(now) {
                    meter.count(messages, bytes, now);
                    meter.latency.saturating_record(took);
                }
                Ok(())
            })?;
        }
    }
    let settings = format!(
        "{queues} queues  {} connections  {} messages a pull  from {}{}  latency of pulls",
        common.connections,
        common.pull_batch,
        if at_tail { "tail" } else { "start" },
        if args.repeat { ", over and over" } else { "" }
    );
    meter.tell(["consume", admin.addr(), &settings], &[])
}
