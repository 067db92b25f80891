//! The tokens that name commits to clients: seq, epoch and incarnation.

use std::sync::Arc;

use driftdb::v1;
use driftdb_common::format::lineage::Lineage;
use driftdb_common::service::convert;
use driftdb_common::table::operation::WriteToken;

/// Names the commits of one history.
#[derive(Debug, Clone)]
pub(crate) struct CommitTokens {
    epoch: u64,
    lineage: Arc<Lineage>,
}

impl CommitTokens {
    /// Names the commits of the history with this epoch and lineage.
    pub(crate) fn new(epoch: u64, lineage: Lineage) -> CommitTokens {
        CommitTokens { epoch, lineage: Arc::new(lineage) }
    }

    /// The token of a commit.
    pub(crate) fn token(&self, commit: WriteToken) -> v1::WriteToken {
        convert::token_to_wire(commit, self.epoch, &self.lineage)
    }
}
