//! What a job does, and which jobs must not run at the same time.

use std::fmt;

/// The kind of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobKind {
    /// Writes a snapshot of a table.
    Snapshot,
    /// Raises a table's floor.
    Compact,
    /// Reads all files and changes nothing.
    Verify,
    /// Ships the database to a bucket.
    Backup,
}

/// A job's kind and table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobTask {
    pub(crate) kind: JobKind,
    /// The table; `None` for all tables.
    pub(crate) table: Option<String>,
}

impl JobTask {
    /// Whether the two tasks must run one after the other. Only a compaction removes what other jobs read; a backup copes with that, as one
    /// beside the writer does, and would hold compactions up for hours.
    pub(super) fn conflicts_with(&self, other: &JobTask) -> bool {
        let same_table = self.table.is_none() || other.table.is_none() || self.table == other.table;
        let exclusive = match (self.kind, other.kind) {
            (JobKind::Backup, JobKind::Backup) => true,
            (JobKind::Backup, _) | (_, JobKind::Backup) => false,
            (JobKind::Compact, _) | (_, JobKind::Compact) | (JobKind::Snapshot, JobKind::Snapshot) => true,
            (JobKind::Verify, _) | (_, JobKind::Verify) => false,
        };
        same_table && exclusive
    }
}

impl fmt::Display for JobTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            JobKind::Snapshot => "snapshot",
            JobKind::Compact => "compaction",
            JobKind::Verify => "verification",
            JobKind::Backup => "backup",
        };
        write!(f, "{kind} of {}", self.table.as_deref().unwrap_or("all tables"))
    }
}
