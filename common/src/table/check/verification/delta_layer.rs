//! Compares one delta layer with the log: its commits, requests, producers, versions and properties.
//!
//! The caller reads the log and adds each frame. Every version of the log is looked up in the layer. If all of them are found,
//! the number of versions shows whether the layer has others.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Result;
use crate::format::event::Event;
use crate::format::manifest::DeltaLayer;
use crate::format::snapshot::{
    CommitEntry, DeltaProperties, ProducerEntry, RequestEntry, SchemaEntry, TableChange, VersionEntry,
    commit_key, read_commit_key, read_version, tree,
};
use crate::storage::sst::{SstFile, TreeCursor};
use crate::table::check::verification::describe;
use crate::table::check::verification::log_chunk::LogChunk;
use crate::table::check::verification::problem::ProblemReporter;
use crate::table::format_time;
use crate::table::layers::LayerFile;

/// The table after a commit, according to the log.
#[derive(Debug, Default, Clone)]
pub(super) struct TableTotals {
    pub(super) events: u64,
    /// Live rows; meaningless if `are_rows_known` is false.
    pub(super) rows: u64,
    pub(super) are_rows_known: bool,
    pub(super) time_ms: u64,
    pub(super) schema_entries: Vec<SchemaEntry>,
}

/// The comparison of one delta layer with the log.
pub(super) struct DeltaComparison<'a> {
    listed: &'a DeltaLayer,
    layer: &'a LayerFile,
    /// The layer's events up to this seq are compacted in the log, so they cannot be compared. 0 if the layer starts at or
    /// after the floor.
    compacted_to: u64,
    commits: TreeCursor,
    requests: TreeCursor,
    /// Whether the layer has a request of an earlier commit. Merging drops only the oldest requests, so none after it may be
    /// missing.
    has_request: bool,
    producers: BTreeMap<String, ProducerEntry>,
    frames: u64,
    versions: u64,
    last_seq: u64,
    /// The commit that is being read.
    current: Option<CurrentCommit>,
}

/// A commit of the log while it is being read. The entry has no counts yet.
struct CurrentCommit {
    seq: u64,
    time_ms: u64,
    entry: CommitEntry,
}

impl<'a> DeltaComparison<'a> {
    pub(super) fn new(
        listed: &'a DeltaLayer,
        layer: &'a LayerFile,
        floor: u64,
    ) -> Result<DeltaComparison<'a>> {
        let compacted_to = if listed.base < floor { floor } else { 0 };
        let mut commits = layer.file.cursor(tree::COMMITS);
        commits.seek_by(|key| read_commit_key(key).is_some_and(|(_, seq)| seq <= compacted_to))?;
        let mut requests = layer.file.cursor(tree::REQUESTS);
        requests.seek(&(compacted_to + 1).to_be_bytes())?;
        Ok(DeltaComparison {
            listed,
            layer,
            compacted_to,
            commits,
            requests,
            has_request: false,
            producers: BTreeMap::new(),
            frames: 0,
            versions: 0,
            last_seq: 0,
            current: None,
        })
    }

    /// The commit of the last frame; 0 before the first frame.
    pub(super) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The entry of the commit that is being read, to which the caller adds changes.
    pub(super) fn current_entry(&mut self) -> Option<&mut CommitEntry> {
        self.current.as_mut().map(|commit| &mut commit.entry)
    }

    fn report(&self, reporter: &mut ProblemReporter<'_>, message: impl Into<String>) {
        reporter.report(self.layer.file.path(), 0, message);
    }

    /// Adds a frame of the log. Returns the index of its event in the commit.
    pub(super) fn add_frame(
        &mut self,
        seq: u64,
        time_ms: u64,
        event: &Event,
        reporter: &mut ProblemReporter<'_>,
    ) -> Result<u32> {
        self.frames += 1;
        self.last_seq = seq;
        let mut request = None;
        let commit =
            self.current.get_or_insert_with(|| CurrentCommit { seq, time_ms, entry: CommitEntry::default() });
        let entry = &mut commit.entry;
        if let Some(meta) = &event.meta {
            request.clone_from(&meta.request);
            if let Some(origin) = meta.origin.clone() {
                self.producers.insert(origin.producer.clone(), ProducerEntry { seq, origin });
            }
            (entry.actor, entry.reason) = (meta.actor.clone(), meta.reason.clone());
        }
        let index = u32::try_from(entry.changes.len()).unwrap_or(u32::MAX);
        if let Some(request) = request {
            self.compare_request(seq, &RequestEntry { time_ms, request }, reporter)?;
        }
        Ok(index)
    }

    /// Compares a request of the log. The oldest requests of a layer can be missing: merging layers drops them.
    fn compare_request(
        &mut self,
        seq: u64,
        expected: &RequestEntry,
        reporter: &mut ProblemReporter<'_>,
    ) -> Result<()> {
        loop {
            match self.next_request() {
                Some(found) if found < seq => {
                    self.report_extra_request(found, reporter);
                    self.requests.next()?;
                }
                Some(found) if found == seq => {
                    self.has_request = true;
                    let entry = RequestEntry::decode(&self.requests.value().unwrap_or_default())?;
                    if entry != *expected {
                        let what =
                            describe::request_difference(&seq.to_be_bytes(), Some(&entry), Some(expected));
                        self.report(reporter, what);
                    }
                    return self.requests.next();
                }
                _ => {
                    if self.has_request {
                        self.report(reporter, format!("the request of commit {seq} is missing"));
                    }
                    return Ok(());
                }
            }
        }
    }

    fn next_request(&self) -> Option<u64> {
        self.requests.key().and_then(|key| key.try_into().ok()).map(u64::from_be_bytes)
    }

    fn report_extra_request(&self, seq: u64, reporter: &mut ProblemReporter<'_>) {
        self.report(
            reporter,
            format!("it has a request of commit {seq}, but that commit has none in the log"),
        );
    }

    fn report_extra_commit(&self, seq: u64, time_ms: u64, reporter: &mut ProblemReporter<'_>) {
        self.report(reporter, format!("commit {seq} at {} is not in the log", format_time(time_ms)));
    }

    /// Compares the commit that was read, which is complete now. `totals` are those after it.
    pub(super) fn finish_commit(
        &mut self,
        totals: &TableTotals,
        reporter: &mut ProblemReporter<'_>,
    ) -> Result<()> {
        let Some(CurrentCommit { seq, time_ms, entry: mut expected }) = self.current.take() else {
            return Ok(());
        };
        (expected.events, expected.rows) = (totals.events, totals.rows);
        loop {
            let found = self.commits.key().and_then(read_commit_key);
            let value = self.commits.value();
            match (found, value) {
                (Some((found_ms, found_seq)), Some(value))
                    if commit_key(found_ms, found_seq) <= commit_key(time_ms, seq) =>
                {
                    self.commits.next()?;
                    if (found_ms, found_seq) != (time_ms, seq) {
                        self.report_extra_commit(found_seq, found_ms, reporter);
                        continue;
                    }
                    let entry = CommitEntry::decode(&value)?;
                    if !totals.are_rows_known {
                        expected.rows = entry.rows;
                    }
                    if entry != expected {
                        self.report(reporter, describe_difference(seq, &entry, &expected));
                    }
                    return Ok(());
                }
                _ => {
                    self.report(reporter, format!("commit {seq} at {} is missing", format_time(time_ms)));
                    return Ok(());
                }
            }
        }
    }

    /// Compares the versions of a part of the log. Returns whether all of them are equal.
    pub(super) fn compare_versions(
        &mut self,
        mut chunk: LogChunk,
        reporter: &mut ProblemReporter<'_>,
    ) -> Result<bool> {
        chunk.versions.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        self.versions += chunk.versions.len() as u64;
        let mut cursor = self.layer.file.cursor(tree::VERSIONS);
        let mut are_equal = true;
        for expected in &chunk.versions {
            reporter.step()?;
            cursor.seek(&expected.key)?;
            let found = cursor.value().filter(|_| cursor.key() == Some(&expected.key));
            let Some(found) = found else {
                are_equal = false;
                self.report(reporter, format!("{} is missing", describe::version(&expected.key)));
                continue;
            };
            let found = VersionEntry::decode(&found)?;
            if let Some(what) = version_difference(&found, &expected.entry) {
                are_equal = false;
                self.report(reporter, format!("{}: {what}", describe::version(&expected.key)));
            }
        }
        Ok(are_equal)
    }

    /// Compares what remains after the whole log of the layer was added. `totals` are those at the end of the layer. Returns
    /// whether the layer has no version that the log does not have.
    pub(super) fn finish(
        &mut self,
        totals: &TableTotals,
        reporter: &mut ProblemReporter<'_>,
    ) -> Result<bool> {
        while let Some((time_ms, seq)) = self.commits.key().and_then(read_commit_key) {
            self.report_extra_commit(seq, time_ms, reporter);
            self.commits.next()?;
        }
        while let Some(seq) = self.next_request() {
            self.report_extra_request(seq, reporter);
            self.requests.next()?;
        }
        self.compare_producers(reporter)?;
        // The manifest also counts the events that compaction has discarded.
        let listed = self.listed;
        let is_count_right =
            self.frames == listed.events || (self.compacted_to > 0 && self.frames < listed.events);
        if !is_count_right || self.last_seq != listed.seq {
            let what = format!(
                "meta.json lists {} events up to commit {}, but the log has {} up to commit {}",
                listed.events, listed.seq, self.frames, self.last_seq
            );
            self.report(reporter, what);
        }
        self.compare_properties(totals, reporter)?;
        let count = self.count_versions(reporter)?;
        if count > self.versions {
            let what = format!("it has {count} versions of rows, but the log has {}", self.versions);
            self.report(reporter, what);
            self.report_extra_versions(reporter)?;
        }
        Ok(count <= self.versions)
    }

    fn compare_properties(&self, totals: &TableTotals, reporter: &mut ProblemReporter<'_>) -> Result<()> {
        let found = read_properties(&self.layer.file)?;
        let expected = DeltaProperties {
            events: totals.events,
            rows: if totals.are_rows_known { totals.rows } else { found.rows },
            time_ms: totals.time_ms,
            schema_entries: totals.schema_entries.clone(),
        };
        if found == expected {
            return Ok(());
        }
        let describe = |properties: &DeltaProperties| {
            let DeltaProperties { events, rows, time_ms, schema_entries } = properties;
            let changes = schema_entries.len();
            let time = format_time(*time_ms);
            format!("{events} events, {rows} rows, time {time}, {changes} schema changes")
        };
        let (in_file, in_log) = (describe(&found), describe(&expected));
        let note = if in_file == in_log { "; one of the schema changes differs" } else { "" };
        self.report(reporter, format!("the table at its end has {in_file}, but in the log {in_log}{note}"));
        Ok(())
    }

    /// The number of versions in the layer that the log must have.
    fn count_versions(&self, reporter: &mut ProblemReporter<'_>) -> Result<u64> {
        if self.compacted_to == 0 {
            return Ok(self.layer.file.entries(tree::VERSIONS));
        }
        let mut cursor = self.layer.file.cursor(tree::VERSIONS);
        cursor.first()?;
        let mut count = 0;
        while let Some(key) = cursor.key() {
            reporter.step()?;
            count += u64::from(read_version(key).is_some_and(|(_, seq, _)| seq > self.compacted_to));
            cursor.next()?;
        }
        Ok(count)
    }

    /// Reports each version that no commit of the layer names.
    fn report_extra_versions(&self, reporter: &mut ProblemReporter<'_>) -> Result<()> {
        let mut cursor = self.layer.file.cursor(tree::VERSIONS);
        let mut commits = self.layer.file.cursor(tree::COMMITS);
        cursor.first()?;
        while let Some(key) = cursor.key() {
            reporter.step()?;
            if let Some((row, seq, index)) = read_version(key) {
                commits.seek_by(|key| read_commit_key(key).is_some_and(|(_, found)| found < seq))?;
                let is_found = commits.key().and_then(read_commit_key).is_some_and(|(_, found)| found == seq);
                let changes = match commits.value().filter(|_| is_found) {
                    Some(value) => CommitEntry::decode(&value)?.changes,
                    None => Vec::new(),
                };
                let change = usize::try_from(index).ok().and_then(|index| changes.get(index));
                if !matches!(change, Some(TableChange::Row(changed)) if *changed == row) {
                    self.report(reporter, format!("{} is not in the log", describe::version(key)));
                }
            }
            cursor.next()?;
        }
        Ok(())
    }

    fn compare_producers(&self, reporter: &mut ProblemReporter<'_>) -> Result<()> {
        let mut expected = self.producers.clone();
        let mut cursor = self.layer.file.cursor(tree::PRODUCERS);
        cursor.first()?;
        while let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
            let found = ProducerEntry::decode(key, &value)?;
            let in_log = expected.remove(&found.origin.producer);
            if in_log.as_ref() != Some(&found) && (in_log.is_some() || found.seq > self.compacted_to) {
                self.report(reporter, describe::producer_difference(key, Some(&found), in_log.as_ref()));
            }
            cursor.next()?;
        }
        for (producer, missing) in &expected {
            self.report(reporter, describe::producer_difference(producer.as_bytes(), None, Some(missing)));
        }
        Ok(())
    }
}

fn read_properties(file: &Arc<SstFile>) -> Result<DeltaProperties> {
    DeltaProperties::decode(&Bytes::copy_from_slice(file.properties()))
}

fn describe_difference(seq: u64, found: &CommitEntry, expected: &CommitEntry) -> String {
    let (found, expected) = (describe::commit_entry(found), describe::commit_entry(expected));
    let note = if found == expected { "; one of the changes differs" } else { "" };
    format!("commit {seq}: {found}, but in the log {expected}{note}")
}

fn version_difference(found: &VersionEntry, expected: &VersionEntry) -> Option<String> {
    let kind = (found.kind != expected.kind)
        .then(|| format!("its event type is {:?}, but in the log {:?}", found.kind, expected.kind));
    let time = (found.time_ms != expected.time_ms).then(|| {
        format!(
            "its time is {}, but in the log {}",
            format_time(found.time_ms),
            format_time(expected.time_ms)
        )
    });
    let meta = ((&found.actor, &found.reason) != (&expected.actor, &expected.reason)).then(|| {
        let describe = |entry: &VersionEntry| format!("actor {:?}, reason {:?}", entry.actor, entry.reason);
        format!("it has {}, but in the log {}", describe(found), describe(expected))
    });
    let payload =
        (found.payload != expected.payload).then(|| "its document or patch differs from the log".to_owned());
    // Only some patches of a layer have the row after them, and if rows are unknown, nothing is expected.
    let image = (found.image.is_some() && expected.image.is_some() && found.image != expected.image)
        .then(|| "the row after the patch differs from the log".to_owned());
    kind.or(time).or(meta).or(payload).or(image)
}
