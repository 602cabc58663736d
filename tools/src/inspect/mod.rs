//! `mq-store-inspect`: what is typed, and which command answers it.

mod body;
mod message;
mod output;
mod summary;
mod time;
mod verify;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use mq_store::view::StoreView;

use body::Form;
use output::Output;

const EXIT_CODES: &str = "\
Exit codes: 0 done (verify: the store is sound); 1 verify found damage, message or query \
found nothing; 2 could not look.

Nothing in the store's folder is changed, so it may be in use by a broker. Times are local: \
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
    /// The store's folder (storePathRootDir).
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
                      /data/store messages --reverse --limit 5"
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
    Verify,
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
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
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
    let view = StoreView::open_with_log(&cli.store, &log_dir)?;
    let mut out = Output::new(cli.json);
    let answer = match &cli.command {
        Command::Summary => summary::summary(&view, &mut out),
        Command::Topics => summary::topics(&view, &mut out),
        Command::Queues(args) => summary::queues(&view, args, &mut out),
        Command::Messages(args) => message::messages(&view, args, &mut out),
        Command::Message(args) => message::message(&view, args, &mut out),
        Command::Query(args) => message::query(&view, args, &mut out),
        Command::Offsets(args) => summary::offsets(&view, args, &mut out),
        Command::Verify => verify::verify(&view, &mut out),
    }?;
    out.finish()?;
    Ok(answer)
}
