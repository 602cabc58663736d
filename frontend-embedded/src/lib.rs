//! RocketMQ's engine inside a program, as SQLite is for SQL.

mod admin;
mod builder;
mod consumer;
mod error;
mod group;
mod message;
mod mq;
mod producer;
mod reader;
#[cfg(feature = "stream")]
mod stream;
#[cfg(feature = "tcp")]
mod tcp;
mod transaction;
mod wait;

pub use admin::{Lag, QueueStats, Statistics, Topic, Verification};
pub use builder::{Builder, Flush};
pub use consumer::{Consumer, ConsumerBuilder, Deliveries, Delivery};
pub use error::{Error, Result};
pub use message::{Message, MessageView};
pub use mq::{Mq, Seek};
pub use mq_store::broker::Refusal;
pub use mq_store::config::Retention;
pub use mq_store::os::clock::{Clock, ManualClock, SystemClock};
pub use producer::{Durable, DurableFuture, Producer, Sent};
pub use reader::Reader;
#[cfg(feature = "stream")]
pub use stream::DeliveryStream;
#[cfg(feature = "tcp")]
pub use tcp::{Server, TestBroker};
pub use transaction::{Outcome, Transaction, TransactionalProducer};
