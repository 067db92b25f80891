//! A walk over the rows of a chain as they were at a moment, in the order of keys.

use std::sync::Arc;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::event::EventType;
use crate::format::snapshot::{self, RowEntry, VersionEntry, tree};
use crate::storage::sst::{SstFile, TreeCursor};
use crate::table::layers::{EventId, RowVersion, Traced, at_file, before_or_at, version_of};
use crate::table::state;

/// A file's rows, or versions of rows.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) cursor: TreeCursor,
    pub(super) file: Arc<SstFile>,
    pub(super) full: bool,
}

impl Source {
    /// The row that it stands at.
    fn key(&self) -> Option<&[u8]> {
        let key = self.cursor.key()?;
        if self.full { Some(key) } else { snapshot::read_version(key).map(|(row, ..)| row) }
    }
}

/// Versions of one row gone through one by one; a row with more is looked up instead.
const VERSIONS_IN_A_ROW: usize = 32;

/// A walk over the rows as they were at a moment, in the order of keys.
#[derive(Debug)]
pub struct LayerScan {
    /// All rows first, then the eras, oldest first.
    pub(super) sources: Vec<Source>,
    pub(super) covered: EventId,
    pub(super) upto: EventId,
}

impl LayerScan {
    /// The next row's sort key.
    pub fn key(&self) -> Option<Vec<u8>> {
        self.sources.iter().filter_map(Source::key).min().map(<[u8]>::to_vec)
    }

    /// The row with this key, which is the next; goes on to the one after it. None where it has no version yet.
    pub fn take(&mut self, key: &[u8]) -> Result<Option<RowVersion>> {
        let mut row = Pending::default();
        for source in &mut self.sources {
            if source.key() != Some(key) {
                continue;
            }
            if source.full {
                let value = source.cursor.value().unwrap_or_default();
                let entry = RowEntry::decode(&value).map_err(|e| at_file(e, &source.file))?;
                let RowEntry { seq, time_ms, document } = entry;
                row = Pending { newest: Some((seq, time_ms)), under: Some(document), patches: Vec::new() };
                source.cursor.next()?;
            } else {
                take_versions(source, key, (self.covered, self.upto), &mut row)?;
            }
        }
        row.finish()
    }
}

/// A row as far as versions, oldest first, have told it. Patches wait: mostly a whole document comes after them.
#[derive(Debug, Default)]
struct Pending {
    /// Seq and time of the newest version.
    newest: Option<(u64, u64)>,
    under: Option<Document>,
    /// Patches on top of it, oldest first.
    patches: Vec<Document>,
}

impl Pending {
    /// Takes in the next later version.
    fn take(&mut self, seq: u64, version: VersionEntry) {
        self.newest = Some((seq, version.time_ms));
        match (version.kind, version.image) {
            (EventType::Patch, None) => self.patches.extend(version.payload),
            (EventType::Insert, _) => self.stand_on(version.payload),
            (EventType::Patch, image) => self.stand_on(image),
            _ => self.stand_on(None),
        }
    }

    fn stand_on(&mut self, document: Option<Document>) {
        self.under = document;
        self.patches.clear();
    }

    fn finish(self) -> Result<Option<RowVersion>> {
        let Some((seq, time_ms)) = self.newest else { return Ok(None) };
        let mut document = self.under;
        for patch in &self.patches {
            document = state::apply(document.as_ref(), EventType::Patch, Some(patch))?;
        }
        Ok(Some(RowVersion { seq, time_ms, document }))
    }
}

/// Takes in an era's versions of a row, and goes on to the next row.
fn take_versions(
    source: &mut Source,
    key: &[u8],
    (covered, upto): (EventId, EventId),
    row: &mut Pending,
) -> Result<()> {
    let mut seen = covered;
    for _ in 0..VERSIONS_IN_A_ROW {
        let Some(spot) = source.cursor.key().and_then(|at| version_of(at, key)) else { return Ok(()) };
        if spot > covered && spot <= upto {
            let value = source.cursor.value().unwrap_or_default();
            row.take(spot.seq, VersionEntry::decode(&value).map_err(|e| at_file(e, &source.file))?);
            seen = spot;
        }
        source.cursor.next()?;
    }
    // Many versions: the newest that counts, and what it rests on, from behind.
    let mut traced = Traced::default();
    let mut under = None;
    let mut behind = source.file.cursor(tree::VERSIONS);
    behind.seek_last_by(|at| before_or_at(at, key, upto))?;
    while let (Some(at), Some(value)) = (behind.key(), behind.value()) {
        let Some(spot) = version_of(at, key).filter(|spot| *spot > seen) else { break };
        let version = VersionEntry::decode(&value).map_err(|e| at_file(e, &source.file))?;
        under = traced.take(spot.seq, version);
        if under.is_some() {
            break;
        }
        behind.prev()?;
    }
    if let Some(under) = under {
        row.stand_on(under);
    }
    row.newest = traced.newest.or(row.newest);
    row.patches.extend(traced.patches.into_iter().rev());
    source.cursor.seek_by(|at| before_or_at(at, key, EventId::end_of(u64::MAX)))
}
