//! All queues, by topic and queue id.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use foldhash::fast::RandomState;

use super::batch_queue::BatchQueue;
use super::consume_queue::ConsumeQueue;
use crate::error::{Error, Result};
use crate::os::fs::Fs;

type Queues = HashMap<Arc<str>, BTreeMap<i32, Arc<ConsumeQueue>>, RandomState>;

type BatchQueues = BTreeMap<Arc<str>, BTreeMap<i32, Arc<BatchQueue>>>;

/// The queues of a store, opened or made when first asked for.
#[derive(Debug)]
pub struct QueueTable {
    fs: Fs,
    dir: PathBuf,
    file_len: usize,
    queues: RwLock<Queues>,
    /// Topics whose queues are batch queues.
    batches: RwLock<BatchQueues>,
    batch_dir: PathBuf,
    batch_file_len: usize,
}

/// Whether a topic can be the name of a folder. A record that says otherwise is damaged, or
/// comes from somebody who wants to write elsewhere.
pub fn is_folder_name(topic: &str) -> bool {
    !topic.is_empty()
        && topic.len() <= 255
        && topic != "."
        && topic != ".."
        && !topic.contains(['/', '\0'])
}

impl QueueTable {
    /// Opens all queues under `dir` (the folder `consumequeue`).
    pub fn open(
        fs: &Fs,
        dir: &Path,
        file_len: usize,
        mut attic: impl FnMut(&Path) -> Result<()>,
    ) -> Result<QueueTable> {
        let mut queues = Queues::default();
        for (topic, topic_dir) in folders(dir)? {
            let topic: Arc<str> = topic.into();
            for (id, queue_dir) in folders(&topic_dir)? {
                let Ok(id) = id.parse::<i32>() else { continue };
                let queue =
                    ConsumeQueue::open(fs, &queue_dir, topic.clone(), id, file_len, &mut attic)?;
                queues.entry(topic.clone()).or_default().insert(id, Arc::new(queue));
            }
        }
        let (fs, dir) = (fs.clone(), dir.to_owned());
        let queues = RwLock::new(queues);
        let (batches, batch_dir) = (RwLock::default(), PathBuf::new());
        Ok(QueueTable { fs, dir, file_len, queues, batches, batch_dir, batch_file_len: 0 })
    }

    /// Opens the batch queues under `dir` (the folder `batchconsumequeue`). `topics` have such queues,
    /// too, where none is there yet; none of all these gets a queue of the other kind.
    pub fn open_batches(
        &mut self,
        dir: &Path,
        file_len: usize,
        topics: impl IntoIterator<Item = String>,
        mut attic: impl FnMut(&Path) -> Result<()>,
    ) -> Result<()> {
        (self.batch_dir, self.batch_file_len) = (dir.to_owned(), file_len);
        let mut batches: BatchQueues =
            topics.into_iter().map(|topic| (topic.into(), BTreeMap::new())).collect();
        for (topic, topic_dir) in folders(dir)? {
            let topic: Arc<str> = topic.into();
            let of_topic = batches.entry(topic.clone()).or_default();
            for (id, queue_dir) in folders(&topic_dir)? {
                let Ok(id) = id.parse::<i32>() else { continue };
                let topic = topic.clone();
                let queue =
                    BatchQueue::open(&self.fs, &queue_dir, topic, id, file_len, &mut attic)?;
                of_topic.insert(id, Arc::new(queue));
            }
        }
        self.batches = RwLock::new(batches);
        Ok(())
    }

    fn read_batches(&self) -> std::sync::RwLockReadGuard<'_, BatchQueues> {
        self.batches.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a topic's queues are batch queues.
    pub fn is_batch(&self, topic: &str) -> bool {
        self.read_batches().contains_key(topic)
    }

    /// Whether any topic has batch queues.
    pub fn has_batches(&self) -> bool {
        !self.read_batches().is_empty()
    }

    pub fn batch(&self, topic: &str, id: i32) -> Option<Arc<BatchQueue>> {
        self.read_batches().get(topic)?.get(&id).cloned()
    }

    /// The batch queue, made if it is not there; `None` if the topic's are not of that kind.
    pub fn batch_or_create(&self, topic: &str, id: i32) -> Result<Option<Arc<BatchQueue>>> {
        let Some((topic, queue)) =
            self.read_batches().get_key_value(topic).map(|(t, q)| (t.clone(), q.get(&id).cloned()))
        else {
            return Ok(None);
        };
        if queue.is_some() || id < 0 {
            return Ok(queue);
        }
        let dir = self.batch_dir.join(&*topic).join(id.to_string());
        let queue = BatchQueue::open(&self.fs, &dir, topic, id, self.batch_file_len, |_| Ok(()))?;
        Ok(Some(self.replace_batch(queue)))
    }

    /// Puts another batch queue in place of the one of that topic and id.
    pub fn replace_batch(&self, queue: BatchQueue) -> Arc<BatchQueue> {
        let queue = Arc::new(queue);
        let mut batches = self.batches.write().unwrap_or_else(PoisonError::into_inner);
        batches.entry(queue.topic().clone()).or_default().insert(queue.id(), queue.clone());
        queue
    }

    /// Every batch queue, by topic and id.
    pub fn batches(&self) -> Vec<Arc<BatchQueue>> {
        self.read_batches().values().flat_map(|q| q.values().cloned()).collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Queues> {
        self.queues.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, topic: &str, id: i32) -> Option<Arc<ConsumeQueue>> {
        self.read().get(topic)?.get(&id).cloned()
    }

    /// The queue, made if it is not there. Its folder is made with its first unit.
    pub fn get_or_create(&self, topic: &str, id: i32) -> Result<Arc<ConsumeQueue>> {
        if let Some(queue) = self.get(topic, id) {
            return Ok(queue);
        }
        if !is_folder_name(topic) || id < 0 {
            return Err(Error::Unusable {
                path: self.dir.clone(),
                what: format!("topic {topic:?}, queue {id} cannot be a folder"),
            });
        }
        if self.is_batch(topic) {
            return Err(Error::Unusable {
                path: self.dir.clone(),
                what: format!(
                    "{topic} has batch queues (queue.type=BatchCQ), which only RocketMQ writes; send to another topic"
                ),
            });
        }
        let mut queues = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        let topic = match queues.get_key_value(topic) {
            Some((topic, _)) => topic.clone(),
            None => topic.into(),
        };
        let of_topic = queues.entry(topic.clone()).or_default();
        if let Some(queue) = of_topic.get(&id) {
            return Ok(queue.clone());
        }
        let dir = self.dir.join(&*topic).join(id.to_string());
        let queue = ConsumeQueue::open(&self.fs, &dir, topic, id, self.file_len, |_| Ok(()))?;
        let queue = Arc::new(queue);
        of_topic.insert(id, queue.clone());
        Ok(queue)
    }

    /// Puts another queue in place of the one of that topic and id.
    pub fn replace(&self, queue: ConsumeQueue) -> Arc<ConsumeQueue> {
        let queue = Arc::new(queue);
        let mut queues = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        queues.entry(queue.topic().clone()).or_default().insert(queue.id(), queue.clone());
        queue
    }

    /// Every queue, by topic and id: a run that is repeated makes the same calls.
    pub fn all(&self) -> Vec<Arc<ConsumeQueue>> {
        let queues = self.read();
        let mut topics: Vec<_> = queues.iter().collect();
        topics.sort_unstable_by_key(|(topic, _)| *topic);
        topics.into_iter().flat_map(|(_, of_topic)| of_topic.values().cloned()).collect()
    }

    /// The queues of a topic by id.
    pub fn of_topic(&self, topic: &str) -> Vec<Arc<ConsumeQueue>> {
        self.read().get(topic).map(|q| q.values().cloned().collect()).unwrap_or_default()
    }

    /// Names of all topics that have queues, in no order.
    pub fn topics(&self) -> Vec<Arc<str>> {
        self.read().keys().cloned().collect()
    }

    /// Forgets a topic's queues and removes their files. Its records stay in the log.
    pub fn remove_topic(&self, topic: &str) -> Result<()> {
        for queue in self.of_topic(topic) {
            queue.chain().remove()?;
        }
        for queue in self.batches().iter().filter(|q| &**q.topic() == topic) {
            queue.chain().remove()?;
        }
        // Not before: where a file could not be removed, the next attempt must find it.
        self.queues.write().unwrap_or_else(PoisonError::into_inner).remove(topic);
        self.batches.write().unwrap_or_else(PoisonError::into_inner).remove(topic);
        if is_folder_name(topic) {
            let _ = self.fs.remove_dir(&self.dir.join(topic));
            let _ = self.fs.remove_dir(&self.batch_dir.join(topic));
        }
        Ok(())
    }
}

/// Names and paths of the folders in `dir`; none if it is not there.
pub(crate) fn folders(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io("list", dir))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("list", dir))?.path();
        if let Some(name) = path.file_name().and_then(|n| n.to_str())
            && path.is_dir()
        {
            found.push((name.to_owned(), path));
        }
    }
    found.sort();
    Ok(found)
}
