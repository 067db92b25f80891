//! A table's past in files: eras of what happened, and all rows at some moments; how a row, a commit, a count is found in them.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::event::EventType;
use crate::format::key::{Key, KeyType};
use crate::format::manifest::{DeltaLayer, Floor, Manifest};
use crate::format::snapshot::{
    self, CommitEntry, DeltaProperties, ProducerEntry, RequestEntry, RowEntry, VersionEntry, commit_key,
    read_commit_key, tree,
};
use crate::format::sortkey;
use crate::storage::sst::SstFile;
use crate::table::memtable::TableCounts;
use crate::table::point_in_time::CommitBound;
use crate::table::schema::SchemaEvent;
use crate::table::state;
use crate::table::table_files::LayerFile;

mod commits;
mod scan;

pub use commits::{CommitWalk, TableCommit};
pub use scan::LayerScan;
use scan::Source;

/// Where an event stands among those of its table: its commit, and its position in the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct EventId {
    /// The commit.
    pub seq: u64,
    /// The position among the commit's events in the table.
    pub index: u32,
}

impl EventId {
    /// After everything of a commit.
    pub fn end_of(seq: u64) -> EventId {
        EventId { seq, index: u32::MAX }
    }

    /// The spot just before.
    #[must_use]
    pub fn before(self) -> EventId {
        match self.index.checked_sub(1) {
            Some(index) => EventId { index, ..self },
            None => EventId::end_of(self.seq.saturating_sub(1)),
        }
    }
}

/// A row as some event left it.
#[derive(Debug, Clone, PartialEq)]
pub struct RowVersion {
    /// The event's commit.
    pub seq: u64,
    /// That commit's time in milliseconds since 1970.
    pub time_ms: u64,
    /// The row's content; `None` where it was deleted.
    pub document: Option<Document>,
}

/// A table's past in files.
#[derive(Debug, Clone, Default)]
pub struct LayerMap {
    pub(super) table: u64,
    pub(super) floor: Option<Floor>,
    /// Oldest first, each from where the one before it ends.
    pub(super) deltas: Vec<LayerFile>,
    /// Oldest first.
    pub(super) images: Vec<LayerFile>,
    pub(super) newest: DeltaProperties,
}

/// Says in which file an entry makes no sense.
pub(super) fn at_file(error: Error, file: &SstFile) -> Error {
    match error.reason() {
        Reason::Corrupt => Error::corrupt(file.path().display(), 0, error.message()),
        _ => error,
    }
}

/// A row as far as versions, newest first, have told it.
#[derive(Debug, Default)]
struct Traced {
    /// Seq and time of the newest version.
    newest: Option<(u64, u64)>,
    /// Patches on top of what is still to be found, newest first.
    patches: Vec<Document>,
}

impl Traced {
    /// Takes in the next older version; says when what lies under the patches is known.
    fn take(&mut self, seq: u64, version: VersionEntry) -> Option<Option<Document>> {
        self.newest.get_or_insert((seq, version.time_ms));
        match (version.kind, version.image) {
            (EventType::Insert, _) => Some(version.payload),
            (EventType::Patch, Some(image)) => Some(Some(image)),
            (EventType::Patch, None) => {
                self.patches.extend(version.payload);
                None
            }
            _ => Some(None),
        }
    }

    /// The row, over what lies under the patches.
    fn finish(self, under: Option<Document>) -> Result<Option<RowVersion>> {
        let Some((seq, time_ms)) = self.newest else { return Ok(None) };
        let mut document = under;
        for patch in self.patches.iter().rev() {
            document = state::apply(document.as_ref(), EventType::Patch, Some(patch))?;
        }
        Ok(Some(RowVersion { seq, time_ms, document }))
    }
}

impl LayerMap {
    /// The last commit that it holds everything up to; 0 where it holds nothing.
    pub fn end(&self) -> u64 {
        self.deltas.last().map_or(0, |era| era.seq)
    }

    /// Whether the layers hold every commit within a bound; otherwise the log after them must be read, too.
    pub fn covers(&self, bound: CommitBound) -> bool {
        match bound {
            CommitBound::Seq(seq) => seq <= self.end(),
            CommitBound::Time(ms) => self.end() > 0 && ms < self.newest.time_ms,
        }
    }

    /// The oldest moment that can be read.
    pub fn floor(&self) -> Option<Floor> {
        self.floor
    }

    /// The same files with another floor.
    #[must_use]
    pub fn with_floor(&self, floor: Option<Floor>) -> LayerMap {
        LayerMap { floor, ..self.clone() }
    }

    /// Only the eras that end at or before a commit.
    #[must_use]
    pub(super) fn eras_upto(&self, seq: u64) -> LayerMap {
        let deltas = self.deltas.iter().filter(|era| era.seq <= seq).cloned().collect();
        LayerMap { deltas, images: Vec::new(), ..self.clone() }
    }

    /// How many files it is made of, indexes not counted.
    pub fn files(&self) -> usize {
        self.deltas.len() + self.images.len()
    }

    /// What is known of the table at its end.
    pub fn properties(&self) -> &DeltaProperties {
        &self.newest
    }

    /// The type of the table's keys; STRING before its creation.
    pub fn key_type(&self) -> KeyType {
        let first = self.newest.schema_entries.first();
        let schema = first.and_then(|schema_entry| SchemaEvent::from_document(&schema_entry.document).ok());
        schema.map_or(KeyType::String, |event| event.schema.key_type)
    }

    /// TableCounts at its end.
    pub fn counts(&self) -> TableCounts {
        // What is folded may end at a moment between two of the table's commits.
        let folded = self.floor.filter(|floor| floor.seq == self.end());
        let last_seq = folded.map_or(self.end(), |floor| floor.last_seq);
        TableCounts { events: self.newest.events, rows: self.newest.rows, last_seq }
    }

    /// The newest full at or before a spot, where the state after it is the state there or an older one.
    fn full_at(&self, upto: EventId) -> Option<&LayerFile> {
        self.images.iter().rev().find(|full| EventId::end_of(full.seq) <= upto)
    }

    /// What its full tells of a moment: versions up to here are not looked at.
    fn covered(&self, upto: EventId) -> EventId {
        self.full_at(upto).map_or(EventId::default(), |full| EventId::end_of(full.seq))
    }

    /// The eras that a moment needs besides its full, newest first.
    fn eras_at(&self, upto: EventId) -> impl Iterator<Item = &LayerFile> {
        let covered = self.covered(upto).seq;
        self.deltas.iter().rev().filter(move |era| era.base < upto.seq && era.seq > covered)
    }

    /// A row as its last event up to a spot left it. `None` where no event of it is known; a deleted row may or may not be.
    pub fn row(&self, key: &Key, upto: EventId) -> Result<Option<RowVersion>> {
        self.trace(&sort_key(key), upto, false)
    }

    /// As [`LayerMap::row`], but a row that was deleted is found in any case, as long as the floor allows.
    pub fn last_change(&self, key: &Key) -> Result<Option<RowVersion>> {
        self.trace(&sort_key(key), EventId::end_of(self.end()), true)
    }

    /// Whether a row is live at the end, and no older than `born`.
    pub fn is_live(&self, key: &Key, born: u64) -> Result<bool> {
        let row = self.row(key, EventId::end_of(self.end()))?;
        Ok(row.is_some_and(|row| row.document.is_some() && row.seq >= born))
    }

    fn trace(&self, key: &[u8], upto: EventId, deletions: bool) -> Result<Option<RowVersion>> {
        let mut traced = Traced::default();
        let covered = self.covered(upto);
        for era in self.eras_at(upto) {
            if let Some(under) = trace_in(era, key, (covered, upto), &mut traced)? {
                return traced.finish(under);
            }
        }
        if let Some(full) = self.full_at(upto) {
            if let Some(row) = full_row(full, key)? {
                traced.newest.get_or_insert((row.seq, row.time_ms));
                return traced.finish(Some(row.document));
            }
            if deletions && traced.newest.is_none() {
                return self.last_before(key, full.seq);
            }
        }
        traced.finish(None)
    }

    /// When a row that is not live at a moment of which all rows are kept was last changed: it was deleted, or went with
    /// its table. What it was before does not matter.
    fn last_before(&self, key: &[u8], seq: u64) -> Result<Option<RowVersion>> {
        let within = (EventId::default(), EventId::end_of(seq));
        for era in self.deltas.iter().rev().filter(|era| era.base < seq) {
            let mut traced = Traced::default();
            trace_in(era, key, within, &mut traced)?;
            if let Some((seq, time_ms)) = traced.newest {
                return Ok(Some(RowVersion { seq, time_ms, document: None }));
            }
        }
        Ok(None)
    }

    /// Whether these are the files that a manifest names.
    pub fn is_of(&self, manifest: &Manifest) -> bool {
        let same = |open: &LayerFile, place: (u64, u64), indexes: &[String]| {
            (open.base, open.seq) == place && open.indexes.iter().map(|(path, _)| path).eq(indexes)
        };
        self.floor == manifest.floor
            && self.deltas.len() == manifest.deltas.len()
            && self.images.len() == manifest.images.len()
            && self.deltas.iter().zip(&manifest.deltas).all(|(a, b)| same(a, (b.base, b.seq), &b.indexes))
            && self.images.iter().zip(&manifest.images).all(|(a, b)| same(a, (b.seq, b.seq), &b.indexes))
    }

    /// The era that holds a commit's place: the first that ends at or after it.
    fn era_of(&self, seq: u64) -> Option<usize> {
        let at = self.deltas.partition_point(|era| era.seq < seq);
        (at < self.deltas.len()).then_some(at)
    }

    /// TableCounts at a moment at or before its end, and at or after the floor.
    pub fn counts_at(&self, seq: u64) -> Result<TableCounts> {
        if seq >= self.end() {
            return Ok(self.counts());
        }
        let upto = self.era_of(seq).map_or(0, |at| at + 1);
        for era in self.deltas.iter().take(upto).rev() {
            let mut cursor = era.file.cursor(tree::COMMITS);
            cursor.seek_last_by(|key| commit_seq(key) <= seq)?;
            if let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
                let (events, rows) = CommitEntry::decode_counts(&value).map_err(|e| at_file(e, &era.file))?;
                return Ok(TableCounts { events, rows, last_seq: commit_seq(key) });
            }
        }
        let floor = self.floor.map(|floor| TableCounts {
            events: floor.events,
            rows: floor.rows,
            last_seq: floor.last_seq,
        });
        Ok(floor.unwrap_or_default())
    }

    /// The time of one of the table's commits, in milliseconds since 1970.
    pub fn time_of(&self, seq: u64) -> Result<Option<u64>> {
        if let Some(floor) = self.floor.filter(|floor| floor.seq == seq) {
            return Ok(Some(floor.time_ms));
        }
        let Some(era) = self.era_of(seq).and_then(|at| self.deltas.get(at)) else { return Ok(None) };
        let mut cursor = era.file.cursor(tree::COMMITS);
        cursor.seek_by(|key| commit_seq(key) < seq)?;
        let found = cursor.key().and_then(read_commit_key);
        Ok(found.filter(|(_, found)| *found == seq).map(|(time, _)| time))
    }

    /// The last of the table's commits at or before a time, of those that are kept.
    pub fn last_at(&self, time_ms: u64) -> Result<Option<u64>> {
        for era in self.deltas.iter().rev() {
            let mut cursor = era.file.cursor(tree::COMMITS);
            cursor.seek_last_by(|key| *key <= commit_key(time_ms, u64::MAX)[..])?;
            if let Some(key) = cursor.key() {
                return Ok(Some(commit_seq(key)));
            }
        }
        Ok(self.floor.filter(|floor| floor.time_ms <= time_ms).map(|floor| floor.seq))
    }

    /// A walk over the commits after one, up to another; from the last to the first where `backwards`.
    pub fn commits(&self, after: u64, upto: u64, backwards: bool) -> CommitWalk {
        let mut files: Vec<_> = self
            .deltas
            .iter()
            .filter(|era| era.seq > after && era.base < upto)
            .map(|era| Arc::clone(&era.file))
            .collect();
        if !backwards {
            files.reverse();
        }
        CommitWalk::new(files, (after, upto), backwards)
    }

    /// One version of a row.
    pub fn version(&self, key: &[u8], spot: EventId) -> Result<VersionEntry> {
        let era = self.era_of(spot.seq).and_then(|at| self.deltas.get(at));
        let missing = || Error::new(Reason::Corrupt, "a commit names a version that its era does not hold");
        let era = era.ok_or_else(missing)?;
        let mut wanted = key.to_vec();
        snapshot::push_version(&mut wanted, spot.seq, spot.index);
        let mut cursor = era.file.cursor(tree::VERSIONS);
        cursor.seek(&wanted)?;
        match cursor.value() {
            Some(value) if cursor.key() == Some(&wanted) => {
                VersionEntry::decode(&value).map_err(|e| at_file(e, &era.file))
            }
            _ => Err(at_file(missing(), &era.file)),
        }
    }

    /// The versions of a row after one spot, up to and with another: at most `limit`, from the oldest on, or from the
    /// newest back.
    pub fn versions(
        &self,
        key: &Key,
        (after, upto): (EventId, EventId),
        limit: usize,
        newest_first: bool,
    ) -> Result<Vec<(EventId, VersionEntry)>> {
        let key = sort_key(key);
        let mut found = Vec::new();
        let within = |era: &&LayerFile| era.seq > after.seq.saturating_sub(1) && era.base < upto.seq;
        let mut deltas: Vec<&LayerFile> = self.deltas.iter().filter(within).collect();
        if newest_first {
            deltas.reverse();
        }
        for era in deltas {
            if found.len() >= limit || !era.file.may_contain(tree::VERSIONS, &key)? {
                continue;
            }
            let mut cursor = era.file.cursor(tree::VERSIONS);
            if newest_first {
                cursor.seek_last_by(|at| before_or_at(at, &key, upto))?;
            } else {
                cursor.seek_by(|at| before_or_at(at, &key, after))?;
            }
            while let (Some(at), Some(value)) = (cursor.key(), cursor.value()) {
                let Some(spot) = version_of(at, &key) else { break };
                if spot <= after || spot > upto || found.len() >= limit {
                    break;
                }
                let version = VersionEntry::decode(&value).map_err(|e| at_file(e, &era.file))?;
                found.push((spot, version));
                if newest_first { cursor.prev()? } else { cursor.next()? }
            }
        }
        Ok(found)
    }

    /// The files that the newest state is read from, and whether each holds all rows.
    pub fn needed_now(&self) -> impl Iterator<Item = (&LayerFile, bool)> {
        let upto = EventId::end_of(self.end());
        let full = self.full_at(upto).map(|full| (full, true));
        self.eras_at(upto).map(|era| (era, false)).chain(full)
    }

    /// Eras with what a manifest says of them.
    pub fn opened_eras(
        &self,
        manifest: &Manifest,
        range: std::ops::Range<usize>,
    ) -> Vec<(DeltaLayer, LayerFile)> {
        let deltas = manifest.deltas.get(range).unwrap_or_default();
        let open =
            |era: &DeltaLayer| self.deltas.iter().find(|open| (open.base, open.seq) == (era.base, era.seq));
        deltas.iter().filter_map(|era| Some((era.clone(), open(era)?.clone()))).collect()
    }

    /// A row's content before a commit, by its sort key.
    pub fn document_before(&self, key: &[u8], seq: u64) -> Result<Option<Document>> {
        let row = self.trace(key, EventId::end_of(seq.saturating_sub(1)), false)?;
        Ok(row.and_then(|row| row.document))
    }

    /// Hands out every request that is kept, with its commit, in order.
    pub fn requests(&self, take: &mut dyn FnMut(u64, RequestEntry)) -> Result<()> {
        self.each(tree::REQUESTS, &mut |key, value| {
            let seq = key.first_chunk::<8>().map_or(0, |seq| u64::from_be_bytes(*seq));
            take(seq, RequestEntry::decode(value)?);
            Ok(())
        })
    }

    /// Hands out where each producer's stream came to, in each era.
    pub fn producers(&self, take: &mut dyn FnMut(ProducerEntry)) -> Result<()> {
        self.each(tree::PRODUCERS, &mut |key, value| {
            take(ProducerEntry::decode(key, value)?);
            Ok(())
        })
    }

    fn each(&self, id: u8, take: &mut dyn FnMut(&[u8], &Bytes) -> Result<()>) -> Result<()> {
        for era in &self.deltas {
            let mut cursor = era.file.cursor(id);
            cursor.first()?;
            while let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
                take(key, &value).map_err(|e| at_file(e, &era.file))?;
                cursor.next()?;
            }
        }
        Ok(())
    }

    /// Whether every file that a moment needs has an index on a path.
    pub fn has_index(&self, path: &str, seq: u64) -> bool {
        let upto = EventId::end_of(seq);
        self.eras_at(upto).chain(self.full_at(upto)).all(|snapshot| snapshot.index(path).is_some())
    }

    /// The index files of a path that a moment needs, and whether each is an era's.
    pub fn index_files(&self, path: &str, seq: u64) -> Vec<(Arc<SstFile>, bool)> {
        let upto = EventId::end_of(seq);
        let deltas = self.eras_at(upto).filter_map(|era| Some((Arc::clone(era.index(path)?), true)));
        let full =
            self.full_at(upto).into_iter().filter_map(|full| Some((Arc::clone(full.index(path)?), false)));
        deltas.chain(full).collect()
    }

    /// A walk over the rows as they were at a moment, deleted ones too, from a key's bytes on.
    pub fn scan(&self, seq: u64, from: &[u8]) -> Result<LayerScan> {
        let upto = EventId::end_of(seq);
        let mut sources = Vec::new();
        if let Some(full) = self.full_at(upto) {
            let mut cursor = full.file.cursor(tree::ROWS);
            cursor.seek(from)?;
            sources.push(Source { cursor, file: Arc::clone(&full.file), full: true });
        }
        let mut deltas: Vec<_> = self.eras_at(upto).collect();
        deltas.reverse();
        for era in deltas {
            let mut cursor = era.file.cursor(tree::VERSIONS);
            cursor.seek(from)?;
            sources.push(Source { cursor, file: Arc::clone(&era.file), full: false });
        }
        Ok(LayerScan { sources, covered: self.covered(upto), upto })
    }

    /// The table's id.
    pub fn table(&self) -> u64 {
        self.table
    }
}

/// A key's sort key.
pub fn sort_key(key: &Key) -> Vec<u8> {
    let mut out = Vec::new();
    sortkey::write_key(&mut out, key);
    out
}

fn commit_seq(key: &[u8]) -> u64 {
    read_commit_key(key).map_or(0, |(_, seq)| seq)
}

/// The spot of a version's key, where it is one of the row's.
fn version_of(at: &[u8], key: &[u8]) -> Option<EventId> {
    let (row, seq, index) = snapshot::read_version(at)?;
    (row == key).then_some(EventId { seq, index })
}

/// Whether a version's key stands at or before a spot of a row.
fn before_or_at(at: &[u8], key: &[u8], spot: EventId) -> bool {
    match snapshot::read_version(at) {
        Some((row, seq, index)) => (row, EventId { seq, index }) <= (key, spot),
        None => at <= key,
    }
}

/// Traces a row back through an era; says what lies under the patches where the era tells.
fn trace_in(
    era: &LayerFile,
    key: &[u8],
    (after, upto): (EventId, EventId),
    traced: &mut Traced,
) -> Result<Option<Option<Document>>> {
    if !era.file.may_contain(tree::VERSIONS, key)? {
        return Ok(None);
    }
    let mut cursor = era.file.cursor(tree::VERSIONS);
    cursor.seek_last_by(|at| before_or_at(at, key, upto))?;
    while let (Some(at), Some(value)) = (cursor.key(), cursor.value()) {
        let Some(spot) = version_of(at, key).filter(|spot| *spot > after) else { break };
        let version = VersionEntry::decode(&value).map_err(|e| at_file(e, &era.file))?;
        if let Some(under) = traced.take(spot.seq, version) {
            return Ok(Some(under));
        }
        cursor.prev()?;
    }
    Ok(None)
}

fn full_row(full: &LayerFile, key: &[u8]) -> Result<Option<RowEntry>> {
    if !full.file.may_contain(tree::ROWS, key)? {
        return Ok(None);
    }
    let mut cursor = full.file.cursor(tree::ROWS);
    cursor.seek(key)?;
    match cursor.value() {
        Some(value) if cursor.key() == Some(key) => {
            RowEntry::decode(&value).map(Some).map_err(|e| at_file(e, &full.file))
        }
        _ => Ok(None),
    }
}
