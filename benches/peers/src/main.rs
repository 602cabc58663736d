//! mq-embedded beside what else a program might keep a queue in. See `--help`.

mod fjall;
mod load;
mod ours;
mod queue;
mod redb;
mod sqlite;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::load::Load;
use crate::queue::{Open, Result, Safe};

/// Sends and consumes messages through mq-embedded and through other embedded stores, each
/// written as its user would write a queue, at equal durability. Every message that is received
/// is compared with what was sent; a wrong one ends the run with exit code 1.
///
/// "disk" is what a bare file allows: writes of the same size, each followed by fdatasync.
#[derive(Parser)]
#[command(name = "benches/peers/run")]
struct Args {
    /// Sees that everything works, in seconds; the figures mean little.
    #[arg(long)]
    quick: bool,
    /// One JSON object a line and measure.
    #[arg(long)]
    json: bool,
    /// Rounds; in each, every store has its turn. What is shown are medians.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// At most this long for each measure of each store.
    #[arg(long, default_value_t = 3.0, value_name = "S")]
    seconds: f64,
    /// Only measures whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Where the stores are made: a folder of the disk to be measured.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

const OURS: &str = "mq-embedded";

const PEERS: &[(&str, Open)] =
    &[("fjall", fjall::open), ("redb", redb::open), ("SQLite", sqlite::open)];

struct Measure {
    name: &'static str,
    load: Load,
    /// Beside peers, or alone.
    peers: bool,
}

fn measures(args: &Args) -> Vec<Measure> {
    let time = Duration::from_secs_f64(if args.quick { 0.2 } else { args.seconds });
    let messages = if args.quick { 20_000 } else { 1_000_000 };
    let base = Load {
        body: 1024,
        threads: 1,
        group: 1,
        safe: Safe::PowerCut,
        consume: true,
        messages,
        time,
    };
    let small = Load { body: 128, safe: Safe::Kill, messages: 4 * messages, ..base };
    let one = |name, load| Measure { name, load, peers: true };
    vec![
        one("durable each", base),
        one("durable each, 8 threads", Load { threads: 8, ..base }),
        one("durable by 100", Load { group: 100, ..base }),
        one("not synced, each", Load { safe: Safe::Kill, ..base }),
        one("not synced, by 100", Load { safe: Safe::Kill, group: 100, ..base }),
        Measure { name: "128 B, not synced", load: small, peers: false },
        Measure {
            name: "128 B, not synced, only sent",
            load: Load { consume: false, ..small },
            peers: false,
        },
    ]
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

fn run(args: &Args) -> Result<()> {
    let rounds = if args.quick { 1 } else { args.rounds.max(1) };
    let root = tempfile::Builder::new().prefix(".tmp-peers").tempdir_in(&args.dir)?;
    let dir = root.path().join("store");
    let mut out = std::io::stdout();
    if !args.json {
        write!(out, "{:<30}{OURS:>12}", "messages a second, 1 KiB")?;
        PEERS.iter().try_for_each(|(name, _)| write!(out, "{name:>10}"))?;
        writeln!(out, "{:>10}  ours, to the best", "disk")?;
    }
    for Measure { name, load, peers } in measures(args) {
        if args.only.as_ref().is_some_and(|text| !name.contains(text.as_str())) {
            continue;
        }
        let peers = if peers { PEERS } else { &[] };
        let has_disk = load.safe == Safe::PowerCut && load.threads == 1;
        let mut rates = vec![Vec::new(); 1 + peers.len()];
        let mut disk = Vec::new();
        for _ in 0..rounds {
            let stores = std::iter::once(&(OURS, ours::open as Open)).chain(peers);
            for ((store, open), rates) in stores.zip(&mut rates) {
                let rate = load::measure(*open, &dir, &load);
                rates.push(rate.map_err(|e| format!("{store}, {name}: {e}"))?);
                std::fs::remove_dir_all(&dir)?;
            }
            if has_disk {
                disk.push(load::disk(&dir, &load)?);
                std::fs::remove_dir_all(&dir)?;
            }
        }
        let medians: Vec<f64> = rates.iter().map(|r| median(r)).collect();
        let best = medians[1..].iter().copied().reduce(f64::max);
        let disk = (!disk.is_empty()).then(|| median(&disk));
        if args.json {
            let names = std::iter::once(OURS).chain(peers.iter().map(|(name, _)| *name));
            let stores: serde_json::Map<_, _> = names
                .zip(medians.iter().zip(&rates))
                .map(|(n, (m, r))| (n.into(), serde_json::json!({"median": m, "rounds": r})))
                .collect();
            let line = serde_json::json!({
                "measure": name, "body": load.body, "stores": stores, "disk": disk,
                "ratio": best.map(|best| medians[0] / best),
            });
            writeln!(out, "{line}")?;
            continue;
        }
        write!(out, "{name:<30}{:>12.0}", medians[0])?;
        for n in 1..=PEERS.len() {
            write!(out, "{:>10}", medians.get(n).map_or("–".into(), |m| format!("{m:.0}")))?;
        }
        write!(out, "{:>10}", disk.map_or("–".into(), |d| format!("{d:.0}")))?;
        writeln!(out, "  {}", best.map_or("–".into(), |b| format!("{:.1} x", medians[0] / b)))?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}
