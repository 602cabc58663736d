//! Properties files, as Java reads them; settings that were changed at run time, kept in one.

use std::collections::BTreeMap;
use std::path::Path;

use mq_store::os::fs::Fs;

/// One pair of a properties file, with the line it begins on, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub line: usize,
    pub key: String,
    pub value: String,
}

/// Reads the text of a `java.util.Properties` file. An error has the line.
pub fn read_properties(text: &str) -> Result<Vec<Entry>, (usize, String)> {
    const SPACE: [char; 3] = [' ', '\t', '\x0c'];
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let mut lines = text.split(['\n', '\r']).zip(1..);
    let mut entries = Vec::new();
    while let Some((first, line)) = lines.next() {
        let mut whole = first.trim_start_matches(SPACE).to_owned();
        if whole.is_empty() || whole.starts_with(['#', '!']) {
            continue;
        }
        // A backslash at the end that no other one escapes: the next line belongs to this one.
        while (whole.len() - whole.trim_end_matches('\\').len()) % 2 == 1 {
            whole.pop();
            match lines.next() {
                Some((next, _)) => whole.push_str(next.trim_start_matches(SPACE)),
                None => break,
            }
        }
        let mut escaped = false;
        let key_end = whole.find(|c| {
            let ends = !escaped && (matches!(c, '=' | ':') || SPACE.contains(&c));
            escaped = !escaped && c == '\\';
            ends
        });
        let (key, rest) = whole.split_at(key_end.unwrap_or(whole.len()));
        let rest = rest.trim_start_matches(SPACE);
        let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start_matches(SPACE);
        let unescape = |text| unescape(text).map_err(|e| (line, e));
        entries.push(Entry { line, key: unescape(key)?, value: unescape(rest)? });
    }
    Ok(entries)
}

/// Settings that were changed while a server ran. They outlive it.
pub type Kept = BTreeMap<String, String>;

/// Reads them; none if the file is not there, or is no properties file.
pub fn read_kept(file: &Path) -> Kept {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let entries = read_properties(&text).unwrap_or_default();
    entries.into_iter().map(|e| (e.key, e.value)).collect()
}

/// Returns when they are on the disk.
pub fn write_kept(fs: &Fs, file: &Path, kept: &Kept) -> mq_store::Result<()> {
    let lines: String = kept.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    // A new store has no such folder yet.
    fs.create_dir(file.parent().unwrap_or(Path::new(".")))?;
    fs.replace(file, lines.as_bytes(), None)
}

fn unescape(text: &str) -> Result<String, String> {
    let mut units = Vec::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let c = match c {
            '\\' => match rest.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\x0c',
                Some('u') => {
                    let hex = rest.as_str().get(..4).filter(|h| !h.starts_with('+'));
                    let unit = hex.and_then(|h| u16::from_str_radix(h, 16).ok());
                    units.push(unit.ok_or("\\u wants four hexadecimal digits behind it")?);
                    rest.nth(3);
                    continue;
                }
                Some(other) => other,
                None => break,
            },
            c => c,
        };
        units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
    }
    Ok(String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_as_java_reads_them() {
        let text = "\u{feff}# c\r\n! c\n\n  a=1\nb : 2\r\nc\t3\n d\\ e\\=f = x=y \\\n   z\\\\\n\
            empty\nu=\\u00e9\\uD83D\\uDE00\\t|\\q\nk=#no\\";
        let entries = read_properties(text).unwrap();
        let entries: Vec<_> = entries.iter().map(|e| (e.line, &*e.key, &*e.value)).collect();
        assert_eq!(
            entries,
            [
                (4, "a", "1"),
                (5, "b", "2"),
                (6, "c", "3"),
                (7, "d e=f", "x=y z\\"),
                (9, "empty", ""),
                (10, "u", "é😀\t|q"),
                (11, "k", "#no"),
            ]
        );
        assert_eq!(read_properties("a=1\nb=\\u12").unwrap_err().0, 2);
        assert_eq!(read_properties("b=\\u+123").unwrap_err().0, 1);
    }
}
