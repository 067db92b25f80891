//! The events of a stretch of the log, collected and brought into the order of a delta layer.
//!
//! A layer has up to [`DeltaLimits`](super::DeltaLimits) events, so each costs as little as possible: sort keys are in one buffer,
//! changes in one vector in the order of the log, and only small entries are sorted. Which changes made a row live is found in
//! the order of keys, where the change before is at hand; the commits' counts follow from that.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::document::Document;
use crate::format::event::{Event, EventMarks, EventType};
use crate::format::key::Key;
use crate::format::manifest::{LogPosition, Manifest};
use crate::format::snapshot::{ProducerEntry, RequestEntry, SchemaEntry};
use crate::format::sortkey;
use crate::storage::wal::cursor::CursorItem;
use crate::table::build::delta_limits::DeltaLimits;
use crate::table::build::progress::{ProgressFn, REPORT_INTERVAL};
use crate::table::layers::LayerMap;
use crate::table::log_tail::{ReadLimit, log_after};
use crate::table::schema::{SchemaAction, SchemaEvent};
use crate::table::sort_start::{SortStart, common_len};
use crate::table::table_files::TableFiles;

/// The events after a table's newest delta layer, read from the log.
#[derive(Debug, Default)]
pub(super) struct DeltaContent {
    /// In the order of the log.
    pub(super) changes: Vec<CollectedChange>,
    pub(super) commits: Vec<CollectedCommit>,
    pub(super) requests: Vec<(u64, RequestEntry)>,
    pub(super) producers: BTreeMap<String, ProducerEntry>,
    /// All SCHEMA events of the table, also older ones.
    pub(super) schemas: Vec<SchemaEntry>,
    /// The sort keys of the changed rows, one after the other.
    sort_keys: Vec<u8>,
    /// Row changes by sort key, then in the order of the log.
    order: Vec<SortEntry>,
    /// The table's events and live rows before these, and its last CREATE.
    events_before: u64,
    live_before: u64,
    created_before: u64,
    /// Frames read, and their bytes.
    pub(super) frames: u64,
    bytes: u64,
    /// The position in the log after the last frame read.
    pub(super) position: LogPosition,
}

/// A commit: its changes are those up to the next commit's.
#[derive(Debug)]
pub(super) struct CollectedCommit {
    pub(super) seq: u64,
    pub(super) time_ms: u64,
    pub(super) author: Option<Arc<CommitAuthor>>,
    first_change: usize,
}

/// One change of a commit.
#[derive(Debug)]
pub(super) enum CollectedChange {
    Row(CollectedRow),
    /// The SCHEMA event's document, and whether the change removed all rows.
    Schema(Document, bool),
}

/// One event of a row.
#[derive(Debug)]
pub(super) struct CollectedRow {
    /// The position of the commit among the collected ones.
    pub(super) commit: usize,
    /// The position among the commit's changes.
    pub(super) index: u32,
    pub(super) kind: EventType,
    /// How the event says that it came about.
    pub(super) marks: EventMarks,
    /// Whether the row was live before. Known after [`DeltaContent::sort`].
    was_live: bool,
    pub(super) key: Key,
    pub(super) document: Option<Document>,
    sort_key: (usize, usize),
}

/// Who made a commit, and why.
#[derive(Debug, Default)]
pub(super) struct CommitAuthor {
    pub(super) actor: String,
    pub(super) reason: String,
}

/// A row change in the order of sort keys.
#[derive(Debug, Clone, Copy)]
struct SortEntry {
    start: SortStart,
    change: usize,
}

/// Reads the log after some layers: as many commits as the limits allow.
pub(super) fn read_log(
    files: &TableFiles,
    manifest: &Manifest,
    layers: &LayerMap,
    read_limit: ReadLimit,
    limits: DeltaLimits,
    progress: ProgressFn<'_>,
) -> Result<DeltaContent> {
    let mut cursor = log_after(files, manifest, read_limit);
    let mut content = DeltaContent::after(layers, cursor.position().to_log_position())?;
    let (mut segment, mut offset) = (content.position.segment, content.position.offset);
    loop {
        match cursor.next_frame()? {
            CursorItem::Frame(entry) => {
                let begins_commit = content.commits.last().is_none_or(|commit| commit.seq != entry.seq);
                let is_full = content.frames >= limits.events || content.bytes >= limits.bytes;
                if entry.seq > read_limit.seq || (begins_commit && is_full && content.frames > 0) {
                    break;
                }
                if content.frames.is_multiple_of(REPORT_INTERVAL) {
                    progress(content.frames)?;
                }
                if begins_commit {
                    content.commits.push(CollectedCommit {
                        seq: entry.seq,
                        time_ms: entry.time_ms,
                        author: None,
                        first_change: content.changes.len(),
                    });
                }
                let read = cursor.position();
                content.bytes += read.offset - if read.segment == segment { offset } else { 0 };
                (segment, offset) = (read.segment, read.offset);
                content.position = read.to_log_position();
                content.push(entry.seq, entry.time_ms, entry.event)?;
            }
            CursorItem::End => break,
            CursorItem::Invalid(error) => {
                return Err(Error::corrupt(cursor.path().display(), cursor.position().offset, error));
            }
        }
    }
    content.sort(layers, progress)?;
    Ok(content)
}

impl DeltaContent {
    /// No events, after the end of some layers.
    fn after(layers: &LayerMap, position: LogPosition) -> Result<DeltaContent> {
        let properties = layers.properties();
        let mut content = DeltaContent {
            schemas: properties.schema_entries.clone(),
            events_before: properties.events,
            live_before: properties.rows,
            position,
            ..DeltaContent::default()
        };
        for entry in &properties.schema_entries {
            if SchemaEvent::from_document(&entry.document)?.action == SchemaAction::Create {
                content.created_before = entry.seq;
            }
        }
        Ok(content)
    }

    /// Adds an event of the last commit.
    fn push(&mut self, seq: u64, time_ms: u64, mut event: Event) -> Result<()> {
        self.frames += 1;
        let meta = event.meta.take();
        let number = self.commits.len().saturating_sub(1);
        let Some(commit) = self.commits.last_mut() else { return Ok(()) };
        if let Some(meta) = meta {
            if let Some(request) = meta.request {
                self.requests.push((seq, RequestEntry { time_ms, request }));
            }
            if let Some(origin) = meta.origin {
                match self.producers.get_mut(&origin.producer) {
                    Some(entry) => *entry = ProducerEntry { seq, origin },
                    None => _ = self.producers.insert(origin.producer.clone(), ProducerEntry { seq, origin }),
                }
            }
            if !(meta.actor.is_empty() && meta.reason.is_empty()) {
                // The commit's first event carries the meta of all its events.
                commit.author = Some(Arc::new(CommitAuthor { actor: meta.actor, reason: meta.reason }));
            }
        }
        let index = u32::try_from(self.changes.len() - commit.first_change).unwrap_or(u32::MAX);
        match (event.kind, event.document, event.key) {
            (EventType::Note, ..) => {}
            (EventType::Schema, Some(document), _) => {
                let emptied = SchemaEvent::from_document(&document)?.action.removes_rows();
                let document = document.detached();
                self.changes.push(CollectedChange::Schema(document.clone(), emptied));
                let (actor, reason) = commit.said();
                let (actor, reason) = (actor.to_owned(), reason.to_owned());
                self.schemas.push(SchemaEntry { seq, time_ms, actor, reason, document });
            }
            (kind, document, Some(key)) => {
                let start = self.sort_keys.len();
                sortkey::write_key(&mut self.sort_keys, &key);
                self.order.push(SortEntry { start: SortStart::default(), change: self.changes.len() });
                self.changes.push(CollectedChange::Row(CollectedRow {
                    commit: number,
                    index,
                    kind,
                    marks: event.marks,
                    was_live: false,
                    key,
                    document,
                    sort_key: (start, self.sort_keys.len()),
                }));
            }
            _ => {}
        }
        Ok(())
    }

    /// The sort key of a change.
    fn key_of(&self, change: usize) -> &[u8] {
        match self.changes.get(change) {
            Some(CollectedChange::Row(row)) => self.sort_key(row),
            _ => &[],
        }
    }

    /// The sort key of a row's change.
    pub(super) fn sort_key(&self, row: &CollectedRow) -> &[u8] {
        self.sort_keys.get(row.sort_key.0..row.sort_key.1).unwrap_or_default()
    }

    /// Sorts the row changes, and finds out which rows were live before.
    fn sort(&mut self, layers: &LayerMap, progress: ProgressFn<'_>) -> Result<()> {
        let mut order = std::mem::take(&mut self.order);
        let common = common_len(order.iter().map(|entry| self.key_of(entry.change)));
        for entry in &mut order {
            entry.start = SortStart::new(self.key_of(entry.change), common);
        }
        order.sort_unstable_by(|a, b| self.compare_rows(*a, *b).then(a.change.cmp(&b.change)));
        self.order = order;
        self.find_live_rows(layers, progress)
    }

    /// Compares the rows of two changes.
    fn compare_rows(&self, a: SortEntry, b: SortEntry) -> Ordering {
        a.start.compare(b.start, || self.key_of(a.change).cmp(self.key_of(b.change)))
    }

    /// The last CREATE or DROP of the table before the changes of a commit: older rows are not live.
    fn created_at(&self, emptied: &[u64], seq: u64) -> u64 {
        let count = emptied.partition_point(|at| *at <= seq);
        count.checked_sub(1).and_then(|at| emptied.get(at)).copied().unwrap_or(self.created_before)
    }

    fn find_live_rows(&mut self, layers: &LayerMap, progress: ProgressFn<'_>) -> Result<()> {
        let emptied: Vec<u64> = self.emptied().collect();
        // The change before, whether it left its row live, and its commit.
        let mut last: Option<(SortEntry, bool, u64)> = None;
        for (done, at) in (0..).zip(0..self.order.len()) {
            if done % REPORT_INTERVAL == 0 {
                progress(self.frames)?;
            }
            let Some(entry) = self.order.get(at).copied() else { continue };
            let Some(CollectedChange::Row(row)) = self.changes.get(entry.change) else { continue };
            let seq = self.commits.get(row.commit).map_or(0, |commit| commit.seq);
            let created_at = self.created_at(&emptied, seq);
            let was_live = match last.filter(|(before, ..)| self.compare_rows(*before, entry).is_eq()) {
                Some((_, is_live, at)) => is_live && at >= created_at,
                None if row.kind != EventType::Insert || row.marks.replaces => true,
                None => layers.end() > 0 && layers.is_live(&row.key, created_at)?,
            };
            last = Some((entry, row.kind != EventType::SoftDelete, seq));
            if let Some(CollectedChange::Row(row)) = self.changes.get_mut(entry.change) {
                row.was_live = was_live;
            }
        }
        Ok(())
    }

    /// The commits that removed all rows: a DROP comes before a second CREATE, and after either, no older row is live.
    fn emptied(&self) -> impl Iterator<Item = u64> {
        self.commits_with_changes()
            .filter(|(_, changes)| {
                changes.iter().any(|change| matches!(change, CollectedChange::Schema(_, true)))
            })
            .map(|(commit, _)| commit.seq)
    }

    /// Each commit with its changes, in the order of the log.
    pub(super) fn commits_with_changes(
        &self,
    ) -> impl Iterator<Item = (&CollectedCommit, &[CollectedChange])> {
        let ends = self.commits.iter().skip(1).map(|next| next.first_change).chain([self.changes.len()]);
        let changes = |from, to| self.changes.get(from..to).unwrap_or_default();
        self.commits.iter().zip(ends).map(move |(commit, end)| (commit, changes(commit.first_change, end)))
    }

    /// The table's events and live rows after each commit, in the order of the log.
    pub(super) fn counts(&self) -> impl Iterator<Item = (u64, u64)> {
        let before = (self.events_before, self.live_before);
        self.commits_with_changes().scan(before, |(events, live), (_, changes)| {
            for change in changes {
                *events += 1;
                match change {
                    CollectedChange::Row(row) => {
                        let is_live = row.kind != EventType::SoftDelete;
                        *live = (*live + u64::from(is_live)).saturating_sub(u64::from(row.was_live));
                    }
                    CollectedChange::Schema(_, true) => *live = 0,
                    CollectedChange::Schema(_, false) => {}
                }
            }
            Some((*events, *live))
        })
    }

    /// The changes of each row, rows in the order of sort keys and their changes in the order of the log.
    pub(super) fn rows(&self) -> impl Iterator<Item = impl Iterator<Item = &CollectedRow>> {
        let is_same_row = |a: &SortEntry, b: &SortEntry| self.compare_rows(*a, *b).is_eq();
        self.order.chunk_by(is_same_row).map(|row| {
            row.iter().filter_map(|entry| match self.changes.get(entry.change) {
                Some(CollectedChange::Row(row)) => Some(row),
                _ => None,
            })
        })
    }

    /// The keys of the changed rows, each once.
    pub(super) fn into_keys(self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.rows().filter_map(|mut row| Some(row.next()?.key.clone())).collect();
        keys.shrink_to_fit();
        keys
    }
}

impl CollectedCommit {
    /// Who made the commit, and why; empty if the commit does not say.
    pub(super) fn said(&self) -> (&str, &str) {
        self.author.as_ref().map_or(("", ""), |author| (&author.actor, &author.reason))
    }
}
