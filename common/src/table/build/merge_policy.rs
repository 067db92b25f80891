//! Which snapshots a table keeps: when all rows are written anew, which eras are merged, which files are let go.
//!
//! The rule, with bytes of files as weights:
//! - *All rows* are written after a new era when the eras since the last time outweigh half of what was written then (where
//!   all rows were never written: half of the first era).
//! - After the last such moment there are at most [`NEWEST_ERAS`] eras, between two of them at most [`ERAS_BETWEEN`]: of more, the
//!   two neighbours that weigh least together are merged.
//! - Of the moments at which all rows were written, the newest is kept; the others as long as together they weigh no more
//!   than a quarter of all eras. The first to go is the one that leaves the lightest group behind.
//!
//! So what a table takes on disk stays in proportion to its log, and what is read for one row, at any moment, is bounded by
//! the files of one group. An era holds all of its events, so that nothing of this changes an answer.

use crate::error::Result;
use crate::format::manifest::{DeltaLayer, Manifest};
use crate::format::snapshot::{CandidateEntry, RequestEntry, kind, read_version, tree};
use crate::format::sst::{SstIdentity, SstWriter};
use crate::storage::layout::delta_stem;
use crate::storage::sst::{SstOutput, TreeCursor, write_file};
use crate::table::build::snapshot::{ProgressFn, make_dirs, sync_dirs};
use crate::table::table_files::{LayerFile, TableFiles};

/// Eras after the last moment of which all rows are kept, at most: what the newest state is read from.
pub const NEWEST_ERAS: usize = 8;
/// Eras between two such moments, at most. They are read less, and stay: fewer of them make a row's whole history cheap.
pub const ERAS_BETWEEN: usize = 2;

/// What is to be done next for a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MergeTask {
    /// Write all rows as they are at the end of the newest era.
    ImageLayer,
    /// Merge the eras at these positions.
    Merge(std::ops::Range<usize>),
    /// Let go of all rows at a moment: the position among them.
    Drop(usize),
}

/// What is to be done next for a table; `None` where all is as the rule wants it.
pub fn next_task(manifest: &Manifest) -> Option<MergeTask> {
    if full_is_due(manifest) {
        return Some(MergeTask::ImageLayer);
    }
    heaviest_to_drop(manifest)
        .map(MergeTask::Drop)
        .or_else(|| neighbours_to_merge(manifest).map(MergeTask::Merge))
}

fn full_is_due(manifest: &Manifest) -> bool {
    let last = manifest.images.last();
    let (base, since): (u64, &[DeltaLayer]) = match (last, manifest.deltas.as_slice()) {
        (Some(full), deltas) => {
            let first = deltas.partition_point(|era| era.seq <= full.seq);
            (full.bytes, deltas.get(first..).unwrap_or_default())
        }
        (None, [first, rest @ ..]) => (first.bytes, rest),
        (None, []) => return false,
    };
    // Files have a least size: small tables are not written anew each time.
    let weight: u64 = since.iter().map(|era| era.bytes).sum();
    !since.is_empty() && weight > base / 2 && (since.len() >= 2 || weight > 64 << 10)
}

fn heaviest_to_drop(manifest: &Manifest) -> Option<usize> {
    let (_, older) = manifest.images.split_last()?;
    let deltas: u64 = manifest.deltas.iter().map(|era| era.bytes).sum();
    let kept: u64 = older.iter().map(|full| full.bytes).sum();
    if kept <= deltas / 4 {
        return None;
    }
    let floor = manifest.floor.map_or(0, |floor| floor.seq);
    // The floor's own rows are what everything below is folded into: they stay.
    let candidates = (0..older.len()).filter(|at| older.get(*at).is_some_and(|full| full.seq != floor));
    candidates.min_by_key(|at| {
        let after = at.checked_sub(1).and_then(|before| older.get(before)).map_or(0, |full| full.seq);
        let upto = manifest.images.get(at + 1).map_or(u64::MAX, |full| full.seq);
        let within = manifest.deltas.iter().filter(|era| era.seq > after && era.base < upto);
        within.map(|era| era.bytes).sum::<u64>()
    })
}

fn neighbours_to_merge(manifest: &Manifest) -> Option<std::ops::Range<usize>> {
    let group_of = |era: &DeltaLayer| manifest.images.partition_point(|full| full.seq < era.seq);
    let mut start = 0;
    while let Some(first) = manifest.deltas.get(start) {
        let group = group_of(first);
        let len = manifest.deltas.iter().skip(start).take_while(|era| group_of(era) == group).count();
        let most = if group == manifest.images.len() { NEWEST_ERAS } else { ERAS_BETWEEN };
        if len > most {
            let deltas = manifest.deltas.get(start..start + len).unwrap_or_default();
            let lightest = (0..len - 1)
                .min_by_key(|at| deltas.iter().skip(*at).take(2).map(|era| era.bytes).sum::<u64>());
            return lightest.map(|at| start + at..start + at + 2);
        }
        start += len;
    }
    None
}

/// Requests older than both are not asked about again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestsSince {
    /// Requests of commits from here on are kept,
    pub seq: u64,
    /// if they were made at this time, in milliseconds since 1970, or later.
    pub time_ms: u64,
}

impl RequestsSince {
    /// Whether a request is still asked about.
    pub fn keeps(&self, seq: u64, request: &RequestEntry) -> bool {
        seq >= self.seq && request.time_ms >= self.time_ms
    }
}

/// Merges eras that follow one another into one.
pub fn merge_eras(
    shelf: &TableFiles,
    (name, id): (&str, u64),
    deltas: &[(DeltaLayer, LayerFile)],
    requests: RequestsSince,
    watch: ProgressFn<'_>,
) -> Result<Option<DeltaLayer>> {
    let (Some((first, _)), Some((last, newest))) = (deltas.first(), deltas.last()) else { return Ok(None) };
    let identity = SstIdentity { table: id, base: first.base, seq: last.seq, kind: kind::DELTA };
    make_dirs(shelf, name)?;
    let path = shelf.dir.delta_layer(name, first.base, last.seq);
    let mut bytes = write_file(&*shelf.disk, &path, identity, |file| {
        file.begin_tree(tree::VERSIONS, true)?;
        merge_versions(file, deltas, watch)?;
        file.end_tree()?;
        for id in [tree::COMMITS, tree::REQUESTS] {
            file.begin_tree(id, false)?;
            append(file, deltas, id, requests)?;
            file.end_tree()?;
        }
        file.begin_tree(tree::PRODUCERS, false)?;
        // Of a producer's positions the last counts.
        merge(file, deltas.iter().map(|(_, era)| &era.file), tree::PRODUCERS, |_, later: &[u8]| {
            later.to_vec()
        })?;
        file.end_tree()?;
        Ok(newest.file.properties().to_vec())
    })?;
    let in_all = |path: &&String| deltas.iter().all(|(era, _)| era.indexes.contains(path));
    let indexes: Vec<String> = last.indexes.iter().filter(in_all).cloned().collect();
    for of_path in &indexes {
        let path = shelf.dir.index(name, of_path, &delta_stem(first.base, last.seq));
        let identity = SstIdentity { kind: kind::DELTA_INDEX, ..identity };
        bytes += write_file(&*shelf.disk, &path, identity, |file| {
            file.begin_tree(tree::CANDIDATES, false)?;
            let files = deltas.iter().filter_map(|(_, era)| era.index(of_path));
            merge(file, files, tree::CANDIDATES, join_candidates)?;
            file.end_tree()?;
            Ok(of_path.clone().into_bytes())
        })?;
    }
    sync_dirs(shelf, name)?;
    let events = deltas.iter().map(|(era, _)| era.events).sum();
    Ok(Some(DeltaLayer { base: first.base, seq: last.seq, bytes, events, indexes, position: last.position }))
}

fn merge_versions(
    file: &mut SstWriter<SstOutput>,
    deltas: &[(DeltaLayer, LayerFile)],
    watch: ProgressFn<'_>,
) -> Result<()> {
    let mut cursors = first_entries(deltas.iter().map(|(_, era)| &era.file), tree::VERSIONS)?;
    let mut done = 0;
    while let Some(cursor) = least(&mut cursors) {
        if let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
            let row = read_version(key).map(|(row, ..)| row);
            file.add(key, row, &value)?;
        }
        cursor.next()?;
        done += 1;
        if done % 4096 == 0 {
            watch(done)?;
        }
    }
    Ok(())
}

/// Appends a tree of each era to the one before: their keys follow one another.
fn append(
    file: &mut SstWriter<SstOutput>,
    deltas: &[(DeltaLayer, LayerFile)],
    id: u8,
    since: RequestsSince,
) -> Result<()> {
    for (_, era) in deltas {
        let mut cursor = era.file.cursor(id);
        cursor.first()?;
        while let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
            let seq = key.first_chunk::<8>().map_or(0, |seq| u64::from_be_bytes(*seq));
            let keep = id != tree::REQUESTS || since.keeps(seq, &RequestEntry::decode(&value)?);
            if keep {
                file.add(key, None, &value)?;
            }
            cursor.next()?;
        }
    }
    Ok(())
}

/// Merges a tree of files, older ones first; `join` makes one value of an older and a later one of the same key.
fn merge<'a>(
    file: &mut SstWriter<SstOutput>,
    files: impl Iterator<Item = &'a std::sync::Arc<crate::storage::sst::SstFile>>,
    id: u8,
    join: impl Fn(&[u8], &[u8]) -> Vec<u8>,
) -> Result<()> {
    let mut cursors = first_entries(files, id)?;
    loop {
        let Some(key) = least(&mut cursors).and_then(|cursor| cursor.key()).map(<[u8]>::to_vec) else {
            return Ok(());
        };
        let mut joined: Option<Vec<u8>> = None;
        for cursor in &mut cursors {
            if cursor.key() == Some(&key) {
                let value = cursor.value().unwrap_or_default();
                joined = Some(joined.map_or_else(|| value.to_vec(), |older| join(&older, &value)));
                cursor.next()?;
            }
        }
        file.add(&key, None, &joined.unwrap_or_default())?;
    }
}

/// What two eras say of one candidate. What cannot be read makes it a candidate for ever, which is never wrong.
fn join_candidates(older: &[u8], later: &[u8]) -> Vec<u8> {
    let read =
        |bytes: &[u8]| CandidateEntry::decode(&bytes::Bytes::copy_from_slice(bytes)).unwrap_or_default();
    let joined = CandidateEntry { first: read(older).first, until: read(later).until };
    let mut out = Vec::new();
    joined.encode(&mut out);
    out
}

fn first_entries<'a>(
    files: impl Iterator<Item = &'a std::sync::Arc<crate::storage::sst::SstFile>>,
    id: u8,
) -> Result<Vec<TreeCursor>> {
    let mut cursors = Vec::new();
    for file in files {
        let mut cursor = file.cursor(id);
        cursor.first()?;
        cursors.push(cursor);
    }
    Ok(cursors)
}

/// The cursor at the least key; of equal ones, the first.
fn least(cursors: &mut [TreeCursor]) -> Option<&mut TreeCursor> {
    cursors.iter_mut().filter(|cursor| cursor.key().is_some()).min_by(|a, b| a.key().cmp(&b.key()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::manifest::{Floor, ImageLayer, LogPosition, Segment};

    fn table() -> Manifest {
        Manifest {
            table: "t".into(),
            table_id: 1,
            version: 1,
            term: 1,
            published: 0,
            published_ms: 0,
            floor: None,
            deltas: Vec::new(),
            images: Vec::new(),
            segments: vec![Segment { number: 1, sealed: None }],
        }
    }

    fn push_era(manifest: &mut Manifest, bytes: u64) {
        let base = manifest.deltas.last().map_or(0, |era| era.seq);
        let (indexes, position) = (Vec::new(), LogPosition::default());
        manifest.deltas.push(DeltaLayer { base, seq: base + 10, bytes, events: 10, indexes, position });
    }

    /// Does what the rule wants until it wants no more; `rows` is what all rows weigh. How many tasks there were.
    fn tend(manifest: &mut Manifest, rows: u64) -> usize {
        for done in 0..1000 {
            match next_task(manifest) {
                Some(MergeTask::ImageLayer) => {
                    let seq = manifest.deltas.last().unwrap().seq;
                    manifest.images.push(ImageLayer { seq, rows: 1, bytes: rows, indexes: Vec::new() });
                }
                Some(MergeTask::Merge(range)) => {
                    assert_eq!(range.len(), 2);
                    let deltas = &manifest.deltas[range.clone()];
                    let crosses = manifest.images.iter().any(|full| full.seq == deltas[0].seq);
                    assert!(!crosses, "an era may not span a moment of which all rows are kept");
                    let mut era = deltas[1].clone();
                    (era.base, era.bytes) = (deltas[0].base, deltas[0].bytes + deltas[1].bytes);
                    manifest.deltas.splice(range, [era]);
                }
                Some(MergeTask::Drop(at)) => _ = manifest.images.remove(at),
                None => return done,
            }
        }
        panic!("it never ends: {manifest:?}");
    }

    fn check(manifest: &Manifest) {
        let deltas: u64 = manifest.deltas.iter().map(|era| era.bytes).sum();
        let (_, older) = manifest.images.split_last().unwrap_or((&manifest.images[0], &[]));
        let floor = manifest.floor.map_or(0, |floor| floor.seq);
        let kept: u64 = older.iter().filter(|full| full.seq != floor).map(|full| full.bytes).sum();
        assert!(kept <= deltas / 4, "{kept} bytes of all rows at older moments beside {deltas} of eras");
        let mut ends: Vec<u64> = manifest.images.iter().map(|full| full.seq).collect();
        ends.push(u64::MAX);
        let mut base = 0;
        for end in ends {
            let group = manifest.deltas.iter().filter(|era| era.base >= base && era.seq <= end).count();
            assert!(group <= NEWEST_ERAS, "{group} eras up to {end}");
            base = end;
        }
        assert!(manifest.deltas.windows(2).all(|two| two[0].seq == two[1].base), "eras follow one another");
        // What is read for the newest state is bounded by what all rows weigh.
        let newest = manifest.images.last().unwrap();
        let since: u64 = manifest.deltas.iter().filter(|era| era.seq > newest.seq).map(|era| era.bytes).sum();
        assert!(
            since <= (newest.bytes / 2).max(64 << 10),
            "{since} bytes since {} of all rows",
            newest.bytes
        );
    }

    #[test]
    fn whatever_eras_weigh_the_rule_ends_and_keeps_its_bounds() {
        let mut dice = 7u64;
        let mut below = |n: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) % n
        };
        for case in 0..200 {
            let mut manifest = table();
            let (largest, rows) = (1 << (6 + case % 24), 1 << (6 + below(26)));
            let mut tasks = 0;
            for _ in 0..60 {
                push_era(&mut manifest, 300 + below(largest));
                tasks += tend(&mut manifest, 200 + below(rows));
                if manifest.deltas.len() > 1 && !manifest.images.is_empty() {
                    check(&manifest);
                }
                if manifest.floor.is_none() && below(40) == 0 && !manifest.images.is_empty() {
                    let seq = manifest.images[0].seq;
                    manifest.deltas.retain(|era| era.base >= seq);
                    manifest.floor = Some(Floor { seq, time_ms: 1, last_seq: seq, events: 1, rows: 1 });
                    if manifest.deltas.is_empty() {
                        break;
                    }
                }
            }
            assert!(tasks <= 60 * 4, "{tasks} tasks for 60 eras");
        }
    }

    #[test]
    fn a_table_without_snapshots_wants_nothing() {
        assert_eq!(next_task(&table()), None);
    }

    #[test]
    fn the_rows_at_the_floor_stay() {
        let mut manifest = table();
        manifest.floor = Some(Floor { seq: 10, time_ms: 1, last_seq: 10, events: 1, rows: 1 });
        for seq in [10, 20, 30] {
            manifest.images.push(ImageLayer { seq, rows: 1, bytes: 1 << 30, indexes: Vec::new() });
        }
        manifest.deltas.push(DeltaLayer {
            base: 10,
            seq: 30,
            bytes: 1000,
            events: 1,
            indexes: Vec::new(),
            position: LogPosition::default(),
        });
        assert_eq!(next_task(&manifest), Some(MergeTask::Drop(1)));
        manifest.images.remove(1);
        assert_eq!(next_task(&manifest), None);
    }
}
