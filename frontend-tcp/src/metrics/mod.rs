//! What monitoring asks for over HTTP: `/metrics` in Prometheus' text form, with the names and
//! labels of RocketMQ 5; `/healthz` and `/readyz`.

pub mod http;
pub mod page;
pub mod rpc;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::handle::BrokerService;
use rpc::RpcLatencies;

/// How a broker is watched.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Where metrics are served; nowhere by default, and then nothing of requests is measured.
    pub listen: Option<SocketAddr>,
    /// Labels of every value besides RocketMQ's own (`metricsLabel`).
    pub labels: Vec<(String, String)>,
    pub rpc: Option<Arc<RpcLatencies>>,
    stopping: AtomicBool,
}

impl Metrics {
    pub fn new(listen: Option<SocketAddr>, labels: Vec<(String, String)>) -> Metrics {
        let rpc = listen.map(|_| Arc::default());
        Metrics { listen, labels, rpc, stopping: AtomicBool::new(false) }
    }

    /// From now on the broker is not ready: it is about to stop.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// Why a broker should get no messages now; `Ok` if it may.
fn readiness(service: &BrokerService) -> Result<(), String> {
    let store = service.broker.store();
    if service.metrics.is_stopping() {
        return Err("stopping".into());
    }
    if let Some(reason) = store.log().poison() {
        return Err(format!("the log takes no more messages: {reason}"));
    }
    if store.refuses_writes() {
        let why = "the disk is too full: messages are refused (diskSpaceWarningLevelRatio)";
        return Err(why.into());
    }
    Ok(())
}

/// The answer to `GET path`: status, type of content, content.
pub fn answer(service: &BrokerService, path: &str) -> (u16, &'static str, String) {
    const TEXT: &str = "text/plain; charset=utf-8";
    match path {
        "/metrics" => (200, "text/plain; version=0.0.4; charset=utf-8", page::metrics(service)),
        "/healthz" => (200, TEXT, "ok\n".into()),
        "/readyz" => match readiness(service) {
            Ok(()) => (200, TEXT, "ready\n".into()),
            Err(why) => (503, TEXT, format!("{why}\n")),
        },
        _ => (404, TEXT, "there is /metrics, /healthz and /readyz\n".into()),
    }
}
