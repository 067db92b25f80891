//! Where snapshot files are found and opened.

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
use crate::table::layers::{LayerMap, at_file};

/// Where snapshot files are found and opened.
#[derive(Debug, Clone)]
pub struct TableFiles {
    /// The disk.
    pub disk: Arc<dyn FileSystem>,
    /// The data directory.
    pub dir: DataDir,
    /// Blocks in memory.
    pub cache: Arc<BlockCache>,
}

/// An open file of an era, or of all rows at a moment, and its indexes by path.
#[derive(Debug, Clone)]
pub struct LayerFile {
    /// After this commit; the moment itself for all rows.
    pub base: u64,
    /// Up to this one.
    pub seq: u64,
    /// The file.
    pub file: Arc<SstFile>,
    /// Its indexes: path and file.
    pub indexes: Vec<(String, Arc<SstFile>)>,
}

impl LayerFile {
    /// The index on a path.
    pub fn index(&self, path: &str) -> Option<&Arc<SstFile>> {
        self.indexes.iter().find(|(name, _)| name == path).map(|(_, file)| file)
    }
}

impl TableFiles {
    /// Opens the files that a manifest names. Those that `known` has open already are taken from there.
    pub fn open(&self, manifest: &Manifest, known: Option<&LayerMap>) -> Result<LayerMap> {
        let known = |base: u64, seq: u64, full: bool| {
            let snapshots = known.map(|chain| if full { &chain.images } else { &chain.deltas });
            snapshots.into_iter().flatten().find(|snapshot| (snapshot.base, snapshot.seq) == (base, seq))
        };
        let table = (manifest.table.as_str(), manifest.table_id);
        let mut deltas = Vec::with_capacity(manifest.deltas.len());
        for era in &manifest.deltas {
            let path = self.dir.delta_layer(table.0, era.base, era.seq);
            let stem = layout::delta_stem(era.base, era.seq);
            let place = (era.base, era.seq, kind::DELTA);
            deltas.push(self.snapshot(
                table,
                place,
                path,
                &stem,
                &era.indexes,
                known(era.base, era.seq, false),
            )?);
        }
        let mut images = Vec::with_capacity(manifest.images.len());
        for full in &manifest.images {
            let path = self.dir.image_layer(table.0, full.seq);
            let stem = layout::image_stem(full.seq);
            let place = (full.seq, full.seq, kind::IMAGE);
            images.push(self.snapshot(
                table,
                place,
                path,
                &stem,
                &full.indexes,
                known(full.seq, full.seq, true),
            )?);
        }
        let newest = match deltas.last() {
            Some(era) => DeltaProperties::decode(&Bytes::copy_from_slice(era.file.properties()))
                .map_err(|e| at_file(e, &era.file))?,
            None => DeltaProperties::default(),
        };
        Ok(LayerMap { table: manifest.table_id, floor: manifest.floor, deltas, images, newest })
    }

    fn snapshot(
        &self,
        (table, id): (&str, u64),
        (base, seq, kind): (u64, u64, u8),
        path: PathBuf,
        stem: &str,
        indexes: &[String],
        known: Option<&LayerFile>,
    ) -> Result<LayerFile> {
        let open = |path, kind| {
            let identity = SstIdentity { table: id, base, seq, kind };
            SstFile::open(Arc::clone(&self.disk), path, identity, Arc::clone(&self.cache))
        };
        let file = match known {
            Some(known) => Arc::clone(&known.file),
            None => open(path, kind)?,
        };
        let index_kind = if kind == kind::IMAGE { kind::IMAGE_INDEX } else { kind::DELTA_INDEX };
        let mut opened = Vec::with_capacity(indexes.len());
        for index in indexes {
            let file = match known.and_then(|known| known.index(index)) {
                Some(file) => Arc::clone(file),
                None => open(self.dir.index(table, index, stem), index_kind)?,
            };
            if file.properties() != index.as_bytes() {
                return Err(Error::corrupt(file.path().display(), 0, "it is the index of another path"));
            }
            opened.push((index.clone(), file));
        }
        Ok(LayerFile { base, seq, file, indexes: opened })
    }
}
