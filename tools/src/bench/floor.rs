//! A server that answers as a broker does, and keeps nothing.
//!
//! It reads the same frames, and writes answers of the same bytes; what a pull brings was made
//! before. A message for a queue where a pull is held goes out as the answer to that. What lies
//! between, a broker's work, is not there.

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use mq_broker::wire::codes::{request, response};
use mq_broker::wire::command::{self, Command, Outgoing};
use mq_broker::wire::frame::{Encoding, Frame};
use mq_store::codec::record::{self, Message, Placement, body_crc, encoded_len};
use serde_json::json;

use super::cli::FloorArgs;
use super::error::{Error, Result};
use super::net::{Link, Poller};
use super::request::{Answer, FIRST_OPAQUE, Scanner, Template};

/// Stands for the listener among the connections.
const LISTENER: usize = usize::MAX / 2;
/// No queue gets to its end.
const END: i64 = 1 << 40;

pub fn run(args: &FloorArgs) -> Result<bool> {
    let listen = |source| Error::Connect { addr: args.listen.clone(), source };
    let listener = TcpListener::bind(&args.listen).map_err(listen)?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    writeln!(std::io::stdout(), "listens on {addr}")?;
    let mut poller = Poller::new([], Duration::MAX)?;
    poller.watch(&listener, LISTENER)?;
    let mut links: HashMap<usize, Link> = HashMap::new();
    let mut floor = Floor::new(args, addr);
    let mut next = 0;
    loop {
        let news: Vec<usize> = poller.wait(Duration::from_secs(60), 0)?.collect();
        for n in news {
            if n == LISTENER {
                loop {
                    match listener.accept() {
                        Ok((stream, _)) => {
                            stream.set_nonblocking(true)?;
                            poller.watch(&stream, next)?;
                            links.insert(next, Link::over(stream, 0, Scanner::of_requests())?);
                            next += 1;
                        }
                        Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                        Err(e) => return Err(e.into()),
                    }
                }
                continue;
            }
            let Some(link) = links.get_mut(&n) else { continue };
            let mut out = std::mem::take(&mut link.out);
            let read = link.answers(|_, asked, frame| floor.answer(n, asked, frame, &mut out));
            link.out = out;
            if read.and_then(|()| link.flush()).is_err() {
                links.remove(&n);
                floor.forget();
            }
            for (to, answer) in floor.woken.drain(..) {
                if let Some(link) = links.get_mut(&to) {
                    link.out.extend_from_slice(&answer);
                    // Who is gone is seen when its end is read.
                    let _ = link.flush();
                }
            }
        }
    }
}

/// The answers, and who waits for messages.
struct Floor {
    addr: SocketAddr,
    /// By encoding, JSON first.
    sent: [Template; 2],
    pulled: [Template; 2],
    /// By queue.
    queues: HashMap<i32, Queue>,
    /// Pulls that are answered now: the connection and the bytes.
    woken: Vec<(usize, Vec<u8>)>,
}

#[derive(Default)]
struct Queue {
    /// Connection and opaque of the pull that is held.
    held: Option<(usize, i32, Encoding)>,
    /// Came while no pull was held.
    waiting: VecDeque<Vec<u8>>,
    next: u64,
}

impl Floor {
    fn new(args: &FloorArgs, addr: SocketAddr) -> Floor {
        let body = vec![b'x'; args.size as usize];
        let mut records = Vec::new();
        for offset in 0..args.pull_batch.into() {
            records.append(&mut encode(addr, &body, offset));
        }
        let sent = Command::ok()
            .field("msgId", "7F00000100002A9F0000000012345678")
            .field("queueId", 3)
            .field("queueOffset", 1_234_567)
            .field("MSG_REGION", "DefaultRegion")
            .field("TRACE_ON", true);
        let found = found(END).body(records);
        let both = |command: &Command| {
            [Encoding::Json, Encoding::Binary].map(|e| Template::answer(command, e))
        };
        Floor {
            addr,
            sent: both(&sent),
            pulled: both(&found),
            queues: HashMap::new(),
            woken: Vec::new(),
        }
    }

    /// Nobody waits any more: a consumer is gone.
    fn forget(&mut self) {
        self.queues.clear();
    }

    fn answer(
        &mut self,
        from: usize,
        asked: Answer,
        frame: &Frame<'_>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let binary = usize::from(frame.encoding == Encoding::Binary);
        let plain = matches!(asked.code, request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE);
        if plain && asked.opaque >= FIRST_OPAQUE {
            self.sent[binary].put(asked.opaque, out);
            return if self.queues.is_empty() { Ok(()) } else { self.pass_on(frame) };
        }
        let head = command::decode(frame.encoding, frame.header)?;
        let field = |name| head.fields.get(name).and_then(|v| v.parse::<i64>().ok()).unwrap_or(0);
        let queue = field("queueId") as i32;
        let command = match asked.code {
            request::PULL_MESSAGE if field("suspendTimeoutMillis") == 0 => {
                self.pulled[binary].put(asked.opaque, out);
                return Ok(());
            }
            request::PULL_MESSAGE => {
                let queue = self.queues.entry(queue).or_default();
                if queue.waiting.is_empty() {
                    queue.held = Some((from, asked.opaque, frame.encoding));
                    return Ok(());
                }
                let records: Vec<Vec<u8>> = queue.waiting.drain(..).collect();
                found(field("queueOffset")).body(records.concat())
            }
            request::GET_TOPIC_CONFIG => Command::ok().json(&json!({"readQueueNums": 8})),
            request::GET_MIN_OFFSET => Command::ok().field("offset", 0),
            request::GET_MAX_OFFSET => Command::ok().field("offset", END),
            request::HEART_BEAT | request::UPDATE_AND_CREATE_TOPIC => Command::ok(),
            _ => Command::refusal(response::REQUEST_CODE_NOT_SUPPORTED, "this is only a floor"),
        };
        put(&command, asked.opaque, frame.encoding, out);
        Ok(())
    }

    /// Gives a message to the pull that waits for it, or keeps it for the next one.
    fn pass_on(&mut self, frame: &Frame<'_>) -> Result<()> {
        let head = command::decode(frame.encoding, frame.header)?;
        let id = head.fields.get("e").and_then(|v| v.parse().ok()).unwrap_or(0);
        let Some(queue) = self.queues.get_mut(&id) else { return Ok(()) };
        let record = encode(self.addr, frame.body, queue.next);
        queue.next += 1;
        match queue.held.take() {
            Some((to, opaque, encoding)) => {
                let mut out = Vec::new();
                put(&found(queue.next as i64).body(record), opaque, encoding, &mut out);
                self.woken.push((to, out));
            }
            None => queue.waiting.push_back(record),
        }
        Ok(())
    }
}

/// The answer to a pull that brings something.
fn found(next: i64) -> Command {
    Command::ok()
        .field("suggestWhichBrokerId", 0)
        .field("nextBeginOffset", next)
        .field("minOffset", 0)
        .field("maxOffset", END)
}

fn put(command: &Command, opaque: i32, encoding: Encoding, out: &mut Vec<u8>) {
    let mut answer = Outgoing::default();
    command.encode_response(opaque, encoding, &mut answer);
    out.extend_from_slice(&answer.bytes);
}

/// A record as long as a broker makes it of mq-bench's messages.
fn encode(addr: SocketAddr, body: &[u8], queue_offset: u64) -> Vec<u8> {
    let message = Message {
        topic: "mq-bench",
        queue_id: 0,
        flag: 0,
        sys_flag: 0,
        born_timestamp: 0,
        born_host: addr,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties: b"UNIQ_KEY\x017F000001DEADBEEFFEDCBA9876543210\x02WAIT\x01true\x02",
    };
    let mut record = vec![0; encoded_len(&message, &addr)];
    let place =
        Placement { queue_offset, physical_offset: 0, store_timestamp: 0, store_host: addr };
    record::encode(&message, &place, body_crc(body), &mut record);
    record
}
