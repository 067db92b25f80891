//! How long a reader takes inconsistent files for an old view of the storage before it reports damage.

use std::time::{Duration, Instant};

use driftdb_common::error::{Error, FileError, Reason, Result};
use driftdb_common::table::table_files::TableFiles;

/// How long a network file system may show an old state. sshfs caches listings for 20 s, NFS for up to 60 s unless something
/// makes it revalidate them.
const NETWORK_LIMIT: Duration = Duration::from_secs(30);

/// How long a read waits for the files that replace one that has vanished. On a local file system the follower sees them at its
/// next check.
const LOCAL_PATIENCE: Duration = Duration::from_secs(1);

/// How long a read waits for the files that replace one that has vanished.
pub fn read_patience(files: &TableFiles) -> Duration {
    if is_network(files) { NETWORK_LIMIT } else { LOCAL_PATIENCE }
}

fn is_network(files: &TableFiles) -> bool {
    files.fs.is_network(files.dir.root()).unwrap_or(false)
}

/// Tells an old view of the storage from damage, by how long the inconsistency lasts.
#[derive(Debug)]
pub struct StaleViewTolerance {
    limit: Duration,
    /// The start of the current inconsistency.
    since: Option<Instant>,
}

impl StaleViewTolerance {
    /// The tolerance for a data directory: none on a local file system, which never shows an old state.
    pub fn for_storage(files: &TableFiles) -> StaleViewTolerance {
        let limit = if is_network(files) { NETWORK_LIMIT } else { Duration::ZERO };
        StaleViewTolerance { limit, since: None }
    }

    /// How long the storage may show an old state.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Classifies the outcome of a HEAD check: damage within the limit becomes REPLICA_BEHIND.
    pub fn classify(&mut self, outcome: Result<()>) -> Result<()> {
        match outcome {
            Err(error) if matches!(error.reason(), Reason::Corrupt | Reason::FileGone) => {
                let since = self.since.get_or_insert_with(Instant::now);
                if since.elapsed() >= self.limit {
                    return Err(error);
                }
                // "damaged at byte" would be wrong: nothing may be damaged.
                let found = match error.file_error().filter(|damage| damage.offset.is_some()) {
                    Some(FileError { file, detail, .. }) => format!("{file}: {detail}"),
                    None => error.message().to_owned(),
                };
                let message = format!("data referenced by HEAD is not visible on this mount yet: {found}");
                Err(Error::new(Reason::ReplicaBehind, message).caused_by(error))
            }
            Ok(()) => {
                self.since = None;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damage() -> Result<()> {
        Err(Error::corrupt("x", 0, "y"))
    }

    fn reason(outcome: Result<()>) -> Reason {
        outcome.unwrap_err().reason()
    }

    #[test]
    fn only_a_lasting_inconsistency_is_damage() {
        let mut local = StaleViewTolerance { limit: Duration::ZERO, since: None };
        assert_eq!(reason(local.classify(damage())), Reason::Corrupt);
        let mut network = StaleViewTolerance { limit: NETWORK_LIMIT, since: None };
        let error = network.classify(damage()).unwrap_err();
        assert_eq!(error.reason(), Reason::ReplicaBehind);
        assert!(error.message().ends_with("yet: x: y"), "{error}");
        network.since = Instant::now().checked_sub(NETWORK_LIMIT);
        assert_eq!(reason(network.classify(damage())), Reason::Corrupt);
        network.classify(Ok(())).unwrap();
        assert_eq!(reason(network.classify(damage())), Reason::ReplicaBehind, "a success restarts the limit");
        let other = Err(Error::new(Reason::EpochChanged, ""));
        assert_eq!(reason(network.classify(other)), Reason::EpochChanged);
    }
}
