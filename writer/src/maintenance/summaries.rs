//! The results of maintenance, and their lines for people.

use std::fmt;

use driftdb_common::error::{Error, Reason, counted};

/// The result of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SnapshotSummary {
    /// The commit of the snapshot.
    pub(crate) seq: u64,
    /// The number of live rows.
    pub(crate) rows: u64,
    /// The bytes of the files written, or of the newest delta layer if the snapshot was up to date.
    pub(crate) bytes: u64,
}

/// The result of a compaction, or of its dry run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CompactionSummary {
    /// The oldest commit that can be read.
    pub(crate) floor_seq: u64,
    /// The number of events whose history was discarded.
    pub(crate) events_compacted: u64,
    /// The bytes of disk that were freed.
    pub(crate) bytes_freed: u64,
}

/// The result of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct VerificationSummary {
    /// The number of files read.
    pub(crate) files: u64,
    /// The number of frames read.
    pub(crate) frames: u64,
    /// The number of rows and row versions compared.
    pub(crate) rows: u64,
    /// The number of problems found, including those that were not listed.
    pub(crate) problems: u64,
}

impl SnapshotSummary {
    /// One line for people.
    pub(crate) fn line(&self, table: &str) -> String {
        let SnapshotSummary { seq, rows, bytes } = *self;
        format!("snapshot of {table} at seq {seq}: {}, {}", counted(rows, "row"), size(bytes))
    }
}

impl CompactionSummary {
    /// The result of two compactions. A later point in time than either floor can be read.
    pub(crate) fn and(self, other: CompactionSummary) -> CompactionSummary {
        CompactionSummary {
            floor_seq: self.floor_seq.max(other.floor_seq),
            events_compacted: self.events_compacted + other.events_compacted,
            bytes_freed: self.bytes_freed + other.bytes_freed,
        }
    }

    /// One line for people.
    pub(crate) fn line(&self, table: &str, dry_run: bool) -> String {
        let CompactionSummary { floor_seq, events_compacted, bytes_freed } = *self;
        let (events, bytes) = (counted(events_compacted, "event"), size(bytes_freed));
        if dry_run {
            return format!(
                "{table}: would raise the floor to {floor_seq}, compact {events} and free {bytes}"
            );
        }
        format!("{table}: floor {floor_seq}, {events} compacted, {bytes} freed")
    }
}

impl VerificationSummary {
    /// The error that a verification with problems ends with.
    pub(crate) fn damage_error(&self) -> Option<Error> {
        let message =
            || format!("verification found {}; see the messages above", counted(self.problems, "problem"));
        (self.problems > 0)
            .then(|| Error::new(Reason::Corrupt, message()).with("problems", self.problems.to_string()))
    }
}

impl fmt::Display for VerificationSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (files, frames) = (counted(self.files, "file"), counted(self.frames, "frame"));
        write!(f, "{files}, {frames}, {}: ", counted(self.rows, "row"))?;
        match self.problems {
            0 => f.write_str("no problems"),
            problems => f.write_str(&counted(problems, "problem")),
        }
    }
}

/// A number of bytes with a decimal unit: one decimal place below 10, none above.
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
    fn summaries_are_readable_lines() {
        let snapshot = SnapshotSummary { seq: 1200, rows: 340, bytes: 52_100 };
        assert_eq!(snapshot.line("orders"), "snapshot of orders at seq 1200: 340 rows, 52 kB");
        let compaction = CompactionSummary { floor_seq: 1200, events_compacted: 860, bytes_freed: 120_000 };
        assert_eq!(
            compaction.line("orders", false),
            "orders: floor 1200, 860 events compacted, 120 kB freed"
        );
        assert_eq!(
            compaction.line("orders", true),
            "orders: would raise the floor to 1200, compact 860 events and free 120 kB"
        );
        let mut summary = VerificationSummary { files: 1, frames: 7, rows: 3, problems: 0 };
        assert_eq!(summary.to_string(), "1 file, 7 frames, 3 rows: no problems");
        assert!(summary.damage_error().is_none());
        summary.problems = 1;
        assert_eq!(summary.to_string(), "1 file, 7 frames, 3 rows: 1 problem");
        assert_eq!(summary.damage_error().unwrap().reason(), Reason::Corrupt);
    }

    #[test]
    fn sizes_have_decimal_units() {
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
