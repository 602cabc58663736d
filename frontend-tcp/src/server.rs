//! Accepts connections and runs one task for each: read, handle, write.
//!
//! All requests of one read are handled before their answers go out in one write. An idle
//! connection owns no buffer.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::conn::{Conn, Reply, Request};
use crate::metrics::rpc::{Outcome, RpcLatencies};
use crate::tls::{self, Stream};
use crate::wire::codes::response;
use crate::wire::command::{self, Command, Outgoing};
use crate::wire::frame::{self, FrameLimits, Parsed};

/// Room for a read.
const READ: usize = 64 << 10;
/// Answers are written when so many bytes wait, though more requests are there to be handled.
const WRITE: usize = 256 << 10;

/// How long the end of a TLS connection may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Answers the requests of all connections of a listener.
pub trait Service: Send + Sync + 'static {
    /// Answers a request, on the connection's task: it must not block.
    fn handle(&self, conn: &Arc<Conn>, request: &Request<'_>) -> Reply;
    /// Where the latencies of requests are counted, if they are.
    fn latencies(&self) -> Option<&Arc<RpcLatencies>> {
        None
    }
    /// A connection ended.
    fn closed(&self, conn: &Arc<Conn>);
}

/// What a listener puts up with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub frame: FrameLimits,
    /// Connections at a time; further ones are closed at once.
    pub connections: usize,
    /// Bytes of large frames (over 64 KiB) that are being received, over all connections.
    pub in_flight: usize,
    /// Silence after which a connection is closed.
    pub idle: Duration,
    pub sockets: Sockets,
}

/// What the system is told of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Sockets {
    /// Connections that may wait to be accepted.
    pub backlog: u32,
    /// Bytes of the buffers of each connection; 0 leaves them to the system.
    pub receive: u32,
    pub send: u32,
}

impl Default for Sockets {
    fn default() -> Sockets {
        Sockets { backlog: 1024, receive: 0, send: 0 }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            frame: FrameLimits::default(),
            connections: 50_000,
            in_flight: 256 << 20,
            idle: Duration::from_secs(120),
            sockets: Sockets::default(),
        }
    }
}

/// Serves `listener` until `stop` changes; then connections finish what they are at and end.
pub async fn serve<S: Service>(
    listener: TcpListener,
    service: Arc<S>,
    limits: Limits,
    tls: Arc<tls::Server>,
    mut stop: watch::Receiver<bool>,
) {
    let shared = Arc::new(Shared {
        limits,
        tls,
        connections: AtomicUsize::new(0),
        in_flight: Semaphore::new(limits.in_flight / 1024),
    });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                if shared.connections.fetch_add(1, Ordering::AcqRel) >= limits.connections {
                    shared.connections.fetch_sub(1, Ordering::AcqRel);
                    tracing::warn!("{peer} is turned away: {} connections", limits.connections);
                    continue;
                }
                let (service, shared, stop) = (service.clone(), shared.clone(), stop.clone());
                tokio::spawn(async move {
                    // Gone already, if it has no address.
                    let Ok(local) = stream.local_addr() else { return };
                    let conn = Conn::measured(peer, local, service.latencies().cloned());
                    let ended = Ended { service: &*service, conn: &conn, shared: &shared };
                    match run(stream, &conn, &*service, &shared, stop).await {
                        Ok(()) => tracing::debug!("{peer} left"),
                        Err(e) => tracing::debug!("{peer}: {e}"),
                    }
                    drop(ended);
                });
            }
            Err(e) => {
                // Out of file descriptors, say: trying again at once would only burn the CPU.
                tracing::error!("cannot accept connections: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

struct Shared {
    limits: Limits,
    tls: Arc<tls::Server>,
    connections: AtomicUsize,
    /// In KiB.
    in_flight: Semaphore,
}

/// Says that a connection ended, however it did.
struct Ended<'a, S: Service> {
    service: &'a S,
    conn: &'a Arc<Conn>,
    shared: &'a Shared,
}

impl<S: Service> Drop for Ended<'_, S> {
    fn drop(&mut self) {
        self.conn.close();
        self.service.closed(self.conn);
        self.shared.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn run<S: Service>(
    stream: TcpStream,
    conn: &Arc<Conn>,
    service: &S,
    shared: &Shared,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let limits = &shared.limits;
    let mut stream = tokio::select! {
        accepted = tokio::time::timeout(limits.idle, shared.tls.accept(stream)) => accepted??,
        _ = stop.changed() => return Ok(()),
    };
    let mut buf = BytesMut::new();
    let mut out = Outgoing::default();
    // Bytes of the next frame in all, as far as it is known, and the right to so many.
    let mut wanted = 0;
    let mut permit = None;
    let mut heard = Instant::now();
    let idle = tokio::time::sleep(limits.idle);
    tokio::pin!(idle);
    loop {
        tokio::select! {
            read = poll_fn(|cx| poll_read(cx, &mut stream, &mut buf, wanted)) => {
                if read? == 0 {
                    return Ok(());
                }
                heard = Instant::now();
                let mut read_at = heard;
                wanted = loop {
                    let wanted = handle_all(&mut buf, read_at, &mut out, conn, service, limits)?;
                    if wanted > 0 {
                        break wanted;
                    }
                    conn.drain(&mut out, is_full);
                    write(&mut stream, &mut out, limits).await?;
                    // How long the client took to read is no matter of ours.
                    read_at = Instant::now();
                };
            }
            () = conn.wake.notified() => {}
            () = idle.as_mut() => {
                let until = heard + limits.idle;
                if Instant::now() >= until {
                    return Ok(());
                }
                idle.as_mut().reset(until);
                continue;
            }
            _ = stop.changed() => conn.close(),
        }
        loop {
            let done = conn.drain(&mut out, is_full);
            if !out.is_empty() {
                write(&mut stream, &mut out, limits).await?;
            }
            if done {
                break;
            }
        }
        if conn.is_closing() {
            if let Stream::Tls(stream) = &mut stream {
                // A word of farewell, so that nobody takes this for an attack.
                let _ = tokio::time::timeout(FAREWELL, stream.shutdown()).await;
            }
            return Ok(());
        }
        if wanted <= READ {
            permit = None;
        } else if permit.is_none() {
            let kib = u32::try_from(wanted / 1024).unwrap_or(u32::MAX);
            permit = shared.in_flight.acquire_many(kib).await.ok();
        }
    }
}

/// Reads what is there. Who waits for more owns no buffer. (Unlike a wait until the socket is
/// readable and then a read, this knows from a short read that there is nothing more.)
fn poll_read(
    cx: &mut Context<'_>,
    stream: &mut Stream,
    buf: &mut BytesMut,
    wanted: usize,
) -> Poll<io::Result<usize>> {
    buf.reserve(READ.max(wanted.saturating_sub(buf.len())));
    let read = pin!(stream.read_buf(buf)).poll(cx);
    if read.is_pending() && buf.is_empty() {
        *buf = BytesMut::new();
    }
    read
}

/// Enough to be written before anything is added.
fn is_full(out: &Outgoing) -> bool {
    out.bytes.len() > WRITE || out.slices.len() > 512
}

/// Handles the frames in `buf`. Returns the bytes wanted for the next one, or 0 if answers
/// should be written first.
fn handle_all<S: Service>(
    buf: &mut BytesMut,
    read_at: Instant,
    out: &mut Outgoing,
    conn: &Arc<Conn>,
    service: &S,
    limits: &Limits,
) -> io::Result<usize> {
    let bad = |e: &dyn std::fmt::Display| {
        tracing::warn!("{} sent {e}: closed", conn.peer());
        io::Error::new(io::ErrorKind::InvalidData, e.to_string())
    };
    loop {
        let (frame, total) = match frame::parse(buf, &limits.frame) {
            Ok(Parsed::Frame(frame, total)) => (frame, total),
            Ok(Parsed::Incomplete(wanted)) => return Ok(wanted),
            Err(e) => return Err(bad(&e)),
        };
        let head = command::decode(frame.encoding, frame.header).map_err(|e| bad(&e))?;
        if head.is_response() {
            conn.answered(&head, frame.body);
        } else {
            let (body, encoding, read_at) = (frame.body, frame.encoding, read_at.into_std());
            let request = Request { head: &head, body, encoding, read_at };
            let measured = conn.latencies.as_deref().map(|all| (all, Instant::now()));
            let reply = service.handle(conn, &request);
            let one_way = head.is_one_way();
            if let Reply::Now(command) = reply {
                if let Some((latencies, since)) = measured {
                    let (request, response) = (head.code, command.code);
                    let outcome = Outcome { request, response, held: false, one_way };
                    latencies.add(outcome, since.elapsed());
                }
                if !one_way {
                    command.encode_response(head.opaque, frame.encoding, out);
                }
            }
        }
        buf.advance(total);
        if is_full(out) {
            return Ok(0);
        }
    }
}

/// Writes everything in `out`. A client that reads nothing for as long as a silent one is
/// put up with ends the connection.
async fn write(stream: &mut Stream, out: &mut Outgoing, limits: &Limits) -> io::Result<()> {
    let mut all = out.io_slices();
    let mut rest = all.as_mut_slice();
    while !rest.is_empty() {
        let few = rest.len().min(1024);
        let written = match stream {
            Stream::Plain(stream) => match stream.try_write_vectored(&rest[..few]) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::timeout(limits.idle, stream.writable()).await??;
                    continue;
                }
                written => written?,
            },
            Stream::Tls(stream) => {
                tokio::time::timeout(limits.idle, stream.write_vectored(&rest[..few])).await??
            }
        };
        io::IoSlice::advance_slices(&mut rest, written);
    }
    drop(all);
    if let Stream::Tls(stream) = stream {
        // It may hold back what the socket did not take.
        tokio::time::timeout(limits.idle, stream.flush()).await??;
    }
    if out.bytes.capacity() > WRITE {
        *out = Outgoing::default();
    } else {
        out.clear();
    }
    Ok(())
}

/// The answer to a request that nobody knows.
pub fn not_supported(code: i32) -> Reply {
    let remark = format!(" request type {code} not supported");
    Command::refusal(response::REQUEST_CODE_NOT_SUPPORTED, remark).into()
}

fn listen(addr: SocketAddr, sockets: &Sockets) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Connections get what their listener has.
    if sockets.receive > 0 {
        socket.set_recv_buffer_size(sockets.receive)?;
    }
    if sockets.send > 0 {
        socket.set_send_buffer_size(sockets.send)?;
    }
    socket.bind(addr)?;
    socket.listen(sockets.backlog)
}

/// Binds a listener, with an error that says what to do.
pub fn bind(addr: SocketAddr, what: &str, sockets: &Sockets) -> io::Result<TcpListener> {
    listen(addr, sockets).map_err(|e| {
        let hint = match e.kind() {
            io::ErrorKind::AddrInUse => {
                "; another process listens there: stop it, or choose another port"
            }
            io::ErrorKind::PermissionDenied => {
                "; ports below 1024 want special rights: choose another port"
            }
            io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
            _ => "",
        };
        io::Error::new(e.kind(), format!("cannot listen on {addr} ({what}): {e}{hint}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_have_the_buffers_that_are_asked_for() {
        let buffers = async |sockets: &Sockets| {
            let listener = bind(([127, 0, 0, 1], 0).into(), "a test", sockets).unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            let socket = TcpSocket::from_std_stream(accepted.into_std().unwrap());
            (socket.recv_buffer_size().unwrap(), socket.send_buffer_size().unwrap())
        };
        let asked = Sockets { receive: 30_000, send: 20_000, ..Sockets::default() };
        // Linux takes as much again for itself.
        let doubled = |got: u32, asked: u32| got == asked || got == 2 * asked;
        let got = buffers(&asked).await;
        assert!(doubled(got.0, 30_000) && doubled(got.1, 20_000), "{got:?}");
        assert_ne!(buffers(&Sockets::default()).await, got);
    }
}
