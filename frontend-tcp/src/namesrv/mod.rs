//! The name server: who is there, and which queues of which topic are where.
//!
//! Brokers register with every name server again and again; nothing but key-value configuration
//! is kept on disk, and name servers do not know each other.

pub mod handle;
pub mod kv;
pub mod register;
pub mod table;

pub use handle::NameServer;
