//! How a broker makes itself known to name servers: one task for each of them.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mq_store::broker::topics::TopicTable;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::address_server::AddressServer;
use crate::wire::client::{Buffers, Client, Security};
use crate::wire::codes::{request, response};
use crate::wire::command::Command;

/// On the way out nobody waits longer than this for a name server.
const UNREGISTER: Duration = Duration::from_secs(3);
/// Waits between tries double from the one to the other.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// An address server that does not answer is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(10);

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
    /// `connectTimeoutMillis`
    pub connect: Duration,
    /// `clientSocketRcvBufSize`, `clientSocketSndBufSize`
    pub buffers: Buffers,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            period: Duration::from_secs(30),
            timeout: Duration::from_secs(6),
            connect: Duration::from_secs(3),
            buffers: Buffers::default(),
        }
    }
}

/// See [`Registrar::told`].
pub type Told = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// See [`Registrar::mover`].
pub type MoveTo = Box<dyn Fn(&[String]) + Send + Sync>;

/// Keeps a broker registered.
pub struct Registrar {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
}

struct Shared {
    timing: Timing,
    security: Security,
    what: Box<dyn Fn() -> Registration + Send + Sync>,
    /// Changes so far.
    changes: AtomicU64,
    servers: Mutex<Vec<Registered>>,
    stopped: watch::Receiver<bool>,
}

/// A name server, and the task that registers there.
struct Registered {
    addr: String,
    changed: Arc<Notify>,
    /// Changes that it was told of, or that it could not be told of.
    told: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Shared {
    fn servers(&self) -> MutexGuard<'_, Vec<Registered>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers at these servers from now on. Others forget the broker as its connection ends.
    fn move_to(self: &Arc<Self>, addrs: &[String]) {
        let mut servers = self.servers();
        servers.retain(|server| {
            let stays = addrs.contains(&server.addr);
            if !stays {
                tracing::info!("no longer registered at name server {}", server.addr);
                server.task.abort();
            }
            stays
        });
        for addr in addrs {
            if servers.iter().all(|server| server.addr != *addr) {
                let changed = Arc::new(Notify::new());
                let (tells, told) = watch::channel(0);
                let server = Server {
                    addr: addr.clone(),
                    shared: self.clone(),
                    told: tells,
                    client: None,
                    up: None,
                };
                let task = tokio::spawn(server.run(changed.clone(), self.stopped.clone()));
                servers.push(Registered { addr: addr.clone(), changed, told, task });
            }
        }
    }
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
        let period = timing.period.clamp(Duration::from_secs(10), Duration::from_secs(60));
        let shared = Arc::new(Shared {
            timing: Timing { period, ..timing },
            security,
            what: Box::new(what),
            changes: AtomicU64::new(0),
            servers: Mutex::default(),
            stopped,
        });
        shared.move_to(servers);
        Registrar { shared, stop }
    }

    /// Registers where an address server says, and goes on asking it after each period.
    pub fn follow(&self, from: AddressServer, period: Duration) {
        let (shared, mut stopped) = (self.shared.clone(), self.shared.stopped.clone());
        tokio::spawn(async move {
            loop {
                let pause = match from.fetch().await {
                    Ok(servers) => {
                        shared.move_to(&servers.0);
                        period
                    }
                    Err(e) => {
                        tracing::warn!("no name servers from {from}: {e}; asking again");
                        period.min(ASK_AGAIN)
                    }
                };
                if tokio::time::timeout(pause, stopped.changed()).await.is_ok() {
                    return;
                }
            }
        });
    }

    /// To be called with the servers to register at from now on.
    pub fn mover(&self) -> MoveTo {
        let shared = self.shared.clone();
        Box::new(move |servers| shared.move_to(servers))
    }

    /// To be called when there is something new to register.
    pub fn changed(&self) -> impl Fn() + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || {
            shared.changes.fetch_add(1, Ordering::SeqCst);
            shared.servers().iter().for_each(|server| server.changed.notify_one());
        }
    }

    /// Waits until every server was told of what changed before the call, or could not be.
    pub fn told(&self) -> Told {
        let shared = self.shared.clone();
        Box::new(move || {
            let changes = shared.changes.load(Ordering::SeqCst);
            let told: Vec<_> = shared.servers().iter().map(|server| server.told.clone()).collect();
            Box::pin(async move {
                for mut told in told {
                    let _ = told.wait_for(|told| *told >= changes).await;
                }
            })
        })
    }

    /// Unregisters everywhere.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let servers = std::mem::take(&mut *self.shared.servers());
        for server in servers {
            let _ = server.task.await;
        }
    }
}

/// One name server.
struct Server {
    addr: String,
    shared: Arc<Shared>,
    told: watch::Sender<u64>,
    client: Option<Client>,
    /// Whether the last try went well; `None` before the first.
    up: Option<bool>,
}

impl Server {
    async fn run(mut self, changed: Arc<Notify>, mut stopped: watch::Receiver<bool>) {
        let mut retry = FIRST_RETRY;
        loop {
            let changes = self.shared.changes.load(Ordering::SeqCst);
            let command = (self.shared.what)().register();
            let outcome = tokio::select! {
                outcome = self.call(&command) => outcome,
                _ = stopped.changed() => break,
            };
            self.told.send_replace(changes);
            self.note(&outcome);
            let wait = if outcome.is_ok() {
                retry = FIRST_RETRY;
                self.shared.timing.period
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
            let command = (self.shared.what)().unregister();
            match client.call(&command, UNREGISTER).await {
                Ok(_) => tracing::info!("unregistered at name server {}", self.addr),
                Err(e) => tracing::warn!("cannot unregister at name server {}: {e}", self.addr),
            }
        }
    }

    async fn call(&mut self, command: &Command) -> io::Result<()> {
        let Timing { timeout, connect, buffers, .. } = self.shared.timing;
        // Taken: a call that is given up half-way leaves no connection behind.
        let answered = match self.client.take() {
            Some(mut client) => {
                client.call(command, timeout).await.ok().map(|answer| (client, answer))
            }
            None => None,
        };
        let (client, answer) = match answered {
            Some(answered) => answered,
            // None yet, or it had ended meanwhile.
            None => {
                let security = &self.shared.security;
                let mut client = Client::connect_by(&self.addr, connect, security, buffers).await?;
                let answer = client.call(command, timeout).await?;
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
