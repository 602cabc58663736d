//! Brokers: state, settings, cleaning up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use mq_broker::wire::codes::request;
use mq_broker::wire::command::Command;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cluster::{Error, Master, Place, Result, Session};
use super::message::send::{Outgoing, send};
use super::namesrv::{Setting, show_settings};
use crate::inspect::output::Cell;

type Info = BTreeMap<String, String>;

fn runtime_info(s: &mut Session, addr: &str) -> Result<Info> {
    #[derive(Deserialize)]
    struct Table {
        table: Info,
    }
    let ask = Command::new(request::GET_BROKER_RUNTIME_INFO);
    Ok(s.ask_for::<Table>(addr, &ask)?.table)
}

#[derive(Args)]
pub struct At {
    #[command(flatten)]
    place: Place,
}

impl At {
    pub fn status(self, s: &mut Session) -> Result {
        for master in s.masters(&self.place, false)? {
            let info = runtime_info(s, &master.addr)?;
            if s.out.json {
                s.out.object(&json!({ "addr": master.addr, "table": info }))?;
                continue;
            }
            for (key, value) in info {
                let at = if self.place.broker.is_some() {
                    String::new()
                } else {
                    format!("{:<24}", master.addr)
                };
                s.say(&format!("{at}{key:<32}: {value}"))?;
            }
        }
        Ok(())
    }

    pub fn config(self, s: &mut Session) -> Result {
        for master in s.masters(&self.place, false)? {
            let answer = s.ask(&master.addr, &Command::new(request::GET_BROKER_CONFIG))?;
            show_settings(s, &master.addr, &answer.body)?;
        }
        Ok(())
    }

    pub fn clean_queues(self, s: &mut Session) -> Result {
        self.clean(s, request::CLEAN_EXPIRED_CONSUMEQUEUE)
    }
    pub fn clean_topics(self, s: &mut Session) -> Result {
        self.clean(s, request::CLEAN_UNUSED_TOPIC)
    }
    pub fn delete_expired(self, s: &mut Session) -> Result {
        self.clean(s, request::DELETE_EXPIRED_COMMITLOG)
    }

    /// Without a place: on all brokers.
    fn clean(self, s: &mut Session, code: i32) -> Result {
        for master in s.masters(&self.place, true)? {
            s.ask(&master.addr, &Command::new(code))?;
        }
        s.say("success")
    }

    pub fn ha_status(self, s: &mut Session) -> Result {
        for master in s.masters(&self.place, false)? {
            let info: Value =
                s.ask_for(&master.addr, &Command::new(request::GET_BROKER_HA_STATUS))?;
            if s.out.json {
                s.out.object(&json!({ "addr": master.addr, "status": info }))?;
                continue;
            }
            let slaves = info["haConnectionInfo"].as_array().cloned().unwrap_or_default();
            s.say(&format!("#MasterAddr\t{}", master.addr))?;
            s.say(&format!("#MasterCommitLogMaxOffset\t{}", info["masterCommitLogMaxOffset"]))?;
            s.say(&format!("#SlaveNum\t{}", slaves.len()))?;
            s.say(&format!("#InSyncSlaveNum\t{}", info["inSyncSlaveNums"]))?;
            for slave in slaves {
                s.say(&slave.to_string())?;
            }
        }
        Ok(())
    }
}

#[derive(Args)]
pub struct Update {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    setting: Setting,
}

impl Update {
    pub fn run(self, s: &mut Session) -> Result {
        for master in s.masters(&self.place, false)? {
            let command = Command::new(request::UPDATE_BROKER_CONFIG).body(self.setting.line());
            s.ask(&master.addr, &command)?;
            s.say(&format!("update broker config success, {}", master.addr))?;
        }
        Ok(())
    }
}

#[derive(Args)]
pub struct List {
    /// Only this cluster.
    #[arg(short = 'c', long = "clusterName", value_name = "NAME")]
    cluster: Option<String>,
    /// Messages of today and yesterday instead.
    #[arg(short, long = "moreStats")]
    more: bool,
    /// Again every so many seconds.
    #[arg(short, long, value_name = "SECONDS")]
    interval: Option<u64>,
}

impl List {
    pub fn run(self, s: &mut Session) -> Result {
        loop {
            if self.more {
                self.totals(s)?
            } else {
                self.state(s)?
            }
            let Some(seconds) = self.interval else { return Ok(()) };
            s.out.finish()?;
            std::thread::sleep(Duration::from_secs(seconds));
        }
    }

    /// Every broker with its id and address.
    fn brokers(&self, s: &mut Session) -> Result<Vec<(Master, String)>> {
        let clusters = s.clusters()?;
        let wanted = |cluster: &str| self.cluster.as_deref().is_none_or(|c| c == cluster);
        let brokers = clusters.broker_addr_table.into_values().filter(|b| wanted(&b.cluster));
        Ok(brokers
            .flat_map(|b| {
                let of = |(id, addr): (String, String)| {
                    (Master { name: b.broker_name.clone(), cluster: b.cluster.clone(), addr }, id)
                };
                b.broker_addrs.clone().into_iter().map(of).collect::<Vec<_>>()
            })
            .collect())
    }

    fn state(&self, s: &mut Session) -> Result {
        s.out.table(&[
            ("cluster", "#Cluster Name"),
            ("brokerName", "#Broker Name"),
            ("brokerId", ">#BID"),
            ("addr", "#Addr"),
            ("version", "#Version"),
            ("inTps", ">#InTPS(LOAD)"),
            ("outTps", ">#OutTPS(LOAD)"),
            ("pageCacheLockMs", ">#PCWait(ms)"),
            ("hours", ">#Hour"),
            ("space", ">#SPACE"),
        ])?;
        for (broker, id) in self.brokers(s)? {
            let info = runtime_info(s, &broker.addr).unwrap_or_default();
            let text = |key: &str| info.get(key).cloned().unwrap_or_default();
            let first = |key: &str| text(key).split(' ').next().and_then(|n| n.parse::<f64>().ok());
            let load = |tps: &str, queue: &str, wait: &str| {
                format!("{:.2}({},{}ms)", first(tps).unwrap_or(0.0), text(queue), text(wait))
            };
            let out = if info.contains_key("getTransferredTps") {
                "getTransferredTps"
            } else {
                "getTransferedTps"
            };
            let earliest = first("earliestMessageTimeStamp").unwrap_or(-1.0);
            let now = jiff::Timestamp::now().as_millisecond() as f64;
            let hours = if earliest > 0.0 { (now - earliest) / 3_600_000.0 } else { 0.0 };
            s.out.item([
                Cell::Text(broker.cluster),
                Cell::Text(broker.name),
                Cell::Text(id),
                Cell::Text(broker.addr),
                Cell::Text(text("brokerVersionDesc")),
                Cell::Text(load(
                    "putTps",
                    "sendThreadPoolQueueSize",
                    "sendThreadPoolQueueHeadWaitTimeMills",
                )),
                Cell::Text(load(
                    out,
                    "pullThreadPoolQueueSize",
                    "pullThreadPoolQueueHeadWaitTimeMills",
                )),
                Cell::Text(text("pageCacheLockTimeMills")),
                Cell::Text(format!("{hours:.2}")),
                Cell::Text(text("commitLogDiskRatio")),
            ])?;
        }
        Ok(())
    }

    fn totals(&self, s: &mut Session) -> Result {
        s.out.table(&[
            ("cluster", "#Cluster Name"),
            ("brokerName", "#Broker Name"),
            ("inTotalYesterday", ">#InTotalYest"),
            ("outTotalYesterday", ">#OutTotalYest"),
            ("inTotalToday", ">#InTotalToday"),
            ("outTotalToday", ">#OutTotalToday"),
        ])?;
        for (broker, _) in self.brokers(s)?.into_iter().filter(|(_, id)| id == "0") {
            let info = runtime_info(s, &broker.addr)?;
            let n = |key: &str| info.get(key).and_then(|n| n.parse::<i64>().ok()).unwrap_or(0);
            let span = |from: &str, to: &str| Cell::Number(n(to) - n(from));
            s.out.item([
                Cell::Text(broker.cluster),
                Cell::Text(broker.name),
                span("msgPutTotalYesterdayMorning", "msgPutTotalTodayMorning"),
                span("msgGetTotalYesterdayMorning", "msgGetTotalTodayMorning"),
                span("msgPutTotalTodayMorning", "msgPutTotalTodayNow"),
                span("msgGetTotalTodayMorning", "msgGetTotalTodayNow"),
            ])?;
        }
        Ok(())
    }
}

#[derive(Args)]
pub struct SendStatus {
    #[arg(short = 'b', long = "brokerName", value_name = "NAME")]
    broker: String,
    #[arg(short = 's', long = "messageSize", default_value_t = 128, value_name = "BYTES")]
    size: usize,
    #[arg(short = 'c', long, default_value_t = 50, value_name = "N")]
    count: u32,
}

impl SendStatus {
    /// Sends to the topic that every broker has in its own name.
    pub fn run(self, s: &mut Session) -> Result {
        let master = s.master_of(&self.broker)?;
        let body = vec![b'a'; self.size];
        for n in 0..=self.count {
            let start = Instant::now();
            let message = Outgoing { topic: &self.broker, body: &body, ..Outgoing::default() };
            let sent = send(s, &master.addr, 0, &message)?;
            // The first one opens the connection.
            if n > 0 {
                let ms = start.elapsed().as_millis();
                s.say(&format!("rt={ms}ms, SendResult={sent}"))?;
            }
        }
        Ok(())
    }
}

#[derive(Args)]
pub struct ClusterRt {
    #[arg(short = 'a', long, default_value_t = 100, value_name = "N")]
    amount: u32,
    #[arg(short = 's', long, default_value_t = 128, value_name = "BYTES")]
    size: usize,
    #[arg(short = 'c', long, value_name = "NAME")]
    cluster: Option<String>,
    /// Again every so many seconds; 0: once.
    #[arg(short = 'i', long, default_value_t = 10, value_name = "SECONDS")]
    interval: u64,
}

impl ClusterRt {
    /// How long sends take on each broker.
    pub fn run(self, s: &mut Session) -> Result {
        if self.amount == 0 {
            return Err(Error::Usage("-a 0 sends nothing".into()));
        }
        let place = Place { broker: None, cluster: self.cluster.clone() };
        let body = vec![b'a'; self.size];
        loop {
            s.out.table(&[
                ("cluster", "#Cluster Name"),
                ("brokerName", "#Broker Name"),
                ("rt", ">#RT"),
                ("successCount", ">#successCount"),
                ("failCount", ">#failCount"),
            ])?;
            for master in s.masters(&place, true)? {
                let (mut good, mut bad, mut ms) = (0, 0, 0.0);
                for _ in 0..self.amount {
                    let start = Instant::now();
                    let message =
                        Outgoing { topic: &master.name, body: &body, ..Outgoing::default() };
                    if send(s, &master.addr, 0, &message).is_ok() {
                        good += 1
                    } else {
                        bad += 1
                    }
                    ms += start.elapsed().as_secs_f64() * 1000.0;
                }
                s.out.item([
                    Cell::Text(master.cluster),
                    Cell::Text(master.name),
                    Cell::Text(format!("{:.2}", ms / f64::from(self.amount))),
                    Cell::Number(good),
                    Cell::Number(bad),
                ])?;
            }
            if self.interval == 0 {
                return Ok(());
            }
            s.out.finish()?;
            std::thread::sleep(Duration::from_secs(self.interval));
        }
    }
}
