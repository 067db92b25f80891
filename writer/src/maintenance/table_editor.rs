//! Changes which files make up a table: locks the table, edits its manifest, and makes admission read the new
//! files.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::format::manifest::Manifest;
use driftdb_common::storage::layout::snapshot_files;
use driftdb_common::storage::wal::appender::{AppendError, TableStorage};
use driftdb_common::table::build::new_files::remove_unlisted;
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::log_tail::ReadLimit;
use parking_lot::Mutex;

use crate::maintenance::context::MaintenanceContext;
use crate::maintenance::deletions::PendingDeletions;

/// Changes tables' files.
#[derive(Debug)]
pub(super) struct TableEditor {
    context: Arc<MaintenanceContext>,
    /// By table id.
    locks: Mutex<HashMap<u64, Arc<Mutex<()>>>>,
    deletions: PendingDeletions,
}

impl TableEditor {
    pub(super) fn new(context: Arc<MaintenanceContext>) -> TableEditor {
        TableEditor { context, locks: Mutex::default(), deletions: PendingDeletions::default() }
    }

    /// The lock that a job holds while it changes a table's files.
    pub(super) fn table_lock(&self, id: u64) -> Arc<Mutex<()>> {
        Arc::clone(self.locks.lock().entry(id).or_default())
    }

    /// A table's manifest, the limit up to which its log may be read, and the files that the manifest names.
    /// The caller must hold the table's lock.
    pub(super) fn current(&self, id: u64) -> Result<(Manifest, ReadLimit, Arc<LayerMap>)> {
        let commits = &self.context.commits;
        let (manifest, limit) = commits.log.manifest(id)?;
        let mut layers = commits.catalog.layers(id)?;
        if !layers.matches(&manifest) {
            // An earlier edit named these files in the manifest and then failed to open them. The next edit
            // depends on them.
            layers = Arc::new(self.context.files.open(&manifest, Some(&layers))?);
            commits.updates.set_layers(id, &layers);
        }
        Ok((manifest, limit, layers))
    }

    /// Edits a table's manifest and makes admission read the new files. Files that the manifest no longer
    /// names are scheduled for deletion. Returns the new manifest.
    pub(super) fn replace_files(
        &self,
        id: u64,
        edit: impl Fn(&mut Manifest) + Send + Sync + 'static,
    ) -> Result<Manifest> {
        let (before, after) = self.edit_manifest(id, edit)?;
        self.switch_files(id, before, &after)?;
        Ok(after)
    }

    /// Edits a table's manifest and returns it before and after.
    pub(super) fn edit_manifest(
        &self,
        id: u64,
        edit: impl Fn(&mut Manifest) + Send + Sync + 'static,
    ) -> Result<(Option<Manifest>, Manifest)> {
        let edit = Arc::new(edit);
        let edited = self.edit(id, &edit);
        let (before, after, storage) = edited.inspect_err(|_| self.remove_new_files(id, &*edit))?;
        self.context.commits.updates.set_storage(id, storage);
        Ok((before, after))
    }

    /// Edits a manifest: writes it on this thread, and has the committer put it in place.
    fn edit<F>(&self, id: u64, edit: &Arc<F>) -> Result<(Option<Manifest>, Manifest, TableStorage)>
    where
        F: Fn(&mut Manifest) + Send + Sync + 'static,
    {
        let log = &self.context.commits.log;
        loop {
            let applied = Arc::clone(edit);
            let (before, begun) = log.run(move |log| {
                let before = log.manifest(id).cloned();
                let begun = log.begin_edit(id, &mut |manifest| {
                    applied(manifest);
                    Ok(())
                })?;
                Ok((before, begun))
            })?;
            match begun.write() {
                Ok(()) => {}
                Err(AppendError::Refused(error)) => return Err(error),
                // The committer must stop.
                Err(fatal) => return log.run(move |_| Err(fatal)),
            }
            let installed = log.run(move |log| {
                let after = log.install_edit(&begun)?;
                Ok(after.map(|after| (after, log.table_storage(id))))
            })?;
            // Otherwise a segment was full meanwhile, which is rare.
            if let Some((after, storage)) = installed {
                return Ok((before, after, storage));
            }
        }
    }

    /// Removes the files that a manifest would name if an edit had not failed. The next try may write others.
    fn remove_new_files(&self, id: u64, edit: &dyn Fn(&mut Manifest)) {
        let Ok((before, _)) = self.context.commits.log.manifest(id) else { return };
        let mut after = before.clone();
        edit(&mut after);
        let kept = snapshot_files(&self.context.files.dir, &before);
        let new = snapshot_files(&self.context.files.dir, &after);
        let new: Vec<PathBuf> = new.into_iter().filter(|file| !kept.contains(file)).collect();
        remove_unlisted(&self.context.files, &before.table, &new);
    }

    /// Makes admission read the files of an edited manifest.
    pub(super) fn switch_files(&self, id: u64, before: Option<Manifest>, after: &Manifest) -> Result<()> {
        let commits = &self.context.commits;
        let known = commits.catalog.layers(id)?;
        let layers = Arc::new(self.context.files.open(after, Some(&known))?);
        commits.updates.set_layers(id, &layers);
        if let Some(before) = before {
            let dir = &self.context.files.dir;
            let kept = snapshot_files(dir, after);
            let unused = snapshot_files(dir, &before).into_iter().filter(|file| !kept.contains(file));
            self.deletions.schedule_delete(unused);
        }
        Ok(())
    }

    /// Schedules files that no manifest names for deletion.
    pub(super) fn schedule_delete(&self, files: impl IntoIterator<Item = PathBuf>) {
        self.deletions.schedule_delete(files);
    }

    /// Cancels the deletion of files that are about to be written again under the same name.
    pub(super) fn cancel_delete(&self, files: &[PathBuf]) {
        self.deletions.cancel_delete(files);
    }

    /// Deletes the scheduled files whose grace period is over, or all of them if `all` is set.
    pub(super) fn delete_unused_files(&self, all: bool) {
        self.deletions.delete_due(&*self.context.files.fs, all);
    }
}
