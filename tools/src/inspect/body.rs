//! Bodies: uncompressed and made visible.

use std::borrow::Cow;
use std::fmt::Write;
use std::io::Read;

use mq_store::codec::record::{Record, sys_flag};
use serde_json::Value;

/// Bits of the sysFlag that say how a compressed body was compressed (5.x).
const KIND: i32 = 0x700;
/// No more than this is unpacked: a few bytes can be made to say they are terabytes.
const MAX_PLAIN: u64 = 64 << 20;
/// Rows of a hex dump.
const MAX_HEX: usize = 64 << 10;

/// How to show a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// JSON or text if it is that, else a hex dump.
    Auto,
    /// Text; bytes that are none are replaced.
    Text,
    /// JSON, indented.
    Json,
    /// A hex dump of the uncompressed bytes.
    Hex,
}

/// The name of what compressed the body; `None` if nothing did.
pub fn compression(record: &Record<'_>) -> Option<&'static str> {
    let flags = record.sys_flag();
    if flags & sys_flag::COMPRESSED == 0 {
        return None;
    }
    Some(match flags & KIND {
        0x100 => "lz4",
        0x200 => "zstd",
        _ => "zlib",
    })
}

/// The uncompressed body.
pub fn plain<'a>(record: &Record<'a>) -> Result<Cow<'a, [u8]>, String> {
    let body = record.body();
    let Some(kind) = compression(record) else { return Ok(Cow::Borrowed(body)) };
    let mut plain = Vec::new();
    let read = match kind {
        "lz4" => {
            lz4_flex::frame::FrameDecoder::new(body).take(MAX_PLAIN + 1).read_to_end(&mut plain)
        }
        "zstd" => zstd::stream::read::Decoder::new(body)
            .and_then(|d| d.take(MAX_PLAIN + 1).read_to_end(&mut plain)),
        _ => flate2::read::ZlibDecoder::new(body).take(MAX_PLAIN + 1).read_to_end(&mut plain),
    };
    match read {
        Ok(n) if n as u64 > MAX_PLAIN => Err(format!("{kind}: more than {MAX_PLAIN} bytes")),
        Ok(_) => Ok(Cow::Owned(plain)),
        Err(e) => Err(format!("{kind}: {e}")),
    }
}

/// A body as text, and what it was taken for.
pub fn show(bytes: &[u8], form: Form) -> (&'static str, String) {
    let text = std::str::from_utf8(bytes).ok();
    let json = || {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        (value.is_object() || value.is_array())
            .then(|| serde_json::to_string_pretty(&value).ok())?
    };
    let visible = |t: &&str| t.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t'));
    match form {
        Form::Auto | Form::Json if let Some(json) = json() => ("JSON", json),
        Form::Auto if let Some(text) = text.filter(visible) => ("text", text.to_owned()),
        Form::Text => ("text", clean(&String::from_utf8_lossy(bytes))),
        Form::Json => ("not JSON", hex(bytes)),
        Form::Auto | Form::Hex => ("bytes", hex(bytes)),
    }
}

/// The beginning of a body on one line.
pub fn one_line(bytes: &[u8], max: usize) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(max)]);
    let more = if bytes.len() > max { "…" } else { "" };
    format!("{}{more}", super::output::printable(text.trim_end_matches('\u{fffd}')))
}

/// Lines stay lines, all else that would move the cursor is escaped.
fn clean(text: &str) -> String {
    text.split('\n').map(super::output::printable).collect::<Vec<_>>().join("\n")
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (n, row) in bytes.chunks(16).take(MAX_HEX).enumerate() {
        let _ = write!(out, "{:08x} ", n * 16);
        for at in 0..16 {
            let _ = match row.get(at) {
                Some(byte) => write!(out, " {byte:02x}"),
                None => write!(out, "   "),
            };
        }
        let ascii = |b: &u8| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' };
        let _ = writeln!(out, "  {}", row.iter().map(ascii).collect::<String>());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(show(b"{\"a\":1}", Form::Auto), ("JSON", "{\n  \"a\": 1\n}".into()));
        assert_eq!(show("grün".as_bytes(), Form::Auto), ("text", "grün".into()));
        assert_eq!(show(b"a\x1b\nb", Form::Text), ("text", "a\\u{1b}\nb".into()));
        let dump = "00000000  00 41                                            .A\n";
        assert_eq!(show(b"\0A", Form::Auto), ("bytes", dump.into()));
        assert_eq!(show(b"1", Form::Json).0, "not JSON");
        assert_eq!(one_line("aäb\n".as_bytes(), 2), "a…");
    }
}
