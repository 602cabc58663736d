//! Looks into the files of a RocketMQ store, without changing them.

use std::process::ExitCode;

fn main() -> ExitCode {
    mq_tools::inspect::main()
}
