//! A plain client: one request at a time, for talking to name servers.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
        let connect = async {
            let stream = TcpStream::connect(addr).await?;
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
