//! Puts a broker together: store, rules, listeners, background; and takes it apart again.

use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use mq_store::broker::{Broker, BrokerConfig, share_of_memory};
use mq_store::codec::index::Shape;
use mq_store::config::{Retention, StoreConfig, split_paths};
use mq_store::log::flush::FlushPolicy;
use mq_store::os::clock::SystemClock;
use mq_store::os::fs::Fs;
use mq_store::recover::RecoveryReport;
use mq_store::store::{Arrival, MessageStore, ReadLimits};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::acl::{Acl, AclError};
use crate::config::properties::{Kept, read_kept, write_kept};
use crate::config::{BrokerConf, FlushDiskType, MetricsExporterType, SetError};
use crate::conn::Reply;
use crate::handle::admin::ConfigAccess;
use crate::handle::{BrokerService, Tuning, pull};
use crate::hold::{Holds, Pull};
use crate::metrics::{self, Metrics};
use crate::server::{self, Limits, Sockets};
use crate::tls::{self, TlsError};

/// How often silent clients are looked for.
const EXPIRE_CLIENTS: Duration = Duration::from_secs(10);
/// How often groups that read too slowly are looked for.
const PROTECT: Duration = Duration::from_secs(180);
/// How often pulls whose time is over are answered, and files of access control and TLS looked at: at once,
/// as a broker at rest wakes for nothing else.
pub(crate) const WATCH: Duration = Duration::from_millis(500);

/// What a broker process is started with.
pub struct Settings {
    pub store: StoreConfig,
    pub broker: BrokerConfig,
    pub listen: SocketAddr,
    pub limits: Limits,
    pub tuning: Tuning,
    pub region: String,
    pub admins: Box<dyn Fn(IpAddr) -> bool + Send + Sync>,
    pub config: ConfigAccess,
    pub metrics: Metrics,
    pub acl: Option<Acl>,
    pub tls: tls::Server,
}

/// Why a broker cannot be protected as its settings say.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    #[error(transparent)]
    Acl(#[from] AclError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Settings {
    /// A broker with everything as it is by default, on a free port of this machine alone.
    pub fn at(root: &Path) -> Settings {
        Settings {
            store: StoreConfig::at(root),
            broker: BrokerConfig::default(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            limits: Limits::default(),
            tuning: Tuning::default(),
            region: "DefaultRegion".into(),
            admins: Box::new(|_| false),
            config: ConfigAccess::default(),
            metrics: Metrics::default(),
            acl: None,
            tls: tls::Server::default(),
        }
    }

    /// What a configuration means.
    pub fn of(conf: &BrokerConf) -> Result<Settings, SecurityError> {
        let acl = match (conf.acl_enable, &conf.rocketmq_home) {
            (false, _) => None,
            (true, None) => return Err(AclError::NoHome.into()),
            (true, Some(home)) => Some(Acl::open(home, &conf.acl_file)?),
        };
        let tls = tls::Server::of(&conf.tls)?;
        let listen = SocketAddr::new(conf.bind_address, conf.listen_port);
        let advertised = conf.broker_ip1.unwrap_or_else(|| advertised_ip(listen.ip()));
        let flush = match conf.flush_disk_type {
            FlushDiskType::Sync => FlushPolicy::Sync,
            FlushDiskType::Async => FlushPolicy::Async {
                interval_ms: conf.flush_interval_commit_log,
                least_pages: conf.flush_commit_log_least_pages.unsigned_abs().into(),
                thorough_interval_ms: conf.flush_commit_log_thorough_interval,
            },
        };
        let paths = |paths: &Option<PathBuf>| paths.as_deref().map(split_paths).unwrap_or_default();
        let store = StoreConfig {
            log_dirs: paths(&conf.store_path_commit_log),
            old_log_dirs: paths(&conf.read_only_commit_log_store_paths),
            log_file_len: conf.mapped_file_size_commit_log,
            queue_file_len: conf.mapped_file_size_consume_queue,
            index_shape: Shape {
                slots: conf.max_hash_slot_num.unsigned_abs(),
                items: conf.max_index_num.unsigned_abs(),
            },
            index: conf.message_index_enable,
            flush,
            sync_flush_timeout_ms: conf.sync_flush_timeout,
            append_timeout_ms: conf.os_page_cache_busy_time_out_mills.unsigned_abs(),
            max_body: conf.max_message_size,
            store_host: SocketAddr::new(advertised, conf.listen_port),
            retention: retention(conf),
            delay_levels_ms: conf.message_delay_level.ms.clone(),
            ..StoreConfig::at(&conf.store_path_root_dir)
        };
        let admins = conf.admin_allowed_addresses.clone();
        let conf = Arc::new(Mutex::new(conf.clone()));
        let shown = conf.clone();
        let lock =
            |conf: &Mutex<BrokerConf>| conf.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now = lock(&conf);
        let all = move || lock(&shown).get_all().into_iter().map(|(k, v)| (k.into(), v)).collect();
        let set = move |service: &BrokerService, changes: &[(String, String)]| {
            let mut conf = conf.lock().unwrap_or_else(PoisonError::into_inner);
            let mut changed = conf.clone();
            let mut kept = read_overrides(&changed.store_path_root_dir);
            for (key, value) in changes {
                match changed.set(key, value) {
                    // Tools set what some brokers of a cluster know and others do not.
                    Err(SetError::Unknown(_)) => {
                        tracing::warn!("{key}={value} is not set: this broker has no such key");
                        continue;
                    }
                    set => set.map_err(|e| e.to_string())?,
                }
                kept.insert(key.clone(), value.clone());
            }
            let servers = &changed.namesrv_addr.0;
            let moves = *servers != conf.namesrv_addr.0;
            if moves && servers.is_empty() {
                return Err("namesrvAddr names no name server".into());
            }
            write_overrides(service, &kept).map_err(|e| e.to_string())?;
            service.broker.set_config(broker_config(&changed));
            service.broker.store().set_retention(retention(&changed));
            *service.tuning.write().unwrap_or_else(PoisonError::into_inner) = tuning(&changed);
            if let Some(move_to) = service.move_to.get().filter(|_| moves) {
                move_to(servers);
            }
            *conf = changed;
            Ok(())
        };
        let metrics_listen = (now.metrics_exporter_type == MetricsExporterType::Prom).then(|| {
            let host = now.metrics_prom_exporter_host.unwrap_or(advertised);
            SocketAddr::new(host, now.metrics_prom_exporter_port)
        });
        Ok(Settings {
            acl,
            tls,
            store,
            broker: broker_config(&now),
            listen,
            limits: Limits {
                connections: now.max_connections,
                in_flight: now.max_in_flight_bytes,
                idle: Duration::from_secs(now.server_channel_max_idle_time_seconds.unsigned_abs()),
                sockets: Sockets {
                    backlog: now.server_socket_backlog,
                    receive: now.server_socket_rcv_buf_size,
                    send: now.server_socket_snd_buf_size,
                },
                ..Limits::default()
            },
            tuning: tuning(&now),
            region: now.region_id,
            admins: Box::new(move |ip| admins.contains(ip)),
            config: ConfigAccess::new(Box::new(all), Box::new(set)),
            metrics: Metrics::new(metrics_listen, now.metrics_label.0),
        })
    }
}

fn broker_config(conf: &BrokerConf) -> BrokerConfig {
    BrokerConfig {
        name: conf.broker_name.clone(),
        cluster: conf.broker_cluster_name.clone(),
        auto_create_topic: conf.auto_create_topic_enable,
        trace_topic: conf.trace_topic_enable.then(|| conf.msg_trace_topic_name.clone()),
        region: conf.region_id.clone(),
        trace: conf.trace_on,
        auto_create_group: conf.auto_create_subscription_group,
        default_topic_queues: conf.default_topic_queue_nums,
        permission: conf.broker_permission,
        save_offsets_ms: conf.flush_consumer_offset_interval,
        save_delays_ms: conf.flush_delay_offset_interval,
        reject_transactions: conf.reject_transaction_message,
        transaction_timeout_ms: conf.transaction_time_out,
        transaction_check_max: conf.transaction_check_max,
        transaction_check_interval_ms: conf.transaction_check_interval,
        takes_sends_from_ms: conf.start_accept_send_request_time_stamp,
        cluster_topic: conf.cluster_topic_enable,
        broker_topic: conf.broker_topic_enable,
        keep_filters_ms: conf.filter_data_clean_time_span,
        in_memory: share_of_memory(conf.access_message_in_memory_max_ratio),
    }
}

fn retention(conf: &BrokerConf) -> Retention {
    let percent = |n: i32| f64::from(n) / 100.0;
    Retention {
        reserved_hours: conf.file_reserved_time.unsigned_abs(),
        delete_when: conf.delete_when.0.clone(),
        max_used: percent(conf.disk_max_used_space_ratio),
        force_clean: percent(conf.disk_space_clean_forcibly_ratio),
        refuse_writes: percent(conf.disk_space_warning_level_ratio),
        may_force: conf.clean_file_forcibly_enable,
    }
}

fn tuning(conf: &BrokerConf) -> Tuning {
    Tuning {
        long_polling: match conf.long_polling_enable {
            true => Ok(()),
            false => Err(conf.short_polling_time_mills),
        },
        pull_limits: ReadLimits {
            messages: conf.max_transfer_count_on_message_in_memory,
            bytes: conf.max_transfer_bytes_on_message_in_memory,
            in_memory: share_of_memory(conf.access_message_in_memory_max_ratio),
            messages_on_disk: conf.max_transfer_count_on_message_in_disk,
            bytes_on_disk: conf.max_transfer_bytes_on_message_in_disk,
            ..ReadLimits::default()
        },
        slave_read: conf.slave_read_enable,
        send_wait_ms: conf
            .broker_fast_failure_enable
            .then_some(conf.wait_time_mills_in_send_queue.unsigned_abs()),
        send_capacity: conf.send_thread_pool_queue_capacity,
        pull_capacity: conf.pull_thread_pool_queue_capacity,
        max_found: conf.max_msgs_num_batch,
        max_found_unique: conf.default_query_max_num,
        notify_changes: conf.notify_consumer_ids_changed_enable,
        property_filter: conf.enable_property_filter,
        // RocketMQ knows how far groups are behind by what it records.
        fall_behind: (conf.disable_consume_if_consumer_read_slowly && conf.disk_fall_recorded)
            .then_some(conf.consumer_fallbehind_threshold),
        store_replies: conf.store_reply_message_enable,
    }
}

/// Settings that were changed while a broker ran; they outlive it.
const OVERRIDES: &str = "config/broker.properties";

/// Reads the settings that were changed while a broker ran on the store in `root`.
pub fn read_overrides(root: &Path) -> Kept {
    read_kept(&root.join(OVERRIDES))
}

fn write_overrides(service: &BrokerService, kept: &Kept) -> mq_store::Result<()> {
    let store = service.broker.store();
    write_kept(store.fs(), &store.config().root.join(OVERRIDES), kept)
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
    let (advertised, trace) = (settings.store.store_host, settings.broker.trace);
    let clock = Arc::new(SystemClock);
    let (store, report) = MessageStore::open_with(settings.store, Fs::default(), clock, progress)?;
    let store = Arc::new(store);
    let holds = Arc::new(OnceLock::<Arc<Holds>>::new());
    let for_arrival = holds.clone();
    let on_arrival = Box::new(move |arrival: Arrival<'_>| {
        if let Some(holds) = for_arrival.get() {
            holds.arrived(&arrival);
        }
    });
    let (broker, notes) = Broker::open(store, settings.broker, on_arrival);
    let (listen, limits) = (settings.listen, settings.limits);
    let service = Arc::new(BrokerService {
        admins: settings.admins,
        trace,
        tuning: RwLock::new(settings.tuning),
        region: settings.region,
        config: settings.config,
        metrics: settings.metrics,
        acl: settings.acl,
        tls: Arc::new(settings.tls),
        ..service(broker, advertised)
    });
    let _ = holds.set(service.holds.clone());
    if service.metrics.listen.is_some() {
        service.broker.stats().count_kinds();
    }
    let asks = Arc::downgrade(&service);
    service.broker.on_check(Box::new(move |check| {
        if let Some(service) = asks.upgrade() {
            service.ask_producer(check);
        }
    }));
    Ok((Opened { service, report, notes }, listen, limits))
}

/// What serves a broker that is open, to clients who are told to come to `advertised`. Whoever
/// opened it tells `holds` of arrivals, and lets it ask producers.
pub fn service(broker: Arc<Broker>, advertised: SocketAddr) -> BrokerService {
    if let Ok(runtime) = Handle::try_current() {
        broker.store().answer_by(Box::new(move |answer| {
            let answer = Answer(Some(answer));
            // One wake-up for a group; the answers wake connections from within the runtime.
            runtime.spawn(async move { drop(answer) });
        }));
    }
    let weak = Arc::downgrade(&broker);
    let again = move |p: &Pull| weak.upgrade().map_or(Reply::None, |b| pull::pull_again(&b, p));
    BrokerService {
        broker,
        sessions: Default::default(),
        holds: Arc::new(Holds::new(Arc::new(again))),
        advertised,
        admins: Box::new(|_| false),
        tuning: RwLock::default(),
        region: "DefaultRegion".into(),
        trace: false,
        config: Default::default(),
        metrics: Metrics::default(),
        registered: OnceLock::new(),
        move_to: OnceLock::new(),
        acl: None,
        tls: Arc::default(),
    }
}

/// A broker that serves.
pub struct Running {
    pub service: Arc<BrokerService>,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    watched: Option<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// Makes an opened broker reachable.
pub async fn serve(
    service: Arc<BrokerService>,
    listener: TcpListener,
    limits: Limits,
) -> io::Result<Running> {
    let addr = listener.local_addr()?;
    let (stop, stopped) = watch::channel(false);
    let tls = || service.tls.clone();
    let mut tasks = vec![tokio::spawn(server::serve(
        listener,
        service.clone(),
        limits,
        tls(),
        stopped.clone(),
    ))];
    // Old clients send to this port (the "VIP channel"). Without it they use the other one.
    let fast = SocketAddr::new(addr.ip(), addr.port().saturating_sub(2));
    match server::bind(fast, "listenPort - 2, for old clients", &limits.sockets) {
        Ok(listener) => {
            let (service, stopped) = (service.clone(), stopped.clone());
            tasks.push(tokio::spawn(server::serve(listener, service, limits, tls(), stopped)));
        }
        Err(e) => tracing::debug!("{e}"),
    }
    let (mut metrics, mut watched) = (None, None);
    if let Some(at) = service.metrics.listen {
        let listener =
            server::bind(at, "metricsPromExporterHost, metricsPromExporterPort", &limits.sockets)?;
        metrics = Some(listener.local_addr()?);
        watched = Some(tokio::spawn(metrics::http::serve(listener, service.clone())));
    }
    service.broker.run_background().map_err(io::Error::other)?;
    tasks.push(every(EXPIRE_CLIENTS, &service, stopped.clone(), |s| s.expire_step()));
    tasks.push(every(PROTECT, &service, stopped.clone(), |s| s.protect_step()));
    tasks.push(every(WATCH, &service, stopped, |s| {
        s.holds.expire_step(s.broker.now_ms());
        s.tls.reload_step();
        if let Some(acl) = &s.acl {
            acl.reload_step();
        }
    }));
    Ok(Running { service, addr, metrics, watched, stop, tasks })
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
    /// Ends all connections. The broker stays open.
    pub async fn leave(self) -> Arc<Broker> {
        let _ = self.stop.send(true);
        for task in self.tasks {
            let _ = task.await;
        }
        if let Some(watched) = self.watched {
            watched.abort();
        }
        self.service.broker.clone()
    }

    /// Ends all connections, saves everything and closes the store.
    pub async fn stop(mut self) -> mq_store::Result<()> {
        self.service.metrics.stopping();
        let watched = self.watched.take();
        let broker = self.leave().await;
        let closed = tokio::task::spawn_blocking(move || broker.close()).await;
        // To the end it says that the broker is not ready.
        if let Some(watched) = watched {
            watched.abort();
        }
        match closed {
            Ok(closed) => closed,
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
    }
}

/// Runs when dropped, be it by a task or by a runtime that ended.
struct Answer(Option<Box<dyn FnOnce() + Send>>);

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(answer) = self.0.take() {
            answer();
        }
    }
}

/// Writes to standard output. Whoever reads may have left.
pub fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Logs to standard error, as the flag `--log` says.
pub fn log_to_stderr(level: &str) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(level)
        .map_err(|e| format!("--log {level:?}: {e}; try --log debug"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // A log that cannot be written, on a full disk say, must not end a thread.
        .log_internal_errors(false)
        .init();
    Ok(())
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
