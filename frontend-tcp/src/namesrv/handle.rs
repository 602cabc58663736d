//! What a name server does with each request: one row a code in one table.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLockReadGuard};
use std::time::Duration;

use mq_store::broker::topics::{DataVersion, TopicConfig, TopicTable};
use mq_store::codec::lenient_json;
use mq_store::os::clock::{Clock, SystemClock};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::kv::Kv;
use super::settings::Settings;
use super::table::{MAX_NAME, QueueData, Refused, Registering, Routes};
use crate::config::{NamesrvConf, read_properties};
use crate::conn::{Conn, Reply, Request};
use crate::handle::Failure;
use crate::run::WATCH;
use crate::server::{self, Limits, Service, not_supported};
use crate::tls::{self, TlsError};
use crate::wire::codes::{request, response};
use crate::wire::command::Command;
use crate::wire::fastjson;
use crate::wire::fields::{FieldError, header};

/// Namespace of the queues of ordered topics.
const ORDER_TOPIC_CONFIG: &str = "ORDER_TOPIC_CONFIG";
/// From this version (4.9.4) on clients want standard JSON.
const STANDARD_JSON: i32 = 401;
/// How compressed bodies begin, and JSON does not. Brokers of 5.x set to compress say of their
/// body that it is not.
const ZLIB: u8 = 0x78;
/// Bytes of a registration, decompressed.
const MAX_BODY: u64 = 16 << 20;

/// A name server without its socket.
pub struct NameServer {
    settings: Arc<Settings>,
    kv: Arc<Kv>,
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct State {
    routes: Routes,
    /// Connections on which brokers registered.
    conns: HashMap<u64, Arc<Conn>>,
}

impl NameServer {
    /// A name server on its files. Also gives notes: of what was wrong with them, and of settings
    /// that were changed on them.
    pub fn new(conf: NamesrvConf, clock: Arc<dyn Clock>) -> (Arc<NameServer>, Vec<String>) {
        let mut notes = Vec::new();
        let kv = Arc::new(Kv::open(conf.kv_config_path.clone(), &mut notes));
        let settings = Arc::new(Settings::open(conf, &mut notes));
        (Arc::new(NameServer { settings, kv, state: Mutex::default(), clock }), notes)
    }

    /// Serves a listener until `stop` changes.
    pub fn start(
        conf: NamesrvConf,
        listener: TcpListener,
        mut stop: watch::Receiver<bool>,
    ) -> Result<JoinHandle<()>, TlsError> {
        let tls = Arc::new(tls::Server::of(&conf.tls)?);
        let limits = Limits {
            connections: conf.max_connections,
            in_flight: conf.max_in_flight_bytes,
            idle: Duration::from_secs(conf.server_channel_max_idle_time_seconds.unsigned_abs()),
            ..Limits::default()
        };
        let (server, notes) = NameServer::new(conf, Arc::new(SystemClock));
        for note in notes {
            tracing::warn!("{note}");
        }
        Ok(tokio::spawn(async move {
            let served = server::serve(listener, server.clone(), limits, tls.clone(), stop.clone());
            let served = tokio::spawn(served);
            let mut stopped = stop.clone();
            tokio::spawn(async move {
                while tokio::time::timeout(WATCH, stopped.changed()).await.is_err() {
                    tls.reload_step();
                }
            });
            let period = || {
                let ms = server.conf().scan_not_active_broker_interval;
                Duration::from_millis(ms.unsigned_abs())
            };
            while tokio::time::timeout(period(), stop.changed()).await.is_err() {
                server.expire_step(server.clock.now_ms());
            }
            let _ = served.await;
        }))
    }

    /// Background step: removes brokers that are silent for too long, and ends their connections.
    pub fn expire_step(&self, now_ms: i64) {
        let mut state = self.state();
        for (addr, conn) in state.routes.expire(now_ms) {
            tracing::warn!("the broker at {addr} was silent for too long: removed");
            if let Some(conn) = state.conns.get(&conn) {
                conn.close();
            }
        }
    }

    fn conf(&self) -> RwLockReadGuard<'_, NamesrvConf> {
        self.settings.now()
    }
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who may ask for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Anyone,
    /// It changes configuration or deletes.
    Admin,
}
use Access::{Admin, Anyone};

type Handler = fn(&NameServer, &Arc<Conn>, &Request<'_>) -> Result<Reply, Failure>;

static TABLE: &[(i32, Access, Handler)] = &[
    (request::GET_ROUTEINFO_BY_TOPIC, Anyone, route),
    (request::REGISTER_BROKER, Anyone, register_broker),
    (request::QUERY_DATA_VERSION, Anyone, query_data_version),
    (request::BROKER_HEARTBEAT, Anyone, broker_heartbeat),
    (request::UNREGISTER_BROKER, Anyone, unregister_broker),
    (request::GET_BROKER_CLUSTER_INFO, Anyone, cluster_info),
    (request::GET_BROKER_MEMBER_GROUP, Anyone, member_group),
    (request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, Anyone, all_topics),
    (request::GET_TOPICS_BY_CLUSTER, Anyone, topics_by_cluster),
    (request::GET_SYSTEM_TOPIC_LIST_FROM_NS, Anyone, system_topics),
    (request::GET_UNIT_TOPIC_LIST, Anyone, |ns, _, _| unit_topics(ns, |f| f & 1 != 0)),
    (request::GET_HAS_UNIT_SUB_TOPIC_LIST, Anyone, |ns, _, _| unit_topics(ns, |f| f & 2 != 0)),
    (request::GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST, Anyone, |ns, _, _| {
        unit_topics(ns, |f| f & 3 == 2)
    }),
    (request::GET_KV_CONFIG, Anyone, get_kv),
    (request::GET_KVLIST_BY_NAMESPACE, Anyone, get_kv_list),
    (request::GET_NAMESRV_CONFIG, Anyone, get_config),
    (request::PUT_KV_CONFIG, Admin, put_kv),
    (request::DELETE_KV_CONFIG, Admin, delete_kv),
    (request::WIPE_WRITE_PERM_OF_BROKER, Admin, wipe_write_perm),
    (request::ADD_WRITE_PERM_OF_BROKER, Admin, add_write_perm),
    (request::DELETE_TOPIC_IN_NAMESRV, Admin, delete_topic),
    (request::REGISTER_TOPIC_IN_NAMESRV, Admin, register_topic),
    (request::UPDATE_NAMESRV_CONFIG, Admin, update_config),
];

impl Service for NameServer {
    fn handle(&self, conn: &Arc<Conn>, request: &Request<'_>) -> Reply {
        let code = request.head.code;
        let Some((_, access, handler)) = TABLE.iter().find(|row| row.0 == code) else {
            return not_supported(code);
        };
        let ip = conn.peer().ip().to_canonical();
        if *access == Admin
            && !conn.is_from_here()
            && !self.conf().admin_allowed_addresses.contains(ip)
        {
            let remark = format!(
                "{} changes the name server: it is served to this machine, and to addresses that adminAllowedAddresses names; {ip} is none",
                request::name(code)
            );
            return Command::refusal(response::NO_PERMISSION, remark).into();
        }
        handler(self, conn, request).unwrap_or_else(|failure| {
            tracing::debug!("{} of {}: {failure}", request::name(code), conn.peer());
            failure.command().into()
        })
    }

    fn closed(&self, conn: &Arc<Conn>) {
        let mut state = self.state();
        if state.conns.remove(&conn.id()).is_some() {
            for (addr, _) in state.routes.connection_closed(conn.id()) {
                tracing::info!("the broker at {addr} left: its connection ended");
            }
        }
    }
}

fn failed(code: i32, remark: impl Into<String>) -> Failure {
    Failure::Code(code, remark.into())
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Failure {
        failed(response::SYSTEM_ERROR, refused.to_string())
    }
}

/// Reads JSON as fastjson writes it: a map with numeric keys is no standard JSON.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).or_else(|e| {
        let text = std::str::from_utf8(body).unwrap_or_default();
        let value = lenient_json::parse(text).map_err(|_| Failure::Body(e))?;
        serde_json::from_value(value).map_err(Failure::Body)
    })
}

/// A field that must be there.
fn text<'a>(r: &'a Request<'_>, name: &'static str) -> Result<&'a str, Failure> {
    r.head.fields.get(name).ok_or(FieldError::Missing(name).into())
}

header! {
    struct Broker<'a> {
        cluster: &'a str = "clusterName",
        name: &'a str = "brokerName",
        addr: &'a str = "brokerAddr",
        id: i64 = "brokerId" else 0,
        ha_addr: &'a str = "haServerAddr" else "",
        compressed: bool = "compressed" else false,
        body_crc: i32 = "bodyCrc32" else 0,
        timeout: Option<i64> = "heartbeatTimeoutMillis",
        acting_master: Option<bool> = "enableActingMaster",
        zone: Option<&'a str> = "__ZONE_NAME",
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RegisterBody {
    filter_server_list: Vec<String>,
    topic_config_serialize_wrapper: TopicTable,
}

fn register_broker(ns: &NameServer, conn: &Arc<Conn>, r: &Request<'_>) -> Result<Reply, Failure> {
    let h = Broker::of(&r.head.fields)?;
    let crc = (crc32fast::hash(r.body) & 0x7fff_ffff) as i32;
    if h.body_crc != 0 && h.body_crc != crc {
        return Err(failed(response::SYSTEM_ERROR, "crc32 not match"));
    }
    let body = match r.body {
        [] => RegisterBody::default(),
        body if h.compressed || body[0] == ZLIB => decompress(body)
            .map_err(|e| failed(response::SYSTEM_ERROR, format!("compressed body: {e}")))?,
        body => parse(body)?,
    };
    let TopicTable { data_version, topic_config_table } = body.topic_config_serialize_wrapper;
    let named = |(name, topic)| TopicConfig { topic_name: name, ..topic };
    let registering = Registering {
        cluster: h.cluster,
        broker_name: h.name,
        broker_id: h.id,
        addr: h.addr,
        ha_addr: h.ha_addr,
        timeout_ms: h.timeout,
        acting_master: h.acting_master,
        zone: h.zone,
        conn: conn.id(),
        version: data_version,
        topics: topic_config_table.into_iter().map(named).collect(),
        filter_servers: body.filter_server_list,
    };
    let (prune, return_order) = {
        let conf = ns.conf();
        (conf.delete_topic_with_broker_registration, conf.return_order_topic_config_to_broker)
    };
    let registered = {
        let mut state = ns.state();
        let known = state.routes.knows(h.cluster, h.addr);
        let registered = state.routes.register(registering, prune, ns.clock.now_ms())?;
        state.conns.insert(conn.id(), conn.clone());
        if !known {
            tracing::info!("broker {} {} of {} at {} registered", h.name, h.id, h.cluster, h.addr);
        }
        registered
    };
    let mut answer = Command::ok();
    for (name, value) in
        [("masterAddr", registered.master_addr), ("haServerAddr", registered.ha_addr)]
    {
        if let Some(value) = value {
            answer = answer.field(name, value);
        }
    }
    let orders = ns.kv.namespace(ORDER_TOPIC_CONFIG);
    if let Some(table) = orders.filter(|_| return_order) {
        answer = answer.json(&json!({ "table": table }));
    }
    Ok(answer.into())
}

/// The compressed form: `i32 length, version · i32 count · topics · i32 length, filter servers`,
/// each topic `i32 length · name, queues to read and write, permission, filter type` parted by
/// blanks, from 5.x on with attributes. Mappings of static topics may follow.
fn decompress(body: &[u8]) -> io::Result<RegisterBody> {
    fn part(from: &mut impl Read) -> io::Result<Vec<u8>> {
        let len = number(from)?;
        let mut bytes = Vec::new();
        from.take(len.into()).read_to_end(&mut bytes)?;
        if bytes.len() < len as usize {
            Err(io::ErrorKind::UnexpectedEof.into())
        } else {
            Ok(bytes)
        }
    }
    fn number(from: &mut impl Read) -> io::Result<u32> {
        let mut bytes = [0; 4];
        from.read_exact(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }
    let mut from = flate2::read::ZlibDecoder::new(body).take(MAX_BODY);
    let mut table = TopicTable {
        data_version: serde_json::from_slice(&part(&mut from)?)?,
        ..TopicTable::default()
    };
    for _ in 0..number(&mut from)? {
        let text = String::from_utf8(part(&mut from)?).map_err(io::Error::other)?;
        let topic =
            topic_of(&text).ok_or_else(|| io::Error::other(format!("{text:?} is no topic")))?;
        table.topic_config_table.insert(topic.topic_name.clone(), topic);
    }
    let filter_server_list = serde_json::from_slice(&part(&mut from)?)?;
    Ok(RegisterBody { filter_server_list, topic_config_serialize_wrapper: table })
}

fn topic_of(text: &str) -> Option<TopicConfig> {
    let mut words = text.splitn(6, ' ');
    let mut topic = TopicConfig::new(words.next().filter(|name| !name.is_empty())?, 0);
    topic.read_queue_nums = words.next()?.parse().ok()?;
    topic.write_queue_nums = words.next()?.parse().ok()?;
    topic.perm = words.next()?.parse().ok()?;
    topic.topic_filter_type = words.next()?.into();
    Some(topic)
}

fn unregister_broker(ns: &NameServer, _: &Arc<Conn>, r: &Request<'_>) -> Result<Reply, Failure> {
    let h = Broker::of(&r.head.fields)?;
    ns.state().routes.unregister(h.cluster, h.name, h.addr);
    tracing::info!("broker {} {} of {} at {} unregistered", h.name, h.id, h.cluster, h.addr);
    Ok(Command::ok().into())
}

fn query_data_version(ns: &NameServer, _: &Arc<Conn>, r: &Request<'_>) -> Result<Reply, Failure> {
    let h = Broker::of(&r.head.fields)?;
    let asked: Option<DataVersion> = if r.body.is_empty() { None } else { parse(r.body)? };
    let held = ns.state().routes.heard(h.cluster, h.addr, ns.clock.now_ms());
    let answer = Command::ok().field("changed", held.is_none() || held != asked);
    Ok(held.map_or(answer.clone(), |held| answer.json(&held)).into())
}

fn broker_heartbeat(ns: &NameServer, _: &Arc<Conn>, r: &Request<'_>) -> Result<Reply, Failure> {
    let h = Broker::of(&r.head.fields)?;
    ns.state().routes.heard(h.cluster, h.addr, ns.clock.now_ms());
    Ok(Command::ok().into())
}

header! {
    struct Route<'a> {
        topic: Option<&'a str> = "topic",
        standard: bool = "acceptStandardJsonOnly" else false,
    }
}

fn route(ns: &NameServer, _: &Arc<Conn>, r: &Request<'_>) -> Result<Reply, Failure> {
    let h = Route::of(&r.head.fields)?;
    let (order, acting) = {
        let conf = ns.conf();
        (conf.order_message_enable, conf.support_acting_master)
    };
    let topic = h.topic.unwrap_or("null");
    let acting = acting && !topic.starts_with("rmq_sys_SYNC_BROKER_MEMBER_");
    let Some(mut route) = h.topic.and_then(|topic| ns.state().routes.route(topic, acting)) else {
        let remark = format!(
            "No topic route info in name server for the topic: {topic}\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."
        );
        return Err(failed(response::TOPIC_NOT_EXIST, remark));
    };
    if order {
        route.order_topic_conf = ns.kv.get(ORDER_TOPIC_CONFIG, topic);
    }
    let answer = Command::ok();
    Ok(if h.standard || r.head.version >= STANDARD_JSON {
        answer.json(&route)
    } else {
        answer.body(fastjson::to_vec(&route))
    }
    .into())
}

fn cluster_info(ns: &NameServer, _: &Arc<Conn>, _: &Request<'_>) -> Result<Reply, Failure> {
    let body = fastjson::to_vec(&ns.state().routes.clusters());
    Ok(Command::ok().body(body).into())
}

fn member_group(ns: &NameServer, _: &Arc<Conn>, r: &Request<'_>) -> Result<Reply, Failure> {
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Group<'a> {
        broker_addrs: BTreeMap<i64, String>,
        broker_name: &'a str,
        cluster: &'a str,
    }
    let (cluster, broker_name) = (text(r, "clusterName")?, text(r, "brokerName")?);
    let state = ns.state();
    let broker_addrs = state.routes.broker(broker_name).map(|b| b.broker_addrs.clone());
    let broker_addrs = broker_addrs.unwrap_or_default();
    let body =
        BTreeMap::from([("brokerMemberGroup", Group { broker_addrs, broker_name, cluster })]);
    Ok(Command::ok().body(fastjson::to_vec(&body)).into())
}

fn topic_list(topics: Vec<&str>) -> Reply {
    Command::ok().json(&json!({ "topicList": topics })).into()
}

fn allowed(enabled: bool) -> Result<(), Failure> {
    if enabled { Ok(()) } else { Err(failed(response::SYSTEM_ERROR, "disable")) }
}

fn all_topics(ns: &NameServer, _: &Arc<Conn>, _: &Request<'_>) -> Result<Reply, Failure> {
    allowed(ns.conf().enable_all_topic_list)?;
    Ok(topic_list(ns.state().routes.topics()))
}

fn topics_by_cluster(ns: &NameServer, _: &Arc<Conn>, r: &Request<'_>) -> Result<Reply, Failure> {
    allowed(ns.conf().enable_topic_list)?;
    Ok(topic_list(ns.state().routes.topics_of_cluster(text(r, "cluster")?)))
}

/// Names of clusters and brokers, which are topics as well, and where a broker can be asked
/// for more of the kind.
fn system_topics(ns: &NameServer, _: &Arc<Conn>, _: &Request<'_>) -> Result<Reply, Failure> {
    let state = ns.state();
    let info = state.routes.clusters();
    let names: Vec<_> =
        info.cluster_addr_table.keys().chain(info.broker_addr_table.keys()).collect();
    let mut addrs = info.broker_addr_table.values().flat_map(|b| b.broker_addrs.values());
    let mut body = json!({ "topicList": names });
    if let Some(addr) = addrs.next() {
        body["brokerAddr"] = addr.as_str().into();
    }
    Ok(Command::ok().json(&body).into())
}

fn unit_topics(ns: &NameServer, wanted: fn(i32) -> bool) -> Result<Reply, Failure> {
    allowed(ns.conf().enable_topic_list)?;
    Ok(topic_list(ns.state().routes.topics_by_flag(wanted)))
}

fn get_kv(ns: &NameServer, _: &Arc<Conn>, r: &Request<'_>) -> Result<Reply, Failure> {
    let field = |name| r.head.fields.get(name).unwrap_or("null");
    let (namespace, key) = (field("namespace"), field("key"));
    match ns.kv.get(namespace, key) {
        Some(value) => Ok(Command::ok().field("value", value).into()),
        None => {
            let remark = format!("No config item, Namespace: {namespace} Key: {key}");
            Err(failed(response::QUERY_NOT_FOUND, remark))
        }
    }
}

fn get_kv_list(ns: &NameServer, _: &Arc<Conn>, r: &Request<'_>) -> Result<Reply, Failure> {
    let namespace = r.head.fields.get("namespace").unwrap_or("null");
    match ns.kv.namespace(namespace) {
        Some(table) => Ok(Command::ok().json(&json!({ "table": table })).into()),
        None => {
            let remark = format!("No config item, Namespace: {namespace}");
            Err(failed(response::QUERY_NOT_FOUND, remark))
        }
    }
}

fn put_kv(ns: &NameServer, conn: &Arc<Conn>, r: &Request<'_>) -> Result<Reply, Failure> {
    if r.head.fields.get("namespace").and(r.head.fields.get("key")).is_none() {
        return Err(failed(response::SYSTEM_ERROR, "namespace or key is null"));
    }
    // A value that is missing is none, as with Java.
    Ok(change_kv(ns, conn, r, r.head.fields.get("value")))
}

fn delete_kv(ns: &NameServer, conn: &Arc<Conn>, r: &Request<'_>) -> Result<Reply, Failure> {
    Ok(change_kv(ns, conn, r, None))
}

/// Answers once the change is on the disk, without holding up the connection.
fn change_kv(ns: &NameServer, conn: &Arc<Conn>, r: &Request<'_>, value: Option<&str>) -> Reply {
    let field = |name| r.head.fields.get(name).unwrap_or_default().to_owned();
    let (namespace, key, value) = (field("namespace"), field("key"), value.map(str::to_owned));
    let (kv, ticket) = (ns.kv.clone(), r.ticket(conn));
    tokio::task::spawn_blocking(move || {
        ticket.answer(match kv.put(&namespace, &key, value.as_deref()) {
            Ok(()) => Command::ok(),
            Err(e) => {
                tracing::error!("cannot change the key-value configuration: {e}");
                Command::refusal(response::SYSTEM_ERROR, e.to_string())
            }
        });
    });
    Reply::Later
}

fn wipe_write_perm(ns: &NameServer, _: &Arc<Conn>, r: &Request<'_>) -> Result<Reply, Failure> {
    let name = text(r, "brokerName")?;
    let count = ns.state().routes.change_perm(name, |perm| perm & !2);
    Ok(Command::ok().field("wipeTopicCount", count as i64).into())
}

fn add_write_perm(ns: &NameServer, _: &Arc<Conn>, r: &Request<'_>) -> Result<Reply, Failure> {
    let name = text(r, "brokerName")?;
    let count = ns.state().routes.change_perm(name, |_| 6);
    Ok(Command::ok().field("addTopicCount", count as i64).into())
}

fn delete_topic(ns: &NameServer, _: &Arc<Conn>, r: &Request<'_>) -> Result<Reply, Failure> {
    let cluster = r.head.fields.get("clusterName").filter(|cluster| !cluster.is_empty());
    ns.state().routes.delete_topic(text(r, "topic")?, cluster);
    Ok(Command::ok().into())
}

fn register_topic(ns: &NameServer, _: &Arc<Conn>, r: &Request<'_>) -> Result<Reply, Failure> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Queues {
        queue_datas: Vec<QueueData>,
    }
    let topic = text(r, "topic")?;
    if !r.body.is_empty() && topic.len() <= MAX_NAME {
        let queues: Queues = parse(r.body)?;
        ns.state().routes.register_topic(topic, queues.queue_datas);
    }
    Ok(Command::ok().into())
}

fn get_config(ns: &NameServer, _: &Arc<Conn>, _: &Request<'_>) -> Result<Reply, Failure> {
    let lines = ns.conf().get_all().into_iter().map(|(key, value)| format!("{key}={value}\n"));
    Ok(Command::ok().body(lines.collect::<String>()).into())
}

/// Changes all keys of a properties text, or none. Answers once the change is on the disk.
fn update_config(ns: &NameServer, conn: &Arc<Conn>, r: &Request<'_>) -> Result<Reply, Failure> {
    let entries = std::str::from_utf8(r.body)
        .ok()
        .and_then(|text| read_properties(text).ok())
        .ok_or_else(|| failed(response::SYSTEM_ERROR, "string2Properties error"))?;
    let (settings, ticket, by) = (ns.settings.clone(), r.ticket(conn), conn.peer());
    tokio::task::spawn_blocking(move || {
        ticket.answer(match settings.change(entries, by) {
            Ok(()) => Command::ok(),
            Err(failure) => failure.command(),
        });
    });
    Ok(Reply::Later)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    quickcheck! {
        fn any_bytes_as_a_compressed_body(bytes: Vec<u8>, topics: u8) -> bool {
            let part = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes(), bytes].concat();
            let plain = [part(b"{}"), vec![0, 0, 0, topics], part(&bytes), bytes].concat();
            let mut packed = Vec::new();
            let level = flate2::Compression::fast();
            let mut from = flate2::read::ZlibEncoder::new(&*plain, level);
            from.read_to_end(&mut packed).is_ok_and(|_| {
                let _ = (decompress(&packed), decompress(&plain));
                true
            })
        }
    }
}
