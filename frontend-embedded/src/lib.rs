//! RocketMQ's engine inside a program, as SQLite is for SQL.

mod builder;
mod consumer;
mod error;
mod group;
mod message;
mod mq;
mod producer;
mod wait;

pub use builder::{Builder, Flush};
pub use consumer::{Consumer, ConsumerBuilder, Deliveries, Delivery};
pub use error::{Error, Result};
pub use message::{Message, MessageView};
pub use mq::{Mq, Seek};
pub use mq_store::broker::Refusal;
pub use mq_store::config::Retention;
pub use mq_store::os::clock::{Clock, ManualClock, SystemClock};
pub use producer::{Durable, Producer, Sent};
