//! A small HTTP/1.1 server for [`super::answer`]: one request a connection, `GET` and `HEAD`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::answer;
use crate::handle::BrokerService;

/// A request with all its headers fits into so many bytes.
const MAX_REQUEST: usize = 8 << 10;
const MAX_HEADERS: usize = 64;
/// Connections at a time; others wait.
const AT_A_TIME: usize = 16;
/// Who has not sent a request, or read the answer, by then is cut off.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, service: Arc<BrokerService>) {
    let turns = Arc::new(Semaphore::new(AT_A_TIME));
    loop {
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let service = service.clone();
                tokio::spawn(async move {
                    let served = tokio::time::timeout(PATIENCE, one(stream, service)).await;
                    if let Err(e) = served.unwrap_or_else(|e| Err(e.into())) {
                        tracing::debug!("metrics for {peer}: {e}");
                    }
                    drop(turn);
                });
            }
            Err(e) => {
                tracing::error!("cannot accept connections for metrics: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn one(mut stream: TcpStream, service: Arc<BrokerService>) -> io::Result<()> {
    let mut request = Vec::new();
    let asked = loop {
        match parse(&request) {
            Ok(None) if request.len() < MAX_REQUEST => {}
            Ok(None) => break Err(431),
            Ok(Some(asked)) => break Ok(asked),
            Err(status) => break Err(status),
        }
        if (&mut stream).take(MAX_REQUEST as u64).read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    };
    let (status, kind, content, only_head) = match asked {
        Ok((only_head, path)) => {
            // A walk over all groups and topics: not on a thread that serves clients.
            let found = tokio::task::spawn_blocking(move || answer(&service, &path)).await;
            let (status, kind, content) = found.map_err(io::Error::other)?;
            (status, kind, content, only_head)
        }
        Err(status) => (status, "text/plain", String::new(), false),
    };
    let reason = match status {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Bad Request",
    };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        content.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if !only_head {
        stream.write_all(content.as_bytes()).await?;
    }
    stream.shutdown().await
}

/// Whether only the head is wanted, and the path; `None` if the request goes on; or the status
/// that refuses it.
fn parse(bytes: &[u8]) -> Result<Option<(bool, String)>, u16> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => return Ok(None),
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(431),
        Err(_) => return Err(400),
    }
    let path = request.path.unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path).to_owned();
    match request.method {
        Some("GET") => Ok(Some((false, path))),
        Some("HEAD") => Ok(Some((true, path))),
        _ => Err(405),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    #[test]
    fn requests() {
        let get = |path: &str| Ok(Some((false, path.to_owned())));
        assert_eq!(parse(b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"), get("/metrics"));
        assert_eq!(parse(b"HEAD / HTTP/1.0\r\n\r\n"), Ok(Some((true, "/".into()))));
        assert_eq!(parse(b"GET /metrics HTTP/1.1\r\nHost"), Ok(None));
        assert_eq!(parse(b"POST / HTTP/1.1\r\n\r\n"), Err(405));
        assert_eq!(parse(b"\x16\x03\x01\x02"), Err(400));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
        assert_eq!(parse(many.as_bytes()), Err(431));
    }

    quickcheck! {
        fn any_bytes(bytes: Vec<u8>) -> bool {
            let _ = parse(&bytes);
            true
        }
    }
}
