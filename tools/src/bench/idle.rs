//! Connections that say nothing.

use std::io::Write;
use std::time::Duration;

use serde_json::json;

use super::admin;
use super::cli::IdleArgs;
use super::error::{Error, Result};
use super::meter::Usage;
use super::net::{Link, Poller};
use super::request;

pub fn run(args: &IdleArgs) -> Result<bool> {
    let common = &args.common;
    let Some(pid) = common.pid.map(|pid| pid.to_string()) else {
        return Err(Error::Unusable("name the broker's process with --pid".into()));
    };
    let usage = || {
        let gone = || Error::Unusable(format!("process {pid} cannot be looked at"));
        Usage::of(&pid).ok_or_else(gone)
    };
    let target = admin::find(common, true)?;
    let before = usage()?;
    // Each has been of use before: what a connection keeps of that is part of what it costs.
    let question = request::question(common);
    let links = (0..common.connections).map(|_| Link::connect(common, target.admin.addr(), 0));
    let mut links = links.collect::<Result<Vec<_>>>()?;
    for link in &mut links {
        link.out.extend_from_slice(&question);
        link.flush()?;
    }
    let mut poller = Poller::new(&links, common.timeout)?;
    let mut answered = 0;
    while answered < links.len() {
        for n in poller.wait(Duration::from_millis(100), links.len() - answered)? {
            links[n].answers(|_, _, _| {
                answered += 1;
                Ok(())
            })?;
        }
    }
    let open = usage()?;
    std::thread::sleep(args.duration);
    let after = usage()?;
    let count = f64::from(common.connections);
    let each = |now: u64, then: u64| now.saturating_sub(then) as f64 / count;
    let rss = each(after.rss_kib, before.rss_kib);
    let anonymous = each(after.anonymous_kib, before.anonymous_kib);
    let cpu = (after.cpu - open.cpu) / args.duration.as_secs_f64() * 1000.0;
    let text = if common.json {
        json!({
            "mode": "idle", "broker": target.admin.addr(), "connections": common.connections,
            "rssKibEach": rss, "anonymousKibEach": anonymous, "brokerCpuMillisPerSecond": cpu,
        })
        .to_string()
    } else {
        format!(
            "idle  {}  {} connections\n  memory        {rss:.2} KiB each, {anonymous:.2} KiB of it \
             no mapped files\n  broker CPU    {cpu:.1} ms a second",
            target.admin.addr(),
            common.connections
        )
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(true)
}
