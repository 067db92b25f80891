//! Merges delta layers that follow one another into one.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::Result;
use crate::format::manifest::DeltaLayer;
use crate::format::snapshot::{CandidateEntry, RequestEntry, kind, read_version, tree};
use crate::format::sst::{SstIdentity, SstWriter};
use crate::storage::layout::delta_stem;
use crate::storage::sst::{SstFile, SstOutput, TreeCursor, write_file};
use crate::table::build::new_files::NewFiles;
use crate::table::build::progress::{ProgressFn, REPORT_INTERVAL};
use crate::table::build::requests_since::RequestsSince;
use crate::table::layers::LayerFile;
use crate::table::merging_cursor::MergingCursor;
use crate::table::table_files::TableFiles;

/// Merges delta layers that follow one another, oldest first. Requests that `requests` does not keep are left out.
/// Returns `None` if there are no layers.
pub fn merge_deltas(
    files: &TableFiles,
    (name, id): (&str, u64),
    deltas: &[(DeltaLayer, LayerFile)],
    requests: RequestsSince,
    progress: ProgressFn<'_>,
) -> Result<Option<DeltaLayer>> {
    let (Some((first, _)), Some((last, newest))) = (deltas.first(), deltas.last()) else { return Ok(None) };
    let identity = SstIdentity { table: id, base: first.base, seq: last.seq, kind: kind::DELTA };
    files.create_dirs(name)?;
    let path = files.dir.delta_layer(name, first.base, last.seq);
    let mut new_files = NewFiles::of(files, name);
    new_files.add(&path);
    let mut bytes = write_file(&*files.fs, &path, identity, |file| {
        file.begin_tree(tree::VERSIONS, true)?;
        merge_versions(file, deltas, progress)?;
        file.end_tree()?;
        for id in [tree::COMMITS, tree::REQUESTS] {
            file.begin_tree(id, false)?;
            append(file, deltas, id, requests)?;
            file.end_tree()?;
        }
        file.begin_tree(tree::PRODUCERS, false)?;
        // A producer's newest position counts.
        merge_tree(file, deltas.iter().map(|(_, delta)| &delta.file), tree::PRODUCERS, |_, newer| Ok(newer))?;
        file.end_tree()?;
        Ok(newest.file.properties().to_vec())
    })?;
    let is_in_all = |path: &&String| deltas.iter().all(|(delta, _)| delta.indexes.contains(path));
    let indexes: Vec<String> = last.indexes.iter().filter(is_in_all).cloned().collect();
    for index in &indexes {
        let path = files.dir.index(name, index, &delta_stem(first.base, last.seq));
        let identity = SstIdentity { kind: kind::DELTA_INDEX, ..identity };
        new_files.add(&path);
        bytes += write_file(&*files.fs, &path, identity, |file| {
            file.begin_tree(tree::CANDIDATES, false)?;
            let merged = deltas.iter().filter_map(|(_, delta)| delta.index(index));
            merge_tree(file, merged, tree::CANDIDATES, |older, newer| join_candidates(&older, &newer))?;
            file.end_tree()?;
            Ok(index.clone().into_bytes())
        })?;
    }
    files.sync_dirs(name)?;
    new_files.keep();
    let events = deltas.iter().map(|(delta, _)| delta.events).sum();
    Ok(Some(DeltaLayer { base: first.base, seq: last.seq, bytes, events, indexes, position: last.position }))
}

fn merge_versions(
    file: &mut SstWriter<SstOutput>,
    deltas: &[(DeltaLayer, LayerFile)],
    progress: ProgressFn<'_>,
) -> Result<()> {
    let mut merged = open_merged(deltas.iter().map(|(_, delta)| &delta.file), tree::VERSIONS)?;
    let mut done = 0;
    while let Some(cursor) = merged.least() {
        done += 1;
        if done % REPORT_INTERVAL == 0 {
            progress(done)?;
        }
        if cursor.last_key_from_start().is_none() {
            add_version(file, cursor)?;
        } else if let Some(cursor) = merged.least_before_others(TreeCursor::last_key_from_start)
            && cursor.copy_block(file, |key| read_version(key).map(|(row, ..)| row))?
        {
            // Keys that grow with time leave whole blocks of a layer before those of the next.
        } else if let Some(cursor) = merged.least() {
            add_version(file, cursor)?;
        }
    }
    Ok(())
}

/// Adds the version that the cursor is on, and moves to the next.
fn add_version(file: &mut SstWriter<SstOutput>, cursor: &mut TreeCursor) -> Result<()> {
    if let (Some(key), Some(value)) = (cursor.key(), cursor.value_bytes()) {
        let row = read_version(key).map(|(row, ..)| row);
        file.add(key, row, value)?;
    }
    cursor.next()
}

/// Appends a tree of each delta layer. Its keys grow with the seq, so the layers follow one another, and the blocks of commits
/// are copied as they are.
fn append(
    file: &mut SstWriter<SstOutput>,
    deltas: &[(DeltaLayer, LayerFile)],
    id: u8,
    since: RequestsSince,
) -> Result<()> {
    for (_, delta) in deltas {
        let mut cursor = delta.file.uncached_cursor(id);
        cursor.first()?;
        loop {
            let is_whole = id == tree::COMMITS && cursor.last_key_from_start().is_some();
            if is_whole && cursor.copy_block(file, |_| None)? {
                continue;
            }
            let (Some(key), Some(value)) = (cursor.key(), cursor.value()) else { break };
            let seq = key.first_chunk::<8>().map_or(0, |seq| u64::from_be_bytes(*seq));
            let is_kept = id != tree::REQUESTS || since.keeps(seq, &RequestEntry::decode(&value)?);
            if is_kept {
                file.add(key, None, &value)?;
            }
            cursor.next()?;
        }
    }
    Ok(())
}

/// Merges a tree of several files, oldest first. `join` makes one value of an older and a newer value of the same key.
fn merge_tree<'a>(
    file: &mut SstWriter<SstOutput>,
    files: impl Iterator<Item = &'a Arc<SstFile>>,
    id: u8,
    join: impl Fn(Bytes, Bytes) -> Result<Bytes>,
) -> Result<()> {
    let mut merged = open_merged(files, id)?;
    while let Some(key) = merged.key().map(<[u8]>::to_vec) {
        let mut joined: Option<Bytes> = None;
        for cursor in merged.sources_at(&key) {
            let value = cursor.value().unwrap_or_default();
            joined = Some(match joined {
                Some(older) => join(older, value)?,
                None => value,
            });
            cursor.next()?;
        }
        file.add(&key, None, &joined.unwrap_or_default())?;
    }
    Ok(())
}

/// Joins the entries that two delta layers have for one candidate.
fn join_candidates(older: &Bytes, newer: &Bytes) -> Result<Bytes> {
    let (older, newer) = (CandidateEntry::decode(older)?, CandidateEntry::decode(newer)?);
    let joined = CandidateEntry { first: older.first, until: newer.until };
    let mut out = Vec::new();
    joined.encode(&mut out);
    Ok(out.into())
}

fn open_merged<'a>(
    files: impl Iterator<Item = &'a Arc<SstFile>>,
    id: u8,
) -> Result<MergingCursor<TreeCursor>> {
    let mut cursors = Vec::new();
    for file in files {
        let mut cursor = file.uncached_cursor(id);
        cursor.first()?;
        cursors.push(cursor);
    }
    Ok(MergingCursor::new(cursors))
}
