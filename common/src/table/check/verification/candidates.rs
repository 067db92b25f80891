//! Compares an index with the layer that it belongs to: every value of a row is a candidate, and no other candidate exists.
//!
//! The check looks up every value of every row. If all of them are found, the number of candidates shows whether others exist.
//! The values of one row within one layer are in memory.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::Result;
use crate::format::index_columns::IndexColumns;
use crate::format::snapshot::{CandidateEntry, RowEntry, VersionEntry, read_version, tree};
use crate::storage::sst::{SstFile, TreeCursor};
use crate::table::build::index::value_at;
use crate::table::check::verification::describe;
use crate::table::check::verification::problem::ProblemReporter;
use crate::table::layers::LayerFile;
use crate::table::layers::LayerMap;
use crate::table::row_fold::RowFold;

/// Looks up candidates, and counts how many must exist.
struct CandidateLookup<'a> {
    index: &'a Arc<SstFile>,
    cursor: TreeCursor,
    /// The number of candidates that must exist.
    expected: u64,
}

impl<'a> CandidateLookup<'a> {
    fn new(index: &'a Arc<SstFile>) -> CandidateLookup<'a> {
        CandidateLookup { index, cursor: index.cursor(tree::CANDIDATES), expected: 0 }
    }

    /// Checks that a row is a candidate for a value that it had from commit `from` to commit `until`; 0 if it has the value at
    /// the end of the layer.
    fn check(
        &mut self,
        row: &[u8],
        value: &[u8],
        (from, until): (u64, u64),
        reporter: &mut ProblemReporter<'_>,
    ) -> Result<()> {
        let key = [value, row].concat();
        self.cursor.seek(&key)?;
        let found = self.cursor.value().filter(|_| self.cursor.key() == Some(&key));
        let Some(found) = found else {
            let row = describe::row(row);
            let what = format!("{row} is not a candidate for a value that it had from commit {from} on");
            reporter.report(self.index.path(), 0, what);
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
                "{} is a candidate {}, but had the value {}",
                describe::row(row),
                span(found.first, found.until),
                span(from, until)
            );
            reporter.report(self.index.path(), 0, what);
        }
        Ok(())
    }

    fn finish(self, reporter: &mut ProblemReporter<'_>) {
        let found = self.index.entries(tree::CANDIDATES);
        if found > self.expected {
            let what = format!("the index has {found} candidates, but the rows had {} values", self.expected);
            reporter.report(self.index.path(), 0, what);
        }
    }
}

/// Compares the index on `path` with its image layer.
pub(super) fn compare_with_image(
    layer: &LayerFile,
    path: &str,
    index: &Arc<SstFile>,
    reporter: &mut ProblemReporter<'_>,
) -> Result<()> {
    let columns = IndexColumns::of(path);
    let mut lookup = CandidateLookup::new(index);
    let mut cursor = layer.file.cursor(tree::ROWS);
    cursor.first()?;
    while let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
        reporter.step()?;
        let row = RowEntry::decode(&value)?;
        if let Some(value) = value_at(&columns, Some(&row.document))? {
            lookup.expected += 1;
            lookup.check(key, &value, (row.seq, 0), reporter)?;
        }
        cursor.next()?;
    }
    lookup.finish(reporter);
    Ok(())
}

/// The indexed values of one row, version by version.
#[derive(Default)]
struct RowValues {
    key: Vec<u8>,
    fold: RowFold,
    /// The current value, and the commit that set it.
    current: Option<(Vec<u8>, u64)>,
    values: HashSet<Vec<u8>>,
}

impl RowValues {
    /// Sets the value of the row from commit `seq` on.
    fn set(
        &mut self,
        value: Option<Vec<u8>>,
        seq: u64,
        lookup: &mut CandidateLookup<'_>,
        reporter: &mut ProblemReporter<'_>,
    ) -> Result<()> {
        if self.current.as_ref().map(|(current, _)| current) == value.as_ref() {
            return Ok(());
        }
        if let Some((current, from)) = self.current.take() {
            lookup.check(&self.key, &current, (from, seq), reporter)?;
        }
        if let Some(value) = value {
            self.values.insert(value.clone());
            self.current = Some((value, seq));
        }
        Ok(())
    }

    fn finish(self, lookup: &mut CandidateLookup<'_>, reporter: &mut ProblemReporter<'_>) -> Result<()> {
        lookup.expected += self.values.len() as u64;
        match self.current {
            Some((current, from)) => lookup.check(&self.key, &current, (from, 0), reporter),
            None => Ok(()),
        }
    }
}

/// Compares the index on `path` with its delta layer, for commits above the floor. `layers` contains the layer and all layers
/// before it.
pub(super) fn compare_with_delta(
    layers: &LayerMap,
    (layer, floor): (&LayerFile, u64),
    path: &str,
    index: &Arc<SstFile>,
    reporter: &mut ProblemReporter<'_>,
) -> Result<()> {
    let columns = IndexColumns::of(path);
    let compacted_to = if layer.base < floor { floor } else { 0 };
    let mut lookup = CandidateLookup::new(index);
    let mut cursor = layer.file.cursor(tree::VERSIONS);
    cursor.first()?;
    let mut row = RowValues::default();
    while let (Some(at), Some(value)) = (cursor.key(), cursor.value()) {
        reporter.step()?;
        let Some((key, seq, _)) = read_version(at) else { break };
        if seq <= compacted_to {
            cursor.next()?;
            continue;
        }
        let version = VersionEntry::decode(&value)?;
        if row.key != key {
            let next = RowValues { key: key.to_vec(), ..RowValues::default() };
            std::mem::replace(&mut row, next).finish(&mut lookup, reporter)?;
        }
        let VersionEntry { kind, payload, image, .. } = version;
        let row_before = || layers.document_before(key, seq);
        let value = value_at(&columns, row.fold.apply(kind, payload.as_ref(), image, row_before)?)?;
        row.set(value, seq, &mut lookup, reporter)?;
        cursor.next()?;
    }
    row.finish(&mut lookup, reporter)?;
    // If the floor is within the layer, values that rows had only before the floor are candidates too. The log no longer has
    // those values, so the number of candidates cannot be checked.
    if compacted_to == 0 {
        lookup.finish(reporter);
    }
    Ok(())
}
