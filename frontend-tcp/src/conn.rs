//! What a handler may do with a connection: answer later, have work done on the connection's
//! task, ask the client something.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use crate::metrics::rpc::{Outcome, RpcLatencies};
use crate::wire::codes::request;
use crate::wire::command::{Command, Head, Outgoing};
use crate::wire::frame::Encoding;

/// More commands than this that wait for a client to read mean that it does not.
const MAX_WAITING: usize = 10_000;

/// A request on its way through a handler. Everything is borrowed from the read buffer.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub head: &'a Head<'a>,
    pub body: &'a [u8],
    pub encoding: Encoding,
    /// When it was read from the socket.
    pub read_at: Instant,
}

impl Request<'_> {
    /// Where the answer goes, if it comes later. `None` if none is wanted.
    pub fn ticket(&self, conn: &Arc<Conn>) -> Ticket {
        Ticket {
            conn: conn.clone(),
            opaque: self.head.opaque,
            encoding: self.encoding,
            wanted: !self.head.is_one_way(),
            measured: conn.latencies.is_some().then_some((self.head.code, self.read_at)),
        }
    }
}

/// The right to answer one request later.
#[derive(Clone, Debug)]
pub struct Ticket {
    conn: Arc<Conn>,
    opaque: i32,
    encoding: Encoding,
    wanted: bool,
    /// The request, and since when it has been waiting.
    measured: Option<(i32, Instant)>,
}

impl Ticket {
    pub fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }

    /// Sends the answer.
    pub fn answer(self, command: Command) {
        if let (Some((request, since)), Some(latencies)) = (self.measured, &self.conn.latencies) {
            let held = matches!(request, request::PULL_MESSAGE | request::LITE_PULL_MESSAGE);
            let (response, one_way) = (command.code, !self.wanted);
            latencies.add(Outcome { request, response, held, one_way }, since.elapsed());
        }
        if self.wanted {
            let (opaque, encoding) = (self.opaque, self.encoding);
            self.conn.push(Out::Answer { opaque, encoding, command });
        }
    }

    /// Has the connection's task find the answer.
    pub fn answer_with(self, find: impl FnOnce(Ticket) -> Reply + Send + 'static) {
        let conn = self.conn.clone();
        conn.push(Out::Run(Box::new(move || {
            let ticket = self.clone();
            if let Reply::Now(command) = find(self) {
                ticket.answer(command);
            }
        })));
    }
}

/// What a handler gives back.
#[derive(Debug)]
pub enum Reply {
    Now(Command),
    /// The answer comes through a [`Ticket`].
    Later,
    /// There is no answer, whatever was asked for.
    None,
}

impl From<Command> for Reply {
    fn from(command: Command) -> Reply {
        Reply::Now(command)
    }
}

/// A client's answer to a request of ours.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub code: i32,
    pub version: i32,
    pub remark: Option<String>,
    pub fields: HashMap<String, String>,
    pub body: Bytes,
}

impl Response {
    pub fn of(head: &Head<'_>, body: &[u8]) -> Response {
        Response {
            code: head.code,
            version: head.version,
            remark: head.remark.as_ref().map(|r| r.to_string()),
            fields: head.fields.0.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
            body: Bytes::copy_from_slice(body),
        }
    }
}

enum Out {
    Answer { opaque: i32, encoding: Encoding, command: Command },
    Request { opaque: i32, one_way: bool, command: Command },
    Run(Box<dyn FnOnce() + Send>),
}

/// One client's connection, as handlers see it.
pub struct Conn {
    id: u64,
    peer: SocketAddr,
    /// Our end.
    local: SocketAddr,
    outbox: Mutex<VecDeque<Out>>,
    pub(crate) wake: Notify,
    closing: AtomicBool,
    /// Requests of ours that the client has not answered.
    asked: Mutex<HashMap<i32, oneshot::Sender<Response>>>,
    next_opaque: AtomicI32,
    pub(crate) latencies: Option<Arc<RpcLatencies>>,
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Conn({}, {})", self.id, self.peer)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Conn {
    pub fn new(peer: SocketAddr, local: SocketAddr) -> Arc<Conn> {
        Conn::measured(peer, local, None)
    }

    /// A connection whose requests are measured.
    pub fn measured(
        peer: SocketAddr,
        local: SocketAddr,
        latencies: Option<Arc<RpcLatencies>>,
    ) -> Arc<Conn> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Conn {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            peer,
            local,
            outbox: Mutex::default(),
            wake: Notify::new(),
            closing: AtomicBool::new(false),
            asked: Mutex::default(),
            next_opaque: AtomicI32::new(0),
            latencies,
        })
    }

    /// Told apart from every other connection of this process.
    pub fn id(&self) -> u64 {
        self.id
    }
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
    /// Whether the client runs on this machine: it comes from loopback, or from the address
    /// it came to.
    pub fn is_from_here(&self) -> bool {
        let peer = self.peer.ip().to_canonical();
        peer.is_loopback() || peer == self.local.ip().to_canonical()
    }
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Ends the connection once its task gets to it.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    fn push(&self, out: Out) {
        let waiting = {
            let mut outbox = lock(&self.outbox);
            outbox.push_back(out);
            outbox.len()
        };
        if waiting > MAX_WAITING {
            tracing::warn!("{} does not read what it asked for: closed", self.peer);
            self.close();
        } else if waiting == 1 {
            self.wake.notify_one();
        }
    }

    /// Tells the client something; no answer is expected.
    pub fn tell(&self, command: Command) {
        let opaque = self.next_opaque.fetch_add(1, Ordering::Relaxed);
        self.push(Out::Request { opaque, one_way: true, command });
    }

    /// Asks the client something. The answer never comes if the connection ends.
    pub fn ask(&self, command: Command) -> oneshot::Receiver<Response> {
        let opaque = self.next_opaque.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        {
            let mut asked = lock(&self.asked);
            asked.retain(|_, sender| !sender.is_closed());
            asked.insert(opaque, sender);
        }
        self.push(Out::Request { opaque, one_way: false, command });
        receiver
    }

    /// Takes in a client's answer to [`Conn::ask`].
    pub(crate) fn answered(&self, head: &Head<'_>, body: &[u8]) {
        if let Some(sender) = lock(&self.asked).remove(&head.opaque) {
            let _ = sender.send(Response::of(head, body));
        }
    }

    /// Does the work that was left for the connection's task, and writes what waits into `out`,
    /// until that `is_full`. Returns whether all is done.
    pub(crate) fn drain(&self, out: &mut Outgoing, is_full: fn(&Outgoing) -> bool) -> bool {
        while !is_full(out) {
            let Some(item) = lock(&self.outbox).pop_front() else { return true };
            match item {
                Out::Answer { opaque, encoding, command } => {
                    command.encode_response(opaque, encoding, out);
                }
                Out::Request { opaque, one_way, command } => {
                    command.encode_request(opaque, one_way, Encoding::Json, out);
                }
                Out::Run(run) => run(),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_written_piece_by_piece_and_in_order() {
        let here = "127.0.0.1:1".parse().unwrap();
        let conn = Conn::new(here, here);
        for n in 0..10 {
            conn.tell(Command::new(n).body(vec![0u8; 1000]));
        }
        let mut out = Outgoing::default();
        let is_full = |out: &Outgoing| out.bytes.len() > 3000;
        let mut pieces = 0;
        while !conn.drain(&mut out, is_full) {
            assert!(out.bytes.len() < 5000, "no more than fits, and one");
            out.clear();
            pieces += 1;
        }
        assert_eq!(pieces, 3);
    }

    #[test]
    fn a_client_that_reads_nothing_is_given_up() {
        let here = "127.0.0.1:1".parse().unwrap();
        let conn = Conn::new(here, here);
        for _ in 0..MAX_WAITING {
            conn.tell(Command::new(1));
        }
        assert!(!conn.is_closing());
        conn.tell(Command::new(1));
        assert!(conn.is_closing());
    }
}
