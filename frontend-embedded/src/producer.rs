//! Sending.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use mq_store::broker::names::DEFAULT_TOPIC;
use mq_store::broker::send::Sending;
use mq_store::codec::ids::offset_msg_id;
use mq_store::codec::properties::{self, name};
use mq_store::log::commit_log::Appended;
use mq_store::log::flush::FlushPolicy;

use crate::error::{Error, Result};
use crate::message::{Message, Target};
use crate::mq::{Inner, lock};

/// Sends messages. Any thread may use it, and clones are cheap.
#[derive(Clone)]
pub struct Producer {
    pub(crate) mq: Arc<Inner>,
}

/// Where a message went.
#[derive(Clone)]
pub struct Sent {
    mq: Arc<Inner>,
    appended: Appended,
    queue_id: i32,
}

impl Sent {
    /// The queue.
    pub fn queue_id(&self) -> i32 {
        self.queue_id
    }

    /// Its number in the queue, from 0. For a delayed message, its number in the queue in which
    /// it waits.
    pub fn queue_offset(&self) -> u64 {
        self.appended.queue_offset
    }

    /// Its position in the log.
    pub fn position(&self) -> u64 {
        self.appended.physical_offset
    }

    /// When it was stored, ms since 1970.
    pub fn store_time(&self) -> i64 {
        self.appended.store_timestamp
    }

    /// The id by which it is found, made of its position.
    pub fn id(&self) -> String {
        offset_msg_id(self.mq.broker.store().log().store_host(), self.position())
    }

    /// A handle to wait with until the message is on the disk, whatever the flush policy.
    pub fn durable(&self) -> Durable {
        Durable { mq: self.mq.clone(), appended: self.appended }
    }
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sent")
            .field("queue_id", &self.queue_id)
            .field("queue_offset", &self.queue_offset())
            .field("position", &self.position())
            .finish()
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Producer({:?})", self.mq.broker)
    }
}

impl Producer {
    /// Sends a message. Under [`Flush::Sync`](crate::Flush::Sync) it is on the disk when this
    /// returns. Its topic is made if it is not there and may be.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a message that breaks a rule, [`Error::NoTopic`],
    /// [`Error::Store`] if the disk is full (it passes) or failed (it does not),
    /// [`Error::Closed`].
    pub fn send(&self, message: &Message<'_>) -> Result<Sent> {
        self.wait_as_policy(self.append(message)?)
    }

    /// [`Producer::send`] that never waits for the disk: many messages may share one wait, with
    /// [`Sent::durable`] of the last. Under [`Flush::Sync`](crate::Flush::Sync) consumers see the
    /// message when it is there.
    ///
    /// # Errors
    /// As of [`Producer::send`].
    pub fn append(&self, message: &Message<'_>) -> Result<Sent> {
        self.append_with(message, message.properties(), 0)
    }

    pub(crate) fn wait_as_policy(&self, sent: Sent) -> Result<Sent> {
        if self.mq.broker.store().config().flush == FlushPolicy::Sync {
            sent.durable().wait()?;
        }
        Ok(sent)
    }

    pub(crate) fn append_with(
        &self,
        message: &Message<'_>,
        properties: Result<&str>,
        sys_flag: i32,
    ) -> Result<Sent> {
        let sending = self.sending(message, properties?, sys_flag)?;
        let sent = self.mq.broker.send(&sending)?;
        Ok(Sent { mq: self.mq.clone(), appended: sent.appended, queue_id: sent.queue_id })
    }

    fn sending<'m>(
        &self,
        message: &Message<'m>,
        properties: &'m str,
        sys_flag: i32,
    ) -> Result<Sending<'m>> {
        self.mq.check_open()?;
        let broker = &self.mq.broker;
        let mut sending = Sending {
            topic: message.topic,
            queue_id: match message.target {
                Target::Queue(id) if id < 0 => {
                    return Err(Error::Invalid(format!("queue {id}: queues are counted from 0")));
                }
                Target::Queue(id) => id,
                Target::Any | Target::Hash(_) => -1,
            },
            default_topic: DEFAULT_TOPIC,
            default_queues: self.mq.new_topic_queues,
            unit_mode: false,
            sys_flag,
            flag: message.flag,
            born_timestamp: 0,
            born_host: broker.store().log().store_host(),
            reconsume_times: 0,
            max_reconsume_times: None,
            properties,
            stamped: false,
            body: message.body,
        };
        if let Target::Hash(hash) = message.target {
            let queues = broker.topic_to_send(&sending)?.write_queue_nums.max(1);
            // As Java's SelectMessageQueueByHash.
            sending.queue_id = (hash % queues).abs();
        }
        Ok(sending)
    }

    /// Sends messages of one topic to one queue, next to each other: all, or none. What the
    /// first says of queue or order key counts. None may be delayed. Under
    /// [`Flush::Sync`](crate::Flush::Sync) they are on the disk when this returns.
    ///
    /// # Errors
    /// As [`Producer::send`]; [`Error::Invalid`] if the messages are none, of several topics, or
    /// together larger than a body may be.
    pub fn send_batch(&self, messages: &[Message<'_>]) -> Result<Vec<Sent>> {
        let Some(first) = messages.first() else {
            return Err(Error::Invalid("a batch of no messages".into()));
        };
        let mut body = Vec::new();
        for message in messages {
            let text = message.properties()?;
            if message.topic != first.topic {
                let text = format!(
                    "a batch for {} and {}: send one for each topic",
                    first.topic, message.topic
                );
                return Err(Error::Invalid(text));
            }
            if properties::get(text.as_bytes(), name::DELAY).is_some() {
                return Err(Error::Invalid("a delayed message in a batch: send it alone".into()));
            }
            put_into_batch(&mut body, message, text)?;
        }
        let batch = Message::new(first.topic, &body);
        let batch = Message { target: first.target, ..batch };
        let sending = self.sending(&batch, "", 0)?;
        let sent = self.mq.broker.send_batch(&sending)?;
        let places = sent.physical_offsets().zip(sent.appended.queue_offset..);
        let all: Vec<Sent> = places
            .map(|(at, queue_offset)| {
                let appended = Appended { physical_offset: at, queue_offset, ..sent.appended };
                Sent { mq: self.mq.clone(), appended, queue_id: sent.queue_id }
            })
            .collect();
        if let Some(last) = all.last() {
            self.wait_as_policy(last.clone())?;
        }
        Ok(all)
    }
}

/// A message in the form of [`mq_store::broker::Broker::send_batch`].
fn put_into_batch(body: &mut Vec<u8>, message: &Message<'_>, properties: &str) -> Result<()> {
    let too_large = |_| Error::Invalid("a batch larger than a body may be".into());
    let size = i32::try_from(22 + message.body.len() + properties.len()).map_err(too_large)?;
    let body_len = i32::try_from(message.body.len()).map_err(too_large)?;
    let properties_len = i16::try_from(properties.len()).map_err(|_| {
        Error::Invalid(format!("properties of {} bytes, where 32767 are allowed", properties.len()))
    })?;
    for number in [size, 0, 0, message.flag, body_len] {
        body.extend_from_slice(&number.to_be_bytes());
    }
    body.extend_from_slice(message.body);
    body.extend_from_slice(&properties_len.to_be_bytes());
    body.extend_from_slice(properties.as_bytes());
    Ok(())
}

/// Waits until a message is on the disk: block with [`Durable::wait`], or `.await` it under any
/// runtime. All who wait at the same time share one sync: those that came while one was running
/// share the next.
///
/// ```
/// # use mq_embedded::{Message, Mq};
/// # let dir = tempfile::tempdir()?;
/// # let mq = Mq::open(dir.path())?;
/// let sent = mq.producer().send(&Message::new("Ledger", "credit"))?;
/// sent.durable().wait()?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "it does nothing unless waited for"]
pub struct Durable {
    mq: Arc<Inner>,
    appended: Appended,
}

impl Durable {
    /// Blocks until the message is on the disk. However long that takes, this waits; only the
    /// future ends after 5 s, with [`FlushTimeout`](mq_store::Error::FlushTimeout).
    ///
    /// # Errors
    /// [`Error::Store`], with why it never will be there.
    pub fn wait(&self) -> Result<()> {
        Ok(self.mq.broker.store().flush_to(&self.appended)?)
    }
}

impl std::fmt::Debug for Durable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Durable(up to {})", self.appended.end)
    }
}

impl IntoFuture for Durable {
    type Output = Result<()>;
    type IntoFuture = DurableFuture;

    fn into_future(self) -> DurableFuture {
        DurableFuture { durable: Some(self), state: Arc::default() }
    }
}

#[derive(Default)]
struct Flushing {
    outcome: Option<mq_store::Result<()>>,
    waker: Option<Waker>,
}

/// The future of [`Durable`].
#[must_use = "futures do nothing unless awaited"]
pub struct DurableFuture {
    /// Until it is first polled.
    durable: Option<Durable>,
    state: Arc<Mutex<Flushing>>,
}

impl Future for DurableFuture {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if let Some(durable) = self.durable.take() {
            let state = self.state.clone();
            let then = Box::new(move |outcome| {
                let mut state = lock(&state);
                state.outcome = Some(outcome);
                if let Some(waker) = state.waker.take() {
                    drop(state);
                    waker.wake();
                }
            });
            durable.mq.broker.store().when_flushed(&durable.appended, then);
        }
        let mut state = lock(&self.state);
        match state.outcome.take() {
            Some(outcome) => Poll::Ready(outcome.map_err(Error::from)),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
