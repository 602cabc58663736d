//! A message store, byte-compatible with Apache RocketMQ's.

pub mod codec;
