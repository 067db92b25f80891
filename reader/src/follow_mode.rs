//! How a reader detects new commits: by file system events, by polling HEAD, or both.

use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::fs::FileSystem;

use crate::fs_events::FsEvents;

/// The interval of HEAD checks in [`FollowMode::Notify`], because the system may drop an event.
const SAFETY_INTERVAL: Duration = Duration::from_secs(1);

/// How a reader detects new commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum FollowMode {
    /// Events and polling on local file systems; only polling on network file systems, which send no events for changes that
    /// other machines make.
    #[default]
    Auto,
    /// Events, and a check every second in case an event is lost. Fails on network file systems.
    Notify,
    /// Only polling.
    Poll,
}

impl FollowMode {
    /// The interval of HEAD checks if no event comes.
    pub fn interval(self, poll_interval: Duration) -> Duration {
        match self {
            FollowMode::Auto | FollowMode::Poll => poll_interval,
            FollowMode::Notify => poll_interval.max(SAFETY_INTERVAL),
        }
    }

    /// The events of a directory that this mode uses.
    ///
    /// [`FollowMode::Notify`] fails if the directory has no events; [`FollowMode::Auto`] then polls.
    pub fn events(self, fs: &dyn FileSystem, dir: &Path, poll_interval: Duration) -> Result<FsEvents> {
        let is_network = || {
            let network = fs.is_network(dir);
            network.map_err(|e| {
                Error::io(format_args!("cannot examine the file system of {}", dir.display()), &e)
            })
        };
        match self {
            FollowMode::Poll => Ok(FsEvents::none()),
            FollowMode::Notify if is_network()? => {
                let message = format!(
                    "cannot follow {} by file system events: it is on a network file system, which sends none for \
                     changes by other machines; use --follow poll or --follow auto",
                    dir.display()
                );
                Err(Error::new(Reason::NotSupported, message))
            }
            FollowMode::Notify => FsEvents::of(dir),
            FollowMode::Auto if is_network()? => {
                tracing::info!(
                    path = %dir.display(),
                    "the directory is on a network file system: polling HEAD every {poll_interval:?}"
                );
                Ok(FsEvents::none())
            }
            FollowMode::Auto => Ok(FsEvents::of(dir).unwrap_or_else(|error| {
                tracing::warn!(%error, "no file system events: polling HEAD every {poll_interval:?}");
                FsEvents::none()
            })),
        }
    }
}
