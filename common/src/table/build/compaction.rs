//! Compaction: a table's events up to the floor become one state, in the log and in files.
//!
//! The order makes it safe to stop anywhere. The floor is published first: from then on nobody is answered from what is
//! about to go. Then the new segment gets its name, then the manifest that lists it; only then may the old files go. Until
//! that manifest is in place all the old files are, and recovery removes the new ones.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::error::{Error, Reason, Result};
use crate::format::compaction_base::{FloorFrame, KeepFrame};
use crate::format::event::{self, CommitMeta, CommitShape, EventType};
use crate::format::frame::FrameAddress;
use crate::format::manifest::{DeltaLayer, Floor, ImageLayer, LogPosition, Manifest, Segment};
use crate::format::snapshot::{DeltaProperties, ProducerEntry, RequestEntry, kind, tree};
use crate::format::sortkey;
use crate::format::sst::SstIdentity;
use crate::storage::layout::snapshot_files;
use crate::storage::sst::write_file;
use crate::storage::wal::appender::CompactionInput;
use crate::storage::wal::compaction_base::{BaseWriter, RawFrameReader, SegmentPosition};
use crate::table::build::merge_policy::RequestsSince;
use crate::table::build::snapshot::{self, ProgressFn, born_at, make_dirs, sync_dirs};
use crate::table::layers::LayerMap;
use crate::table::table_files::TableFiles;

/// A change of a manifest.
pub type ManifestEdit = Box<dyn Fn(&mut Manifest) + Send>;

/// The way to the log of the table that is compacted. Its snapshots must not be changed by others meanwhile.
pub trait CompactionLog {
    /// See [`crate::storage::wal::appender::Log::begin_compaction`].
    fn begin(&self, upto: u64) -> Result<CompactionInput>;

    /// Changes the manifest, and tells readers and the writer.
    fn install(&self, edit: ManifestEdit) -> Result<Manifest>;
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionRequest {
    /// The new floor: the state after this commit stays, what was before it goes.
    pub seq: u64,
    /// The time of that commit, in milliseconds since 1970.
    pub time_ms: u64,
    /// Older requests are not kept.
    pub requests: RequestsSince,
}

/// What a compaction does, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactionPlan {
    /// The floor.
    pub floor: Floor,
    /// Events that become part of a state.
    pub events: u64,
    /// Bytes of the files that go, those that are replaced too.
    pub bytes_before: u64,
    /// About how many bytes come in their place.
    pub bytes_after: u64,
    /// Where the first frame above the floor stands, or would.
    boundary: Boundary,
}

/// The end of what is folded: in a segment, behind at least one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Boundary {
    segment: u64,
    offset: u64,
}

/// What a compaction has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactionResult {
    /// The plan, with the bytes that came in place.
    pub plan: CompactionPlan,
    /// Segments that nothing names any more. They may go once readers have had time to see that.
    pub superseded: Vec<PathBuf>,
}

/// New files, and what the manifest has to become.
#[derive(Debug, Clone)]
struct Built {
    floor: Floor,
    full: Option<ImageLayer>,
    folded: DeltaLayer,
    segment: Segment,
    superseded: Vec<u64>,
    /// Positions in the segment at the boundary, and where they are now.
    moved: Vec<(u64, LogPosition)>,
    boundary: u64,
}

/// Whether what lies below the floor has been folded: a compaction may have been cut short after it raised the floor.
pub fn is_complete(manifest: &Manifest) -> bool {
    let floor = manifest.floor.map_or(0, |floor| floor.seq);
    floor == 0 || manifest.deltas.first().is_some_and(|era| era.is_compaction_base() && era.seq == floor)
}

/// What it would do to compact a table up to a moment. The chain must hold everything up to there.
pub fn plan(
    shelf: &TableFiles,
    manifest: &Manifest,
    chain: &LayerMap,
    wanted: CompactionRequest,
) -> Result<CompactionPlan> {
    let counts = chain.counts_at(wanted.seq)?;
    let floor = Floor {
        seq: wanted.seq,
        time_ms: wanted.time_ms,
        last_seq: counts.last_seq,
        events: counts.events,
        rows: counts.rows,
    };
    let boundary = boundary(shelf, manifest, wanted.seq)?;
    let folded_before = match chain.deltas.first().filter(|era| era.base == era.seq) {
        Some(era) => DeltaProperties::decode(&bytes::Bytes::copy_from_slice(era.file.properties()))?.events,
        None => 0,
    };
    let within = segments_upto(manifest, boundary.segment);
    let log: u64 =
        within.iter().map(|segment| segment.sealed.map_or(boundary.offset, |seal| seal.bytes)).sum();
    let deltas = manifest.deltas.iter().filter(|era| era.seq <= floor.seq).map(|era| era.bytes);
    let images = manifest.images.iter().filter(|full| full.seq < floor.seq).map(|full| full.bytes);
    // The segment at the boundary is copied from there on.
    let copied =
        within.last().and_then(|segment| segment.sealed).map_or(0, |seal| seal.bytes - boundary.offset);
    let state = (log - copied).saturating_mul(floor.rows) / floor.events.max(1);
    let full = manifest.images.iter().rev().find(|full| full.seq <= floor.seq).map(|full| full.bytes);
    Ok(CompactionPlan {
        floor,
        events: floor.events.saturating_sub(folded_before),
        bytes_before: log + deltas.sum::<u64>() + images.sum::<u64>(),
        bytes_after: copied + state.min(log) + full.unwrap_or(0),
        boundary,
    })
}

/// The segments of a manifest up to and with one.
fn segments_upto(manifest: &Manifest, number: u64) -> &[Segment] {
    let at = manifest.segments.iter().position(|segment| segment.number == number);
    manifest.segments.get(..at.map_or(0, |at| at + 1)).unwrap_or_default()
}

/// Finds the end of what is folded, from the last era that ends at or before the floor.
fn boundary(shelf: &TableFiles, manifest: &Manifest, seq: u64) -> Result<Boundary> {
    let lost = || Error::new(Reason::Internal, "an era goes on in a segment that the manifest does not list");
    let era = manifest.deltas.iter().rev().find(|era| era.seq <= seq);
    let (mut at, mut offset) = match era {
        Some(DeltaLayer { position, .. }) => {
            let at = manifest.segments.iter().position(|segment| segment.number == position.segment);
            (at.ok_or_else(lost)?, position.offset)
        }
        None => (0, 0),
    };
    // Behind the newest era there is nothing at or below the floor.
    if manifest.deltas.last().is_none_or(|newest| newest.seq <= seq) {
        return behind(manifest, at, offset).ok_or_else(lost);
    }
    while let Some(segment) = manifest.segments.get(at) {
        let place = FrameAddress { table: manifest.table_id, segment: segment.number, offset };
        // Beyond its durable bytes an active segment has zeros; a frame above the floor comes before them.
        let end = segment.sealed.map_or(u64::MAX, |seal| seal.bytes);
        let mut frames = RawFrameReader::open(&*shelf.disk, &shelf.dir, &manifest.table, place, end)?;
        while let Some(frame) = frames.next_frame()? {
            if frame.seq > seq {
                return behind(manifest, at, offset).ok_or_else(lost);
            }
            offset = frames.offset();
        }
        (at, offset) = (at + 1, 0);
    }
    behind(manifest, at, offset).ok_or_else(lost)
}

/// The same place at the end of the segment before, where it is the beginning of one.
fn behind(manifest: &Manifest, at: usize, offset: u64) -> Option<Boundary> {
    if offset > 0 {
        return Some(Boundary { segment: manifest.segments.get(at)?.number, offset });
    }
    let before = manifest.segments.get(at.checked_sub(1)?)?;
    Some(Boundary { segment: before.number, offset: before.sealed?.bytes })
}

/// Compacts a table as planned. The chain must hold everything up to the floor, and be the manifest's.
pub fn run(
    shelf: &TableFiles,
    hands: &dyn CompactionLog,
    chain: &LayerMap,
    (plan, wanted): (CompactionPlan, CompactionRequest),
    watch: ProgressFn<'_>,
) -> Result<CompactionResult> {
    let base = hands.begin(plan.boundary.segment)?;
    let table = base.manifest.table.clone();
    let (old, number) = (snapshot_files(&shelf.dir, &base.manifest), base.number);
    let temporary = shelf.dir.segment_tmp(&table, number, base.term);
    let built = match build(shelf, chain, &base, (&plan, wanted), watch) {
        Ok(built) => built,
        Err(error) => {
            // What stays is removed by the next open.
            let _ = shelf.disk.remove(&temporary);
            return Err(error);
        }
    };
    let floor = built.floor;
    hands.install(Box::new(move |manifest| manifest.floor = Some(floor)))?;
    let named = || {
        shelf.disk.rename(&temporary, &shelf.dir.segment(&table, number))?;
        // This also makes durable that segments superseded before are gone: the new FLOOR does not name those.
        shelf.disk.sync_dir(&shelf.dir.segments(&table))
    };
    named().map_err(|e| Error::io(format_args!("cannot name segment {number} of {table}"), &e))?;
    let applied = built.clone();
    let manifest = hands.install(Box::new(move |manifest| applied.apply(manifest)))?;
    let new: u64 = manifest.deltas.first().map_or(0, |era| era.bytes)
        + built.full.as_ref().map_or(0, |full| full.bytes)
        + built.segment.sealed.map_or(0, |seal| seal.bytes);
    tracing::info!(
        table,
        floor = floor.seq,
        events = plan.events,
        segment = number,
        files = old.len(),
        "compacted"
    );
    let superseded = built.superseded.iter().map(|number| shelf.dir.segment(&table, *number)).collect();
    Ok(CompactionResult { plan: CompactionPlan { bytes_after: new, ..plan }, superseded })
}

fn build(
    shelf: &TableFiles,
    chain: &LayerMap,
    base: &CompactionInput,
    (plan, wanted): (&CompactionPlan, CompactionRequest),
    watch: ProgressFn<'_>,
) -> Result<Built> {
    let (manifest, floor) = (&base.manifest, plan.floor);
    let table = (manifest.table.as_str(), manifest.table_id);
    let there = manifest.images.iter().any(|full| full.seq == floor.seq);
    let indexes = manifest.deltas.last().map(|era| era.indexes.clone()).unwrap_or_default();
    let full = match there {
        true => None,
        false => Some(snapshot::full(shelf, table, chain, floor.seq, &indexes, watch)?),
    };
    // Its rows are read back for the log: one file instead of many, and a proof that it can be read.
    let mut with_full = manifest.clone();
    if let Some(full) = &full {
        insert_full(&mut with_full.images, full.clone());
    }
    let with_full = shelf.open(&with_full, Some(chain))?;
    let mut folded = folded_era(shelf, table, chain, floor, wanted.requests)?;

    let mut superseded: Vec<u64> =
        segments_upto(manifest, plan.boundary.segment).iter().map(|segment| segment.number).collect();
    superseded.extend(base.stale.iter().copied());
    let first = FloorFrame { floor, frames: 0, digest: 0, superseded: superseded.clone() };
    let path = shelf.dir.segment_tmp(table.0, base.number, base.term);
    let mut out = BaseWriter::create(&shelf.disk, path, table.1, base.number, first)?;
    write_keep(&mut out, chain, floor, wanted.requests)?;
    write_schemas(&mut out, chain, floor.seq)?;
    write_rows(&mut out, &with_full, floor.seq, watch)?;
    out.end_base()?;
    let (offsets, spots) = copy_rest(&mut out, shelf, manifest, plan.boundary, watch)?;
    let (seal, positions) = out.finish(&spots)?;
    let moved: Vec<(u64, LogPosition)> = offsets.into_iter().zip(positions).collect();
    let start = moved.iter().find(|(offset, _)| *offset == plan.boundary.offset);
    folded.position = start.map(|(_, position)| *position).unwrap_or_default();
    let segment = Segment { number: base.number, sealed: Some(seal) };
    Ok(Built { floor, full, folded, segment, superseded, moved, boundary: plan.boundary.segment })
}

impl Built {
    /// Makes the manifest name the new files in place of those they stand for.
    fn apply(&self, manifest: &mut Manifest) {
        let floor = self.floor.seq;
        manifest.floor = Some(self.floor);
        manifest.segments.retain(|segment| !self.superseded.contains(&segment.number));
        manifest.segments.insert(0, self.segment.clone());
        manifest.deltas.retain(|era| era.seq > floor);
        for era in manifest.deltas.iter_mut().filter(|era| era.position.segment == self.boundary) {
            let moved = self.moved.iter().find(|(offset, _)| *offset == era.position.offset);
            if let Some((_, position)) = moved {
                era.position = *position;
            }
        }
        manifest.deltas.insert(0, self.folded.clone());
        manifest.images.retain(|full| full.seq >= floor);
        if let Some(full) = &self.full {
            insert_full(&mut manifest.images, full.clone());
        }
    }
}

fn insert_full(images: &mut Vec<ImageLayer>, full: ImageLayer) {
    let at = images.partition_point(|other| other.seq < full.seq);
    images.insert(at, full);
}

/// Writes the era that stands for what is folded: what the schema was, requests, producers.
fn folded_era(
    shelf: &TableFiles,
    (name, id): (&str, u64),
    chain: &LayerMap,
    floor: Floor,
    since: RequestsSince,
) -> Result<DeltaLayer> {
    let identity = SstIdentity { table: id, base: floor.seq, seq: floor.seq, kind: kind::DELTA };
    let mut schema_entries = chain.properties().schema_entries.clone();
    schema_entries.retain(|schema_entry| schema_entry.seq <= floor.seq);
    let own = chain.eras_upto(floor.seq);
    // The time of its last commit; where the floor stands within an era, that of the floor is as good: the era tells.
    let time_ms = chain.time_of(floor.last_seq)?.unwrap_or(floor.time_ms);
    make_dirs(shelf, name)?;
    let bytes =
        write_file(&*shelf.disk, &shelf.dir.delta_layer(name, floor.seq, floor.seq), identity, |file| {
            for empty in [tree::VERSIONS, tree::COMMITS] {
                file.begin_tree(empty, empty == tree::VERSIONS)?;
                file.end_tree()?;
            }
            file.begin_tree(tree::REQUESTS, false)?;
            let mut value = Vec::new();
            each_request(&own, floor.seq, since, &mut |seq, request| {
                value.clear();
                request.encode(&mut value);
                file.add(&seq.to_be_bytes(), None, &value)
            })?;
            file.end_tree()?;
            file.begin_tree(tree::PRODUCERS, false)?;
            for producer in producers(&own, floor.seq)? {
                value.clear();
                producer.encode(&mut value);
                file.add(producer.origin.producer.as_bytes(), None, &value)?;
            }
            file.end_tree()?;
            Ok(DeltaProperties { events: floor.events, rows: floor.rows, time_ms, schema_entries }.encode())
        })?;
    sync_dirs(shelf, name)?;
    let (indexes, position) = (Vec::new(), LogPosition::default());
    Ok(DeltaLayer { base: floor.seq, seq: floor.seq, bytes, events: 0, indexes, position })
}

fn each_request(
    chain: &LayerMap,
    upto: u64,
    since: RequestsSince,
    take: &mut dyn FnMut(u64, RequestEntry) -> Result<()>,
) -> Result<()> {
    let mut outcome = Ok(());
    chain.requests(&mut |seq, request| {
        if outcome.is_ok() && seq <= upto && since.keeps(seq, &request) {
            outcome = take(seq, request);
        }
    })?;
    outcome
}

/// Where producers' streams had come to, by name.
fn producers(chain: &LayerMap, upto: u64) -> Result<Vec<ProducerEntry>> {
    let mut newest: HashMap<String, ProducerEntry> = HashMap::new();
    chain.producers(&mut |producer| {
        let known = newest.get(&producer.origin.producer);
        if producer.seq <= upto && known.is_none_or(|known| known.seq < producer.seq) {
            newest.insert(producer.origin.producer.clone(), producer);
        }
    })?;
    let mut newest: Vec<ProducerEntry> = newest.into_values().collect();
    newest.sort_unstable_by(|a, b| a.origin.producer.cmp(&b.origin.producer));
    Ok(newest)
}

/// Requests and producers in one KEEP frame: each takes some hundreds of bytes at most.
const KEPT_AT_ONCE: usize = 2000;

fn write_keep(out: &mut BaseWriter, chain: &LayerMap, floor: Floor, since: RequestsSince) -> Result<()> {
    let at = (floor.seq, floor.time_ms);
    let mut write = |keep: &mut KeepFrame| {
        let keep = std::mem::take(keep);
        if keep.is_empty() { Ok(()) } else { out.push(at, EventType::Keep, |payload| keep.encode(payload)) }
    };
    let mut keep = KeepFrame::default();
    each_request(chain, floor.seq, since, &mut |seq, request| {
        keep.requests.push((seq, request));
        if keep.requests.len() < KEPT_AT_ONCE { Ok(()) } else { write(&mut keep) }
    })?;
    for producer in producers(chain, floor.seq)? {
        keep.producers.push(producer);
        if keep.producers.len() >= KEPT_AT_ONCE {
            write(&mut keep)?;
        }
    }
    write(&mut keep)
}

fn write_schemas(out: &mut BaseWriter, chain: &LayerMap, upto: u64) -> Result<()> {
    for schema_entry in
        chain.properties().schema_entries.iter().take_while(|schema_entry| schema_entry.seq <= upto)
    {
        let (actor, reason) = (schema_entry.actor.clone(), schema_entry.reason.clone());
        let meta = CommitMeta { actor, reason, ..CommitMeta::default() };
        out.push((schema_entry.seq, schema_entry.time_ms), EventType::Schema, |payload| {
            let first = Some((CommitShape::SINGLE, &meta));
            event::encode(payload, None, Some(&schema_entry.document), false, first, false);
        })?;
    }
    Ok(())
}

fn write_rows(out: &mut BaseWriter, chain: &LayerMap, seq: u64, watch: ProgressFn<'_>) -> Result<()> {
    let Some(born) = born_at(chain, seq)? else { return Ok(()) };
    let not_a_key = || Error::new(Reason::Corrupt, "a snapshot's entry is not that of a key");
    let key_type = chain.key_type();
    let mut scan = chain.scan(seq, &[])?;
    let mut rows = 0;
    while let Some(bytes) = scan.key() {
        let Some(row) = scan.take(&bytes)?.filter(|row| row.seq >= born) else { continue };
        let Some(document) = row.document else { continue };
        let (key, _) = sortkey::read_key(&bytes, key_type).ok_or_else(not_a_key)?;
        out.push((row.seq, row.time_ms), EventType::Insert, |payload| {
            event::encode(payload, Some(&key), Some(&document), false, None, false);
        })?;
        rows += 1;
        if rows % 4096 == 0 {
            watch(rows)?;
        }
    }
    Ok(())
}

/// Copies the frames behind the boundary. Tells where each place that an era may go on from was, and is now.
fn copy_rest(
    out: &mut BaseWriter,
    shelf: &TableFiles,
    manifest: &Manifest,
    boundary: Boundary,
    watch: ProgressFn<'_>,
) -> Result<(Vec<u64>, Vec<SegmentPosition>)> {
    let segment = manifest.segments.iter().find(|segment| segment.number == boundary.segment);
    let sealed = segment.and_then(|segment| segment.sealed);
    let end =
        sealed.ok_or_else(|| Error::new(Reason::Internal, "a segment to be folded is not sealed"))?.bytes;
    let place = FrameAddress { table: manifest.table_id, segment: boundary.segment, offset: boundary.offset };
    let mut frames = RawFrameReader::open(&*shelf.disk, &shelf.dir, &manifest.table, place, end)?;
    let wanted = |offset: u64| {
        let of_era =
            |era: &DeltaLayer| (era.position.segment, era.position.offset) == (boundary.segment, offset);
        offset == boundary.offset || manifest.deltas.iter().any(of_era)
    };
    let (mut offsets, mut spots, mut copied) = (Vec::new(), Vec::new(), 0);
    loop {
        let offset = frames.offset();
        if wanted(offset) {
            offsets.push(offset);
            spots.push(out.save_position()?);
        }
        let Some(frame) = frames.next_frame()? else { return Ok((offsets, spots)) };
        out.push((frame.seq, frame.time_ms), frame.kind, |payload| {
            payload.extend_from_slice(&frame.payload)
        })?;
        copied += 1;
        if copied % 4096 == 0 {
            watch(copied)?;
        }
    }
}
