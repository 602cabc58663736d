//! What a store is opened with. Defaults are RocketMQ's.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::codec::index::Shape;
use crate::log::flush::FlushPolicy;

/// Settings of a store. File sizes count for a new store only: one that exists keeps the sizes
/// that its files have.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The store's folder (`storePathRootDir`); made if it is not there.
    pub root: PathBuf,
    /// Where the log's files are, if not in `root/commitlog` (`storePathCommitLog`). Of several
    /// folders, each new file goes to the next one whose disk is not full.
    pub log_dirs: Vec<PathBuf>,
    /// More folders with files of the log, which get no new ones (`readOnlyCommitLogStorePaths`).
    pub old_log_dirs: Vec<PathBuf>,
    /// Bytes of a commit log file (`mappedFileSizeCommitLog`), 1 GiB.
    pub log_file_len: usize,
    /// Bytes of a ConsumeQueue file (`mappedFileSizeConsumeQueue`), 6,000,000; a multiple of 20.
    pub queue_file_len: usize,
    /// Shape of an index file (`maxHashSlotNum`, `maxIndexNum`): 5 million slots, 20 million items.
    pub index_shape: Shape,
    /// Whether keys are indexed (`messageIndexEnable`).
    pub index: bool,
    pub flush: FlushPolicy,
    /// How long an acknowledgement waits for the disk under sync flush (`syncFlushTimeout`), 5 s.
    pub sync_flush_timeout_ms: i64,
    /// How long an append waits for others before it is refused (`osPageCacheBusyTimeOutMills`),
    /// 1 s.
    pub append_timeout_ms: u64,
    /// The longest body in bytes (`maxMessageSize`), 4 MiB.
    pub max_body: usize,
    /// The address written into records; message ids are made of it.
    pub store_host: SocketAddr,
    pub retention: Retention,
    /// Delay of each level in ms, level 1 first (`messageDelayLevel`): units of the schedule
    /// queues carry the time of delivery.
    pub delay_levels_ms: Vec<i64>,
}

impl StoreConfig {
    /// The defaults, for a store in `root`.
    pub fn at(root: impl Into<PathBuf>) -> StoreConfig {
        const MINUTE: i64 = 60_000;
        let minutes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30, 60, 120];
        StoreConfig {
            root: root.into(),
            log_dirs: Vec::new(),
            old_log_dirs: Vec::new(),
            log_file_len: 1 << 30,
            queue_file_len: 6_000_000,
            index_shape: Shape { slots: 5_000_000, items: 20_000_000 },
            index: true,
            flush: FlushPolicy::default(),
            sync_flush_timeout_ms: 5_000,
            append_timeout_ms: 1_000,
            max_body: 4 << 20,
            store_host: SocketAddr::from((Ipv4Addr::LOCALHOST, 10911)),
            retention: Retention::default(),
            delay_levels_ms: [1_000, 5_000, 10_000, 30_000]
                .into_iter()
                .chain(minutes.map(|m| m * MINUTE))
                .collect(),
        }
    }
}

/// The folders of a setting that may name several, with commas between them.
pub fn split_paths(paths: &Path) -> Vec<PathBuf> {
    match paths.to_str() {
        Some(text) => {
            text.split(',').map(str::trim).filter(|p| !p.is_empty()).map(PathBuf::from).collect()
        }
        None => vec![paths.to_owned()],
    }
}

/// When files of the log are deleted, oldest first, never the last. A file goes whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Retention {
    /// A file is expired when its newest record is older than this (`fileReservedTime`), 72 h.
    pub reserved_hours: u64,
    /// Local hours of day at which expired files go (`deleteWhen`), 4.
    pub delete_when: Vec<u8>,
    /// Above this share of the disk expired files go at any hour (`diskMaxUsedSpaceRatio`), 0.75.
    pub max_used: f64,
    /// Above this share files go though they are not expired (`diskSpaceCleanForciblyRatio`), 0.85.
    pub force_clean: f64,
    /// Above this share messages are refused, until less than `force_clean` is in use again
    /// (`diskSpaceWarningLevelRatio`), 0.90.
    pub refuse_writes: f64,
    /// Whether files go unexpired at all (`cleanFileForciblyEnable`).
    pub may_force: bool,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention {
            reserved_hours: 72,
            delete_when: vec![4],
            max_used: 0.75,
            force_clean: 0.85,
            refuse_writes: 0.90,
            may_force: true,
        }
    }
}
