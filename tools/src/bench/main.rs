//! `mq-bench`: loads a RocketMQ-compatible broker and says what it saw.

mod admin;
mod cli;
mod consume;
mod disk;
mod e2e;
mod error;
mod floor;
mod idle;
mod meter;
mod net;
mod pull;
mod request;
mod send;
mod verify;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let done = match &cli.verb {
        cli::Verb::Send(args) => send::run(args),
        cli::Verb::Consume(args) => consume::run(args),
        cli::Verb::E2e(args) => e2e::run(args),
        cli::Verb::Verify(args) => verify::run(args),
        cli::Verb::Idle(args) => idle::run(args),
        cli::Verb::Floor(args) => floor::run(args),
        cli::Verb::Disk(args) => disk::run(args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(e) => {
            eprintln!("mq-bench: {e}");
            ExitCode::from(2)
        }
    }
}
