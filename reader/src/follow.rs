//! How a reader comes to know that HEAD has moved: by notices, by looking every so often, or by both.

use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::fs::FileSystem;

use crate::notices::Notices;

/// How often HEAD is looked at where notices tell of changes: one may be lost.
const SAFETY_POLL: Duration = Duration::from_secs(1);

/// How a reader comes to know that HEAD has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Follow {
    /// Notices and polling; only polling where machines share the file system, which sends no notices then.
    #[default]
    Auto,
    /// Notices of changes, and a look every second in case one is lost.
    Notify,
    /// Polling alone.
    Poll,
}

impl Follow {
    /// How often HEAD is looked at, whatever notices tell.
    pub fn interval(self, poll: Duration) -> Duration {
        match self {
            Follow::Auto | Follow::Poll => poll,
            Follow::Notify => poll.max(SAFETY_POLL),
        }
    }

    /// The notices to follow by, in a directory.
    pub fn notices(self, disk: &dyn FileSystem, dir: &Path, poll: Duration) -> Result<Notices> {
        let shared = || {
            let shared = disk.is_network(dir);
            shared.map_err(|e| Error::io(format_args!("cannot examine {}", dir.display()), &e))
        };
        match self {
            Follow::Poll => Ok(Notices::none()),
            Follow::Notify if shared()? => {
                let message = format!(
                    "{} is on a file system that machines share, which sends no notices of their changes: \
                     use --follow poll, or auto",
                    dir.display()
                );
                Err(Error::new(Reason::NotSupported, message))
            }
            Follow::Notify => Notices::of(dir),
            Follow::Auto if shared()? => {
                let dir = dir.display();
                tracing::info!(
                    "machines share the file system of {dir}: no notices, HEAD is looked at every {poll:?}"
                );
                Ok(Notices::none())
            }
            Follow::Auto => Ok(Notices::of(dir).unwrap_or_else(|error| {
                tracing::warn!(%error, "HEAD is looked at every {poll:?}");
                Notices::none()
            })),
        }
    }
}
