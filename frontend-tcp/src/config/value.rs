//! The types that keys have.

use std::net::IpAddr;
use std::path::PathBuf;

/// A type that a key's value has.
pub trait Setting: Sized {
    /// What an error says that the key takes.
    const TAKES: &'static str;
    fn read(text: &str) -> Option<Self>;
    fn show(&self) -> String;
}

macro_rules! settings {
    ($($ty:ty: $takes:literal, $read:expr, $show:expr;)*) => {$(
        impl Setting for $ty {
            const TAKES: &'static str = $takes;
            fn read(text: &str) -> Option<Self> {
                let read: fn(&str) -> Option<$ty> = $read;
                read(text)
            }
            fn show(&self) -> String {
                let show: fn(&$ty) -> String = $show;
                show(self)
            }
        }
    )*};
}
settings! {
    u16: "a number from 0 to 65535", |t| t.parse().ok(), u16::to_string;
    u32: "a number", |t| t.parse().ok(), u32::to_string;
    i32: "a number", |t| t.parse().ok(), i32::to_string;
    i64: "a number", |t| t.parse().ok(), i64::to_string;
    u64: "a number", |t| t.parse().ok(), u64::to_string;
    usize: "a number", |t| t.parse().ok(), usize::to_string;
    bool: "true or false", |t| t.to_ascii_lowercase().parse().ok(), bool::to_string;
    String: "a text", |t| Some(t.to_owned()), Self::clone;
    IpAddr: "an IP address", |t| t.parse().ok(), IpAddr::to_string;
    Option<IpAddr>: "an IP address", |t| match t {
        "" => Some(None),
        _ => t.parse().ok().map(Some),
    }, |ip| ip.map(|ip| ip.to_string()).unwrap_or_default();
    PathBuf: "a path", |t| (!t.is_empty()).then(|| t.into()), |p| p.display().to_string();
    Option<PathBuf>: "a path", |t| Some(PathBuf::read(t)), |p| {
        p.as_ref().map(PathBuf::show).unwrap_or_default()
    };
    FlushDiskType: "ASYNC_FLUSH or SYNC_FLUSH", |t| match t {
        "ASYNC_FLUSH" => Some(FlushDiskType::Async),
        "SYNC_FLUSH" => Some(FlushDiskType::Sync),
        _ => None,
    }, |f| match f {
        FlushDiskType::Async => "ASYNC_FLUSH".into(),
        FlushDiskType::Sync => "SYNC_FLUSH".into(),
    };
    MetricsExporterType: "DISABLE or PROM", |t| match t {
        "DISABLE" => Some(MetricsExporterType::Disable),
        "PROM" => Some(MetricsExporterType::Prom),
        _ => None,
    }, |m| match m {
        MetricsExporterType::Disable => "DISABLE".into(),
        MetricsExporterType::Prom => "PROM".into(),
    };
    Labels: "labels as name:value,name:value", |t| {
        let list = split(t, &[',']).map(|label| {
            let (name, value) = label.split_once(':')?;
            let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let named = name.starts_with(|c: char| !c.is_ascii_digit()) && name.chars().all(good);
            named.then(|| (name.to_owned(), value.to_owned()))
        });
        Some(Labels(list.collect::<Option<_>>()?))
    }, |l| join(l.0.iter().map(|(name, value)| format!("{name}:{value}")), ",");
    Servers: "name servers as host:port;host:port", |t| {
        let list = split(t, &[';']).map(|a| {
            let (host, port) = a.rsplit_once(':')?;
            (!host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0)).then(|| a.to_owned())
        });
        Some(Servers(list.collect::<Option<_>>()?))
    }, |s| s.0.join(";");
    Hours: "hours of the day as 04 or 04;16", |t| {
        let list = split(t, &[';']).map(|h| h.parse().ok().filter(|h| *h < 24));
        Some(Hours(list.collect::<Option<Vec<u8>>>()?)).filter(|h| !h.0.is_empty())
    }, |h| join(h.0.iter().map(|h| format!("{h:02}")), ";");
    Secret: "a text", |t| Some(Secret(t.to_owned())), |s| {
        if s.0.is_empty() { String::new() } else { "******".into() }
    };
    TlsMode: "disabled, permissive or enforcing", |t| match t {
        "disabled" => Some(TlsMode::Disabled),
        "permissive" => Some(TlsMode::Permissive),
        "enforcing" => Some(TlsMode::Enforcing),
        _ => None,
    }, |m| format!("{m:?}").to_lowercase();
    ClientAuth: "none, optional or require", |t| match &*t.to_ascii_lowercase() {
        "none" | "" => Some(ClientAuth::None),
        "optional" => Some(ClientAuth::Optional),
        "require" => Some(ClientAuth::Require),
        _ => None,
    }, |a| format!("{a:?}").to_lowercase();
    Option<bool>: "true or false", |t| match t {
        "" => Some(None),
        _ => bool::read(t).map(Some),
    }, |b| b.map(|b| b.to_string()).unwrap_or_default();
    DelayLevels: "times parted by blanks, as 1s 5s 1m 2h 1d", |t| {
        let ms = split(t, &[' ', '\t']).map(|level| {
            let unit = match level.chars().last()? {
                's' => 1_000,
                'm' => 60_000,
                'h' => 3_600_000,
                'd' => 86_400_000,
                _ => return None,
            };
            level[..level.len() - 1].parse::<u32>().ok().map(|n| i64::from(n) * unit)
        });
        let ms = ms.collect::<Option<Vec<_>>>().filter(|ms| !ms.is_empty())?;
        Some(DelayLevels { ms, text: t.to_owned() })
    }, |d| d.text.clone();
    IpRanges: "IP addresses and ranges as 10.0.0.1,192.168.0.0/16", |t| {
        let list = split(t, &[',', ';', ' ']).map(|range| {
            let (ip, bits) = match range.split_once('/') {
                Some((ip, bits)) => (ip, Some(bits.parse::<u32>().ok()?)),
                None => (range, None),
            };
            let ip: IpAddr = ip.parse().ok()?;
            let most = if ip.is_ipv4() { 32 } else { 128 };
            Some((ip, bits.unwrap_or(most))).filter(|(_, bits)| *bits <= most)
        });
        Some(IpRanges(list.collect::<Option<_>>()?))
    }, |r| join(r.0.iter().map(|(ip, bits)| format!("{ip}/{bits}")), ",");
}

fn split<'a>(text: &'a str, at: &'a [char]) -> impl Iterator<Item = &'a str> {
    text.split(at).map(str::trim).filter(|part| !part.is_empty())
}

fn join(parts: impl Iterator<Item = String>, with: &str) -> String {
    parts.collect::<Vec<_>>().join(with)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushDiskType {
    Async,
    Sync,
}

/// How metrics leave the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsExporterType {
    Disable,
    /// Prometheus fetches them.
    Prom,
}

/// Labels of metrics, name and value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(pub Vec<(String, String)>);
/// A text that is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.show())
    }
}

/// What a port makes of connections that begin with a TLS handshake, and of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// TLS is refused.
    Disabled,
    /// Both are served.
    Permissive,
    /// Others are refused.
    Enforcing,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    None,
    Optional,
    Require,
}

/// Addresses of name servers, "host:port".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Servers(pub Vec<String>);

/// Hours of the day, 0 to 23.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours(pub Vec<u8>);

/// Delays of the levels, level 1 first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayLevels {
    pub ms: Vec<i64>,
    pub(super) text: String,
}

/// Addresses with how many of their bits count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpRanges(Vec<(IpAddr, u32)>);

impl IpRanges {
    pub fn contains(&self, ip: IpAddr) -> bool {
        // To 128 bits, with the bits that count at the top.
        let top = |ip: IpAddr| match ip.to_canonical() {
            IpAddr::V4(ip) => (true, u128::from(ip.to_bits()) << 96),
            IpAddr::V6(ip) => (false, ip.to_bits()),
        };
        let (v4, bits) = top(ip);
        self.0.iter().any(|(range, counted)| {
            let (range_v4, range_bits) = top(*range);
            let differ = (bits ^ range_bits).checked_shr(128 - counted).unwrap_or(0);
            v4 == range_v4 && differ == 0
        })
    }
}
