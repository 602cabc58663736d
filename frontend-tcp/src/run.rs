//! Puts a broker together: store, rules, listeners, background; and takes it apart again.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Weak};
use std::time::Duration;

use mq_store::broker::{Broker, BrokerConfig};
use mq_store::config::StoreConfig;
use mq_store::os::clock::SystemClock;
use mq_store::os::fs::Fs;
use mq_store::recover::RecoveryReport;
use mq_store::store::{MessageStore, ReadLimits};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::handle::admin::ConfigAccess;
use crate::handle::{BrokerService, pull};
use crate::hold::Holds;
use crate::server::{self, Limits};

/// How often pulls whose time is over are answered, and silent clients looked for.
const EXPIRE_HOLDS: Duration = Duration::from_millis(250);
const EXPIRE_CLIENTS: Duration = Duration::from_secs(10);

/// What a broker process is started with.
pub struct Settings {
    pub store: StoreConfig,
    pub broker: BrokerConfig,
    pub listen: SocketAddr,
    pub limits: Limits,
    pub pull_limits: ReadLimits,
    /// See [`BrokerService::long_polling`].
    pub long_polling: Result<(), i64>,
    pub region: String,
    pub admins: Box<dyn Fn(IpAddr) -> bool + Send + Sync>,
    pub config: ConfigAccess,
}

/// A broker with its store open, not yet reachable.
pub struct Opened {
    pub service: Arc<BrokerService>,
    pub report: RecoveryReport,
    /// What was wrong with config files.
    pub notes: Vec<String>,
}

/// Opens the store, which may take a while. `progress` is told position and end of the walk over
/// the log. Clients are told to come to `store_host` of the store's settings.
pub fn open(
    settings: Settings,
    progress: &mut dyn FnMut(u64, u64),
) -> mq_store::Result<(Opened, SocketAddr, Limits)> {
    let advertised = settings.store.store_host;
    let clock = Arc::new(SystemClock);
    let (store, report) = MessageStore::open_with(settings.store, Fs::default(), clock, progress)?;
    let store = Arc::new(store);
    let late = Arc::new(std::sync::OnceLock::<Weak<Broker>>::new());
    let for_holds = late.clone();
    let holds =
        Arc::new(Holds::new(Arc::new(move |p| match for_holds.get().and_then(Weak::upgrade) {
            Some(broker) => pull::pull_again(&broker, p),
            None => crate::conn::Reply::None,
        })));
    let for_arrival = holds.clone();
    let on_arrival = Box::new(move |arrival: mq_store::store::Arrival<'_>| {
        for_arrival.arrived(&arrival);
    });
    let (broker, notes) = Broker::open(store, settings.broker, on_arrival);
    let _ = late.set(Arc::downgrade(&broker));
    let service = Arc::new(BrokerService {
        broker,
        sessions: Default::default(),
        holds,
        advertised,
        admins: settings.admins,
        long_polling: settings.long_polling,
        pull_limits: settings.pull_limits,
        region: settings.region,
        config: settings.config,
    });
    Ok((Opened { service, report, notes }, settings.listen, settings.limits))
}

/// A broker that serves.
pub struct Running {
    pub service: Arc<BrokerService>,
    /// Where it listens.
    pub addr: SocketAddr,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// Makes an opened broker reachable.
pub async fn serve(
    service: Arc<BrokerService>,
    listen: SocketAddr,
    limits: Limits,
) -> io::Result<Running> {
    let listener = server::bind(listen, "listenPort").await?;
    let addr = listener.local_addr()?;
    let (stop, stopped) = watch::channel(false);
    let mut tasks =
        vec![tokio::spawn(server::serve(listener, service.clone(), limits, stopped.clone()))];
    // Old clients send to this port (the "VIP channel"). Without it they use the other one.
    let fast = SocketAddr::new(addr.ip(), addr.port().saturating_sub(2));
    match server::bind(fast, "listenPort - 2, for old clients").await {
        Ok(listener) => {
            let (service, stopped) = (service.clone(), stopped.clone());
            tasks.push(tokio::spawn(server::serve(listener, service, limits, stopped)));
        }
        Err(e) => tracing::debug!("{e}"),
    }
    service.broker.run_background().map_err(io::Error::other)?;
    tasks.push(every(EXPIRE_HOLDS, &service, stopped.clone(), |s| {
        s.holds.expire_step(s.broker.now_ms());
    }));
    tasks.push(every(EXPIRE_CLIENTS, &service, stopped, |s| s.expire_step()));
    Ok(Running { service, addr, stop, tasks })
}

fn every(
    period: Duration,
    service: &Arc<BrokerService>,
    mut stopped: watch::Receiver<bool>,
    step: impl Fn(&BrokerService) + Send + 'static,
) -> JoinHandle<()> {
    let service = service.clone();
    tokio::spawn(async move {
        while tokio::time::timeout(period, stopped.changed()).await.is_err() {
            step(&service);
        }
    })
}

impl Running {
    /// Ends all connections, saves everything and closes the store.
    pub async fn stop(self) -> mq_store::Result<()> {
        let _ = self.stop.send(true);
        for task in self.tasks {
            let _ = task.await;
        }
        let broker = self.service.broker.clone();
        match tokio::task::spawn_blocking(move || broker.close()).await {
            Ok(closed) => closed,
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
    }
}

/// The address that clients are told, when none is configured: that on which we listen, or, if
/// that is every one, that of the interface which leads to others.
pub fn advertised_ip(listen: IpAddr) -> IpAddr {
    if !listen.is_unspecified() {
        return listen;
    }
    // Connecting a datagram socket sends nothing; it only chooses an interface.
    let towards = |local: SocketAddr, remote: SocketAddr| -> io::Result<IpAddr> {
        let socket = UdpSocket::bind(local)?;
        socket.connect(remote)?;
        Ok(socket.local_addr()?.ip())
    };
    let v4 = towards(
        (Ipv4Addr::UNSPECIFIED, 0).into(),
        // An address of the documentation's range: anywhere outside.
        (Ipv4Addr::new(192, 0, 2, 1), 9).into(),
    );
    v4.or_else(|_| {
        towards(
            (Ipv6Addr::UNSPECIFIED, 0).into(),
            (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into(),
        )
    })
    .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}
