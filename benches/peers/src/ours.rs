//! mq-embedded: a topic of one queue, a consumer group of one member.

use std::path::Path;
use std::time::Duration;

use mq_embedded::{Flush, Message, Mq};

use crate::queue::{Consumer, Queue, Result, Safe, Sender, TAKE};

struct Ours {
    mq: Mq,
    safe: Safe,
}

pub fn open(dir: &Path, safe: Safe) -> Result<Box<dyn Queue>> {
    let flush = match safe {
        Safe::PowerCut => Flush::Sync,
        Safe::Kill => Flush::Async,
    };
    let mq = Mq::builder().flush(flush).open(dir)?;
    mq.create_topic("Queue", 1)?;
    Ok(Box::new(Ours { mq, safe }))
}

struct Producer(mq_embedded::Producer, Safe);

impl Sender for Producer {
    fn send(&mut self, bodies: &[Vec<u8>]) -> Result<()> {
        let mut last = None;
        for body in bodies {
            last = Some(self.0.append(&Message::new("Queue", body))?);
        }
        match last {
            Some(last) if self.1 == Safe::PowerCut => Ok(last.durable().wait()?),
            _ => Ok(()),
        }
    }
}

struct Member(mq_embedded::Consumer);

impl Consumer for Member {
    fn take(&mut self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<usize> {
        let messages = self.0.poll(TAKE, Duration::from_millis(100))?;
        for message in &messages {
            each(message.body())?;
        }
        self.0.commit();
        Ok(messages.len())
    }

    /// What was committed is saved every 5 s and at the close.
    fn mark(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Queue for Ours {
    fn sender(&self) -> Result<Box<dyn Sender + '_>> {
        Ok(Box::new(Producer(self.mq.producer(), self.safe)))
    }

    fn consumer(&self) -> Result<Box<dyn Consumer + '_>> {
        Ok(Box::new(Member(self.mq.consumer("Group").subscribe("Queue", "*").start()?)))
    }
}
