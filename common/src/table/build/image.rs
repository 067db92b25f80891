//! Builds an image layer from older layers: all live rows of a table after a commit. Nothing here names the new files in a
//! manifest.

use crate::error::Result;
use crate::format::manifest::ImageLayer;
use crate::format::snapshot::{RowEntry, kind, tree};
use crate::format::sst::SstIdentity;
use crate::storage::layout::image_stem;
use crate::storage::sst::write_file;
use crate::table::build::index::IndexBuilder;
use crate::table::build::new_files::NewFiles;
use crate::table::build::progress::{ProgressFn, REPORT_INTERVAL};
use crate::table::layers::LayerMap;
use crate::table::table_files::TableFiles;

/// Builds the image layer of a table after commit `seq`, with indexes on some paths. The layers must hold everything up to
/// that commit.
pub fn build(
    files: &TableFiles,
    (name, id): (&str, u64),
    layers: &LayerMap,
    seq: u64,
    indexes: &[String],
    progress: ProgressFn<'_>,
) -> Result<ImageLayer> {
    let identity = SstIdentity { table: id, base: seq, seq, kind: kind::IMAGE };
    let path = files.dir.image_layer(name, seq);
    let index_path = |of: &str| files.dir.index(name, of, &image_stem(seq));
    let mut builders: Vec<IndexBuilder> = indexes.iter().map(|path| IndexBuilder::new(path)).collect();
    files.create_dirs(name)?;
    let mut new_files = NewFiles::of(files, name);
    new_files.add(&path);
    let mut rows = 0;
    let created_at = layers.created_at(seq)?;
    let mut bytes = write_file(&*files.fs, &path, identity, |file| {
        let mut scan = layers.scan_once(seq)?;
        let mut value = Vec::new();
        file.begin_tree(tree::ROWS, true)?;
        while let Some(key) = scan.key() {
            let row =
                scan.take(&key)?.filter(|row| created_at.is_some_and(|created_at| row.seq >= created_at));
            let Some((seq, time_ms, document)) =
                row.and_then(|row| Some((row.seq, row.time_ms, row.document?)))
            else {
                continue;
            };
            for index in &mut builders {
                index.push_version(seq, Some(&document))?;
                index.end_row(&key);
                index.write_run_if_full(files, index_path)?;
            }
            value.clear();
            RowEntry { seq, time_ms, document }.encode(&mut value);
            file.add(&key, Some(&key), &value)?;
            rows += 1;
            if rows % REPORT_INTERVAL == 0 {
                progress(rows)?;
            }
        }
        file.end_tree()?;
        Ok(Vec::new())
    })?;
    for index in builders {
        let path = index_path(index.path());
        new_files.add(&path);
        bytes += index.write(files, &path, SstIdentity { kind: kind::IMAGE_INDEX, ..identity })?;
    }
    files.sync_dirs(name)?;
    new_files.keep();
    Ok(ImageLayer { seq, rows, bytes, indexes: indexes.to_vec() })
}
