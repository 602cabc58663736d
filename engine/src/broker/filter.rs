//! What a subscription wants of a topic.

use crate::codec::ids::java_hash;

/// Codes up to this are places in a ConsumeQueueExt, where a Java broker keeps the real ones.
/// Consumers look at the tags themselves, so these messages are given.
const EXT_ADDRESS: i64 = -2_147_483_649;

/// A tag subscription. Codes are hashes: consumers compare the tags themselves once more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    #[default]
    All,
    /// Tags codes, sorted.
    Tags(Box<[i64]>),
}

/// Why an expression is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the subscription {0:?} names no tag; write \"*\", or tags with || between them")]
pub struct FilterError(pub String);

impl Filter {
    /// Reads `*`, or tags with `||` between them. Nothing at all is `*`, as with RocketMQ.
    pub fn parse(expression: &str) -> Result<Filter, FilterError> {
        if matches!(expression.trim(), "" | "*") {
            return Ok(Filter::All);
        }
        let tags = expression.split("||").map(str::trim).filter(|tag| !tag.is_empty());
        let mut codes: Vec<i64> = tags.map(|tag| i64::from(java_hash(tag))).collect();
        if codes.is_empty() {
            return Err(FilterError(expression.to_owned()));
        }
        codes.sort_unstable();
        codes.dedup();
        Ok(Filter::Tags(codes.into()))
    }

    /// Whether a message with this tags code is wanted.
    pub fn wants(&self, tags_code: i64) -> bool {
        match self {
            Filter::All => true,
            Filter::Tags(codes) => {
                tags_code <= EXT_ADDRESS || codes.binary_search(&tags_code).is_ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags() {
        let wants = |expression: &str, tag: &str| {
            Filter::parse(expression).unwrap().wants(i64::from(java_hash(tag)))
        };
        assert!(wants("*", "a") && wants("", "a"));
        assert!(wants(" a || b ", "b") && wants("a", "a") && !wants("a || b", "c"));
        assert!(Filter::parse("a").unwrap().wants(i64::MIN + 20));
        assert!(!wants("a", ""), "a message without a tag has code 0");
        assert!(Filter::parse(" || ").is_err());
    }
}
