//! Connections that never block, and the loop's wait for them.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use mq_broker::wire::frame::{self, Frame, FrameLimits, Parsed};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use tokio_rustls::rustls::{ClientConnection, Stream};

use super::cli::Common;
use super::error::{Error, Result};
use super::request::{Answer, FIRST_OPAQUE, OPAQUES, Scanner};

/// Room for a read.
const READ: usize = 256 << 10;

/// A connection.
#[derive(Debug)]
pub struct Link {
    pub stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    inbox: Inbox,
    scanner: Scanner,
    /// Requests to be sent.
    pub out: Vec<u8>,
    written: usize,
    pub slots: Slots,
}

impl Link {
    /// Connects; `slots` requests can be under way.
    pub fn connect(common: &Common, addr: &str, slots: usize) -> Result<Link> {
        let connect = |e| Error::Connect { addr: addr.to_owned(), source: e };
        let mut stream = TcpStream::connect(addr).map_err(connect)?;
        let mut tls = None;
        if let Some(connector) = common.security()?.tls {
            let mut session = Box::new(connector.session(addr).map_err(connect)?);
            while session.is_handshaking() {
                session.complete_io(&mut stream).map_err(connect)?;
            }
            tls = Some(session);
        }
        Ok(Link { tls, ..Link::over(stream, slots, Scanner::default())? })
    }

    /// A connection that is there, whose frames `scanner` understands.
    pub fn over(stream: TcpStream, slots: usize, scanner: Scanner) -> Result<Link> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Link {
            stream,
            tls: None,
            inbox: Inbox::default(),
            scanner,
            out: Vec::new(),
            written: 0,
            slots: Slots::new(slots),
        })
    }

    /// Reads what has come, and gives the answers (a server: the requests) to `each`.
    pub fn answers(
        &mut self,
        mut each: impl FnMut(&mut Slots, Answer, &Frame<'_>) -> Result<()>,
    ) -> Result<()> {
        loop {
            let place = self.inbox.room();
            let room = place.len();
            let read = match &mut self.tls {
                None => self.stream.read(place),
                Some(tls) => Stream::new(&mut **tls, &mut self.stream).read(place),
            };
            let n = match read {
                Ok(0) => return Err(Error::Closed),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            self.inbox.to += n;
            while let Some(frame) = self.inbox.next()? {
                if let Some(answer) = self.scanner.scan(&frame)? {
                    each(&mut self.slots, answer, &frame)?;
                }
            }
            // TLS gives no more than one of its records at a time.
            if n < room && self.tls.is_none() {
                return Ok(());
            }
        }
    }

    /// Writes as much as the socket takes.
    pub fn flush(&mut self) -> Result<()> {
        while self.written < self.out.len() {
            let rest = &self.out[self.written..];
            let written = match &mut self.tls {
                None => self.stream.write(rest),
                Some(tls) => Stream::new(&mut **tls, &mut self.stream).write(rest),
            };
            match written {
                Ok(n) => self.written += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.out.clear();
        self.written = 0;
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.wants_write()) {
            match tls.write_tls(&mut self.stream) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
                Ok(_) => {}
            }
        }
        Ok(())
    }
}

/// Bytes that have come.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    from: usize,
    to: usize,
    /// Bytes of the frame that is coming.
    wanted: usize,
}

impl Inbox {
    fn room(&mut self) -> &mut [u8] {
        if self.from > 0 {
            self.bytes.copy_within(self.from..self.to, 0);
            self.to -= self.from;
            self.from = 0;
        }
        let least = self.wanted.max(self.to + 1).max(READ);
        if self.bytes.len() < least {
            self.bytes.resize(least, 0);
        }
        &mut self.bytes[self.to..]
    }

    /// The next frame, if it is there in full.
    fn next(&mut self) -> Result<Option<Frame<'_>>> {
        match frame::parse(&self.bytes[self.from..self.to], &FrameLimits::default())? {
            Parsed::Frame(frame, total) => {
                self.from += total;
                Ok(Some(frame))
            }
            Parsed::Incomplete(wanted) => {
                self.wanted = wanted;
                Ok(None)
            }
        }
    }
}

/// The requests under way on a connection, each with a note. An opaque is a slot plus a
/// multiple of the slots, so a late or double answer is told from that of a later request.
#[derive(Debug)]
pub struct Slots {
    slots: Vec<Option<(i32, u64)>>,
    free: Vec<u32>,
    round: u32,
}

impl Slots {
    fn new(slots: usize) -> Slots {
        let free = (0..slots as u32).rev().collect();
        Slots { slots: vec![None; slots], free, round: 0 }
    }

    pub fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// An opaque for a request; `None` if too many are under way.
    pub fn take(&mut self, note: u64) -> Option<i32> {
        let slot = self.free.pop()?;
        let slots = self.slots.len() as u32;
        self.round = if self.round + 1 < OPAQUES / slots { self.round + 1 } else { 0 };
        let opaque = FIRST_OPAQUE + (self.round * slots + slot) as i32;
        self.slots[slot as usize] = Some((opaque, note));
        Some(opaque)
    }

    /// The note of a request that was answered.
    pub fn answered(&mut self, opaque: i32) -> Result<u64> {
        let n = opaque.checked_sub(FIRST_OPAQUE).filter(|n| *n >= 0 && !self.slots.is_empty());
        let slot = n.ok_or(Error::Stray(opaque))? as usize % self.slots.len();
        match self.slots[slot].take_if(|(expected, _)| *expected == opaque) {
            Some((_, note)) => {
                self.free.push(slot as u32);
                Ok(note)
            }
            None => Err(Error::Stray(opaque)),
        }
    }
}

/// Waits for connections, and for a point of time more exactly than milliseconds.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
    events: Vec<EpollEvent>,
    timer: TimerFd,
    timeout: Duration,
    heard: Instant,
}

const TIMER: u64 = u64::MAX;

impl Poller {
    /// Watches `links`, known by their place. Nothing heard for `timeout` is an error.
    pub fn new<'a>(links: impl IntoIterator<Item = &'a Link>, timeout: Duration) -> Result<Poller> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, TIMER))?;
        let events = vec![EpollEvent::empty()];
        let mut poller = Poller { epoll, events, timer, timeout, heard: Instant::now() };
        for (n, link) in links.into_iter().enumerate() {
            poller.watch(&link.stream, n)?;
        }
        Ok(poller)
    }

    /// Watches one more.
    pub fn watch(&mut self, what: impl AsFd, n: usize) -> Result<()> {
        // Edges: every event is followed by reading and writing all there is.
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.events.push(EpollEvent::empty());
        Ok(self.epoll.add(what, EpollEvent::new(flags, n as u64))?)
    }

    /// Has the next wait end in `ns` at the latest.
    pub fn wake_in(&self, ns: u64) -> Result<()> {
        let time = TimeSpec::from_duration(Duration::from_nanos(ns.max(1)));
        Ok(self.timer.set(Expiration::OneShot(time), TimerSetTimeFlags::empty())?)
    }

    /// Waits up to `most`, and gives the links with news. `waiting` tells how many requests
    /// are under way; if there are some, somebody has to say something in time.
    pub fn wait(&mut self, most: Duration, waiting: usize) -> Result<impl Iterator<Item = usize>> {
        let ms = EpollTimeout::try_from(most).unwrap_or(EpollTimeout::ZERO);
        let n = match self.epoll.wait(&mut self.events, ms) {
            Ok(n) => n,
            Err(nix::Error::EINTR) => 0,
            Err(e) => return Err(e.into()),
        };
        if self.events[..n].iter().any(|e| e.data() != TIMER) || waiting == 0 {
            self.heard = Instant::now();
        } else if self.heard.elapsed() > self.timeout {
            return Err(Error::Silent { seconds: self.timeout.as_secs(), waiting });
        }
        Ok(self.events[..n]
            .iter()
            .map(EpollEvent::data)
            .filter(|t| *t != TIMER)
            .map(|t| t as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_opaque_comes_back_once() {
        let mut slots = Slots::new(2);
        let (a, b) = (slots.take(10).unwrap(), slots.take(20).unwrap());
        assert_eq!((slots.take(30), slots.under_way()), (None, 2));
        assert_eq!(slots.answered(a).unwrap(), 10);
        assert!(matches!(slots.answered(a), Err(Error::Stray(_))));
        let c = slots.take(40).unwrap();
        assert!(c != a && c != b && c >= FIRST_OPAQUE);
        assert!(matches!(slots.answered(a), Err(Error::Stray(_))));
        assert_eq!((slots.answered(c).unwrap(), slots.answered(b).unwrap()), (40, 20));
        for bad in [0, -1, i32::MIN, i32::MAX, FIRST_OPAQUE + 77] {
            assert!(slots.answered(bad).is_err());
        }
        slots.round = OPAQUES / 2 - 2;
        for _ in 0..4 {
            let opaque = slots.take(1).unwrap();
            assert!((FIRST_OPAQUE..FIRST_OPAQUE + OPAQUES as i32).contains(&opaque));
            slots.answered(opaque).unwrap();
        }
    }

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let frame = |n: u8| [0, 0, 0, 7, 0, 0, 0, 2, b'{', b'}', n];
        let all: Vec<u8> = (0..50).flat_map(frame).collect();
        for step in [1, 3, 11, 64, 1000] {
            let (mut inbox, mut seen) = (Inbox::default(), 0);
            for piece in all.chunks(step) {
                inbox.room()[..piece.len()].copy_from_slice(piece);
                inbox.to += piece.len();
                while let Some(frame) = inbox.next().unwrap() {
                    assert_eq!(frame.body, [seen]);
                    seen += 1;
                }
            }
            assert_eq!(seen, 50);
        }
    }
}
