//! The fields of a header (Java's extFields): names and values, all text; and structs of them.

use std::borrow::Cow;

/// Names and values in the order they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a>(pub Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Fields<'a> {
    /// The value of a field; the last one, should it come twice.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, value)| &**value)
    }
}

/// Why a header's fields are not what its code wants.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("the custom field <{0}> is null")]
    Missing(&'static str),
    #[error("the custom field <{name}> has the value {value:?}, which is no {wanted}")]
    Invalid { name: &'static str, value: String, wanted: &'static str },
}

/// A type that a field's text can be read as.
pub trait Field<'a>: Sized {
    /// Reads a value; `None` is a field that is not there.
    fn read(value: Option<&'a str>, name: &'static str) -> Result<Self, FieldError>;
}

impl<'a> Field<'a> for &'a str {
    fn read(value: Option<&'a str>, name: &'static str) -> Result<Self, FieldError> {
        value.ok_or(FieldError::Missing(name))
    }
}

macro_rules! parsed {
    ($($ty:ty: $wanted:literal, $parse:expr;)*) => {$(
        impl<'a> Field<'a> for $ty {
            fn read(value: Option<&'a str>, name: &'static str) -> Result<Self, FieldError> {
                // An empty text is Java's way to write null in the binary form.
                let value = value.filter(|v| !v.is_empty()).ok_or(FieldError::Missing(name))?;
                let parse: fn(&str) -> Option<$ty> = $parse;
                parse(value).ok_or_else(|| FieldError::Invalid {
                    name,
                    value: value.chars().take(64).collect(),
                    wanted: $wanted,
                })
            }
        }
    )*};
}
parsed! {
    i32: "32-bit number", |v| v.parse().ok();
    i64: "64-bit number", |v| v.parse().ok();
    bool: "boolean", |v| match v {
        _ if v.eq_ignore_ascii_case("true") => Some(true),
        _ if v.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    };
}

impl<'a, T: Field<'a>> Field<'a> for Option<T> {
    fn read(value: Option<&'a str>, name: &'static str) -> Result<Self, FieldError> {
        match T::read(value, name) {
            Ok(value) => Ok(Some(value)),
            Err(FieldError::Missing(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Declares a struct of fields: `field: Type = "name" | "otherName" [else default],`. Its
/// function `of` reads it from [`Fields`]; a required field that is missing or no value
/// of its type is an error that names it.
macro_rules! header {
    ($(#[$meta:meta])* $vis:vis struct $name:ident<'a> {
        $($(#[$field_meta:meta])* $field:ident: $ty:ty = $key:literal $(| $other:literal)*
            $(else $default:expr)?,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        $vis struct $name<'a> {
            $($(#[$field_meta])* pub $field: $ty,)*
            _fields: std::marker::PhantomData<&'a ()>,
        }
        impl<'a> $name<'a> {
            pub fn of(
                fields: &'a $crate::wire::fields::Fields<'_>,
            ) -> Result<Self, $crate::wire::fields::FieldError> {
                use $crate::wire::fields::Field;
                $(let mut $field: Option<&'a str> = None;)*
                for (name, value) in &fields.0 {
                    match &**name {
                        $($key $(| $other)* => $field = Some(&**value),)*
                        _ => {}
                    }
                }
                $(let $field = header!(@read $ty, $field, $key $(, $default)?);)*
                Ok($name { $($field,)* _fields: std::marker::PhantomData })
            }
        }
    };
    (@read $ty:ty, $value:ident, $key:literal) => { <$ty>::read($value, $key)? };
    (@read $ty:ty, $value:ident, $key:literal, $default:expr) => {
        <Option<$ty>>::read($value, $key)?.unwrap_or($default)
    };
}

pub(crate) use header;

#[cfg(test)]
mod tests {
    use super::*;

    header! {
        struct Sample<'a> {
            topic: &'a str = "topic" | "b",
            queue: i32 = "queueId" | "e",
            batch: bool = "batch" else false,
            key: Option<&'a str> = "key",
        }
    }

    fn fields(list: &[(&'static str, &'static str)]) -> Fields<'static> {
        Fields(list.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect())
    }

    #[test]
    fn structs_of_fields() {
        let f = fields(&[("b", "T"), ("e", "1"), ("e", "2"), ("junk", "x"), ("batch", "TRUE")]);
        let s = Sample::of(&f).unwrap();
        assert_eq!((s.topic, s.queue, s.batch, s.key), ("T", 2, true, None));
        let missing = Sample::of(&fields(&[("topic", "T"), ("queueId", "")]).clone()).map(|_| ());
        assert_eq!(missing, Err(FieldError::Missing("queueId")));
        let f = fields(&[("topic", "T"), ("queueId", "1x")]);
        let error = Sample::of(&f).unwrap_err().to_string();
        assert_eq!(
            error,
            "the custom field <queueId> has the value \"1x\", which is no 32-bit number"
        );
    }
}
