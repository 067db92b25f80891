//! Reads one table's frames in order, as far as it has been told that they may be read.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::format::event::{self, Event};
use crate::format::frame::{self, FrameAddress, FrameError};
use crate::format::manifest::{Digest, LogPosition, Seal};
use crate::storage::fs::{self, File, FileSystem};
use crate::storage::layout::DataDir;

/// How much is read at once. Decoded documents share these bytes.
const CHUNK: u64 = 1 << 20;

/// A frame, decoded.
#[derive(Debug)]
pub struct DecodedFrame {
    /// The commit it belongs to.
    pub seq: u64,
    /// The commit's time, in milliseconds since 1970.
    pub time_ms: u64,
    /// The event.
    pub event: Event,
    /// Where the frame stands.
    pub at: CursorPosition,
}

/// A stretch of a segment that may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The segment's number.
    pub segment: u64,
    /// The offset after the last byte that may be read.
    pub end: u64,
    /// What the manifest says of it, where it is sealed.
    pub seal: Option<Seal>,
}

/// What comes next.
#[derive(Debug)]
pub enum CursorItem {
    /// A frame.
    Frame(DecodedFrame),
    /// Everything that may be read has been.
    End,
    /// The bytes at the cursor's position are no frame.
    Invalid(FrameError),
}

/// How far a table's log has been read.
#[derive(Debug, Clone)]
pub struct CursorPosition {
    /// The segment's number; 0 before the first.
    pub segment: u64,
    /// The offset of the next frame in it.
    pub offset: u64,
    /// The sum of the segment's frames before it.
    pub digest: Digest,
}

impl CursorPosition {
    /// The mark at a position.
    pub fn at(position: &LogPosition) -> CursorPosition {
        CursorPosition {
            segment: position.segment,
            offset: position.offset,
            digest: Digest::resume(position),
        }
    }

    /// The position at a mark.
    pub fn position(&self) -> LogPosition {
        let Seal { frames, digest, .. } = self.digest.seal(self.offset);
        LogPosition { segment: self.segment, offset: self.offset, frames, digest }
    }
}

/// Reads one table's frames in order.
#[derive(Debug)]
pub struct Cursor {
    disk: Arc<dyn FileSystem>,
    dir: DataDir,
    table: String,
    table_id: u64,
    spans: VecDeque<Span>,
    mark: CursorPosition,
    file: Option<Box<dyn File>>,
    /// Bytes of the segment from `mark.offset` on, as far as read.
    buffer: Bytes,
}

impl Cursor {
    /// A cursor before the table's first frame, with nothing to read yet.
    pub fn new(disk: Arc<dyn FileSystem>, dir: &DataDir, table: &str, table_id: u64) -> Cursor {
        Cursor {
            disk,
            dir: dir.clone(),
            table: table.to_owned(),
            table_id,
            spans: VecDeque::new(),
            mark: CursorPosition { segment: 0, offset: 0, digest: Digest::default() },
            file: None,
            buffer: Bytes::new(),
        }
    }

    /// Goes on from a mark, before anything was read.
    #[must_use]
    pub fn starting_at(self, mark: CursorPosition) -> Cursor {
        Cursor { mark, ..self }
    }

    /// The table's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Where the next frame is expected.
    pub fn mark(&self) -> &CursorPosition {
        &self.mark
    }

    /// The file that the next frame is expected in.
    pub fn path(&self) -> PathBuf {
        self.dir.segment(&self.table, self.mark.segment)
    }

    /// Whether the segment at the cursor is sealed, as far as it has been told.
    pub fn in_sealed(&self) -> bool {
        self.spans.front().is_some_and(|span| span.seal.is_some())
    }

    /// Allows reading on: to a farther end of a segment, or into one that follows the last. Those that the cursor has
    /// passed must not be named again.
    pub fn extend(&mut self, span: Span) {
        match self.spans.iter_mut().find(|known| known.segment == span.segment) {
            Some(known) => {
                known.end = known.end.max(span.end);
                known.seal = span.seal.or(known.seal);
            }
            None => self.spans.push_back(span),
        }
    }

    /// Forgets what was read ahead and opens the file anew: it may have been cached, or replaced.
    pub fn refresh(&mut self) {
        self.file = None;
        self.buffer = Bytes::new();
    }

    /// The next frame. An error is an operating system error or damage; the cursor stays where it is.
    pub fn next_frame(&mut self) -> Result<CursorItem> {
        while let Some(span) = self.spans.front().copied() {
            if self.mark.segment != span.segment {
                self.mark = CursorPosition { segment: span.segment, offset: 0, digest: Digest::default() };
                self.refresh();
            }
            if self.mark.offset < span.end {
                return self.frame(span);
            }
            if let Some(seal) = span.seal
                && self.mark.digest.seal(self.mark.offset) != seal
            {
                let what = "it is sealed, and its frames are not those that the manifest sums up";
                return Err(Error::corrupt(self.path().display(), self.mark.offset, what));
            }
            if self.spans.len() == 1 {
                break;
            }
            self.spans.pop_front();
        }
        Ok(CursorItem::End)
    }

    fn frame(&mut self, span: Span) -> Result<CursorItem> {
        let place = FrameAddress { table: self.table_id, segment: span.segment, offset: self.mark.offset };
        let left = span.end - self.mark.offset;
        let mut parsed = frame::parse(&self.buffer, place);
        if let Err(FrameError::Incomplete(needed)) = parsed {
            self.fill(left.min(CHUNK.max(needed as u64)))?;
            parsed = frame::parse(&self.buffer, place);
        }
        if let Err(FrameError::Incomplete(needed)) = parsed
            && needed as u64 <= left
            && self.buffer.len() < needed
        {
            self.fill(needed as u64)?;
            parsed = frame::parse(&self.buffer, place);
        }
        let frame = match parsed {
            Ok(frame) => frame,
            Err(error) => return Ok(CursorItem::Invalid(error)),
        };
        let payload = self.buffer.slice_ref(frame.payload);
        let event = event::decode(frame.kind, &payload)
            .map_err(|e| Error::corrupt(self.path().display(), self.mark.offset, e.message()))?;
        let entry = DecodedFrame { seq: frame.seq, time_ms: frame.time_ms, event, at: self.mark.clone() };
        let (crc, len) = (frame.crc, frame.len);
        self.mark.digest.add(crc);
        self.mark.offset += len as u64;
        let _ = self.buffer.split_to(len);
        Ok(CursorItem::Frame(entry))
    }

    /// All bytes from the cursor's position to the end of the span it is in.
    pub fn read_to_end(&mut self) -> Result<Bytes> {
        let end = self.spans.front().map_or(self.mark.offset, |span| span.end);
        self.fill(end.saturating_sub(self.mark.offset))?;
        Ok(self.buffer.clone())
    }

    /// Reads `len` bytes from the cursor's position, fewer where the file ends.
    fn fill(&mut self, len: u64) -> Result<()> {
        let path = self.path();
        let failed = |e: std::io::Error| fs::read_failed(&path, &e);
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(self.disk.open_fresh(&path).map_err(failed)?),
        };
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let read = match file.read_at(&mut bytes, self.mark.offset) {
            Ok(read) => read,
            Err(e) => {
                // Of another file that has its name by now, this handle would go on saying so.
                self.refresh();
                return Err(failed(e));
            }
        };
        bytes.truncate(read);
        self.buffer = bytes.into();
        Ok(())
    }
}
