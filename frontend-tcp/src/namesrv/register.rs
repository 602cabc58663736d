//! How a broker makes itself known to name servers: one task for each of them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mq_store::broker::topics::TopicTable;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::wire::client::{Client, Security};
use crate::wire::codes::{request, response};
use crate::wire::command::Command;

const CONNECT: Duration = Duration::from_secs(3);
/// On the way out nobody waits longer than this for a name server.
const UNREGISTER: Duration = Duration::from_secs(3);
/// Waits between tries double from the one to the other.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// What a broker says of itself.
#[derive(Clone, Debug, Default)]
pub struct Registration {
    pub cluster: String,
    pub broker_name: String,
    pub broker_id: i64,
    pub broker_addr: String,
    pub ha_server_addr: String,
    /// All topics. Name servers of 5.x turn a broker away that comes with a single one.
    pub topics: TopicTable,
}

impl Registration {
    fn head(&self, code: i32) -> Command {
        Command::new(code)
            .field("brokerAddr", self.broker_addr.clone())
            .field("brokerId", self.broker_id)
            .field("brokerName", self.broker_name.clone())
            .field("clusterName", self.cluster.clone())
    }

    /// The request to be registered.
    pub fn register(&self) -> Command {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            filter_server_list: [(); 0],
            topic_config_serialize_wrapper: Wrapper<'a>,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wrapper<'a> {
            #[serde(flatten)]
            topics: &'a TopicTable,
            /// Static topics, of which there are none.
            topic_queue_mapping_detail_map: Map<String, Value>,
            topic_queue_mapping_info_map: Map<String, Value>,
        }
        let body = Body {
            filter_server_list: [],
            topic_config_serialize_wrapper: Wrapper {
                topics: &self.topics,
                topic_queue_mapping_detail_map: Map::new(),
                topic_queue_mapping_info_map: Map::new(),
            },
        };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        self.head(request::REGISTER_BROKER)
            .field("haServerAddr", self.ha_server_addr.clone())
            .field("compressed", false)
            .field("bodyCrc32", (crc32fast::hash(&body) & 0x7fff_ffff) as i32)
            .body(body)
    }

    /// The request to be forgotten.
    pub fn unregister(&self) -> Command {
        self.head(request::UNREGISTER_BROKER)
    }
}

/// How a registrar goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// `registerNameServerPeriod`; between 10 and 60 s, as with RocketMQ.
    pub period: Duration,
    /// `registerBrokerTimeoutMills`
    pub timeout: Duration,
}

/// See [`Registrar::told`].
pub type Told = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Keeps a broker registered.
#[derive(Debug)]
pub struct Registrar {
    servers: Vec<(Arc<Notify>, JoinHandle<()>)>,
    /// Changes so far.
    changes: Arc<AtomicU64>,
    /// Of each server: changes that it was told of, or that it could not be told of.
    told: Vec<watch::Receiver<u64>>,
    stop: watch::Sender<bool>,
}

impl Registrar {
    /// Registers at all `servers` ("host:port"), and again after each period and change.
    /// `what` is asked each time.
    pub fn start(
        servers: &[String],
        timing: Timing,
        security: Security,
        what: impl Fn() -> Registration + Send + Sync + 'static,
    ) -> Registrar {
        let (stop, stopped) = watch::channel(false);
        let what: Arc<dyn Fn() -> Registration + Send + Sync> = Arc::new(what);
        let period = timing.period.clamp(Duration::from_secs(10), Duration::from_secs(60));
        let (changes, mut told) = (Arc::new(AtomicU64::new(0)), Vec::new());
        let start = |addr: &String| {
            let changed = Arc::new(Notify::new());
            let (tells, told_to) = watch::channel(0);
            told.push(told_to);
            let server = Server {
                addr: addr.clone(),
                timeout: timing.timeout,
                security: security.clone(),
                what: what.clone(),
                changes: changes.clone(),
                told: tells,
                client: None,
                up: None,
            };
            let task = server.run(period, changed.clone(), stopped.clone());
            (changed, tokio::spawn(task))
        };
        let servers = servers.iter().map(start).collect();
        Registrar { servers, changes, told, stop }
    }

    /// To be called when there is something new to register.
    pub fn changed(&self) -> impl Fn() + Send + Sync + 'static {
        let servers: Vec<Arc<Notify>> = self.servers.iter().map(|(n, _)| n.clone()).collect();
        let changes = self.changes.clone();
        move || {
            changes.fetch_add(1, Ordering::SeqCst);
            servers.iter().for_each(|changed| changed.notify_one());
        }
    }

    /// Waits until every server was told of what changed before the call, or could not be.
    pub fn told(&self) -> Told {
        let (changes, told) = (self.changes.clone(), self.told.clone());
        Box::new(move || {
            let (changes, told) = (changes.load(Ordering::SeqCst), told.clone());
            Box::pin(async move {
                for mut server in told {
                    let _ = server.wait_for(|told| *told >= changes).await;
                }
            })
        })
    }

    /// Unregisters everywhere.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        for (_, task) in self.servers {
            let _ = task.await;
        }
    }
}

/// One name server.
struct Server {
    addr: String,
    timeout: Duration,
    security: Security,
    what: Arc<dyn Fn() -> Registration + Send + Sync>,
    changes: Arc<AtomicU64>,
    told: watch::Sender<u64>,
    client: Option<Client>,
    /// Whether the last try went well; `None` before the first.
    up: Option<bool>,
}

impl Server {
    async fn run(
        mut self,
        period: Duration,
        changed: Arc<Notify>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let mut retry = FIRST_RETRY;
        loop {
            let changes = self.changes.load(Ordering::SeqCst);
            let command = (self.what)().register();
            let outcome = tokio::select! {
                outcome = self.call(&command) => outcome,
                _ = stopped.changed() => break,
            };
            self.told.send_replace(changes);
            self.note(&outcome);
            let wait = if outcome.is_ok() {
                retry = FIRST_RETRY;
                period
            } else {
                let wait = retry;
                retry = (2 * retry).min(LAST_RETRY);
                wait
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed.notified() => {}
                // A name server that ends the connection forgets the broker.
                () = ended(&mut self.client) => {}
                _ = stopped.changed() => break,
            }
        }
        if let Some(client) = &mut self.client {
            let command = (self.what)().unregister();
            match client.call(&command, UNREGISTER).await {
                Ok(_) => tracing::info!("unregistered at name server {}", self.addr),
                Err(e) => tracing::warn!("cannot unregister at name server {}: {e}", self.addr),
            }
        }
    }

    async fn call(&mut self, command: &Command) -> io::Result<()> {
        // Taken: a call that is given up half-way leaves no connection behind.
        let answered = match self.client.take() {
            Some(mut client) => {
                client.call(command, self.timeout).await.ok().map(|answer| (client, answer))
            }
            None => None,
        };
        let (client, answer) = match answered {
            Some(answered) => answered,
            // None yet, or it had ended meanwhile.
            None => {
                let mut client = Client::connect_with(&self.addr, CONNECT, &self.security).await?;
                let answer = client.call(command, self.timeout).await?;
                (client, answer)
            }
        };
        self.client = Some(client);
        if answer.code == response::SUCCESS {
            return Ok(());
        }
        let remark = answer.remark.unwrap_or_default();
        Err(io::Error::other(format!("it answered code {}: {remark}", answer.code)))
    }

    /// Logs what changed, not each try.
    fn note(&mut self, outcome: &io::Result<()>) {
        if self.up.replace(outcome.is_ok()) == Some(outcome.is_ok()) {
            return;
        }
        match outcome {
            Ok(()) => tracing::info!("registered at name server {}", self.addr),
            Err(e) => {
                tracing::warn!("cannot register at name server {}: {e}; trying again", self.addr);
            }
        }
    }
}

/// Waits until the connection has ended, and a little longer, lest a server that ends each one
/// be asked without pause.
async fn ended(client: &mut Option<Client>) {
    match client {
        Some(client) => client.ended().await,
        None => std::future::pending().await,
    }
    tokio::time::sleep(FIRST_RETRY).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::command::Body;

    #[test]
    fn the_body_has_the_form_that_java_reads() {
        let mut registration = Registration::default();
        registration.topics.data_version.counter = 3;
        let topic = mq_store::broker::topics::TopicConfig::new("T", 4);
        registration.topics.topic_config_table.insert("T".into(), topic);
        let Body::Bytes(body) = registration.register().body else { panic!("no body") };
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            "{\"filterServerList\":[],\"topicConfigSerializeWrapper\":{\
             \"dataVersion\":{\"counter\":3,\"stateVersion\":0,\"timestamp\":0},\
             \"topicConfigTable\":{\"T\":{\"order\":false,\"perm\":6,\"readQueueNums\":4,\
             \"topicFilterType\":\"SINGLE_TAG\",\"topicName\":\"T\",\"topicSysFlag\":0,\
             \"writeQueueNums\":4}},\
             \"topicQueueMappingDetailMap\":{},\"topicQueueMappingInfoMap\":{}}}"
        );
    }
}
