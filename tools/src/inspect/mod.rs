//! `mq-store-inspect`: what is typed, and which command answers it.

pub(crate) mod body;
mod browse;
mod decode;
mod export;
mod follow;
mod import;
pub(crate) mod line;
mod message;
pub(crate) mod output;
mod repair;
mod send;
mod summary;
pub(crate) mod time;
mod verify;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use mq_store::view::StoreView;

use crate::security::SecurityArgs;
use body::Form;
use output::Output;

const EXIT_CODES: &str = "\
Exit codes: 0 done (verify, repair: the store is sound); 1 verify found damage, repair left some, \
repair --dry-run would do something, message or query found nothing, export or import left \
something out that was damaged or refused; 2 could not look, or do it.

Only repair and import change anything, and only in a store that nobody has open. Times are local: \
2026-11-23T21:15, 2026-11-23, \"10m ago\" (s, m, h, d), or milliseconds since 1970.";

/// Looks into the files of a RocketMQ store, live or dead, of this broker or a Java one.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES)]
struct Cli {
    /// Write JSON, one object a line, with RocketMQ's field names.
    #[arg(long, global = true)]
    json: bool,
    /// Folder of the log's files, if it is not STORE/commitlog.
    #[arg(long, global = true, value_name = "DIR")]
    commitlog: Option<PathBuf>,
    /// The store's folder (storePathRootDir); for import also a broker's host:port.
    store: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Files and sizes, positions, times and counts; whether the store was closed.
    #[command(after_help = "Example: mq-store-inspect /data/store summary")]
    Summary,
    /// Topics with their queues, messages, bytes and last store time.
    #[command(after_help = "Example: mq-store-inspect /data/store topics")]
    Topics,
    /// Queues with their first and next offset.
    #[command(after_help = "Example: mq-store-inspect /data/store queues --topic Orders")]
    Queues(Queues),
    /// Messages in the order of the log, or of a queue if --topic and --queue are given.
    #[command(
        after_help = "Examples:\n  mq-store-inspect /data/store messages --topic Orders --queue 0 \
                      --offset 100..120 --body\n  mq-store-inspect /data/store messages --since \
                      \"10m ago\" --tag created --property region=eu\n  mq-store-inspect --json \
                      /data/store messages --reverse --limit 5\n  mq-store-inspect /data/store \
                      messages --topic Orders --follow"
    )]
    Messages(Messages),
    /// One message in full, by its position in the log, its offset id or its unique key.
    #[command(after_help = "Examples:\n  mq-store-inspect /data/store message \
                            C000020273274E0E2F2A75DCD2C90502\n  mq-store-inspect /data/store \
                            message 3095349 --form hex")]
    Message(Message),
    /// Messages by key.
    #[command(after_help = "Example: mq-store-inspect /data/store query --topic Orders --key k17")]
    Query(Query),
    /// Consumer groups with their committed offsets and how far they are behind.
    #[command(after_help = "Example: mq-store-inspect /data/store offsets --group G_orders")]
    Offsets(Offsets),
    /// Checks every record, queue unit, index item and committed offset against each other.
    #[command(after_help = "Example: mq-store-inspect /data/store verify && echo sound")]
    Verify(Verify),
    /// Makes a damaged store one that brokers open, Java's too; keeps every byte that it changes.
    ///
    /// Damaged records of the log become fillers that no consumer sees, so that what stands behind
    /// them is served again; what stands behind the last intact record is cut. ConsumeQueues are
    /// completed and index files made anew from the log, and config files that cannot be read give
    /// way to their .bak. What was there before is kept in STORE/attic. Then everything is verified.
    #[command(after_help = "Examples:\n  mq-store-inspect /data/store repair --dry-run\n  \
                      mq-store-inspect /data/store repair")]
    Repair(Repair),
    /// Writes messages as JSON lines with their bodies, in the order of the log.
    #[command(
        after_help = "Examples:\n  mq-store-inspect /data/store export --output all.jsonl.zst\n  \
                      mq-store-inspect /data/store export --topic Orders --since \"1d ago\" | jq .keys"
    )]
    Export(Export),
    /// Appends messages from the JSON lines of export to a store, or sends them to a broker.
    ///
    /// They get new places and store times; topic, queue, flags, keys, tags, properties, body,
    /// time and place of birth are kept (a broker notes us as their place of birth). Topics that
    /// are not there are made.
    #[command(
        after_help = "Examples:\n  mq-store-inspect /data/new-store import all.jsonl.zst\n  \
                      mq-store-inspect 127.0.0.1:10911 import orders.jsonl\n  mq-store-inspect \
                      broker:10911 import orders.jsonl --tls --access-key admin\n  mq-store-inspect a \
                      export | mq-store-inspect b import -"
    )]
    Import(Import),
    /// A full-screen browser: topics, queues, messages, one message.
    #[command(after_help = "Example: mq-store-inspect /data/store browse\n\nKeys: ? shows them.")]
    Browse,
}

#[derive(Args)]
struct Verify {
    /// Also say how fast it was, beside a CRC alone over the same bytes.
    #[arg(long)]
    speed: bool,
}

#[derive(Args)]
struct Repair {
    /// Only say what would be done; 1 if there is something to do.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
struct Export {
    #[command(flatten)]
    filter: Filter,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    limit: u64,
    /// Write to this new file, compressed if its name ends in .zst.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Compress with zstd.
    #[arg(long)]
    zstd: bool,
    /// Write damaged messages too, marked as such.
    #[arg(long)]
    damaged: bool,
}

#[derive(Args)]
struct Import {
    /// The lines, plain or zstd; - for standard input.
    #[arg(value_name = "FILE")]
    input: PathBuf,
    /// Also what brokers keep for themselves: delayed messages, halves, traces, inner batches.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    security: SecurityArgs,
}

#[derive(Args)]
struct Queues {
    /// Only this topic's.
    #[arg(long)]
    topic: Option<String>,
    /// The queues' units instead: queue offset, position and size of the record, tags code.
    #[arg(long)]
    units: bool,
}

#[derive(Args)]
struct Offsets {
    /// Only this group's.
    #[arg(long)]
    group: Option<String>,
    /// Only this topic's.
    #[arg(long)]
    topic: Option<String>,
}

/// Which messages.
#[derive(Args, Default)]
struct Filter {
    /// Of this topic.
    #[arg(long)]
    topic: Option<String>,
    /// Of the queue with this id.
    #[arg(long, value_name = "ID")]
    queue: Option<i32>,
    /// With this tag.
    #[arg(long)]
    tag: Option<String>,
    /// With this key (a word of KEYS, or the unique key).
    #[arg(long)]
    key: Option<String>,
    /// With this property; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    property: Vec<(String, String)>,
    #[command(flatten)]
    time: TimeRange,
    /// At these queue offsets: 5, 5..10 (10 is not one of them), 5.. or ..10.
    #[arg(long, value_name = "RANGE", value_parser = range)]
    offset: Option<(u64, u64)>,
    /// At these positions in the log.
    #[arg(long, value_name = "RANGE", value_parser = range)]
    position: Option<(u64, u64)>,
    /// With this text in the body, uncompressed.
    #[arg(long)]
    text: Option<String>,
}

#[derive(Args, Default)]
struct TimeRange {
    /// Stored at this time or later.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<i64>,
    /// Stored at this time or earlier.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    until: Option<i64>,
}

impl TimeRange {
    fn bounds(&self) -> (i64, i64) {
        (self.since.unwrap_or(i64::MIN), self.until.unwrap_or(i64::MAX))
    }
}

#[derive(Args)]
struct Messages {
    #[command(flatten)]
    filter: Filter,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    limit: usize,
    /// Newest first.
    #[arg(long)]
    reverse: bool,
    /// The bodies too (in JSON: base64 of the bytes as stored).
    #[arg(long)]
    body: bool,
    /// Also what a message means: delays, transactions, POP, retries, batches, traces, timers.
    #[arg(long)]
    decode: bool,
    /// Go on with what a broker writes from now on; what is there already comes first only if
    /// --since, --offset or --position say from where.
    #[arg(long, conflicts_with = "reverse")]
    follow: bool,
}

#[derive(Args)]
struct Message {
    /// Position in the log, offset message id, or unique key.
    id: String,
    /// How to show the body.
    #[arg(long, value_enum, default_value_t = Form::Auto)]
    form: Form,
    /// Look through the log, not the index.
    #[arg(long)]
    scan: bool,
}

#[derive(Args)]
struct Query {
    #[arg(long)]
    topic: String,
    /// A word of KEYS, or the unique key.
    #[arg(long)]
    key: String,
    #[command(flatten)]
    time: TimeRange,
    /// At most so many, the newest.
    #[arg(long, value_name = "N", default_value_t = 64)]
    limit: usize,
    /// Look through the log, not the index.
    #[arg(long)]
    scan: bool,
    /// The bodies too.
    #[arg(long)]
    body: bool,
    /// Also what a message means.
    #[arg(long)]
    decode: bool,
}

fn pair(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("want NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn range(text: &str) -> Result<(u64, u64), &'static str> {
    let number = |t: &str, default| match t {
        "" => Ok(default),
        t => t.parse().map_err(|_| "want a number, or two with .. between them"),
    };
    match text.split_once("..") {
        Some((from, to)) => Ok((number(from, 0)?, number(to, u64::MAX)?)),
        None => number(text, 0).map(|n| (n, n.saturating_add(1))),
    }
}

/// Why a command gave up.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] mq_store::Error),
    #[error("cannot read or write: {0}")]
    Output(#[from] io::Error),
    #[error("cannot read {path}: {source}")]
    Input { path: PathBuf, source: io::Error },
    #[error("broker {0}: {1}")]
    Broker(String, String),
    #[error("{0}")]
    Security(String),
    /// Only this line is of no use.
    #[error("{0}")]
    Line(String),
    #[error("browse wants a terminal for input and output")]
    NoTerminal,
}

/// Whether a command found what it was asked for (for verify: that all is well).
type Answer = Result<bool, Failure>;

/// Runs the tool with the arguments of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        // Whoever read the output has seen enough.
        Err(Failure::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("mq-store-inspect: {failure}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Answer {
    let log_dir = cli.commitlog.clone().unwrap_or_else(|| cli.store.join("commitlog"));
    let mut out = Output::new(cli.json);
    match &cli.command {
        Command::Import(args) => {
            let answer = import::import(&cli.store, cli.commitlog.as_deref(), args, &mut out)?;
            out.finish()?;
            return Ok(answer);
        }
        Command::Repair(args) => {
            let answer = repair::repair(&cli.store, &log_dir, args, &mut out)?;
            out.finish()?;
            return Ok(answer);
        }
        _ => {}
    }
    let view = StoreView::open_with_log(&cli.store, &log_dir)?;
    let answer = match &cli.command {
        Command::Summary => summary::summary(&view, &mut out),
        Command::Topics => summary::topics(&view, &mut out),
        Command::Queues(args) => summary::queues(&view, args, &mut out),
        Command::Messages(args) => message::messages(&view, args, &mut out),
        Command::Message(args) => message::message(&view, args, &mut out),
        Command::Query(args) => message::query(&view, args, &mut out),
        Command::Offsets(args) => summary::offsets(&view, args, &mut out),
        Command::Verify(args) => verify::verify(&view, args, &mut out),
        Command::Export(args) => export::export(&view, args, &mut out),
        Command::Browse => browse::run(view),
        Command::Import(_) | Command::Repair(_) => unreachable!("done above"),
    }?;
    out.finish()?;
    Ok(answer)
}
