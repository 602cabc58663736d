//! The name server: who is there, and which queues of which topic are where.
//!
//! Brokers register with every name server again and again; nothing but key-value configuration
//! and changed settings is kept on disk, and name servers do not know each other.

pub mod address_server;
pub mod handle;
pub mod kv;
pub mod register;
pub mod settings;
pub mod table;

pub use handle::NameServer;
