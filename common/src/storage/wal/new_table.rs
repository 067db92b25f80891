//! The files of a new table: made whole before the commit that creates the table is written, and removed if it is refused.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::head::TableEntry;
use crate::format::manifest::{self, Manifest, Segment};
use crate::storage::fs::{self, FileSystem};
use crate::storage::layout::DataDir;
use crate::storage::wal::appender::{AppendError, Log, TableLog};
use crate::storage::wal::segment::ActiveSegment;

/// A table's directory with its first segment, and its manifest under a temporary name.
#[derive(Debug)]
pub(super) struct NewTable {
    pub(super) segment: ActiveSegment,
    manifest: Manifest,
    temporary: PathBuf,
    path: PathBuf,
}

impl Log {
    /// Creates a table's directory and first segment, durable with their names (I6). HEAD must have been synced.
    pub(super) fn create_table(&mut self, id: u64, name: &str) -> Result<NewTable> {
        let made = self.make_table(id, name);
        if made.is_err() {
            remove_directories(&*self.fs, &self.dir, name);
        }
        made.map_err(|error| error.context(format_args!("cannot create table {name:?}")))
    }

    fn make_table(&mut self, id: u64, name: &str) -> Result<NewTable> {
        let failed =
            |e: io::Error| Error::io(format_args!("cannot write {}", self.dir.table(name).display()), &e);
        self.fs.create_dir(&self.dir.segments(name)).map_err(failed)?;
        self.fs.sync_dir(&self.dir.tables()).map_err(failed)?;
        self.fs.sync_dir(&self.dir.table(name)).map_err(failed)?;
        let segment = self.new_segment(name, 1)?;
        let manifest = Manifest {
            table: name.to_owned(),
            name: None,
            table_id: id,
            version: 1,
            term: self.term(),
            published: self.published().0,
            published_ms: 0,
            floor: None,
            deltas: Vec::new(),
            images: Vec::new(),
            segments: vec![Segment { number: 1, sealed: None }],
        };
        let (temporary, path) = self.manifest_paths(&manifest);
        let written = manifest::encode(&manifest)
            .and_then(|bytes| fs::write_temporary(&*self.fs, &temporary, &bytes).map_err(failed));
        match written {
            Ok(()) => Ok(NewTable { segment, manifest, temporary, path }),
            Err(error) => {
                segment.discard();
                Err(error)
            }
        }
    }

    /// Adds a new table, whose manifest is in place. It has no entry in HEAD yet.
    pub(super) fn add_new_table(&mut self, table: NewTable) {
        let NewTable { segment, manifest, .. } = table;
        let entry_index = self.tables.values().map(|table| table.entry_index + 1).max().unwrap_or(0);
        let id = manifest.table_id;
        let entry = TableEntry { table: id, manifest: 1, segment: 1, ..TableEntry::default() };
        self.tables.insert(id, TableLog { manifest, entry_index, entry, segment, next: None, reserved: 1 });
    }
}

impl NewTable {
    /// Puts the manifests of new tables in place, durably. If this is refused, none of them is.
    pub(super) fn install_all(fs: &dyn FileSystem, tables: &[NewTable]) -> Result<(), AppendError> {
        for (at, table) in tables.iter().enumerate() {
            let Err(error) = table.install(fs) else { continue };
            let failed = |e: io::Error| Error::io(format_args!("cannot write {}", table.path.display()), &e);
            // A later commit will have the number of this one, which is the table's id. After a power cut, the manifest
            // would claim that commit.
            let undone = tables.iter().take(at + 1).try_for_each(|table| table.uninstall(fs));
            return Err(match undone {
                Ok(()) => AppendError::from_step(failed(error)),
                Err(_) => AppendError::Fatal(failed(error)),
            });
        }
        Ok(())
    }

    fn install(&self, fs: &dyn FileSystem) -> io::Result<()> {
        fs.rename(&self.temporary, &self.path)?;
        fs::sync_parent(fs, &self.path)
    }

    fn uninstall(&self, fs: &dyn FileSystem) -> io::Result<()> {
        fs::remove_if_exists(fs, &self.path)?;
        fs::sync_parent(fs, &self.path)
    }

    /// Removes everything that was made. The manifest is not in place.
    pub(super) fn discard(self, fs: &dyn FileSystem, dir: &DataDir) {
        fs::discard(fs, &self.temporary);
        self.segment.discard();
        remove_directories(fs, dir, &self.manifest.table);
    }
}

/// Removes a table's directories if nothing is in them. What stays is used when the table is created, or removed by the next
/// open.
fn remove_directories(fs: &dyn FileSystem, dir: &DataDir, table: &str) {
    let remove = |path: &Path| match fs.remove_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(error = %e, path = %path.display(), "cannot remove a directory");
        }
        _ => {}
    };
    remove(&dir.segments(table));
    remove(&dir.table(table));
}
