//! A table's segments: that their frames are whole, in order, sealed as the manifest says, and that eras end between them.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Reason, Result};
use crate::format::manifest::{DeltaLayer, LogPosition, Manifest};
use crate::storage::wal::compaction_base::{BaseItem, BaseReader};
use crate::storage::wal::cursor::{CursorItem, CursorPosition, DecodedFrame, LogCursor, SegmentSpan};
use crate::table::build::snapshot::ReadLimit;
use crate::table::check::verification::ProblemList;
use crate::table::table_files::TableFiles;

/// The places in the log where eras end.
pub(in crate::table) struct Positions<'a> {
    /// Those not passed yet, oldest first.
    deltas: Vec<&'a DeltaLayer>,
    /// What was found wrong, where nobody took it at once.
    wrong: Vec<(u64, String)>,
}

impl<'a> Positions<'a> {
    pub(in crate::table) fn of(manifest: &'a Manifest) -> Positions<'a> {
        Positions { deltas: manifest.deltas.iter().collect(), wrong: Vec::new() }
    }

    /// A place between two frames is passed: the commit of the frame before it, and of the one after it in its segment.
    /// What is wrong where an era ends there, and with which era, by its last commit.
    pub(in crate::table) fn pass(
        &mut self,
        mark: &CursorPosition,
        before: u64,
        after: Option<u64>,
    ) -> Option<(u64, String)> {
        let here = |at: &LogPosition| (at.segment, at.offset) == (mark.segment, mark.offset);
        let found = self.deltas.iter().position(|era| here(&era.position))?;
        let era = self.deltas.remove(found);
        let (position, DeltaLayer { base, seq, .. }) = (mark.to_log_position(), era);
        let what = if position != era.position {
            let LogPosition { frames, digest, .. } = position;
            let said = era.position;
            format!(
                "{} frames of digest {:08x} before it, and there are {frames} of {digest:08x}",
                said.frames, said.digest
            )
        } else if before != *seq && !era.is_compaction_base() {
            format!("commit {seq} before it, and there is commit {before}")
        } else if let Some(after) = after.filter(|after| after <= seq) {
            format!("what comes after commit {seq}, and commit {after} follows")
        } else {
            return None;
        };
        let place = format!("ends at byte {} of segment {}", mark.offset, mark.segment);
        Some((*seq, format!("era {base}-{seq} {place}: expected {what}")))
    }

    /// As [`Positions::pass`], kept for later.
    pub(in crate::table) fn note(&mut self, mark: &CursorPosition, before: u64, after: Option<u64>) {
        let wrong = self.pass(mark, before, after);
        self.wrong.extend(wrong);
    }

    /// What was noted.
    pub(in crate::table) fn take_wrong(&mut self) -> Vec<(u64, String)> {
        std::mem::take(&mut self.wrong)
    }

    /// What is wrong with the eras whose ends were not passed.
    pub(in crate::table) fn missed(&self) -> impl Iterator<Item = (u64, String)> {
        self.deltas.iter().map(|era| {
            let (DeltaLayer { base, seq, .. }, LogPosition { segment, offset, .. }) = (era, era.position);
            (
                *seq,
                format!("era {base}-{seq} ends at byte {offset} of segment {segment}, where no frame ends"),
            )
        })
    }
}

/// The order of commits in a table, frame by frame.
#[derive(Default)]
pub(in crate::table) struct Order {
    seq: u64,
    time_ms: u64,
    /// Frames that the commit has in the table, and those read.
    frames: (u32, u32),
}

impl Order {
    /// The last frame's commit; 0 before the first.
    pub(in crate::table) fn last_seq(&self) -> u64 {
        self.seq
    }

    /// The next frame; what is wrong with its place.
    pub(in crate::table) fn take(&mut self, entry: &DecodedFrame) -> Option<String> {
        let (seq, time_ms) = (entry.seq, entry.time_ms);
        let mut wrong = None;
        if seq == self.seq {
            self.frames.1 += 1;
            if self.frames.1 > self.frames.0 {
                let (all, found) = self.frames;
                wrong =
                    Some(format!("commit {seq} has {all} frames in the table, and this is frame {found}"));
            } else if time_ms != self.time_ms {
                wrong = Some(format!("commit {seq} is of {}, and this frame of {time_ms}", self.time_ms));
            }
        } else {
            wrong = self.end();
            if seq < self.seq {
                wrong = Some(format!("commit {seq} comes after commit {}", self.seq));
            } else if time_ms < self.time_ms {
                wrong = Some(format!("commit {seq} is of {time_ms}, and the one before of {}", self.time_ms));
            }
            self.frames = (entry.event.shape.frames_in_table, 1);
        }
        (self.seq, self.time_ms) = (seq, time_ms);
        wrong
    }

    /// What is wrong where no frame follows.
    pub(in crate::table) fn end(&self) -> Option<String> {
        let (all, found) = self.frames;
        (found < all)
            .then(|| format!("commit {} has {all} frames in the table, and {found} are there", self.seq))
    }
}

/// Checks all segments; says whether they can be read to the end.
pub(super) fn check(
    shelf: &TableFiles,
    manifest: &Manifest,
    reach: ReadLimit,
    report: &mut ProblemList<'_>,
) -> Result<bool> {
    let mut readable = true;
    let mut positions = Positions::of(manifest);
    let mut order = Order::default();
    let mut last = shelf.dir.segments(&manifest.table);
    let mut first = true;
    for segment in &manifest.segments {
        let path = shelf.dir.segment(&manifest.table, segment.number);
        let end = match segment.sealed {
            Some(seal) => seal.bytes,
            None if segment.number == reach.segment => reach.bytes,
            None => 0,
        };
        report.figures.files += 1;
        let mut cursor =
            LogCursor::new(Arc::clone(&shelf.disk), &shelf.dir, &manifest.table, manifest.table_id);
        if std::mem::take(&mut first) {
            match past_folded(shelf, manifest, (segment.number, end), report) {
                Ok(Some(mark)) => cursor = cursor.starting_at(mark),
                Ok(None) => {}
                Err(error) => {
                    report.failed(&path, error)?;
                    readable = false;
                    last = path;
                    continue;
                }
            }
        }
        cursor.extend(SegmentSpan { segment: segment.number, end, seal: segment.sealed });
        if !check_segment(&mut cursor, &path, (&mut order, &mut positions), (shelf, manifest), report)? {
            // What follows is looked at for itself.
            readable = false;
            order = Order::default();
        }
        last = path;
    }
    if let Some(what) = order.end() {
        report.problem(&last, 0, what);
        readable = false;
    }
    if readable {
        for (_, what) in positions.missed() {
            report.problem(&shelf.dir.manifest(&manifest.table), 0, what);
        }
    }
    Ok(readable)
}

/// Reads the folded state that the log of a compacted table begins with; where its events begin.
fn past_folded(
    shelf: &TableFiles,
    manifest: &Manifest,
    (number, end): (u64, u64),
    report: &mut ProblemList<'_>,
) -> Result<Option<CursorPosition>> {
    let era = manifest.deltas.first().filter(|era| era.is_compaction_base());
    if end == 0 {
        return Ok(None);
    }
    let path = shelf.dir.segment(&manifest.table, number);
    let table = (manifest.table.as_str(), manifest.table_id);
    let folded = match BaseReader::open(&*shelf.disk, &shelf.dir, table, number, end) {
        Ok(folded) => folded,
        // A segment like others; what is wrong with its first frame is told with all of them.
        Err(error) if error.reason() == Reason::Corrupt && era.is_none() => return Ok(None),
        Err(error) => return Err(error),
    };
    let (seq, mut folded) = match (era, folded) {
        (Some(era), Some(folded)) => (era.seq, folded),
        (None, None) => return Ok(None),
        (Some(era), None) => {
            let what =
                format!("meta.json says that it begins with the state after {}, and it does not", era.seq);
            report.problem(&path, 0, what);
            return Ok(None);
        }
        (None, Some(folded)) => {
            report.problem(&path, 0, "it begins with a folded state, of which meta.json says nothing");
            (folded.floor().floor.seq, folded)
        }
    };
    report.figures.frames += 1;
    let floor = folded.floor().floor;
    if floor.seq != seq
        || manifest.floor.is_none_or(|said| said.seq < seq || (said.seq == seq && said != floor))
    {
        let said = manifest.floor;
        report.problem(
            &path,
            0,
            format!("its floor is {floor:?}, and meta.json says {said:?} and era {seq}-{seq}"),
        );
    }
    let mut rows = 0;
    while let Some(piece) = folded.next_item()? {
        report.figures.frames += 1;
        report.step()?;
        rows += u64::from(matches!(piece, BaseItem::Event(_, _, event) if event.key.is_some()));
    }
    if rows != floor.rows {
        report.problem(
            &path,
            0,
            format!("{} rows in its folded state are expected, and there are {rows}", floor.rows),
        );
    }
    Ok(Some(folded.position()))
}

fn check_segment(
    cursor: &mut LogCursor,
    path: &Path,
    (order, positions): (&mut Order, &mut Positions<'_>),
    (shelf, manifest): (&TableFiles, &Manifest),
    report: &mut ProblemList<'_>,
) -> Result<bool> {
    loop {
        let at = match cursor.next_frame() {
            Ok(CursorItem::Frame(entry)) => {
                report.figures.frames += 1;
                report.step()?;
                let before = order.last_seq();
                if let Some(what) = order.take(&entry) {
                    report.problem(path, entry.at.offset, what);
                }
                (entry.at, before, Some(entry.seq))
            }
            // A segment without a byte is not entered.
            Ok(CursorItem::End) => (cursor.position().clone(), order.last_seq(), None),
            Ok(CursorItem::Invalid(error)) => {
                report.problem(path, cursor.position().offset, error.to_string());
                return Ok(false);
            }
            Err(error) => return report.failed(path, error).map(|()| false),
        };
        let (mark, before, after) = at;
        if let Some((_, what)) = positions.pass(&mark, before, after) {
            report.problem(&shelf.dir.manifest(&manifest.table), 0, what);
        }
        if after.is_none() {
            return Ok(true);
        }
    }
}
