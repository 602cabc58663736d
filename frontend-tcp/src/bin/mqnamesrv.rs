//! The name server as a process of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use mq_broker::config::NamesrvConf;
use mq_broker::namesrv::NameServer;
use mq_broker::namesrv::settings::Settings;
use mq_broker::run::{log_to_stderr, say};
use mq_broker::server;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// A name server for Apache RocketMQ clients and brokers.
#[derive(Parser)]
#[command(name = "mqnamesrv", version)]
struct Args {
    /// Configuration: a properties file, with RocketMQ's keys
    #[arg(short, long = "configFile", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print all settings and exit
    #[arg(short, long = "printConfigItem")]
    print: bool,
    /// Listen here, whatever bindAddress and listenPort say
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Taken for RocketMQ's sake; a name server knows no others
    #[arg(short, long = "namesrvAddr", value_name = "ADDRESSES")]
    namesrv_addr: Option<String>,
    /// error, warn, info, debug, trace, or a filter as mq_broker=debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: String,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mqnamesrv: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    log_to_stderr(&args.log)?;
    let (conf, warnings) = NamesrvConf::load(args.config.as_deref())?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if args.print {
        let conf = Settings::open(conf, &mut Vec::new());
        let lines = conf.now().get_all().into_iter().map(|(key, value)| format!("{key}={value}\n"));
        say(&lines.collect::<String>());
        return Ok(());
    }
    let listen = args.listen.unwrap_or(SocketAddr::new(conf.bind_address, conf.listen_port));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = server::bind(listen, "listenPort, or --listen", &conf.sockets())?;
        let address = listener.local_addr()?;
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (stop, stopped) = watch::channel(false);
        let served = NameServer::start(conf, listener, stopped)?;
        // The words that RocketMQ's scripts look for.
        say(&format!("The Name Server boot success. serializeType=JSON, address {address}\n"));
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        let _ = stop.send(true);
        served.await?;
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    // A change of the key-value configuration may be on its way to the disk.
    runtime.shutdown_timeout(Duration::from_secs(5));
    Ok(())
}
