//! The dialect of JSON that fastjson reads and writes: the config files of the Java broker.
//!
//! Beyond JSON it takes keys without quotes (`0:17` is what the Java broker writes for maps
//! with numeric keys), single quotes, `//` and `/* */` comments, commas too many, control
//! characters in strings, and the escapes `\'`, `\v`, `\0` to `\7` and `\x41`. Of a key given
//! twice the last counts. A key may be an object (`{{"queueId":0}:5}`): it is taken as the
//! text of its JSON, names in order.

use serde_json::{Map, Value};

/// Objects and lists within each other; no config file comes near.
const MAX_DEPTH: usize = 128;

/// Why a text is not JSON, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct LenientJsonError {
    /// Byte of the text.
    pub at: usize,
    /// Counted from 1; columns in characters.
    pub line: usize,
    pub column: usize,
    pub what: &'static str,
}

/// Reads one value, with nothing but space and comments around it.
pub fn parse(text: &str) -> Result<Value, LenientJsonError> {
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser { rest: body, depth: 0 };
    let value = parser.document();
    value.map_err(|what| {
        let at = text.len() - parser.rest.len();
        let before = &text[..at];
        let line_start = before.rfind('\n').map_or(0, |n| n + 1);
        LenientJsonError {
            at,
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            what,
        }
    })
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

type Parsed<T> = Result<T, &'static str>;

impl<'a> Parser<'a> {
    fn document(&mut self) -> Parsed<Value> {
        self.skip_space()?;
        let value = self.value()?;
        self.skip_space()?;
        if self.rest.is_empty() { Ok(value) } else { Err("more text behind the value") }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self, wanted: char) -> bool {
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let len = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    fn skip_space(&mut self) -> Parsed<()> {
        loop {
            self.take_while(char::is_whitespace);
            if let Some(comment) = self.rest.strip_prefix("/*") {
                let end = comment.find("*/").ok_or("a comment without an end")?;
                self.rest = &comment[end + 2..];
            } else if self.rest.starts_with("//") {
                self.take_while(|c| c != '\n');
            } else {
                return Ok(());
            }
        }
    }

    fn value(&mut self) -> Parsed<Value> {
        match self.peek() {
            None => Err("the text ends where a value should be"),
            Some('{') => self.nested('}', Parser::object),
            Some('[') => self.nested(']', Parser::list),
            Some('"' | '\'') => self.string().map(Value::String),
            Some(_) => self.word(),
        }
    }

    fn nested(&mut self, end: char, read: fn(&mut Self, char) -> Parsed<Value>) -> Parsed<Value> {
        if self.depth == MAX_DEPTH {
            return Err("too many levels within each other");
        }
        self.depth += 1;
        self.rest = &self.rest[1..];
        let value = read(self, end);
        self.depth -= 1;
        value
    }

    /// Space, comments and commas before an item; true at the end of the list or object.
    fn at_end(&mut self, end: char) -> Parsed<bool> {
        loop {
            self.skip_space()?;
            if !self.take(',') {
                return Ok(self.take(end));
            }
        }
    }

    fn object(&mut self, end: char) -> Parsed<Value> {
        let mut map = Map::new();
        while !self.at_end(end)? {
            let key = match self.peek() {
                None => return Err("the text ends within an object"),
                Some('"' | '\'') => self.string()?,
                Some('{') => self.value()?.to_string(),
                Some(_) => match self.take_while(is_word) {
                    "" => return Err("no key of an object"),
                    word => word.to_owned(),
                },
            };
            self.skip_space()?;
            if !self.take(':') {
                return Err("no colon behind a key");
            }
            self.skip_space()?;
            map.insert(key, self.value()?);
            self.behind_item(end)?;
        }
        Ok(Value::Object(map))
    }

    fn list(&mut self, end: char) -> Parsed<Value> {
        let mut list = Vec::new();
        while !self.at_end(end)? {
            list.push(self.value()?);
            self.behind_item(end)?;
        }
        Ok(Value::Array(list))
    }

    fn behind_item(&mut self, end: char) -> Parsed<()> {
        self.skip_space()?;
        match self.peek() {
            Some(c) if c == ',' || c == end => Ok(()),
            None => Err("the text ends within an object or list"),
            Some(_) => Err("neither a comma nor the end behind an item"),
        }
    }

    fn word(&mut self) -> Parsed<Value> {
        let before = self.rest;
        let word = self.take_while(is_word);
        let value = match word {
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            "null" => Some(Value::Null),
            _ => word.strip_prefix('+').unwrap_or(word).parse().ok().map(Value::Number),
        };
        value.ok_or_else(|| {
            self.rest = before;
            "no value"
        })
    }

    fn string(&mut self) -> Parsed<String> {
        let quote = if self.rest.starts_with('"') { '"' } else { '\'' };
        self.take(quote);
        let mut out = String::new();
        loop {
            out.push_str(self.take_while(|c| c != quote && c != '\\'));
            if self.take(quote) {
                return Ok(out);
            }
            if !self.take('\\') {
                return Err("a string without an end");
            }
            out.push(self.escaped()?);
        }
    }

    fn escaped(&mut self) -> Parsed<char> {
        let c = self.peek().ok_or("a string without an end")?;
        self.rest = &self.rest[c.len_utf8()..];
        Ok(match c {
            'b' => '\u{8}',
            'f' | 'F' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '0'..='7' => char::from(c as u8 - b'0'),
            'x' => char::from(self.hex(2)? as u8),
            'u' => self.unit()?,
            '"' | '\'' | '\\' | '/' => c,
            _ => return Err("an unknown escape in a string"),
        })
    }

    /// Behind `\u`: one UTF-16 unit, or two that belong together. One that stands alone where
    /// it must not is no character.
    fn unit(&mut self) -> Parsed<char> {
        let first = self.hex(4)?;
        if !(0xD800..0xDC00).contains(&first) {
            return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let behind = self.rest;
        if let Some(rest) = self.rest.strip_prefix("\\u") {
            self.rest = rest;
            let second = self.hex(4)?;
            if (0xDC00..0xE000).contains(&second) {
                let both = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                return Ok(char::from_u32(both).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
        }
        self.rest = behind;
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hex(&mut self, digits: usize) -> Parsed<u32> {
        let text = self.rest.get(..digits).filter(|t| t.bytes().all(|b| b.is_ascii_hexdigit()));
        let number = text.and_then(|t| u32::from_str_radix(t, 16).ok());
        let number = number.ok_or("an escape without its hexadecimal digits")?;
        self.rest = &self.rest[digits..];
        Ok(number)
    }
}

/// What keys without quotes, numbers and names of values are made of.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$' | '-' | '+' | '.' | '%' | '@' | '|')
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;
    use serde_json::json;

    #[test]
    fn config_files_of_the_java_broker() {
        let text = "{\n\t\"offsetTable\":{\"OrderSteps@G_steps\":{0:17,1:12,2:11},\
                    \"%RETRY%G_retry@G_retry\":{0:66}\n\t}\n}";
        let value = json!({"offsetTable": {
            "OrderSteps@G_steps": {"0": 17, "1": 12, "2": 11},
            "%RETRY%G_retry@G_retry": {"0": 66},
        }});
        assert_eq!(parse(text), Ok(value));
    }

    #[test]
    fn everything_fastjson_lets_through() {
        let text = "\u{feff} // head\n{ a : 'it\\'s', /* b */ b_1: [1, -2.5e3,, true,], \
                    -1: null, 'c': \"\\u00e4\\x41\\ud83d\\ude00\\ud83dx\ty\", a: {}, }  ";
        let value = json!({
            "a": {}, "b_1": [1, -2500.0, true], "-1": null, "c": "äA😀\u{fffd}x\ty",
        });
        assert_eq!(parse(text), Ok(value));
        assert_eq!(parse("9223372036854775807"), Ok(json!(i64::MAX)));
        assert_eq!(parse("''"), Ok(json!("")));
        assert_eq!(parse("{{b:1, 'a':2}:5}"), Ok(json!({"{\"a\":2,\"b\":1}": 5})));
    }

    #[test]
    fn errors_tell_the_place() {
        let error = parse("{\n \"ä\":1,\n \"b\" 2}").unwrap_err();
        assert_eq!(error.to_string(), "line 3, column 6: no colon behind a key");
        for bad in [
            "",
            "{",
            "[1",
            "{a",
            "{a:",
            "{a:1",
            "'x",
            "\"\\",
            "\"\\u12",
            "\"\\q\"",
            "{:1}",
            "[1 2]",
            "1 2",
            "/*",
            "nope",
            "]",
            "{\"a\":1]",
            "--1",
            "\"\\ud83d\\u12",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&"{".repeat(100_000)).is_err());
        assert!(parse(&format!("{}{}", "[".repeat(100), "]".repeat(100))).is_ok());
    }

    quickcheck! {
        fn never_panics(text: String) -> bool {
            parse(&text).is_ok_and(|v| v.to_string().len() < 1 << 20) || parse(&text).is_err()
        }

        fn never_panics_on_what_looks_like_json(picks: Vec<u8>) -> bool {
            const PARTS: [&str; 20] = [
                "{", "}", "[", "]", ",", ":", "\"", "'", "a", "0", "1.5", " ", "\n", "//", "/*",
                "*/", "\\", "\\u", "d83d", "é",
            ];
            let text: String = picks.iter().map(|n| PARTS[usize::from(*n) % 20]).collect();
            parse(&text).is_ok() || parse(&text).is_err_and(|e| e.at <= text.len())
        }

        fn reads_what_is_json(names: Vec<(String, i64)>, text: String) -> bool {
            let map: Map<String, Value> =
                names.into_iter().map(|(name, n)| (name, json!([n, text]))).collect();
            let value = Value::Object(map);
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            parse(&value.to_string()) == Ok(value.clone()) && parse(&pretty) == Ok(value)
        }
    }
}
