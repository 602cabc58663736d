//! The commit log: one append-only sequence of records, of all topics.

pub mod commit_log;
pub mod flush;
pub mod scan;
