//! Feature `stream`: a consumer as a `Stream`, under any runtime.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_core::Stream;

use crate::consumer::{Consumer, Delivery};
use crate::error::{Error, Result};
use crate::group::Taken;

/// Messages that are taken from a consumer at once; one at a time in orderly mode.
const AT_ONCE: usize = 16;

/// Messages for ever; see [`Consumer::into_stream`].
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct DeliveryStream {
    consumer: Consumer,
    ready: std::vec::IntoIter<Delivery>,
    waiting: Option<u64>,
    ended: bool,
}

impl Consumer {
    /// The messages that come, as a stream. It ends when the store is closed, or after an error.
    /// It needs no runtime of any kind, and wakes at once when a message comes.
    pub fn into_stream(self) -> DeliveryStream {
        DeliveryStream {
            consumer: self,
            ready: Vec::new().into_iter(),
            waiting: None,
            ended: false,
        }
    }
}

impl DeliveryStream {
    /// The consumer, to seek or commit.
    pub fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    fn stop_waiting(&mut self) {
        if let Some(id) = self.waiting.take() {
            self.consumer.mq.waits.remove(id);
        }
    }
}

impl Stream for DeliveryStream {
    type Item = Result<Delivery>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Delivery>>> {
        let this = &mut *self;
        if let Some(delivery) = this.ready.next() {
            return Poll::Ready(Some(Ok(delivery)));
        }
        this.stop_waiting();
        if this.ended {
            return Poll::Ready(None);
        }
        let most = if this.consumer.group.settings.orderly { 1 } else { AT_ONCE };
        // Once before waiting, and once after: what came in between would not wake us.
        for _ in 0..2 {
            match this.consumer.take(most) {
                Ok(Taken::Messages(taken)) => {
                    this.stop_waiting();
                    this.ready = this.consumer.deliveries_of(taken).into_iter();
                    return Poll::Ready(this.ready.next().map(Ok));
                }
                Ok(Taken::Nothing(interest, wake)) if this.waiting.is_none() => {
                    let waker = cx.waker().clone();
                    let waits = &this.consumer.mq.waits;
                    this.waiting = Some(waits.add(this.consumer.group.id, interest, waker));
                    if let Some(at) = wake {
                        wake_at(at, cx)?;
                    }
                }
                Ok(Taken::Nothing(..)) => {}
                Err(e) => {
                    this.ended = true;
                    this.stop_waiting();
                    return Poll::Ready((!matches!(e, Error::Closed)).then_some(Err(e)));
                }
            }
        }
        Poll::Pending
    }
}

/// A queue rests after a failure, and no runtime is known whose timer could be used.
fn wake_at(at: Instant, cx: &Context<'_>) -> Result<()> {
    let waker = cx.waker().clone();
    let thread = std::thread::Builder::new().name("mq-resume".into()).spawn(move || {
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        waker.wake();
    });
    thread.map(drop).map_err(|e| Error::Invalid(format!("no thread can be started: {e}")))
}

impl Drop for DeliveryStream {
    fn drop(&mut self) {
        self.stop_waiting();
    }
}
