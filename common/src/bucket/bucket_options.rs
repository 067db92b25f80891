//! How a writer uses its bucket, how far the bucket is, and where backups that clients ask for may go.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use crate::bucket::chunk::ChunkMark;
use crate::bucket::remote;
use crate::error::{Error, Reason, Result};

/// The object stores in which clients may ask for backups. Others can be named by a URL that has another host in it than the
/// environment says.
const CLIENT_STORES: [&str; 3] = ["s3", "gs", "az"];

/// When a commit is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketAck {
    /// When it is on disk.
    Async,
    /// When it is on disk and in the bucket.
    Sync,
}

/// How a writer uses its bucket.
#[derive(Debug, Clone)]
pub struct BucketOptions {
    /// The bucket.
    pub url: String,
    /// When a commit is acknowledged.
    pub ack: BucketAck,
    /// The shortest time between the beginnings of two chunks.
    pub interval: Duration,
    /// With `Sync`: how long commits wait for the bucket before new ones are refused. Also how long a writer that closes waits.
    pub timeout: Duration,
    /// How long moments can be restored at least; `None` for ever.
    pub keep: Option<Duration>,
    /// The number of chunks after which a base follows.
    pub base_chunks: u64,
}

/// How far the bucket is.
#[derive(Debug, Clone)]
pub struct BucketStatus {
    /// The bucket.
    pub url: String,
    /// When a commit is acknowledged.
    pub ack: BucketAck,
    /// The last commit in the bucket.
    pub last: ChunkMark,
    /// The last chunk.
    pub chunk: u64,
    /// For how long the bucket has lacked commits that were published.
    pub lag: Duration,
    /// Why nothing can be shipped.
    pub problem: Option<String>,
}

/// Where backups that clients ask for may go.
#[derive(Debug, Clone, Default)]
pub struct BackupTargets {
    /// The directory on this machine that may contain them: `--backup-dir`.
    pub directory: Option<PathBuf>,
    /// The bucket to which the writer ships by itself.
    pub own: Option<String>,
}

impl BackupTargets {
    /// Fails unless a backup may go to a URL. The error does not repeat the URL, which can contain anything.
    pub fn check(&self, url: &str) -> Result<()> {
        let is_own = |own: &str| match (remote::place_of(own), remote::place_of(url)) {
            (Ok(own), Ok(place)) => own == place,
            // Another check refuses a URL that names no place.
            _ => false,
        };
        if self.own.as_deref().is_some_and(is_own) {
            let message =
                "cannot back up to this bucket: the writer ships to it by itself; name another prefix";
            return Err(Error::new(Reason::ArgumentInvalid, message));
        }
        match url.split_once("://") {
            Some((store, place)) if CLIENT_STORES.contains(&store) && !place.is_empty() => Ok(()),
            Some(("file", _)) => {
                let path = Url::parse(url).ok().and_then(|url| url.to_file_path().ok());
                self.check_directory(path.as_deref())
            }
            None if !url.is_empty() => self.check_directory(Some(Path::new(url))),
            _ => {
                let message = "cannot back up: the request names no bucket that the writer can ship to; give a URL such as \
                               s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///path";
                Err(Error::new(Reason::ArgumentInvalid, message))
            }
        }
    }

    /// A client must not write anywhere on the writer's machine.
    fn check_directory(&self, path: Option<&Path>) -> Result<()> {
        let is_plain = |path: &Path| !path.components().any(|part| part == Component::ParentDir);
        let is_inside = |path: &Path| {
            self.directory.as_ref().is_some_and(|directory| path != directory && path.starts_with(directory))
        };
        if path.is_some_and(|path| is_plain(path) && is_inside(path)) {
            return Ok(());
        }
        let message = match &self.directory {
            None => "cannot back up to a directory of the writer's machine: the writer was started without --backup-dir; name an \
                     object store, or back up there with `driftctl backup -d`"
                .to_owned(),
            Some(directory) => format!(
                "cannot back up to this directory of the writer's machine: clients may name only those below {} (--backup-dir)",
                directory.display()
            ),
        };
        Err(Error::new(Reason::PermissionDenied, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_name_object_stores_and_directories_below_the_one_that_is_allowed() {
        let open = BackupTargets { directory: Some("/backups".into()), own: Some("s3://own/prefix".into()) };
        let closed = BackupTargets::default();
        for url in ["s3://bucket/prefix", "gs://bucket", "az://container/a/b", "s3://own/prefix2"] {
            assert!(open.check(url).is_ok() && closed.check(url).is_ok(), "{url}");
        }
        for url in ["file:///backups/a", "/backups/a/b", "file:///backups/x/../a"] {
            assert!(open.check(url).is_ok(), "{url}");
            assert_eq!(closed.check(url).unwrap_err().reason(), Reason::PermissionDenied, "{url}");
        }
        for url in [
            "file:///etc/x",
            "file:///backups",
            "/backups",
            "file:///backups/../etc",
            "file:///backups/%2e%2e/etc",
            "file:///backups/a%2F..%2F..%2Fetc",
            "/backups/../etc",
            "backups/a",
            "file:///backups2/a",
            "file://host/backups/a",
        ] {
            assert_eq!(open.check(url).unwrap_err().reason(), Reason::PermissionDenied, "{url}");
        }
        for url in [
            "",
            "s3://",
            "http://127.0.0.1/x",
            "https://bucket.s3.amazonaws.com/x",
            "memory:///",
            "s3://own/prefix/",
            "s3://own/./prefix",
            "s3://own/x/../prefix",
            "s3://own/pre%66ix",
        ] {
            assert_eq!(open.check(url).unwrap_err().reason(), Reason::ArgumentInvalid, "{url}");
        }
    }

    #[test]
    fn the_directory_to_which_the_writer_ships_is_refused_under_every_name() {
        let own = Some("/nowhere/backups/own".to_owned());
        let targets = BackupTargets { directory: Some("/nowhere/backups".into()), own };
        for url in ["file:///nowhere/backups/own", "/nowhere/backups//own/", "/nowhere/backups/./own"] {
            assert_eq!(targets.check(url).unwrap_err().reason(), Reason::ArgumentInvalid, "{url}");
        }
        assert!(targets.check("file:///nowhere/backups/other").is_ok());
    }
}
