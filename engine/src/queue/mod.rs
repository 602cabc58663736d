//! ConsumeQueues: per topic and queue id the places of its records in the log.

pub mod consume_queue;
pub mod table;
