//! Reads HEAD for a process that does not hold the lock, also if one of its table entries is damaged.
//!
//! A table entry says how far the table's log is durable. Its segments say the same, because the header names the last
//! published commit: every frame up to that commit was synced before the header was written. So an entry that stays damaged is
//! replaced, in memory only, by one that the segments give. The next writer rewrites the entry on disk.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, Reason, Result};
use crate::format::head::{Header, TableEntry};
use crate::format::manifest::Manifest;
use crate::storage::fs::{self, FileSystem};
use crate::storage::head::{self, Head};
use crate::storage::layout::{self, DataDir};
use crate::storage::wal::cursor::{CursorItem, LogCursor, SegmentSpan};

/// Reads HEAD.
#[derive(Debug)]
pub struct HeadReader {
    fs: Arc<dyn FileSystem>,
    dir: DataDir,
    /// The last HEAD with a damaged entry, without it and with it replaced: the segments are read once for each.
    replaced: Mutex<Option<(Head, Head)>>,
}

/// HEAD, and the damage that was found in it.
#[derive(Debug)]
pub struct FoundHead {
    /// HEAD, with every entry.
    pub head: Head,
    /// The damaged entry that was replaced.
    pub damage: Option<Error>,
}

impl HeadReader {
    /// A reader of the HEAD of a data directory.
    pub fn new(fs: &Arc<dyn FileSystem>, dir: &DataDir) -> HeadReader {
        HeadReader { fs: Arc::clone(fs), dir: dir.clone(), replaced: Mutex::new(None) }
    }

    /// Reads HEAD. Returns `None` if it does not exist. Fails with CORRUPT if neither copy of the header is valid, or if the
    /// segments do not give a damaged entry.
    pub fn read(&self) -> Result<Option<FoundHead>> {
        let damage = match head::read(&*self.fs, &self.dir) {
            Ok(found) => return Ok(found.map(|head| FoundHead { head, damage: None })),
            Err(error) if error.reason() == Reason::Corrupt => error,
            Err(error) => return Err(error),
        };
        let found = match head::read_with_damaged_entries(&*self.fs, &self.dir) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            // No copy of the header or of the incarnation is valid: the damage found first may be another.
            Err(error) => return Err(error),
        };
        let mut replaced = self.replaced.lock();
        if let Some((_, head)) = replaced.as_ref().filter(|(known, _)| *known == found) {
            return Ok(Some(FoundHead { head: head.clone(), damage: Some(damage) }));
        }
        match replace_damaged_entries(&self.fs, &self.dir, &found)? {
            Some(head) => {
                *replaced = Some((found, head.clone()));
                Ok(Some(FoundHead { head, damage: Some(damage) }))
            }
            None => Err(damage),
        }
    }
}

/// Replaces the damaged entries of a HEAD, which are the entries of no table, by those that the segments give. Returns `None` if
/// a published table would be left without an entry.
pub(crate) fn replace_damaged_entries(
    fs: &Arc<dyn FileSystem>,
    dir: &DataDir,
    found: &Head,
) -> Result<Option<Head>> {
    let mut head = found.clone();
    let mut missing = Vec::new();
    for name in layout::table_names(&**fs, dir)? {
        if let Some(manifest) = layout::read_manifest(&**fs, dir, &name)? {
            let id = manifest.table_id;
            let is_published = id <= head.header.last_seq;
            if is_published && found.entries.iter().all(|entry| entry.table != id) {
                missing.push(manifest);
            }
        }
    }
    missing.sort_unstable_by_key(|manifest| manifest.table_id);
    for manifest in missing {
        let entry = entry_from_segments(fs, dir, &head.header, &manifest)?;
        match head.entries.iter_mut().find(|entry| entry.table == 0) {
            Some(damaged) => *damaged = entry,
            None => return Ok(None),
        }
    }
    Ok(Some(head))
}

/// The entry of a table, as its active segment gives it: the log is durable up to the last frame of a published commit.
fn entry_from_segments(
    fs: &Arc<dyn FileSystem>,
    dir: &DataDir,
    header: &Header,
    manifest: &Manifest,
) -> Result<TableEntry> {
    let (name, id) = (&manifest.table, manifest.table_id);
    let segment = manifest.segments.last().map_or(0, |active| active.number);
    let path = dir.segment(name, segment);
    let end = fs.open_fresh(&path).and_then(|file| fs::find_end(&*file));
    let end = end.map_err(|e| fs::read_failed(&path, &e))?;
    let mut cursor = LogCursor::new(Arc::clone(fs), dir, name, id);
    cursor.extend(SegmentSpan { segment, end, seal: None });
    let (mut bytes, mut last_seq) = (0, 0);
    while let CursorItem::Frame(frame) = cursor.next_frame()? {
        if frame.seq > header.last_seq {
            break;
        }
        (bytes, last_seq) = (cursor.position().offset, frame.seq);
    }
    let floor = manifest.floor.map_or(0, |floor| floor.seq);
    Ok(TableEntry { table: id, manifest: manifest.version, segment, bytes, last_seq, floor })
}
