//! The examples assert what they print; here they run.

#[path = "../examples/event_log.rs"]
mod event_log;
#[path = "../examples/fan_out.rs"]
mod fan_out;
#[path = "../examples/job_queue.rs"]
mod job_queue;
#[path = "../examples/ordered_pipeline.rs"]
mod ordered_pipeline;
#[path = "../examples/outbox.rs"]
mod outbox;

#[test]
fn examples_run() {
    event_log::main().unwrap();
    fan_out::main().unwrap();
    job_queue::main().unwrap();
    ordered_pipeline::main().unwrap();
    outbox::main().unwrap();
}
