//! The layers of a table without those that are damaged, and the manifest that names only them.
//!
//! Layers and indexes are derived: the log has all that they hold (I8), except below the floor of a compacted table. So a
//! damaged one must not keep a daemon from starting. Both daemons open the layers before the damage, and read the rest from
//! the log; the writer then builds the damaged ones again. `doctor --repair` removes the same layers from the manifest.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, FileError, Reason, Result};
use crate::format::manifest::{LogPosition, Manifest};
use crate::format::snapshot::DeltaProperties;
use crate::storage::layout;
use crate::storage::wal::cursor::{CursorItem, CursorPosition, LogCursor, SegmentSpan};
use crate::table::damaged_files::DamagedFile;
use crate::table::layers::{LayerFile, LayerMap, at_file};
use crate::table::table_files::{NamedLayer, TableFiles};

/// What to do about damage that neither a daemon nor the next start mends.
const ASK_DOCTOR: &str = "run `driftctl doctor`, then put back a copy of the file or restore a backup";

/// The layers without problems, each with its indexes without problems. A layer is at its position in the manifest; `None` if
/// the layer has a problem.
#[derive(Debug, Default)]
pub(in crate::table) struct SoundLayers {
    pub(in crate::table) deltas: Vec<Option<LayerFile>>,
    pub(in crate::table) images: Vec<Option<LayerFile>>,
}

/// The open layers of a table, without those that are damaged.
#[derive(Debug)]
pub struct SoundFiles {
    /// The manifest, without what is damaged. Its newest delta layer ends where the log has to be read on.
    pub manifest: Manifest,
    /// The layers that it names.
    pub layers: LayerMap,
    /// The files that are damaged or missing.
    pub damaged: Vec<DamagedFile>,
}

impl TableFiles {
    /// Opens the layers that a manifest names, without those that are damaged or missing, or among `set_aside`.
    ///
    /// Fails with FILE_GONE if a file is missing because a newer manifest replaced it, and with CORRUPT, which names the doctor,
    /// if the log cannot replace a damaged file. Any other error says nothing about a file: it may be gone at the next try.
    pub fn open_sound(
        &self,
        manifest: &Manifest,
        known: Option<&LayerMap>,
        set_aside: &[PathBuf],
    ) -> Result<SoundFiles> {
        let is_set_aside =
            layout::snapshot_files(&self.dir, manifest).iter().any(|file| set_aside.contains(file));
        if !is_set_aside {
            match self.open(manifest, known) {
                Err(error) if is_about_content(&error) => {}
                opened => {
                    let (manifest, damaged) = (manifest.clone(), Vec::new());
                    return opened.map(|layers| SoundFiles { manifest, layers, damaged });
                }
            }
        }
        let (sound, damaged) = self.open_each(manifest, known, set_aside)?;
        let reduced = match manifest_of_sound_layers(manifest, &sound) {
            Ok(reduced) => reduced,
            Err(why) => return Err(beyond_repair(&damaged, why)),
        };
        if reduced.deltas.len() < manifest.deltas.len() {
            self.check_log_between(manifest, &reduced).map_err(|error| match error.reason() {
                Reason::Corrupt | Reason::FileGone => beyond_repair(&damaged, error.message()),
                _ => error,
            })?;
        }
        let known = LayerMap {
            deltas: sound.deltas.into_iter().flatten().collect(),
            images: sound.images.into_iter().flatten().collect(),
            ..LayerMap::default()
        };
        let layers = self.open(&reduced, Some(&known))?;
        Ok(SoundFiles { manifest: reduced, layers, damaged })
    }

    /// Opens each layer and each index on its own.
    fn open_each(
        &self,
        manifest: &Manifest,
        known: Option<&LayerMap>,
        set_aside: &[PathBuf],
    ) -> Result<(SoundLayers, Vec<DamagedFile>)> {
        let (mut sound, mut damaged) = (SoundLayers::default(), Vec::new());
        for layer in self.named_deltas(manifest) {
            let known = known.map(|known| known.deltas.as_slice());
            let opened = self.open_alone(manifest, &layer, known, set_aside, &mut damaged)?;
            sound.deltas.push(opened);
        }
        for layer in self.named_images(manifest) {
            let known = known.map(|known| known.images.as_slice());
            let opened = self.open_alone(manifest, &layer, known, set_aside, &mut damaged)?;
            sound.images.push(opened);
        }
        Ok((sound, damaged))
    }

    /// Opens a layer with those of its indexes that are sound.
    fn open_alone(
        &self,
        manifest: &Manifest,
        layer: &NamedLayer<'_>,
        known: Option<&[LayerFile]>,
        set_aside: &[PathBuf],
        damaged: &mut Vec<DamagedFile>,
    ) -> Result<Option<LayerFile>> {
        let table = (manifest.table.as_str(), manifest.table_id);
        let mut check = |path: &Path, opened: Result<LayerFile>| {
            let opened = if set_aside.contains(&path.to_path_buf()) {
                Err(Error::corrupt(path.display(), 0, "an earlier read found the file damaged"))
            } else {
                opened
            };
            match opened {
                Ok(opened) => Ok(Some(opened)),
                Err(error) if !is_about_content(&error) => Err(error),
                Err(error) if error.reason() == Reason::FileGone && !self.is_newest(manifest)? => Err(error),
                Err(error) => {
                    damaged.push(DamagedFile::new(path, &error));
                    Ok(None)
                }
            }
        };
        let alone = layer.with_indexes(&[]);
        let opened = self.open_layer(table, &alone, known).and_then(|opened| {
            if layer.is_delta() {
                let properties = Bytes::copy_from_slice(opened.file.properties());
                DeltaProperties::decode(&properties).map_err(|error| at_file(error, &opened.file))?;
            }
            Ok(opened)
        });
        let mut found = check(&layer.path, opened)?;
        for indexed in layer.indexes {
            let path = self.dir.index(table.0, indexed, &layer.stem);
            // An index is opened through its layer; that of a damaged layer is not used.
            let Some(found) = &mut found else { break };
            let with_index = layer.with_indexes(std::slice::from_ref(indexed));
            let opened = self.open_layer(table, &with_index, Some(std::slice::from_ref(found)));
            if let Some(opened) = check(&path, opened)? {
                found.indexes.extend(opened.indexes);
            }
        }
        Ok(found)
    }

    /// Whether a manifest is still the newest one on disk: a file that it names and that is missing is then lost, not
    /// replaced.
    fn is_newest(&self, manifest: &Manifest) -> Result<bool> {
        let newest = layout::read_manifest(&*self.fs, &self.dir, &manifest.table)?;
        Ok(newest.is_none_or(|newest| newest.version <= manifest.version))
    }

    /// Fails unless the log has every frame between the newest layer of a reduced manifest and that of the whole one.
    fn check_log_between(&self, whole: &Manifest, reduced: &Manifest) -> Result<()> {
        let Some(end) = whole.deltas.last().map(|delta| delta.position) else { return Ok(()) };
        let mut cursor = LogCursor::new(Arc::clone(&self.fs), &self.dir, &whole.table, whole.table_id);
        let start = reduced.deltas.last().map(|delta| delta.position);
        if let Some(start) = &start {
            cursor = cursor.starting_at(CursorPosition::from_log_position(start));
        }
        for span in spans_between(whole, start, end) {
            cursor.extend(span);
        }
        loop {
            match cursor.next_frame()? {
                CursorItem::Frame(_) => {}
                CursorItem::End => return Ok(()),
                CursorItem::Invalid(error) => {
                    return Err(Error::corrupt(cursor.path().display(), cursor.position().offset, error));
                }
            }
        }
    }
}

/// The spans of a manifest's segments between two positions of the log.
fn spans_between(manifest: &Manifest, start: Option<LogPosition>, end: LogPosition) -> Vec<SegmentSpan> {
    let is_before = |number: u64| start.is_some_and(|start| start.segment != number);
    let mut spans = Vec::new();
    for segment in manifest.segments.iter().skip_while(|segment| is_before(segment.number)) {
        let is_last = segment.number == end.segment;
        let seal = segment.sealed.filter(|seal| !is_last || seal.bytes == end.offset);
        let bytes = if is_last { end.offset } else { segment.sealed.map_or(0, |seal| seal.bytes) };
        spans.push(SegmentSpan { segment: segment.number, end: bytes, seal });
        if is_last {
            break;
        }
    }
    spans
}

/// Whether an error is about what a file holds, or about a missing file. Any other says nothing about the file.
fn is_about_content(error: &Error) -> bool {
    matches!(error.reason(), Reason::Corrupt | Reason::FileGone)
}

/// The error for a table whose damaged layers the log cannot replace.
fn beyond_repair(damaged: &[DamagedFile], why: &str) -> Error {
    let (file, detail) = match damaged.first() {
        Some(first) => (first.path.display().to_string(), first.message.as_str()),
        None => (String::new(), "a layer is damaged"),
    };
    let offset = damaged.first().and_then(|first| first.offset).unwrap_or(0);
    Error::corrupt(file, offset, format!("{detail}; the log cannot replace the file: {why}; {ASK_DOCTOR}"))
}

/// The layer or index file that an error finds damaged, if it is about one.
pub fn damaged_layer_file(error: &Error) -> Option<PathBuf> {
    let FileError { file, .. } = error.file_error().filter(|_| error.reason() == Reason::Corrupt)?;
    let path = Path::new(file);
    let extension = path.extension()?;
    (extension == "snap" || extension == "idx").then(|| path.to_path_buf())
}

/// The manifest without damaged layers and indexes. Delta layers after the first damaged one are removed too, so that those
/// that remain contain everything up to the position at which the log continues. Fails with the reason if the log cannot
/// replace what is removed.
pub(in crate::table) fn manifest_of_sound_layers(
    manifest: &Manifest,
    sound: &SoundLayers,
) -> Result<Manifest, &'static str> {
    let mut rebuilt = manifest.clone();
    rebuilt.deltas.clear();
    let base = manifest.deltas.first().filter(|delta| delta.is_compaction_base()).map(|delta| delta.seq);
    let mut last_seq = 0;
    for (at, (delta, layer)) in (0..).zip(manifest.deltas.iter().zip(&sound.deltas)) {
        let continues = match (at, base) {
            (0, Some(_)) => true,
            // The floor can be within the layer after the compaction base.
            (1, Some(floor)) => delta.base <= floor && delta.seq > floor,
            _ => delta.base == last_seq,
        };
        let Some(layer) = layer.as_ref().filter(|_| continues) else { break };
        let mut delta = delta.clone();
        delta.indexes.retain(|path| layer.index(path).is_some());
        delta.bytes = bytes_with_indexes(layer);
        last_seq = delta.seq;
        rebuilt.deltas.push(delta);
    }
    rebuilt.images.clear();
    for (image, layer) in manifest.images.iter().zip(&sound.images) {
        let Some(layer) = layer.as_ref().filter(|_| image.seq <= last_seq) else { continue };
        let mut image = image.clone();
        image.indexes.retain(|path| layer.index(path).is_some());
        image.bytes = bytes_with_indexes(layer);
        rebuilt.images.push(image);
    }
    if rebuilt.deltas.is_empty() {
        rebuilt.published_ms = 0;
    }
    match why_compacted_table_needs_layers(manifest, &rebuilt) {
        Some(why) => Err(why),
        None => Ok(rebuilt),
    }
}

fn bytes_with_indexes(layer: &LayerFile) -> u64 {
    layer.file.bytes() + layer.indexes.iter().map(|(_, index)| index.bytes()).sum::<u64>()
}

/// Why a compacted table cannot lose the layers that `rebuilt` no longer lists. The compacted segment contains the same state,
/// but nothing builds layers from it.
fn why_compacted_table_needs_layers(manifest: &Manifest, rebuilt: &Manifest) -> Option<&'static str> {
    let floor = manifest.floor?.seq;
    let loses_deltas = rebuilt.deltas.len() < manifest.deltas.len();
    let base = manifest.deltas.first().filter(|delta| delta.is_compaction_base()).map(|delta| delta.seq);
    if loses_deltas && base != Some(floor) {
        return Some("a compaction did not finish, and only the next writer can finish it");
    }
    let has_image = rebuilt.images.iter().any(|image| Some(image.seq) == base);
    if base.is_some() && (rebuilt.deltas.is_empty() || !has_image) {
        return Some(
            "the table was compacted, and its layers at the floor cannot be built again from the compacted segment",
        );
    }
    // Only this layer has the requests of its commits that compaction discarded from the log.
    let is_floor_within =
        rebuilt.deltas.len() == 1 && manifest.deltas.get(1).is_some_and(|delta| delta.base < floor);
    is_floor_within.then_some("the table was compacted, and the damaged delta layer contains the floor")
}
