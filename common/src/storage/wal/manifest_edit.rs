//! Changes which files make up a table: the new manifest is written away from the log, and put in place by it.
//!
//! Syncs take long while a job writes files, so a commit must not wait for more of them than it has to. The manifest is written
//! and synced under a temporary name of its own by the thread of the job. Between two groups, the log renames it, syncs the
//! directory and publishes it. If the log has changed the table's manifest meanwhile, because a segment was full, the edit is
//! begun again.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Reason, Result};
use crate::format::manifest::{self, Manifest};
use crate::storage::fs::{self, FileSystem};
use crate::storage::head_file::HeadSyncer;
use crate::storage::wal::appender::{AppendError, Log};

/// A change of a table's manifest that was begun.
#[derive(Debug)]
pub struct ManifestEdit {
    id: u64,
    manifest: Manifest,
    fs: Arc<dyn FileSystem>,
    head: Arc<HeadSyncer>,
    temporary: PathBuf,
    path: PathBuf,
}

impl ManifestEdit {
    /// Writes the manifest under a temporary name, durably. Blocks, and needs nothing of the log.
    pub fn write(&self) -> Result<(), AppendError> {
        // A manifest must not name a later commit than HEAD on disk.
        let synced = self.head.sync_if_dirty();
        synced.map_err(|e| AppendError::Fatal(Error::io("cannot sync HEAD", &e)))?;
        let bytes = manifest::encode(&self.manifest).map_err(AppendError::from_step)?;
        fs::write_temporary(&*self.fs, &self.temporary, &bytes).map_err(|e| self.failed(&e))
    }

    /// Removes the temporary file.
    fn discard(&self) {
        fs::discard(&*self.fs, &self.temporary);
    }

    fn failed(&self, error: &std::io::Error) -> AppendError {
        AppendError::from_step(Error::io(format_args!("cannot write {}", self.path.display()), error))
    }
}

impl Log {
    /// Changes which files make up a table, except its active segment, and publishes the change. The files that the new
    /// manifest lists must be durable. After a failure, the old files stay in use; it is then not known which manifest is
    /// on disk, and both are valid. The floor is published before anything relies on it.
    pub fn edit_manifest(
        &mut self,
        id: u64,
        edit: &mut dyn FnMut(&mut Manifest) -> Result<()>,
    ) -> Result<Manifest, AppendError> {
        let edit = self.begin_edit(id, edit)?;
        edit.write()?;
        let outdated = || Error::new(Reason::Internal, "a manifest changed while it was edited");
        self.install_edit(&edit)?.ok_or_else(|| AppendError::Refused(outdated()))
    }

    /// Begins a change as [`Log::edit_manifest`] makes it. Nothing is written yet.
    pub fn begin_edit(
        &mut self,
        id: u64,
        edit: &mut dyn FnMut(&mut Manifest) -> Result<()>,
    ) -> Result<ManifestEdit, AppendError> {
        let mut manifest = self.next_manifest(self.table(id).map_err(AppendError::Refused)?);
        edit(&mut manifest).map_err(AppendError::from_step)?;
        manifest.published_ms = if manifest.deltas.is_empty() { 0 } else { self.published().1 };
        // Two manifests must never have the same version, even if this one is not put in place.
        self.table_mut(id).map_err(AppendError::Refused)?.manifest.version = manifest.version;
        let (fs, head) = (Arc::clone(&self.fs), Arc::clone(self.head.syncer()));
        let temporary = self.dir.manifest_edit_tmp(&manifest.table, manifest.term);
        let path = self.dir.manifest(&manifest.table);
        Ok(ManifestEdit { id, manifest, fs, head, temporary, path })
    }

    /// Puts a manifest that was written in place, and publishes it. Returns `None`, and changes nothing, if the table's manifest
    /// has changed since the edit was begun.
    pub fn install_edit(&mut self, edit: &ManifestEdit) -> Result<Option<Manifest>, AppendError> {
        let ManifestEdit { id, manifest, fs, temporary, path, .. } = edit;
        if self.table(*id).map_err(AppendError::Refused)?.manifest.version != manifest.version {
            edit.discard();
            return Ok(None);
        }
        let renamed = fs.rename(temporary, path).inspect_err(|_| edit.discard());
        renamed.and_then(|()| fs::sync_parent(&**fs, path)).map_err(|e| edit.failed(&e))?;
        let (last_seq, last_ms) = self.published();
        if let Some(table) = self.tables.get_mut(id) {
            table.entry.manifest = manifest.version;
            table.entry.floor = manifest.floor.map_or(0, |floor| floor.seq);
            table.manifest = manifest.clone();
            let entry = (table.entry_index, table.entry);
            self.fence.check().map_err(AppendError::Fatal)?;
            self.head.publish(&[entry], last_seq, last_ms, false).map_err(AppendError::Fatal)?;
        }
        Ok(Some(manifest.clone()))
    }
}
