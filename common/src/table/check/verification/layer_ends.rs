//! Checks that delta layers end between two frames of the log, where the manifest says.

use crate::format::manifest::{DeltaLayer, LogPosition, Manifest};
use crate::storage::wal::cursor::CursorPosition;

/// The positions in the log at which delta layers end.
///
/// The caller reads the log and passes every position between two frames. What remains at the end was at no such position.
pub(in crate::table) struct LayerEnds<'a> {
    /// The layers whose ends have not been passed, oldest first.
    pending: Vec<&'a DeltaLayer>,
    /// The wrong ends that [`LayerEnds::pass_later`] has found.
    wrong: Vec<WrongEnd>,
}

/// A delta layer that does not end where the manifest says.
pub(in crate::table) struct WrongEnd {
    /// The last seq of the layer.
    pub(in crate::table) seq: u64,
    pub(in crate::table) message: String,
}

impl<'a> LayerEnds<'a> {
    pub(in crate::table) fn of(manifest: &'a Manifest) -> LayerEnds<'a> {
        LayerEnds { pending: manifest.deltas.iter().collect(), wrong: Vec::new() }
    }

    /// Passes a position between two frames: `before` is the commit of the frame before it, `after` the commit of the next
    /// frame in the segment. Returns what is wrong if a layer ends here.
    pub(in crate::table) fn pass(
        &mut self,
        at: &CursorPosition,
        before: u64,
        after: Option<u64>,
    ) -> Option<WrongEnd> {
        let is_here = |end: &LogPosition| (end.segment, end.offset) == (at.segment, at.offset);
        let found = self.pending.iter().position(|delta| is_here(&delta.position))?;
        let delta = self.pending.remove(found);
        let (position, seq) = (at.to_log_position(), delta.seq);
        let what = if position != delta.position {
            let (listed, LogPosition { frames, digest, .. }) = (delta.position, position);
            format!(
                "meta.json lists {} frames with digest {:08x} before it, but the segment has {frames} with digest {digest:08x}",
                listed.frames, listed.digest
            )
        } else if before != seq && !delta.is_compaction_base() {
            format!("the commit before it must be {seq}, but is {before}")
        } else if let Some(after) = after.filter(|after| *after <= seq) {
            format!("the commit after it must be newer than {seq}, but is {after}")
        } else {
            return None;
        };
        let message = format!("{}: {what}", describe_end(delta));
        Some(WrongEnd { seq, message })
    }

    /// Like [`LayerEnds::pass`], but keeps what is wrong for [`LayerEnds::into_wrong`].
    pub(in crate::table) fn pass_later(&mut self, at: &CursorPosition, before: u64, after: Option<u64>) {
        let wrong = self.pass(at, before, after);
        self.wrong.extend(wrong);
    }

    /// The layers that end at a position that was not passed.
    pub(in crate::table) fn missed(&self) -> impl Iterator<Item = WrongEnd> {
        self.pending.iter().map(|delta| {
            let message = format!("{}, but no frame ends there", describe_end(delta));
            WrongEnd { seq: delta.seq, message }
        })
    }

    /// What [`LayerEnds::pass_later`] has found. With `is_log_complete`, also the layers that were not passed.
    pub(in crate::table) fn into_wrong(mut self, is_log_complete: bool) -> Vec<WrongEnd> {
        let mut wrong = std::mem::take(&mut self.wrong);
        if is_log_complete {
            wrong.extend(self.missed());
        }
        wrong
    }
}

fn describe_end(delta: &DeltaLayer) -> String {
    let (DeltaLayer { base, seq, .. }, LogPosition { segment, offset, .. }) = (delta, delta.position);
    format!("delta layer {base}-{seq} ends at byte {offset} of segment {segment}")
}
