//! The writer's options about its bucket.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use driftdb_common::limits;
use driftdb_common::service::options::{parse_days, parse_duration};
use driftdb_writer::{BucketAck, BucketOptions};

/// The options about the bucket.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Bucket")]
pub(crate) struct BucketArgs {
    /// Bucket to which every commit is shipped: s3://, gs://, az:// with a prefix, file:///path, or a directory
    ///
    /// If the data directory is empty and the bucket contains a database, the writer fills the directory from the bucket and
    /// takes over: another writer that ships to the bucket stops. The store must create an object only if it does not exist;
    /// `driftctl storage-check URL` tries it. Credentials come from the environment, as for the tools of the store's vendor,
    /// and never from the URL.
    #[arg(long, env = "DRIFTDB_BUCKET", value_name = "URL")]
    bucket: Option<String>,
    /// When a commit is acknowledged: once it is on disk, or once it is in the bucket, too
    #[arg(
        long,
        env = "DRIFTDB_BUCKET_ACK",
        value_enum,
        default_value = "async",
        value_name = "WHEN",
        requires = "bucket"
    )]
    bucket_ack: AckMode,
    /// Shortest time between two chunks [default: 1s; with --bucket-ack sync: 100ms]
    ///
    /// Each chunk is a PUT request, which costs money. With async, it is also about what can be lost with the machine; with
    /// sync, a commit waits for at most this time before its chunk is sent.
    #[arg(
        long,
        env = "DRIFTDB_BUCKET_INTERVAL",
        value_name = "TIME",
        value_parser = parse_interval,
        requires = "bucket"
    )]
    bucket_interval: Option<Duration>,
    /// Time that commits wait for the bucket with --bucket-ack sync before new ones are refused
    ///
    /// While the bucket does not answer, commits under way go on waiting, because the bucket may have them, and new ones fail with
    /// OVERLOADED. A writer that closes waits for the bucket for this time, too.
    #[arg(
        long,
        env = "DRIFTDB_BUCKET_SYNC_TIMEOUT",
        default_value = "10s",
        value_name = "TIME",
        value_parser = parse_interval,
        requires = "bucket"
    )]
    bucket_sync_timeout: Duration,
    /// Time for which every moment can be restored from the bucket, for example 30d [default: for ever]
    ///
    /// Counts back from the last commit. The writer deletes what is older once a newer image of the database is whole in the bucket.
    #[arg(
        long,
        env = "DRIFTDB_BUCKET_KEEP",
        value_name = "TIME",
        value_parser = parse_days,
        requires = "bucket"
    )]
    bucket_keep: Option<Duration>,
    /// Number of chunks after which an image of the database follows, from which readers and restores begin
    ///
    /// With lower values they begin faster, and old chunks can be deleted earlier; but segments that grow are uploaded again more
    /// often.
    #[arg(
        long,
        env = "DRIFTDB_BUCKET_BASE_CHUNKS",
        default_value_t = limits::BUCKET_BASE_CHUNKS,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(2..),
        requires = "bucket"
    )]
    bucket_base_chunks: u64,
    /// Directory below which `driftctl backup --writer` may make backups on this machine
    ///
    /// Clients that may back up can always name an object store: the writer uses the credentials of its environment. Without this
    /// option they can name no directory of this machine.
    #[arg(long, env = "DRIFTDB_BACKUP_DIR", value_name = "DIR")]
    backup_dir: Option<PathBuf>,
}

/// When a commit is acknowledged.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum AckMode {
    /// When it is on disk; the bucket follows within --bucket-interval
    Async,
    /// When it is on disk and in the bucket; readers see it only then
    Sync,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let found = parse_duration(text)?;
    let least = Duration::from_millis(limits::BUCKET_INTERVAL_LEAST_MS);
    if found < least { Err(format!("at least {} ms", least.as_millis())) } else { Ok(found) }
}

impl BucketArgs {
    /// Below which directory clients may ask for backups. Relative to the directory in which the writer was started.
    pub(crate) fn backup_dir(&self) -> Option<PathBuf> {
        let given = self.backup_dir.as_ref()?;
        Some(std::path::absolute(given).unwrap_or_else(|_| given.clone()))
    }

    /// What the options ask for; `None` without a bucket.
    pub(crate) fn options(&self) -> Option<BucketOptions> {
        let (ack, default_ms) = match self.bucket_ack {
            AckMode::Async => (BucketAck::Async, limits::BUCKET_ASYNC_INTERVAL_MS),
            AckMode::Sync => (BucketAck::Sync, limits::BUCKET_SYNC_INTERVAL_MS),
        };
        Some(BucketOptions {
            url: self.bucket.clone()?,
            ack,
            interval: self.bucket_interval.unwrap_or(Duration::from_millis(default_ms)),
            timeout: self.bucket_sync_timeout,
            keep: self.bucket_keep,
            base_chunks: self.bucket_base_chunks,
        })
    }
}
