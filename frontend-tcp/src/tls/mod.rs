//! TLS on the ports that clients come to, and on connections of our own: RocketMQ's modes and
//! settings ([`TlsConf`]).

mod files;
mod verify;

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, ClientConfig, ClientConnection, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::config::{TlsConf, TlsMode};
use crate::watch::Stamps;

/// What a TLS connection begins with, and no frame: a frame of so many bytes is over any limit.
const HANDSHAKE: u8 = 0x16;
/// Who has not shaken hands by then never will.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why TLS cannot be set up. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{0} is not set: with tls.test.mode.enable=false it has to name a PEM file")]
    NotSet(&'static str),
    #[error("{key}: cannot read {path}: {source}")]
    Read { key: &'static str, path: PathBuf, source: io::Error },
    #[error("{key}: {path} is no PEM file with {wanted}: {why}")]
    Content { key: &'static str, path: PathBuf, wanted: &'static str, why: String },
    #[error("TLS cannot be set up with these keys and certificates: {0}")]
    Rustls(#[from] rustls::Error),
    #[error("the certificate of the test mode cannot be made: {0}")]
    TestMode(#[from] rcgen::Error),
}

/// A connection, with TLS or without.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// The TLS of a port.
#[derive(Debug)]
pub struct Server {
    mode: TlsMode,
    conf: TlsConf,
    /// `None` if TLS connections cannot be served.
    config: RwLock<Option<Arc<ServerConfig>>>,
    seen: Mutex<Stamps>,
}

impl Default for Server {
    /// No TLS.
    fn default() -> Server {
        Server {
            mode: TlsMode::Disabled,
            conf: TlsConf::default(),
            config: RwLock::default(),
            seen: Mutex::default(),
        }
    }
}

impl Server {
    pub fn of(conf: &TlsConf) -> Result<Server, TlsError> {
        let seen = Mutex::new(files::stamps(conf));
        let config = match conf.mode {
            TlsMode::Disabled => None,
            TlsMode::Permissive | TlsMode::Enforcing => match files::server(conf) {
                Err(e @ TlsError::NotSet(_)) if conf.mode == TlsMode::Permissive => {
                    tracing::warn!("TLS connections are not served: {e}");
                    None
                }
                config => Some(config?),
            },
        };
        Ok(Server { mode: conf.mode, conf: conf.clone(), config: RwLock::new(config), seen })
    }

    /// Background step: takes new keys and certificates, if files have changed. If they cannot be
    /// used, all stays as it was.
    pub fn reload_step(&self) {
        let has_tls = self.config.read().unwrap_or_else(PoisonError::into_inner).is_some();
        if !has_tls || self.conf.test_mode {
            return;
        }
        let now = files::stamps(&self.conf);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == now {
            return;
        }
        match files::server(&self.conf) {
            Ok(config) => {
                tracing::info!("TLS keys and certificates are read again");
                *self.config.write().unwrap_or_else(PoisonError::into_inner) = Some(config);
            }
            Err(e) => tracing::error!("TLS keys and certificates stay as they were: {e}"),
        }
        *seen = now;
    }

    /// Finds out what a new connection is, and shakes hands if it is TLS. Waits for its first
    /// byte.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        if self.mode == TlsMode::Disabled {
            return Ok(Stream::Plain(stream));
        }
        let mut first = [0];
        stream.peek(&mut first).await?;
        let refused = |why: &str| Err(io::Error::new(io::ErrorKind::ConnectionRefused, why));
        if first[0] != HANDSHAKE {
            return match self.mode {
                TlsMode::Enforcing => refused("comes without TLS, which tls.server.mode enforces"),
                _ => Ok(Stream::Plain(stream)),
            };
        }
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(config) = config else { return refused("comes with TLS, which is not set up") };
        let accept = TlsAcceptor::from(config).accept(stream);
        let stream = tokio::time::timeout(PATIENCE, accept).await??;
        Ok(Stream::Tls(Box::new(TlsStream::Server(stream))))
    }
}

/// Makes connections of our own TLS ones.
#[derive(Clone, Debug)]
pub struct Connector(Arc<ClientConfig>);

impl Connector {
    pub fn of(conf: &TlsConf) -> Result<Connector, TlsError> {
        Ok(Connector(files::client(conf)?))
    }

    /// What a broker's connections to name servers are to use, if they are to use TLS.
    pub fn for_broker(conf: &TlsConf) -> Result<Option<Connector>, TlsError> {
        let wanted = conf.enable.unwrap_or(conf.mode == TlsMode::Enforcing);
        wanted.then(|| Connector::of(conf)).transpose()
    }

    /// Shakes hands with the server at "host:port".
    pub async fn connect(&self, addr: &str, stream: TcpStream) -> io::Result<Stream> {
        let stream = TlsConnector::from(self.0.clone()).connect(name(addr)?, stream).await?;
        Ok(Stream::Tls(Box::new(TlsStream::Client(stream))))
    }

    /// A session with the server at "host:port", for who does without an async runtime.
    pub fn session(&self, addr: &str) -> io::Result<ClientConnection> {
        ClientConnection::new(self.0.clone(), name(addr)?).map_err(io::Error::other)
    }
}

fn name(addr: &str) -> io::Result<ServerName<'static>> {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host).trim_matches(['[', ']']);
    ServerName::try_from(host.to_owned()).map_err(io::Error::other)
}
