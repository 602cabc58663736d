//! The broker, and a name server with it unless it is told of others.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use mq_broker::config::{BrokerConf, IMPORTANT, NamesrvConf, Servers};
use mq_broker::namesrv::NameServer;
use mq_broker::namesrv::address_server::AddressServer;
use mq_broker::namesrv::register::{Registrar, Registration, Timing};
use mq_broker::run::{self, Settings, log_to_stderr, say};
use mq_broker::server;
use mq_broker::tls::Connector;
use mq_broker::wire::client::{Buffers, Security};
use mq_store::log::flush::FlushPolicy;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How often an address server is asked for name servers, as by RocketMQ.
const ASK_ADDRESS_SERVER: Duration = Duration::from_secs(120);

type Error = Box<dyn std::error::Error>;

/// A message broker for Apache RocketMQ clients, on one store. Without -n it is a name server
/// as well.
#[derive(Parser)]
#[command(
    name = "mqbroker",
    version,
    after_help = "\
Examples:
  mqbroker                                  name server on 9876, broker on 10911, store in ./store
  mqbroker --store /data/mq -c broker.conf  RocketMQ's broker.conf, another folder
  mqbroker -n 10.0.0.1:9876;10.0.0.2:9876   with name servers elsewhere"
)]
struct Args {
    /// Name servers, as host:port;host:port. Without any, one is started in this process
    #[arg(short, long = "namesrvAddr", value_name = "ADDRESSES")]
    namesrv_addr: Option<String>,
    /// Configuration: a properties file, with RocketMQ's keys
    #[arg(short, long = "configFile", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print all settings and exit
    #[arg(short, long = "printConfigItem")]
    print: bool,
    /// Print the settings that matter most and exit
    #[arg(short = 'm', long = "printImportantConfig")]
    print_important: bool,
    /// The store's folder, whatever storePathRootDir says; ./store if neither does
    #[arg(long, value_name = "PATH")]
    store: Option<PathBuf>,
    /// Listen here, whatever bindAddress and listenPort say
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Where the name server in this process listens [default: the broker's IP, port 9876]
    #[arg(long, value_name = "IP:PORT")]
    namesrv_listen: Option<SocketAddr>,
    /// error, warn, info, debug, trace, or a filter as mq_store=debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: String,
}

fn main() -> ExitCode {
    match start(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mqbroker: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Defaults, then the file, then what was changed while a broker ran, then flags.
fn configuration(args: &Args) -> Result<(BrokerConf, Vec<String>), Error> {
    let (mut conf, mut warnings) = BrokerConf::load(args.config.as_deref())?;
    if let Some(store) = &args.store {
        conf.store_path_root_dir.clone_from(store);
    } else if args.config.is_none() {
        conf.store_path_root_dir = "store".into();
    }
    for (key, value) in run::read_overrides(&conf.store_path_root_dir) {
        match conf.set(&key, &value) {
            Ok(()) => warnings.push(format!("{key}={value}, as it was set while a broker ran")),
            Err(e) => warnings.push(format!("set while a broker ran: {e}")),
        }
    }
    if let Some(servers) = &args.namesrv_addr {
        conf.put("namesrvAddr", servers)?;
    }
    if let Some(listen) = args.listen {
        (conf.bind_address, conf.listen_port) = (listen.ip(), listen.port());
    }
    let ip = conf.broker_ip1.unwrap_or_else(|| run::advertised_ip(conf.bind_address));
    conf.broker_ip1 = Some(ip);
    conf.broker_ip2.get_or_insert(ip);
    Ok((conf, warnings))
}

fn start(args: Args) -> Result<(), Error> {
    let began = Instant::now();
    log_to_stderr(&args.log)?;
    let (conf, warnings) = configuration(&args)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if args.print || args.print_important {
        let mut all = conf.get_all();
        all.retain(|(key, _)| args.print || IMPORTANT.contains(key));
        let lines = all.into_iter().map(|(key, value)| format!("{key}={value}\n"));
        say(&lines.collect::<String>());
        return Ok(());
    }
    let settings = Settings::of(&conf)?;
    let flush = settings.store.flush;
    let security = Security { tls: Connector::for_broker(&conf.tls)?, credentials: None };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (stop, stopped) = watch::channel(false);
        // Ports first: who cannot listen should not wait for a store to be recovered.
        let sockets = settings.limits.sockets;
        let listener = server::bind(settings.listen, "listenPort, or --listen", &sockets)?;
        let mut name_server = None;
        let mut servers = conf.namesrv_addr.clone();
        let address_server = AddressServer::of(&conf);
        if servers.0.is_empty() && address_server.is_none() {
            let listen =
                args.namesrv_listen.unwrap_or_else(|| SocketAddr::new(settings.listen.ip(), 9876));
            let what = "the name server in this process, --namesrv-listen";
            let listener = server::bind(listen, what, &sockets)?;
            let at = listener.local_addr()?;
            let own = NamesrvConf {
                kv_config_path: conf.store_path_root_dir.join("config/kvConfig.json"),
                admin_allowed_addresses: conf.admin_allowed_addresses.clone(),
                tls: conf.tls.clone(),
                ..NamesrvConf::default()
            };
            name_server = Some((NameServer::start(own, listener, stopped)?, at));
            let near = if at.ip().is_unspecified() {
                SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), at.port())
            } else {
                at
            };
            servers = Servers(vec![near.to_string()]);
        }
        let (opened, _, limits) =
            tokio::task::block_in_place(|| run::open(settings, &mut show_progress()))?;
        for note in &opened.notes {
            tracing::warn!("{note}");
        }
        let running = run::serve(opened.service, listener, limits).await?;
        let registrar = register(&conf, servers, security, &running);
        if let Some(from) = address_server {
            registrar.follow(from, ASK_ADDRESS_SERVER);
        }
        let namesrv = name_server.as_ref().map(|(_, at)| *at);
        say(&banner(&conf, namesrv, running.metrics, flush, &opened.report, began.elapsed()));
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        running.service.metrics.stopping();
        registrar.stop().await;
        let closed = running.stop().await;
        let _ = stop.send(true);
        if let Some((served, _)) = name_server {
            served.await?;
        }
        Ok::<_, Error>(closed?)
    })?;
    // A change of the key-value configuration may be on its way to the disk.
    runtime.shutdown_timeout(Duration::from_secs(5));
    Ok(())
}

/// A line that is written over, if somebody looks; else one in the log every 5 s.
fn show_progress() -> impl FnMut(u64, u64) {
    let is_seen = std::io::stderr().is_terminal();
    let mut told = Instant::now();
    move |at, end| {
        let percent = at as f64 * 100.0 / end.max(1) as f64;
        if is_seen {
            let _ = write!(std::io::stderr(), "\rchecking the log: {percent:.0}% ");
        } else if told.elapsed() >= Duration::from_secs(5) {
            told = Instant::now();
            tracing::info!("checking the log: {percent:.0}%, at {at} of {end}");
        }
    }
}

fn register(
    conf: &BrokerConf,
    servers: Servers,
    security: Security,
    running: &run::Running,
) -> Registrar {
    let ip = conf.broker_ip1.unwrap_or(running.addr.ip());
    let registration = Registration {
        cluster: conf.broker_cluster_name.clone(),
        broker_name: conf.broker_name.clone(),
        broker_id: conf.broker_id,
        broker_addr: SocketAddr::new(ip, running.addr.port()).to_string(),
        ha_server_addr: SocketAddr::new(
            conf.broker_ip2.unwrap_or(ip),
            running.addr.port().saturating_add(1),
        )
        .to_string(),
        ..Registration::default()
    };
    let broker = running.service.broker.clone();
    let what = move || {
        let mut topics = broker.topics().all();
        // Clients go by the route: what the broker does not allow is not in it.
        let allowed = broker.config().permission | 1;
        topics.topic_config_table.values_mut().for_each(|t| t.perm &= allowed);
        Registration { topics, ..registration.clone() }
    };
    let timing = Timing {
        period: Duration::from_millis(conf.register_name_server_period.unsigned_abs()),
        timeout: Duration::from_millis(conf.register_broker_timeout_mills.unsigned_abs()),
        connect: Duration::from_millis(conf.connect_timeout_millis.unsigned_abs()),
        buffers: Buffers {
            receive: conf.client_socket_rcv_buf_size,
            send: conf.client_socket_snd_buf_size,
        },
    };
    let registrar = Registrar::start(&servers.0, timing, security, what);
    running.service.broker.on_topics_changed(Box::new(registrar.changed()));
    let _ = running.service.registered.set(registrar.told());
    let _ = running.service.move_to.set(registrar.mover());
    registrar
}

fn banner(
    conf: &BrokerConf,
    namesrv: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    flush: FlushPolicy,
    report: &mq_store::recover::RecoveryReport,
    took: Duration,
) -> String {
    let root = &conf.store_path_root_dir;
    let advertised =
        SocketAddr::new(conf.broker_ip1.unwrap_or(conf.bind_address), conf.listen_port);
    let flush = match flush {
        FlushPolicy::Sync => {
            "sync: nothing acknowledged is lost, be it a killed process or a power cut".to_owned()
        }
        FlushPolicy::Async { interval_ms, thorough_interval_ms, .. } => format!(
            "async: a killed process loses nothing; a power cut the last {interval_ms} ms, {} s at low load",
            thorough_interval_ms / 1000
        ),
    };
    let free = mq_store::os::fs::Fs::default().free_and_total(root).map_or_else(
        |e| e.to_string(),
        |(free, total)| format!("{} of {} free", gib(free), gib(total)),
    );
    let reach = if advertised.ip().is_loopback() {
        " (this machine only; set brokerIP1 to an address others can reach)"
    } else {
        ""
    };
    let names = match (namesrv, &conf.namesrv_addr.0) {
        (Some(at), _) => format!("{at}, in this process"),
        (None, others) => match AddressServer::of(conf) {
            Some(from) => format!("those that {from} tells"),
            None => others.join(", "),
        },
    };
    let mut try_at = "127.0.0.1:9876".to_owned();
    if let Some(at) = namesrv {
        try_at = format!("127.0.0.1:{}", at.port());
    } else if let Some(first) = conf.namesrv_addr.0.first() {
        try_at.clone_from(first);
    }
    let metrics =
        metrics.map(|at| format!("  metrics      http://{at}/metrics\n")).unwrap_or_default();
    // The first words are those that RocketMQ's scripts look for.
    format!(
        "The broker[{}, {advertised}] boot success. serializeType=JSON and name server is {try_at}\n\
         \x20 mq-store {} serves after {} ms\n\
         \x20 broker       {}:{}, clients come to {advertised}{reach}\n\
         \x20 name server  {names}\n\
         \x20 store        {}, {free}\n\
         \x20 recovery     {report}\n\
         \x20 flush        {flush}\n{metrics}\
         \x20 try          mq-bench send --namesrv {try_at}\n\
         \x20              mq-store-inspect {} summary\n",
        conf.broker_name,
        env!("CARGO_PKG_VERSION"),
        took.as_millis(),
        conf.bind_address,
        conf.listen_port,
        absolute(root).display(),
        root.display(),
    )
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}
