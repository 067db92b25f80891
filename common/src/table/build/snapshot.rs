//! Makes snapshot files: an era from the log, all rows at a moment, eras merged, indexes. Nothing here names them in a manifest.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::event::{Event, EventType};
use crate::format::key::Key;
use crate::format::manifest::{DeltaLayer, ImageLayer, LogPosition, Manifest};
use crate::format::snapshot::{
    self, CommitEntry, DeltaProperties, ProducerEntry, RequestEntry, RowEntry, SchemaEntry, TableChange,
    VersionEntry, commit_key, kind, tree,
};
use crate::format::sst::{SstIdentity, SstWriter};
use crate::storage::layout::{delta_stem, image_stem};
use crate::storage::sst::{SstOutput, write_file};
use crate::storage::wal::cursor::{CursorItem, CursorPosition, LogCursor, SegmentSpan};
use crate::table::build::index::{Candidates, write_index};
use crate::table::layers::{EventId, LayerMap, sort_key};
use crate::table::schema::{SchemaAction, SchemaEvent};
use crate::table::state;
use crate::table::table_files::TableFiles;

/// The most patches of a row in an era between two images of it.
const PATCHES_WITHOUT_IMAGE: u32 = 16;

/// How much one era may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaLimits {
    /// Events; a commit is never split.
    pub events: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

/// How far a table's log may be read: what HEAD's slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimit {
    /// The active segment.
    pub segment: u64,
    /// Its durable bytes.
    pub bytes: u64,
    /// The last commit to look at.
    pub seq: u64,
}

/// Told how far a long job has come; an error ends it.
pub type ProgressFn<'a> = &'a dyn Fn(u64) -> Result<()>;

/// A table's events after its newest snapshot, as the log has them.
#[derive(Debug, Default)]
struct Gathered {
    /// By sort key, oldest first.
    rows: BTreeMap<Vec<u8>, (Option<Key>, Vec<GatheredVersion>)>,
    commits: Vec<(u64, u64, CommitEntry)>,
    requests: Vec<(u64, RequestEntry)>,
    producers: BTreeMap<String, ProducerEntry>,
    schema_entries: Vec<SchemaEntry>,
    /// Of the commit under way.
    said: Arc<Said>,
    events: u64,
    live: u64,
    born: u64,
    /// Whether each row touched was left live, and by which commit.
    touched: HashMap<Vec<u8>, (bool, u64)>,
    frames: u64,
    bytes: u64,
    position: LogPosition,
}

#[derive(Debug)]
struct GatheredVersion {
    spot: EventId,
    time_ms: u64,
    said: Arc<Said>,
    event: Event,
}

/// Who made a commit, and why; or empty.
#[derive(Debug, Default)]
struct Said {
    actor: String,
    reason: String,
}

/// Makes the era that follows a table's newest snapshot, as long as the limits allow. `None` where there is nothing new.
pub fn next_era(
    shelf: &TableFiles,
    manifest: &Manifest,
    chain: &LayerMap,
    reach: ReadLimit,
    limits: DeltaLimits,
    watch: ProgressFn<'_>,
) -> Result<Option<DeltaLayer>> {
    let gathered = gather(shelf, manifest, chain, reach, limits, watch)?;
    let Some((seq, time_ms, _)) = gathered.commits.last() else { return Ok(None) };
    let (base, seq, time_ms) = (chain.end(), *seq, *time_ms);
    let name = &manifest.table;
    let identity = SstIdentity { table: manifest.table_id, base, seq, kind: kind::DELTA };
    let indexes = newest_indexes(&gathered.schema_entries)?;
    let mut candidates: Vec<Candidates> = indexes.iter().map(|path| Candidates::new(path)).collect();
    let properties = DeltaProperties {
        events: gathered.events,
        rows: gathered.live,
        time_ms,
        schema_entries: gathered.schema_entries.clone(),
    };
    make_dirs(shelf, name)?;
    let mut bytes = write_file(&*shelf.disk, &shelf.dir.delta_layer(name, base, seq), identity, |file| {
        file.begin_tree(tree::VERSIONS, true)?;
        for (at, (key, (typed, versions))) in (0..).zip(&gathered.rows) {
            if at % 4096 == 0 {
                watch(gathered.frames + at)?;
            }
            let typed = typed.as_ref();
            write_versions(file, chain, (key, typed), versions, &mut candidates)?;
        }
        file.end_tree()?;
        write_tail(file, &gathered)?;
        Ok(properties.encode())
    })?;
    for of_path in candidates {
        let path = shelf.dir.index(name, of_path.path(), &delta_stem(base, seq));
        bytes += write_index(shelf, &path, SstIdentity { kind: kind::DELTA_INDEX, ..identity }, of_path)?;
    }
    sync_dirs(shelf, name)?;
    let events = gathered.frames;
    Ok(Some(DeltaLayer { base, seq, bytes, events, indexes, position: gathered.position }))
}

fn gather(
    shelf: &TableFiles,
    manifest: &Manifest,
    chain: &LayerMap,
    reach: ReadLimit,
    limits: DeltaLimits,
    watch: ProgressFn<'_>,
) -> Result<Gathered> {
    let mut cursor = log_after(shelf, manifest, reach);
    let properties = chain.properties();
    let mut gathered = Gathered {
        schema_entries: properties.schema_entries.clone(),
        events: properties.events,
        live: properties.rows,
        position: cursor.position().to_log_position(),
        ..Gathered::default()
    };
    for schema_entry in &properties.schema_entries {
        if SchemaEvent::from_document(&schema_entry.document)?.action == SchemaAction::Create {
            gathered.born = schema_entry.seq;
        }
    }
    loop {
        let position = cursor.position().to_log_position();
        match cursor.next_frame()? {
            CursorItem::Frame(entry) => {
                let begins = gathered.commits.last().is_none_or(|(seq, ..)| *seq != entry.seq);
                let full = gathered.frames >= limits.events || gathered.bytes >= limits.bytes;
                if entry.seq > reach.seq || (begins && full && gathered.frames > 0) {
                    break;
                }
                if gathered.frames.is_multiple_of(4096) {
                    watch(gathered.frames)?;
                }
                if begins {
                    let entry = (entry.seq, entry.time_ms, CommitEntry::default());
                    gathered.commits.push(entry);
                    gathered.said = Arc::default();
                }
                let read = cursor.position();
                let same = read.segment == position.segment;
                gathered.bytes += read.offset - if same { position.offset } else { 0 };
                gathered.position = read.to_log_position();
                gathered.take(entry.seq, entry.time_ms, entry.event, chain)?;
            }
            CursorItem::End => break,
            CursorItem::Invalid(error) => {
                return Err(Error::corrupt(cursor.path().display(), cursor.position().offset, error));
            }
        }
    }
    Ok(gathered)
}

/// A cursor over a table's log from its newest snapshot on.
pub fn log_after(shelf: &TableFiles, manifest: &Manifest, reach: ReadLimit) -> LogCursor {
    let (name, id) = (&manifest.table, manifest.table_id);
    let mut cursor = LogCursor::new(Arc::clone(&shelf.disk), &shelf.dir, name, id);
    let position = manifest.deltas.last().map(|era| era.position);
    if let Some(position) = &position {
        cursor = cursor.starting_at(CursorPosition::from_log_position(position));
    }
    let before = |number: u64| position.is_some_and(|position| position.segment != number);
    for segment in manifest.segments.iter().skip_while(|segment| before(segment.number)) {
        let end = match segment.sealed {
            Some(seal) => seal.bytes,
            None if segment.number == reach.segment => reach.bytes,
            None => 0,
        };
        cursor.extend(SegmentSpan { segment: segment.number, end, seal: segment.sealed });
    }
    cursor
}

impl Gathered {
    fn take(&mut self, seq: u64, time_ms: u64, mut event: Event, chain: &LayerMap) -> Result<()> {
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
            // Only the commit's first event carries it, and it is said of all.
            self.said = Arc::new(Said { actor: meta.actor, reason: meta.reason });
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
                    // A drop comes before a creation: either leaves nothing of what was before.
                    self.born = seq;
                    self.live = 0;
                }
                self.events += 1;
                self.schema_entries.push(SchemaEntry { seq, time_ms, actor, reason, document });
            }
            (kind, _, Some(key)) => {
                let bytes = sort_key(key);
                commit.changes.push(TableChange::Row(Bytes::copy_from_slice(&bytes)));
                let was = match self.touched.get(&bytes) {
                    Some((live, at)) => *live && *at >= self.born,
                    None if kind != EventType::Insert || event.replaces => true,
                    None => chain.end() > 0 && chain.is_live(key, self.born)?,
                };
                let is = kind != EventType::SoftDelete;
                self.live = (self.live + u64::from(is)).saturating_sub(u64::from(was));
                self.events += 1;
                self.touched.insert(bytes.clone(), (is, seq));
                let said = Arc::clone(&self.said);
                let version = GatheredVersion { spot: EventId { seq, index }, time_ms, said, event };
                let row = self.rows.entry(bytes).or_default();
                row.0 = version.event.key.clone();
                row.1.push(version);
            }
            _ => {}
        }
        (commit.events, commit.rows) = (self.events, self.live);
        Ok(())
    }
}

/// The paths that the newest schema has indexes on.
fn newest_indexes(schema_entries: &[SchemaEntry]) -> Result<Vec<String>> {
    match schema_entries.last() {
        Some(schema_entry) => Ok(SchemaEvent::from_document(&schema_entry.document)?.schema.indexes),
        None => Ok(Vec::new()),
    }
}

fn write_versions(
    file: &mut SstWriter<SstOutput>,
    chain: &LayerMap,
    (key, typed): (&[u8], Option<&Key>),
    versions: &[GatheredVersion],
    candidates: &mut [Candidates],
) -> Result<()> {
    let mut row: Option<Document> = None;
    let mut known = false;
    let (mut patches, mut patched) = (0, 0);
    let (mut at, mut value) = (Vec::new(), Vec::new());
    for GatheredVersion { spot, time_ms, said, event } in versions {
        if event.kind == EventType::Patch && !known {
            let before = match typed {
                Some(key) => chain.row(key, spot.before())?,
                None => None,
            };
            row = before.and_then(|before| before.document);
        }
        known = true;
        row = state::apply(row.as_ref(), event.kind, event.document.as_ref())?;
        let mut image = None;
        if event.kind == EventType::Patch {
            patches += 1;
            patched += event.document.as_ref().map_or(0, |patch| patch.msgpack().len());
            let len = row.as_ref().map_or(0, |row| row.msgpack().len());
            if patches >= PATCHES_WITHOUT_IMAGE || patched * 4 >= len {
                image = row.clone();
            }
        }
        if event.kind != EventType::Patch || image.is_some() {
            (patches, patched) = (0, 0);
        }
        for of_path in &mut *candidates {
            of_path.step(spot.seq, row.as_ref())?;
        }
        let (actor, reason) = (said.actor.clone(), said.reason.clone());
        let payload = event.document.clone();
        let entry = VersionEntry { kind: event.kind, time_ms: *time_ms, actor, reason, payload, image };
        at.clear();
        at.extend_from_slice(key);
        snapshot::push_version(&mut at, spot.seq, spot.index);
        value.clear();
        entry.encode(&mut value);
        file.add(&at, Some(key), &value)?;
    }
    for of_path in candidates {
        of_path.end_row(key);
    }
    Ok(())
}

/// Writes the trees after that of versions.
fn write_tail(file: &mut SstWriter<SstOutput>, gathered: &Gathered) -> Result<()> {
    let mut value = Vec::new();
    file.begin_tree(tree::COMMITS, false)?;
    for (seq, time_ms, commit) in &gathered.commits {
        value.clear();
        commit.encode(&mut value);
        file.add(&commit_key(*time_ms, *seq), None, &value)?;
    }
    file.end_tree()?;
    file.begin_tree(tree::REQUESTS, false)?;
    for (seq, request) in &gathered.requests {
        value.clear();
        request.encode(&mut value);
        file.add(&seq.to_be_bytes(), None, &value)?;
    }
    file.end_tree()?;
    file.begin_tree(tree::PRODUCERS, false)?;
    for (name, producer) in &gathered.producers {
        value.clear();
        producer.encode(&mut value);
        file.add(name.as_bytes(), None, &value)?;
    }
    file.end_tree()
}

/// Makes a file of all live rows at a moment, with indexes on these paths.
pub fn full(
    shelf: &TableFiles,
    (name, id): (&str, u64),
    chain: &LayerMap,
    seq: u64,
    indexes: &[String],
    watch: ProgressFn<'_>,
) -> Result<ImageLayer> {
    let identity = SstIdentity { table: id, base: seq, seq, kind: kind::IMAGE };
    let path = shelf.dir.image_layer(name, seq);
    let index_path = |of: &str| shelf.dir.index(name, of, &image_stem(seq));
    let mut candidates: Vec<Candidates> = indexes.iter().map(|path| Candidates::new(path)).collect();
    make_dirs(shelf, name)?;
    let mut rows = 0;
    let born = born_at(chain, seq)?;
    let mut bytes = write_file(&*shelf.disk, &path, identity, |file| {
        let mut scan = chain.scan(seq, &[])?;
        let mut value = Vec::new();
        file.begin_tree(tree::ROWS, true)?;
        while let Some(key) = scan.key() {
            let row = scan.take(&key)?.filter(|row| born.is_some_and(|born| row.seq >= born));
            let Some((row, document)) = row.and_then(|row| Some((row.clone(), row.document?))) else {
                continue;
            };
            for of_path in &mut candidates {
                of_path.step(row.seq, Some(&document))?;
                of_path.end_row(&key);
                of_path.spill(shelf, index_path)?;
            }
            value.clear();
            RowEntry { seq: row.seq, time_ms: row.time_ms, document }.encode(&mut value);
            file.add(&key, Some(&key), &value)?;
            rows += 1;
            if rows % 4096 == 0 {
                watch(rows)?;
            }
        }
        file.end_tree()?;
        Ok(Vec::new())
    })?;
    for of_path in candidates {
        let path = index_path(of_path.path());
        bytes += write_index(shelf, &path, SstIdentity { kind: kind::IMAGE_INDEX, ..identity }, of_path)?;
    }
    sync_dirs(shelf, name)?;
    Ok(ImageLayer { seq, rows, bytes, indexes: indexes.to_vec() })
}

/// The table's last CREATE at or before a moment; `None` where there is no table then.
pub fn born_at(chain: &LayerMap, seq: u64) -> Result<Option<u64>> {
    let mut born = None;
    for schema_entry in
        chain.properties().schema_entries.iter().take_while(|schema_entry| schema_entry.seq <= seq)
    {
        match SchemaEvent::from_document(&schema_entry.document)?.action {
            SchemaAction::Create => born = Some(schema_entry.seq),
            SchemaAction::Drop => born = None,
            SchemaAction::Alter => {}
        }
    }
    Ok(born)
}

pub(super) fn make_dirs(shelf: &TableFiles, table: &str) -> Result<()> {
    for dir in [shelf.dir.snapshots(table), shelf.dir.indexes(table)] {
        shelf
            .disk
            .create_dir(&dir)
            .map_err(|e| Error::io(format_args!("cannot create {}", dir.display()), &e))?;
    }
    Ok(())
}

/// Makes the names of new files durable.
pub(super) fn sync_dirs(shelf: &TableFiles, table: &str) -> Result<()> {
    for dir in [shelf.dir.snapshots(table), shelf.dir.indexes(table), shelf.dir.table(table)] {
        shelf
            .disk
            .sync_dir(&dir)
            .map_err(|e| Error::io(format_args!("cannot sync {}", dir.display()), &e))?;
    }
    Ok(())
}

/// What a job says that has been asked to end.
pub fn cancelled() -> Error {
    Error::new(Reason::ShuttingDown, "the writer is shutting down")
}
