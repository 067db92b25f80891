//! A table's snapshots and indexes, each for itself: blocks, entries, counts.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::format::manifest::{DeltaLayer, Floor, ImageLayer, Manifest};
use crate::format::snapshot::{
    CandidateEntry, CommitEntry, DeltaProperties, ProducerEntry, RequestEntry, RowEntry, TableChange,
    VersionEntry, kind, read_commit_key, read_version, tree,
};
use crate::format::sortkey;
use crate::format::sst::SstIdentity;
use crate::storage::layout::{delta_stem, image_stem};
use crate::storage::sst::SstFile;
use crate::table::check::verification::ProblemList;
use crate::table::table_files::{LayerFile, TableFiles};

/// The snapshots that were found sound, each with those of its indexes that were; at the places that the manifest has.
pub(in crate::table) struct Files {
    pub(in crate::table) deltas: Vec<Option<LayerFile>>,
    pub(in crate::table) images: Vec<Option<LayerFile>>,
}

/// Opens everything anew, and checks it.
pub(in crate::table) fn open(
    shelf: &TableFiles,
    manifest: &Manifest,
    report: &mut ProblemList<'_>,
) -> Result<Files> {
    let (name, id) = (&manifest.table, manifest.table_id);
    let mut files = Files { deltas: Vec::new(), images: Vec::new() };
    // Where the one before ends, and the events since the table's creation up to there. The era after a folded state may begin
    // before it, the floor lying within it.
    let (mut before, mut folded) = ((0, 0), 0);
    for (at, era) in (0..).zip(&manifest.deltas) {
        if at == 0 && era.is_compaction_base() {
            folded = era.seq;
        } else if era.base != before.0 && !(at == 1 && era.base < folded && era.seq > folded) {
            let what =
                format!("era {}-{} begins after {}, where the one before ends", era.base, era.seq, before.0);
            report.problem(&shelf.dir.manifest(name), 0, what);
        }
        let identity = SstIdentity { table: id, base: era.base, seq: era.seq, kind: kind::DELTA };
        let path = shelf.dir.delta_layer(name, era.base, era.seq);
        let (file, events) = match checked(shelf, path, identity, report, |file, report| {
            if era.is_compaction_base() {
                return check_folded(file, era, manifest.floor);
            }
            check_era(file, era, (before.1, folded), report)
        })? {
            Some((file, events)) => (Some(file), events),
            None => (None, 0),
        };
        before = (era.seq, events);
        let place = (era.base, era.seq, kind::DELTA_INDEX, delta_stem(era.base, era.seq));
        files.deltas.push(with_indexes(shelf, (name, id), file, place, &era.indexes, report)?);
    }
    for full in &manifest.images {
        let identity = SstIdentity { table: id, base: full.seq, seq: full.seq, kind: kind::IMAGE };
        let file =
            checked(shelf, shelf.dir.image_layer(name, full.seq), identity, report, |file, report| {
                check_full(file, full, report)
            })?;
        let place = (full.seq, full.seq, kind::IMAGE_INDEX, image_stem(full.seq));
        let file = file.map(|(file, ())| file);
        files.images.push(with_indexes(shelf, (name, id), file, place, &full.indexes, report)?);
    }
    Ok(files)
}

/// Opens a file and reads all of its blocks, then `check`s its entries. `None` where anything was wrong.
fn checked<T>(
    shelf: &TableFiles,
    path: PathBuf,
    identity: SstIdentity,
    report: &mut ProblemList<'_>,
    check: impl FnOnce(&Arc<SstFile>, &mut ProblemList<'_>) -> Result<T>,
) -> Result<Option<(Arc<SstFile>, T)>> {
    report.figures.files += 1;
    let opened = SstFile::open(Arc::clone(&shelf.disk), path.clone(), identity, Arc::clone(&shelf.cache));
    let sound = opened.and_then(|file| {
        file.verify()?;
        let found = check(&file, report)?;
        Ok((file, found))
    });
    match sound {
        Ok(sound) => Ok(Some(sound)),
        Err(error) => report.failed(&path, error).map(|()| None),
    }
}

/// The indexes are looked at even where their snapshot is not sound.
fn with_indexes(
    shelf: &TableFiles,
    (name, id): (&str, u64),
    file: Option<Arc<SstFile>>,
    (base, seq, kind, stem): (u64, u64, u8, String),
    paths: &[String],
    report: &mut ProblemList<'_>,
) -> Result<Option<LayerFile>> {
    let mut indexes = Vec::new();
    for of_path in paths {
        let identity = SstIdentity { table: id, base, seq, kind };
        let path = shelf.dir.index(name, of_path, &stem);
        let index = checked(shelf, path, identity, report, |file, report| {
            if file.properties() != of_path.as_bytes() {
                return Err(wrong(format!("it is expected to be the index on {of_path}, and is another's")));
            }
            check_index(file, report)
        })?;
        indexes.extend(index.map(|(file, ())| (of_path.clone(), file)));
    }
    Ok(file.map(|file| LayerFile { base, seq, file, indexes }))
}

/// What [`checked`] tells as a problem of the file.
fn wrong(what: impl Into<String>) -> Error {
    Error::new(crate::error::Reason::Corrupt, what.into())
}

/// Hands each entry of a tree to `take`.
fn each(
    file: &Arc<SstFile>,
    id: u8,
    report: &mut ProblemList<'_>,
    take: &mut dyn FnMut(&[u8], &Bytes) -> Result<()>,
) -> Result<()> {
    let mut cursor = file.cursor(id);
    cursor.first()?;
    while let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
        report.step()?;
        take(key, &value)?;
        cursor.next()?;
    }
    Ok(())
}

/// Checks an era; hands back the events since the table's creation.
fn check_era(
    file: &Arc<SstFile>,
    era: &DeltaLayer,
    (before, folded): (u64, u64),
    report: &mut ProblemList<'_>,
) -> Result<u64> {
    let properties = DeltaProperties::decode(&Bytes::copy_from_slice(file.properties()))?;
    let within = |seq: u64| match seq > era.base && seq <= era.seq {
        true => Ok(seq),
        false => Err(wrong(format!("commit {seq} is not one of {}-{}", era.base, era.seq))),
    };
    let mut versions = 0;
    each(file, tree::VERSIONS, report, &mut |key, value| {
        let (_, seq, _) = read_version(key).ok_or_else(|| wrong("a version's key is too short"))?;
        within(seq)?;
        VersionEntry::decode(value)?;
        versions += 1;
        Ok(())
    })?;
    report.figures.rows += versions;
    let (mut rows_changed, mut done, mut done_since) = (0, 0, 0);
    let mut last = (0, CommitEntry::default(), 0);
    each(file, tree::COMMITS, report, &mut |key, value| {
        let (time_ms, seq) =
            read_commit_key(key).ok_or_else(|| wrong("a commit's key has another length"))?;
        let entry = CommitEntry::decode(value)?;
        if within(seq)? <= last.0 {
            return Err(wrong(format!("commit {seq} comes after commit {}", last.0)));
        }
        rows_changed +=
            entry.changes.iter().filter(|changes| matches!(changes, TableChange::Row(_))).count() as u64;
        done += entry.changes.len() as u64;
        if seq > folded {
            done_since += entry.changes.len() as u64;
        }
        last = (seq, entry, time_ms);
        Ok(())
    })?;
    let (seq, commit, time_ms) = last;
    for (what, expected, found) in [
        ("the last commit", era.seq, seq),
        ("its time", properties.time_ms, time_ms),
        ("events after it", properties.events, commit.events),
        ("rows after it", properties.rows, commit.rows),
        ("versions that the commits name", rows_changed, versions),
        // An era whose forerunner is not sound is not counted on from there.
        (
            "events since the table's creation",
            if before == 0 && era.base > 0 { commit.events } else { before + done_since },
            commit.events,
        ),
    ] {
        if expected != found {
            return Err(wrong(format!("{what}: expected {expected}, found {found}")));
        }
    }
    if era.events < done {
        return Err(wrong(format!("meta.json says {} events, and there are {done}", era.events)));
    }
    each(file, tree::REQUESTS, report, &mut |key, value| {
        let seq = key.try_into().map(u64::from_be_bytes);
        within(seq.map_err(|_| wrong("a request's key has another length"))?)?;
        RequestEntry::decode(value).map(drop)
    })?;
    each(file, tree::PRODUCERS, report, &mut |key, value| {
        within(ProducerEntry::decode(key, value)?.seq).map(drop)
    })?;
    Ok(properties.events)
}

/// Checks the era that stands for a folded state; hands back the events since the table's creation.
fn check_folded(file: &Arc<SstFile>, era: &DeltaLayer, floor: Option<Floor>) -> Result<u64> {
    let properties = DeltaProperties::decode(&Bytes::copy_from_slice(file.properties()))?;
    for (id, what) in [(tree::VERSIONS, "versions"), (tree::COMMITS, "commits")] {
        let found = file.entries(id);
        if found > 0 {
            return Err(wrong(format!("{found} {what}, and what it stands for was folded")));
        }
    }
    let within = |seq: u64| match seq <= era.seq {
        true => Ok(()),
        false => Err(wrong(format!("commit {seq} is after {}", era.seq))),
    };
    let mut cursor = file.cursor(tree::REQUESTS);
    cursor.first()?;
    while let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
        let seq = key.try_into().map(u64::from_be_bytes);
        within(seq.map_err(|_| wrong("a request's key has another length"))?)?;
        RequestEntry::decode(&value)?;
        cursor.next()?;
    }
    let mut cursor = file.cursor(tree::PRODUCERS);
    cursor.first()?;
    while let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
        within(ProducerEntry::decode(key, &value)?.seq)?;
        cursor.next()?;
    }
    if let Some(floor) = floor.filter(|floor| floor.seq == era.seq) {
        let (said, found) = ((floor.events, floor.rows), (properties.events, properties.rows));
        if said != found {
            return Err(wrong(format!(
                "events and rows at the floor: meta.json says {said:?}, found {found:?}"
            )));
        }
    }
    Ok(properties.events)
}

fn check_full(file: &Arc<SstFile>, full: &ImageLayer, report: &mut ProblemList<'_>) -> Result<()> {
    let mut rows = 0;
    each(file, tree::ROWS, report, &mut |_, value| {
        let row = RowEntry::decode(value)?;
        if row.seq > full.seq {
            return Err(wrong(format!("a row of commit {}, after {}", row.seq, full.seq)));
        }
        rows += 1;
        Ok(())
    })?;
    report.figures.rows += rows;
    if rows != full.rows {
        return Err(wrong(format!("meta.json says {} rows, and there are {rows}", full.rows)));
    }
    Ok(())
}

fn check_index(file: &Arc<SstFile>, report: &mut ProblemList<'_>) -> Result<()> {
    each(file, tree::CANDIDATES, report, &mut |key, value| {
        let split = sortkey::split_scalar(key).filter(|(_, row)| !row.is_empty());
        split.ok_or_else(|| wrong("a candidate's key is no value and key"))?;
        CandidateEntry::decode(value).map(drop)
    })
}
