//! Address patterns of white lists: `*`, `10.0.0.1`, `10.0.*.*`, `10.0.1-20.*`,
//! `10.0.0.{1,2}`, `10.0.0.1,10.0.0.2`, and the same with IPv6 addresses.

use std::net::IpAddr;

/// The addresses that a pattern names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(Vec<Group>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Group {
    Any,
    /// A range for each part of an address: 4 for IPv4, 8 for IPv6.
    Parts(Vec<(u16, u16)>),
}

impl Addresses {
    /// Reads a pattern; one that is blank names nobody. `None` if it is no pattern.
    pub fn parse(text: &str) -> Option<Addresses> {
        let text = text.trim();
        if text.is_empty() {
            return Some(Addresses::default());
        }
        if matches!(text, "*" | "*.*.*.*" | "*:*:*:*:*:*:*:*") {
            return Some(Addresses(vec![Group::Any]));
        }
        let (head, list) = match text.strip_suffix('}') {
            Some(text) => text.split_once('{')?,
            None => ("", text),
        };
        let parse = |part: &str| Some(Group::Parts(parts(&format!("{head}{}", part.trim()))?));
        Some(Addresses(list.split(',').map(parse).collect::<Option<_>>()?))
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|group| match (group, ip.to_canonical()) {
            (Group::Any, _) => true,
            (Group::Parts(parts), IpAddr::V4(ip)) if parts.len() == 4 => {
                parts.iter().zip(ip.octets()).all(|(p, n)| p.0 <= n.into() && p.1 >= n.into())
            }
            (Group::Parts(parts), IpAddr::V6(ip)) if parts.len() == 8 => {
                parts.iter().zip(ip.segments()).all(|(p, n)| p.0 <= n && p.1 >= n)
            }
            _ => false,
        })
    }
}

fn parts(text: &str) -> Option<Vec<(u16, u16)>> {
    if !text.contains(':') {
        let parts = text.split('.').map(|part| range(part, 10, 255));
        return parts.collect::<Option<Vec<_>>>().filter(|parts| parts.len() == 4);
    }
    let split = |text: &str| -> Option<Vec<_>> {
        let parts = text.split(':').filter(|_| !text.is_empty());
        parts.map(|part| range(part, 16, u16::MAX)).collect()
    };
    match text.split_once("::") {
        None => split(text).filter(|parts| parts.len() == 8),
        Some((left, right)) => {
            let (mut parts, right) = (split(left)?, split(right)?);
            let zeros = 8usize.checked_sub(parts.len() + right.len()).filter(|n| *n > 0)?;
            parts.extend(std::iter::repeat_n((0, 0), zeros));
            parts.extend(right);
            Some(parts)
        }
    }
}

/// `*`, a number, or two with a dash between them.
fn range(text: &str, radix: u32, most: u16) -> Option<(u16, u16)> {
    let number = |text: &str| {
        let text = text.trim();
        let digits = text.chars().all(|c| c.is_digit(radix));
        u16::from_str_radix(text, radix).ok().filter(|n| digits && *n <= most)
    };
    if text.trim() == "*" {
        return Some((0, most));
    }
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    Some((number(from)?, number(to)?)).filter(|(from, to)| from <= to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    #[test]
    fn patterns() {
        #[rustfmt::skip]
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("", &[], &["10.0.0.1", "::1"]),
            ("*", &["10.0.0.1", "::1"], &[]),
            ("*.*.*.*", &["10.0.0.1", "::1"], &[]),
            ("*:*:*:*:*:*:*:*", &["10.0.0.1", "::1"], &[]),
            ("10.0.0.1", &["10.0.0.1", "::ffff:10.0.0.1"], &["10.0.0.11", "10.0.0.2", "::1"]),
            ("10.0.0.*", &["10.0.0.0", "10.0.0.255"], &["10.0.1.1"]),
            ("10.0.*.*", &["10.0.9.9"], &["10.1.0.0"]),
            ("10.0.0.5-20", &["10.0.0.5", "10.0.0.20"], &["10.0.0.4", "10.0.0.21"]),
            ("10.0.5-20.*", &["10.0.5.1", "10.0.20.255"], &["10.0.4.1", "10.0.21.0"]),
            ("10.0.0.{1,3}", &["10.0.0.1", "10.0.0.3"], &["10.0.0.2"]),
            ("10.0.0.1,10.0.0.3", &["10.0.0.1", "10.0.0.3"], &["10.0.0.2"]),
            ("::1", &["::1"], &["::2", "0.0.0.1"]),
            ("2001:db8:0:0:0:0:0:1", &["2001:DB8::1"], &["2001:db8::2"]),
            ("2001:db8::*", &["2001:db8::abcd"], &["2001:db8::1:0"]),
            ("2001:db8::1-200:*", &["2001:db8::1:7", "2001:db8::200:7"], &["2001:db8::201:7"]),
            ("2001:db8::{1,a}", &["2001:db8::1", "2001:db8::a"], &["2001:db8::2"]),
            ("2001:db8::1,10.0.0.1", &["2001:db8::1", "10.0.0.1"], &["2001:db8::2"]),
        ];
        for (pattern, inside, outside) in cases {
            let addresses = Addresses::parse(pattern).unwrap_or_else(|| panic!("{pattern}"));
            for (ips, expected) in [(inside, true), (outside, false)] {
                for ip in *ips {
                    assert_eq!(addresses.contains(ip.parse().unwrap()), expected, "{pattern} {ip}");
                }
            }
        }
        for bad in [
            "10.0.0",
            "10.0.0.256",
            "10.0.0.x",
            "10.0.0.9-1",
            "10.0.0.{1,",
            "10.0.0.-1",
            "a",
            "::1::",
            "1:2:3:4:5:6:7:8:9",
            "1:2:3:4:5:6:7",
            "10.0.0.{1,x}",
            "10.0.0.1,",
            "10000::g",
            "+1.0.0.0",
            "1:2:3:4::5:6:7:8",
        ] {
            assert_eq!(Addresses::parse(bad), None, "{bad}");
        }
    }

    quickcheck! {
        fn any_text(text: String) -> bool {
            Addresses::parse(&text).is_none_or(|a| !a.contains([10, 0, 0, 1].into()) || text != "x")
        }
    }
}
