//! Feature `tcp`: the open store served to RocketMQ clients.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use mq_broker::config::NamesrvConf;
use mq_broker::handle::Tuning;
use mq_broker::namesrv::NameServer;
use mq_broker::namesrv::register::{Registrar, Registration, Timing};
use mq_broker::run;
use mq_broker::server::Limits;
use mq_broker::wire::client::Security;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::error::{Error, Result};
use crate::mq::{Frontend, Inner, Mq};

/// A broker and a name server on an open store, in threads of their own. Dropping it ends them,
/// and leaves the store open.
pub struct Server {
    name_server: SocketAddr,
    broker: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Mq {
    /// Serves the open store to RocketMQ clients on this machine, on free ports of 127.0.0.1: a
    /// broker, and a name server at which they find it. The program goes on using it itself. The
    /// members of a group should be on one side: in this process, or clients.
    ///
    /// # Errors
    /// [`Error::Serve`] if it cannot listen, or if the store is being served.
    pub fn serve(&self) -> Result<Server> {
        self.0.check_open()?;
        let mq = self.0.clone();
        let (stop, stopped) = oneshot::channel();
        let (started, start) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("mq-serve".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build();
                match runtime {
                    Ok(runtime) => runtime.block_on(serve(&mq, started, stopped)),
                    Err(e) => drop(started.send(Err(e))),
                }
            })
            .map_err(Error::Serve)?;
        let ended = |_| std::io::Error::other("the server ended before it served");
        let (name_server, broker) =
            start.recv().map_err(ended).and_then(|r| r).map_err(Error::Serve)?;
        Ok(Server { name_server, broker, stop: Some(stop), thread: Some(thread) })
    }
}

type Started = mpsc::Sender<std::io::Result<(SocketAddr, SocketAddr)>>;

async fn serve(mq: &Arc<Inner>, started: Started, stopped: oneshot::Receiver<()>) {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let bound = async {
        let (names, broker) = (TcpListener::bind(any).await?, TcpListener::bind(any).await?);
        let at = (names.local_addr()?, broker.local_addr()?);
        let mut service = run::service(mq.broker.clone(), at.1);
        service.tuning = Tuning { property_filter: true, ..Tuning::default() }.into();
        let running = run::serve(Arc::new(service), broker, Limits::default()).await?;
        Ok::<_, std::io::Error>((names, at, running))
    };
    let (names, at, running) = match bound.await {
        Ok(bound) => bound,
        Err(e) => return drop(started.send(Err(e))),
    };
    let (end, ended) = watch::channel(false);
    let conf = NamesrvConf {
        kv_config_path: mq.broker.store().config().root.join("config/kvConfig.json"),
        ..NamesrvConf::default()
    };
    let name_server = match NameServer::start(conf, names, ended) {
        Ok(name_server) => name_server,
        Err(e) => return drop(started.send(Err(std::io::Error::other(e)))),
    };
    let (broker, config) = (mq.broker.clone(), mq.broker.config());
    let registration = move || Registration {
        cluster: config.cluster.clone(),
        broker_name: config.name.clone(),
        broker_id: 0,
        broker_addr: at.1.to_string(),
        ha_server_addr: at.1.to_string(),
        topics: broker.topics().all(),
    };
    let timing = Timing { timeout: std::time::Duration::from_secs(3), ..Timing::default() };
    let registrar =
        Registrar::start(&[at.0.to_string()], timing, Security::default(), registration);
    let (holds, asked) = (running.service.clone(), running.service.clone());
    mq.remote.set(Some(Frontend {
        arrived: Box::new(move |arrival| holds.holds.arrived(arrival)),
        topics_changed: Box::new(registrar.changed()),
        check: Box::new(move |check| asked.ask_producer(check)),
    }));
    let _ = started.send(Ok(at));
    let _ = stopped.await;
    mq.remote.set(None);
    registrar.stop().await;
    running.leave().await;
    let _ = end.send(true);
    let _ = name_server.await;
}

impl Server {
    /// Where clients find the name server: `setNamesrvAddr` of Java, `WithNameServer` of Go.
    pub fn name_server(&self) -> SocketAddr {
        self.name_server
    }

    /// Where the broker listens.
    pub fn broker(&self) -> SocketAddr {
        self.broker
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server(broker {}, name server {})", self.broker, self.name_server)
    }
}

/// A RocketMQ for tests, in one line: a store in a temporary folder, served on free ports. All is
/// gone when it is dropped.
///
/// ```
/// use mq_embedded::{Message, TestBroker};
///
/// let rocketmq = TestBroker::start()?;
/// // What a service under test is told: its name server.
/// let address = rocketmq.server.name_server().to_string();
/// # assert!(address.starts_with("127.0.0.1:"));
/// // What the test itself does needs no client.
/// rocketmq.mq.producer().send(&Message::new("Orders", "one book"))?;
/// # Ok::<_, mq_embedded::Error>(())
/// ```
#[derive(Debug)]
pub struct TestBroker {
    /// What clients connect to.
    pub server: Server,
    /// The store that is served, for the test itself.
    pub mq: Mq,
    _dir: tempfile::TempDir,
}

impl TestBroker {
    /// Starts it, in some milliseconds.
    ///
    /// # Errors
    /// [`Error::Serve`] if there is no temporary folder or no free port.
    pub fn start() -> Result<TestBroker> {
        let dir = tempfile::tempdir().map_err(Error::Serve)?;
        let mq = Mq::builder()
            .log_file_len(64 << 20)
            .queue_file_messages(10_000)
            .index_shape(200_000, 50_000)
            .open(dir.path())?;
        Ok(TestBroker { server: mq.serve()?, mq, _dir: dir })
    }
}
