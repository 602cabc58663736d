//! The JSON headers that clients write, read in one pass: an object of texts, numbers and one
//! object of texts, nothing between them. Whatever else JSON allows is left to serde.

use std::borrow::Cow;

use memchr::memchr2;

use super::command::Head;
use super::fields::Fields;

/// Reads a header; `None` if it is not as plain as that, or no header at all.
pub(super) fn head(header: &[u8]) -> Option<Head<'_>> {
    let text = std::str::from_utf8(header).ok()?.trim_ascii_end();
    let mut s = Scan { text, at: 0 };
    let mut head = Head::default();
    s.object(|s, name| {
        match &*name {
            "code" => head.code = s.number()?,
            "language" => head.language = s.text()?,
            "version" => head.version = s.number()?,
            "opaque" => head.opaque = s.number()?,
            "flag" => head.flag = s.number()?,
            "remark" => head.remark = Some(s.text()?).filter(|r| !r.is_empty()),
            "serializeTypeCurrentRPC" => drop(s.text()?),
            "extFields" => {
                let mut fields = Vec::with_capacity(16);
                s.object(|s, name| {
                    fields.push((name, s.text()?));
                    Some(())
                })?;
                head.fields = Fields(fields);
            }
            _ => return None,
        }
        Some(())
    })?;
    (s.at == text.len()).then_some(head)
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn next(&mut self) -> Option<u8> {
        let byte = self.text.as_bytes().get(self.at).copied();
        self.at += 1;
        byte
    }

    fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, Cow<'a, str>) -> Option<()>,
    ) -> Option<()> {
        if self.next()? != b'{' {
            return None;
        }
        if self.text.as_bytes().get(self.at) == Some(&b'}') {
            self.at += 1;
            return Some(());
        }
        loop {
            let name = self.text()?;
            if self.next()? != b':' {
                return None;
            }
            member(self, name)?;
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn number(&mut self) -> Option<i32> {
        let rest = self.text.get(self.at..)?;
        let len = rest.bytes().position(|b| !matches!(b, b'0'..=b'9' | b'-'))?;
        self.at += len;
        let digits = &rest[..len];
        // JSON has no zeros in front.
        let unsigned = digits.strip_prefix('-').unwrap_or(digits);
        if unsigned.len() > 1 && unsigned.starts_with('0') {
            return None;
        }
        digits.parse().ok()
    }

    fn text(&mut self) -> Option<Cow<'a, str>> {
        if self.next()? != b'"' {
            return None;
        }
        let rest = self.text.get(self.at..)?;
        let end = memchr2(b'"', b'\\', rest.as_bytes())?;
        if rest.as_bytes()[end] == b'"' {
            self.at += end + 1;
            return Some(Cow::Borrowed(&rest[..end]));
        }
        let mut out = String::with_capacity(rest.len().min(1024));
        let mut rest = rest;
        loop {
            let at = memchr2(b'"', b'\\', rest.as_bytes())?;
            out.push_str(&rest[..at]);
            let escape = &rest[at..];
            if escape.starts_with('"') {
                self.at = self.text.len() - escape.len() + 1;
                return Some(Cow::Owned(out));
            }
            let (plain, len) = match escape.as_bytes().get(1)? {
                // Half of a pair is no char: rare enough for serde.
                b'u' => (char::from_u32(u32::from_str_radix(hex(escape)?, 16).ok()?)?, 6),
                b'n' => ('\n', 2),
                b't' => ('\t', 2),
                b'r' => ('\r', 2),
                same @ (b'"' | b'\\' | b'/') => (char::from(*same), 2),
                _ => return None,
            };
            out.push(plain);
            rest = &escape[len..];
        }
    }
}

/// The four digits of `\u0000`.
fn hex(escape: &str) -> Option<&str> {
    escape.get(2..6).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}
