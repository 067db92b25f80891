//! Opens the files of a table's layers, and makes the directories for new ones.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::format::snapshot::{DeltaProperties, kind};
use crate::format::sst::SstIdentity;
use crate::storage::fs::FileSystem;
use crate::storage::layout::{self, DataDir};
use crate::storage::sst::{BlockCache, SstFile};
use crate::table::layers::{LayerFile, LayerMap, at_file};

/// What it takes to open and write the files of layers.
#[derive(Debug, Clone)]
pub struct TableFiles {
    /// The file system.
    pub fs: Arc<dyn FileSystem>,
    /// The data directory.
    pub dir: DataDir,
    /// The cache for blocks of open files.
    pub cache: Arc<BlockCache>,
}

/// A layer that a manifest names.
#[derive(Debug, Clone, Copy)]
struct LayerName {
    base: u64,
    seq: u64,
    kind: u8,
    index_kind: u8,
}

/// The files of a layer that a manifest names.
#[derive(Debug, Clone)]
pub(super) struct NamedLayer<'a> {
    name: LayerName,
    pub(super) path: PathBuf,
    /// The layer's part of the names of its indexes.
    pub(super) stem: String,
    /// The paths that it has indexes on.
    pub(super) indexes: &'a [String],
}

impl NamedLayer<'_> {
    /// The same layer with other indexes.
    pub(super) fn with_indexes<'a>(&self, indexes: &'a [String]) -> NamedLayer<'a> {
        NamedLayer { name: self.name, path: self.path.clone(), stem: self.stem.clone(), indexes }
    }

    /// Whether this is a delta layer.
    pub(super) fn is_delta(&self) -> bool {
        self.name.kind == kind::DELTA
    }
}

impl TableFiles {
    /// Opens the layers that a manifest names. Files that `known` has open are taken from there.
    pub fn open(&self, manifest: &Manifest, known: Option<&LayerMap>) -> Result<LayerMap> {
        let table = (manifest.table.as_str(), manifest.table_id);
        let mut deltas = Vec::with_capacity(manifest.deltas.len());
        for layer in self.named_deltas(manifest) {
            deltas.push(self.open_layer(table, &layer, known.map(|known| known.deltas.as_slice()))?);
        }
        let mut images = Vec::with_capacity(manifest.images.len());
        for layer in self.named_images(manifest) {
            images.push(self.open_layer(table, &layer, known.map(|known| known.images.as_slice()))?);
        }
        let newest = match deltas.last() {
            Some(delta) => DeltaProperties::decode(&Bytes::copy_from_slice(delta.file.properties()))
                .map_err(|e| at_file(e, &delta.file))?,
            None => DeltaProperties::default(),
        };
        Ok(LayerMap { table: manifest.table_id, floor: manifest.floor, deltas, images, newest })
    }

    /// The delta layers that a manifest names, oldest first.
    pub(super) fn named_deltas<'a>(&self, manifest: &'a Manifest) -> Vec<NamedLayer<'a>> {
        let named = manifest.deltas.iter().map(|delta| {
            let (base, seq) = (delta.base, delta.seq);
            NamedLayer {
                name: LayerName { base, seq, kind: kind::DELTA, index_kind: kind::DELTA_INDEX },
                path: self.dir.delta_layer(&manifest.table, base, seq),
                stem: layout::delta_stem(base, seq),
                indexes: &delta.indexes,
            }
        });
        named.collect()
    }

    /// The image layers that a manifest names, oldest first.
    pub(super) fn named_images<'a>(&self, manifest: &'a Manifest) -> Vec<NamedLayer<'a>> {
        let named = manifest.images.iter().map(|image| {
            let seq = image.seq;
            NamedLayer {
                name: LayerName { base: seq, seq, kind: kind::IMAGE, index_kind: kind::IMAGE_INDEX },
                path: self.dir.image_layer(&manifest.table, seq),
                stem: layout::image_stem(seq),
                indexes: &image.indexes,
            }
        });
        named.collect()
    }

    /// Opens a layer and the indexes that are named. Files that `known` has open are taken from there.
    pub(super) fn open_layer(
        &self,
        (table, id): (&str, u64),
        layer: &NamedLayer<'_>,
        known: Option<&[LayerFile]>,
    ) -> Result<LayerFile> {
        let LayerName { base, seq, .. } = layer.name;
        let known = known.unwrap_or_default().iter().find(|known| (known.base, known.seq) == (base, seq));
        let open = |path, kind| {
            let identity = SstIdentity { table: id, base, seq, kind };
            SstFile::open(Arc::clone(&self.fs), path, identity, Arc::clone(&self.cache))
        };
        let file = match known {
            Some(known) => Arc::clone(&known.file),
            None => open(layer.path.clone(), layer.name.kind)?,
        };
        let mut indexes = Vec::with_capacity(layer.indexes.len());
        for path in layer.indexes {
            let file = match known.and_then(|known| known.index(path)) {
                Some(file) => Arc::clone(file),
                None => open(self.dir.index(table, path, &layer.stem), layer.name.index_kind)?,
            };
            if file.properties() != path.as_bytes() {
                let what = format!("it should be the index on {path:?}, and it is another path's");
                return Err(Error::corrupt(file.path().display(), 0, what));
            }
            indexes.push((path.clone(), file));
        }
        Ok(LayerFile { base, seq, file, indexes })
    }

    /// Makes the directories for a table's layers and indexes.
    pub(super) fn create_dirs(&self, table: &str) -> Result<()> {
        for dir in [self.dir.snapshots(table), self.dir.indexes(table)] {
            self.fs
                .create_dir(&dir)
                .map_err(|e| Error::io(format_args!("cannot create {}", dir.display()), &e))?;
        }
        Ok(())
    }

    /// Makes the names of a table's new layers and indexes durable.
    pub(super) fn sync_dirs(&self, table: &str) -> Result<()> {
        for dir in [self.dir.snapshots(table), self.dir.indexes(table), self.dir.table(table)] {
            self.fs
                .sync_dir(&dir)
                .map_err(|e| Error::io(format_args!("cannot sync {}", dir.display()), &e))?;
        }
        Ok(())
    }
}
