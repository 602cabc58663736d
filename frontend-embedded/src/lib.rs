//! RocketMQ's engine inside a program, as SQLite is for SQL: topics, producers and consumer
//! groups in a folder. No server, no network, no runtime; the same files as the broker's.
//!
//! ```
//! use std::time::Duration;
//! use mq_embedded::{Message, Mq};
//!
//! # let dir = tempfile::tempdir()?;
//! # let folder = dir.path();
//! let mq = Mq::open(folder)?;
//! mq.producer().send(&Message::new("Jobs", "resize a.png").tag("resize"))?;
//!
//! let worker = mq.consumer("resizers").subscribe("Jobs", "resize").start()?;
//! for job in worker.poll(16, Duration::from_secs(1))? {
//!     assert_eq!(job.body(), b"resize a.png");
//!     job.ack();
//! }
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Mq`] is the open store. [`Mq::producer`] sends, [`Mq::consumer`] joins a group,
//! [`Mq::reader`] reads without one, [`Mq::transactions`] sends what may be taken back. The
//! folder `examples` has a program for each use.
//!
//! Features: `stream` for `DeliveryStream`, `tcp` to serve the open store to RocketMQ clients
//! with `Mq::serve`, and `TestBroker`.

#![warn(missing_docs)]

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
pub use error::{Error, ErrorKind, Result};
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
