//! Checks the segments of a table: frames, the order of commits, seals, and the ends of delta layers.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Reason, Result};
use crate::format::manifest::{Floor, Manifest};
use crate::storage::wal::compaction_base::{BaseItem, BaseReader};
use crate::storage::wal::cursor::{CursorItem, CursorPosition, LogCursor, SegmentSpan};
use crate::table::check::verification::commit_order::CommitOrder;
use crate::table::check::verification::describe;
use crate::table::check::verification::layer_ends::LayerEnds;
use crate::table::check::verification::problem::ProblemReporter;
use crate::table::log_tail::ReadLimit;
use crate::table::table_files::TableFiles;

/// Checks all segments. Returns whether the log can be read to its end.
pub(super) fn check(
    files: &TableFiles,
    manifest: &Manifest,
    limit: ReadLimit,
    reporter: &mut ProblemReporter<'_>,
) -> Result<bool> {
    let mut is_readable = true;
    let mut layer_ends = LayerEnds::of(manifest);
    let mut order = CommitOrder::default();
    let mut last = files.dir.segments(&manifest.table);
    let mut first = true;
    for segment in &manifest.segments {
        let path = files.dir.segment(&manifest.table, segment.number);
        let end = match segment.sealed {
            Some(seal) => seal.bytes,
            None if segment.number == limit.segment => limit.bytes,
            None => 0,
        };
        reporter.counts.files += 1;
        let mut cursor =
            LogCursor::new(Arc::clone(&files.fs), &files.dir, &manifest.table, manifest.table_id);
        if std::mem::take(&mut first) {
            match check_compaction_base(files, manifest, (segment.number, end), reporter) {
                Ok(Some(mark)) => cursor = cursor.starting_at(mark),
                Ok(None) => {}
                Err(error) => {
                    reporter.report_error(&path, error)?;
                    is_readable = false;
                    last = path;
                    continue;
                }
            }
        }
        cursor.extend(SegmentSpan { segment: segment.number, end, seal: segment.sealed });
        if !check_segment(&mut cursor, &path, (&mut order, &mut layer_ends), (files, manifest), reporter)? {
            // The next segments are checked without the order before them.
            is_readable = false;
            order = CommitOrder::default();
        }
        last = path;
    }
    if let Some(what) = order.finish() {
        reporter.report(&last, 0, what);
        is_readable = false;
    }
    if is_readable {
        for wrong in layer_ends.missed() {
            reporter.report(&files.dir.manifest(&manifest.table), 0, wrong.message);
        }
    }
    Ok(is_readable)
}

/// Checks the compaction base at the start of a compacted table's log. Returns the position after it, where events start.
fn check_compaction_base(
    files: &TableFiles,
    manifest: &Manifest,
    (number, end): (u64, u64),
    reporter: &mut ProblemReporter<'_>,
) -> Result<Option<CursorPosition>> {
    let listed = manifest.deltas.first().filter(|delta| delta.is_compaction_base());
    if end == 0 {
        return Ok(None);
    }
    let path = files.dir.segment(&manifest.table, number);
    let table = (manifest.table.as_str(), manifest.table_id);
    let base = match BaseReader::open(&*files.fs, &files.dir, table, number, end) {
        Ok(base) => base,
        // An ordinary segment. If its first frame is damaged, the check of all frames reports it.
        Err(error) if error.reason() == Reason::Corrupt && listed.is_none() => return Ok(None),
        Err(error) => return Err(error),
    };
    let (seq, mut base) = match (listed, base) {
        (Some(listed), Some(base)) => (listed.seq, base),
        (None, None) => return Ok(None),
        (Some(listed), None) => {
            let seq = listed.seq;
            let what = format!(
                "meta.json lists a compaction base at commit {seq}, but the segment does not start with one"
            );
            reporter.report(&path, 0, what);
            return Ok(None);
        }
        (None, Some(base)) => {
            reporter.report(&path, 0, "the segment starts with a compaction base, but meta.json lists none");
            (base.floor().floor.seq, base)
        }
    };
    reporter.counts.frames += 1;
    let floor = base.floor().floor;
    let is_listed = |listed: Floor| listed.seq > seq || (listed.seq == seq && listed == floor);
    if floor.seq != seq || !manifest.floor.is_some_and(is_listed) {
        let listed = manifest.floor.map_or("no floor".to_owned(), |floor| describe::floor(&floor));
        let what = format!(
            "the compaction base is of {}, but meta.json has {listed} and a compaction base at commit {seq}",
            describe::floor(&floor)
        );
        reporter.report(&path, 0, what);
    }
    let mut rows = 0;
    while let Some(piece) = base.next_item()? {
        reporter.counts.frames += 1;
        reporter.step()?;
        rows += u64::from(matches!(piece, BaseItem::Event(_, _, event) if event.key.is_some()));
    }
    if rows != floor.rows {
        let what = format!("the compaction base has {rows} rows, but its FLOOR frame says {}", floor.rows);
        reporter.report(&path, 0, what);
    }
    Ok(Some(base.position()))
}

fn check_segment(
    cursor: &mut LogCursor,
    path: &Path,
    (order, layer_ends): (&mut CommitOrder, &mut LayerEnds<'_>),
    (files, manifest): (&TableFiles, &Manifest),
    reporter: &mut ProblemReporter<'_>,
) -> Result<bool> {
    loop {
        let (position, before, after) = match cursor.next_frame() {
            Ok(CursorItem::Frame(entry)) => {
                reporter.counts.frames += 1;
                reporter.step()?;
                let before = order.last_seq();
                if let Some(what) = order.add(&entry) {
                    reporter.report(path, entry.at.offset, what);
                }
                (entry.at, before, Some(entry.seq))
            }
            // The cursor does not enter an empty segment.
            Ok(CursorItem::End) => (cursor.position().clone(), order.last_seq(), None),
            Ok(CursorItem::Invalid(error)) => {
                reporter.report(path, cursor.position().offset, error.to_string());
                return Ok(false);
            }
            Err(error) => return reporter.report_error(path, error).map(|()| false),
        };
        if let Some(wrong) = layer_ends.pass(&position, before, after) {
            reporter.report(&files.dir.manifest(&manifest.table), 0, wrong.message);
        }
        if after.is_none() {
            return Ok(true);
        }
    }
}
