//! The watches by what they wait for, so that a commit wakes those that it may concern and no others.
//!
//! A watch that has sent everything up to a commit waits here. Each newer commit looks up the watches by its tables, keys and
//! the values in its rows, and a watch remembers the first commit that may concern it: everything before that commit it may
//! skip. The index may wake a watch for nothing – a hash may collide, and a row that is not in memory is not read for the
//! index – but never leaves one asleep: the watch itself applies the filter.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use driftdb_common::format::key::Key;
use driftdb_common::limits;
use driftdb_common::query::ast::Column;
use driftdb_common::query::in_list::ValueHasher;
use tokio::sync::Notify;

use crate::live_commit::{LiveCommit, LiveEvent, LivePart};
use crate::subscriptions::interest::{Interest, InterestingRows};

/// Names a watch in the index.
pub type WatchId = u32;

/// The watches, and those that wait.
#[derive(Debug, Default)]
pub struct WatchIndex {
    hasher: ValueHasher,
    watches: Vec<Option<IndexedWatch>>,
    /// The free entries of `watches`.
    free: Vec<WatchId>,
    /// The watches of named tables, and those of all tables.
    by_table: HashMap<String, TableWatches>,
    of_all_tables: TableWatches,
    /// The number of watches that wait and that no commit has concerned yet.
    idle: usize,
    /// The watches that wait for any commit.
    for_any: Vec<WatchId>,
    /// All commits up to this one have been looked up.
    newest: u64,
    /// Reused by each lookup.
    concerned: Vec<WatchId>,
}

/// The commit up to which a watch has sent everything. Written by the watch, without a lock, and read for the metrics.
#[derive(Debug)]
pub struct WatchPosition(AtomicU64);

impl Default for WatchPosition {
    /// Not known yet.
    fn default() -> WatchPosition {
        WatchPosition(AtomicU64::new(u64::MAX))
    }
}

impl WatchPosition {
    /// Sets the commit.
    pub fn set(&self, seq: u64) {
        self.0.store(seq, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct IndexedWatch {
    wake: Arc<Notify>,
    position: Arc<WatchPosition>,
    tables: Vec<String>,
    rows: Option<IndexedRows>,
    wait: Option<Wait>,
}

/// What a watch waits for, by hash.
#[derive(Debug)]
enum IndexedRows {
    All,
    Keys(Vec<u64>),
    Prefix(String),
    Values(Vec<(Column, Vec<u64>)>),
}

/// A watch that waits.
#[derive(Debug)]
struct Wait {
    /// It has sent everything up to this commit.
    position: u64,
    /// The first later commit that may concern it.
    first: Option<u64>,
    /// Any commit ends the wait.
    for_any: bool,
}

/// The watches of one table, or of all tables.
#[derive(Debug, Default)]
struct TableWatches {
    count: usize,
    all_rows: Vec<WatchId>,
    by_key: HashMap<u64, Vec<WatchId>>,
    by_prefix: BTreeMap<String, Vec<WatchId>>,
    by_value: HashMap<Column, HashMap<u64, Vec<WatchId>>>,
}

impl WatchIndex {
    /// Adds a watch, which cannot wait yet. `wake` is told when a commit may concern it.
    pub fn add(&mut self, wake: Arc<Notify>, position: Arc<WatchPosition>) -> WatchId {
        let watch = IndexedWatch { wake, position, tables: Vec::new(), rows: None, wait: None };
        let free = self.free.pop().and_then(|id| Some((id, self.watches.get_mut(id as usize)?)));
        match free {
            Some((id, entry)) => {
                *entry = Some(watch);
                id
            }
            None => {
                self.watches.push(Some(watch));
                u32::try_from(self.watches.len() - 1).unwrap_or(u32::MAX)
            }
        }
    }

    /// How many of the commits up to `applied` the slowest watch has not sent. A watch that waits has sent all that concern it.
    pub fn most_behind(&self, applied: u64) -> u64 {
        let behind = self.watches.iter().flatten().map(|watch| match &watch.wait {
            Some(wait) => wait.first.map_or(0, |first| applied.saturating_sub(first - 1)),
            None => applied.saturating_sub(watch.position.get()),
        });
        behind.max().unwrap_or(0)
    }

    /// Sets what a watch waits for.
    pub fn set_interest(&mut self, id: WatchId, interest: Interest) {
        let hasher = &self.hasher;
        let rows = match interest.rows {
            InterestingRows::All => IndexedRows::All,
            InterestingRows::Prefix(prefix) => IndexedRows::Prefix(prefix),
            InterestingRows::Keys(keys) => {
                IndexedRows::Keys(keys.iter().map(|key| hasher.of_text(key)).collect())
            }
            InterestingRows::Values(values) => {
                let mut columns: Vec<(Column, Vec<u64>)> = Vec::new();
                for (column, value) in values {
                    let hash = hasher.of_value(&value);
                    match columns.iter_mut().find(|(known, _)| *known == column) {
                        Some((_, hashes)) if hashes.contains(&hash) => {}
                        Some((_, hashes)) => hashes.push(hash),
                        None => columns.push((column, vec![hash])),
                    }
                }
                IndexedRows::Values(columns)
            }
        };
        match interest.tables.as_slice() {
            [] => self.of_all_tables.add(id, &rows),
            tables => {
                for table in tables {
                    self.by_table.entry(table.clone()).or_default().add(id, &rows);
                }
            }
        }
        if let Some(watch) = self.watches.get_mut(id as usize).and_then(Option::as_mut) {
            (watch.tables, watch.rows) = (interest.tables, Some(rows));
        }
    }

    /// Removes a watch.
    pub fn remove(&mut self, id: WatchId) {
        self.end_wait(id);
        let Some(watch) = self.watches.get_mut(id as usize).and_then(Option::take) else { return };
        self.free.push(id);
        let Some(rows) = watch.rows else { return };
        if watch.tables.is_empty() {
            self.of_all_tables.remove(id, &rows);
        }
        for table in &watch.tables {
            let Some(watches) = self.by_table.get_mut(table) else { continue };
            watches.remove(id, &rows);
            if watches.count == 0 {
                self.by_table.remove(table);
            }
        }
    }

    /// Lets a watch wait that has sent everything up to `position`, for a commit that may concern it or for any commit. Returns
    /// false if there is a newer commit already.
    pub fn begin_wait(&mut self, id: WatchId, position: u64, for_any: bool) -> bool {
        let watch = self.watches.get_mut(id as usize).and_then(Option::as_mut);
        let Some(watch) = watch.filter(|_| self.newest <= position) else { return false };
        let for_any = for_any || watch.rows.is_none();
        watch.wait = Some(Wait { position, first: None, for_any });
        self.idle += 1;
        if for_any {
            self.for_any.push(id);
        }
        true
    }

    /// Ends the wait of a watch. Returns the commit up to which nothing concerns the watch.
    pub fn end_wait(&mut self, id: WatchId) -> u64 {
        let watch = self.watches.get_mut(id as usize).and_then(Option::as_mut);
        let Some(watch) = watch else { return 0 };
        let Some(wait) = watch.wait.take() else { return 0 };
        let reached = wait.first.map_or(self.newest.max(wait.position), |first| first - 1);
        // Under the lock: a watch that has just been woken is not behind by what it has slept through.
        watch.position.set(reached);
        if wait.first.is_none() {
            self.idle -= 1;
            if wait.for_any {
                self.for_any.retain(|waiting| *waiting != id);
            }
        }
        reached
    }

    /// Looks up the watches that a new commit may concern, and adds what wakes them.
    pub fn route(&mut self, commit: &LiveCommit, wake: &mut Vec<Arc<Notify>>) {
        let seq = commit.info.seq;
        self.skip_to(seq.saturating_sub(1), wake);
        if self.idle > 0 {
            let mut concerned = std::mem::take(&mut self.concerned);
            let for_any = std::mem::take(&mut self.for_any);
            for id in &for_any {
                self.concern(*id, seq..=seq, wake);
            }
            self.for_any = for_any;
            let watches = &self.watches;
            self.for_any.retain(|id| watches.get(*id as usize).is_some_and(IndexedWatch::is_idle));
            for part in commit.parts.iter().filter(|part| !part.events.is_empty()) {
                self.of_all_tables.look_up(commit, part, &self.hasher, &mut concerned);
                // A watch goes on with a table that has had a name that the watch is for.
                for name in part.timeline.names() {
                    if let Some(table) = self.by_table.get(&*name) {
                        table.look_up(commit, part, &self.hasher, &mut concerned);
                    }
                }
            }
            for id in concerned.drain(..) {
                self.concern(id, seq..=seq, wake);
            }
            self.concerned = concerned;
        }
        self.newest = self.newest.max(seq);
    }

    /// Commits up to `seq` that could not be looked up may concern every watch.
    pub fn skip_to(&mut self, seq: u64, wake: &mut Vec<Arc<Notify>>) {
        if seq <= self.newest {
            return;
        }
        if self.idle > 0 {
            let skipped = self.newest + 1..=seq;
            for id in 0..u32::try_from(self.watches.len()).unwrap_or(u32::MAX) {
                self.concern(id, skipped.clone(), wake);
            }
        }
        self.newest = seq;
    }

    /// Some commits may concern a watch, if that waits and has not sent them.
    fn concern(&mut self, id: WatchId, commits: RangeInclusive<u64>, wake: &mut Vec<Arc<Notify>>) {
        let Some(watch) = self.watches.get_mut(id as usize).and_then(Option::as_mut) else { return };
        let is_new = |wait: &&mut Wait| wait.first.is_none() && wait.position < *commits.end();
        let Some(wait) = watch.wait.as_mut().filter(is_new) else { return };
        wait.first = Some((*commits.start()).max(wait.position + 1));
        wake.push(Arc::clone(&watch.wake));
        self.idle -= 1;
        if wait.for_any {
            self.for_any.retain(|waiting| *waiting != id);
        }
    }
}

impl IndexedWatch {
    /// Whether a watch waits and no commit has concerned it.
    fn is_idle(watch: &Option<IndexedWatch>) -> bool {
        watch.as_ref().and_then(|watch| watch.wait.as_ref()).is_some_and(|wait| wait.first.is_none())
    }
}

impl TableWatches {
    fn add(&mut self, id: WatchId, rows: &IndexedRows) {
        self.count += 1;
        match rows {
            IndexedRows::All => self.all_rows.push(id),
            IndexedRows::Keys(keys) => {
                for key in keys {
                    self.by_key.entry(*key).or_default().push(id);
                }
            }
            IndexedRows::Prefix(prefix) => self.by_prefix.entry(prefix.clone()).or_default().push(id),
            IndexedRows::Values(columns) => {
                let new = columns.iter().filter(|(column, _)| !self.by_value.contains_key(column)).count();
                if self.by_value.len() + new > limits::WATCH_INDEX_PATHS {
                    self.all_rows.push(id);
                    return;
                }
                for (column, values) in columns {
                    let watches = self.by_value.entry(column.clone()).or_default();
                    for value in values {
                        watches.entry(*value).or_default().push(id);
                    }
                }
            }
        }
    }

    fn remove(&mut self, id: WatchId, rows: &IndexedRows) {
        self.count -= 1;
        self.all_rows.retain(|watch| *watch != id);
        match rows {
            IndexedRows::All => {}
            IndexedRows::Keys(keys) => {
                for key in keys {
                    remove_from(&mut self.by_key, key, id);
                }
            }
            IndexedRows::Prefix(prefix) => {
                if let Some(watches) = self.by_prefix.get_mut(prefix) {
                    watches.retain(|watch| *watch != id);
                    if watches.is_empty() {
                        self.by_prefix.remove(prefix);
                    }
                }
            }
            IndexedRows::Values(columns) => {
                for (column, values) in columns {
                    let Some(watches) = self.by_value.get_mut(column) else { continue };
                    for value in values {
                        remove_from(watches, value, id);
                    }
                    if watches.is_empty() {
                        self.by_value.remove(column);
                    }
                }
            }
        }
    }

    /// Adds the watches that the events of a commit in this table may concern.
    fn look_up(&self, commit: &LiveCommit, part: &LivePart, hasher: &ValueHasher, found: &mut Vec<WatchId>) {
        if self.count == 0 {
            return;
        }
        found.extend(&self.all_rows);
        let mut all_values_found = false;
        for event in &part.events {
            let Some(key) = &event.key else { continue };
            self.look_up_key(key, hasher, found);
            if !self.by_value.is_empty() && !all_values_found {
                all_values_found = self.look_up_values(commit, part, (event, key), hasher, found).is_none();
                if all_values_found {
                    found.extend(self.by_value.values().flat_map(HashMap::values).flatten());
                }
            }
        }
    }

    fn look_up_key(&self, key: &Key, hasher: &ValueHasher, found: &mut Vec<WatchId>) {
        if self.by_key.is_empty() && self.by_prefix.is_empty() {
            return;
        }
        let number;
        let text = match key {
            Key::Str(text) => &**text,
            Key::Composite(key) => key.text(),
            Key::Int(int) => {
                number = int.to_string();
                &number
            }
        };
        found.extend(self.by_key.get(&hasher.of_text(text)).into_iter().flatten());
        // The prefixes of the key, longest first. Any that sorts before a text that is no prefix of the key is not longer than
        // what the two have in common.
        let mut bound = text;
        while let Some((prefix, watches)) =
            self.by_prefix.range::<str, _>((Bound::Unbounded, Bound::Included(bound))).next_back()
        {
            if text.starts_with(prefix.as_str()) {
                found.extend(watches);
                let mut rest = prefix.chars();
                if rest.next_back().is_none() {
                    break;
                }
                bound = text.get(..rest.as_str().len()).unwrap_or_default();
            } else {
                let common = prefix.char_indices().zip(text.chars()).find(|((_, a), b)| a != b);
                let common = common.map_or(prefix.len().min(text.len()), |((at, _), _)| at);
                bound = text.get(..common).unwrap_or_default();
            }
        }
    }

    /// Returns `None` if the row is not in memory.
    fn look_up_values(
        &self,
        commit: &LiveCommit,
        part: &LivePart,
        (event, key): (&LiveEvent, &Key),
        hasher: &ValueHasher,
        found: &mut Vec<WatchId>,
    ) -> Option<()> {
        let has_paths = self.by_value.keys().any(|column| *column != Column::Key);
        let images = if has_paths { event.images_in_memory(commit, &part.timeline)? } else { (None, None) };
        for (column, by_value) in &self.by_value {
            match column {
                Column::Path(path) => {
                    for row in [&images.0, &images.1].into_iter().flatten() {
                        if let Some(value) = row.document.get(path).ok()? {
                            found.extend(by_value.get(&hasher.of_encoded(value).ok()?).into_iter().flatten());
                        }
                    }
                }
                Column::Key => found.extend(by_value.get(&hasher.of_key(key)).into_iter().flatten()),
                Column::Seq | Column::Time | Column::Aggregate(_) => {
                    found.extend(by_value.values().flatten())
                }
            }
        }
        Some(())
    }
}

/// Removes a watch from those of a hash.
fn remove_from(map: &mut HashMap<u64, Vec<WatchId>>, hash: &u64, id: WatchId) {
    if let Some(watches) = map.get_mut(hash) {
        watches.retain(|watch| *watch != id);
        if watches.is_empty() {
            map.remove(hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_of_a_key_is_found_and_no_other() {
        let prefixes = ["a", "ab", "abc", "abd", "ac", "b", "é", "éa", "1", "12", "", "abcde"];
        let mut table = TableWatches::default();
        for (id, prefix) in (0..).zip(prefixes) {
            table.add(id, &IndexedRows::Prefix(prefix.to_owned()));
        }
        let hasher = ValueHasher::default();
        for key in ["abcd", "abcde", "ab", "a", "ad", "éb", "éa", "z", "0", "ac", "abz", "b"] {
            let mut found = Vec::new();
            table.look_up_key(&Key::Str(key.into()), &hasher, &mut found);
            found.sort_unstable();
            let expected: Vec<WatchId> = (0..)
                .zip(&prefixes)
                .filter(|(_, prefix)| key.starts_with(**prefix))
                .map(|(id, _)| id)
                .collect();
            assert_eq!(found, expected, "{key}");
        }
        let mut found = Vec::new();
        table.look_up_key(&Key::Int(123), &hasher, &mut found);
        found.sort_unstable();
        assert_eq!(found, [8, 9, 10]);
    }

    /// Waits after a commit; returns where the watch may skip to after some more commits without events.
    fn skipped(index: &mut WatchIndex, id: WatchId, for_any: bool, to: u64) -> (u64, usize) {
        let mut wake = Vec::new();
        let position = index.newest;
        assert!(index.begin_wait(id, position, for_any));
        for seq in position + 1..=to {
            index.route(&LiveCommit::with_bytes(seq, 1), &mut wake);
        }
        (index.end_wait(id), wake.len())
    }

    #[test]
    fn a_watch_skips_what_does_not_concern_it_but_no_commit_that_was_not_looked_up() {
        let mut index = WatchIndex::default();
        let id = index.add(Arc::default(), Arc::default());
        // Without an interest, any commit ends a wait.
        assert_eq!(skipped(&mut index, id, false, 2), (0, 1));
        index.set_interest(id, Interest { tables: Vec::new(), rows: InterestingRows::All });
        assert_eq!(skipped(&mut index, id, false, 5), (5, 0));
        assert_eq!(skipped(&mut index, id, true, 7), (5, 1));
        assert!(!index.begin_wait(id, 6, false), "commit 7 is there already");
        assert!(index.begin_wait(id, 7, false));
        let mut wake = Vec::new();
        // Commits 8 to 10 came from snapshots.
        index.route(&LiveCommit::with_bytes(11, 1), &mut wake);
        assert_eq!((index.end_wait(id), wake.len(), index.idle), (7, 1, 0));
        // It has sent commit 12 before that was looked up.
        assert!(index.begin_wait(id, 12, false));
        index.route(&LiveCommit::with_bytes(12, 1), &mut wake);
        assert_eq!((index.end_wait(id), wake.len()), (12, 1));
        index.remove(id);
        assert_eq!(index.add(Arc::default(), Arc::default()), id);
    }

    #[test]
    fn a_watch_that_waits_is_not_behind_and_a_busy_one_by_what_it_has_not_sent() {
        let mut index = WatchIndex::default();
        let position = Arc::new(WatchPosition::default());
        let id = index.add(Arc::default(), Arc::clone(&position));
        assert_eq!(index.most_behind(9), 0, "it has not begun");
        position.set(3);
        assert_eq!(index.most_behind(9), 6);
        let mut wake = Vec::new();
        index.set_interest(id, Interest { tables: vec!["other".to_owned()], rows: InterestingRows::All });
        assert!(index.begin_wait(id, 9, false));
        index.route(&LiveCommit::with_bytes(10, 1), &mut wake);
        assert_eq!(index.most_behind(10), 0, "the commit does not concern it");
        // Commit 11 could not be looked up.
        index.skip_to(11, &mut wake);
        assert_eq!((index.most_behind(12), wake.len()), (2, 1));
        assert_eq!(index.end_wait(id), 10);
        assert_eq!((index.most_behind(12), position.get()), (2, 10));
    }
}
