//! The routes: data and rules. Time is passed in; connections are numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mq_store::broker::topics::{DataVersion, TopicConfig, perm};
use serde::{Deserialize, Serialize};

/// Silence after which a broker that says nothing else about it is gone.
const DEFAULT_TIMEOUT_MS: i64 = 120_000;
const MASTER: i64 = 0;
/// More brokers than this, or queue data of topics, are no cluster but an attack or a fault.
const MAX_BROKERS: usize = 10_000;
const MAX_QUEUE_DATA: usize = 1_000_000;
/// Bytes of a name or an address, and filter servers of a broker.
pub const MAX_NAME: usize = 512;
const MAX_FILTER_SERVERS: usize = 64;

/// A broker's name, cluster, and addresses by id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokerData {
    pub broker_addrs: BTreeMap<i64, String>,
    pub broker_name: String,
    pub cluster: String,
    pub enable_acting_master: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_name: Option<String>,
}

/// Queues of one topic on one broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueData {
    pub broker_name: String,
    pub perm: i32,
    pub read_queue_nums: i32,
    pub topic_sys_flag: i32,
    pub write_queue_nums: i32,
}

/// The answer to who wants to use a topic.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicRouteData {
    pub broker_datas: Vec<BrokerData>,
    pub filter_server_table: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_topic_conf: Option<String>,
    pub queue_datas: Vec<QueueData>,
}

/// All clusters and brokers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterInfo<'a> {
    pub broker_addr_table: &'a BTreeMap<String, BrokerData>,
    pub cluster_addr_table: &'a BTreeMap<String, BTreeSet<String>>,
}

/// What a broker registers.
#[derive(Clone, Debug, Default)]
pub struct Registering<'a> {
    pub cluster: &'a str,
    pub broker_name: &'a str,
    pub broker_id: i64,
    pub addr: &'a str,
    pub ha_addr: &'a str,
    pub timeout_ms: Option<i64>,
    /// `None` from brokers of 4.x.
    pub acting_master: Option<bool>,
    pub zone: Option<&'a str>,
    pub conn: u64,
    pub version: DataVersion,
    pub topics: Vec<TopicConfig>,
    pub filter_servers: Vec<String>,
}

/// What a slave is told: its master's address, and where that replicates from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    pub master_addr: Option<String>,
    pub ha_addr: Option<String>,
}

/// Why a broker is not registered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A broker that is not known may have lost its table, and means to add to it.
    #[error("register broker failed")]
    OneTopic,
    #[error("register broker failed: the name server has {0}, and takes no more")]
    Full(&'static str),
    #[error("register broker failed: a name of {0} bytes")]
    LongName(usize),
}

/// One process of a broker, as it was last heard of.
#[derive(Clone, Debug)]
struct Live {
    broker_name: String,
    heard_ms: i64,
    timeout_ms: i64,
    version: DataVersion,
    ha_addr: String,
    filter_servers: Vec<String>,
    conn: u64,
}

/// Cluster and address.
type Place = (String, String);

/// Everything a name server knows of brokers.
#[derive(Debug, Default)]
pub struct Routes {
    clusters: BTreeMap<String, BTreeSet<String>>,
    brokers: BTreeMap<String, BrokerData>,
    /// Topic, then broker name.
    topics: HashMap<String, BTreeMap<String, QueueData>>,
    queue_datas: usize,
    live: HashMap<Place, Live>,
}

impl Routes {
    /// Takes in a broker and its topics. `prune` has topics removed that it no longer has.
    pub fn register(
        &mut self,
        r: Registering<'_>,
        prune: bool,
        now_ms: i64,
    ) -> Result<Registered, Refused> {
        let names = [r.cluster, r.broker_name, r.addr, r.ha_addr, r.zone.unwrap_or_default()];
        let topics = r.topics.iter().map(|t| &*t.topic_name);
        let all = names.into_iter().chain(topics).chain(r.filter_servers.iter().map(|s| &**s));
        if let Some(long) = all.map(str::len).find(|len| *len > MAX_NAME) {
            return Err(Refused::LongName(long));
        }
        if r.filter_servers.len() > MAX_FILTER_SERVERS {
            return Err(Refused::Full("64 filter servers of a broker"));
        }
        let place: Place = (r.cluster.into(), r.addr.into());
        let mut ids = self.brokers.get(r.broker_name).map_or(BTreeMap::new(), |b| {
            let mut ids = b.broker_addrs.clone();
            // A slave that became master leaves its old id.
            ids.retain(|id, addr| addr != r.addr || *id == r.broker_id);
            ids
        });
        let other = ids.get(&r.broker_id).filter(|addr| *addr != r.addr);
        let other = other.and_then(|addr| self.live.get(&(r.cluster.into(), addr.clone())));
        if other.is_some_and(|other| other.version.state_version > r.version.state_version) {
            self.remove(&place);
            return Ok(Registered::default());
        }
        if !ids.contains_key(&r.broker_id) && r.topics.len() == 1 {
            return Err(Refused::OneTopic);
        }
        if self.live.len() >= MAX_BROKERS && !self.live.contains_key(&place) {
            return Err(Refused::Full("10000 brokers"));
        }
        if self.queue_datas + r.topics.len() > MAX_QUEUE_DATA {
            return Err(Refused::Full("a million topics"));
        }
        if self.live.get(&place).is_some_and(|live| live.broker_name != r.broker_name) {
            self.remove(&place);
        }
        let is_new = ids.insert(r.broker_id, r.addr.into()).is_none();
        let is_lowest = ids.keys().next() == Some(&r.broker_id);
        let acting = r.acting_master == Some(true);
        let master = ids.get(&MASTER).cloned();
        let data = BrokerData {
            broker_addrs: ids,
            broker_name: r.broker_name.into(),
            cluster: r.cluster.into(),
            enable_acting_master: acting,
            zone_name: r.zone.map(str::to_owned),
        };
        self.clusters.entry(r.cluster.into()).or_default().insert(r.broker_name.into());
        self.brokers.insert(r.broker_name.into(), data);

        let is_prime_slave = r.acting_master.is_some() && r.broker_id != MASTER && is_lowest;
        if r.broker_id == MASTER || is_prime_slave {
            if prune {
                let kept: BTreeSet<_> = r.topics.iter().map(|t| &*t.topic_name).collect();
                self.retain(|topic, name, _| name != r.broker_name || kept.contains(topic));
            }
            let held = self.live.get(&place).map(|live| live.version);
            let changed = is_new || held != Some(r.version);
            for topic in &r.topics {
                let brokers = self.topics.get(&topic.topic_name);
                if changed || !brokers.is_some_and(|b| b.contains_key(r.broker_name)) {
                    // Nobody writes to a slave that stands in for its master.
                    let lost = if is_prime_slave && acting { perm::WRITE } else { 0 };
                    self.put_queue_data(
                        topic.topic_name.clone(),
                        QueueData {
                            broker_name: r.broker_name.into(),
                            perm: topic.perm & !lost,
                            read_queue_nums: topic.read_queue_nums,
                            topic_sys_flag: topic.topic_sys_flag,
                            write_queue_nums: topic.write_queue_nums,
                        },
                    );
                }
            }
        }
        let live = Live {
            broker_name: r.broker_name.into(),
            heard_ms: now_ms,
            timeout_ms: r.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS),
            version: r.version,
            ha_addr: r.ha_addr.into(),
            filter_servers: r.filter_servers,
            conn: r.conn,
        };
        self.live.insert(place, live);
        let master = master.filter(|_| r.broker_id != MASTER);
        let live = master.as_ref().and_then(|m| self.live.get(&(r.cluster.into(), m.clone())));
        let ha_addr = live.map(|live| live.ha_addr.clone());
        Ok(Registered { master_addr: master.filter(|_| ha_addr.is_some()), ha_addr })
    }

    fn put_queue_data(&mut self, topic: String, data: QueueData) {
        let old = self.topics.entry(topic).or_default().insert(data.broker_name.clone(), data);
        self.queue_datas += usize::from(old.is_none());
    }

    /// Keeps the queue data of which `keep` says so, by topic and broker name.
    fn retain(&mut self, mut keep: impl FnMut(&str, &str, &mut QueueData) -> bool) {
        self.topics.retain(|topic, brokers| {
            brokers.retain(|name, data| keep(topic, name, data));
            !brokers.is_empty()
        });
        self.queue_datas = self.topics.values().map(BTreeMap::len).sum();
    }

    /// Adds queues of a topic, if all their brokers are known.
    pub fn register_topic(&mut self, topic: &str, queues: Vec<QueueData>) {
        if queues.iter().all(|data| self.brokers.contains_key(&data.broker_name))
            && self.queue_datas + queues.len() <= MAX_QUEUE_DATA
        {
            for data in queues {
                self.put_queue_data(topic.into(), data);
            }
        }
    }

    /// Removes a topic, from the brokers of a cluster or from all.
    pub fn delete_topic(&mut self, topic: &str, cluster: Option<&str>) {
        let names = cluster.map(|c| self.clusters.get(c).cloned().unwrap_or_default());
        let Some(brokers) = self.topics.get_mut(topic) else { return };
        let before = brokers.len();
        brokers.retain(|name, _| names.as_ref().is_some_and(|names| !names.contains(name)));
        self.queue_datas -= before - brokers.len();
        if brokers.is_empty() {
            self.topics.remove(topic);
        }
    }

    /// Removes a broker that says so itself.
    pub fn unregister(&mut self, cluster: &str, broker_name: &str, addr: &str) {
        let place = (cluster.into(), addr.into());
        if self.live.get(&place).is_some_and(|live| live.broker_name == broker_name) {
            self.remove(&place);
        }
    }

    /// Removes the brokers that are silent for too long. Returns them with their connections.
    pub fn expire(&mut self, now_ms: i64) -> Vec<(String, u64)> {
        let silent = |l: &Live| l.heard_ms.saturating_add(l.timeout_ms) < now_ms;
        self.remove_where(silent)
    }

    /// Removes the brokers that registered on a connection.
    pub fn connection_closed(&mut self, conn: u64) -> Vec<(String, u64)> {
        self.remove_where(|live| live.conn == conn)
    }

    fn remove_where(&mut self, gone: impl Fn(&Live) -> bool) -> Vec<(String, u64)> {
        let gone: Vec<(Place, u64)> = self
            .live
            .iter()
            .filter(|(_, live)| gone(live))
            .map(|(place, live)| (place.clone(), live.conn))
            .collect();
        for (place, _) in &gone {
            self.remove(place);
        }
        gone.into_iter().map(|((_, addr), conn)| (addr, conn)).collect()
    }

    fn remove(&mut self, place: &Place) {
        let Some(live) = self.live.remove(place) else { return };
        let name = &live.broker_name;
        let Some(broker) = self.brokers.get_mut(name) else { return };
        broker.broker_addrs.retain(|_, addr| *addr != place.1);
        if broker.broker_addrs.is_empty() {
            self.brokers.remove(name);
            self.clusters.retain(|_, names| {
                names.remove(name);
                !names.is_empty()
            });
            self.retain(|_, n, _| n != name);
        } else if broker.enable_acting_master && !broker.broker_addrs.contains_key(&MASTER) {
            // Slaves go on being read from; none of them takes messages.
            for data in self.topics.values_mut().filter_map(|brokers| brokers.get_mut(name)) {
                data.perm &= !perm::WRITE;
            }
        }
    }

    /// Gives all topics of a broker another permission. Returns how many they are.
    pub fn change_perm(&mut self, broker_name: &str, change: impl Fn(i32) -> i32) -> usize {
        let topics = self.topics.values_mut();
        let of_broker = topics.filter_map(|brokers| brokers.get_mut(broker_name));
        of_broker.map(|data| data.perm = change(data.perm)).count()
    }

    /// Hears of a broker. Returns the version of its table, if the broker is known.
    pub fn heard(&mut self, cluster: &str, addr: &str, now_ms: i64) -> Option<DataVersion> {
        let live = self.live.get_mut(&(cluster.into(), addr.into()))?;
        live.heard_ms = now_ms;
        Some(live.version)
    }

    pub fn knows(&self, cluster: &str, addr: &str) -> bool {
        self.live.contains_key(&(cluster.into(), addr.into()))
    }

    /// Where a topic's queues are. With `acting` the lowest slave is shown as master where there
    /// is none.
    pub fn route(&self, topic: &str, acting: bool) -> Option<TopicRouteData> {
        let queues = self.topics.get(topic)?;
        let brokers = queues.keys().filter_map(|name| self.brokers.get(name));
        let mut brokers: Vec<BrokerData> = brokers.cloned().collect();
        if brokers.is_empty() {
            return None;
        }
        let addrs = |b: &BrokerData| -> Vec<Place> {
            b.broker_addrs.values().map(|addr| (b.cluster.clone(), addr.clone())).collect()
        };
        let filter_server_table = brokers
            .iter()
            .flat_map(addrs)
            .filter_map(|place| Some((place.1.clone(), self.live.get(&place)?)))
            .filter(|(_, live)| !live.filter_servers.is_empty())
            .map(|(addr, live)| (addr, live.filter_servers.clone()))
            .collect();
        for broker in brokers.iter_mut().filter(|b| acting && b.enable_acting_master) {
            let writable =
                queues.get(&broker.broker_name).is_some_and(|q| q.perm & perm::WRITE != 0);
            if !writable
                && !broker.broker_addrs.contains_key(&MASTER)
                && let Some((_, addr)) = broker.broker_addrs.pop_first()
            {
                broker.broker_addrs.insert(MASTER, addr);
            }
        }
        let queue_datas = queues.values().cloned().collect();
        Some(TopicRouteData {
            broker_datas: brokers,
            filter_server_table,
            order_topic_conf: None,
            queue_datas,
        })
    }

    pub fn clusters(&self) -> ClusterInfo<'_> {
        ClusterInfo { broker_addr_table: &self.brokers, cluster_addr_table: &self.clusters }
    }

    pub fn broker(&self, name: &str) -> Option<&BrokerData> {
        self.brokers.get(name)
    }

    pub fn topics(&self) -> Vec<&str> {
        self.topics.keys().map(|t| &**t).collect()
    }

    /// Topics that have queues on a broker of a cluster.
    pub fn topics_of_cluster(&self, cluster: &str) -> Vec<&str> {
        let names = self.clusters.get(cluster);
        let here = |name: &String| names.is_some_and(|names| names.contains(name));
        let topics = self.topics.iter().filter(|(_, brokers)| brokers.keys().any(here));
        topics.map(|(topic, _)| &**topic).collect()
    }

    /// Topics by the bits of their system flag on one of their brokers.
    pub fn topics_by_flag(&self, wanted: impl Fn(i32) -> bool) -> Vec<&str> {
        let flag = |brokers: &BTreeMap<_, QueueData>| {
            brokers.values().next().is_some_and(|data| wanted(data.topic_sys_flag))
        };
        self.topics.iter().filter(|(_, b)| flag(b)).map(|(topic, _)| &**topic).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(names: &[&str]) -> Vec<TopicConfig> {
        names.iter().map(|name| TopicConfig::new(*name, 4)).collect()
    }

    /// Broker `b` of cluster `c`, at address "b-id".
    fn broker(id: i64, counter: i64) -> Registering<'static> {
        Registering {
            cluster: "c",
            broker_name: "b",
            broker_id: id,
            addr: ["b-0", "b-1", "b-2"][id as usize],
            ha_addr: "ha",
            conn: id as u64,
            version: DataVersion { counter, ..DataVersion::default() },
            topics: topics(&["S", "T"]),
            ..Registering::default()
        }
    }

    fn perm_of(routes: &Routes, topic: &str) -> i32 {
        routes.route(topic, false).unwrap().queue_datas[0].perm
    }

    fn addrs(routes: &Routes) -> Vec<(i64, &str)> {
        let addrs = routes.broker("b").map(|b| b.broker_addrs.iter());
        addrs.into_iter().flatten().map(|(id, addr)| (*id, &**addr)).collect()
    }

    #[test]
    fn topics_come_with_the_master_and_go_with_the_last() {
        let mut routes = Routes::default();
        let r = routes.register(broker(1, 1), false, 0);
        assert_eq!(r, Ok(Registered::default()));
        assert!(routes.route("T", false).is_none(), "a slave of 4.x brings none");
        assert_eq!(routes.register(broker(0, 1), false, 0), Ok(Registered::default()));
        let r = routes.register(broker(1, 1), false, 0).unwrap();
        assert_eq!((r.master_addr.as_deref(), r.ha_addr.as_deref()), (Some("b-0"), Some("ha")));
        assert_eq!(routes.route("T", false).unwrap().broker_datas[0].broker_addrs.len(), 2);
        assert_eq!(
            (routes.topics_of_cluster("c").len(), routes.topics_of_cluster("x").len()),
            (2, 0)
        );

        routes.unregister("c", "b", "b-0");
        routes.unregister("c", "b", "b-0");
        assert_eq!(addrs(&routes), [(1, "b-1")]);
        assert_eq!(perm_of(&routes, "T"), 6, "the slave can be read from");
        assert_eq!(routes.connection_closed(1), [("b-1".into(), 1)]);
        assert!(routes.topics().is_empty() && routes.clusters().cluster_addr_table.is_empty());
        assert_eq!(routes.queue_datas, 0);
    }

    #[test]
    fn a_table_is_taken_when_its_version_changed() {
        let mut routes = Routes::default();
        assert_eq!(
            routes.register(Registering { topics: topics(&["T"]), ..broker(0, 1) }, false, 0),
            Err(Refused::OneTopic)
        );
        assert!(routes.broker("b").is_none(), "nothing is left of it");
        routes.register(broker(0, 1), false, 0).unwrap();
        assert_eq!(routes.change_perm("b", |p| p & !2), 2);
        assert_eq!((routes.change_perm("x", |_| 0), perm_of(&routes, "T")), (0, 4));
        let wider =
            |version| Registering { topics: topics(&["S", "T", "U"]), ..broker(0, version) };
        routes.register(wider(1), false, 0).unwrap();
        assert_eq!((perm_of(&routes, "T"), perm_of(&routes, "U")), (4, 6), "only what is new");
        routes.register(Registering { topics: topics(&["T"]), ..broker(0, 2) }, false, 0).unwrap();
        assert_eq!((perm_of(&routes, "T"), perm_of(&routes, "S")), (6, 4), "and nothing removed");
        routes.register(broker(0, 3), true, 0).unwrap();
        assert!(routes.route("U", false).is_none(), "unless that is wished");

        routes.delete_topic("T", Some("x"));
        assert!(routes.route("T", false).is_some());
        routes.delete_topic("T", Some("c"));
        routes.delete_topic("S", None);
        assert_eq!((routes.topics().len(), routes.queue_datas), (0, 0));
        let data = |name: &str| QueueData { broker_name: name.into(), ..QueueData::default() };
        routes.register_topic("N", vec![data("b"), data("unknown")]);
        assert!(routes.route("N", false).is_none());
        routes.register_topic("N", vec![data("b")]);
        assert_eq!(routes.route("N", false).unwrap().queue_datas.len(), 1);
    }

    #[test]
    fn silent_brokers_go() {
        let mut routes = Routes::default();
        routes.register(broker(0, 1), false, 0).unwrap();
        let filter_servers = vec!["f".to_owned()];
        let brief = Registering { timeout_ms: Some(1000), filter_servers, ..broker(1, 1) };
        routes.register(brief, false, 0).unwrap();
        let filters = routes.route("T", false).unwrap().filter_server_table;
        assert_eq!(filters, BTreeMap::from([("b-1".into(), vec!["f".into()])]));
        assert_eq!(routes.expire(1000), []);
        assert_eq!(routes.expire(1001), [("b-1".into(), 1)]);
        assert!(routes.heard("c", "b-0", 100_000).is_some());
        assert!(routes.heard("c", "b-1", 100_000).is_none());
        assert_eq!(routes.expire(220_000), []);
        assert_eq!(routes.expire(220_001), [("b-0".into(), 0)]);
        let endless = Registering { timeout_ms: Some(i64::MAX), ..broker(0, 1) };
        routes.register(endless, false, i64::MAX).unwrap();
        assert_eq!(routes.expire(i64::MAX), []);
    }

    #[test]
    fn ids_change_hands() {
        let mut routes = Routes::default();
        routes.register(broker(0, 1), false, 0).unwrap();
        routes.register(broker(1, 1), false, 0).unwrap();
        let promoted = |state_version| Registering {
            broker_id: 0,
            version: DataVersion { state_version, ..DataVersion::default() },
            ..broker(1, 1)
        };
        let newer = Registering {
            version: DataVersion { state_version: 1, ..DataVersion::default() },
            ..broker(0, 1)
        };
        routes.register(newer, false, 0).unwrap();
        routes.register(promoted(0), false, 0).unwrap();
        assert_eq!(addrs(&routes)[0], (0, "b-0"), "an older state takes nothing over");
        routes.register(promoted(2), false, 0).unwrap();
        assert_eq!(addrs(&routes), [(0, "b-1")]);
        let renamed = Registering { broker_name: "other", ..promoted(2) };
        routes.register(renamed, false, 0).unwrap();
        assert!(routes.broker("b").is_none(), "one address is one broker");
    }

    #[test]
    fn slaves_act_as_master() {
        let mut routes = Routes::default();
        let acting = |id| Registering { acting_master: Some(true), ..broker(id, 1) };
        for id in [0, 1, 2] {
            routes.register(acting(id), false, 0).unwrap();
        }
        assert_eq!(perm_of(&routes, "T"), 6);
        routes.unregister("c", "b", "b-0");
        assert_eq!(perm_of(&routes, "T"), 4);
        let ids = |acting| {
            let route = routes.route("T", acting).unwrap();
            route.broker_datas[0].broker_addrs.keys().copied().collect::<Vec<_>>()
        };
        assert_eq!((ids(false), ids(true)), (vec![1, 2], vec![0, 2]));
        let master = Registering { acting_master: Some(true), ..broker(0, 2) };
        routes.register(master, false, 0).unwrap();
        assert_eq!(perm_of(&routes, "T"), 6);
    }
}
