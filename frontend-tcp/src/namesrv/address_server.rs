//! Name servers whose addresses an HTTP server tells (`fetchNamesrvAddrByAddressServer`).

use std::fmt::{self, Display};
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::{BrokerConf, Servers, Setting};

const PATIENCE: Duration = Duration::from_secs(3);
/// An answer with all its headers fits into so many bytes.
const MAX_ANSWER: u64 = 64 << 10;
const MAX_HEADERS: usize = 64;

/// Where addresses are told: at `http://host/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressServer {
    /// host:port
    host: String,
    path: String,
}

impl Display for AddressServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.host, self.path)
    }
}

impl AddressServer {
    /// The one that a broker without `namesrvAddr` is to ask, if it is to ask one.
    pub fn of(conf: &BrokerConf) -> Option<AddressServer> {
        if !conf.fetch_namesrv_addr_by_address_server || !conf.namesrv_addr.0.is_empty() {
            return None;
        }
        let or = |key: &String, property: &String| {
            if key.is_empty() { property.clone() } else { key.clone() }
        };
        let domain = or(&conf.rmq_address_server_domain, &conf.namesrv_domain);
        let group = or(&conf.rmq_address_server_sub_group, &conf.namesrv_domain_subgroup);
        let host = if domain.contains(':') { domain } else { format!("{domain}:8080") };
        Some(AddressServer { host, path: format!("/rocketmq/{group}") })
    }

    /// Asks: the first line of the answer is "host:port;host:port".
    pub async fn fetch(&self) -> io::Result<Servers> {
        let answer = tokio::time::timeout(PATIENCE, self.get()).await??;
        parse(&answer).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))
    }

    async fn get(&self) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(&self.host).await?;
        // By HTTP/1.0 no answer comes in chunks, and each connection ends with its answer.
        let request = format!("GET {} HTTP/1.0\r\nHost: {}\r\n\r\n", self.path, self.host);
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        Ok(answer)
    }
}

fn parse(answer: &[u8]) -> Result<Servers, String> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let body = match response.parse(answer) {
        Ok(httparse::Status::Complete(at)) => &answer[at..],
        Ok(httparse::Status::Partial) => return Err("the answer ends too early".into()),
        Err(e) => return Err(format!("it does not answer as HTTP servers do: {e}")),
    };
    if response.code != Some(200) {
        return Err(format!("it answers {}", response.code.unwrap_or_default()));
    }
    let text = String::from_utf8_lossy(body);
    let line = text.trim().lines().next().unwrap_or_default();
    let servers = Servers::read(line).filter(|servers| !servers.0.is_empty());
    servers.ok_or_else(|| format!("it answers {line:?}, not {}", Servers::TAKES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    #[test]
    fn who_is_asked() {
        let mut conf = BrokerConf::default();
        assert_eq!(AddressServer::of(&conf), None);
        conf.put("fetchNamesrvAddrByAddressServer", "true").unwrap();
        let at = |conf: &BrokerConf| AddressServer::of(conf).unwrap().to_string();
        assert_eq!(at(&conf), "http://jmenv.tbsite.net:8080/rocketmq/nsaddr");
        conf.put("rocketmq.namesrv.domain", "names").unwrap();
        conf.put("rocketmq.namesrv.domain.subgroup", "test").unwrap();
        assert_eq!(at(&conf), "http://names:8080/rocketmq/test");
        conf.put("rmqAddressServerDomain", "other:80").unwrap();
        conf.put("rmqAddressServerSubGroup", "prod").unwrap();
        assert_eq!(at(&conf), "http://other:80/rocketmq/prod");
        conf.put("namesrvAddr", "a:1").unwrap();
        assert_eq!(AddressServer::of(&conf), None, "it is not asked when they are known");
    }

    #[test]
    fn answers() {
        let of = |answer: &str| parse(answer.as_bytes()).map(|servers| servers.0);
        let ok = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n";
        assert_eq!(of(&format!("{ok}\na:1;b:2\r\nmore")), Ok(vec!["a:1".into(), "b:2".into()]));
        for (answer, why) in [
            (ok, "it answers \"\", not name servers as host:port;host:port"),
            ("HTTP/1.1 404 Not Found\r\n\r\na:1", "it answers 404"),
            ("HTTP/1.1 200", "the answer ends too early"),
            ("hello\r\n\r\n", "it does not answer as HTTP servers do: invalid HTTP version"),
        ] {
            assert_eq!(of(answer), Err(why.into()));
        }
    }

    quickcheck! {
        fn any_bytes(bytes: Vec<u8>) -> bool {
            let _ = parse(&bytes);
            true
        }
    }
}
