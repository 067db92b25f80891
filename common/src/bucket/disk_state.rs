//! What a data directory has, as of one HEAD: read from the disk, beside the writer or without one.
//!
//! A writer writes the table entries of HEAD before the header that counts them, and replaces manifests between two groups. So a HEAD
//! counts here only if no entry is newer than its header, and a manifest only if HEAD is at least as new. Otherwise both are read again:
//! a mirror must never have half a commit.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::bucket::shipped::ShippedState;
use crate::error::{Error, Reason, Result};
use crate::format::head::TableEntry;
use crate::format::manifest::{self, Manifest};
use crate::storage::fs::{self, FileSystem};
use crate::storage::head::{self, Head};
use crate::storage::layout::{self, DataDir};

/// How often the directory is read again while its writer changes it.
const TRIES: u32 = 1000;

/// A table, as of a HEAD.
#[derive(Debug, Clone)]
pub(super) struct TableOnDisk {
    /// The table's entry in HEAD.
    pub(super) entry: TableEntry,
    /// The manifest.
    pub(super) manifest: Manifest,
    /// The manifest's bytes, if the bucket has another version or the next chunk is a base.
    pub(super) bytes: Option<Bytes>,
}

/// A HEAD and the tables that it has.
#[derive(Debug, Clone)]
pub(super) struct DiskState {
    pub(super) head: Head,
    pub(super) tables: Vec<TableOnDisk>,
}

/// A data directory that is read.
#[derive(Debug, Clone)]
pub(super) struct DiskReader {
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) dir: DataDir,
}

impl DiskReader {
    /// Reads a HEAD whose entries are not newer than its header. Returns `None` if the directory has no HEAD.
    pub(super) fn head(&self) -> Result<Option<Head>> {
        for _ in 0..TRIES {
            let Some(head) = head::read(&*self.fs, &self.dir)? else { return Ok(None) };
            if head.last_seq() <= head.header.last_seq {
                return Ok(Some(head));
            }
            std::thread::yield_now();
        }
        Err(self.busy())
    }

    fn busy(&self) -> Error {
        let message = format!("{} changes all the time; try again later", self.dir.root().display());
        Error::new(Reason::Overloaded, message)
    }

    /// Reads HEAD and the manifests that the bucket does not have, or all.
    pub(super) fn state(&self, shipped: &ShippedState, all: bool) -> Result<Option<DiskState>> {
        for _ in 0..TRIES {
            let Some(first) = self.head()? else { return Ok(None) };
            let read = self.tables(&first, shipped, all)?;
            // Manifests that were read before this HEAD name no later commit than it.
            let Some(head) = self.head()? else { return Ok(None) };
            if let Some(tables) = read.and_then(|tables| match_entries(&head, tables)) {
                return Ok(Some(DiskState { head, tables }));
            }
        }
        Err(self.busy())
    }

    /// Reads the manifests for a HEAD that is about to be published, while nothing else changes them.
    pub(super) fn state_of(&self, head: Head, shipped: &ShippedState, all: bool) -> Result<DiskState> {
        let tables = self.tables(&head, shipped, all)?;
        let tables = tables.ok_or_else(|| self.outdated())?;
        Ok(DiskState { head, tables })
    }

    fn outdated(&self) -> Error {
        let message = format!("a manifest in {} is older than HEAD", self.dir.root().display());
        Error::new(Reason::Internal, message)
    }

    /// Reads the manifest of each entry. Returns `None` if one is older than its entry.
    fn tables(&self, head: &Head, shipped: &ShippedState, all: bool) -> Result<Option<Vec<TableOnDisk>>> {
        let mut tables = Vec::new();
        let mut found = None;
        for entry in head.entries.iter().filter(|entry| entry.table != 0) {
            let known = shipped.manifests.get(&entry.table);
            if let Some(manifest) = known.filter(|manifest| manifest.version == entry.manifest && !all) {
                tables.push(TableOnDisk { entry: *entry, manifest: manifest.clone(), bytes: None });
                continue;
            }
            let name = match known {
                Some(manifest) => manifest.table.clone(),
                None => {
                    if found.is_none() {
                        found = Some(self.unknown_tables(shipped)?);
                    }
                    match found.as_ref().and_then(|found| found.get(&entry.table)) {
                        Some(name) => name.clone(),
                        None => return Ok(None),
                    }
                }
            };
            let Some((manifest, bytes)) = self.manifest(&name)? else { return Ok(None) };
            if manifest.table_id != entry.table || manifest.version < entry.manifest {
                return Ok(None);
            }
            tables.push(TableOnDisk { entry: *entry, manifest, bytes: Some(bytes) });
        }
        Ok(Some(tables))
    }

    /// The names of the directories of tables that the bucket does not have, by table id.
    fn unknown_tables(&self, shipped: &ShippedState) -> Result<HashMap<u64, String>> {
        let mut found = HashMap::new();
        let known: HashSet<&str> =
            shipped.manifests.values().map(|manifest| manifest.table.as_str()).collect();
        for name in layout::table_names(&*self.fs, &self.dir)? {
            if !known.contains(name.as_str())
                && let Some((manifest, _)) = self.manifest(&name)?
            {
                found.insert(manifest.table_id, name);
            }
        }
        Ok(found)
    }

    fn manifest(&self, table: &str) -> Result<Option<(Manifest, Bytes)>> {
        let path = self.dir.manifest(table);
        let Some(bytes) = fs::read(&*self.fs, &path, manifest::FILE_BYTES)? else { return Ok(None) };
        let found: Manifest =
            manifest::decode(&bytes).map_err(|detail| Error::corrupt(path.display(), 0, detail))?;
        if found.table != table {
            let detail = format!("the manifest is that of table {:?}", found.table);
            return Err(Error::corrupt(path.display(), 0, detail));
        }
        Ok(Some((found, Bytes::from(bytes))))
    }

    /// Reads a small file of the directory; `None` if it does not exist.
    pub(super) fn file(&self, path: &str) -> Result<Option<Bytes>> {
        let found = fs::read(&*self.fs, &self.dir.root().join(path), manifest::FILE_BYTES)?;
        Ok(found.map(Bytes::from))
    }
}

/// Gives each table its entry in a HEAD that was read after the manifests. Returns `None` if a table is missing, or if its manifest is
/// older than its entry.
fn match_entries(head: &Head, tables: Vec<TableOnDisk>) -> Option<Vec<TableOnDisk>> {
    let mut by_id: HashMap<u64, TableOnDisk> =
        tables.into_iter().map(|table| (table.manifest.table_id, table)).collect();
    let entries = head.entries.iter().filter(|entry| entry.table != 0);
    entries
        .map(|entry| {
            let table = by_id.remove(&entry.table)?;
            (table.manifest.version >= entry.manifest).then_some(TableOnDisk { entry: *entry, ..table })
        })
        .collect()
}
