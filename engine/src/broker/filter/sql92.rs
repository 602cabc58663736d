//! SQL92 expressions over a message's properties, as RocketMQ understands them.
//!
//! The parser writes a program for a stack machine while it reads: nothing recurses when messages
//! are looked at, and a subscription is two flat lists. Properties are texts; what they are
//! compared with decides what they are read as. Where RocketMQ's evaluator throws, the message
//! does not match.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::codec::properties;

mod parse;
#[cfg(test)]
mod tests;

/// The longest expression, bytes.
pub const MAX_LEN: usize = 65_536;
/// How deep parentheses, signs and NOT may be nested.
pub const MAX_DEPTH: usize = 100;

/// Why a text is no expression. Characters count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SqlError {
    #[error("the expression is {0} bytes long; at most {MAX_LEN} are taken")]
    TooLong(usize),
    #[error("at character {at}: nested deeper than {MAX_DEPTH}")]
    TooDeep { at: usize },
    #[error("at character {at}: found {found}, expected {expected}")]
    Unexpected { at: usize, found: String, expected: &'static str },
    /// It reads well, and cannot mean anything.
    #[error("at character {at}: {what}")]
    Senseless { at: usize, what: &'static str },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Value<'a> {
    Null,
    Bool(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Text(&'a str),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum TextTest {
    Contains,
    StartsWith,
    EndsWith,
}

/// One step: takes its operands from the stack and leaves its result there.
#[derive(Clone, Debug, PartialEq)]
enum Op {
    Push(Value<'static>),
    PushText(Box<str>),
    Property(usize),
    Negate,
    Not,
    /// A property where a condition is wanted. It is a text, so it is never true.
    Condition,
    Compare(Comparison),
    Between {
        not: bool,
    },
    IsNull {
        not: bool,
    },
    In {
        not: bool,
        list: Box<[Box<str>]>,
    },
    Text {
        not: bool,
        test: TextTest,
        text: Box<str>,
    },
    /// Goes on at `to` if the topmost is `on`: the other operand cannot change it.
    Skip {
        on: bool,
        to: usize,
    },
    And,
    Or,
}

/// A compiled expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Sql {
    ops: Box<[Op]>,
    /// Properties that it names, with their places in a row of values.
    names: BTreeMap<Box<str>, usize>,
}

impl Sql {
    pub fn parse(text: &str) -> Result<Sql, SqlError> {
        parse::parse(text)
    }

    /// Whether a message with this property text is wanted.
    pub fn matches(&self, properties: &[u8]) -> bool {
        self.evaluate(properties) == Some(Value::Bool(true))
    }

    /// `None` where RocketMQ's evaluator throws.
    fn evaluate<'a>(&'a self, properties: &'a [u8]) -> Option<Value<'a>> {
        let mut values = vec![Value::Null; self.names.len()];
        for (name, value) in properties::pairs(properties) {
            if let Some(value_at) = self.names.get(name).and_then(|at| values.get_mut(*at)) {
                *value_at = Value::Text(value);
            }
        }
        let mut stack: Vec<Value<'a>> = Vec::with_capacity(8);
        let mut next = 0;
        while let Some(op) = self.ops.get(next) {
            next += 1;
            let result = match op {
                Op::Push(value) => *value,
                Op::PushText(text) => Value::Text(text),
                Op::Property(at) => *values.get(*at)?,
                Op::Skip { on, to } => {
                    if stack.last() == Some(&Value::Bool(*on)) {
                        next = *to;
                    }
                    continue;
                }
                Op::Negate => match stack.pop()? {
                    Value::Int(n) => Value::Int(n.wrapping_neg()),
                    Value::Long(n) => Value::Long(n.wrapping_neg()),
                    Value::Double(n) => Value::Double(-n),
                    _ => Value::Null,
                },
                Op::Not => not(stack.pop()?),
                Op::Condition => match stack.pop()? {
                    Value::Null => Value::Null,
                    value => Value::Bool(value == Value::Bool(true)),
                },
                Op::Compare(comparison) => {
                    let right = stack.pop()?;
                    compare(*comparison, stack.pop()?, right)?
                }
                Op::Between { not } => {
                    let (high, low, value) = (stack.pop()?, stack.pop()?, stack.pop()?);
                    let (first, second) = match not {
                        false => (Comparison::GreaterEqual, Comparison::LessEqual),
                        true => (Comparison::Less, Comparison::Greater),
                    };
                    match compare(first, value, low)? {
                        // One side decides: the other is not looked at.
                        Value::Bool(b) if b == *not => Value::Bool(b),
                        left => {
                            let right = compare(second, value, high)?;
                            if *not { or(left, right) } else { and(left, right) }
                        }
                    }
                }
                Op::IsNull { not } => Value::Bool((stack.pop()? == Value::Null) != *not),
                Op::In { not, list } => match stack.pop()? {
                    Value::Text(text) => Value::Bool(list.iter().any(|t| **t == *text) != *not),
                    _ => Value::Null,
                },
                Op::Text { not, test, text } => Value::Bool(match stack.pop()? {
                    Value::Text(value) => {
                        *not != match test {
                            TextTest::Contains => value.contains(&**text),
                            TextTest::StartsWith => value.starts_with(&**text),
                            TextTest::EndsWith => value.ends_with(&**text),
                        }
                    }
                    _ => false,
                }),
                Op::And => and(stack.pop()?, stack.pop()?),
                Op::Or => or(stack.pop()?, stack.pop()?),
            };
            stack.push(result);
        }
        stack.pop()
    }
}

fn not(value: Value<'_>) -> Value<'_> {
    match value {
        Value::Bool(b) => Value::Bool(!b),
        _ => Value::Null,
    }
}

fn and<'a>(a: Value<'a>, b: Value<'a>) -> Value<'a> {
    match (a, b) {
        (Value::Bool(false), _) | (_, Value::Bool(false)) => Value::Bool(false),
        (Value::Bool(true), Value::Bool(true)) => Value::Bool(true),
        _ => Value::Null,
    }
}

fn or<'a>(a: Value<'a>, b: Value<'a>) -> Value<'a> {
    not(and(not(a), not(b)))
}

fn compare<'a>(comparison: Comparison, l: Value<'a>, r: Value<'a>) -> Option<Value<'a>> {
    use Value::{Double, Null, Text};
    let equality = matches!(comparison, Comparison::Equal | Comparison::NotEqual);
    let order = match (l, r) {
        // RocketMQ's equality sees a difference between a null on the left and on the right.
        (Null, Null) if equality => Ordering::Equal,
        (Null, _) => return Some(Null),
        (_, Null) if equality => Ordering::Less,
        (_, Null) => return Some(Null),
        (Text(l), Text(r)) if !equality => order(Double(double(l)?), Double(double(r)?))?,
        _ => order(l, r)?,
    };
    Some(Value::Bool(match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::NotEqual => order.is_ne(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterEqual => order.is_ge(),
        Comparison::Less => order.is_lt(),
        Comparison::LessEqual => order.is_le(),
    }))
}

/// Compares as the type of the one that is no text; numbers as the wider of their types.
fn order(l: Value<'_>, r: Value<'_>) -> Option<Ordering> {
    use Value::{Bool, Double, Int, Long, Text};
    Some(match (l, r) {
        (Text(l), Text(r)) => l.cmp(r),
        (Bool(l), Bool(r)) => l.cmp(&r),
        (Int(l), Int(r)) => l.cmp(&r),
        (Int(l), Long(r)) => i64::from(l).cmp(&r),
        (Long(l), Int(r)) => l.cmp(&i64::from(r)),
        (Long(l), Long(r)) => l.cmp(&r),
        (Double(l), Double(r)) => match (l.is_nan(), r.is_nan()) {
            (false, false) => l.total_cmp(&r),
            (l, r) => l.cmp(&r),
        },
        (Double(_), Int(r)) => return order(l, Double(r.into())),
        (Double(_), Long(r)) => return order(l, Double(r as f64)),
        (Int(_) | Long(_), Double(_)) => return order(r, l).map(Ordering::reverse),
        (Int(l), Text(r)) => l.cmp(&r.parse().ok()?),
        (Long(l), Text(r)) => l.cmp(&r.parse().ok()?),
        (Double(_), Text(r)) => return order(l, Double(double(r)?)),
        (Text(_), Int(_) | Long(_) | Double(_)) => return order(r, l).map(Ordering::reverse),
        (Text(l), Bool(r)) => l.eq_ignore_ascii_case("true").cmp(&r),
        (Bool(_), Text(_)) => return None,
        _ => Ordering::Less,
    })
}

/// Reads a number as Java's `Double.valueOf` does, but for hexadecimal ones.
fn double(text: &str) -> Option<f64> {
    let text = text.trim_matches(|c| c <= ' ');
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned {
        "NaN" => return Some(f64::NAN),
        "Infinity" if text.starts_with('-') => return Some(f64::NEG_INFINITY),
        "Infinity" => return Some(f64::INFINITY),
        // What Rust reads besides.
        _ if !unsigned.starts_with(|c: char| c == '.' || c.is_ascii_digit()) => return None,
        _ => {}
    }
    text.strip_suffix(['d', 'D', 'f', 'F']).unwrap_or(text).parse().ok()
}
