//! Builds damaged layers and indexes again: delta layers from the log, image layers and indexes from the delta layers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::manifest::{DeltaLayer, Manifest};
use driftdb_common::storage::layout::{delta_stem, image_stem, set_aside_path, snapshot_files};
use driftdb_common::table::build::delta::{self, DeltaLimits};
use driftdb_common::table::build::progress::ProgressFn;
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::log_tail::ReadLimit;

use crate::maintenance::context::MaintenanceContext;
use crate::maintenance::health::{CANNOT_REBUILD, Chore};
use crate::maintenance::snapshotter::Snapshotter;
use crate::maintenance::table_editor::TableEditor;

/// Builds damaged files again.
#[derive(Debug)]
pub(super) struct Rebuilder {
    context: Arc<MaintenanceContext>,
    editor: Arc<TableEditor>,
    snapshotter: Arc<Snapshotter>,
}

impl Rebuilder {
    pub(super) fn new(
        context: Arc<MaintenanceContext>,
        editor: Arc<TableEditor>,
        snapshotter: Arc<Snapshotter>,
    ) -> Rebuilder {
        Rebuilder { context, editor, snapshotter }
    }

    /// Builds the damaged files of every table again.
    pub(super) fn rebuild_all(&self, progress: ProgressFn<'_>) -> Result<()> {
        let health = &self.context.health;
        let listed = health.damaged_files.list();
        let damaged: Vec<PathBuf> = listed
            .into_iter()
            .filter(|(_, done)| done != CANNOT_REBUILD)
            .map(|(file, _)| file.path)
            .collect();
        if damaged.is_empty() {
            return Ok(());
        }
        let tables = self
            .context
            .commits
            .catalog
            .tables()
            .into_iter()
            .map(|table| (table.id, table.schema.table.clone()));
        for (id, name) in tables {
            // A table whose CREATE is not on disk has no files.
            let Ok((manifest, _)) = self.context.commits.log.manifest(id) else { continue };
            let dir = self.context.files.dir.table(&manifest.table);
            let own: Vec<PathBuf> = damaged.iter().filter(|path| path.starts_with(&dir)).cloned().collect();
            if own.is_empty() || health.is_paused(id, Chore::Rebuild) {
                continue;
            }
            let outcome = self.rebuild(id, &own, progress);
            if outcome.as_ref().is_err_and(|error| error.reason() == Reason::ShuttingDown) {
                return outcome;
            }
            if outcome.is_ok() {
                tracing::info!(table = name, files = own.len(), "built damaged files again");
            }
            health.note_outcome((id, &name), Chore::Rebuild, outcome.err());
        }
        Ok(())
    }

    /// Builds the damaged files of a table again: those that its manifest still names at once, the others with the next
    /// snapshot, which is taken now.
    fn rebuild(&self, id: u64, damaged: &[PathBuf], progress: ProgressFn<'_>) -> Result<()> {
        let dir = {
            let lock = self.editor.table_lock(id);
            let _locked = lock.lock();
            let (manifest, limit, layers) = self.editor.current(id)?;
            let named = snapshot_files(&self.context.files.dir, &manifest);
            let named: Vec<PathBuf> = named.into_iter().filter(|file| damaged.contains(file)).collect();
            if !named.is_empty() && !self.replace_named(&manifest, limit, &layers, &named, progress)? {
                return Ok(());
            }
            self.context.files.dir.table(&manifest.table)
        };
        self.snapshotter.take_snapshot(id, progress)?;
        self.context.health.forget_damage_below(&dir);
        Ok(())
    }

    /// Replaces damaged files that the manifest names. Returns false if the log cannot replace one of them. The caller must
    /// hold the table's lock.
    fn replace_named(
        &self,
        manifest: &Manifest,
        limit: ReadLimit,
        layers: &LayerMap,
        damaged: &[PathBuf],
        progress: ProgressFn<'_>,
    ) -> Result<bool> {
        let files = &self.context.files;
        match files.open_sound(manifest, Some(layers), damaged) {
            Ok(_) => {}
            Err(error) if error.reason() == Reason::Corrupt => {
                for (file, _) in self.context.health.damaged_files.list() {
                    if damaged.contains(&file.path) {
                        self.context.health.damaged_files.add(file, CANNOT_REBUILD);
                    }
                }
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        for path in damaged {
            self.keep_aside(path, manifest.term)?;
        }
        let mut rebuilt = manifest.clone();
        rebuilt.deltas.clear();
        for delta in &manifest.deltas {
            if damaged.contains(&files.dir.delta_layer(&manifest.table, delta.base, delta.seq)) {
                let built = self.build_deltas(&rebuilt, delta, limit, layers, progress)?;
                rebuilt.deltas.extend(built);
            } else {
                rebuilt.deltas.push(delta.clone());
            }
        }
        let (dir, table) = (files.dir.clone(), manifest.table.clone());
        let (deltas, gone) = (rebuilt.deltas, damaged.to_vec());
        self.editor.replace_files(manifest.table_id, move |manifest| {
            manifest.deltas.clone_from(&deltas);
            for delta in &mut manifest.deltas {
                let stem = delta_stem(delta.base, delta.seq);
                delta.indexes.retain(|path| !gone.contains(&dir.index(&table, path, &stem)));
            }
            manifest.images.retain(|image| !gone.contains(&dir.image_layer(&table, image.seq)));
            for image in &mut manifest.images {
                let stem = image_stem(image.seq);
                image.indexes.retain(|path| !gone.contains(&dir.index(&table, path, &stem)));
            }
        })?;
        // Their names are free: nothing must delete what is written there next.
        self.editor.cancel_delete(damaged);
        Ok(true)
    }

    /// Builds delta layers in place of a damaged one, after those of `before`.
    fn build_deltas(
        &self,
        before: &Manifest,
        damaged: &DeltaLayer,
        limit: ReadLimit,
        known: &LayerMap,
        progress: ProgressFn<'_>,
    ) -> Result<Vec<DeltaLayer>> {
        let files = &self.context.files;
        let triggers = &self.context.triggers;
        let limits = DeltaLimits { events: triggers.events, bytes: triggers.bytes };
        let limit = ReadLimit { seq: damaged.seq, ..limit };
        let mut manifest = before.clone();
        let mut built: Vec<DeltaLayer> = Vec::new();
        while built.last().is_none_or(|last| last.seq < damaged.seq) {
            let end = manifest.deltas.last().map_or(0, |delta| delta.seq);
            manifest.images.retain(|image| image.seq <= end);
            let layers = files.open(&manifest, Some(known))?;
            let Some(next) = delta::build_next(files, &manifest, &layers, limit, limits, progress)? else {
                let message = format!(
                    "the log of table {:?} has no commit between {end} and {}",
                    manifest.table, damaged.seq
                );
                return Err(Error::new(Reason::Internal, message));
            };
            manifest.deltas.push(next.layer.clone());
            built.push(next.layer);
        }
        Ok(built)
    }

    /// Renames a damaged file, so that a new one can take its name.
    fn keep_aside(&self, path: &Path, term: u64) -> Result<()> {
        let fs = &self.context.files.fs;
        match fs.rename(path, &set_aside_path(path, term)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.map_err(|e| Error::io(format_args!("cannot rename {}", path.display()), &e)),
        }
    }
}
