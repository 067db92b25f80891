//! Checks each snapshot and index of a table on its own: blocks, entries, counts.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Reason, Result};
use crate::format::index_columns::IndexColumns;
use crate::format::manifest::{DeltaLayer, Floor, ImageLayer, Manifest};
use crate::format::snapshot::{
    CandidateEntry, CommitEntry, DeltaProperties, ProducerEntry, RequestEntry, RowEntry, TableChange,
    VersionEntry, kind, read_commit_key, read_version, tree,
};
use crate::format::sortkey;
use crate::format::sst::SstIdentity;
use crate::storage::layout::{delta_stem, image_stem};
use crate::storage::sst::SstFile;
use crate::table::check::verification::problem::ProblemReporter;
use crate::table::layers::LayerFile;
use crate::table::sound_layers::SoundLayers;
use crate::table::table_files::TableFiles;

/// Opens and checks every layer and index that a manifest lists.
pub(in crate::table) fn check_layer_files(
    files: &TableFiles,
    manifest: &Manifest,
    reporter: &mut ProblemReporter<'_>,
) -> Result<SoundLayers> {
    let (name, id) = (&manifest.table, manifest.table_id);
    let mut layers = SoundLayers { deltas: Vec::new(), images: Vec::new() };
    let (mut last_seq, mut events_before, mut base_seq) = (0, 0, 0);
    for (at, delta) in (0..).zip(&manifest.deltas) {
        if at == 0 && delta.is_compaction_base() {
            base_seq = delta.seq;
        // The layer after the compaction base can start before it: then the floor is within that layer.
        } else if delta.base != last_seq && !(at == 1 && delta.base < base_seq && delta.seq > base_seq) {
            let (base, seq) = (delta.base, delta.seq);
            let what = format!(
                "delta layer {base}-{seq} must start after commit {last_seq}, where the previous one ends"
            );
            reporter.report(&files.dir.manifest(name), 0, what);
        }
        let identity = SstIdentity { table: id, base: delta.base, seq: delta.seq, kind: kind::DELTA };
        let path = files.dir.delta_layer(name, delta.base, delta.seq);
        let (file, events) = match check_file(files, path, identity, reporter, |file, reporter| {
            if delta.is_compaction_base() {
                return check_compaction_base(file, delta, manifest.floor);
            }
            check_delta(file, delta, (events_before, base_seq), reporter)
        })? {
            Some((file, events)) => (Some(file), events),
            None => (None, 0),
        };
        (last_seq, events_before) = (delta.seq, events);
        let identity = SstIdentity { kind: kind::DELTA_INDEX, ..identity };
        let stem = delta_stem(delta.base, delta.seq);
        layers.deltas.push(check_indexes(files, name, file, (identity, &stem), &delta.indexes, reporter)?);
    }
    for image in &manifest.images {
        let identity = SstIdentity { table: id, base: image.seq, seq: image.seq, kind: kind::IMAGE };
        let path = files.dir.image_layer(name, image.seq);
        let file =
            check_file(files, path, identity, reporter, |file, reporter| check_image(file, image, reporter))?;
        let identity = SstIdentity { kind: kind::IMAGE_INDEX, ..identity };
        let (file, stem) = (file.map(|(file, ())| file), image_stem(image.seq));
        layers.images.push(check_indexes(files, name, file, (identity, &stem), &image.indexes, reporter)?);
    }
    Ok(layers)
}

/// Opens a file, reads all of its blocks, and calls `check_entries`. Reports an error as a problem and returns `None`.
fn check_file<T>(
    files: &TableFiles,
    path: PathBuf,
    identity: SstIdentity,
    reporter: &mut ProblemReporter<'_>,
    check_entries: impl FnOnce(&Arc<SstFile>, &mut ProblemReporter<'_>) -> Result<T>,
) -> Result<Option<(Arc<SstFile>, T)>> {
    reporter.counts.files += 1;
    let opened = SstFile::open(Arc::clone(&files.fs), path.clone(), identity, Arc::clone(&files.cache));
    let checked = opened.and_then(|file| {
        file.verify()?;
        let found = check_entries(&file, reporter)?;
        Ok((file, found))
    });
    match checked {
        Ok(checked) => Ok(Some(checked)),
        Err(error) => reporter.report_error(&path, error).map(|()| None),
    }
}

/// Checks the indexes of a layer, even if the layer itself has a problem (`file` is `None`).
fn check_indexes(
    files: &TableFiles,
    name: &str,
    file: Option<Arc<SstFile>>,
    (identity, stem): (SstIdentity, &str),
    paths: &[String],
    reporter: &mut ProblemReporter<'_>,
) -> Result<Option<LayerFile>> {
    let mut indexes = Vec::new();
    for indexed in paths {
        let path = files.dir.index(name, indexed, stem);
        let index = check_file(files, path, identity, reporter, |file, reporter| {
            if file.properties() != indexed.as_bytes() {
                let found = file.properties().escape_ascii();
                return Err(corrupt(format!(
                    "it is the index on \"{found}\", but must be the index on {indexed:?}"
                )));
            }
            check_index(file, IndexColumns::of(indexed).paths().len(), reporter)
        })?;
        indexes.extend(index.map(|(file, ())| (indexed.clone(), file)));
    }
    Ok(file.map(|file| LayerFile { base: identity.base, seq: identity.seq, file, indexes }))
}

/// An error that [`check_file`] reports as a problem of the file.
fn corrupt(what: impl Into<String>) -> Error {
    Error::new(Reason::Corrupt, what.into())
}

/// Calls `check` for each entry of a tree.
fn for_each_entry(
    file: &Arc<SstFile>,
    id: u8,
    reporter: &mut ProblemReporter<'_>,
    check: &mut dyn FnMut(&[u8], &Bytes) -> Result<()>,
) -> Result<()> {
    let mut cursor = file.cursor(id);
    cursor.first()?;
    while let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
        reporter.step()?;
        check(key, &value)?;
        cursor.next()?;
    }
    Ok(())
}

/// Checks the entries of a delta layer. Returns the events since the table's creation.
///
/// `events_before` are the events up to the layer, 0 if unknown. The layer's events up to `base_seq` are already counted in them.
fn check_delta(
    file: &Arc<SstFile>,
    delta: &DeltaLayer,
    (events_before, base_seq): (u64, u64),
    reporter: &mut ProblemReporter<'_>,
) -> Result<u64> {
    let properties = DeltaProperties::decode(&Bytes::copy_from_slice(file.properties()))?;
    let check_seq = |seq: u64| match seq > delta.base && seq <= delta.seq {
        true => Ok(seq),
        false => Err(corrupt(format!(
            "commit {seq} is outside the layer, which covers {}-{}",
            delta.base, delta.seq
        ))),
    };
    let mut versions = 0;
    for_each_entry(file, tree::VERSIONS, reporter, &mut |key, value| {
        let (_, seq, _) = read_version(key).ok_or_else(|| corrupt("the key of a version is too short"))?;
        check_seq(seq)?;
        VersionEntry::decode(value)?;
        versions += 1;
        Ok(())
    })?;
    reporter.counts.rows += versions;
    let (mut row_changes, mut changes, mut changes_after_base) = (0, 0, 0);
    let mut last = (0, CommitEntry::default(), 0);
    for_each_entry(file, tree::COMMITS, reporter, &mut |key, value| {
        let (time_ms, seq) =
            read_commit_key(key).ok_or_else(|| corrupt("the key of a commit has the wrong length"))?;
        let entry = CommitEntry::decode(value)?;
        if check_seq(seq)? <= last.0 {
            return Err(corrupt(format!("commit {seq} follows commit {}: commits must ascend", last.0)));
        }
        row_changes +=
            entry.changes.iter().filter(|change| matches!(change, TableChange::Row(_))).count() as u64;
        changes += entry.changes.len() as u64;
        if seq > base_seq {
            changes_after_base += entry.changes.len() as u64;
        }
        last = (seq, entry, time_ms);
        Ok(())
    })?;
    let (seq, commit, time_ms) = last;
    // If the previous layer has a problem, the number of events before this one is unknown.
    let is_count_known = events_before > 0 || delta.base == 0;
    let events = if is_count_known { events_before + changes_after_base } else { commit.events };
    for (what, found, expected, source) in [
        ("the seq of its last commit", seq, delta.seq, "meta.json"),
        ("the time of its last commit", time_ms, properties.time_ms, "its properties"),
        ("the number of events after its last commit", commit.events, properties.events, "its properties"),
        ("the number of rows after its last commit", commit.rows, properties.rows, "its properties"),
        ("the number of versions", versions, row_changes, "its commits"),
        ("the number of events since the table's creation", commit.events, events, "the previous layer"),
    ] {
        if found != expected {
            return Err(corrupt(format!("{what} is {found}, but must be {expected} according to {source}")));
        }
    }
    if delta.events < changes {
        let listed = delta.events;
        return Err(corrupt(format!("meta.json lists {listed} events, but the layer has {changes}")));
    }
    for_each_entry(file, tree::REQUESTS, reporter, &mut |key, value| {
        let seq = key.try_into().map(u64::from_be_bytes);
        check_seq(seq.map_err(|_| corrupt("the key of a request has the wrong length"))?)?;
        RequestEntry::decode(value).map(drop)
    })?;
    for_each_entry(file, tree::PRODUCERS, reporter, &mut |key, value| {
        check_seq(ProducerEntry::decode(key, value)?.seq).map(drop)
    })?;
    Ok(properties.events)
}

/// Checks the entries of the compaction base. Returns the events since the table's creation.
fn check_compaction_base(file: &Arc<SstFile>, delta: &DeltaLayer, floor: Option<Floor>) -> Result<u64> {
    let properties = DeltaProperties::decode(&Bytes::copy_from_slice(file.properties()))?;
    for (id, what) in [(tree::VERSIONS, "versions"), (tree::COMMITS, "commits")] {
        let found = file.entries(id);
        if found > 0 {
            return Err(corrupt(format!("it has {found} {what}, but a compaction base must have none")));
        }
    }
    let check_seq = |seq: u64| match seq <= delta.seq {
        true => Ok(()),
        false => Err(corrupt(format!("commit {seq} is after the compaction base at commit {}", delta.seq))),
    };
    let mut cursor = file.cursor(tree::REQUESTS);
    cursor.first()?;
    while let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
        let seq = key.try_into().map(u64::from_be_bytes);
        check_seq(seq.map_err(|_| corrupt("the key of a request has the wrong length"))?)?;
        RequestEntry::decode(&value)?;
        cursor.next()?;
    }
    let mut cursor = file.cursor(tree::PRODUCERS);
    cursor.first()?;
    while let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
        check_seq(ProducerEntry::decode(key, &value)?.seq)?;
        cursor.next()?;
    }
    if let Some(floor) = floor.filter(|floor| floor.seq == delta.seq) {
        for (what, listed, found) in
            [("events", floor.events, properties.events), ("rows", floor.rows, properties.rows)]
        {
            if listed != found {
                return Err(corrupt(format!(
                    "meta.json lists {listed} {what} at the floor, but the layer has {found}"
                )));
            }
        }
    }
    Ok(properties.events)
}

fn check_image(file: &Arc<SstFile>, image: &ImageLayer, reporter: &mut ProblemReporter<'_>) -> Result<()> {
    let mut rows = 0;
    for_each_entry(file, tree::ROWS, reporter, &mut |_, value| {
        let row = RowEntry::decode(value)?;
        if row.seq > image.seq {
            return Err(corrupt(format!(
                "a row was changed by commit {}, after the layer at commit {}",
                row.seq, image.seq
            )));
        }
        rows += 1;
        Ok(())
    })?;
    reporter.counts.rows += rows;
    if rows != image.rows {
        return Err(corrupt(format!("meta.json lists {} rows, but the layer has {rows}", image.rows)));
    }
    Ok(())
}

fn check_index(file: &Arc<SstFile>, columns: usize, reporter: &mut ProblemReporter<'_>) -> Result<()> {
    for_each_entry(file, tree::CANDIDATES, reporter, &mut |key, value| {
        let split = sortkey::split_columns(key, columns).filter(|(_, row)| !row.is_empty());
        split.ok_or_else(|| corrupt("the key of a candidate is not a value and a row key"))?;
        CandidateEntry::decode(value).map(drop)
    })
}
