//! The callback that receives the tables and commits that recovery finds.

use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::storage::wal::commit_reader::LogCommit;

/// Receives what recovery finds.
pub trait Replay {
    /// Receives a table's manifest. All tables come before the first commit. The commits that the table's snapshots
    /// contain are not replayed.
    fn replay_table(&mut self, manifest: &Manifest) -> Result<()> {
        let _ = manifest;
        Ok(())
    }

    /// Receives a commit, in commit order. If the snapshots of some tables contain the commit, it has only the parts of
    /// the other tables.
    fn replay_commit(&mut self, commit: LogCommit) -> Result<()>;
}

impl<F: FnMut(LogCommit) -> Result<()>> Replay for F {
    fn replay_commit(&mut self, commit: LogCommit) -> Result<()> {
        self(commit)
    }
}
