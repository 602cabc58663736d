//! Name server and broker for unmodified RocketMQ clients.

pub mod acl;
pub mod config;
pub mod conn;
pub mod handle;
pub mod hold;
pub mod metrics;
pub mod namesrv;
pub mod run;
pub mod server;
pub mod sessions;
pub mod tls;
pub mod watch;
pub mod wire;
