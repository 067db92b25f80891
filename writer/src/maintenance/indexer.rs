//! Builds the indexes that a table's schema names and its newest files lack, and removes those that the
//! schema does not name.

use std::path::PathBuf;
use std::sync::Arc;

use driftdb_common::error::{Reason, Result};
use driftdb_common::format::manifest::Manifest;
use driftdb_common::format::snapshot::kind;
use driftdb_common::storage::layout::{delta_stem, image_stem};
use driftdb_common::table::build::index;
use driftdb_common::table::build::progress::ProgressFn;
use driftdb_common::table::layers::LayerFile;
use driftdb_common::table::table_files::TableFiles;

use crate::commit::CatalogTable;
use crate::maintenance::context::MaintenanceContext;
use crate::maintenance::health::Chore;
use crate::maintenance::table_editor::TableEditor;

/// Builds indexes.
#[derive(Debug)]
pub(super) struct Indexer {
    context: Arc<MaintenanceContext>,
    editor: Arc<TableEditor>,
}

/// An index that was built: of which snapshot, on which path.
#[derive(Debug)]
struct BuiltIndex {
    seq: u64,
    kind: u8,
    path: String,
    bytes: u64,
}

impl Indexer {
    pub(super) fn new(context: Arc<MaintenanceContext>, editor: Arc<TableEditor>) -> Indexer {
        Indexer { context, editor }
    }

    /// Updates the indexes of every table that needs it.
    pub(super) fn update_all(&self, progress: ProgressFn<'_>) -> Result<()> {
        let tables = self.context.commits.catalog.tables();
        for CatalogTable { id, schema, layers, .. } in tables.into_iter().filter(|table| table.is_live) {
            let wanted = &schema.indexes;
            let needs_update = layers.newest_layers().any(|(snapshot, _)| {
                wanted.iter().any(|path| snapshot.index(path).is_none())
                    || snapshot.indexes.iter().any(|(path, _)| !wanted.contains(path))
            });
            let health = &self.context.health;
            if !needs_update || health.is_paused(id, Chore::Index) {
                continue;
            }
            let lock = self.editor.table_lock(id);
            let _locked = lock.lock();
            let updated = self.update(id, progress);
            if let Err(error) = &updated {
                if error.reason() == Reason::ShuttingDown {
                    return updated;
                }
                health.note_damage(error);
            }
            health.note_outcome((id, &schema.table), Chore::Index, updated.err());
        }
        Ok(())
    }

    /// Updates the indexes of a table. The caller must hold the table's lock.
    pub(super) fn update(&self, id: u64, progress: ProgressFn<'_>) -> Result<()> {
        let tables = self.context.commits.catalog.tables();
        let Some(table) = tables.into_iter().find(|table| table.id == id && table.is_live) else {
            return Ok(());
        };
        let wanted = table.schema.indexes.clone();
        let (manifest, built) = self.build_missing(id, &wanted, progress)?;
        let has_unwanted = |indexes: &[String]| indexes.iter().any(|path| !wanted.contains(path));
        let removes = manifest.deltas.iter().any(|delta| has_unwanted(&delta.indexes))
            || manifest.images.iter().any(|image| has_unwanted(&image.indexes));
        if built.is_empty() && !removes {
            return Ok(());
        }
        tracing::info!(table = manifest.table, indexes = built.len(), "updated indexes");
        self.editor.replace_files(id, move |manifest| list_indexes(manifest, &built, &wanted))?;
        Ok(())
    }

    /// Builds the wanted indexes that the table's newest files lack.
    fn build_missing(
        &self,
        id: u64,
        wanted: &[String],
        progress: ProgressFn<'_>,
    ) -> Result<(Manifest, Vec<BuiltIndex>)> {
        let (manifest, _, layers) = self.editor.current(id)?;
        let (table, files) = ((manifest.table.as_str(), id), &self.context.files);
        let mut built = Vec::new();
        for path in wanted {
            for (snapshot, is_image) in layers.newest_layers() {
                if snapshot.index(path).is_some() {
                    continue;
                }
                let row_before = |key: &[u8], seq: u64| layers.document_before(key, seq);
                // The index may have been dropped a moment ago: then its file waits for deletion under the
                // same name.
                self.editor.cancel_delete(&[index_file(files, &manifest, snapshot, path, is_image)]);
                let bytes = index::build(files, table, snapshot, path, is_image, &row_before, progress)?;
                let kind = if is_image { kind::IMAGE } else { kind::DELTA };
                built.push(BuiltIndex { seq: snapshot.seq, kind, path: path.clone(), bytes });
            }
        }
        Ok((manifest, built))
    }
}

/// Adds built indexes to the snapshots of a manifest, and removes those that are not wanted.
fn list_indexes(manifest: &mut Manifest, built: &[BuiltIndex], wanted: &[String]) {
    let deltas = manifest.deltas.iter_mut();
    let deltas = deltas.map(|delta| ((delta.seq, kind::DELTA), &mut delta.indexes, &mut delta.bytes));
    let images = manifest.images.iter_mut();
    let images = images.map(|image| ((image.seq, kind::IMAGE), &mut image.indexes, &mut image.bytes));
    for (snapshot, paths, bytes) in deltas.chain(images) {
        for index in built.iter().filter(|index| (index.seq, index.kind) == snapshot) {
            paths.push(index.path.clone());
            *bytes += index.bytes;
        }
        paths.retain(|path| wanted.contains(path));
    }
}

/// The file of a snapshot's index.
fn index_file(
    files: &TableFiles,
    manifest: &Manifest,
    snapshot: &LayerFile,
    path: &str,
    is_image: bool,
) -> PathBuf {
    let stem = if is_image { image_stem(snapshot.seq) } else { delta_stem(snapshot.base, snapshot.seq) };
    files.dir.index(&manifest.table, path, &stem)
}
