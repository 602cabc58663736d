//! Tables for people, JSON lines for programs.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

/// Rows that are gathered before the widths of their columns are settled. What comes later may
/// widen a column, so lists of any length are written as they are found.
const ROWS_AT_ONCE: usize = 200;

/// Where the answers go.
pub struct Output {
    pub json: bool,
    to: BufWriter<Stdout>,
    columns: Vec<Column>,
    rows: Vec<Row>,
    header_is_due: bool,
    colours: bool,
}

struct Column {
    name: &'static str,
    title: &'static str,
    is_number: bool,
    width: usize,
}

/// What stands in a table.
pub enum Cell {
    Text(String),
    Number(i64),
    Bytes(u64),
    Time(Option<i64>),
    None,
}

impl Cell {
    /// A count or an offset; the files hold none that is larger than an i64.
    pub fn number(n: impl TryInto<i64>) -> Cell {
        Cell::Number(n.try_into().unwrap_or(i64::MAX))
    }

    pub fn text(&self) -> String {
        match self {
            Cell::Text(text) => text.clone(),
            Cell::Number(n) => n.to_string(),
            Cell::Bytes(n) => size(*n),
            Cell::Time(ms) => ms.map(super::time::local).unwrap_or_default(),
            Cell::None => "-".into(),
        }
    }

    pub fn json(&self) -> Value {
        match self {
            Cell::Text(text) => text.as_str().into(),
            Cell::Number(n) => (*n).into(),
            Cell::Bytes(n) => (*n).into(),
            Cell::Time(ms) => (*ms).into(),
            Cell::None => Value::Null,
        }
    }
}

struct Row {
    cells: Vec<String>,
    /// Lines that follow the row, indented.
    below: String,
}

impl Output {
    pub fn new(json: bool) -> Output {
        Output {
            json,
            to: BufWriter::new(io::stdout()),
            columns: Vec::new(),
            rows: Vec::new(),
            header_is_due: false,
            colours: !json && colours(),
        }
    }

    /// Bold red on a terminal.
    pub fn alarm(&self, text: &str) -> String {
        if self.colours { format!("\x1b[1;31m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Writes an object as a line.
    pub fn object(&mut self, object: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.to, object)?;
        self.to.write_all(b"\n")
    }

    /// Writes a line of text.
    pub fn line(&mut self, line: &str) -> io::Result<()> {
        self.flush_rows()?;
        writeln!(self.to, "{line}")
    }

    /// Begins a table: names for JSON and titles for people, with `>` before those of columns
    /// with numbers.
    pub fn table(&mut self, names_and_titles: &[(&'static str, &'static str)]) -> io::Result<()> {
        self.flush_rows()?;
        let column = |(name, t): &(&'static str, &'static str)| {
            let title = t.trim_start_matches('>');
            Column { name, title, is_number: t.starts_with('>'), width: title.width() }
        };
        self.columns = names_and_titles.iter().map(column).collect();
        self.header_is_due = !self.json;
        Ok(())
    }

    /// Adds a row to the table, or writes it as an object.
    pub fn item<const N: usize>(&mut self, cells: [Cell; N]) -> io::Result<()> {
        if !self.json {
            return self.row(cells.map(|c| c.text()), "");
        }
        let object: Vec<String> = std::iter::zip(&self.columns, &cells)
            .map(|(column, cell)| format!("\"{}\":{}", column.name, cell.json()))
            .collect();
        writeln!(self.to, "{{{}}}", object.join(","))
    }

    /// Adds a row to the table.
    pub fn row<const N: usize>(&mut self, cells: [String; N], below: &str) -> io::Result<()> {
        let cells: Vec<String> = cells.iter().map(|c| printable(c)).collect();
        for (column, cell) in self.columns.iter_mut().zip(&cells) {
            column.width = column.width.max(cell.width());
        }
        self.rows.push(Row { cells, below: below.to_owned() });
        if self.rows.len() >= ROWS_AT_ONCE { self.flush_rows() } else { Ok(()) }
    }

    fn flush_rows(&mut self) -> io::Result<()> {
        let mut is_header = false;
        if std::mem::take(&mut self.header_is_due) {
            let titles = self.columns.iter().map(|c| c.title.to_owned()).collect();
            self.rows.insert(0, Row { cells: titles, below: String::new() });
            is_header = self.colours;
        }
        for row in self.rows.drain(..) {
            let mut line = String::new();
            for (column, cell) in self.columns.iter().zip(&row.cells) {
                let pad = " ".repeat(column.width.saturating_sub(cell.width()));
                let (left, right) = if column.is_number { (&*pad, "") } else { ("", &*pad) };
                line.extend([left, cell, right, "  "]);
            }
            match std::mem::take(&mut is_header) {
                true => writeln!(self.to, "\x1b[1m{}\x1b[0m", line.trim_end())?,
                false => writeln!(self.to, "{}", line.trim_end())?,
            }
            for line in row.below.lines() {
                writeln!(self.to, "    {line}")?;
            }
        }
        Ok(())
    }

    /// Writes what is left.
    pub fn finish(&mut self) -> io::Result<()> {
        self.flush_rows()?;
        self.to.flush()
    }
}

/// Whether standard output is a terminal that shows colours to somebody who wants them.
pub fn colours() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    io::stdout().is_terminal()
        && !is_set("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// Text without anything that a terminal would take for a command.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A number with its thousands apart.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes, exactly and in short.
pub fn size(bytes: u64) -> String {
    let mut short = bytes as f64;
    let mut unit = "";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if short >= 1024.0 {
            short /= 1024.0;
            unit = next;
        }
    }
    match unit {
        "" => bytes.to_string(),
        _ => format!("{} ({short:.1} {unit})", count(bytes)),
    }
}

/// How far something is, on a terminal.
pub struct Progress {
    bar: ProgressBar,
    next: u64,
    step: u64,
}

impl Progress {
    /// Of `len` bytes, or of nobody knows how many if it is 0.
    pub fn new(what: &str, len: u64) -> Progress {
        let (bar, form) = match len {
            0 => (ProgressBar::new_spinner(), "{msg} {bytes} {bytes_per_sec}"),
            _ => {
                let form = "{msg} {bar:30} {percent}% {eta} left";
                (ProgressBar::new(len), form)
            }
        };
        // A form that is wrong shows a plain bar.
        if let Ok(style) = ProgressStyle::with_template(form) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        Progress { bar, next: 0, step: (len / 1000).max(1 << 16) }
    }

    /// Cheap enough for every message.
    pub fn at(&mut self, done: u64) {
        if done >= self.next {
            self.next = done + self.step;
            self.bar.set_position(done);
        }
    }

    /// Says something on stderr.
    pub fn tell(&self, what: &str) {
        self.bar.suspend(|| eprintln!("mq-store-inspect: {}", printable(what)));
    }

    pub fn clear(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_text() {
        assert_eq!([count(7), count(1000), count(1_234_567)], ["7", "1,000", "1,234,567"]);
        assert_eq!([size(1023), size(1_048_576)], ["1023", "1,048,576 (1.0 MiB)"]);
        assert_eq!(printable("a\u{1b}[2Jä\n"), "a\\u{1b}[2Jä\\n");
    }
}
