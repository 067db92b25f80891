//! Whether a HEAD continues the history that this reader has applied.
//!
//! An older copy of a database that is put back has the same id, epoch and often the same term. Its commits are then replaced by
//! other ones with the same seqs, and a reader that went on would show rows of both. So a reader knows the lineage point of
//! what it has applied, and every HEAD must contain it. On a network file system a HEAD that does not may be an old view.

use std::sync::Arc;
use std::time::{Duration, Instant};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::head::HeadIncarnation;
use driftdb_common::format::lineage::Lineage;
use driftdb_common::storage::head::Head;
use driftdb_common::storage::lineage;
use driftdb_common::table::table_files::TableFiles;

/// The history that a follower follows, as far as the HEADs that it has seen name it.
#[derive(Debug, Default)]
pub struct FollowedHistory {
    lineage: Arc<Lineage>,
    /// The incarnation in the newest HEAD seen, and whether that HEAD was closed; `None` before the first.
    newest: Option<(HeadIncarnation, bool)>,
    /// The term in the newest HEAD seen.
    term: u64,
    /// The last seq in the newest HEAD seen.
    head_seq: u64,
    /// How long the storage may show an old HEAD.
    tolerance: Duration,
    /// Since when HEAD does not contain what was seen.
    behind_since: Option<Instant>,
    /// The incarnation of a history of which commits were lost, and the seq at which its remains end, once it is known. As long
    /// as HEAD names it, no writer has opened what remains: the next one begins another incarnation.
    frozen: Option<(u64, Option<u64>)>,
}

impl FollowedHistory {
    /// A history of which nothing has been seen. The storage may show an old HEAD for as long as `tolerance`.
    pub fn new(tolerance: Duration) -> FollowedHistory {
        FollowedHistory { tolerance, ..FollowedHistory::default() }
    }

    /// The history that follows after this one was lost.
    #[must_use]
    pub fn start_over(&self) -> FollowedHistory {
        let frozen = self.newest.map(|(incarnation, _)| (incarnation.id, None));
        FollowedHistory { tolerance: self.tolerance, frozen, ..FollowedHistory::default() }
    }

    /// The lineage up to the newest HEAD seen.
    pub fn lineage(&self) -> &Arc<Lineage> {
        &self.lineage
    }

    /// Checks that a HEAD contains everything that was seen and applied, and remembers it. Fails with EPOCH_CHANGED if it does not,
    /// and with REPLICA_BEHIND as long as it may be an old view.
    pub fn accept(&mut self, files: &TableFiles, head: &Head, applied: u64) -> Result<()> {
        let incarnation = head.incarnation;
        let newest = (incarnation, head.header.closed);
        let is_known = self.newest == Some(newest);
        let lineage = match is_known {
            true => Arc::clone(&self.lineage),
            false => Arc::new(lineage::read(&*files.fs, &files.dir, head)?),
        };
        let seen_seq = applied.max(self.head_seq);
        if self.newest.is_some() {
            let seen = self.lineage.point(seen_seq);
            let shown = Lineage::clone(&lineage).ended_at(head.last_seq());
            if !shown.continues(seen) || head.header.term < self.term {
                let contains = lineage.continues(seen);
                return Err(self.not_contained_error(files, head, (seen_seq, contains)));
            }
        }
        self.behind_since = None;
        (self.term, self.head_seq) = (head.header.term, head.last_seq());
        if !is_known {
            (self.lineage, self.newest) = (lineage, Some(newest));
        }
        self.freeze();
        Ok(())
    }

    /// Ends the current incarnation at HEAD if it is one of which later commits were lost.
    fn freeze(&mut self) {
        let Some((incarnation, end)) = self.frozen else { return };
        let end = end.unwrap_or(self.head_seq);
        let is_frozen = incarnation != 0 && incarnation == self.lineage.current() && self.head_seq <= end;
        self.frozen = is_frozen.then_some((incarnation, Some(end)));
        if is_frozen && self.lineage.end() != Some(end) {
            self.lineage = Arc::new(Lineage::clone(&self.lineage).ended_at(end));
        }
    }

    fn not_contained_error(
        &mut self,
        files: &TableFiles,
        head: &Head,
        (seen, contains): (u64, bool),
    ) -> Error {
        let path = files.dir.head();
        let found = match (contains, head.header.term < self.term) {
            (true, true) => {
                format!(
                    "{} has term {}, but term {} was seen before",
                    path.display(),
                    head.header.term,
                    self.term
                )
            }
            (true, false) => {
                format!(
                    "{} ends at commit {}, but commit {seen} was seen before",
                    path.display(),
                    head.last_seq()
                )
            }
            (false, _) => format!(
                "the history in {} does not contain commit {seen}, which was seen before",
                path.display()
            ),
        };
        // A writer that takes over shows what it found in HEAD until it has read the log. A HEAD that the doctor has rebuilt names
        // no incarnation before that.
        let is_in_recovery = head.header.format > 1
            && head.header.term != head.incarnation.term
            && (contains || head.incarnation.id == 0);
        let since = *self.behind_since.get_or_insert_with(Instant::now);
        if is_in_recovery || since.elapsed() < self.tolerance {
            return Error::new(Reason::ReplicaBehind, format!("{found}: the view of the storage is old"));
        }
        let message = format!(
            "{found}: an older or another copy of the database has taken its place; tokens of the lost commits are not valid any more"
        );
        Error::new(Reason::EpochChanged, message)
    }
}
