//! The merge policy: when to write an image layer, which delta layers to merge, and which image layers to remove.
//!
//! The rule uses the sizes of files, in bytes:
//! - *When to write an image layer*: after a new delta layer, if the delta layers since the newest image layer are
//!   larger than half of it. (If there is no image layer: than half of the first delta layer.)
//! - *Which delta layers to merge*: there are at most [`MAX_NEWEST_DELTAS`] delta layers after the newest image
//!   layer, and at most [`MAX_OLDER_DELTAS`] between two image layers. If there are more after the newest image layer, the
//!   two neighbours with the smallest sum of sizes are merged. Between two image layers, they are merged into two of about
//!   the same size, so that each event is merged once. A merged delta layer never spans the commit of an image layer.
//! - *Which image layers to remove*: the newest is kept. The others are kept while their sum is at most a quarter of
//!   the sum of all delta layers, and their number in proportion to that sum: a table of few rows with a long history would
//!   otherwise have an image layer, and two delta layers, for every few snapshots, without end. Otherwise, the policy removes
//!   the image layer whose two neighbours have the fewest bytes of delta layers between them.
//!
//! While a load lasts, the next delta layer is due before this one is built into the rest. [`next_urgent_task`] then does
//! only what bounds the number and the size of the layers: it writes an image layer for every [`MAX_NEWEST_DELTAS`] delta
//! layers and puts merges off, up to a number of layers, until the load is over. Delta layers take rows out of memory;
//! image layers and merges do not.
//!
//! The disk space of a table therefore stays in proportion to its log, and a lookup of one row at any point in time
//! reads at most the layers between two image layers. A delta layer holds every event of its commits, so no task
//! changes an answer. Leveled or tiered compaction as in an LSM tree would discard overwritten versions, which time
//! travel needs.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::format::manifest::{DeltaLayer, Manifest};

/// The most delta layers after the newest image layer. The newest state is read from these.
pub const MAX_NEWEST_DELTAS: usize = 8;
/// The most delta layers between two image layers. These are read less often, and they stay: the fewer they are, the
/// fewer files a row's whole history is read from.
pub const MAX_OLDER_DELTAS: usize = 2;

/// How many delta layers a table may have between image layers, beyond [`MAX_OLDER_DELTAS`], while a load lasts.
const MAX_DELTAS_PUT_OFF: usize = 64;

/// The older image layers that are kept although the delta layers are small.
const FEWEST_IMAGES: usize = 4;
/// For each further one, there must be this many bytes of delta layers.
const DELTAS_PER_IMAGE: u64 = 1 << 20;
/// The most older image layers. A point in time is then at most a thirtieth of the history away from one.
const MOST_IMAGES: usize = 32;

/// The next thing to do for a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MergeTask {
    /// Write an image layer at the end of the newest delta layer.
    WriteImage,
    /// Merge the delta layers at these positions.
    MergeDeltas(Range<usize>),
    /// Remove the image layer at this position.
    RemoveImage(usize),
}

/// Returns the next thing to do for a table; `None` if its layers are as the rule wants them.
pub fn next_task(manifest: &Manifest) -> Option<MergeTask> {
    if is_image_due(manifest) {
        return Some(MergeTask::WriteImage);
    }
    image_to_remove(manifest)
        .map(MergeTask::RemoveImage)
        .or_else(|| deltas_to_merge(manifest, 0).map(MergeTask::MergeDeltas))
}

/// Returns the next thing to do for a table whose next delta layer is due already; `None` if its layers are so few that the
/// rest can wait.
pub fn next_urgent_task(manifest: &Manifest) -> Option<MergeTask> {
    let newest = deltas_after_image(manifest).len();
    if newest >= MAX_NEWEST_DELTAS && is_image_due(manifest) {
        return Some(MergeTask::WriteImage);
    }
    if let Some(at) = image_to_remove(manifest) {
        return Some(MergeTask::RemoveImage(at));
    }
    let from = match () {
        () if newest > MAX_NEWEST_DELTAS => manifest.deltas.len() - newest,
        () if deltas_put_off(manifest) > MAX_DELTAS_PUT_OFF => 0,
        () => return None,
    };
    deltas_to_merge(manifest, from).map(MergeTask::MergeDeltas)
}

/// The number of delta layers that merges between image layers would remove.
fn deltas_put_off(manifest: &Manifest) -> usize {
    let newest = deltas_after_image(manifest).len();
    let older = manifest.deltas.iter().take(manifest.deltas.len() - newest);
    let mut groups = BTreeMap::new();
    for delta in older {
        *groups.entry(image_before(manifest, delta)).or_insert(0) += 1;
    }
    groups.into_values().map(|len: usize| len.saturating_sub(MAX_OLDER_DELTAS)).sum()
}

/// The number of image layers before the end of a delta layer.
fn image_before(manifest: &Manifest, delta: &DeltaLayer) -> usize {
    manifest.images.partition_point(|image| image.seq < delta.seq)
}

/// The delta layers after the newest image layer.
fn deltas_after_image(manifest: &Manifest) -> &[DeltaLayer] {
    let image = manifest.images.last().map_or(0, |image| image.seq);
    let first = manifest.deltas.partition_point(|delta| delta.seq <= image);
    manifest.deltas.get(first..).unwrap_or_default()
}

fn is_image_due(manifest: &Manifest) -> bool {
    let last = manifest.images.last();
    let (base, since): (u64, &[DeltaLayer]) = match (last, manifest.deltas.as_slice()) {
        (Some(image), _) => (image.bytes, deltas_after_image(manifest)),
        (None, [first, rest @ ..]) => (first.bytes, rest),
        (None, []) => return false,
    };
    // Every file has a minimum size. A single small delta layer is not worth an image layer.
    let bytes: u64 = since.iter().map(|delta| delta.bytes).sum();
    !since.is_empty() && bytes > base / 2 && (since.len() >= 2 || bytes > 64 << 10)
}

fn image_to_remove(manifest: &Manifest) -> Option<usize> {
    let (_, older) = manifest.images.split_last()?;
    let deltas: u64 = manifest.deltas.iter().map(|delta| delta.bytes).sum();
    let kept: u64 = older.iter().map(|image| image.bytes).sum();
    if kept <= deltas / 4 && older.len() <= most_images(deltas) {
        return None;
    }
    let floor = manifest.floor.map_or(0, |floor| floor.seq);
    // The image layer at the floor stays: no delta layer holds its rows.
    let removable = (0..older.len()).filter(|at| older.get(*at).is_some_and(|image| image.seq != floor));
    removable.min_by_key(|at| {
        let after = at.checked_sub(1).and_then(|before| older.get(before)).map_or(0, |image| image.seq);
        let last = manifest.images.get(at + 1).map_or(u64::MAX, |image| image.seq);
        let within = manifest.deltas.iter().filter(|delta| delta.seq > after && delta.base < last);
        within.map(|delta| delta.bytes).sum::<u64>()
    })
}

/// How many older image layers are kept beside delta layers of this size.
fn most_images(delta_bytes: u64) -> usize {
    let in_proportion = usize::try_from(delta_bytes / DELTAS_PER_IMAGE).unwrap_or(usize::MAX);
    in_proportion.clamp(FEWEST_IMAGES, MOST_IMAGES)
}

/// The first delta layers to merge, from a position on.
fn deltas_to_merge(manifest: &Manifest, mut start: usize) -> Option<Range<usize>> {
    let group_of = |delta: &DeltaLayer| image_before(manifest, delta);
    while let Some(first) = manifest.deltas.get(start) {
        let group = group_of(first);
        let len = manifest.deltas.iter().skip(start).take_while(|delta| group_of(delta) == group).count();
        let most = if group == manifest.images.len() { MAX_NEWEST_DELTAS } else { MAX_OLDER_DELTAS };
        if len > most && group != manifest.images.len() {
            return Some(part_to_merge(manifest, start..start + len));
        }
        if len > most {
            let deltas = manifest.deltas.get(start..start + len).unwrap_or_default();
            let pair_bytes =
                |at: &usize| deltas.iter().skip(*at).take(2).map(|delta| delta.bytes).sum::<u64>();
            let smallest = (0..len - 1).min_by_key(pair_bytes);
            return smallest.map(|at| start + at..start + at + 2);
        }
        start += len;
    }
    None
}

/// Of some neighbouring delta layers, of which two should remain: those to merge into one. They are split where the two parts
/// differ the least in size.
fn part_to_merge(manifest: &Manifest, group: Range<usize>) -> Range<usize> {
    let bytes = |part: Range<usize>| {
        manifest.deltas.get(part).unwrap_or_default().iter().map(|delta| delta.bytes).sum::<u64>()
    };
    let larger = |at: &usize| bytes(group.start..*at).max(bytes(*at..group.end));
    let split = (group.start + 1..group.end).min_by_key(larger).unwrap_or(group.end);
    if split - group.start > 1 { group.start..split } else { split..group.end }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::manifest::{Floor, ImageLayer, LogPosition, Segment};

    fn table() -> Manifest {
        Manifest {
            table: "t".into(),
            name: None,
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

    fn push_delta(manifest: &mut Manifest, bytes: u64) {
        let base = manifest.deltas.last().map_or(0, |delta| delta.seq);
        let (indexes, position) = (Vec::new(), LogPosition::default());
        manifest.deltas.push(DeltaLayer { base, seq: base + 10, bytes, events: 10, indexes, position });
    }

    /// Does the tasks until there are none. `rows` is the size of an image layer. Returns the number of tasks.
    fn run_tasks(manifest: &mut Manifest, rows: u64) -> usize {
        run_tasks_of(next_task, manifest, rows)
    }

    fn run_tasks_of(
        mut next_task: impl FnMut(&Manifest) -> Option<MergeTask>,
        manifest: &mut Manifest,
        rows: u64,
    ) -> usize {
        for done in 0..1000 {
            match next_task(manifest) {
                Some(MergeTask::WriteImage) => {
                    let seq = manifest.deltas.last().unwrap().seq;
                    manifest.images.push(ImageLayer { seq, rows: 1, bytes: rows, indexes: Vec::new() });
                }
                Some(MergeTask::MergeDeltas(range)) => {
                    assert!(range.len() >= 2);
                    let deltas = &manifest.deltas[range.clone()];
                    let (first, last) = (&deltas[0], &deltas[deltas.len() - 1]);
                    let is_within = |image: &ImageLayer| image.seq > first.base && image.seq < last.seq;
                    let crosses = manifest.images.iter().any(is_within);
                    assert!(!crosses, "a merged delta layer must not span the commit of an image layer");
                    let bytes = deltas.iter().map(|delta| delta.bytes).sum();
                    let delta = DeltaLayer { base: first.base, bytes, ..last.clone() };
                    manifest.deltas.splice(range, [delta]);
                }
                Some(MergeTask::RemoveImage(at)) => _ = manifest.images.remove(at),
                None => return done,
            }
        }
        panic!("there is always one more task: {manifest:?}");
    }

    fn check(manifest: &Manifest) {
        let deltas: u64 = manifest.deltas.iter().map(|delta| delta.bytes).sum();
        let (_, older) = manifest.images.split_last().unwrap_or((&manifest.images[0], &[]));
        let floor = manifest.floor.map_or(0, |floor| floor.seq);
        let kept: u64 = older.iter().filter(|image| image.seq != floor).map(|image| image.bytes).sum();
        assert!(kept <= deltas / 4, "{kept} bytes of older image layers, and {deltas} bytes of delta layers");
        let mut ends: Vec<u64> = manifest.images.iter().map(|image| image.seq).collect();
        ends.push(u64::MAX);
        let mut base = 0;
        for end in ends {
            let group = manifest.deltas.iter().filter(|delta| delta.base >= base && delta.seq <= end).count();
            assert!(group <= MAX_NEWEST_DELTAS, "{group} delta layers up to {end}");
            base = end;
        }
        assert!(
            manifest.deltas.windows(2).all(|two| two[0].seq == two[1].base),
            "delta layers must follow one another"
        );
        // The size of the image layer bounds what is read for the newest state.
        let newest = manifest.images.last().unwrap();
        let since: u64 =
            manifest.deltas.iter().filter(|delta| delta.seq > newest.seq).map(|delta| delta.bytes).sum();
        assert!(
            since <= (newest.bytes / 2).max(64 << 10),
            "{since} bytes of delta layers after an image layer of {} bytes",
            newest.bytes
        );
    }

    #[test]
    fn the_rule_ends_and_keeps_its_bounds_for_any_sizes() {
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
                push_delta(&mut manifest, 300 + below(largest));
                tasks += run_tasks(&mut manifest, 200 + below(rows));
                if manifest.deltas.len() > 1 && !manifest.images.is_empty() {
                    check(&manifest);
                }
                if manifest.floor.is_none() && below(40) == 0 && !manifest.images.is_empty() {
                    let seq = manifest.images[0].seq;
                    manifest.deltas.retain(|delta| delta.base >= seq);
                    manifest.floor = Some(Floor { seq, time_ms: 1, last_seq: seq, events: 1, rows: 1 });
                    if manifest.deltas.is_empty() {
                        break;
                    }
                }
            }
            assert!(tasks <= 60 * 4, "{tasks} tasks for 60 delta layers");
        }
    }

    #[test]
    fn a_load_writes_few_images_and_keeps_the_number_of_layers_bounded() {
        for (image, deltas) in [(8 << 20, 40), (8 << 20, 500), (200 << 20, 500)] {
            let (mut manifest, mut images) = (table(), 0);
            for _ in 0..deltas {
                push_delta(&mut manifest, 9 << 20);
                let next = |manifest: &Manifest| {
                    next_urgent_task(manifest)
                        .inspect(|task| images += usize::from(*task == MergeTask::WriteImage))
                };
                run_tasks_of(next, &mut manifest, image);
                assert!(deltas_after_image(&manifest).len() <= MAX_NEWEST_DELTAS);
                assert!(deltas_put_off(&manifest) <= MAX_DELTAS_PUT_OFF);
                assert_eq!(image_to_remove(&manifest), None);
            }
            assert!(images <= deltas / MAX_NEWEST_DELTAS, "{images} image layers for {deltas} delta layers");
            run_tasks(&mut manifest, image);
            check(&manifest);
        }
    }

    #[test]
    fn a_table_of_few_rows_with_a_long_history_has_few_layers() {
        for (deltas, bytes, most) in [(1000, 10 << 10, 32), (1000, 1 << 20, 120)] {
            let mut manifest = table();
            for _ in 0..deltas {
                push_delta(&mut manifest, bytes);
                run_tasks(&mut manifest, 400);
                let layers = manifest.deltas.len() + manifest.images.len();
                assert!(layers <= most, "{layers} layers for {bytes} bytes of events in each snapshot");
            }
            check(&manifest);
        }
    }

    #[test]
    fn older_delta_layers_are_merged_once_into_two_of_about_one_size() {
        let mut manifest = table();
        (0..8).for_each(|_| push_delta(&mut manifest, 1000));
        manifest.images.push(ImageLayer { seq: 80, rows: 1, bytes: 1 << 20, indexes: Vec::new() });
        assert_eq!(next_task(&manifest), Some(MergeTask::MergeDeltas(0..4)));
        assert_eq!(run_tasks(&mut manifest, 1 << 20), 2);
        assert_eq!(manifest.deltas.iter().map(|delta| delta.bytes).collect::<Vec<_>>(), [4000, 4000]);
    }

    #[test]
    fn a_table_without_layers_has_no_task() {
        assert_eq!(next_task(&table()), None);
    }

    #[test]
    fn the_image_layer_at_the_floor_is_kept() {
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
        assert_eq!(next_task(&manifest), Some(MergeTask::RemoveImage(1)));
        manifest.images.remove(1);
        assert_eq!(next_task(&manifest), None);
    }
}
