//! Indexes, compared with the files that they are of: no candidate is missing, and none is there without a value.
//!
//! Every value is looked up. As each is then a candidate, the count says whether there are others. The values of one row
//! within one era are held in memory.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::Result;
use crate::format::path::Path;
use crate::format::snapshot::{CandidateEntry, RowEntry, VersionEntry, read_version, tree};
use crate::storage::sst::{SstFile, TreeCursor};
use crate::table::build::index::value_at;
use crate::table::check::verification::ProblemList;
use crate::table::check::verification::image::name;
use crate::table::layers::{LayerFile, LayerMap};
use crate::table::row_fold::RowFold;

/// Looks candidates up.
struct Lookup<'a> {
    index: &'a Arc<SstFile>,
    cursor: TreeCursor,
    /// Candidates that must be there.
    expected: u64,
}

impl<'a> Lookup<'a> {
    fn new(index: &'a Arc<SstFile>) -> Lookup<'a> {
        Lookup { index, cursor: index.cursor(tree::CANDIDATES), expected: 0 }
    }

    /// A row had a value from one commit on, up to another; 0 where it had it at the file's end.
    fn find(
        &mut self,
        row: &[u8],
        value: &[u8],
        (from, until): (u64, u64),
        report: &mut ProblemList<'_>,
    ) -> Result<()> {
        let key = [value, row].concat();
        self.cursor.seek(&key)?;
        let found = self.cursor.value().filter(|_| self.cursor.key() == Some(&key));
        let Some(found) = found else {
            let what = format!("{} is no candidate for a value that it had from commit {from} on", name(row));
            report.problem(self.index.path(), 0, what);
            return Ok(());
        };
        let found = CandidateEntry::decode(&found)?;
        let covers = found.first <= from && (found.until == 0 || (until != 0 && found.until >= until));
        if !covers {
            let span = |from: u64, until: u64| match until {
                0 => format!("from commit {from} on"),
                until => format!("from commit {from} to {until}"),
            };
            let what = format!(
                "{} is a candidate {}, and it had the value {}",
                name(row),
                span(found.first, found.until),
                span(from, until)
            );
            report.problem(self.index.path(), 0, what);
        }
        Ok(())
    }

    fn end(self, report: &mut ProblemList<'_>) {
        let found = self.index.entries(tree::CANDIDATES);
        if found > self.expected {
            let what = format!("{found} candidates, and {} values that rows had", self.expected);
            report.problem(self.index.path(), 0, what);
        }
    }
}

/// Compares an index with all rows at a moment.
pub(super) fn of_full(
    open: &LayerFile,
    path: &str,
    index: &Arc<SstFile>,
    report: &mut ProblemList<'_>,
) -> Result<()> {
    let path = Path::of_index(path);
    let mut lookup = Lookup::new(index);
    let mut cursor = open.file.cursor(tree::ROWS);
    cursor.first()?;
    while let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
        report.step()?;
        let row = RowEntry::decode(&value)?;
        if let Some(value) = value_at(&path, Some(&row.document))? {
            lookup.expected += 1;
            lookup.find(key, &value, (row.seq, 0), report)?;
        }
        cursor.next()?;
    }
    lookup.end(report);
    Ok(())
}

/// One row's values, version by version.
#[derive(Default)]
struct Row {
    key: Vec<u8>,
    fold: RowFold,
    /// What it has now, and since which commit.
    held: Option<(Vec<u8>, u64)>,
    values: HashSet<Vec<u8>>,
}

impl Row {
    /// The row has another value from a commit on.
    fn hold(
        &mut self,
        value: Option<Vec<u8>>,
        seq: u64,
        lookup: &mut Lookup<'_>,
        report: &mut ProblemList<'_>,
    ) -> Result<()> {
        if self.held.as_ref().map(|(held, _)| held) == value.as_ref() {
            return Ok(());
        }
        if let Some((held, from)) = self.held.take() {
            lookup.find(&self.key, &held, (from, seq), report)?;
        }
        if let Some(value) = value {
            self.values.insert(value.clone());
            self.held = Some((value, seq));
        }
        Ok(())
    }

    fn end(self, lookup: &mut Lookup<'_>, report: &mut ProblemList<'_>) -> Result<()> {
        lookup.expected += self.values.len() as u64;
        match self.held {
            Some((held, from)) => lookup.find(&self.key, &held, (from, 0), report),
            None => Ok(()),
        }
    }
}

/// Compares an index with an era, as far as that lies above the floor. `past` holds the era and what comes before it.
pub(super) fn of_era(
    past: &LayerMap,
    (open, floor): (&LayerFile, u64),
    path: &str,
    index: &Arc<SstFile>,
    report: &mut ProblemList<'_>,
) -> Result<()> {
    let path = Path::of_index(path);
    let folded = if open.base < floor { floor } else { 0 };
    let mut lookup = Lookup::new(index);
    let mut cursor = open.file.cursor(tree::VERSIONS);
    cursor.first()?;
    let mut row = Row::default();
    while let (Some(at), Some(value)) = (cursor.key(), cursor.value()) {
        report.step()?;
        let Some((key, seq, _)) = read_version(at) else { break };
        if seq <= folded {
            cursor.next()?;
            continue;
        }
        let version = VersionEntry::decode(&value)?;
        if row.key != key {
            let next = Row { key: key.to_vec(), ..Row::default() };
            std::mem::replace(&mut row, next).end(&mut lookup, report)?;
        }
        let VersionEntry { kind, payload, image, .. } = version;
        let before = || past.document_before(key, seq);
        let value = value_at(&path, row.fold.apply(kind, payload.as_ref(), image, before)?)?;
        row.hold(value, seq, &mut lookup, report)?;
        cursor.next()?;
    }
    row.end(&mut lookup, report)?;
    // Values that rows had only before the floor are candidates too, and nobody can tell which those were.
    if folded == 0 {
        lookup.end(report);
    }
    Ok(())
}
