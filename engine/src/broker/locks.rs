//! Queue locks of orderly consumption: a queue belongs to one client of a group at a time.
//!
//! They outlive a restart, in `config/queueLocks.json` (RocketMQ's do not): a client believes in
//! its lock for 30 s and goes on consuming while the broker is away, so another one that comes
//! back sooner must not be given the queue.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::persist::ConfigFile;
use crate::error::Result;
use crate::os::fs::Fs;

/// A lock that is not renewed for so long is free (`rebalanceLockMaxLiveTime`), ms.
const MAX_LIVE_MS: i64 = 60_000;

/// A queue as clients name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageQueue {
    pub broker_name: String,
    pub queue_id: i32,
    pub topic: String,
}

#[derive(Debug)]
struct Held {
    client: String,
    renewed_ms: i64,
}

/// A lock as it is saved.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Saved {
    group: String,
    queue: MessageQueue,
    client: String,
    renewed_ms: i64,
}

type Groups = HashMap<String, HashMap<MessageQueue, Held>>;

/// All queue locks of a broker.
#[derive(Debug)]
pub struct QueueLocks {
    groups: Mutex<Groups>,
    pub(super) file: ConfigFile,
}

impl QueueLocks {
    pub(super) fn open(fs: &Fs, root: &Path, notes: &mut Vec<String>) -> QueueLocks {
        let file = ConfigFile::new(fs, root, "queueLocks.json");
        let mut groups = Groups::new();
        for saved in file.load::<Vec<Saved>>(notes) {
            let held = Held { client: saved.client, renewed_ms: saved.renewed_ms };
            groups.entry(saved.group).or_default().insert(saved.queue, held);
        }
        QueueLocks { groups: Mutex::new(groups), file }
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn save(&self) -> Result<()> {
        self.file.save(|| {
            let groups = self.groups();
            let locks = groups.iter().flat_map(|(group, held)| {
                held.iter().map(|(queue, h)| Saved {
                    group: group.clone(),
                    queue: queue.clone(),
                    client: h.client.clone(),
                    renewed_ms: h.renewed_ms,
                })
            });
            locks.collect::<Vec<_>>()
        })
    }

    /// Takes or renews locks; gives back those that the client holds now.
    pub fn lock(
        &self,
        group: &str,
        client: &str,
        queues: Vec<MessageQueue>,
        now_ms: i64,
    ) -> Vec<MessageQueue> {
        let mut groups = self.groups();
        self.file.touch();
        let held = groups.entry(group.to_owned()).or_default();
        let mut granted = Vec::new();
        for queue in queues {
            let is_free = held
                .get(&queue)
                .is_none_or(|h| h.client == client || now_ms - h.renewed_ms > MAX_LIVE_MS);
            if is_free {
                let client = client.to_owned();
                held.insert(queue.clone(), Held { client, renewed_ms: now_ms });
                granted.push(queue);
            }
        }
        granted
    }

    /// Lets go of locks that the client holds; others stay.
    pub fn unlock(&self, group: &str, client: &str, queues: &[MessageQueue]) {
        let mut groups = self.groups();
        self.file.touch();
        let Some(held) = groups.get_mut(group) else { return };
        for queue in queues {
            if held.get(queue).is_some_and(|h| h.client == client) {
                held.remove(queue);
            }
        }
        if held.is_empty() {
            groups.remove(group);
        }
    }

    /// Lets go of all locks of a client that says it leaves the group.
    pub fn leave(&self, group: &str, client: &str) {
        let mut groups = self.groups();
        let Some(held) = groups.get_mut(group) else { return };
        self.file.touch();
        held.retain(|_, h| h.client != client);
        if held.is_empty() {
            groups.remove(group);
        }
    }

    /// Background step: forgets locks that were not renewed.
    pub fn expire_step(&self, now_ms: i64) {
        let mut groups = self.groups();
        groups.retain(|_, held| {
            let before = held.len();
            held.retain(|_, h| now_ms - h.renewed_ms <= MAX_LIVE_MS);
            if held.len() < before {
                self.file.touch();
            }
            !held.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let open = || QueueLocks::open(&Fs::default(), dir.path(), &mut Vec::new());
        let locks = open();
        let queue = |n| MessageQueue { topic: "T".into(), broker_name: "b".into(), queue_id: n };
        let lock = |client: &str, at| locks.lock("G", client, vec![queue(0), queue(1)], at).len();
        assert_eq!((lock("a", 0), lock("b", 1), lock("a", 50_000)), (2, 0, 2));
        locks.unlock("G", "b", &[queue(0)]);
        assert_eq!(lock("b", 50_001), 0, "who does not hold a lock cannot free it");
        locks.unlock("G", "a", &[queue(0)]);
        assert_eq!(lock("b", 60_000), 1);
        assert_eq!(lock("b", 110_001), 2, "not renewed for a minute");
        locks.leave("G", "a");
        assert_eq!(lock("c", 110_002), 0, "another's locks stay");
        locks.save().unwrap();
        let again = open();
        let queues = || vec![queue(0), queue(1)];
        assert_eq!(again.lock("G", "c", queues(), 120_000), [], "a restart frees nothing");
        assert_eq!(again.lock("G", "b", queues(), 120_000).len(), 2);
        again.leave("G", "b");
        assert_eq!(again.lock("G", "c", queues(), 120_001).len(), 2, "who left holds nothing");
        locks.expire_step(200_000);
        assert_eq!(lock("c", 200_000), 2);
    }
}
