//! Reading without a group: from anywhere, as often as wanted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mq_store::codec::ids::{offset_msg_id, parse_offset_msg_id};
use mq_store::store::{ReadLimits, ReadStatus, as_record};

use crate::error::{Error, Result};
use crate::group::offset_of;
use crate::message::MessageView;
use crate::mq::{Inner, Mq, Seek};
use crate::wait::{Interest, park_until, this_thread};

/// Messages of a queue that are read at once.
const AT_ONCE: usize = 64;

impl Mq {
    /// Reads all queues of a topic, in the order in which the messages were stored.
    /// [`Seek::Offset`] counts in each queue.
    ///
    /// # Errors
    /// [`Error::NoTopic`].
    ///
    /// ```
    /// # use mq_embedded::{Message, Mq, Seek};
    /// # let dir = tempfile::tempdir()?;
    /// # let mq = Mq::open(dir.path())?;
    /// mq.producer().send(&Message::new("Log", "started"))?;
    /// let lines: Vec<_> = mq.reader("Log", Seek::Begin)?.map(|m| m.body().to_vec()).collect();
    /// assert_eq!(lines, [b"started"]);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn reader(&self, topic: &str, from: Seek) -> Result<Reader> {
        Reader::open(self.0.clone(), topic, None, from)
    }

    /// Reads one queue of a topic.
    ///
    /// # Errors
    /// [`Error::NoTopic`]; [`Error::Invalid`] if the topic has no such queue.
    pub fn queue_reader(&self, topic: &str, queue_id: i32, from: Seek) -> Result<Reader> {
        Reader::open(self.0.clone(), topic, Some(queue_id), from)
    }

    /// Messages of a topic with a key, oldest first; of many the newest `max`. Unique keys of
    /// other clients are keys too. A message is found within some 100 ms, when the background
    /// has indexed it.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn by_key(&self, topic: &str, key: &str, max: usize) -> Result<Vec<MessageView>> {
        self.0.check_open()?;
        let found = self.0.broker.store().query(topic, key, max, 0, i64::MAX);
        Ok(found.records.into_iter().filter_map(MessageView::of).collect())
    }

    /// The message with an id: what [`MessageView::id`] or [`Sent::id`](crate::Sent::id) gave, or
    /// a client, which calls it message id or offset message id. `None` if it is not there, or not
    /// any more.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn message(&self, topic: &str, id: &str) -> Result<Option<MessageView>> {
        self.0.check_open()?;
        let store = self.0.broker.store();
        if let Some((host, position)) = parse_offset_msg_id(id)
            && let Some(slice) = store.record_at(position)
            && as_record(&slice).is_some_and(|r| {
                r.topic() == topic && r.store_host() == host && offset_msg_id(host, position) == id
            })
        {
            return Ok(MessageView::of(slice));
        }
        Ok(self.by_key(topic, id, 1)?.pop())
    }
}

#[derive(Debug)]
struct Queue {
    id: i32,
    next: i64,
    ready: VecDeque<MessageView>,
}

/// Reads a topic or a queue of it. As an iterator it gives what is there and then `None`, and
/// more when more has come; [`Reader::follow`] waits for that.
pub struct Reader {
    mq: Arc<Inner>,
    topic: String,
    only: Option<i32>,
    queues: Vec<Queue>,
    topics_version: u64,
    id: u64,
}

impl Reader {
    fn open(mq: Arc<Inner>, topic: &str, only: Option<i32>, from: Seek) -> Result<Reader> {
        mq.check_open()?;
        let config = mq.broker.topics().get(topic);
        let config = config.ok_or_else(|| Error::NoTopic(topic.to_owned()))?;
        if let Some(id) = only.filter(|id| !(0..config.queues()).contains(id)) {
            let text = format!("topic {topic} has queues 0 to {}, not {id}", config.queues() - 1);
            return Err(Error::Invalid(text));
        }
        let id = mq.waits.id();
        let mut reader =
            Reader { mq, topic: topic.to_owned(), only, queues: Vec::new(), topics_version: 0, id };
        reader.look_for_queues(from);
        Ok(reader)
    }

    fn look_for_queues(&mut self, from: Seek) {
        let version = self.mq.topics_version.load(Ordering::Acquire);
        if version == self.topics_version {
            return;
        }
        self.topics_version = version;
        let count = self.mq.broker.topics().get(&self.topic).map_or(0, |t| t.queues());
        for id in (0..count).filter(|id| self.only.is_none_or(|only| only == *id)) {
            if self.queues.iter().all(|q| q.id != id) {
                let next = offset_of(&self.mq, &self.topic, id, from);
                self.queues.push(Queue { id, next, ready: VecDeque::new() });
            }
        }
    }

    /// The next message; if there is none yet, the first that comes within `timeout`.
    ///
    /// # Errors
    /// [`Error::Closed`], also while it waits.
    pub fn follow(&mut self, timeout: Duration) -> Result<Option<MessageView>> {
        let deadline = Instant::now().checked_add(timeout);
        let waker = this_thread();
        loop {
            if let Some(message) = self.next() {
                return Ok(Some(message));
            }
            self.mq.check_open()?;
            if deadline.is_some_and(|d| d <= Instant::now()) {
                return Ok(None);
            }
            let topic: Arc<str> = self.topic.as_str().into();
            let interest: Interest = self.queues.iter().map(|q| (topic.clone(), q.id)).collect();
            let waiting = self.mq.waits.add(self.id, interest, waker.clone());
            // What came before we waited would not wake us.
            let next = self.next();
            if next.is_none() && self.mq.check_open().is_ok() {
                park_until(deadline);
            }
            self.mq.waits.remove(waiting);
            if next.is_some() {
                return Ok(next);
            }
        }
    }
}

impl Iterator for Reader {
    type Item = MessageView;

    fn next(&mut self) -> Option<MessageView> {
        if self.mq.check_open().is_err() {
            return None;
        }
        self.look_for_queues(Seek::Begin);
        for queue in self.queues.iter_mut().filter(|q| q.ready.is_empty()) {
            queue.fill(&self.mq, &self.topic);
        }
        let position = |q: &&mut Queue| q.ready.front().map_or(u64::MAX, MessageView::position);
        self.queues.iter_mut().min_by_key(position)?.ready.pop_front()
    }
}

impl Queue {
    fn fill(&mut self, mq: &Inner, topic: &str) {
        let limits = ReadLimits {
            messages: AT_ONCE,
            bytes: usize::MAX,
            scan: AT_ONCE,
            ..ReadLimits::default()
        };
        while self.ready.is_empty() {
            let read = mq.broker.store().read(topic, self.id, self.next, &limits, |_| true);
            let moved = self.next != read.next as i64;
            self.next = read.next as i64;
            self.ready.extend(read.records.into_iter().filter_map(MessageView::of));
            if !moved || read.status == ReadStatus::OffsetOverflowOne {
                break;
            }
        }
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader({} queues of {})", self.queues.len(), self.topic)
    }
}
