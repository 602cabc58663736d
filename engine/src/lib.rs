//! A message store, byte-compatible with Apache RocketMQ's.

pub mod codec;
mod error;
pub mod os;

pub use error::{Error, Limit, Result};
