//! JSON as fastjson writes it: keys that are numbers stand without quotes, `{0:"a"}`.
//!
//! Old clients look for them so; serde_json quotes them.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};

/// Writes a value.
pub fn to_vec(value: &impl Serialize) -> Vec<u8> {
    let mut json = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut json, Unquoted::default());
    // Only a map whose keys are neither texts nor numbers fails, and there is none.
    let _ = value.serialize(&mut serializer);
    json
}

/// Writes a text's opening quote late: serde_json announces a numeric key as a text, and then
/// writes a number into it.
#[derive(Default)]
struct Unquoted {
    opening: bool,
    number: bool,
}

impl Unquoted {
    fn open(&mut self, writer: &mut (impl Write + ?Sized)) -> io::Result<()> {
        if std::mem::take(&mut self.opening) { writer.write_all(b"\"") } else { Ok(()) }
    }
}

macro_rules! numbers {
    ($($write:ident: $ty:ty,)*) => {$(
        fn $write<W: ?Sized + Write>(&mut self, writer: &mut W, n: $ty) -> io::Result<()> {
            self.number = std::mem::take(&mut self.opening);
            writer.write_all(itoa::Buffer::new().format(n).as_bytes())
        }
    )*};
}

impl Formatter for Unquoted {
    numbers! { write_i8: i8, write_i16: i16, write_i32: i32, write_i64: i64, write_u8: u8,
    write_u16: u16, write_u32: u32, write_u64: u64, }

    fn begin_string<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.opening = true;
        Ok(())
    }
    fn end_string<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer)?;
        if std::mem::take(&mut self.number) { Ok(()) } else { writer.write_all(b"\"") }
    }
    fn write_string_fragment<W: ?Sized + Write>(&mut self, w: &mut W, s: &str) -> io::Result<()> {
        self.open(w)?;
        w.write_all(s.as_bytes())
    }
    fn write_char_escape<W: ?Sized + Write>(&mut self, w: &mut W, c: CharEscape) -> io::Result<()> {
        self.open(w)?;
        serde_json::ser::CompactFormatter.write_char_escape(w, c)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn numeric_keys_stand_without_quotes() {
        #[derive(Serialize)]
        struct All {
            numbers: BTreeMap<i64, String>,
            texts: BTreeMap<&'static str, i32>,
        }
        let numbers = BTreeMap::from([(-1, String::new()), (2, "\"é\n".into())]);
        let texts = BTreeMap::from([("", 1), ("1", 2)]);
        let json = to_vec(&All { numbers, texts });
        assert_eq!(
            String::from_utf8(json).unwrap(),
            r#"{"numbers":{-1:"",2:"\"é\n"},"texts":{"":1,"1":2}}"#
        );
    }
}
