//! Checks the order of commits in the log of one table, frame by frame.

use crate::storage::wal::cursor::DecodedFrame;
use crate::table::format_time;

/// The last commit of a table's log so far.
#[derive(Default)]
pub(in crate::table) struct CommitOrder {
    seq: u64,
    time_ms: u64,
    /// The commit's frames in the table, as its first frame says.
    frames: u32,
    frames_found: u32,
}

impl CommitOrder {
    /// The commit of the last frame; 0 before the first frame.
    pub(in crate::table) fn last_seq(&self) -> u64 {
        self.seq
    }

    /// Adds the next frame. Returns what is wrong with its order.
    pub(in crate::table) fn add(&mut self, frame: &DecodedFrame) -> Option<String> {
        let (seq, time_ms) = (frame.seq, frame.time_ms);
        let mut wrong = None;
        if seq == self.seq {
            self.frames_found += 1;
            let (frames, found) = (self.frames, self.frames_found);
            if found > frames {
                wrong = Some(format!(
                    "commit {seq} has {frames} frames in this table, but this is frame {found}"
                ));
            } else if time_ms != self.time_ms {
                let (first, this) = (format_time(self.time_ms), format_time(time_ms));
                wrong =
                    Some(format!("commit {seq} has time {first} in its first frame, but {this} in this one"));
            }
        } else {
            wrong = self.finish();
            let (last_seq, last_ms) = (self.seq, self.time_ms);
            if seq < last_seq {
                wrong = Some(format!("commit {seq} follows commit {last_seq}: commits must ascend"));
            } else if time_ms < last_ms {
                let (time, last) = (format_time(time_ms), format_time(last_ms));
                wrong = Some(format!(
                    "commit {seq} has time {time}, which is before {last}, the time of commit {last_seq}"
                ));
            }
            (self.frames, self.frames_found) = (frame.event.shape.frames_in_table, 1);
        }
        (self.seq, self.time_ms) = (seq, time_ms);
        wrong
    }

    /// What is wrong if no frame follows: the last commit is not complete.
    pub(in crate::table) fn finish(&self) -> Option<String> {
        let (seq, frames, found) = (self.seq, self.frames, self.frames_found);
        (found < frames)
            .then(|| format!("commit {seq} has {frames} frames in this table, but only {found} exist"))
    }
}
