//! The tools: `mq-store-inspect` looks into a store's files, `mqadmin` asks a running cluster.

pub mod admin;
pub mod caller;
pub mod inspect;
pub mod security;
