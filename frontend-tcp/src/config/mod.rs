//! broker.conf and namesrv.conf: one table of keys for each, from which reading, defaults,
//! printing and changing at run time come.

pub mod properties;
pub mod value;

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

pub use properties::{Entry, read_properties};
pub use value::*;

use crate::server::Sockets;

/// Why a configuration cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, std::io::Error),
    #[error("{0}: {1}")]
    Syntax(String, String),
    #[error("{place}: {key} has the value {value:?}; it takes {takes}")]
    Value { place: String, key: String, value: String, takes: String },
}

/// Why a key is not changed at run time.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    #[error("there is no key {0}")]
    Unknown(String),
    #[error("{0} takes effect at start only: set it in the configuration file and restart")]
    AtStart(String),
    #[error("{key} has the value {value:?}; it takes {takes}")]
    Value { key: String, value: String, takes: String },
}

/// A key that has one possible value here, and why.
type Fixed = (&'static str, &'static str, &'static str);
/// Why keys of RocketMQ have no effect here, and the keys.
type Ignored = (&'static str, &'static str);

/// Makes a configuration: its struct, and all that is done by key. A row is
/// `field: type = default, "key" [in range] [, run_time];`. What is marked `run_time` may be
/// changed while the server runs. A part is a configuration of its own, whose keys stand among
/// the others; they take effect at start.
macro_rules! conf {
    ($(#[$meta:meta])* $name:ident, $fixed:ident, $ignored:ident $(, $part:ident: $of:ty)*;
     $($(#[$doc:meta])* $field:ident: $ty:ty = $default:expr, $key:literal $(in $range:expr)?
        $(, $run_time:ident)?;)*) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub struct $name { $($(#[$doc])* pub $field: $ty,)* $(pub $part: $of,)* }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default,)* $($part: Default::default(),)* }
            }
        }

        impl $name {
            /// Reads a file, or takes the defaults. Also gives warnings.
            pub fn load(file: Option<&Path>) -> Result<(Self, Vec<String>), ConfError> {
                let mut conf = $name::default();
                let mut warnings = Vec::new();
                if let Some(file) = file {
                    let known: Vec<_> = conf.get_all().into_iter().map(|(key, _)| key).collect();
                    let mut put = |key: &str, value: &str| conf.put(key, value);
                    warnings = load(file, &known, $fixed, $ignored, &mut put)?;
                }
                warnings.extend(conf.finish()?);
                Ok((conf, warnings))
            }

            /// Every key with its value, sorted by key.
            pub fn get_all(&self) -> Vec<(&'static str, String)> {
                let mut all = vec![$(($key, self.$field.show()),)*];
                $(all.extend(self.$part.get_all());)*
                all.sort();
                all
            }

            /// Gives a key a value before the start.
            pub fn put(&mut self, key: &str, text: &str) -> Result<(), SetError> {
                let text = text.trim();
                let wrong = |takes: String| {
                    SetError::Value { key: key.into(), value: text.into(), takes }
                };
                match key {
                    $($key => {
                        let value = <$ty as Setting>::read(text)
                            .ok_or_else(|| wrong(<$ty>::TAKES.into()))$(
                            .and_then(|value| in_range(value, $range).map_err(wrong)))?;
                        self.$field = value?;
                    })*
                    _ => {
                        $(match self.$part.put(key, text) {
                            Err(SetError::Unknown(_)) => {}
                            done => return done,
                        })*
                        return Err(SetError::Unknown(key.into()));
                    }
                }
                Ok(())
            }

            /// Gives a key a value while the server runs.
            pub fn set(&mut self, key: &str, text: &str) -> Result<(), SetError> {
                let run_time = match key {
                    $($key => conf!(@ $($run_time)?),)*
                    _ if $ignored.iter().any(|(_, keys)| keys.split_whitespace().any(|k| k == key))
                        || $fixed.iter().any(|(k, ..)| *k == key)
                        $(|| self.$part.get_all().iter().any(|(k, _)| *k == key))* => false,
                    _ => return Err(SetError::Unknown(key.into())),
                };
                if !run_time {
                    return Err(SetError::AtStart(key.into()));
                }
                self.put(key, text)
            }
        }
    };
    (@ run_time) => { true };
    (@) => { false };
}

fn in_range<T: PartialOrd + Display>(
    value: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("a number from {} to {}", range.start(), range.end()))
}

fn load(
    file: &Path,
    honoured: &[&str],
    fixed: &[Fixed],
    ignored: &[Ignored],
    put: &mut dyn FnMut(&str, &str) -> Result<(), SetError>,
) -> Result<Vec<String>, ConfError> {
    let text = std::fs::read_to_string(file).map_err(|e| ConfError::Read(file.into(), e))?;
    let place = |line| format!("{}:{line}", file.display());
    let entries = read_properties(&text).map_err(|(line, e)| ConfError::Syntax(place(line), e))?;
    let (mut warnings, mut without_effect) = (Vec::new(), Vec::new());
    for Entry { line, key, value } in entries {
        match put(&key, &value) {
            Ok(()) => continue,
            Err(SetError::Value { key, value, takes }) => {
                return Err(ConfError::Value { place: place(line), key, value, takes });
            }
            Err(_) => {}
        }
        if let Some((_, only, why)) = fixed.iter().find(|(k, ..)| *k == key) {
            if !value.trim().eq_ignore_ascii_case(only) {
                let takes = if only.is_empty() { "nothing" } else { only };
                let takes = format!("{takes} here: {why}");
                return Err(ConfError::Value { place: place(line), key, value, takes });
            }
            continue;
        }
        let known = || ignored.iter().flat_map(|(_, keys)| keys.split_whitespace());
        if known().any(|k| k == key) {
            without_effect.push(key);
            continue;
        }
        let others = honoured.iter().copied().chain(known()).chain(fixed.iter().map(|(k, ..)| *k));
        let meant = nearest(&key, others).map_or(String::new(), |k| format!("; {k} is meant?"));
        warnings.push(format!("{}: {key} is not known; it has no effect{meant}", place(line)));
    }
    if !without_effect.is_empty() {
        let list = without_effect.join(", ");
        tracing::info!(
            "{}: without effect here, see docs/configuration.md: {list}",
            file.display()
        );
    }
    Ok(warnings)
}

/// The key that was probably meant.
fn nearest<'a>(key: &str, keys: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let like = |k: &str| strsim::jaro_winkler(&k.to_lowercase(), &key.to_lowercase());
    let nearest = keys.map(|k| (like(k), k)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (nearest.0 > 0.92).then_some(nearest.1)
}

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const PERCENT: std::ops::RangeInclusive<i32> = 1..=99;
const TLS_FILE: &str = "/etc/rocketmq/tls.properties";
/// Milliseconds of something that is done again and again.
const PERIOD: std::ops::RangeInclusive<i64> = 1..=86_400_000;

conf! {
    /// TLS, under the names that RocketMQ has for its system properties and in `tls.properties`.
    TlsConf, TLS_FIXED, TLS_IGNORED;

    /// Whether connections to name servers use TLS; unless it is said, if `mode` enforces it.
    enable: Option<bool> = None, "tls.enable";
    mode: TlsMode = TlsMode::Permissive, "tls.server.mode";
    /// A file with the keys below, which win over others.
    config_file: PathBuf = TLS_FILE.into(), "tls.config.file";
    /// The certificate is made at start, and nobody's is checked.
    test_mode: bool = true, "tls.test.mode.enable";
    need_client_auth: ClientAuth = ClientAuth::None, "tls.server.need.client.auth";
    server_key_path: Option<PathBuf> = None, "tls.server.keyPath";
    server_key_password: Secret = Secret::default(), "tls.server.keyPassword";
    server_cert_path: Option<PathBuf> = None, "tls.server.certPath";
    /// Certificates of clients are checked against `server_trust_cert_path`.
    auth_client: bool = false, "tls.server.authClient";
    server_trust_cert_path: Option<PathBuf> = None, "tls.server.trustCertPath";
    client_key_path: Option<PathBuf> = None, "tls.client.keyPath";
    client_key_password: Secret = Secret::default(), "tls.client.keyPassword";
    client_cert_path: Option<PathBuf> = None, "tls.client.certPath";
    /// Certificates of servers are checked against `client_trust_cert_path`.
    auth_server: bool = false, "tls.client.authServer";
    client_trust_cert_path: Option<PathBuf> = None, "tls.client.trustCertPath";
}

const TLS_FIXED: &[Fixed] = &[];
const TLS_IGNORED: &[Ignored] = &[];

impl TlsConf {
    /// Takes in what the file says that `config_file` names; gives warnings. RocketMQ's own file
    /// need not be there, others have to.
    pub fn read_config_file(&mut self) -> Result<Vec<String>, ConfError> {
        let file = self.config_file.clone();
        if file == Path::new(TLS_FILE) && !file.exists() {
            return Ok(Vec::new());
        }
        let known: Vec<_> = self.get_all().into_iter().map(|(key, _)| key).collect();
        load(&file, &known, TLS_FIXED, TLS_IGNORED, &mut |key, value| match key {
            // RocketMQ does not take these from there.
            "tls.enable" | "tls.server.mode" | "tls.config.file" => {
                Err(SetError::Unknown(key.into()))
            }
            _ => self.put(key, value),
        })
    }

    fn finish(&mut self) -> Result<Vec<String>, ConfError> {
        self.read_config_file()
    }
}

conf! {
    /// What `mqbroker` takes. Defaults are those of RocketMQ 4.9.
    BrokerConf, BROKER_FIXED, BROKER_IGNORED, tls: TlsConf;

    broker_name: String = host_name(), "brokerName";
    broker_cluster_name: String = "DefaultCluster".into(), "brokerClusterName";
    broker_id: i64 = 0, "brokerId" in 0..=i64::MAX;
    /// Where clients reach this broker; also written into records.
    broker_ip1: Option<IpAddr> = None, "brokerIP1";
    broker_ip2: Option<IpAddr> = None, "brokerIP2";
    bind_address: IpAddr = ANY, "bindAddress";
    /// The port below the next and the one above are used as well.
    listen_port: u16 = 10911, "listenPort" in 3..=65534;
    namesrv_addr: Servers = Servers::default(), "namesrvAddr", run_time;
    /// Name servers are those that an HTTP server tells, if `namesrvAddr` names none: at
    /// `http://DOMAIN/rocketmq/SUBGROUP`, port 8080 unless the domain says another.
    fetch_namesrv_addr_by_address_server: bool = false, "fetchNamesrvAddrByAddressServer";
    /// Domain and subgroup; these win over RocketMQ's system properties, which follow.
    rmq_address_server_domain: String = String::new(), "rmqAddressServerDomain";
    rmq_address_server_sub_group: String = String::new(), "rmqAddressServerSubGroup";
    namesrv_domain: String = "jmenv.tbsite.net".into(), "rocketmq.namesrv.domain";
    namesrv_domain_subgroup: String = "nsaddr".into(), "rocketmq.namesrv.domain.subgroup";
    register_name_server_period: i64 = 30_000, "registerNameServerPeriod" in PERIOD;
    register_broker_timeout_mills: i64 = 6_000, "registerBrokerTimeoutMills" in PERIOD;
    store_path_root_dir: PathBuf = in_home("store"), "storePathRootDir";
    /// One folder, or several with commas between them.
    store_path_commit_log: Option<PathBuf> = None, "storePathCommitLog";
    read_only_commit_log_store_paths: Option<PathBuf> = None, "readOnlyCommitLogStorePaths";
    mapped_file_size_commit_log: usize = 1 << 30, "mappedFileSizeCommitLog" in 4096..=1 << 40;
    mapped_file_size_consume_queue: usize = 6_000_000,
        "mappedFileSizeConsumeQueue" in 20..=1 << 40;
    max_hash_slot_num: i32 = 5_000_000, "maxHashSlotNum" in 1..=i32::MAX;
    max_index_num: i32 = 20_000_000, "maxIndexNum" in 2..=i32::MAX;
    message_index_enable: bool = true, "messageIndexEnable";
    flush_disk_type: FlushDiskType = FlushDiskType::Async, "flushDiskType";
    flush_interval_commit_log: i64 = 500, "flushIntervalCommitLog" in PERIOD;
    flush_commit_log_least_pages: i32 = 4, "flushCommitLogLeastPages" in 0..=i32::MAX;
    flush_commit_log_thorough_interval: i64 = 10_000,
        "flushCommitLogThoroughInterval" in PERIOD;
    sync_flush_timeout: i64 = 5_000, "syncFlushTimeout" in PERIOD;
    /// An append that waits for longer for others is refused: SYSTEM_BUSY.
    os_page_cache_busy_time_out_mills: i64 = 1_000, "osPageCacheBusyTimeOutMills" in PERIOD;
    broker_fast_failure_enable: bool = true, "brokerFastFailureEnable", run_time;
    /// A message that waits for longer to be handled is refused: SYSTEM_BUSY.
    wait_time_mills_in_send_queue: i64 = 200, "waitTimeMillsInSendQueue" in PERIOD, run_time;
    /// Sends that wait for the disk, under sync flush; more are refused.
    send_thread_pool_queue_capacity: usize = 10_000,
        "sendThreadPoolQueueCapacity" in 1..=10_000_000, run_time;
    /// Pulls that wait for messages; more are refused.
    pull_thread_pool_queue_capacity: usize = 100_000,
        "pullThreadPoolQueueCapacity" in 1..=10_000_000, run_time;
    max_message_size: usize = 4 << 20, "maxMessageSize" in 1..=12 << 20;
    /// Hours.
    file_reserved_time: i64 = 72, "fileReservedTime" in 0..=1_000_000, run_time;
    delete_when: Hours = Hours(vec![4]), "deleteWhen", run_time;
    disk_max_used_space_ratio: i32 = 75, "diskMaxUsedSpaceRatio" in PERCENT, run_time;
    disk_space_clean_forcibly_ratio: i32 = 85, "diskSpaceCleanForciblyRatio" in PERCENT, run_time;
    disk_space_warning_level_ratio: i32 = 90, "diskSpaceWarningLevelRatio" in PERCENT, run_time;
    clean_file_forcibly_enable: bool = true, "cleanFileForciblyEnable", run_time;
    auto_create_topic_enable: bool = true, "autoCreateTopicEnable", run_time;
    auto_create_subscription_group: bool = true, "autoCreateSubscriptionGroup", run_time;
    default_topic_queue_nums: i32 = 8, "defaultTopicQueueNums" in 1..=1024, run_time;
    broker_permission: i32 = 6, "brokerPermission" in 0..=7, run_time;
    message_delay_level: DelayLevels = delay_levels(), "messageDelayLevel";
    long_polling_enable: bool = true, "longPollingEnable", run_time;
    short_polling_time_mills: i64 = 1_000, "shortPollingTimeMills" in PERIOD, run_time;
    max_transfer_bytes_on_message_in_memory: usize = 262_144,
        "maxTransferBytesOnMessageInMemory" in 1..=12 << 20, run_time;
    max_transfer_count_on_message_in_memory: usize = 32,
        "maxTransferCountOnMessageInMemory" in 1..=100_000, run_time;
    /// Percent of the machine's memory that the newest messages are believed to be in: pulls of
    /// older ones give no more than the next two say.
    access_message_in_memory_max_ratio: u32 = 40,
        "accessMessageInMemoryMaxRatio" in 0..=100, run_time;
    max_transfer_bytes_on_message_in_disk: usize = 65_536,
        "maxTransferBytesOnMessageInDisk" in 1..=12 << 20, run_time;
    max_transfer_count_on_message_in_disk: usize = 8,
        "maxTransferCountOnMessageInDisk" in 1..=100_000, run_time;
    /// Groups are told where to read from: `brokerId` of their settings, and
    /// `whichBrokerWhenConsumeSlowly` where they read what is older than that.
    slave_read_enable: bool = false, "slaveReadEnable", run_time;
    /// Messages that a query gives at most, and one by unique key.
    max_msgs_num_batch: usize = 64, "maxMsgsNumBatch" in 1..=100_000, run_time;
    default_query_max_num: usize = 32, "defaultQueryMaxNum" in 1..=100_000, run_time;
    /// No message is taken before this time, ms since 1970.
    start_accept_send_request_time_stamp: i64 = 0,
        "startAcceptSendRequestTimeStamp" in 0..=i64::MAX, run_time;
    /// The topics named like cluster and broker may be used, where they are made.
    cluster_topic_enable: bool = true, "clusterTopicEnable";
    broker_topic_enable: bool = true, "brokerTopicEnable";
    /// SQL92 subscriptions of groups that left are kept for so many ms.
    filter_data_clean_time_span: i64 = 86_400_000,
        "filterDataCleanTimeSpan" in 0..=i64::MAX, run_time;
    flush_consumer_offset_interval: i64 = 5_000, "flushConsumerOffsetInterval" in PERIOD;
    flush_delay_offset_interval: i64 = 10_000, "flushDelayOffsetInterval" in PERIOD;
    reject_transaction_message: bool = false, "rejectTransactionMessage", run_time;
    enable_property_filter: bool = false, "enablePropertyFilter", run_time;
    /// Groups that read from further behind the log's end than the next says, in bytes, may no
    /// longer consume.
    disable_consume_if_consumer_read_slowly: bool = false,
        "disableConsumeIfConsumerReadSlowly", run_time;
    consumer_fallbehind_threshold: u64 = 16 << 30,
        "consumerFallbehindThreshold" in 0..=u64::MAX, run_time;
    /// Without it nobody reads slowly.
    disk_fall_recorded: bool = true, "diskFallRecorded", run_time;
    store_reply_message_enable: bool = true, "storeReplyMessageEnable", run_time;
    acl_enable: bool = false, "aclEnable";
    /// Where the files of access control are: the environment's `ROCKETMQ_HOME` unless it is said.
    rocketmq_home: Option<PathBuf> = std::env::var_os("ROCKETMQ_HOME").map(PathBuf::from),
        "rocketmqHome";
    /// The file of access control, below `rocketmq_home`.
    acl_file: PathBuf = "conf/plain_acl.yml".into(), "rocketmq.acl.plain.file";
    trace_topic_enable: bool = false, "traceTopicEnable";
    /// Producers are told to trace what they send.
    trace_on: bool = true, "traceOn";
    notify_consumer_ids_changed_enable: bool = true, "notifyConsumerIdsChangedEnable", run_time;
    msg_trace_topic_name: String = "RMQ_SYS_TRACE_TOPIC".into(), "msgTraceTopicName";
    region_id: String = "DefaultRegion".into(), "regionId";
    server_channel_max_idle_time_seconds: i64 = 120,
        "serverChannelMaxIdleTimeSeconds" in 1..=86_400;
    server_socket_backlog: u32 = 1024, "serverSocketBacklog" in 1..=1 << 20;
    /// Bytes; 0 leaves it to the system.
    server_socket_rcv_buf_size: u32 = 0, "serverSocketRcvBufSize" in 0..=1 << 30;
    server_socket_snd_buf_size: u32 = 0, "serverSocketSndBufSize" in 0..=1 << 30;
    /// Of connections to name servers, as the next three.
    connect_timeout_millis: i64 = 3_000, "connectTimeoutMillis" in PERIOD;
    client_socket_rcv_buf_size: u32 = 0, "clientSocketRcvBufSize" in 0..=1 << 30;
    client_socket_snd_buf_size: u32 = 0, "clientSocketSndBufSize" in 0..=1 << 30;
    /// They use TLS, whatever `tls.enable` says.
    use_tls: bool = false, "useTLS";
    /// Milliseconds until a half message is first checked.
    transaction_time_out: i64 = 6_000, "transactionTimeOut" in PERIOD, run_time;
    transaction_check_max: i32 = 15, "transactionCheckMax" in 0..=i32::MAX, run_time;
    transaction_check_interval: i64 = 60_000, "transactionCheckInterval" in PERIOD, run_time;
    /// A key of 5.x, as the next three.
    metrics_exporter_type: MetricsExporterType = MetricsExporterType::Disable,
        "metricsExporterType";
    metrics_prom_exporter_port: u16 = 5557, "metricsPromExporterPort";
    /// brokerIP1 if not given.
    metrics_prom_exporter_host: Option<IpAddr> = None, "metricsPromExporterHost";
    metrics_label: Labels = Labels::default(), "metricsLabel";
    /// Who besides this machine may change configuration and delete (a key of our own).
    admin_allowed_addresses: IpRanges = IpRanges::default(), "adminAllowedAddresses";
    /// Connections at a time (a key of our own).
    max_connections: usize = 50_000, "maxConnections" in 1..=10_000_000;
    /// Bytes of large requests that are being received, in all (a key of our own).
    max_in_flight_bytes: usize = 256 << 20, "maxInFlightBytes" in 16 << 20..=1 << 40;
}

impl BrokerConf {
    /// What is neither in the file nor a plain default.
    fn finish(&mut self) -> Result<Vec<String>, ConfError> {
        let warnings = self.tls.read_config_file()?;
        if self.use_tls {
            self.tls.enable = Some(true);
        }
        if !self.namesrv_addr.0.is_empty() {
            return Ok(warnings);
        }
        let Ok(value) = std::env::var("NAMESRV_ADDR") else { return Ok(warnings) };
        let place = "the environment".into();
        let takes = Servers::TAKES.into();
        self.namesrv_addr = Servers::read(&value).ok_or_else(|| ConfError::Value {
            place,
            key: "NAMESRV_ADDR".into(),
            value,
            takes,
        })?;
        Ok(warnings)
    }
}

/// Keys that RocketMQ marks as important and that count here.
pub const IMPORTANT: [&str; 28] = [
    "accessMessageInMemoryMaxRatio",
    "aclEnable",
    "autoCreateSubscriptionGroup",
    "autoCreateTopicEnable",
    "brokerClusterName",
    "brokerIP1",
    "brokerId",
    "brokerName",
    "cleanFileForciblyEnable",
    "deleteWhen",
    "fetchNamesrvAddrByAddressServer",
    "fileReservedTime",
    "flushDiskType",
    "flushIntervalCommitLog",
    "maxTransferBytesOnMessageInDisk",
    "maxTransferBytesOnMessageInMemory",
    "maxTransferCountOnMessageInDisk",
    "maxTransferCountOnMessageInMemory",
    "messageIndexEnable",
    "msgTraceTopicName",
    "namesrvAddr",
    "rejectTransactionMessage",
    "storePathCommitLog",
    "storePathRootDir",
    "traceTopicEnable",
    "transactionCheckInterval",
    "transactionCheckMax",
    "transactionTimeOut",
];

const BROKER_FIXED: &[Fixed] = &[
    ("brokerRole", "ASYNC_MASTER", "replication is not there yet"),
    ("enableDLegerCommitLog", "false", "replication is not there yet"),
    ("duplicationEnable", "false", "replication is not there yet"),
    ("messageStorePlugIn", "", "there are no plug-ins"),
];

const BROKER_IGNORED: &[Ignored] = &[
    (
        "requests are handled as they come: there are no queues and no pools for them",
        "adminBrokerThreadPoolNums clientAsyncSemaphoreValue clientCallbackExecutorThreads
        clientManageThreadPoolNums clientManagerThreadPoolQueueCapacity
        clientOnewaySemaphoreValue clientWorkerThreads consumerManageThreadPoolNums
        consumerManagerThreadPoolQueueCapacity endTransactionPoolQueueCapacity
        endTransactionThreadPoolNums heartbeatThreadPoolNums heartbeatThreadPoolQueueCapacity
        processReplyMessageThreadPoolNums pullMessageThreadPoolNums
        putMessageFutureThreadPoolNums putThreadPoolQueueCapacity queryMessageThreadPoolNums
        queryThreadPoolQueueCapacity replyThreadPoolQueueCapacity sendMessageThreadPoolNums
        serverAsyncSemaphoreValue serverCallbackExecutorThreads serverOnewaySemaphoreValue
        serverSelectorThreads serverWorkerThreads useEpollNativeSelector
        waitTimeMillsInHeartbeatQueue waitTimeMillsInPullQueue waitTimeMillsInTransactionQueue",
    ),
    (
        "Netty's buffers: here a connection that is idle has none, and who does not read is not read from",
        "clientPooledByteBufAllocatorEnable serverPooledByteBufAllocatorEnable transferMsgByHeap
        writeBufferHighWaterMark writeBufferLowWaterMark",
    ),
    (
        "the connection to a name server is never idle; it ends when an answer does not come",
        "clientChannelMaxIdleTimeSeconds clientCloseSocketIfTimeout",
    ),
    (
        "the store has no pool of memory between it and its files",
        "commitCommitLogLeastPages commitCommitLogThoroughInterval commitIntervalCommitLog
        fastFailIfNoBufferInStorePool transientStorePoolEnable transientStorePoolSize",
    ),
    (
        "queues and index are made again from the log, so nothing hangs on when they are flushed; recovery always looks at CRCs",
        "checkCRCOnRecover flushConsumeQueueLeastPages flushConsumeQueueThoroughInterval
        flushIntervalConsumeQueue messageIndexSafe",
    ),
    (
        "files that are due are deleted at once; who reads one at that time reads on",
        "cleanResourceInterval deleteCommitLogFilesInterval deleteConsumeQueueFilesInterval
        destroyMapedFileIntervalForcibly redeleteHangedFileInterval",
    ),
    (
        "the log is written in a way of its own, by the promises of flushIntervalCommitLog and its like",
        "debugLockEnable flushCommitLogTimed flushLeastPagesWhenWarmMapedFile
        useReentrantLockWhenPutMessage warmMapedFileEnable",
    ),
    (
        "there is no replication yet",
        "dLegerGroup dLegerPeers dLegerSelfId enableBatchPush haHousekeepingInterval haListenPort
        haMasterAddress haSendHeartbeatInterval haSlaveFallbehindMax haTransferBatchSize
        offsetCheckInSlave preferredLeaderId slaveTimeout storePathDLedgerCommitLog",
    ),
    ("there are no light queues (LMQ)", "enableLmq enableMultiDispatch maxLmqConsumeQueueNum"),
    (
        "expressions are looked up in no bloom filters: their outcome is the same",
        "bitMapLengthConsumeQueueExt enableCalcFilterBitMap enableConsumeQueueExt
        expectConsumerNumUseFilter mappedFileSizeConsumeQueueExt maxErrorRateOfBloomFilter",
    ),
    (
        "a message that comes back is not filtered once more, as by default in RocketMQ",
        "filterSupportRetry",
    ),
    ("counts for billing are not kept", "commercialBaseCount"),
    (
        "topics and groups are counted, single queues are not: no tool asks for them, and each message would pay for it",
        "enableDetailStat",
    ),
    (
        "statistics of what is deleted are deleted; what is delivered after a delay counts",
        "autoDeleteUnusedStats enableScheduleMessageStats",
    ),
    ("every registration is whole, and not compressed", "compressedRegister forceRegister"),
    (
        "delayed messages that are due are delivered in groups",
        "enableScheduleAsyncDeliver scheduleAsyncDeliverMaxPendingLimit
        scheduleAsyncDeliverMaxResendNum2Blocked",
    ),
    ("the log goes to standard error", "isolateLogEnable"),
    (
        "RocketMQ 4.9.7 itself makes nothing of them",
        "channelNotActiveInterval commercialBigCount commercialEnable commercialTimerCount
        commercialTransCount filterServerNums flushConsumerOffsetHistoryInterval highSpeedMode
        maxDelayTime putMsgIndexHightWater",
    ),
];

conf! {
    /// What `mqnamesrv` takes.
    NamesrvConf, NAMESRV_FIXED, NAMESRV_IGNORED, tls: TlsConf;

    bind_address: IpAddr = ANY, "bindAddress";
    listen_port: u16 = 9876, "listenPort" in 1..=65535;
    kv_config_path: PathBuf = in_home("namesrv/kvConfig.json"), "kvConfigPath";
    /// Routes carry the order configuration of their topic.
    order_message_enable: bool = false, "orderMessageEnable", run_time;
    return_order_topic_config_to_broker: bool = true, "returnOrderTopicConfigToBroker", run_time;
    scan_not_active_broker_interval: i64 = 5_000,
        "scanNotActiveBrokerInterval" in 10..=3_600_000, run_time;
    /// All topics may be listed.
    enable_all_topic_list: bool = true, "enableAllTopicList", run_time;
    /// Topics of a cluster, and unit topics, may be listed.
    enable_topic_list: bool = true, "enableTopicList", run_time;
    /// The lowest slave is shown as master where there is none.
    support_acting_master: bool = false, "supportActingMaster", run_time;
    /// A topic that a broker no longer registers is removed.
    delete_topic_with_broker_registration: bool = false,
        "deleteTopicWithBrokerRegistration", run_time;
    server_channel_max_idle_time_seconds: i64 = 120,
        "serverChannelMaxIdleTimeSeconds" in 1..=86_400;
    server_socket_backlog: u32 = 1024, "serverSocketBacklog" in 1..=1 << 20;
    /// Bytes; 0 leaves it to the system.
    server_socket_rcv_buf_size: u32 = 0, "serverSocketRcvBufSize" in 0..=1 << 30;
    server_socket_snd_buf_size: u32 = 0, "serverSocketSndBufSize" in 0..=1 << 30;
    /// Who besides this machine may change configuration and delete (a key of our own).
    admin_allowed_addresses: IpRanges = IpRanges::default(), "adminAllowedAddresses";
    /// Connections at a time (a key of our own).
    max_connections: usize = 50_000, "maxConnections" in 1..=10_000_000;
    /// Bytes of large requests that are being received, in all (a key of our own).
    max_in_flight_bytes: usize = 256 << 20, "maxInFlightBytes" in 16 << 20..=1 << 40;
}

impl NamesrvConf {
    pub fn sockets(&self) -> Sockets {
        Sockets {
            backlog: self.server_socket_backlog,
            receive: self.server_socket_rcv_buf_size,
            send: self.server_socket_snd_buf_size,
        }
    }

    fn finish(&mut self) -> Result<Vec<String>, ConfError> {
        self.tls.read_config_file()
    }
}

const NAMESRV_FIXED: &[Fixed] = &[
    ("enableControllerInNamesrv", "false", "there is no controller"),
    ("clusterTest", "false", "it is a test mode of RocketMQ"),
];

const NAMESRV_IGNORED: &[Ignored] = &[
    (
        "requests are handled as they come: there are no queues and no pools for them",
        "clientRequestThreadPoolNums clientRequestThreadPoolQueueCapacity defaultThreadPoolNums
        defaultThreadPoolQueueCapacity serverAsyncSemaphoreValue serverCallbackExecutorThreads
        serverOnewaySemaphoreValue serverSelectorThreads serverWorkerThreads
        unRegisterBrokerQueueCapacity useEpollNativeSelector",
    ),
    (
        "Netty's buffers: here a connection that is idle has none, and who does not read is not read from",
        "serverPooledByteBufAllocatorEnable writeBufferHighWaterMark writeBufferLowWaterMark",
    ),
    ("a name server connects to nobody", "useTLS"),
    (
        "of 5.x: the feature is not there",
        "needWaitForService notifyMinBrokerIdChanged waitSecondsForService",
    ),
    ("what is changed at run time is kept beside kvConfigPath", "configBlackList configStorePath"),
    (
        "they lead to settings of its log, which goes to standard error, and of its test mode",
        "productEnvName rocketmqHome",
    ),
];

fn delay_levels() -> DelayLevels {
    let text = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h";
    DelayLevels::read(text).unwrap_or(DelayLevels { ms: Vec::new(), text: String::new() })
}

fn in_home(path: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(path)
}

fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "DEFAULT_BROKER".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    quickcheck! {
        fn any_text(text: String) -> bool {
            let mut conf = BrokerConf::default();
            let entries = read_properties(&text).unwrap_or_default();
            for (key, _) in BrokerConf::default().get_all() {
                let _ = conf.put(key, &text);
            }
            entries.len() <= text.lines().count() + text.matches('\r').count()
        }
    }

    fn loaded(text: &str) -> Result<(BrokerConf, Vec<String>), String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("broker.conf");
        std::fs::write(&file, text).unwrap();
        let place = format!("{}/", dir.path().display());
        BrokerConf::load(Some(&file))
            .map(|(conf, w)| (conf, w.iter().map(|w| w.replace(&place, "")).collect()))
            .map_err(|e| e.to_string().replace(&place, ""))
    }

    #[test]
    fn files_say_what_is_wrong_and_where() {
        let (conf, warnings) = loaded(
            "brokerName=b\nlistenPort = 20911 \ndeleteWhen=04;16\nnamesrvAddr=a:1;b:2\n\
            sendMessageThreadPoolNums=4\nnosuch=1\nbrokerNmae=c\nbrokerRole=ASYNC_MASTER\n",
        )
        .unwrap();
        assert_eq!((&*conf.broker_name, conf.listen_port), ("b", 20911));
        assert_eq!((conf.delete_when.0, conf.namesrv_addr.0.len()), (vec![4, 16], 2));
        assert_eq!(
            warnings,
            [
                "broker.conf:6: nosuch is not known; it has no effect",
                "broker.conf:7: brokerNmae is not known; it has no effect; brokerName is meant?",
            ]
        );
        for (text, error) in [
            (
                "\nlistenPort=x",
                "2: listenPort has the value \"x\"; it takes a number from 0 to 65535",
            ),
            (
                "listenPort=1",
                "1: listenPort has the value \"1\"; it takes a number from 3 to 65534",
            ),
            (
                "flushDiskType=SYNC",
                "1: flushDiskType has the value \"SYNC\"; it takes ASYNC_FLUSH or SYNC_FLUSH",
            ),
            (
                "messageDelayLevel=1s é",
                "1: messageDelayLevel has the value \"1s é\"; it takes times parted by blanks, as 1s 5s 1m 2h 1d",
            ),
            (
                "namesrvAddr=localhost",
                "1: namesrvAddr has the value \"localhost\"; it takes name servers as host:port;host:port",
            ),
            (
                "tls.server.mode=on",
                "1: tls.server.mode has the value \"on\"; it takes disabled, permissive or enforcing",
            ),
            (
                "brokerRole=SLAVE",
                "1: brokerRole has the value \"SLAVE\"; it takes ASYNC_MASTER here: replication is not there yet",
            ),
        ] {
            assert_eq!(loaded(text).unwrap_err(), format!("broker.conf:{error}"));
        }
    }

    type Shown = Vec<(&'static str, String)>;

    /// Of broker and name server: the keys that count, those with one value, those without.
    fn tables() -> [(&'static str, Shown, &'static [Fixed], &'static [Ignored]); 2] {
        let (broker, namesrv) = (BrokerConf::default(), NamesrvConf::default());
        [
            ("broker", broker.get_all(), BROKER_FIXED, BROKER_IGNORED),
            ("namesrv", namesrv.get_all(), NAMESRV_FIXED, NAMESRV_IGNORED),
        ]
    }

    /// A default without what this machine gives to it.
    fn neutral(key: &str, value: &str) -> String {
        let home = std::env::var("HOME").unwrap_or_default();
        match key {
            "brokerName" | "rocketmqHome" => String::new(),
            _ => value.replacen(&format!("{home}/"), "~/", 1),
        }
    }

    #[test]
    fn every_key_of_rocketmq_is_honoured_or_named_with_its_default() {
        let java = include_str!("../../tests/data/keys-4.9.7.txt");
        // Java's own default of a port is set by its start class.
        let other = ["listenPort", "storePathCommitLog"];
        for (whose, honoured, fixed, ignored) in tables() {
            let of = |line: &'static str| line.strip_prefix(whose)?.trim().split_once('=');
            for (key, default) in java.lines().filter_map(of) {
                if let Some((_, value)) = honoured.iter().find(|(k, _)| *k == key) {
                    let same = neutral(key, value) == default || other.contains(&key);
                    assert!(same, "{whose} {key}: {value}, and {default} in Java");
                } else if let Some((_, only, _)) = fixed.iter().find(|(k, ..)| *k == key) {
                    assert!(only.eq_ignore_ascii_case(default), "{whose} {key}");
                } else {
                    let named = |(_, keys): &Ignored| keys.split_whitespace().any(|k| k == key);
                    assert!(ignored.iter().any(named), "{whose} {key} is not named anywhere");
                }
            }
        }
    }

    #[test]
    fn a_key_stands_in_one_place() {
        for (whose, honoured, fixed, ignored) in tables() {
            let keys = honoured.iter().map(|(k, _)| *k).chain(fixed.iter().map(|(k, ..)| *k));
            let all: Vec<_> =
                keys.chain(ignored.iter().flat_map(|(_, keys)| keys.split_whitespace())).collect();
            let once: std::collections::BTreeSet<_> = all.iter().collect();
            assert_eq!(all.len(), once.len(), "{whose}: a key is named twice");
        }
    }

    #[test]
    fn the_documented_tables_are_these() {
        use std::fmt::Write;
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let mut text = std::fs::read_to_string(&file).unwrap();
        for (whose, honoured, fixed, ignored) in tables() {
            let mut table = "\n| key | default | |\n|---|---|---|\n".to_string();
            for (key, value) in &honoured {
                let set = match whose {
                    "broker" => BrokerConf::default().set(key, value),
                    _ => NamesrvConf::default().set(key, value),
                };
                let when =
                    if set == Err(SetError::AtStart(key.to_string())) { "" } else { "run time" };
                let _ = writeln!(table, "| `{key}` | {} | {when} |", neutral(key, value));
            }
            table.push_str("\nOne value is accepted:\n\n| key | value | why |\n|---|---|---|\n");
            for (key, only, why) in fixed {
                let _ = writeln!(table, "| `{key}` | {only} | {why} |");
            }
            table.push_str("\nAccepted, and without effect:\n\n| why | keys |\n|---|---|\n");
            for (why, keys) in ignored {
                let mut keys: Vec<_> = keys.split_whitespace().map(|k| format!("`{k}`")).collect();
                keys.sort();
                let _ = writeln!(table, "| {why} | {} |", keys.join(" "));
            }
            let (begin, end) = (format!("<!-- {whose} -->\n"), format!("\n<!-- end {whose} -->"));
            let (head, rest) = text.split_once(&begin).unwrap();
            let (_, tail) = rest.split_once(&end).unwrap();
            text = format!("{head}{begin}{table}{end}{tail}");
        }
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let is = std::fs::read_to_string(&file).unwrap();
        assert!(
            is == text,
            "docs/configuration.md is old: UPDATE_DOCS=1 cargo test writes it anew"
        );
    }

    #[test]
    fn what_is_printed_is_read_back() {
        let conf = BrokerConf::default();
        let all = conf.get_all();
        assert!(IMPORTANT.iter().all(|key| all.iter().any(|(k, _)| k == key)));
        assert!(all.is_sorted() && all.contains(&("diskMaxUsedSpaceRatio", "75".into())));
        let mut read = BrokerConf::default();
        for (key, value) in &all {
            read.put(key, value).unwrap();
        }
        assert_eq!(read.get_all(), all);
        assert_eq!(
            (conf.message_delay_level.ms.len(), conf.message_delay_level.ms[17]),
            (18, 7_200_000)
        );
    }

    #[test]
    fn tls_properties_win_and_passwords_are_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let tls = write(
            "tls.properties",
            "tls.test.mode.enable=false\ntls.server.keyPassword=hush\ntls.server.mode=disabled\n\
             tls.server.need.client.auth=REQUIRE\ntls.server.keyPath=/k\n",
        );
        let text = format!(
            "tls.config.file={}\ntls.server.mode=enforcing\ntls.server.keyPath=/other\n",
            tls.display()
        );
        let (conf, warnings) = BrokerConf::load(Some(&write("broker.conf", &text))).unwrap();
        assert_eq!((conf.tls.mode, conf.tls.test_mode), (TlsMode::Enforcing, false));
        assert_eq!(conf.tls.need_client_auth, ClientAuth::Require);
        assert_eq!(conf.tls.server_key_path.as_deref(), Some(Path::new("/k")));
        assert_eq!(conf.tls.server_key_password.0, "hush");
        assert!(warnings.len() == 1 && warnings[0].contains("tls.server.mode"), "{warnings:?}");
        assert!(!format!("{conf:?} {:?}", conf.get_all()).contains("hush"));
        let mut conf = NamesrvConf::load(Some(&write("namesrv.conf", &text))).unwrap().0;
        assert_eq!(conf.tls.mode, TlsMode::Enforcing);
        let error = conf.set("tls.server.mode", "disabled").unwrap_err();
        assert_eq!(error, SetError::AtStart("tls.server.mode".into()));
        let gone = write("gone.conf", "tls.config.file=/no/such/file\n");
        assert!(matches!(BrokerConf::load(Some(&gone)), Err(ConfError::Read(..))));
    }

    #[test]
    fn connections_to_name_servers_use_tls_if_either_key_says_so() {
        for (text, enable) in [
            ("", None),
            ("useTLS=false\ntls.enable=true\n", Some(true)),
            ("useTLS=true\n", Some(true)),
        ] {
            assert_eq!(loaded(text).unwrap().0.tls.enable, enable, "{text}");
        }
    }

    #[test]
    fn at_run_time() {
        let mut conf = BrokerConf::default();
        conf.set("autoCreateTopicEnable", "FALSE").unwrap();
        assert!(!conf.auto_create_topic_enable);
        for key in [
            "storePathRootDir",
            "listenPort",
            "adminAllowedAddresses",
            "brokerRole",
            "rocketmqHome",
        ] {
            assert_eq!(conf.set(key, "/x"), Err(SetError::AtStart(key.into())));
        }
        assert_eq!(conf.set("nosuch", ""), Err(SetError::Unknown("nosuch".into())));
        assert!(matches!(conf.set("brokerPermission", "9"), Err(SetError::Value { .. })));
    }

    #[test]
    fn ranges_of_addresses() {
        let ranges = IpRanges::read("10.1.2.3, 192.168.0.0/16,::1/128,fd00::/8").unwrap();
        let inside = |ip: &str| ranges.contains(ip.parse().unwrap());
        assert!(
            ["10.1.2.3", "::ffff:10.1.2.3", "192.168.9.9", "::1", "fdff::1"]
                .map(inside)
                .iter()
                .all(|i| *i)
        );
        assert!(
            !["10.1.2.4", "192.169.0.0", "::2", "fe00::", "0.0.0.1"].map(inside).iter().any(|i| *i)
        );
        assert!(IpRanges::read("0.0.0.0/0").unwrap().contains("8.8.8.8".parse().unwrap()));
        assert!(!IpRanges::read("").unwrap().contains("8.8.8.8".parse().unwrap()));
        assert!(IpRanges::read("10.0.0.0/33").is_none() && IpRanges::read("all").is_none());
    }
}
