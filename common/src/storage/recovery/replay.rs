//! The callback that receives the tables and commits that recovery finds.

use std::path::PathBuf;

use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::storage::wal::commit_reader::LogCommit;

/// Receives what recovery finds.
pub trait Replay {
    /// Receives a table's manifest as it was found, before anything else of the table. Returns the manifest to go on with:
    /// without the layers that cannot be used, whose commits are then replayed from the log; and the files that are damaged,
    /// which recovery renames, so that new files can take their names.
    fn set_aside_damage(&mut self, manifest: Manifest) -> Result<(Manifest, Vec<PathBuf>)> {
        Ok((manifest, Vec::new()))
    }

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
