//! Finds candidates in the indexes of a table: with the index that has the fewest, narrowed by the others.
//!
//! The rows that candidates name cost most: each is in another block. So a condition on two indexed fields reads the entries of
//! the one that has fewer, and asks the other index whether it has each of these keys. Both go forward through sorted entries.
//!
//! An index of a delta layer has an entry for every value that a version in that layer has. So the newest layer in whose index a
//! row has one of the values sought has the newest version of the row, unless the row has another value by now. The other indexes
//! are therefore asked in that layer only.
//!
//! A search over a stretch of commits takes every row that had a value after one of them, from every layer that tells of them. A
//! value that a row had at the beginning is in the layers that the history of rows begins with.

use std::sync::Arc;

use crate::error::Result;
use crate::format::index_columns::IndexColumns;
use crate::format::key::KeyType;
use crate::format::path::Path;
use crate::format::snapshot::{CandidateEntry, tree};
use crate::format::sortkey;
use crate::storage::sst::{SstFile, TreeCursor};
use crate::table::candidate_keys::{CandidateKeys, LayerPlace};
use crate::table::event_id::EventId;
use crate::table::layers::{LayerFile, not_a_key, read_sort_key};
use crate::table::table_state::TableState;
use crate::table::value_range::{IndexRanges, ValueRange};
use crate::work;

/// Fewer candidates than these are looked up at once.
const WORTH_NARROWING: usize = 16;
/// The most values of another index that are looked up for each candidate.
const VALUES_ASKED: usize = 4;

/// The candidates that were found, and the positions of the ranges that found them: first those that were read.
#[derive(Debug)]
pub struct FoundCandidates {
    /// The candidates, in order.
    pub keys: CandidateKeys,
    /// Positions in the list of ranges.
    pub used: Vec<usize>,
}

/// Which rows a search finds.
#[derive(Debug, Clone, Copy)]
enum SearchedCommits {
    /// Those that may have a value after this commit.
    At(u64),
    /// Those that may have had a value after the first commit, or a later one up to the second.
    Within(u64, u64),
}

/// Indexes of a table's state after a commit, or over a stretch of commits.
pub(super) struct IndexSearch<'a> {
    state: &'a TableState,
    key_type: KeyType,
    commits: SearchedCommits,
}

/// The files of one index that a point in time needs, the newest first, and whether each is of a delta layer.
type IndexFiles = Vec<(Arc<SstFile>, bool)>;

impl IndexSearch<'_> {
    /// A search at a point in time.
    pub(super) fn new(state: &TableState, key_type: KeyType, seq: u64) -> IndexSearch<'_> {
        IndexSearch { state, key_type, commits: SearchedCommits::At(seq) }
    }

    /// A search over what rows were after the first commit, and after each later one up to the second.
    pub(super) fn within(
        state: &TableState,
        key_type: KeyType,
        (after, last): (u64, u64),
    ) -> IndexSearch<'_> {
        IndexSearch { state, key_type, commits: SearchedCommits::Within(after, last) }
    }

    /// The last commit that is searched.
    fn last(&self) -> u64 {
        match self.commits {
            SearchedCommits::At(seq) | SearchedCommits::Within(_, seq) => seq,
        }
    }

    /// Returns the fewest candidates that one of the ranges finds; `None` if all find more than `most`.
    pub(super) fn find(&self, all: &[IndexRanges<'_>], most: usize) -> Result<Option<FoundCandidates>> {
        let mut order = Vec::with_capacity(all.len());
        for (at, ranges) in all.iter().enumerate() {
            order.push((self.estimate(ranges)?, at, ranges));
        }
        // A stable sort keeps the planner's order where the estimates do not decide.
        order.sort_by_key(|(estimate, ..)| *estimate);
        let mut best: Option<(usize, CandidateKeys)> = None;
        for (estimate, at, ranges) in &order {
            let most = best.as_ref().map_or(most, |(_, keys)| keys.len());
            if best.is_some() && *estimate >= most as u64 {
                continue;
            }
            if let Some(keys) = self.collect(ranges, most)?
                && best.as_ref().is_none_or(|(_, best)| keys.len() < best.len())
            {
                best = Some((*at, keys));
            }
        }
        let Some((first, mut keys)) = best else { return Ok(None) };
        let mut used = vec![first];
        // The columns whose conditions the candidates meet already, as far as an index can tell.
        let mut covered: Vec<&Path> =
            all.get(first).map_or_else(Vec::new, |all| all.used_columns().iter().collect());
        for (estimate, at, ranges) in order {
            let adds = ranges.used_columns().iter().any(|path| !covered.contains(&path));
            if adds && keys.len() >= WORTH_NARROWING && self.narrow(ranges, estimate, &mut keys)? {
                used.push(at);
                covered.extend(ranges.used_columns());
            }
        }
        Ok(Some(FoundCandidates { keys, used }))
    }

    /// About how many entries of the index files are in some ranges. Entries of the memtable are not counted.
    fn estimate(&self, ranges: &IndexRanges<'_>) -> Result<u64> {
        let mut sum = 0u64;
        for (file, _) in self.files(ranges) {
            for range in ranges.ranges.iter().take(VALUES_ASKED) {
                sum = sum.saturating_add(file.estimate_entries(tree::CANDIDATES, (&range.low, &range.high))?);
            }
        }
        let skipped = ranges.ranges.len().saturating_sub(VALUES_ASKED) as u64;
        Ok(sum.saturating_add(sum / VALUES_ASKED as u64 * skipped))
    }

    fn files(&self, ranges: &IndexRanges<'_>) -> IndexFiles {
        let layers = &self.state.layers;
        match self.commits {
            SearchedCommits::At(seq) => layers.index_files(ranges.index, seq),
            SearchedCommits::Within(after, last) => {
                layers.history_index_files(ranges.index, (after, last)).unwrap_or_default()
            }
        }
    }

    fn reads_memtable(&self) -> bool {
        self.last() >= self.state.layers.end() && !self.state.memtable.is_empty()
    }

    /// Returns the candidates in some ranges; `None` if there are more than `most`.
    fn collect(&self, ranges: &IndexRanges<'_>, most: usize) -> Result<Option<CandidateKeys>> {
        let layers = match self.commits {
            SearchedCommits::At(seq) => self.state.layers.layers_at(seq).map(LayerFile::id).collect(),
            // No layer has a row's only version.
            SearchedCommits::Within(..) => Vec::new(),
        };
        let mut keys = CandidateKeys::new(most).of_layers(layers);
        for ((file, is_delta), layer) in self.files(ranges).iter().zip(0..) {
            let mut cursor = file.cursor(tree::CANDIDATES);
            for range in ranges.ranges {
                if !self.collect_range(&mut cursor, (layer, *is_delta), (ranges, range), &mut keys)? {
                    return Ok(None);
                }
            }
        }
        if self.reads_memtable() {
            for range in &ranges.in_memtable() {
                if !self.collect_of_memtable((ranges, range), &mut keys)? {
                    return Ok(None);
                }
            }
        }
        let is_over = keys.complete()?;
        Ok((!is_over).then_some(keys))
    }

    /// Adds the candidates of one file. Returns false if there are too many.
    fn collect_range(
        &self,
        cursor: &mut TreeCursor,
        (layer, is_delta): (LayerPlace, bool),
        (ranges, range): (&IndexRanges<'_>, &ValueRange),
        keys: &mut CandidateKeys,
    ) -> Result<bool> {
        cursor.seek(&range.low)?;
        let (keys_in, mut fits) = (RangeKeys::new(ranges, range), true);
        cursor.visit(|entry, value| {
            work::step(4)?;
            let Some(key) = keys_in.key(entry)? else { return Ok(false) };
            let found = if is_delta { CandidateEntry::decode(value)? } else { CandidateEntry::default() };
            let pushed = match self.commits {
                SearchedCommits::At(seq) if found.first <= seq => Some((layer, found.may_hold_at(seq))),
                // What a newer layer says does not undo what was.
                SearchedCommits::Within(after, last) => {
                    found.may_hold_within(after, last).then_some((LayerPlace::MIN, true))
                }
                SearchedCommits::At(_) => None,
            };
            if let Some((layer, may_match)) = pushed {
                keys.push_of_layer(key, layer, may_match)?;
                fits = !keys.is_over()?;
            }
            Ok(fits)
        })?;
        Ok(fits)
    }

    fn collect_of_memtable(
        &self,
        (ranges, range): (&IndexRanges<'_>, &ValueRange),
        keys: &mut CandidateKeys,
    ) -> Result<bool> {
        let (keys_in, mut fits) = (RangeKeys::new(ranges, range), true);
        let is_usable = self.state.memtable.candidates_in_runs(ranges.index, &range.low, |entry| {
            work::step(4)?;
            let Some(key) = keys_in.key(entry)? else { return Ok(false) };
            keys.push_of_memtable(key)?;
            fits = fits && !keys.is_over()?;
            Ok(fits)
        })?;
        // ALTER TABLE may have dropped the index meanwhile.
        Ok(fits && is_usable)
    }

    /// Removes candidates that are in none of the ranges, if that is cheaper than to look up their rows. Returns whether
    /// the ranges were asked.
    fn narrow(&self, ranges: &IndexRanges<'_>, estimate: u64, keys: &mut CandidateKeys) -> Result<bool> {
        if let SearchedCommits::At(seq) = self.commits
            && ranges.is_exact()
            && ranges.ranges.len() <= VALUES_ASKED
        {
            self.ask((ranges, seq), keys)?;
            return Ok(true);
        }
        if estimate > keys.len() as u64 {
            return Ok(false);
        }
        let Some(others) = self.collect(ranges, keys.len().saturating_mul(2))? else { return Ok(false) };
        keys.retain(|_, key| others.contains(key));
        Ok(true)
    }

    /// Removes the candidates whose rows have none of the values: as the memtable says of the rows that it has, and as the index
    /// of the layer that has a row's newest version says of the others.
    fn ask(&self, (ranges, seq): (&IndexRanges<'_>, u64), keys: &mut CandidateKeys) -> Result<()> {
        let mut answers = self.ask_memtable((ranges, seq), keys)?;
        let mut entry = Vec::new();
        for ((file, is_delta), layer) in self.files(ranges).iter().zip(0..) {
            for range in ranges.ranges {
                let mut cursor = file.cursor(tree::CANDIDATES);
                for (at, answer) in answers.iter_mut().enumerate().filter(|(_, answer)| answer.is_none()) {
                    let Some(key) = keys.get(at) else { continue };
                    if !keys.is_decided_by(at, layer) {
                        continue;
                    }
                    entry.clear();
                    entry.extend_from_slice(&range.low);
                    entry.extend_from_slice(key);
                    work::step(8)?;
                    cursor.seek(&entry)?;
                    let is_found = match cursor.value_bytes() {
                        Some(value) if cursor.key() == Some(&entry) => {
                            !is_delta || CandidateEntry::decode(value)?.may_hold_at(seq)
                        }
                        _ => false,
                    };
                    *answer = is_found.then_some(true);
                }
            }
        }
        keys.retain(|at, _| answers.get(at).copied().flatten().unwrap_or(false));
        Ok(())
    }

    /// What the memtable says of each candidate: nothing if it has no event of the row. A row is found by its hash, which is
    /// much cheaper than its entry in the index of each of the memtable's segments.
    ///
    /// Without PATCHes, each event says the values of its row or deletes it. So if the memtable has an event of a row that it did not
    /// name as a candidate, the row has none of the values that the candidates were sought by, and need not be asked for.
    fn ask_memtable(
        &self,
        (ranges, seq): (&IndexRanges<'_>, u64),
        keys: &CandidateKeys,
    ) -> Result<Vec<Option<bool>>> {
        let mut answers = vec![None; keys.len()];
        if !self.reads_memtable() {
            return Ok(answers);
        }
        let (columns, last) = (IndexColumns::new(ranges.columns.to_vec()), EventId::end_of(seq));
        let has_patches = self.state.memtable.has_patches();
        for (at, answer) in answers.iter_mut().enumerate() {
            let Some(key) = keys.get(at).filter(|_| has_patches || keys.is_in_memtable(at)) else { continue };
            work::step(16)?;
            let key = read_sort_key(key, self.key_type)?;
            let holds = |value: &[u8]| ranges.ranges.iter().any(|range| range.low == value);
            *answer = self.state.memtable.may_have_value(&key, last, &columns, holds)?;
        }
        Ok(answers)
    }
}

/// The sort keys in the entries of a range.
struct RangeKeys<'a> {
    range: &'a ValueRange,
    /// The number of columns that the range is about, and of all columns.
    depth: usize,
    columns: usize,
    /// Whether the range is one value of all columns.
    is_exact: bool,
}

impl RangeKeys<'_> {
    fn new<'a>(ranges: &IndexRanges<'_>, range: &'a ValueRange) -> RangeKeys<'a> {
        let (depth, columns) = (ranges.depth, ranges.columns.len());
        RangeKeys { range, depth, columns, is_exact: range.is_one_value() && depth == columns }
    }

    /// The sort key in an entry; `None` if the entry is after the range, in which or before which it must be.
    fn key<'a>(&self, entry: &'a [u8]) -> Result<Option<&'a [u8]>> {
        if self.is_exact {
            // No value's bytes begin with another value's bytes.
            return Ok(entry.strip_prefix(self.range.low.as_slice()));
        }
        let (value, _) = sortkey::split_columns(entry, self.depth).ok_or_else(not_a_key)?;
        if value > self.range.high.as_slice() {
            return Ok(None);
        }
        let (_, key) = sortkey::split_columns(entry, self.columns).ok_or_else(not_a_key)?;
        Ok(Some(key))
    }
}
