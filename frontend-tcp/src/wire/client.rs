//! A plain client: one request at a time, for talking to name servers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, lookup_host};

use super::command::{self, Command, Outgoing};
use super::frame::{self, Encoding, FrameLimits, Parsed};
use crate::acl::Credentials;
use crate::conn::Response;
use crate::tls::{Connector, Stream};

/// How a client protects its connection, and shows who it is.
#[derive(Clone, Debug, Default)]
pub struct Security {
    pub tls: Option<Connector>,
    pub credentials: Option<Credentials>,
}

/// Bytes of the buffers of a connection; 0 leaves them to the system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Buffers {
    pub receive: u32,
    pub send: u32,
}

impl Buffers {
    /// Connects to "host:port", trying each address that the name has.
    async fn connect(&self, addr: &str) -> io::Result<TcpStream> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, format!("{addr} has no address"));
        for at in lookup_host(addr).await? {
            match self.connect_to(at).await {
                Ok(stream) => return Ok(stream),
                Err(e) => failed = e,
            }
        }
        Err(failed)
    }

    async fn connect_to(&self, addr: SocketAddr) -> io::Result<TcpStream> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if self.receive > 0 {
            socket.set_recv_buffer_size(self.receive)?;
        }
        if self.send > 0 {
            socket.set_send_buffer_size(self.send)?;
        }
        socket.connect(addr).await
    }
}

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    credentials: Option<Credentials>,
    buf: BytesMut,
    opaque: i32,
}

impl Client {
    /// Connects to "host:port", without TLS and signatures.
    pub async fn connect(addr: &str, timeout: Duration) -> io::Result<Client> {
        Client::connect_with(addr, timeout, &Security::default()).await
    }

    /// Connects to "host:port".
    pub async fn connect_with(
        addr: &str,
        timeout: Duration,
        security: &Security,
    ) -> io::Result<Client> {
        Client::connect_by(addr, timeout, security, Buffers::default()).await
    }

    /// Connects to "host:port", with buffers of these sizes.
    pub async fn connect_by(
        addr: &str,
        timeout: Duration,
        security: &Security,
        buffers: Buffers,
    ) -> io::Result<Client> {
        let connect = async {
            let stream = buffers.connect(addr).await?;
            stream.set_nodelay(true)?;
            match &security.tls {
                Some(tls) => tls.connect(addr, stream).await,
                None => Ok(Stream::Plain(stream)),
            }
        };
        let stream = tokio::time::timeout(timeout, connect).await??;
        let credentials = security.credentials.clone();
        Ok(Client { stream, credentials, buf: BytesMut::new(), opaque: 0 })
    }

    /// Asks, and waits for the answer. After an error the client is of no more use.
    pub async fn call(&mut self, command: &Command, timeout: Duration) -> io::Result<Response> {
        tokio::time::timeout(timeout, self.exchange(command)).await?
    }

    /// Waits until the server ends the connection.
    pub async fn ended(&mut self) {
        while self.stream.read_buf(&mut self.buf).await.is_ok_and(|n| n > 0) {
            // Nothing is expected: what a server asks of its own accord is not answered.
            self.buf.clear();
        }
    }

    async fn exchange(&mut self, command: &Command) -> io::Result<Response> {
        self.opaque = self.opaque.wrapping_add(1);
        let mut out = Outgoing::default();
        let mut signed = None;
        let command = match &self.credentials {
            Some(credentials) => {
                let command = signed.insert(command.clone());
                credentials.sign(command);
                command
            }
            None => command,
        };
        command.encode_request(self.opaque, false, Encoding::Json, &mut out);
        // A request of ours has no records in it.
        self.stream.write_all(&out.bytes).await?;
        self.stream.flush().await?;
        loop {
            if let Some(response) = self.take_response()? {
                return Ok(response);
            }
            if self.stream.read_buf(&mut self.buf).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The answer to the last request, if it has arrived. Everything else is passed by.
    fn take_response(&mut self) -> io::Result<Option<Response>> {
        let bad =
            |e: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
        loop {
            let parsed = frame::parse(&self.buf, &FrameLimits::default()).map_err(|e| bad(&e))?;
            let Parsed::Frame(frame, total) = parsed else { return Ok(None) };
            let head = command::decode(frame.encoding, frame.header).map_err(|e| bad(&e))?;
            let response = (head.is_response() && head.opaque == self.opaque)
                .then(|| Response::of(&head, frame.body));
            self.buf.advance(total);
            if response.is_some() {
                return Ok(response);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_connection_has_the_buffers_that_are_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let of = async |buffers: Buffers| {
            let stream = buffers.connect(&addr).await.unwrap().into_std().unwrap();
            let socket = TcpSocket::from_std_stream(stream);
            (socket.recv_buffer_size().unwrap(), socket.send_buffer_size().unwrap())
        };
        let got = of(Buffers { receive: 30_000, send: 20_000 }).await;
        // Linux takes as much again for itself.
        assert!([30_000, 60_000].contains(&got.0) && [20_000, 40_000].contains(&got.1), "{got:?}");
        assert_ne!(of(Buffers::default()).await, got);
    }
}
