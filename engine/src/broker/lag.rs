//! How far a group is behind in a topic, as 5.x's metrics tell it.

use super::Broker;

/// A group in a topic. Times are store times in ms since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Messages that are not consumed, and the time of the oldest.
    pub behind: u64,
    pub oldest_behind_ms: Option<i64>,
    /// Messages that were pulled and are not consumed.
    pub in_flight: u64,
    /// Messages that were not pulled, and the time of the oldest.
    pub ready: u64,
    pub oldest_ready_ms: Option<i64>,
}

impl Broker {
    /// How far a group is behind in a topic. Where it has no offset it is not behind.
    pub fn lag(&self, group: &str, topic: &str) -> Lag {
        let mut lag = Lag::default();
        let Some(config) = self.topics.get(topic) else { return lag };
        let counters = self.stats.find_group(group, topic);
        let oldest = |before: Option<i64>, queue_id, offset: u64| {
            let time = self.store.store_time(topic, queue_id, offset);
            before.into_iter().chain(time).min()
        };
        for queue_id in 0..config.queues() {
            let max = self.store.max_offset(topic, queue_id);
            let consumed = self.offsets.get(group, topic, queue_id);
            let pulled = counters.as_ref().and_then(|c| c.pull_offset(queue_id));
            let within = |offset: i64| u64::try_from(offset).unwrap_or(0).min(max);
            let consumed_to = consumed.map_or(max, within);
            let pulled_to = pulled.or(consumed).map_or(max, within);
            lag.behind += max - consumed_to;
            lag.ready += max - pulled_to;
            lag.in_flight += pulled_to.saturating_sub(consumed_to);
            if consumed_to < max {
                lag.oldest_behind_ms = oldest(lag.oldest_behind_ms, queue_id, consumed_to);
            }
            if pulled_to < max {
                lag.oldest_ready_ms = oldest(lag.oldest_ready_ms, queue_id, pulled_to);
            }
        }
        lag
    }
}
