//! How long a view that does not fit together may be a stale one, before it is damage.

use std::time::{Duration, Instant};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::table::table_files::TableFiles;

/// How long a file system that machines share may show what is no more. sshfs keeps listings for 20 s, NFS for up to 60 s
/// where nothing else has it look again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tells a stale view from damage, by how long it lasts.
#[derive(Debug)]
pub struct Patience {
    allowed: Duration,
    since: Option<Instant>,
}

impl Patience {
    /// Patience with a data directory: none where what it shows is what it holds.
    pub fn with(shelf: &TableFiles) -> Patience {
        let shared = shelf.disk.is_network(shelf.dir.root()).unwrap_or(false);
        Patience { allowed: if shared { PATIENCE } else { Duration::ZERO }, since: None }
    }

    /// What a look at HEAD came to: damage that may be a stale view is only something not seen yet.
    pub fn judge(&mut self, outcome: Result<()>) -> Result<()> {
        match outcome {
            Err(error) if matches!(error.reason(), Reason::Corrupt | Reason::FileGone) => {
                let since = self.since.get_or_insert_with(Instant::now);
                if since.elapsed() >= self.allowed {
                    return Err(error);
                }
                let offset = error.metadata().get("offset").map_or("", String::as_str);
                let seen = error.message().replacen(&format!(" damaged at byte {offset}:"), "", 1);
                let message = format!("what HEAD tells of is not to be seen here yet: {seen}");
                Err(Error::new(Reason::ReplicaBehind, message))
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
    fn damage_is_what_lasts() {
        let mut local = Patience { allowed: Duration::ZERO, since: None };
        assert_eq!(reason(local.judge(damage())), Reason::Corrupt);
        let mut shared = Patience { allowed: PATIENCE, since: None };
        let error = shared.judge(damage()).unwrap_err();
        assert_eq!(error.reason(), Reason::ReplicaBehind);
        assert!(error.message().ends_with("yet: x: y"), "{error}");
        shared.since = Instant::now().checked_sub(PATIENCE);
        assert_eq!(reason(shared.judge(damage())), Reason::Corrupt);
        shared.judge(Ok(())).unwrap();
        assert_eq!(reason(shared.judge(damage())), Reason::ReplicaBehind, "it was seen meanwhile");
        let other = Err(Error::new(Reason::EpochChanged, ""));
        assert_eq!(reason(shared.judge(other)), Reason::EpochChanged);
    }
}
