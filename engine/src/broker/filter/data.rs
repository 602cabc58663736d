//! The SQL92 subscriptions that groups have: `config/consumerFilter.json`.
//!
//! RocketMQ's brokers filter by it. Here it is kept for them: what a group wants is compiled from
//! its heartbeats.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::is_tag_type;
use crate::broker::persist::ConfigFile;
use crate::error::Result;
use crate::os::fs::Fs;

/// Who was alive when a broker ended is taken to have left so long before the next start, ms.
const LEFT_BEFORE_START_MS: i64 = 30_000;

/// One subscription, in RocketMQ's form.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FilterData {
    /// Of a Java broker that computes such; kept as it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bloom_filter_data: Option<serde_json::Value>,
    pub born_time: i64,
    /// The subscription's version.
    pub client_version: i64,
    pub consumer_group: String,
    /// Written for its readers; the times say it too.
    pub dead: bool,
    /// When its group left; 0 if it did not.
    pub dead_time: i64,
    pub expression: String,
    pub expression_type: String,
    pub topic: String,
}

impl FilterData {
    fn set_dead_time(&mut self, ms: i64) {
        self.dead_time = if ms == 0 { 0 } else { ms.max(self.born_time) };
        self.dead = ms != 0;
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OfTopic {
    group_filter_data: BTreeMap<String, FilterData>,
    topic: String,
}

/// The file's content.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Table {
    filter_data_by_topic: BTreeMap<String, OfTopic>,
}

impl Table {
    fn all(&mut self) -> impl Iterator<Item = &mut FilterData> {
        self.filter_data_by_topic.values_mut().flat_map(|t| t.group_filter_data.values_mut())
    }
}

/// A subscription as a heartbeat has it.
#[derive(Clone, Copy, Debug)]
pub struct Subscribed<'a> {
    pub topic: &'a str,
    pub expression_type: &'a str,
    pub expression: &'a str,
    pub version: i64,
}

/// The SQL92 subscriptions of all groups.
pub struct Filters {
    table: Mutex<Table>,
    pub(in crate::broker) file: ConfigFile,
}

impl Filters {
    pub(in crate::broker) fn open(
        fs: &Fs,
        root: &Path,
        now_ms: i64,
        notes: &mut Vec<String>,
    ) -> Filters {
        let file = ConfigFile::new(fs, root, "consumerFilter.json");
        let mut table: Table = file.load(notes);
        for data in table.all().filter(|data| data.dead_time == 0) {
            data.set_dead_time(now_ms - LEFT_BEFORE_START_MS);
            file.touch();
        }
        Filters { table: Mutex::new(table), file }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in all that a group subscribes to. `is_sound` compiles an expression that is new.
    pub fn register<'a>(
        &self,
        group: &str,
        subscribed: impl Iterator<Item = Subscribed<'a>> + Clone,
        is_sound: impl Fn(&Subscribed<'a>) -> bool,
        now_ms: i64,
    ) {
        let mut table = self.lock();
        for new in subscribed.clone().filter(|s| !is_tag_type(s.expression_type)) {
            let of_topic = table.filter_data_by_topic.get_mut(new.topic);
            let old = of_topic.and_then(|t| t.group_filter_data.get_mut(group));
            let data = || FilterData {
                born_time: now_ms,
                client_version: new.version,
                consumer_group: group.to_owned(),
                expression: new.expression.to_owned(),
                expression_type: new.expression_type.to_owned(),
                topic: new.topic.to_owned(),
                ..FilterData::default()
            };
            match old {
                Some(old) if old.client_version > new.version => continue,
                Some(old) if old.client_version == new.version && !old.dead => continue,
                Some(old)
                    if old.client_version == new.version
                        || (&*old.expression, &*old.expression_type)
                            == (new.expression, new.expression_type) =>
                {
                    old.client_version = new.version;
                    old.set_dead_time(0);
                }
                Some(old) if is_sound(&new) => {
                    *old = FilterData { bloom_filter_data: old.bloom_filter_data.take(), ..data() };
                }
                None if is_sound(&new) => {
                    let of_topic = table.filter_data_by_topic.entry(new.topic.to_owned());
                    let of_topic = of_topic.or_default();
                    of_topic.topic = new.topic.to_owned();
                    of_topic.group_filter_data.insert(group.to_owned(), data());
                }
                Some(_) => {
                    if let Some(of_topic) = table.filter_data_by_topic.get_mut(new.topic) {
                        of_topic.group_filter_data.remove(group);
                    }
                }
                None => continue,
            }
            self.file.touch();
        }
        let left = |data: &FilterData| !subscribed.clone().any(|s| s.topic == data.topic);
        self.bury(&mut table, group, left, now_ms);
    }

    /// A group has no members any more.
    pub fn unregister(&self, group: &str, now_ms: i64) {
        self.bury(&mut self.lock(), group, |_| true, now_ms);
    }

    fn bury(&self, table: &mut Table, group: &str, left: impl Fn(&FilterData) -> bool, now: i64) {
        for data in table.all() {
            if data.consumer_group == group && data.dead_time == 0 && left(data) {
                data.set_dead_time(now);
                self.file.touch();
            }
        }
    }

    /// A group's subscription to a topic.
    pub fn get(&self, topic: &str, group: &str) -> Option<FilterData> {
        self.lock().filter_data_by_topic.get(topic)?.group_filter_data.get(group).cloned()
    }

    /// Saves what changed, and drops what is dead for `keep_ms`.
    pub(in crate::broker) fn save(&self, now_ms: i64, keep_ms: i64) -> Result<()> {
        let mut table = self.lock();
        let is_kept = |data: &FilterData| data.dead_time == 0 || now_ms - data.dead_time < keep_ms;
        if !table.all().all(|data| is_kept(data)) {
            table.filter_data_by_topic.retain(|_, of_topic| {
                of_topic.group_filter_data.retain(|_, data| is_kept(data));
                !of_topic.group_filter_data.is_empty()
            });
            self.file.touch();
        }
        drop(table);
        self.file.save(|| self.lock().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(topic: &'static str, expression: &'static str, version: i64) -> Subscribed<'static> {
        Subscribed { topic, expression_type: "SQL92", expression, version }
    }

    #[test]
    fn entries_live_and_die() {
        let dir = tempfile::tempdir().unwrap();
        let open = |now| Filters::open(&Fs::default(), dir.path(), now, &mut Vec::new());
        let path = dir.path().join("config/consumerFilter.json");
        let filters = open(0);
        let put = |subs: &[Subscribed<'static>], now| {
            filters.register("G", subs.iter().copied(), |s| s.expression != "bad", now);
        };
        put(&[Subscribed { expression_type: "TAG", ..sql("T", "*", 1) }, sql("U", "bad", 1)], 1);
        filters.save(1, 1000).unwrap();
        assert!(!path.exists(), "nothing to keep");
        put(&[sql("T", "a = 1", 5), sql("U", "b = 1", 5)], 10);
        put(&[sql("T", "a = 0", 4), sql("U", "b = 1", 6)], 20);
        let get = |topic| filters.get(topic, "G").unwrap();
        assert_eq!((&*get("T").expression, get("T").client_version), ("a = 1", 5), "an older one");
        assert_eq!((get("U").born_time, get("U").client_version), (10, 6));
        put(&[sql("U", "b = 2", 7)], 30);
        assert_eq!((get("T").dead_time, get("T").dead, get("U").dead), (30, true, false));
        put(&[sql("T", "a = 1", 5), sql("U", "bad", 8)], 40);
        assert!(!get("T").dead && filters.get("U", "G").is_none());
        filters.save(40, 1000).unwrap();

        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"groupFilterData\"") && text.contains("\"clientVersion\": 5"));
        let again = open(100_000);
        assert_eq!(again.get("T", "G").unwrap().dead_time, 70_000, "nobody is there yet");
        again.save(70_000 + 999, 1000).unwrap();
        assert!(again.get("T", "G").is_some());
        again.save(70_000 + 1000, 1000).unwrap();
        assert!(again.get("T", "G").is_none());
    }

    #[test]
    fn reads_what_java_writes() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config");
        std::fs::create_dir(&config).unwrap();
        let text = r#"{"filterDataByTopic":{"Orders":{"groupFilterData":{"G_sql":{
            "bloomFilterData":{"bitNum":112,"bitPos":[24,74,12]},"bornTime":1795467882322,
            "clientVersion":1795467882000,"consumerGroup":"G_sql","dead":true,
            "deadTime":1795467890000,"expression":"region = 'eu' AND n BETWEEN 3 AND 700",
            "expressionType":"SQL92","topic":"Orders"}},"topic":"Orders"}}}"#;
        std::fs::write(config.join("consumerFilter.json"), text).unwrap();
        let mut notes = Vec::new();
        let filters = Filters::open(&Fs::default(), dir.path(), 1_795_467_900_000, &mut notes);
        assert_eq!(notes, [""; 0]);
        let expression = "region = 'eu' AND n BETWEEN 3 AND 700";
        let sub = sql("Orders", expression, 1_795_467_999_000);
        filters.register("G_sql", std::iter::once(sub), |_| true, 1_795_467_999_001);
        let data = filters.get("Orders", "G_sql").unwrap();
        assert!(!data.dead && data.born_time == 1_795_467_882_322);
        assert_eq!(data.bloom_filter_data.unwrap()["bitNum"], 112);
    }
}
