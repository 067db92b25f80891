//! What maintenance does to tables: the work of long jobs, and what it comes to.

use std::fmt;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::table::build::snapshot::ProgressFn;
use driftdb_common::table::check::verification::{self, Problem, VerifiedCounts};
use driftdb_common::table::point_in_time::PointInTime;

use crate::jobs::JobHandle;
use crate::snapshotter::{Snapshotter, Taken};

/// A snapshot that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotInfo {
    /// The commit it is of.
    pub seq: u64,
    /// Its rows.
    pub rows: u64,
    /// Its bytes on disk.
    pub bytes: u64,
}

/// What a compaction did, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompactInfo {
    /// The oldest moment that can still be read.
    pub floor_seq: u64,
    /// Events that are now part of a snapshot only.
    pub events_folded: u64,
    /// Bytes that the disk got back.
    pub bytes_freed: u64,
}

/// What a verification went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerifySummary {
    /// Files read.
    pub files: u64,
    /// Frames in them.
    pub frames: u64,
    /// Rows compared.
    pub rows: u64,
    /// Problems found, those that nobody was told of too.
    pub problems: u64,
}

/// How often a table is verified while its files may be replaced, before they are held still.
const VERIFIED_FREELY: u32 = 3;

/// Maintains the tables of an open database.
#[derive(Debug, Clone)]
pub struct Maintenance {
    snapshotter: Snapshotter,
}

impl Maintenance {
    /// With what takes snapshots of a database.
    pub fn new(snapshotter: Snapshotter) -> Maintenance {
        Maintenance { snapshotter }
    }

    /// Writes a snapshot of a table.
    pub fn snapshot(&self, table: &str, job: &JobHandle) -> Result<SnapshotInfo> {
        let id = self.snapshotter.commits().table_id(table)?;
        let watch = |done| {
            job.report(done, 0, "rows");
            job.check()
        };
        let Taken { seq, rows, bytes, .. } = self.snapshotter.take(id, &watch)?;
        Ok(SnapshotInfo { seq, rows, bytes })
    }

    /// Raises a table's floor to `before`, or to its newest snapshot; `dry_run` only says what that would do.
    pub fn compact(
        &self,
        table: &str,
        before: Option<PointInTime>,
        dry_run: bool,
        job: &JobHandle,
    ) -> Result<CompactInfo> {
        let id = self.snapshotter.commits().table_id(table)?;
        let watch = |done| {
            job.report(done, 0, "rows");
            job.check()
        };
        self.snapshotter.compact(id, before, dry_run, &watch)
    }

    /// Reads a table's files, or all, and tells of every problem; `deep` also rebuilds the state and compares. Commits go on
    /// meanwhile: what is verified is what was published when its table's turn came.
    pub fn verify(
        &self,
        table: Option<&str>,
        deep: bool,
        job: &JobHandle,
        problem: &mut dyn FnMut(Problem),
    ) -> Result<VerifySummary> {
        let commits = self.snapshotter.commits();
        let ids = match table {
            Some(table) => vec![commits.table_id(table)?],
            // Dropped tables too: their past can be read.
            None => commits.all_tables(|table| table.id()),
        };
        let mut summary = VerifySummary::default();
        let mut done = 0;
        for id in ids {
            let watch = |more| {
                job.report(done + more, 0, "entries");
                job.check()
            };
            let (figures, found) = self.verify_table(id, deep, &watch)?;
            found.into_iter().for_each(&mut *problem);
            let VerifiedCounts { files, frames, rows, problems } = figures;
            done += frames + rows;
            summary.files += files;
            summary.frames += frames;
            summary.rows += rows;
            summary.problems += problems;
        }
        Ok(summary)
    }

    /// Snapshots may be replaced, and the old ones go: what was found wrong while the manifest moved on is looked at anew,
    /// in the end with the table's files held still.
    fn verify_table(
        &self,
        id: u64,
        deep: bool,
        watch: ProgressFn<'_>,
    ) -> Result<(VerifiedCounts, Vec<Problem>)> {
        let commits = self.snapshotter.commits();
        let mut tries = 0;
        loop {
            tries += 1;
            let lock = self.snapshotter.lock_of(id);
            let _still = (tries > VERIFIED_FREELY).then(|| lock.lock());
            let (manifest, reach) = commits.look(id)?;
            let mut found = Vec::new();
            let mut take = |problem| {
                found.push(problem);
            };
            let shelf = self.snapshotter.shelf();
            let figures = verification::verify(shelf, &manifest, reach, deep, watch, &mut take)?;
            let moved = commits.look(id)?.0.version != manifest.version;
            if found.is_empty() || !moved || tries > VERIFIED_FREELY {
                return Ok((figures, found));
            }
        }
    }
}

impl SnapshotInfo {
    /// In a line for people.
    pub fn line(&self, table: &str) -> String {
        let SnapshotInfo { seq, rows, bytes } = *self;
        format!("snapshot of {table} at seq {seq}: {}, {}", counted(rows, "row"), size(bytes))
    }
}

impl CompactInfo {
    /// In a line for people: what was done, or what would be.
    pub fn line(&self, table: &str, dry_run: bool) -> String {
        let CompactInfo { floor_seq, events_folded, bytes_freed } = *self;
        let (events, bytes) = (counted(events_folded, "event"), size(bytes_freed));
        if dry_run {
            return format!("{table}: would raise the floor to {floor_seq}, fold {events} and free {bytes}");
        }
        format!("{table}: floor {floor_seq}, {events} folded, {bytes} freed")
    }
}

impl fmt::Display for VerifySummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (files, frames) = (counted(self.files, "file"), counted(self.frames, "frame"));
        write!(f, "{files}, {frames}, {}: ", counted(self.rows, "row"))?;
        match self.problems {
            0 => f.write_str("no problems"),
            problems => f.write_str(&counted(problems, "problem")),
        }
    }
}

impl VerifySummary {
    /// The error that a verification with problems ends with.
    pub fn damage(&self) -> Option<Error> {
        let found = || format!("{} found: see the messages before", counted(self.problems, "problem"));
        (self.problems > 0)
            .then(|| Error::new(Reason::Corrupt, found()).with("problems", self.problems.to_string()))
    }
}

fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Bytes as people say them: three digits are enough.
fn size(bytes: u64) -> String {
    let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    let Some((unit, name)) = units.into_iter().find(|(unit, _)| bytes >= *unit) else {
        return format!("{bytes} B");
    };
    match (bytes / unit, bytes % unit * 10 / unit) {
        (whole, tenth) if whole < 10 && tenth > 0 => format!("{whole}.{tenth} {name}"),
        (whole, _) => format!("{whole} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_people() {
        let snapshot = SnapshotInfo { seq: 1200, rows: 340, bytes: 52_100 };
        assert_eq!(snapshot.line("orders"), "snapshot of orders at seq 1200: 340 rows, 52 kB");
        let compact = CompactInfo { floor_seq: 1200, events_folded: 860, bytes_freed: 120_000 };
        assert_eq!(compact.line("orders", false), "orders: floor 1200, 860 events folded, 120 kB freed");
        assert_eq!(
            compact.line("orders", true),
            "orders: would raise the floor to 1200, fold 860 events and free 120 kB"
        );
        let mut summary = VerifySummary { files: 1, frames: 7, rows: 3, problems: 0 };
        assert_eq!(summary.to_string(), "1 file, 7 frames, 3 rows: no problems");
        assert!(summary.damage().is_none());
        summary.problems = 1;
        assert_eq!(summary.to_string(), "1 file, 7 frames, 3 rows: 1 problem");
        assert_eq!(summary.damage().unwrap().reason(), Reason::Corrupt);
    }

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1 kB"),
            (1500, "1.5 kB"),
            (52_999, "52 kB"),
            (u64::MAX, "18446744 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
