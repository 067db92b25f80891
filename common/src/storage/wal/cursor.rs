//! Reads one table's frames in order, up to the limit that the caller has set.

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

/// The most bytes that are read at once. Decoded documents share these bytes.
const CHUNK: u64 = 1 << 20;
/// The bytes of a cursor's first read. Each read after it may be twice as long. In a database of thousands of small tables, the
/// rows of each would otherwise keep the zeros after them in memory.
const FIRST_CHUNK: u64 = 4 << 10;

/// A frame, decoded.
#[derive(Debug)]
pub struct DecodedFrame {
    /// The commit it belongs to.
    pub seq: u64,
    /// The commit's time, in milliseconds since 1970.
    pub time_ms: u64,
    /// The event.
    pub event: Event,
    /// The position of the frame.
    pub at: CursorPosition,
}

/// A stretch of a segment that may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSpan {
    /// The segment's number.
    pub segment: u64,
    /// The offset after the last byte that may be read.
    pub end: u64,
    /// The seal in the manifest; `None` if the segment is active.
    pub seal: Option<Seal>,
}

/// The next item of a cursor.
#[derive(Debug)]
pub enum CursorItem {
    /// A frame.
    Frame(DecodedFrame),
    /// Everything that may be read was read.
    End,
    /// The bytes at the cursor's position are not a valid frame.
    Invalid(FrameError),
}

/// A position in a table's log, between two frames.
#[derive(Debug, Clone)]
pub struct CursorPosition {
    /// The segment's number; 0 before the first.
    pub segment: u64,
    /// The offset of the next frame in it.
    pub offset: u64,
    /// The digest of the segment's frames before the position.
    pub digest: Digest,
}

impl CursorPosition {
    /// Converts a position from a manifest.
    pub fn from_log_position(position: &LogPosition) -> CursorPosition {
        CursorPosition {
            segment: position.segment,
            offset: position.offset,
            digest: Digest::resume(position),
        }
    }

    /// Converts to a position for a manifest.
    pub(crate) fn to_log_position(&self) -> LogPosition {
        let Seal { frames, digest, .. } = self.digest.seal(self.offset);
        LogPosition { segment: self.segment, offset: self.offset, frames, digest }
    }
}

/// Reads one table's frames in order.
#[derive(Debug)]
pub struct LogCursor {
    fs: Arc<dyn FileSystem>,
    dir: DataDir,
    table: String,
    table_id: u64,
    /// What may be read, from the segment at the position on.
    readable: VecDeque<SegmentSpan>,
    position: CursorPosition,
    file: Option<Box<dyn File>>,
    /// The most bytes of the next read.
    chunk: u64,
    /// Bytes of the segment from `position.offset` on, as far as they were read.
    buffer: Bytes,
}

impl LogCursor {
    /// A cursor before the table's first frame. It may read nothing until [`LogCursor::extend`].
    pub fn new(fs: Arc<dyn FileSystem>, dir: &DataDir, table: &str, table_id: u64) -> LogCursor {
        LogCursor {
            fs,
            dir: dir.clone(),
            table: table.to_owned(),
            table_id,
            readable: VecDeque::new(),
            position: CursorPosition { segment: 0, offset: 0, digest: Digest::default() },
            file: None,
            chunk: FIRST_CHUNK,
            buffer: Bytes::new(),
        }
    }

    /// Moves the cursor to a position. Must be called before anything was read.
    #[must_use]
    pub fn starting_at(self, position: CursorPosition) -> LogCursor {
        LogCursor { position, ..self }
    }

    /// Returns the table's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Returns the position of the next frame.
    pub fn position(&self) -> &CursorPosition {
        &self.position
    }

    /// Returns the file that contains the next frame.
    pub fn path(&self) -> PathBuf {
        self.dir.segment(&self.table, self.position.segment)
    }

    /// Returns whether the segment at the position is known to be sealed.
    pub(in crate::storage) fn is_in_sealed_segment(&self) -> bool {
        self.readable.front().is_some_and(|span| span.seal.is_some())
    }

    /// Extends what the cursor may read: to a later end of a segment, or to a segment after the last one. Must not be
    /// called for segments that the cursor has passed.
    pub fn extend(&mut self, span: SegmentSpan) {
        match self.readable.iter_mut().find(|known| known.segment == span.segment) {
            Some(known) => {
                known.end = known.end.max(span.end);
                known.seal = span.seal.or(known.seal);
            }
            None => self.readable.push_back(span),
        }
    }

    /// Discards the read-ahead buffer and opens the file again, because it may have been cached or replaced.
    pub fn refresh(&mut self) {
        self.file = None;
        self.buffer = Bytes::new();
    }

    /// Returns whether the cursor holds a file descriptor.
    pub(super) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Closes the file. The next read opens it again.
    pub(super) fn close_file(&mut self) {
        self.file = None;
    }

    /// Reads the next frame. An error is an operating system error or damage. The cursor does not move on an error.
    pub fn next_frame(&mut self) -> Result<CursorItem> {
        while let Some(span) = self.readable.front().copied() {
            if self.position.segment != span.segment {
                self.position =
                    CursorPosition { segment: span.segment, offset: 0, digest: Digest::default() };
                self.refresh();
            }
            if self.position.offset < span.end {
                return self.read_frame(span);
            }
            if let Some(seal) = span.seal
                && self.position.digest.seal(self.position.offset) != seal
            {
                let detail = "the frames of the sealed segment do not match its seal in meta.json";
                return Err(Error::corrupt(self.path().display(), self.position.offset, detail));
            }
            if self.readable.len() == 1 {
                break;
            }
            self.readable.pop_front();
        }
        Ok(CursorItem::End)
    }

    fn read_frame(&mut self, span: SegmentSpan) -> Result<CursorItem> {
        let address =
            FrameAddress { table: self.table_id, segment: span.segment, offset: self.position.offset };
        let left = span.end - self.position.offset;
        let mut parsed = frame::parse(&self.buffer, address);
        if let Err(FrameError::Incomplete(needed)) = parsed {
            self.fill(left.min(self.chunk.max(needed as u64)))?;
            self.chunk = (self.chunk * 2).min(CHUNK);
            parsed = frame::parse(&self.buffer, address);
        }
        if let Err(FrameError::Incomplete(needed)) = parsed
            && needed as u64 <= left
            && self.buffer.len() < needed
        {
            self.fill(needed as u64)?;
            parsed = frame::parse(&self.buffer, address);
        }
        let frame = match parsed {
            Ok(frame) => frame,
            Err(error) => {
                // These are often preallocated zeros, and the cursors of thousands of tables would keep them.
                self.buffer = Bytes::new();
                return Ok(CursorItem::Invalid(error));
            }
        };
        let payload = self.buffer.slice_ref(frame.payload);
        let event = event::decode(frame.kind, &payload)
            .map_err(|e| Error::corrupt_by(self.path().display(), self.position.offset, e))?;
        let decoded =
            DecodedFrame { seq: frame.seq, time_ms: frame.time_ms, event, at: self.position.clone() };
        let (crc, len) = (frame.crc, frame.len);
        self.position.digest.add(crc);
        self.position.offset += len as u64;
        let _ = self.buffer.split_to(len);
        Ok(CursorItem::Frame(decoded))
    }

    /// Reads all bytes from the position to the end of the segment's readable span.
    pub(in crate::storage) fn read_to_end(&mut self) -> Result<Bytes> {
        let end = self.readable.front().map_or(self.position.offset, |span| span.end);
        self.fill(end.saturating_sub(self.position.offset))?;
        self.close_file();
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Fills the buffer with `len` bytes from the position; fewer if the file ends before.
    fn fill(&mut self, len: u64) -> Result<()> {
        let path = self.path();
        let failed = |e: std::io::Error| fs::read_failed(&path, &e);
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(self.fs.open_fresh(&path).map_err(failed)?),
        };
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let read = match file.read_at(&mut bytes, self.position.offset) {
            Ok(read) => read,
            Err(e) => {
                // If the file was replaced, this handle would fail for ever: open the path again next time.
                self.refresh();
                return Err(failed(e));
            }
        };
        bytes.truncate(read);
        self.buffer = bytes.into();
        Ok(())
    }
}
