//! Reads an expression and writes the program.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::{Comparison, MAX_DEPTH, MAX_LEN, Op, Sql, SqlError, TextTest, Value, order};

pub(super) fn parse(text: &str) -> Result<Sql, SqlError> {
    if text.len() > MAX_LEN {
        return Err(SqlError::TooLong(text.len()));
    }
    let mut parser = Parser {
        lexer: Lexer { text, pos: 0 },
        token: Token::End,
        at: 0,
        depth: 0,
        ops: Vec::new(),
        names: BTreeMap::new(),
    };
    parser.advance()?;
    let whole = parser.expression(0)?;
    parser.condition(whole)?;
    // A comment at the end may lack its end of line. RocketMQ passes by whatever is left here;
    // that half of what was meant has no effect is better said.
    let ends = parser.token == Token::End || parser.lexer.text[parser.at..].starts_with("--");
    if !ends {
        return Err(parser.unexpected("AND, OR, a comparison or the end"));
    }
    Ok(Sql { ops: parser.ops.into(), names: parser.names })
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'a> {
    End,
    /// A keyword or sign.
    Sign(&'static str),
    Name(&'a str),
    /// What stands between the quotes, quotes in it still doubled.
    Text(&'a str),
    Integer(&'a str),
    Float(&'a str),
}

const KEYWORDS: [&str; 12] = [
    "NOT",
    "AND",
    "OR",
    "BETWEEN",
    "IN",
    "TRUE",
    "FALSE",
    "NULL",
    "IS",
    "CONTAINS",
    "STARTSWITH",
    "ENDSWITH",
];
/// Longer ones first.
const SIGNS: [&str; 11] = ["<>", ">=", "<=", "=", ">", "<", "(", ")", ",", "+", "-"];

struct Lexer<'a> {
    text: &'a str,
    pos: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.pos..).unwrap_or_default()
    }

    fn take(&mut self, len: usize) -> &'a str {
        let taken = self.rest().get(..len).unwrap_or_default();
        self.pos += len;
        taken
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            self.pos += match rest.as_bytes() {
                [b' ' | b'\t' | b'\n' | b'\r' | 0x0c, ..] => 1,
                // Without an end of line it is two signs.
                [b'-', b'-', ..] => match rest.find(['\n', '\r']) {
                    Some(end) => end,
                    None => return,
                },
                [b'/', b'*', ..] => match rest[2..].find("*/") {
                    Some(end) => end + 4,
                    None => return,
                },
                _ => return,
            };
        }
    }

    /// The next token, or what is there instead of one.
    fn next(&mut self) -> Result<Token<'a>, String> {
        self.skip_blanks();
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$');
        if let Some(body) = rest.strip_prefix('\'') {
            let mut end = 0;
            loop {
                end += body[end..].find('\'').ok_or("a text without an end")?;
                if !body[end + 1..].starts_with('\'') {
                    break;
                }
                end += 2;
            }
            self.pos += end + 2;
            return Ok(Token::Text(&body[..end]));
        }
        if first.is_ascii_digit() || first == '.' {
            return self.number();
        }
        if is_name(first) {
            let name = self.take(rest.find(|c| !is_name(c)).unwrap_or(rest.len()));
            let keyword = KEYWORDS.iter().find(|k| k.eq_ignore_ascii_case(name));
            return Ok(keyword.map_or(Token::Name(name), |k| Token::Sign(k)));
        }
        let sign =
            SIGNS.iter().find(|s| rest.starts_with(**s)).ok_or_else(|| format!("{first}"))?;
        self.pos += sign.len();
        Ok(Token::Sign(sign))
    }

    fn number(&mut self) -> Result<Token<'a>, String> {
        let rest = self.rest().as_bytes();
        let digits = |from: usize| {
            let digits = rest.get(from..).unwrap_or_default();
            digits.iter().take_while(|b| b.is_ascii_digit()).count()
        };
        let whole = digits(0);
        let mut end = whole;
        if rest.get(whole) == Some(&b'.') {
            end += 1 + digits(whole + 1);
            if end == 1 {
                return Err(".".into());
            }
        }
        if let Some(b'e' | b'E') = rest.get(end) {
            let sign = usize::from(matches!(rest.get(end + 1), Some(b'+' | b'-')));
            let exponent = digits(end + 1 + sign);
            if exponent > 0 {
                end += 1 + sign + exponent;
            }
        }
        if end > whole {
            return Ok(Token::Float(self.take(end)));
        }
        // There are no octal numbers: 07 is 0 and then 7.
        let len = if rest.first() == Some(&b'0') { 1 } else { whole };
        let digits = self.take(len);
        if len > 0 && !digits.starts_with('0') && matches!(rest.get(len), Some(b'l' | b'L')) {
            self.pos += 1;
        }
        Ok(Token::Integer(digits))
    }
}

/// What is known of an operand before there is a message.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Property,
    Number(Value<'static>),
    Text,
    Null,
    /// TRUE or FALSE.
    Truth,
    /// A comparison, or some put together.
    Condition,
    /// A negative.
    Other,
}

#[derive(Clone, Copy, Debug)]
struct Operand {
    kind: Kind,
    at: usize,
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The next one, and where it begins.
    token: Token<'a>,
    at: usize,
    depth: usize,
    ops: Vec<Op>,
    names: BTreeMap<Box<str>, usize>,
}

// How tightly operators bind.
const OR: u8 = 1;
const AND: u8 = 2;
const EQUALITY: u8 = 3;
const COMPARISON: u8 = 4;

impl<'a> Parser<'a> {
    /// A place in the text as people count.
    fn character(&self, at: usize) -> usize {
        self.lexer.text.get(..at).map_or(0, |before| before.chars().count()) + 1
    }

    fn unexpected(&self, expected: &'static str) -> SqlError {
        let found = match self.token {
            Token::End => "the end".into(),
            Token::Sign(text) | Token::Name(text) => text.into(),
            Token::Integer(text) | Token::Float(text) => text.into(),
            Token::Text(text) => format!("'{text}'"),
        };
        SqlError::Unexpected { at: self.character(self.at), found, expected }
    }

    fn senseless(&self, at: usize, what: &'static str) -> SqlError {
        SqlError::Senseless { at: self.character(at), what }
    }

    /// Moves to the next token and returns the one passed.
    fn advance(&mut self) -> Result<Token<'a>, SqlError> {
        self.lexer.skip_blanks();
        self.at = self.lexer.pos;
        let next = self.lexer.next().map_err(|found| SqlError::Unexpected {
            at: self.character(self.at),
            found,
            expected: "a name, a number, a text in quotes, a keyword or an operator",
        })?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), SqlError> {
        if self.token != Token::Sign(sign) {
            return Err(self.unexpected(sign));
        }
        self.advance().map(drop)
    }

    fn text(&mut self) -> Result<Box<str>, SqlError> {
        let Token::Text(text) = self.token else {
            return Err(self.unexpected("a text in quotes"));
        };
        self.advance()?;
        Ok(text.replace("''", "'").into())
    }

    fn expression(&mut self, least: u8) -> Result<Operand, SqlError> {
        let start = self.ops.len();
        let mut left = self.operand()?;
        let mut most = COMPARISON;
        loop {
            let Token::Sign(sign) = self.token else { return Ok(left) };
            let binds = match sign {
                "OR" => OR,
                "AND" => AND,
                "=" | "<>" | "IS" => EQUALITY,
                ">" | ">=" | "<" | "<=" | "NOT" | "BETWEEN" | "IN" | "CONTAINS" | "STARTSWITH"
                | "ENDSWITH" => COMPARISON,
                _ => return Ok(left),
            };
            if binds < least || binds > most {
                return Ok(left);
            }
            most = binds;
            self.advance()?;
            match sign {
                "OR" => self.logic(left, OR, true, Op::Or)?,
                "AND" => self.logic(left, AND, false, Op::And)?,
                "=" => self.equality(left, Comparison::Equal)?,
                "<>" => self.equality(left, Comparison::NotEqual)?,
                "IS" => {
                    let not = self.token == Token::Sign("NOT");
                    if not {
                        self.advance()?;
                    }
                    if self.token != Token::Sign("NULL") {
                        return Err(self.unexpected(if not { "NULL" } else { "NULL or NOT NULL" }));
                    }
                    self.advance()?;
                    self.ops.push(Op::IsNull { not });
                }
                ">" => self.inequality(left, Comparison::Greater)?,
                ">=" => self.inequality(left, Comparison::GreaterEqual)?,
                "<" => self.inequality(left, Comparison::Less)?,
                "<=" => self.inequality(left, Comparison::LessEqual)?,
                "NOT" => match self.token {
                    Token::Sign(
                        word @ ("BETWEEN" | "IN" | "CONTAINS" | "STARTSWITH" | "ENDSWITH"),
                    ) => {
                        self.advance()?;
                        self.test(left, start, word, true)?;
                    }
                    _ => {
                        let tests = "BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH";
                        return Err(self.unexpected(tests));
                    }
                },
                word => self.test(left, start, word, false)?,
            }
            left.kind = Kind::Condition;
        }
    }

    /// AND and OR.
    fn logic(&mut self, left: Operand, binds: u8, on: bool, op: Op) -> Result<(), SqlError> {
        self.condition(left)?;
        let skip = self.ops.len();
        self.ops.push(Op::Skip { on, to: 0 });
        let right = self.expression(binds + 1)?;
        self.condition(right)?;
        self.ops.push(op);
        self.ops[skip] = Op::Skip { on, to: self.ops.len() };
        Ok(())
    }

    fn equality(&mut self, left: Operand, comparison: Comparison) -> Result<(), SqlError> {
        let right = self.expression(EQUALITY + 1)?;
        for side in [left, right] {
            if side.kind == Kind::Null {
                let what = "NULL cannot be compared; write IS NULL or IS NOT NULL";
                return Err(self.senseless(side.at, what));
            }
        }
        if left.kind == Kind::Truth && matches!(right.kind, Kind::Number(_) | Kind::Text) {
            return Err(self.senseless(right.at, "TRUE and FALSE are neither numbers nor texts"));
        }
        self.ops.push(Op::Compare(comparison));
        Ok(())
    }

    fn ordered(&self, side: Operand) -> Result<(), SqlError> {
        match side.kind {
            Kind::Property | Kind::Number(_) | Kind::Other => Ok(()),
            _ => Err(self.senseless(side.at, "only numbers have an order")),
        }
    }

    fn inequality(&mut self, left: Operand, comparison: Comparison) -> Result<(), SqlError> {
        let right = self.operand()?;
        self.ordered(left)?;
        self.ordered(right)?;
        self.ops.push(Op::Compare(comparison));
        Ok(())
    }

    /// What begins with a word. The steps of its left side begin at `start`.
    fn test(
        &mut self,
        left: Operand,
        start: usize,
        word: &'static str,
        not: bool,
    ) -> Result<(), SqlError> {
        let test = match word {
            "BETWEEN" => {
                let low = self.operand()?;
                self.expect("AND")?;
                let high = self.operand()?;
                for side in [left, low, high] {
                    self.ordered(side)?;
                }
                if let (false, Kind::Number(low), Kind::Number(h)) = (not, low.kind, high.kind)
                    && order(low, h) == Some(Ordering::Greater)
                {
                    return Err(self.senseless(high.at, "BETWEEN wants the lower number first"));
                }
                self.ops.push(Op::Between { not });
                return Ok(());
            }
            "IN" => {
                if left.kind != Kind::Property {
                    return Err(self.senseless(left.at, "IN wants a property on its left"));
                }
                self.expect("(")?;
                let mut list = vec![self.text()?];
                while self.token == Token::Sign(",") {
                    self.advance()?;
                    list.push(self.text()?);
                }
                if self.token != Token::Sign(")") {
                    return Err(self.unexpected(", or )"));
                }
                self.advance()?;
                self.ops.push(Op::In { not, list: list.into() });
                return Ok(());
            }
            "CONTAINS" => TextTest::Contains,
            "STARTSWITH" => TextTest::StartsWith,
            _ => TextTest::EndsWith,
        };
        let text = self.text()?;
        if text.is_empty() {
            // It is in nothing, nor is it not; RocketMQ does not even look at the left side.
            self.ops.truncate(start);
            self.ops.push(Op::Push(Value::Bool(false)));
        } else {
            self.ops.push(Op::Text { not, test, text });
        }
        Ok(())
    }

    /// Makes a condition of what the last steps leave.
    fn condition(&mut self, operand: Operand) -> Result<(), SqlError> {
        match operand.kind {
            Kind::Condition | Kind::Truth | Kind::Null => {}
            Kind::Property => self.ops.push(Op::Condition),
            Kind::Number(_) | Kind::Text | Kind::Other => {
                return Err(self.senseless(operand.at, "a condition is wanted here"));
            }
        }
        Ok(())
    }

    fn operand(&mut self) -> Result<Operand, SqlError> {
        self.depth += 1;
        let at = self.at;
        if self.depth > MAX_DEPTH {
            return Err(SqlError::TooDeep { at: self.character(at) });
        }
        let (op, kind) = match self.token {
            Token::Sign(sign @ ("+" | "-" | "NOT" | "(")) => {
                self.advance()?;
                let kind = self.nested(sign)?;
                self.depth -= 1;
                return Ok(Operand { kind, at });
            }
            Token::Sign("TRUE") => (Op::Push(Value::Bool(true)), Kind::Truth),
            Token::Sign("FALSE") => (Op::Push(Value::Bool(false)), Kind::Truth),
            Token::Sign("NULL") => (Op::Push(Value::Null), Kind::Null),
            Token::Text(text) => (Op::PushText(text.replace("''", "'").into()), Kind::Text),
            Token::Name(name) => {
                let new = self.names.len();
                (Op::Property(*self.names.entry(name.into()).or_insert(new)), Kind::Property)
            }
            Token::Integer(digits) => {
                let Ok(n) = digits.parse() else {
                    return Err(self.senseless(at, "the number is too big"));
                };
                let value = i32::try_from(n).map_or(Value::Long(n), Value::Int);
                (Op::Push(value), Kind::Number(value))
            }
            Token::Float(text) => match text.parse() {
                // RocketMQ refuses 0.0 too.
                Ok(n) if n > 0.0 && n < f64::INFINITY => {
                    (Op::Push(Value::Double(n)), Kind::Number(Value::Double(n)))
                }
                _ => return Err(self.senseless(at, "the number is too big or too near 0")),
            },
            _ => {
                let all = "a property, a number, a text in quotes, TRUE, FALSE, NULL, NOT, - or (";
                return Err(self.unexpected(all));
            }
        };
        self.ops.push(op);
        self.advance()?;
        self.depth -= 1;
        Ok(Operand { kind, at })
    }

    fn nested(&mut self, sign: &'static str) -> Result<Kind, SqlError> {
        if sign == "(" {
            let inner = self.expression(0)?;
            if self.token != Token::Sign(")") {
                return Err(self.unexpected("AND, OR, a comparison or )"));
            }
            self.advance()?;
            return Ok(inner.kind);
        }
        let inner = self.operand()?;
        match sign {
            "-" => {
                self.ops.push(Op::Negate);
                Ok(Kind::Other)
            }
            "NOT" => {
                self.condition(inner)?;
                self.ops.push(Op::Not);
                Ok(Kind::Condition)
            }
            _ => Ok(inner.kind),
        }
    }
}
