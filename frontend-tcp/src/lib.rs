//! Name server and broker for unmodified RocketMQ clients.

pub mod conn;
pub mod server;
pub mod wire;
