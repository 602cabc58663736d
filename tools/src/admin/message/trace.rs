//! What producers and consumers told of a message.

use clap::Args;

use super::find::find;
use super::{Span, records};
use crate::admin::cluster::{Result, Session};
use crate::inspect::body;
use crate::inspect::output::Cell;

#[derive(Args)]
pub struct Trace {
    /// The id that the producer gave.
    #[arg(short = 'i', long = "msgId", value_name = "ID")]
    id: String,
    #[arg(short, long = "traceTopic", default_value = "RMQ_SYS_TRACE_TOPIC", value_name = "TOPIC")]
    topic: String,
    #[arg(short = 'c', long = "maxNum", default_value_t = 64, value_name = "N")]
    max: i32,
    #[command(flatten)]
    span: Span,
}

impl Trace {
    /// What producers and consumers that trace told of a message.
    pub fn run(self, s: &mut Session) -> Result {
        let span = (self.span.begin, self.span.end);
        let found = find(s, &self.topic, (&self.id, false), self.max, span)?;
        s.out.table(&[
            ("type", "#Type"),
            ("group", "#Group"),
            ("clientHost", "#ClientHost"),
            ("time", "#Time"),
            ("costTime", "#CostTimes"),
            ("status", "#Status"),
        ])?;
        for (_, body) in &found {
            for r in records(body) {
                let Ok(plain) = body::plain(&r) else { continue };
                let text = String::from_utf8_lossy(&plain).into_owned();
                let host = r.born_host().ip().to_string();
                for event in events(&text).into_iter().filter(|e| e.msg_id == self.id) {
                    s.out.item([
                        Cell::Text(event.kind.into()),
                        Cell::Text(event.group.to_owned()),
                        Cell::Text(host.clone()),
                        Cell::Time(event.time),
                        Cell::Text(format!("{}ms", event.cost)),
                        Cell::Text(if event.good { "success" } else { "failed" }.into()),
                    ])?;
                }
            }
        }
        Ok(())
    }
}

struct Event<'a> {
    kind: &'static str,
    msg_id: &'a str,
    group: &'a str,
    time: Option<i64>,
    cost: &'a str,
    good: bool,
}

/// The events of a trace message: parted by 0x02, their fields by 0x01. When a consumer began
/// stands in an event of its own.
fn events(text: &str) -> Vec<Event<'_>> {
    let all: Vec<Vec<&str>> = text.split('\x02').map(|e| e.split('\x01').collect()).collect();
    let event = |f: &Vec<&'_ str>| -> Option<(usize, usize)> {
        match f.first().copied() {
            Some("Pub") if f.len() >= 13 => Some((5, 10)),
            Some("SubAfter") if f.len() >= 6 => Some((2, 3)),
            _ => None,
        }
    };
    let mut events = Vec::new();
    for f in &all {
        let Some((id, cost)) = event(f) else { continue };
        let is_pub = f[0] == "Pub";
        let began = all
            .iter()
            .find(|b| !is_pub && b.first() == Some(&"SubBefore") && b.len() >= 6 && b[4] == f[1]);
        let good = match is_pub {
            true => f.get(13).or(f.get(12)),
            false => f.get(4),
        };
        events.push(Event {
            kind: if is_pub { "Pub" } else { "Sub" },
            msg_id: f[id],
            group: if is_pub { f[3] } else { began.map_or("", |b| b[3]) },
            time: if is_pub { f[1].parse().ok() } else { began.and_then(|b| b[1].parse().ok()) },
            cost: f[cost],
            good: good.is_some_and(|g| *g == "true"),
        });
    }
    events
}
