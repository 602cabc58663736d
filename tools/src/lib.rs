//! The tools: `mq-store-inspect` looks into a store's files.

pub mod inspect;
