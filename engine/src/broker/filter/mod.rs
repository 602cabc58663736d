//! What a subscription wants of a topic.

pub mod data;
pub mod sql92;

use crate::codec::ids::java_hash;
use sql92::{Sql, SqlError};

/// Codes up to this are places in a ConsumeQueueExt, where a Java broker keeps the real ones.
/// Consumers look at the tags themselves, so these messages are given.
const EXT_ADDRESS: i64 = -2_147_483_649;

/// A subscription, ready for use.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Filter {
    #[default]
    All,
    /// Tags codes, sorted. They are hashes: consumers compare the tags themselves once more.
    Tags(Box<[i64]>),
    /// Properties decide.
    Sql(Box<Sql>),
}

/// Why an expression is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("the subscription {0:?} names no tag; write \"*\", or tags with || between them")]
    NoTag(String),
    #[error("no SQL92 expression: {0}")]
    Sql(#[from] SqlError),
    #[error("there is no expression type {0:?}; use TAG or SQL92")]
    Type(String),
}

/// Whether an expression of this type is about tags.
pub fn is_tag_type(expression_type: &str) -> bool {
    matches!(expression_type, "" | "TAG")
}

impl Filter {
    /// Reads an expression of a type that RocketMQ names.
    pub fn parse(expression_type: &str, expression: &str) -> Result<Filter, FilterError> {
        match expression_type {
            "SQL92" => Ok(Filter::Sql(Box::new(Sql::parse(expression)?))),
            tag if is_tag_type(tag) => Filter::tags(expression),
            _ => Err(FilterError::Type(expression_type.to_owned())),
        }
    }

    /// Reads `*`, or tags with `||` between them. Nothing at all is `*`, as with RocketMQ.
    pub fn tags(expression: &str) -> Result<Filter, FilterError> {
        if matches!(expression.trim(), "" | "*") {
            return Ok(Filter::All);
        }
        let tags = expression.split("||").map(str::trim).filter(|tag| !tag.is_empty());
        let mut codes: Vec<i64> = tags.map(|tag| i64::from(java_hash(tag))).collect();
        if codes.is_empty() {
            return Err(FilterError::NoTag(expression.to_owned()));
        }
        codes.sort_unstable();
        codes.dedup();
        Ok(Filter::Tags(codes.into()))
    }

    /// Whether a message with this tags code may be wanted. SQL leaves it to
    /// [`Filter::wants_properties`].
    pub fn wants(&self, tags_code: i64) -> bool {
        match self {
            Filter::All | Filter::Sql(_) => true,
            Filter::Tags(codes) => {
                tags_code <= EXT_ADDRESS || codes.binary_search(&tags_code).is_ok()
            }
        }
    }

    /// Whether a message with this property text is wanted, its tags code being so.
    pub fn wants_properties(&self, properties: &[u8]) -> bool {
        match self {
            Filter::All | Filter::Tags(_) => true,
            Filter::Sql(sql) => sql.matches(properties),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags() {
        let wants = |expression: &str, tag: &str| {
            Filter::tags(expression).unwrap().wants(i64::from(java_hash(tag)))
        };
        assert!(wants("*", "a") && wants("", "a"));
        assert!(wants(" a || b ", "b") && wants("a", "a") && !wants("a || b", "c"));
        assert!(Filter::tags("a").unwrap().wants(i64::MIN + 20));
        assert!(!wants("a", ""), "a message without a tag has code 0");
        assert!(Filter::tags(" || ").is_err());
    }

    #[test]
    fn types() {
        assert_eq!(Filter::parse("", "*"), Ok(Filter::All));
        assert_eq!(Filter::parse("TAG", "a"), Filter::tags("a"));
        let sql = Filter::parse("SQL92", "TAGS = 'a'").unwrap();
        assert!(
            sql.wants(1) && sql.wants_properties(b"TAGS\x01a\x02") && !sql.wants_properties(b"")
        );
        assert!(matches!(Filter::parse("SQL92", ""), Err(FilterError::Sql(_))));
        assert!(matches!(Filter::parse("sql", "a"), Err(FilterError::Type(_))));
    }
}
