//! The writer's configuration.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use driftdb_common::bucket::bucket_options::BucketOptions;
use driftdb_common::limits;
use driftdb_common::service::clock::{Clock, SystemClock};
use driftdb_common::service::server::limit_options::ServerLimits;
use driftdb_common::storage::fence::Fencing;

use crate::admission::requests::RequestWindow;

/// The writer's configuration.
#[derive(Debug, Clone)]
pub struct WriterConfig {
    /// The data directory.
    pub data: PathBuf,
    /// The address at which clients reach this writer. Readers report it. `None` for the address listened on.
    pub advertise: Option<String>,
    /// Whether the writer checks that no other writer has taken over.
    pub fencing: Fencing,
    /// The size at which a log segment is sealed, in bytes.
    pub segment_bytes: u64,
    /// How long request ids are remembered.
    pub requests: RequestWindow,
    /// When snapshots are taken.
    pub snapshots: SnapshotTriggers,
    /// The size of the block cache, in bytes.
    pub cache_bytes: u64,
    /// The longest jump of the clock ahead of the last commit that needs no confirmation; `None` to trust the clock.
    pub max_clock_jump: Option<Duration>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Whether to give up the reserve before anything is written, because an open without that found the disk full.
    pub give_up_reserve: bool,
    /// How long the REVERTs of one request may take; `None` for any time.
    pub statement_timeout: Option<Duration>,
    /// The memory that requests may take, in bytes.
    pub request_memory: u64,
    /// What one client may take.
    pub client_limits: ServerLimits,
    /// The bucket to which the writer ships.
    pub bucket: Option<BucketOptions>,
    /// Below which directory of this machine clients may ask for backups.
    pub backup_dir: Option<PathBuf>,
}

impl WriterConfig {
    /// The defaults, for a data directory.
    pub fn new(data: impl Into<PathBuf>) -> WriterConfig {
        WriterConfig {
            data: data.into(),
            advertise: None,
            fencing: Fencing::Auto,
            segment_bytes: limits::SEGMENT_BYTES,
            requests: RequestWindow::default(),
            snapshots: SnapshotTriggers::default(),
            cache_bytes: limits::CACHE_BYTES,
            max_clock_jump: Some(Duration::from_secs(limits::CLOCK_JUMP_SECS)),
            clock: Arc::new(SystemClock),
            give_up_reserve: false,
            statement_timeout: Some(Duration::from_secs(limits::STATEMENT_TIMEOUT_SECS)),
            request_memory: limits::REQUEST_MEMORY_BYTES,
            client_limits: ServerLimits::default(),
            bucket: None,
            backup_dir: None,
        }
    }
}

/// When snapshots are taken. The log that counts is the log after a table's newest snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotTriggers {
    /// A table is due at this number of events in its log,
    pub events: u64,
    /// or at this number of bytes of log.
    pub bytes: u64,
    /// If the logs of all tables have more bytes than this, the table with the longest log is due. At twice
    /// this number, writes are refused until a snapshot is taken.
    pub memory: u64,
}

impl Default for SnapshotTriggers {
    fn default() -> SnapshotTriggers {
        SnapshotTriggers {
            events: limits::SNAPSHOT_EVENTS,
            bytes: limits::SNAPSHOT_BYTES,
            memory: limits::MEMTABLE_BYTES,
        }
    }
}
