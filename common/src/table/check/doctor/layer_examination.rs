//! Examines files that can be built again from the log: snapshots, indexes; and finds unused files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnosis::DamagedLayers;
use super::finding::{FindingReporter, REBUILD_LAYER, REMOVE_UNUSED};
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::storage::fs::FileSystem;
use crate::storage::layout::{DataDir, head_tmp_term, is_record_tmp, snapshot_files};
use crate::storage::sst::BlockCache;
use crate::table::check::verification::{LayerEnds, Problem, ProblemReporter, check_layer_files};
use crate::table::layers::LayerFile;
use crate::table::table_files::TableFiles;

/// The size of the block cache of an examination, in bytes.
const CACHE_BYTES: u64 = 8 << 20;

/// Reads the snapshots and indexes of a table. `layer_ends` has passed the log; it is complete unless a segment is damaged.
/// Returns the layers if at least one of them is damaged.
pub(super) fn examine_layers(
    (fs, dir): (&Arc<dyn FileSystem>, &DataDir),
    manifest: &Manifest,
    (layer_ends, is_log_complete): (LayerEnds<'_>, bool),
    reporter: &mut FindingReporter<'_>,
) -> Result<Option<DamagedLayers>> {
    let files = TableFiles { fs: Arc::clone(fs), dir: dir.clone(), cache: BlockCache::new(CACHE_BYTES) };
    let mut problems = Vec::new();
    let mut on_problem = |problem| problems.push(problem);
    let mut problem_reporter = ProblemReporter::new(&|_| Ok(()), &mut on_problem);
    let mut sound = check_layer_files(&files, manifest, &mut problem_reporter)?;
    reporter.summary.files += problem_reporter.counts.files;
    for Problem { file, offset, message } in problems {
        reporter.damage(&PathBuf::from(file), offset, message, REBUILD_LAYER);
    }
    let misplaced = layer_ends.into_wrong(is_log_complete);
    for wrong in &misplaced {
        reporter.damage(&dir.manifest(&manifest.table), 0, wrong.message.clone(), REBUILD_LAYER);
    }
    let is_sound = |layer: &Option<LayerFile>, paths: &[String]| {
        layer.as_ref().is_some_and(|layer| paths.iter().all(|path| layer.index(path).is_some()))
    };
    let mut deltas = manifest.deltas.iter().zip(&sound.deltas);
    let mut images = manifest.images.iter().zip(&sound.images);
    let are_sound = deltas.all(|(delta, layer)| is_sound(layer, &delta.indexes))
        && images.all(|(image, layer)| is_sound(layer, &image.indexes));
    if are_sound && misplaced.is_empty() {
        return Ok(None);
    }
    for (delta, layer) in manifest.deltas.iter().zip(&mut sound.deltas) {
        if misplaced.iter().any(|wrong| wrong.seq == delta.seq) {
            *layer = None;
        }
    }
    Ok(Some(DamagedLayers { manifest: manifest.clone(), sound }))
}

/// Reports and returns the snapshots and indexes that a manifest does not list, and unfinished files of the table.
pub(super) fn find_unused_of_table(
    (fs, dir): (&dyn FileSystem, &DataDir),
    manifest: &Manifest,
    reporter: &mut FindingReporter<'_>,
) -> Result<Vec<PathBuf>> {
    let name = &manifest.table;
    let listed = snapshot_files(dir, manifest);
    let mut unused = Vec::new();
    for (parent, extension) in [(dir.snapshots(name), ".snap"), (dir.indexes(name), ".idx")] {
        for file in list_if_exists(fs, &parent)? {
            let path = parent.join(&file);
            if [extension, ".tmp", ".run"].iter().any(|end| file.ends_with(end)) && !listed.contains(&path) {
                reporter.note(
                    &path,
                    "unused file: meta.json does not list this snapshot or index",
                    REMOVE_UNUSED,
                );
                unused.push(path);
            }
        }
    }
    let parent = dir.table(name);
    for file in list_if_exists(fs, &parent)?.into_iter().filter(|file| file.ends_with(".tmp")) {
        unused.push(report_unfinished(parent.join(file), reporter));
    }
    Ok(unused)
}

/// Reports and returns the unfinished files next to HEAD.
pub(super) fn find_unused_of_database(
    (fs, dir): (&dyn FileSystem, &DataDir),
    reporter: &mut FindingReporter<'_>,
) -> Result<Vec<PathBuf>> {
    let mut unused = Vec::new();
    for file in list_if_exists(fs, dir.root())? {
        let is_unfinished = ["HEAD.tmp", "database.tmp"].contains(&file.as_str())
            || head_tmp_term(&file).is_some()
            || is_record_tmp(&file);
        if is_unfinished {
            unused.push(report_unfinished(dir.root().join(file), reporter));
        }
    }
    Ok(unused)
}

fn report_unfinished(path: PathBuf, reporter: &mut FindingReporter<'_>) -> PathBuf {
    reporter.note(&path, "unused file: a process stopped while it wrote the file", REMOVE_UNUSED);
    path
}

/// The names in a directory; none if the directory does not exist.
pub(super) fn list_if_exists(fs: &dyn FileSystem, path: &Path) -> Result<Vec<String>> {
    match fs.list(path) {
        Ok(names) => Ok(names),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(format_args!("cannot list {}", path.display()), &e)),
    }
}
