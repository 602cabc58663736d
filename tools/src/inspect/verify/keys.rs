//! The properties that matter to queues and index, found in one pass.

use mq_store::broker::names::LIGHT_PREFIX;
use mq_store::codec::ids;
use mq_store::codec::properties::{self, name};
use mq_store::codec::record::Record;
use mq_store::recover::{SCHEDULE_TOPIC, tags_code};

pub struct Keys<'a> {
    unique: Option<&'a str>,
    keys: Option<&'a str>,
    pub tags: Option<&'a str>,
    light_names: Option<&'a str>,
    light_offsets: Option<&'a str>,
}

impl<'a> Keys<'a> {
    pub fn of(r: &Record<'a>) -> Keys<'a> {
        let names = [
            name::UNIQ_KEY,
            name::KEYS,
            name::TAGS,
            "INNER_MULTI_DISPATCH",
            "INNER_MULTI_QUEUE_OFFSET",
        ];
        let [unique, keys, tags, light_names, light_offsets] =
            properties::get_all(r.properties(), names);
        Keys { unique, keys, tags, light_names, light_offsets }
    }

    /// What the record is indexed by, besides its tag.
    pub fn each(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let words = self.keys.into_iter().flat_map(|k| k.split(' ')).filter(|k| !k.is_empty());
        self.unique.into_iter().chain(words)
    }

    pub fn any(&self) -> bool {
        self.each().next().is_some()
    }

    pub fn tags_code(&self, r: &Record<'_>, delay_levels_ms: &[i64]) -> i64 {
        match r.topic() {
            SCHEDULE_TOPIC => tags_code(r, delay_levels_ms),
            _ => ids::tags_code(self.tags),
        }
    }

    /// The light queues that a message is in besides its own, with its offsets there.
    pub fn light_queues(&self) -> impl Iterator<Item = (&'a str, u64)> + use<'a> {
        let names = self.light_names.into_iter().flat_map(|n| n.split(','));
        let offsets = self.light_offsets.into_iter().flat_map(|n| n.split(','));
        let pairs = names.zip(offsets).filter(|(name, _)| name.starts_with(LIGHT_PREFIX));
        pairs.filter_map(|(name, offset)| Some((name, offset.parse().ok()?)))
    }
}
