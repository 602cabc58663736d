//! Asks and changes a running cluster, as RocketMQ's mqadmin does.

use std::process::ExitCode;

fn main() -> ExitCode {
    mq_tools::admin::main()
}
