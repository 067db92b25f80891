//! Builds a delta layer from the log: the events after a table's newest delta layer.
//!
//! The log is in commit order and the layer is in key order, so the events are collected in memory first; [`DeltaLimits`]
//! bounds how many. A row's PATCHes are stored as they are, and now and then together with the row after them, so that a
//! lookup reads a bounded number of versions. Nothing here names the new files in a manifest.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::format::event::{Event, EventType};
use crate::format::key::Key;
use crate::format::manifest::{DeltaLayer, LogPosition, Manifest};
use crate::format::snapshot::{
    CommitEntry, DeltaProperties, ProducerEntry, RequestEntry, SchemaEntry, TableChange, VersionEntry,
    commit_key, kind, push_version, tree,
};
use crate::format::sst::{SstIdentity, SstWriter};
use crate::storage::layout::delta_stem;
use crate::storage::sst::{SstOutput, write_file};
use crate::storage::wal::cursor::CursorItem;
use crate::table::build::index::IndexBuilder;
use crate::table::build::new_files::NewFiles;
use crate::table::build::progress::{ProgressFn, REPORT_INTERVAL};
use crate::table::event_id::EventId;
use crate::table::layers::{LayerMap, sort_key};
use crate::table::log_tail::{ReadLimit, log_after};
use crate::table::row_fold::RowFold;
use crate::table::schema::{SchemaAction, SchemaEvent};
use crate::table::table_files::TableFiles;

/// The most PATCHes of a row in a delta layer between two that are stored with the row after them.
const PATCHES_WITHOUT_IMAGE: u32 = 16;

/// How much one delta layer may hold. A commit is never split: the last one may exceed the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaLimits {
    /// The number of events.
    pub events: u64,
    /// The bytes of the events' frames.
    pub bytes: u64,
}

/// The events after a table's newest delta layer, read from the log.
#[derive(Debug, Default)]
struct DeltaContent {
    /// By sort key.
    rows: BTreeMap<Vec<u8>, CollectedRow>,
    /// Seq, time and content.
    commits: Vec<(u64, u64, CommitEntry)>,
    requests: Vec<(u64, RequestEntry)>,
    producers: BTreeMap<String, ProducerEntry>,
    schemas: Vec<SchemaEntry>,
    /// Who made the commit that is being read, and why.
    author: Arc<CommitAuthor>,
    /// The table's events and live rows after the last commit read.
    events: u64,
    live: u64,
    /// The last CREATE.
    created_at: u64,
    /// Whether the last event of each row that has one left it live, and that event's commit.
    rows_after: HashMap<Vec<u8>, (bool, u64)>,
    /// Frames read, and their bytes.
    frames: u64,
    bytes: u64,
    /// The position in the log after the last frame read.
    position: LogPosition,
}

/// A row's events, oldest first.
#[derive(Debug, Default)]
struct CollectedRow {
    key: Option<Key>,
    events: Vec<CollectedEvent>,
}

#[derive(Debug)]
struct CollectedEvent {
    id: EventId,
    time_ms: u64,
    author: Arc<CommitAuthor>,
    event: Event,
}

/// Who made a commit, and why; empty if the commit does not say.
#[derive(Debug, Default)]
struct CommitAuthor {
    actor: String,
    reason: String,
}

/// Builds the delta layer after a table's newest one, with as many commits as the limits allow. Returns `None` if the log
/// has no new commit.
pub fn build_next(
    files: &TableFiles,
    manifest: &Manifest,
    layers: &LayerMap,
    read_limit: ReadLimit,
    limits: DeltaLimits,
    progress: ProgressFn<'_>,
) -> Result<Option<DeltaLayer>> {
    let content = read_log(files, manifest, layers, read_limit, limits, progress)?;
    let Some((seq, time_ms, _)) = content.commits.last() else { return Ok(None) };
    let (base, seq, time_ms) = (layers.end(), *seq, *time_ms);
    let name = &manifest.table;
    let identity = SstIdentity { table: manifest.table_id, base, seq, kind: kind::DELTA };
    let indexes = newest_indexes(&content.schemas)?;
    let mut builders: Vec<IndexBuilder> = indexes.iter().map(|path| IndexBuilder::new(path)).collect();
    let properties = DeltaProperties {
        events: content.events,
        rows: content.live,
        time_ms,
        schema_entries: content.schemas.clone(),
    };
    files.create_dirs(name)?;
    let (mut new_files, path) = (NewFiles::of(files, name), files.dir.delta_layer(name, base, seq));
    new_files.add(&path);
    let mut bytes = write_file(&*files.fs, &path, identity, |file| {
        file.begin_tree(tree::VERSIONS, true)?;
        for (at, (key, row)) in (0..).zip(&content.rows) {
            if at % REPORT_INTERVAL == 0 {
                progress(content.frames + at)?;
            }
            write_versions(file, layers, (key, row), &mut builders, &|| progress(content.frames + at))?;
        }
        file.end_tree()?;
        write_other_trees(file, &content)?;
        Ok(properties.encode())
    })?;
    for index in builders {
        let path = files.dir.index(name, index.path(), &delta_stem(base, seq));
        new_files.add(&path);
        bytes += index.write(files, &path, SstIdentity { kind: kind::DELTA_INDEX, ..identity })?;
    }
    files.sync_dirs(name)?;
    new_files.keep();
    let events = content.frames;
    Ok(Some(DeltaLayer { base, seq, bytes, events, indexes, position: content.position }))
}

fn read_log(
    files: &TableFiles,
    manifest: &Manifest,
    layers: &LayerMap,
    read_limit: ReadLimit,
    limits: DeltaLimits,
    progress: ProgressFn<'_>,
) -> Result<DeltaContent> {
    let mut cursor = log_after(files, manifest, read_limit);
    let mut content = DeltaContent::after(layers, cursor.position().to_log_position())?;
    loop {
        let position = cursor.position().to_log_position();
        match cursor.next_frame()? {
            CursorItem::Frame(entry) => {
                let begins_commit = content.commits.last().is_none_or(|(seq, ..)| *seq != entry.seq);
                let is_full = content.frames >= limits.events || content.bytes >= limits.bytes;
                if entry.seq > read_limit.seq || (begins_commit && is_full && content.frames > 0) {
                    break;
                }
                if content.frames.is_multiple_of(REPORT_INTERVAL) {
                    progress(content.frames)?;
                }
                if begins_commit {
                    content.commits.push((entry.seq, entry.time_ms, CommitEntry::default()));
                    content.author = Arc::default();
                }
                let read = cursor.position();
                let is_same_segment = read.segment == position.segment;
                content.bytes += read.offset - if is_same_segment { position.offset } else { 0 };
                content.position = read.to_log_position();
                content.push(entry.seq, entry.time_ms, entry.event, layers)?;
            }
            CursorItem::End => break,
            CursorItem::Invalid(error) => {
                return Err(Error::corrupt(cursor.path().display(), cursor.position().offset, error));
            }
        }
    }
    Ok(content)
}

impl DeltaContent {
    /// No events, after the end of some layers.
    fn after(layers: &LayerMap, position: LogPosition) -> Result<DeltaContent> {
        let properties = layers.properties();
        let mut content = DeltaContent {
            schemas: properties.schema_entries.clone(),
            events: properties.events,
            live: properties.rows,
            position,
            ..DeltaContent::default()
        };
        for entry in &properties.schema_entries {
            if SchemaEvent::from_document(&entry.document)?.action == SchemaAction::Create {
                content.created_at = entry.seq;
            }
        }
        Ok(content)
    }

    /// Adds an event of the last commit.
    fn push(&mut self, seq: u64, time_ms: u64, mut event: Event, layers: &LayerMap) -> Result<()> {
        self.frames += 1;
        let meta = event.meta.take();
        let Some((_, _, commit)) = self.commits.last_mut() else { return Ok(()) };
        if let Some(meta) = meta {
            if let Some(request) = meta.request {
                self.requests.push((seq, RequestEntry { time_ms, request }));
            }
            if let Some(origin) = meta.origin {
                self.producers.insert(origin.producer.clone(), ProducerEntry { seq, origin });
            }
            (commit.actor, commit.reason) = (meta.actor.clone(), meta.reason.clone());
            // The commit's first event carries the meta of all its events.
            self.author = Arc::new(CommitAuthor { actor: meta.actor, reason: meta.reason });
        }
        let index = u32::try_from(commit.changes.len()).unwrap_or(u32::MAX);
        match (event.kind, &event.document, &event.key) {
            (EventType::Note, ..) => {}
            (EventType::Schema, Some(document), _) => {
                let emptied = SchemaEvent::from_document(document)?.action != SchemaAction::Alter;
                let (actor, reason) = (commit.actor.clone(), commit.reason.clone());
                let document = document.detached();
                commit.changes.push(TableChange::Schema(document.clone(), emptied));
                if emptied {
                    // A DROP comes before a second CREATE; after either, no older row is live.
                    self.created_at = seq;
                    self.live = 0;
                }
                self.events += 1;
                self.schemas.push(SchemaEntry { seq, time_ms, actor, reason, document });
            }
            (kind, _, Some(key)) => {
                let bytes = sort_key(key);
                commit.changes.push(TableChange::Row(Bytes::copy_from_slice(&bytes)));
                let was_live = match self.rows_after.get(&bytes) {
                    Some((is_live, at)) => *is_live && *at >= self.created_at,
                    None if kind != EventType::Insert || event.replaces => true,
                    None => layers.end() > 0 && layers.is_live(key, self.created_at)?,
                };
                let is_live = kind != EventType::SoftDelete;
                self.live = (self.live + u64::from(is_live)).saturating_sub(u64::from(was_live));
                self.events += 1;
                self.rows_after.insert(bytes.clone(), (is_live, seq));
                let row = self.rows.entry(bytes).or_default();
                row.key.get_or_insert_with(|| key.clone());
                let author = Arc::clone(&self.author);
                row.events.push(CollectedEvent { id: EventId { seq, index }, time_ms, author, event });
            }
            _ => {}
        }
        (commit.events, commit.rows) = (self.events, self.live);
        Ok(())
    }
}

/// The paths that the newest schema has indexes on.
fn newest_indexes(schemas: &[SchemaEntry]) -> Result<Vec<String>> {
    match schemas.last() {
        Some(entry) => Ok(SchemaEvent::from_document(&entry.document)?.schema.indexes),
        None => Ok(Vec::new()),
    }
}

/// Writes a row's versions, and adds the row after each to the indexes.
fn write_versions(
    file: &mut SstWriter<SstOutput>,
    layers: &LayerMap,
    (key, row): (&[u8], &CollectedRow),
    indexes: &mut [IndexBuilder],
    check: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let mut fold = RowFold::default();
    // PATCHes since the last version that was stored with the row after it, and their bytes.
    let (mut patches, mut patched_bytes) = (0, 0);
    let (mut version_key, mut value) = (Vec::new(), Vec::new());
    for (number, CollectedEvent { id, time_ms, author, event }) in (1..).zip(&row.events) {
        if number % REPORT_INTERVAL == 0 {
            check()?;
        }
        let row_before = || match &row.key {
            Some(key) => Ok(layers.row(key, id.before())?.and_then(|before| before.document)),
            None => Ok(None),
        };
        let after = fold.apply(event.kind, event.document.as_ref(), None, row_before)?;
        let mut image = None;
        if event.kind == EventType::Patch {
            patches += 1;
            patched_bytes += event.document.as_ref().map_or(0, |patch| patch.msgpack().len());
            let row_bytes = after.map_or(0, |row| row.msgpack().len());
            if patches >= PATCHES_WITHOUT_IMAGE || patched_bytes * 4 >= row_bytes {
                image = after.cloned();
            }
        }
        if event.kind != EventType::Patch || image.is_some() {
            (patches, patched_bytes) = (0, 0);
        }
        for index in &mut *indexes {
            index.push_version(id.seq, after)?;
        }
        let (actor, reason) = (author.actor.clone(), author.reason.clone());
        let payload = event.document.clone();
        let entry = VersionEntry { kind: event.kind, time_ms: *time_ms, actor, reason, payload, image };
        version_key.clear();
        version_key.extend_from_slice(key);
        push_version(&mut version_key, id.seq, id.index);
        value.clear();
        entry.encode(&mut value);
        file.add(&version_key, Some(key), &value)?;
    }
    for index in indexes {
        index.end_row(key);
    }
    Ok(())
}

/// Writes the trees after the tree of versions.
fn write_other_trees(file: &mut SstWriter<SstOutput>, content: &DeltaContent) -> Result<()> {
    let mut value = Vec::new();
    file.begin_tree(tree::COMMITS, false)?;
    for (seq, time_ms, commit) in &content.commits {
        value.clear();
        commit.encode(&mut value);
        file.add(&commit_key(*time_ms, *seq), None, &value)?;
    }
    file.end_tree()?;
    file.begin_tree(tree::REQUESTS, false)?;
    for (seq, request) in &content.requests {
        value.clear();
        request.encode(&mut value);
        file.add(&seq.to_be_bytes(), None, &value)?;
    }
    file.end_tree()?;
    file.begin_tree(tree::PRODUCERS, false)?;
    for (name, producer) in &content.producers {
        value.clear();
        producer.encode(&mut value);
        file.add(name.as_bytes(), None, &value)?;
    }
    file.end_tree()
}
