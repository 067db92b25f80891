//! Writes what replaces the history below the floor: the base delta layer, and the segment that begins with the state at
//! the floor.

use std::collections::HashMap;

use crate::error::{Error, Reason, Result};
use crate::format::compaction_base::KeepFrame;
use crate::format::event::{self, CommitMeta, CommitShape, EventType};
use crate::format::frame::FrameAddress;
use crate::format::manifest::{DeltaLayer, Floor, LogPosition, Manifest};
use crate::format::snapshot::{DeltaProperties, ProducerEntry, RequestEntry, kind, tree};
use crate::format::sst::SstIdentity;
use crate::storage::sst::write_file;
use crate::storage::wal::compaction_base::{BaseWriter, RawFrameReader, SegmentPosition};
use crate::table::build::compaction::plan::LogBoundary;
use crate::table::build::progress::{ProgressFn, REPORT_INTERVAL};
use crate::table::build::requests_since::RequestsSince;
use crate::table::layers::{LayerMap, read_sort_key};
use crate::table::table_files::TableFiles;

/// The most requests and producers in one KEEP frame. Each takes a few hundred bytes at most.
const ENTRIES_PER_KEEP_FRAME: usize = 2000;

/// Writes the base delta layer, which replaces the delta layers up to the floor: the schemas, requests and producers, and no
/// events.
pub(super) fn write_base_delta(
    files: &TableFiles,
    (name, id): (&str, u64),
    layers: &LayerMap,
    floor: Floor,
    since: RequestsSince,
) -> Result<DeltaLayer> {
    let identity = SstIdentity { table: id, base: floor.seq, seq: floor.seq, kind: kind::DELTA };
    let mut schema_entries = layers.properties().schema_entries.clone();
    schema_entries.retain(|entry| entry.seq <= floor.seq);
    // A delta layer that spans the floor stays, with its requests and producers.
    let replaced = layers.deltas_up_to(floor.seq);
    // The time of the last commit below the floor. If no layer has it, the floor's time serves: the delta layer that spans
    // the floor knows better.
    let time_ms = layers.time_of(floor.last_seq)?.unwrap_or(floor.time_ms);
    files.create_dirs(name)?;
    let bytes =
        write_file(&*files.fs, &files.dir.delta_layer(name, floor.seq, floor.seq), identity, |file| {
            for empty in [tree::VERSIONS, tree::COMMITS] {
                file.begin_tree(empty, empty == tree::VERSIONS)?;
                file.end_tree()?;
            }
            file.begin_tree(tree::REQUESTS, false)?;
            let mut value = Vec::new();
            each_request(&replaced, floor.seq, since, &mut |seq, request| {
                value.clear();
                request.encode(&mut value);
                file.add(&seq.to_be_bytes(), None, &value)
            })?;
            file.end_tree()?;
            file.begin_tree(tree::PRODUCERS, false)?;
            for producer in producers(&replaced, floor.seq)? {
                value.clear();
                producer.encode(&mut value);
                file.add(producer.origin.producer.as_bytes(), None, &value)?;
            }
            file.end_tree()?;
            Ok(DeltaProperties { events: floor.events, rows: floor.rows, time_ms, schema_entries }.encode())
        })?;
    files.sync_dirs(name)?;
    let (indexes, position) = (Vec::new(), LogPosition::default());
    Ok(DeltaLayer { base: floor.seq, seq: floor.seq, bytes, events: 0, indexes, position })
}

/// Passes the requests up to a commit that are kept to `take`, in commit order.
fn each_request(
    layers: &LayerMap,
    last: u64,
    since: RequestsSince,
    take: &mut dyn FnMut(u64, RequestEntry) -> Result<()>,
) -> Result<()> {
    let mut outcome = Ok(());
    layers.requests(&mut |seq, request| {
        if outcome.is_ok() && seq <= last && since.keeps(seq, &request) {
            outcome = take(seq, request);
        }
    })?;
    outcome
}

/// Each producer's newest position up to a commit, sorted by the producers' names.
fn producers(layers: &LayerMap, last: u64) -> Result<Vec<ProducerEntry>> {
    let mut newest: HashMap<String, ProducerEntry> = HashMap::new();
    layers.producers(&mut |producer| {
        let known = newest.get(&producer.origin.producer);
        if producer.seq <= last && known.is_none_or(|known| known.seq < producer.seq) {
            newest.insert(producer.origin.producer.clone(), producer);
        }
    })?;
    let mut newest: Vec<ProducerEntry> = newest.into_values().collect();
    newest.sort_unstable_by(|a, b| a.origin.producer.cmp(&b.origin.producer));
    Ok(newest)
}

/// Writes the requests and producers that are kept.
pub(super) fn write_kept(
    out: &mut BaseWriter,
    layers: &LayerMap,
    floor: Floor,
    since: RequestsSince,
) -> Result<()> {
    let at = (floor.seq, floor.time_ms);
    let mut write = |keep: &mut KeepFrame| {
        let keep = std::mem::take(keep);
        if keep.is_empty() { Ok(()) } else { out.push(at, EventType::Keep, |payload| keep.encode(payload)) }
    };
    let mut keep = KeepFrame::default();
    each_request(layers, floor.seq, since, &mut |seq, request| {
        keep.requests.push((seq, request));
        if keep.requests.len() < ENTRIES_PER_KEEP_FRAME { Ok(()) } else { write(&mut keep) }
    })?;
    for producer in producers(layers, floor.seq)? {
        keep.producers.push(producer);
        if keep.producers.len() >= ENTRIES_PER_KEEP_FRAME {
            write(&mut keep)?;
        }
    }
    write(&mut keep)
}

/// Writes the SCHEMA events up to the floor.
pub(super) fn write_schemas(out: &mut BaseWriter, layers: &LayerMap, floor: u64) -> Result<()> {
    for entry in layers.properties().schema_entries.iter().take_while(|entry| entry.seq <= floor) {
        let (actor, reason) = (entry.actor.clone(), entry.reason.clone());
        let meta = CommitMeta { actor, reason, ..CommitMeta::default() };
        out.push((entry.seq, entry.time_ms), EventType::Schema, |payload| {
            let first = Some((CommitShape::SINGLE, &meta));
            event::encode(payload, None, Some(&entry.document), false, first, false);
        })?;
    }
    Ok(())
}

/// Writes the live rows at the floor, as INSERTs.
pub(super) fn write_rows(
    out: &mut BaseWriter,
    layers: &LayerMap,
    floor: u64,
    progress: ProgressFn<'_>,
) -> Result<()> {
    let Some(created_at) = layers.created_at(floor)? else { return Ok(()) };
    let key_type = layers.key_type()?;
    let mut scan = layers.scan(floor, &[])?;
    let mut rows = 0;
    while let Some(bytes) = scan.key() {
        let Some(row) = scan.take(&bytes)?.filter(|row| row.seq >= created_at) else { continue };
        let Some(document) = row.document else { continue };
        let key = read_sort_key(&bytes, key_type)?;
        out.push((row.seq, row.time_ms), EventType::Insert, |payload| {
            event::encode(payload, Some(&key), Some(&document), false, None, false);
        })?;
        rows += 1;
        if rows % REPORT_INTERVAL == 0 {
            progress(rows)?;
        }
    }
    Ok(())
}

/// Copies the frames after the boundary. Returns, for each offset at which a delta layer of the manifest ends and for the
/// boundary, the old offset and the new position.
pub(super) fn copy_rest(
    out: &mut BaseWriter,
    files: &TableFiles,
    manifest: &Manifest,
    boundary: LogBoundary,
    progress: ProgressFn<'_>,
) -> Result<(Vec<u64>, Vec<SegmentPosition>)> {
    let segment = manifest.segments.iter().find(|segment| segment.number == boundary.segment);
    let sealed = segment.and_then(|segment| segment.sealed);
    let unsealed = || Error::new(Reason::Internal, "a segment that is compacted is not sealed");
    let end = sealed.ok_or_else(unsealed)?.bytes;
    let start = FrameAddress { table: manifest.table_id, segment: boundary.segment, offset: boundary.offset };
    let mut frames = RawFrameReader::open(&*files.fs, &files.dir, &manifest.table, start, end)?;
    let is_wanted = |offset: u64| {
        let ends_here = |delta: &DeltaLayer| {
            (delta.position.segment, delta.position.offset) == (boundary.segment, offset)
        };
        offset == boundary.offset || manifest.deltas.iter().any(ends_here)
    };
    let (mut offsets, mut positions, mut copied) = (Vec::new(), Vec::new(), 0);
    loop {
        let offset = frames.offset();
        if is_wanted(offset) {
            offsets.push(offset);
            positions.push(out.save_position()?);
        }
        let Some(frame) = frames.next_frame()? else { return Ok((offsets, positions)) };
        out.push((frame.seq, frame.time_ms), frame.kind, |payload| {
            payload.extend_from_slice(&frame.payload)
        })?;
        copied += 1;
        if copied % REPORT_INTERVAL == 0 {
            progress(copied)?;
        }
    }
}
