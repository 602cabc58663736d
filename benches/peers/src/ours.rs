//! mq-embedded: a topic of one queue, a consumer group of one member.

use std::path::Path;
use std::time::Duration;

use mq_embedded::{Flush, Message, Mq};

use crate::queue::{Consumer, Queue, Result, Safe, Sender, TAKE};

struct Ours(Mq);

pub fn open(dir: &Path, safe: Safe) -> Result<Box<dyn Queue>> {
    let flush = match safe {
        Safe::PowerCut => Flush::Sync,
        Safe::Kill => Flush::Async,
    };
    let mq = Mq::builder().flush(flush).open(dir)?;
    mq.create_topic("Queue", 1)?;
    Ok(Box::new(Ours(mq)))
}

struct Producer(mq_embedded::Producer);

impl Sender for Producer {
    fn send(&mut self, bodies: &[Vec<u8>]) -> Result<()> {
        if let [body] = bodies {
            self.0.send(&Message::new("Queue", body))?;
            return Ok(());
        }
        let messages: Vec<_> = bodies.iter().map(|body| Message::new("Queue", body)).collect();
        self.0.send_batch(&messages)?;
        Ok(())
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
        Ok(Box::new(Producer(self.0.producer())))
    }

    fn consumer(&self) -> Result<Box<dyn Consumer + '_>> {
        Ok(Box::new(Member(self.0.consumer("Group").subscribe("Queue", "*").start()?)))
    }
}
