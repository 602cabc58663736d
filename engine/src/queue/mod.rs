//! ConsumeQueues: per topic and queue id the places of its records in the log.

pub mod batch_queue;
pub mod consume_queue;
pub mod table;
