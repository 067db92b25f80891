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
use crate::storage::head::{self, DecodedHead, Head};
use crate::storage::layout::{self, DataDir};
use crate::storage::wal::cursor::{CursorItem, LogCursor, SegmentSpan};

/// Reads HEAD.
#[derive(Debug)]
pub struct HeadReader {
    fs: Arc<dyn FileSystem>,
    dir: DataDir,
    /// The last HEAD, if it was sound.
    last: Mutex<Option<DecodedHead>>,
    /// The last HEAD with a damaged entry, without it and with it replaced: the segments are read once for each.
    replaced: Mutex<Option<(Head, Arc<Head>)>>,
}

/// HEAD, and the damage that was found in it.
#[derive(Debug)]
pub struct FoundHead {
    /// HEAD, with every entry; the same as the last time if nothing has changed.
    pub head: Arc<Head>,
    /// The damaged entry that was replaced.
    pub damage: Option<Error>,
}

impl HeadReader {
    /// A reader of the HEAD of a data directory.
    pub fn new(fs: &Arc<dyn FileSystem>, dir: &DataDir) -> HeadReader {
        HeadReader {
            fs: Arc::clone(fs),
            dir: dir.clone(),
            last: Mutex::new(None),
            replaced: Mutex::new(None),
        }
    }

    /// Reads HEAD. Returns `None` if it does not exist. Fails with CORRUPT if neither copy of the header is valid, or if the
    /// segments do not give a damaged entry.
    pub fn read(&self) -> Result<Option<FoundHead>> {
        let last = self.last.lock().take();
        let damage = match head::read_again(&*self.fs, &self.dir, last.as_ref()) {
            Ok(found) => {
                let head = found.as_ref().map(|found| Arc::clone(&found.head));
                *self.last.lock() = found;
                return Ok(head.map(|head| FoundHead { head, damage: None }));
            }
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
            return Ok(Some(FoundHead { head: Arc::clone(head), damage: Some(damage) }));
        }
        match replace_damaged_entries(&self.fs, &self.dir, &found)? {
            Some(head) => {
                let head = Arc::new(head);
                *replaced = Some((found, Arc::clone(&head)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::head::{CELL, FORMAT_VERSION, HeadIncarnation};
    use crate::storage::fs::sim::SimDisk;

    #[test]
    fn each_look_sees_what_has_changed_and_what_is_damaged_since_the_last() {
        let (disk, dir) = (SimDisk::new(), DataDir::new("/data"));
        let fs: Arc<dyn FileSystem> = Arc::new(disk.clone());
        let entry = |table| TableEntry { table, bytes: 10, last_seq: table, ..TableEntry::default() };
        let header = Header {
            database_id: [1; 16],
            epoch: 1,
            term: 1,
            last_seq: 9,
            last_ms: 0,
            generation: 0,
            table_entry_count: 3,
            closed: false,
            format: FORMAT_VERSION,
        };
        let mut head =
            Head { header, incarnation: HeadIncarnation::default(), entries: (1..=3).map(entry).collect() };
        let reader = HeadReader::new(&fs, &dir);
        let look = || reader.read().unwrap().unwrap();

        disk.put(dir.head(), &head.encode()).unwrap();
        let first = look();
        assert!(*first.head == head && first.damage.is_none());
        assert!(Arc::ptr_eq(&look().head, &first.head), "nothing has changed");

        // An entry changes, then only the header, then there is one more entry.
        head.entries[1].bytes = 20;
        disk.put(dir.head(), &head.encode()).unwrap();
        assert_eq!(*look().head, head);
        (head.header.last_seq, head.header.generation) = (10, 1);
        disk.put(dir.head(), &head.encode()).unwrap();
        assert_eq!(*look().head, head);
        head.entries.push(entry(4));
        head.header.table_entry_count = 4;
        disk.put(dir.head(), &head.encode()).unwrap();
        assert_eq!(*look().head, head);

        // Any flipped bit of an entry is found, also if nothing else has changed.
        let sound = head.encode();
        for bit in [0, 40, 8 * CELL - 1] {
            let mut bytes = sound.clone();
            bytes[6 * CELL + bit / 8] ^= 1 << (bit % 8);
            disk.put(dir.head(), &bytes).unwrap();
            for _ in 0..2 {
                let found = look();
                assert!(found.damage.is_some(), "bit {bit}");
                assert_eq!(found.head.entries[2], TableEntry::default());
            }
            disk.put(dir.head(), &sound).unwrap();
            let found = look();
            assert!(*found.head == head && found.damage.is_none());
        }
        // Entries that have changed places are not valid.
        let mut swapped = sound.clone();
        swapped.copy_within(4 * CELL..5 * CELL, 5 * CELL);
        disk.put(dir.head(), &swapped).unwrap();
        assert!(look().damage.is_some());
    }
}
