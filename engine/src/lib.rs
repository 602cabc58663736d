//! A message store, byte-compatible with Apache RocketMQ's.

pub mod codec;
mod error;
pub mod index;
pub mod log;
pub mod os;
pub mod queue;
pub mod segment;

pub use error::{Error, Limit, Result};
