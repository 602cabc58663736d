//! A name server, and a broker that is registered there.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use mq_broker::config::{BrokerConf, NamesrvConf};
use mq_broker::namesrv::NameServer;
use mq_broker::namesrv::register::{Registrar, Registration, Timing};
use mq_broker::run::{self, Running, Settings};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::TIMEOUT;

pub struct Cluster {
    /// The name server's address.
    pub names: String,
    pub running: Running,
    _registrar: Registrar,
    _stop: watch::Sender<bool>,
}

/// A broker of this machine alone, with small files.
pub fn conf(store: &Path) -> BrokerConf {
    BrokerConf {
        broker_name: "broker-a".into(),
        store_path_root_dir: store.into(),
        bind_address: Ipv4Addr::LOCALHOST.into(),
        broker_ip1: Some(Ipv4Addr::LOCALHOST.into()),
        mapped_file_size_commit_log: 1 << 20,
        max_index_num: 2000,
        max_hash_slot_num: 500,
        ..BrokerConf::default()
    }
}

impl Cluster {
    /// Its files are in `home`.
    pub async fn start(home: &Path, change: impl FnOnce(&mut BrokerConf)) -> Cluster {
        let bind = || TcpListener::bind("127.0.0.1:0");
        let (stop, stopped) = watch::channel(false);
        let listener = bind().await.unwrap();
        let names = listener.local_addr().unwrap().to_string();
        let of_names = NamesrvConf { kv_config_path: home.join("kv.json"), ..Default::default() };
        NameServer::start(of_names, listener, stopped).unwrap();

        let listener = bind().await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut conf = conf(&home.join("store"));
        conf.listen_port = addr.port();
        change(&mut conf);
        let (opened, _, limits) = run::open(Settings::of(&conf).unwrap(), &mut |_, _| {}).unwrap();
        let running = run::serve(opened.service, listener, limits).await.unwrap();
        let broker = running.service.broker.clone();
        let what = move || Registration {
            cluster: broker.config().cluster.clone(),
            broker_name: broker.config().name.clone(),
            broker_addr: addr.to_string(),
            topics: broker.topics().all(),
            ..Registration::default()
        };
        let timing =
            Timing { period: Duration::from_secs(60), timeout: TIMEOUT, ..Timing::default() };
        let to = std::slice::from_ref(&names);
        let registrar = Registrar::start(to, timing, Default::default(), what);
        running.service.broker.on_topics_changed(Box::new(registrar.changed()));
        let _ = running.service.registered.set(registrar.told());
        Cluster { names, running, _registrar: registrar, _stop: stop }
    }
}
