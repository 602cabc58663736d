//! Members of consumer groups.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::group::{Group, Settings, Subscription, Taken, Ticket};
use crate::message::MessageView;
use crate::mq::{Inner, Seek, lock};
use crate::wait::{park_until, this_thread};

/// Sets up a member of a consumer group.
#[must_use = "start() makes a consumer of it"]
pub struct ConsumerBuilder {
    mq: Arc<Inner>,
    group: String,
    settings: Settings,
    problem: Option<Error>,
}

impl ConsumerBuilder {
    pub(crate) fn new(mq: Arc<Inner>, group: &str) -> ConsumerBuilder {
        let settings = Settings {
            subscriptions: Default::default(),
            broadcasting: false,
            orderly: false,
            start: Seek::Begin,
            max_reconsume_times: None,
            max_in_flight: 1000,
            suspend: Duration::from_secs(1),
        };
        ConsumerBuilder { mq, group: group.to_owned(), settings, problem: None }
    }

    /// Subscribes to a topic, which may come later: to messages with one of some tags, as in
    /// `"paid || shipped"`, or to all with `"*"`.
    pub fn subscribe(self, topic: &str, tags: &str) -> Self {
        self.subscription(topic, "TAG", tags)
    }

    /// Subscribes to the messages of a topic whose properties fulfil a SQL92 expression, as in
    /// `"amount > 100 AND region IN ('EU', 'US')"`.
    pub fn subscribe_sql(self, topic: &str, expression: &str) -> Self {
        self.subscription(topic, "SQL92", expression)
    }

    fn subscription(mut self, topic: &str, kind: &'static str, expression: &str) -> Self {
        match Subscription::parse(kind, expression) {
            Ok(subscription) => {
                drop(self.settings.subscriptions.insert(topic.to_owned(), subscription))
            }
            Err(e) => self.problem = Some(e),
        }
        self
    }

    /// Every member gets every message. How far it came is not kept: it begins where
    /// [`ConsumerBuilder::start_at`] says, and nothing comes back to be retried.
    pub fn broadcasting(mut self) -> Self {
        self.settings.broadcasting = true;
        self
    }

    /// The messages of a queue are given out in their order: no others before those of the last
    /// poll are acknowledged. One that fails comes again in its place.
    pub fn orderly(mut self) -> Self {
        self.settings.orderly = true;
        self
    }

    /// Where the group begins in queues in which it never was; [`Seek::Begin`] if not said.
    pub fn start_at(mut self, start: Seek) -> Self {
        self.settings.start = start;
        self
    }

    /// A message that failed more often than this goes to the topic `%DLQ%group`; if not said,
    /// 16 times, or never in orderly mode.
    pub fn max_reconsume_times(mut self, times: u16) -> Self {
        self.settings.max_reconsume_times = Some(times.into());
        self
    }

    /// So many messages of a queue may be out unacknowledged, 1000; then it gives no more.
    pub fn max_in_flight(mut self, messages: usize) -> Self {
        self.settings.max_in_flight = messages.max(1);
        self
    }

    /// How long a queue rests in orderly mode when a message failed, 1 s.
    pub fn suspend(mut self, pause: Duration) -> Self {
        self.settings.suspend = pause;
        self
    }

    /// Joins the group, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::Filter`] for an expression that is none, [`Error::Disagreement`] if there are
    /// members that say something else, [`Error::Invalid`] for a name that cannot be, or no
    /// subscription.
    pub fn start(self) -> Result<Consumer> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let (mq, settings) = (self.mq, self.settings);
        mq.check_open()?;
        if settings.subscriptions.is_empty() {
            return Err(Error::Invalid(format!(
                "group {} subscribes to nothing: call subscribe",
                self.group
            )));
        }
        if settings.broadcasting {
            mq.broker.group(&self.group)?;
        } else {
            mq.broker.retry_topic(&self.group)?;
        }
        let group = if settings.broadcasting {
            Arc::new(Group::new(&mq, &self.group, settings))
        } else {
            let mut groups = lock(&mq.groups);
            let group = groups
                .entry(self.group.clone())
                .or_insert_with(|| Arc::new(Group::new(&mq, &self.group, settings.clone())));
            if let Some(what) = difference(&group.settings, &settings) {
                return Err(Error::Disagreement { group: self.group, what });
            }
            let group = group.clone();
            // Before anybody else can be the last to leave.
            let member = group.join(&mq);
            drop(groups);
            return Ok(Consumer { mq, group, member });
        };
        let member = group.join(&mq);
        Ok(Consumer { mq, group, member })
    }
}

fn difference(there: &Settings, new: &Settings) -> Option<&'static str> {
    match () {
        () if there.subscriptions != new.subscriptions => Some("subscriptions"),
        () if there.orderly != new.orderly => Some("order"),
        () if there != new => Some("settings"),
        () => None,
    }
}

/// A member of a consumer group. Members of a group in this process share the queues of its
/// topics; when one is dropped, the others get its queues and what it had not acknowledged.
/// Several threads may use one member.
pub struct Consumer {
    pub(crate) mq: Arc<Inner>,
    pub(crate) group: Arc<Group>,
    member: u64,
}

impl Consumer {
    /// The messages that are there, `max` at most, or if there are none those that come first,
    /// after `timeout` at the latest. Nothing, when that is over.
    ///
    /// # Errors
    /// [`Error::Closed`], also while it waits; [`Error::Refused`] if the group, a topic or the
    /// store may not be read.
    pub fn poll(&self, max: usize, timeout: Duration) -> Result<Vec<Delivery>> {
        let deadline = Instant::now().checked_add(timeout);
        let mut waker = None;
        loop {
            let (interest, wake) = match self.take(max)? {
                Taken::Messages(taken) => return Ok(self.deliveries_of(taken)),
                Taken::Nothing(interest, wake) => (interest, wake),
            };
            if deadline.is_some_and(|d| d <= Instant::now()) {
                return Ok(Vec::new());
            }
            let waker = waker.get_or_insert_with(this_thread).clone();
            let waiting = self.mq.waits.add(self.group.id, interest, waker);
            // What came before we waited would not wake us.
            let taken = self.take(max);
            if let Ok(Taken::Nothing(..)) = taken {
                let until = [deadline, wake].into_iter().flatten().min();
                park_until(until);
            }
            self.mq.waits.remove(waiting);
            if let Taken::Messages(taken) = taken? {
                return Ok(self.deliveries_of(taken));
            }
        }
    }

    pub(crate) fn take(&self, max: usize) -> Result<Taken> {
        self.group.take(&self.mq, self.member, max.max(1))
    }

    pub(crate) fn deliveries_of(&self, taken: Vec<(MessageView, Ticket, i32)>) -> Vec<Delivery> {
        let delivery = |(message, ticket, times)| Delivery {
            message,
            ticket,
            times,
            group: self.group.clone(),
        };
        taken.into_iter().map(delivery).collect()
    }

    /// Messages for ever, one after the other, blocking while there is none. It ends when the
    /// store is closed, or after an error.
    pub fn iter(&self) -> Deliveries<'_> {
        Deliveries { consumer: self, ready: Vec::new().into_iter(), failed: false }
    }

    /// Acknowledges all that this member has in hand.
    pub fn commit(&self) {
        self.group.commit_member(&self.mq, self.member, None);
    }

    /// Acknowledges what this member has in hand of one queue, up to and with a message of it.
    pub fn commit_through(&self, delivery: &Delivery) {
        self.group.commit_member(&self.mq, self.member, Some(delivery.ticket));
    }

    /// Lets the whole group go on elsewhere in a topic, in all queues or in one. What is in hand
    /// then counts no more: its acknowledgement does nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a topic to which the group does not subscribe.
    pub fn seek(&self, topic: &str, queue_id: Option<i32>, to: Seek) -> Result<()> {
        if !self.group.settings.subscriptions.contains_key(topic) {
            return Err(Error::Invalid(format!(
                "group {} does not subscribe to {topic}",
                self.group.name
            )));
        }
        self.group.seek(&self.mq, topic, queue_id, to);
        Ok(())
    }

    /// Topic and id of the queues that are this member's now.
    pub fn queues(&self) -> Vec<(String, i32)> {
        self.group.queues_of(&self.mq, self.member)
    }

    /// The group's name.
    pub fn group(&self) -> &str {
        &self.group.name
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let mut groups = lock(&self.mq.groups);
        if self.group.leave(&self.mq, self.member)
            && groups.get(&self.group.name).is_some_and(|g| Arc::ptr_eq(g, &self.group))
        {
            groups.remove(&self.group.name);
        }
    }
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Consumer({} of {})", self.member, self.group.name)
    }
}

/// The endless iterator of [`Consumer::iter`].
#[derive(Debug)]
pub struct Deliveries<'c> {
    consumer: &'c Consumer,
    ready: std::vec::IntoIter<Delivery>,
    failed: bool,
}

impl Iterator for Deliveries<'_> {
    type Item = Result<Delivery>;

    fn next(&mut self) -> Option<Result<Delivery>> {
        while !self.failed {
            if let Some(delivery) = self.ready.next() {
                return Some(Ok(delivery));
            }
            // One at a time in orderly mode: a thread may be slow with each.
            match self.consumer.poll(1, Duration::MAX) {
                Ok(ready) => self.ready = ready.into_iter(),
                Err(Error::Closed) => self.failed = true,
                Err(e) => {
                    self.failed = true;
                    return Some(Err(e));
                }
            }
        }
        None
    }
}

/// A message in the hands of a consumer. It is a [`MessageView`], and waits to be acknowledged:
/// one that is dropped without counts as in hand, holds back the group's offset, and is
/// given out again when its consumer is dropped, or after the next start.
#[must_use = "a message that is not acknowledged comes again"]
pub struct Delivery {
    message: MessageView,
    ticket: Ticket,
    /// How often it failed in place.
    times: i32,
    group: Arc<Group>,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Delivery({:?} to {})", self.message, self.group.name)
    }
}

impl std::ops::Deref for Delivery {
    type Target = MessageView;
    fn deref(&self) -> &MessageView {
        &self.message
    }
}

impl Delivery {
    /// It was consumed. If all before it are, the group's offset moves on, which is on the disk
    /// within 5 s; what a crash takes of that comes again.
    pub fn ack(self) {
        self.group.ack(self.ticket);
    }

    /// It could not be consumed and shall come again: through the retry topic, the later the
    /// more often it failed (10 s, 30 s, 1 min, …, by the levels of delay); in orderly mode in its
    /// place, after the group's pause. One that failed too often goes to the dead letters.
    ///
    /// # Errors
    /// As of [`Producer::send`](crate::Producer::send): then the message stays in hand.
    /// [`Error::Invalid`] if the group is broadcasting.
    pub fn retry(self) -> Result<()> {
        self.retry_at(0)
    }

    /// [`Delivery::retry`] with the delay of a level, 1 to 18; in orderly mode with the pause.
    ///
    /// # Errors
    /// As of [`Delivery::retry`].
    pub fn retry_at(self, level: u8) -> Result<()> {
        let settings = &self.group.settings;
        if !settings.orderly {
            return self.send_back(level.into());
        }
        let times = self.times.saturating_add(1);
        if settings.max_reconsume_times.is_some_and(|max| times > max) {
            return self.send_back(-1);
        }
        self.group.suspend(self.ticket, times);
        Ok(())
    }

    /// It shall not come again but go to the dead letters, the topic `%DLQ%group`.
    ///
    /// # Errors
    /// As of [`Delivery::retry`].
    pub fn dead_letter(self) -> Result<()> {
        self.send_back(-1)
    }

    fn send_back(self, level: i32) -> Result<()> {
        let group = &self.group;
        if group.settings.broadcasting {
            return Err(Error::Invalid(format!(
                "group {} is broadcasting, where nothing comes back: send the message again",
                group.name
            )));
        }
        let mq = group.mq.upgrade().ok_or(Error::Closed)?;
        mq.check_open()?;
        let position = i64::try_from(self.message.position()).unwrap_or(i64::MAX);
        mq.broker.send_back(&group.name, position, level, group.settings.max_reconsume_times)?;
        group.ack(self.ticket);
        Ok(())
    }

    /// How often it failed before.
    pub fn failed_times(&self) -> i32 {
        self.message.reconsume_times().saturating_add(self.times)
    }

    /// The message, without the delivery's duties: it is acknowledged.
    pub fn into_message(self) -> MessageView {
        self.group.ack(self.ticket);
        self.message
    }
}
