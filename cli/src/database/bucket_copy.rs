//! A copy of a bucket's database on this machine, which a reader in this process serves.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use driftdb_common::bucket::store::BucketStore;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::layout::DataDir;
use driftdb_reader::bucket_mirror::{BUCKET_POLL_INTERVAL, BucketMirror, BucketState, Currency};

use crate::render;

/// The disk space for parts of the files that stay in the bucket.
const PARTS_BYTES: u64 = 1 << 30;
/// How often the copy is looked at until it is there.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A bucket whose database is copied when it is first read, and followed from then on.
#[derive(Debug)]
pub(super) struct BucketCopy {
    url: String,
    /// Where the copy stays; in a temporary directory if `None`.
    cache: Option<PathBuf>,
    scratch: Option<tempfile::TempDir>,
    mirror: Option<BucketMirror>,
}

impl BucketCopy {
    pub(super) fn new(url: String, cache: Option<PathBuf>) -> BucketCopy {
        BucketCopy { url, cache, scratch: None, mirror: None }
    }

    /// Copies the database, and returns the directory of the copy and how current that is.
    pub(super) async fn open(&mut self) -> Result<(PathBuf, Arc<BucketState>)> {
        let directory = match (&self.cache, &self.scratch) {
            (Some(cache), _) => cache.clone(),
            (None, Some(scratch)) => scratch.path().join("database"),
            (None, None) => {
                let made = tempfile::Builder::new().prefix("driftctl-").tempdir();
                let made = made.map_err(|e| Error::io("cannot create a temporary directory", &e))?;
                self.scratch.insert(made).path().join("database")
            }
        };
        let mirror = match &self.mirror {
            Some(mirror) => mirror,
            None => {
                let dir = DataDir::new(&directory);
                let started = BucketMirror::start(&self.url, &dir, BUCKET_POLL_INTERVAL, Some(PARTS_BYTES))?;
                self.mirror.insert(started)
            }
        };
        let state = Arc::clone(mirror.state());
        loop {
            let Currency { problem, is_usable, .. } = state.currency();
            match (is_usable, problem) {
                (true, None) => return Ok((directory, state)),
                (true, Some(problem)) => {
                    render::note(&format!(
                        "the answer may be old: it is that of the copy in {}, because {problem}",
                        directory.display()
                    ));
                    return Ok((directory, state));
                }
                (false, Some(problem)) => return Err(problem),
                (false, None) => tokio::time::sleep(LOOK_INTERVAL).await,
            }
        }
    }

    /// The error of a command that a bucket cannot serve.
    pub(super) fn read_only_error(&self) -> Error {
        if let Err(refused) = BucketStore::check_url(&self.url) {
            return refused;
        }
        let message = format!(
            "cannot write to {}: a bucket can only be read; restore it with `driftctl restore`, and write to the restored database",
            self.url
        );
        Error::new(Reason::NotSupported, message)
    }

    /// The error of a verification.
    pub(super) fn verify_error(&self) -> Error {
        if let Err(refused) = BucketStore::check_url(&self.url) {
            return refused;
        }
        let message =
            format!("verify checks a data directory: run `driftctl backup verify {} --deep`", self.url);
        Error::new(Reason::NotSupported, message)
    }

    /// Ends the copying.
    pub(super) async fn close(self) {
        if let Some(mirror) = self.mirror {
            mirror.close().await;
        }
    }
}
