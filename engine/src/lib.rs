//! A message store, byte-compatible with Apache RocketMQ's.

pub mod broker;
pub mod codec;
pub mod config;
pub mod dispatch;
mod error;
pub mod index;
pub mod log;
pub mod os;
pub mod queue;
pub mod recover;
mod rest;
pub mod retain;
pub mod segment;
pub mod store;
pub mod summary;
pub mod view;

pub use error::{Error, Limit, Result};
