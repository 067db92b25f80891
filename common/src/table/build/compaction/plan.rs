//! What a compaction will do: the new floor, the end of the compacted log, and the bytes that it frees.

use bytes::Bytes;

use crate::error::{Error, Reason, Result};
use crate::format::frame::FrameAddress;
use crate::format::manifest::{DeltaLayer, Floor, Manifest, Segment};
use crate::format::snapshot::DeltaProperties;
use crate::storage::wal::compaction_base::RawFrameReader;
use crate::table::build::requests_since::RequestsSince;
use crate::table::layers::LayerMap;
use crate::table::table_files::TableFiles;

/// What a compaction is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionRequest {
    /// The new floor: the state after this commit stays, and the history before it is discarded.
    pub seq: u64,
    /// The time of that commit, in milliseconds since 1970.
    pub time_ms: u64,
    /// Which request ids are kept.
    pub requests: RequestsSince,
}

/// What a compaction will do, or has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactionPlan {
    /// The new floor.
    pub floor: Floor,
    /// The number of events that become part of the state at the floor.
    pub events: u64,
    /// The bytes of the files that will be removed, including those that new files replace.
    pub bytes_before: u64,
    /// The bytes of the new files; an estimate before the compaction.
    pub bytes_after: u64,
    pub(super) boundary: LogBoundary,
}

/// Where the compacted part of the log ends. It is in a segment, after at least one frame, or at the segment's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogBoundary {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

/// Whether everything below the floor has been compacted. A compaction that stopped after it raised the floor has to be
/// run again.
pub fn is_complete(manifest: &Manifest) -> bool {
    let floor = manifest.floor.map_or(0, |floor| floor.seq);
    floor == 0
        || manifest.deltas.first().is_some_and(|delta| delta.is_compaction_base() && delta.seq == floor)
}

/// Plans the compaction of a table. The layers must hold every commit up to the new floor.
pub fn plan(
    files: &TableFiles,
    manifest: &Manifest,
    layers: &LayerMap,
    request: CompactionRequest,
) -> Result<CompactionPlan> {
    let counts = layers.counts_at(request.seq)?;
    let floor = Floor {
        seq: request.seq,
        time_ms: request.time_ms,
        last_seq: counts.last_seq,
        events: counts.events,
        rows: counts.rows,
    };
    let boundary = find_boundary(files, manifest, request.seq)?;
    let compacted_before = match layers.deltas.first().filter(|delta| delta.base == delta.seq) {
        Some(base) => DeltaProperties::decode(&Bytes::copy_from_slice(base.file.properties()))?.events,
        None => 0,
    };
    let within = segments_up_to(manifest, boundary.segment);
    let log: u64 =
        within.iter().map(|segment| segment.sealed.map_or(boundary.offset, |seal| seal.bytes)).sum();
    let deltas = manifest.deltas.iter().filter(|delta| delta.seq <= floor.seq).map(|delta| delta.bytes);
    let images = manifest.images.iter().filter(|image| image.seq < floor.seq).map(|image| image.bytes);
    // The frames after the boundary are copied.
    let copied =
        within.last().and_then(|segment| segment.sealed).map_or(0, |seal| seal.bytes - boundary.offset);
    let state = (log - copied).saturating_mul(floor.rows) / floor.events.max(1);
    let image = manifest.images.iter().rev().find(|image| image.seq <= floor.seq).map(|image| image.bytes);
    Ok(CompactionPlan {
        floor,
        events: floor.events.saturating_sub(compacted_before),
        bytes_before: log + deltas.sum::<u64>() + images.sum::<u64>(),
        bytes_after: copied + state.min(log) + image.unwrap_or(0),
        boundary,
    })
}

/// The segments of a manifest up to and including one.
pub(super) fn segments_up_to(manifest: &Manifest, number: u64) -> &[Segment] {
    let at = manifest.segments.iter().position(|segment| segment.number == number);
    manifest.segments.get(..at.map_or(0, |at| at + 1)).unwrap_or_default()
}

/// Finds the log position after the last frame at or below the floor. Starts at the end of the last delta layer at or
/// below the floor.
fn find_boundary(files: &TableFiles, manifest: &Manifest, floor: u64) -> Result<LogBoundary> {
    let unlisted =
        || Error::new(Reason::Internal, "a delta layer ends in a segment that the manifest does not list");
    let delta = manifest.deltas.iter().rev().find(|delta| delta.seq <= floor);
    let (mut at, mut offset) = match delta {
        Some(DeltaLayer { position, .. }) => {
            let at = manifest.segments.iter().position(|segment| segment.number == position.segment);
            (at.ok_or_else(unlisted)?, position.offset)
        }
        None => (0, 0),
    };
    // The log after the newest delta layer has no frame at or below the floor.
    if manifest.deltas.last().is_none_or(|newest| newest.seq <= floor) {
        return boundary_at(manifest, at, offset).ok_or_else(unlisted);
    }
    while let Some(segment) = manifest.segments.get(at) {
        let start = FrameAddress { table: manifest.table_id, segment: segment.number, offset };
        // The active segment has zeros after its durable bytes, but a frame above the floor comes before them.
        let end = segment.sealed.map_or(u64::MAX, |seal| seal.bytes);
        let mut frames = RawFrameReader::open(&*files.fs, &files.dir, &manifest.table, start, end)?;
        while let Some(frame) = frames.next_frame()? {
            if frame.seq > floor {
                return boundary_at(manifest, at, offset).ok_or_else(unlisted);
            }
            offset = frames.offset();
        }
        (at, offset) = (at + 1, 0);
    }
    boundary_at(manifest, at, offset).ok_or_else(unlisted)
}

/// The boundary at an offset of the segment at a position of the manifest. The beginning of a segment is expressed as the end
/// of the segment before it.
fn boundary_at(manifest: &Manifest, at: usize, offset: u64) -> Option<LogBoundary> {
    if offset > 0 {
        return Some(LogBoundary { segment: manifest.segments.get(at)?.number, offset });
    }
    let before = manifest.segments.get(at.checked_sub(1)?)?;
    Some(LogBoundary { segment: before.number, offset: before.sealed?.bytes })
}
