//! The command line.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use mq_broker::acl::Credentials;
use mq_broker::wire::client::Security;
use mq_broker::wire::frame::Encoding;
use mq_tools::security::SecurityArgs;

use super::error::{Error, Result};

const HELP: &str = "\
Examples:
  mq-bench send --duration 10s --size 1024
      8 connections, 32 sends under way on each, through the name server at 127.0.0.1:9876
  mq-bench send --broker 127.0.0.1:10911 --batch 32 --count 1000000 --pid $(pgrep mqbroker)
      batches of 32, and what they cost the broker in CPU time and memory
  mq-bench consume --from start --repeat --duration 10s
      reads the topic from its start, over and over
  mq-bench e2e --rate 5000 --size 1024 --duration 30s --json
      time from when a message was due to be sent until a consumer has it
  mq-bench delay --rate 10000 --duration 30s
      delayed messages: time from when one was due to be delivered until a consumer has it
  mq-bench verify --count 100000
      loss, duplicates, disorder, damage
  mq-bench floor --listen 127.0.0.1:10911
      a server for the modes above that keeps nothing: what the sockets alone cost

Exit codes:
  0  done, every answer was a success
  1  done, but some answers were errors, or messages did not arrive as they should
  2  could not run: wrong usage, no broker, a connection lost, no answer";

/// Loads a RocketMQ-compatible broker; prints rates and latencies.
#[derive(Debug, Parser)]
#[command(name = "mq-bench", version, after_help = HELP)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Sends as fast as the broker takes it
    #[command(after_help = HELP)]
    Send(SendArgs),
    /// Pulls as fast as the broker gives it
    #[command(after_help = HELP)]
    Consume(ConsumeArgs),
    /// Sends at a fixed rate and consumes; latency counts from the intended time of sending
    #[command(after_help = HELP)]
    E2e(E2eArgs),
    /// Like e2e with delayed messages; latency counts from when each is due
    #[command(after_help = HELP)]
    Delay(DelayArgs),
    /// Sends numbered messages, consumes them, and checks that all is as it was sent
    #[command(after_help = HELP)]
    Verify(VerifyArgs),
    /// Opens connections that then say nothing, and tells what they cost the broker
    #[command(after_help = HELP)]
    Idle(IdleArgs),
    /// Answers `send`, `consume` and `e2e` as a broker does, and keeps nothing; ends by a signal
    ///
    /// Reads, answers and wakes consumers on one thread. Measured like a broker, it shows what
    /// the same traffic costs at least.
    #[command(after_help = HELP)]
    Floor(FloorArgs),
    /// Writes and syncs as fast as the disk does it: what a sync flush can reach at most
    #[command(after_help = HELP)]
    Disk(DiskArgs),
}

/// Whom to load, and how to tell about it.
#[derive(Debug, Args)]
pub struct Common {
    /// Name server that knows the topic's broker
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9876")]
    pub namesrv: String,
    /// Broker to load, without asking a name server
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "namesrv")]
    pub broker: Option<String>,
    #[arg(long, default_value = "mq-bench")]
    pub topic: String,
    /// Producer and consumer group
    #[arg(long, default_value = "mq-bench")]
    pub group: String,
    /// Queues of the topic, if it has to be created
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = value_parser!(u32).range(1..=1024))]
    pub queues: u32,
    /// Connections that send, and as many that pull
    #[arg(long, value_name = "C", default_value_t = 8, value_parser = value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// Most messages a pull asks for (maxMsgNums)
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub pull_batch: u32,
    /// The messages' WAIT property: whether a sync flush is waited for
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub wait_flush: bool,
    /// Write headers in RocketMQ's binary form instead of JSON
    #[arg(long)]
    pub binary: bool,
    /// Try for so long to reach the broker
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub wait: Duration,
    /// Give up when no answer comes for so long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub timeout: Duration,
    /// Broker's process: shows its CPU time and memory
    #[arg(long)]
    pub pid: Option<u32>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    pub json: bool,
    /// Show a line each second though stderr is no terminal
    #[arg(long)]
    pub progress: bool,
    #[command(flatten)]
    pub security: SecurityArgs,
}

impl Common {
    pub fn security(&self) -> Result<Security> {
        self.security.security().map_err(Error::Unusable)
    }

    /// Who signs requests. What is wrong with that is said when the first connection is made.
    pub fn credentials(&self) -> Option<Credentials> {
        self.security.credentials().ok().flatten()
    }

    pub fn encoding(&self) -> Encoding {
        if self.binary { Encoding::Binary } else { Encoding::Json }
    }
}

#[derive(Debug, Args)]
pub struct SendArgs {
    #[command(flatten)]
    pub common: Common,
    /// Measure for so long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// Load for so long before measuring
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub warmup: Duration,
    /// Stop after so many messages; the time is then no limit
    #[arg(long, value_name = "N", conflicts_with_all = ["duration", "warmup"])]
    pub count: Option<u64>,
    /// Requests under way on each connection
    #[arg(long, value_name = "F", default_value_t = 32, value_parser = value_parser!(u32).range(1..=65536))]
    pub in_flight: u32,
    /// Body of each message
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = value_parser!(u32).range(1..=4 << 20))]
    pub size: u32,
    /// Messages in a request
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=4096))]
    pub batch: u32,
    /// Tag of every message
    #[arg(long)]
    pub tag: Option<String>,
    /// Ask for no answers; what the broker took is read from its queues
    #[arg(long)]
    pub one_way: bool,
    /// Messages a second at most
    #[arg(long, value_name = "R", value_parser = value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,
    /// Spread the messages over the topic and others: NAME, NAME-1, NAME-2 …
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "one_way",
          value_parser = value_parser!(u32).range(1..=100_000))]
    pub topics: u32,
    /// Deliver later: the level of every message (DELAY)
    #[arg(long, value_name = "L", default_value_t = 0, value_parser = value_parser!(u32).range(0..=18))]
    pub delay_level: u32,
    /// Send halves, and commit each when it is answered
    #[arg(long, conflicts_with_all = ["one_way", "delay_level", "batch"])]
    pub transaction: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Place {
    /// From the first message to the one that is last now
    Start,
    /// Only what comes from now on
    Tail,
}

#[derive(Debug, Args)]
pub struct ConsumeArgs {
    #[command(flatten)]
    pub common: Common,
    /// Measure for so long, if there is so much to read
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// Load for so long before measuring
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub warmup: Duration,
    /// Stop after about so many messages
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Where to begin
    #[arg(long, value_enum, default_value_t = Place::Start)]
    pub from: Place,
    /// At the end of a queue go back to its start
    #[arg(long)]
    pub repeat: bool,
}

#[derive(Debug, Args)]
pub struct E2eArgs {
    #[command(flatten)]
    pub common: Common,
    /// Measure for so long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// Load for so long before measuring
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub warmup: Duration,
    /// Messages a second
    #[arg(long, value_name = "R", default_value_t = 1000, value_parser = value_parser!(u32).range(1..=10_000_000))]
    pub rate: u32,
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = value_parser!(u32).range(16..=4 << 20))]
    pub size: u32,
}

#[derive(Debug, Args)]
pub struct DelayArgs {
    #[command(flatten)]
    pub e2e: E2eArgs,
    /// Level of delay of every message
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..))]
    pub level: u32,
    /// What the broker has for that level (messageDelayLevel)
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub delay: Duration,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub common: Common,
    /// Messages in all
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub count: u64,
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = value_parser!(u32).range(32..=4 << 20))]
    pub size: u32,
}

#[derive(Debug, Args)]
pub struct IdleArgs {
    #[command(flatten)]
    pub common: Common,
    /// Say nothing for so long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub duration: Duration,
}

#[derive(Debug, Args)]
pub struct FloorArgs {
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:10911")]
    pub listen: String,
    /// Body of each message that a pull brings
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = value_parser!(u32).range(1..=4 << 20))]
    pub size: u32,
    /// Messages that a pull brings
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = value_parser!(u32).range(1..=1024))]
    pub pull_batch: u32,
}

#[derive(Debug, Args)]
pub struct DiskArgs {
    /// Folder on the disk to measure
    #[arg(long, default_value = ".")]
    pub dir: std::path::PathBuf,
    /// Bytes written before each sync
    #[arg(long, value_name = "BYTES", default_value_t = 32 * 1024, value_parser = value_parser!(u32).range(1..=64 << 20))]
    pub size: u32,
    /// Measure each way for so long
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub duration: Duration,
    /// Print one JSON object instead of the table
    #[arg(long)]
    pub json: bool,
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let unit = match &text[at..] {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a time is a number with ms, s, m or h".into()),
    };
    let number: f64 = text[..at].parse().map_err(|_| "a time begins with a number")?;
    Duration::try_from_secs_f64(number * unit).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        for bad in ["", "s", "-1s", "5 parsecs", "1e999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
