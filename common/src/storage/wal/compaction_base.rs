//! The compaction base: the state at the start of a compacted segment, which replaces the events before the floor.
//!
//! `BaseWriter` writes a compacted segment: first the base, then frames as in any segment. [`BaseReader`] reads the base
//! back; a [`crate::storage::wal::cursor::LogCursor`] reads the frames after it, from [`BaseReader::position`] on. Only
//! verification and repair read a base: the daemons start at a snapshot's position, which is after the base.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Reason, Result};
use crate::format::compaction_base::{FloorFrame, KeepFrame};
use crate::format::event::{self, Event, EventType};
use crate::format::frame::{self, FrameAddress, FrameBuffer, FrameError};
use crate::format::manifest::{Digest, LogPosition, Seal};
use crate::storage::fs::{self, File, FileSystem};
use crate::storage::layout::DataDir;
use crate::storage::wal::cursor::CursorPosition;

/// How many bytes are read, and written, at once.
const CHUNK: usize = 1 << 20;

/// A frame whose payload is not decoded.
#[derive(Debug)]
pub(crate) struct RawFrame {
    /// The commit it belongs to.
    pub(crate) seq: u64,
    /// The commit's time, in milliseconds since 1970.
    pub(crate) time_ms: u64,
    /// The kind of the event in the payload.
    pub(crate) kind: EventType,
    /// The payload.
    pub(crate) payload: Bytes,
    /// The stored CRC.
    pub(crate) crc: u32,
}

/// Reads the frames of a part of one segment.
#[derive(Debug)]
pub(crate) struct RawFrameReader {
    path: PathBuf,
    file: Box<dyn File>,
    /// The address of the next frame.
    next: FrameAddress,
    end: u64,
    buffer: Bytes,
}

impl RawFrameReader {
    /// Opens a segment to read its frames from `start` up to the offset `end`.
    pub(crate) fn open(
        fs: &dyn FileSystem,
        dir: &DataDir,
        table: &str,
        start: FrameAddress,
        end: u64,
    ) -> Result<RawFrameReader> {
        let path = dir.segment(table, start.segment);
        let failed = |e: io::Error| fs::read_failed(&path, &e);
        let file = fs.open(&path).map_err(failed)?;
        Ok(RawFrameReader { path, file, next: start, end, buffer: Bytes::new() })
    }

    /// Returns the offset of the next frame.
    pub(crate) fn offset(&self) -> u64 {
        self.next.offset
    }

    /// Reads the next frame; `None` at the end. Bytes that are not a valid frame are damage.
    pub(crate) fn next_frame(&mut self) -> Result<Option<RawFrame>> {
        let left = self.end.saturating_sub(self.next.offset);
        if left == 0 {
            return Ok(None);
        }
        let mut parsed = frame::parse(&self.buffer, self.next);
        for _ in 0..2 {
            if let Err(FrameError::Incomplete(needed)) = parsed {
                self.fill(left.min(CHUNK.max(needed) as u64))?;
                parsed = frame::parse(&self.buffer, self.next);
            }
        }
        let frame = parsed.map_err(|e| Error::corrupt_by(self.path.display(), self.next.offset, e))?;
        let payload = self.buffer.slice_ref(frame.payload);
        let (seq, time_ms, kind, crc) = (frame.seq, frame.time_ms, frame.kind, frame.crc);
        let len = frame.len;
        self.next.offset += len as u64;
        let _ = self.buffer.split_to(len);
        Ok(Some(RawFrame { seq, time_ms, kind, payload, crc }))
    }

    fn damaged(&self, detail: &str) -> Error {
        Error::corrupt(self.path.display(), self.next.offset, detail)
    }

    fn fill(&mut self, len: u64) -> Result<()> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let read = self.file.read_at(&mut bytes, self.next.offset);
        let read = read.map_err(|e| Error::io(format_args!("cannot read {}", self.path.display()), &e))?;
        bytes.truncate(read);
        self.buffer = bytes.into();
        Ok(())
    }
}

/// One item of a compaction base.
#[derive(Debug)]
pub enum BaseItem {
    /// Remembered request ids and producers.
    Keep(KeepFrame),
    /// A SCHEMA event, or a live row as INSERT, with the seq and time of the commit that it came from.
    Event(u64, u64, Event),
}

/// Reads a compaction base, and checks that it is complete.
#[derive(Debug)]
pub struct BaseReader {
    frames: RawFrameReader,
    floor: FloorFrame,
    /// How many frames of the base are left.
    frames_left: u64,
    /// The digest of the base.
    base_digest: Digest,
    /// The digest of the segment.
    segment_digest: Digest,
}

impl BaseReader {
    /// Opens the base at the start of a segment; `None` if the segment has no base.
    pub fn open(
        fs: &dyn FileSystem,
        dir: &DataDir,
        (table, id): (&str, u64),
        number: u64,
        end: u64,
    ) -> Result<Option<BaseReader>> {
        let start = FrameAddress { table: id, segment: number, offset: 0 };
        let mut frames = RawFrameReader::open(fs, dir, table, start, end)?;
        let Some(first) = frames.next_frame()?.filter(|first| first.kind == EventType::Floor) else {
            return Ok(None);
        };
        let floor = FloorFrame::decode(&first.payload);
        let floor = floor.map_err(|e| Error::corrupt_by(frames.path.display(), 0, e))?;
        let mut segment_digest = Digest::default();
        segment_digest.add(first.crc);
        Ok(Some(BaseReader {
            frames_left: floor.frames,
            frames,
            floor,
            base_digest: Digest::default(),
            segment_digest,
        }))
    }

    /// Returns the first frame, FLOOR.
    pub fn floor(&self) -> &FloorFrame {
        &self.floor
    }

    /// Reads the next item; `None` at the end of the base, once it was found complete.
    pub fn next_item(&mut self) -> Result<Option<BaseItem>> {
        if self.frames_left == 0 {
            let found = self.base_digest.seal(0);
            if (found.frames, found.digest) != (self.floor.frames, self.floor.digest) {
                return Err(self
                    .frames
                    .damaged("the compaction base does not match the digest in its FLOOR frame"));
            }
            return Ok(None);
        }
        let at = self.frames.offset();
        let Some(frame) = self.frames.next_frame()? else {
            return Err(self.frames.damaged("the segment ends before its compaction base is complete"));
        };
        self.frames_left -= 1;
        self.base_digest.add(frame.crc);
        self.segment_digest.add(frame.crc);
        let item = match frame.kind {
            EventType::Keep => KeepFrame::decode(&frame.payload).map(BaseItem::Keep),
            EventType::Schema | EventType::Insert => event::decode(frame.kind, &frame.payload)
                .map(|event| BaseItem::Event(frame.seq, frame.time_ms, event)),
            _ => Err(Error::new(Reason::Corrupt, "a compaction base cannot contain a frame of this kind")),
        };
        item.map(Some).map_err(|e| Error::corrupt_by(self.frames.path.display(), at, e))
    }

    /// Returns the position after the base, once the base was read.
    pub fn position(&self) -> CursorPosition {
        CursorPosition {
            segment: self.frames.next.segment,
            offset: self.frames.offset(),
            digest: self.segment_digest.clone(),
        }
    }
}

/// Writes a compacted segment. The caller renames it once it is complete.
#[derive(Debug)]
pub(crate) struct BaseWriter {
    file: Box<dyn File>,
    path: PathBuf,
    table: u64,
    number: u64,
    floor: FloorFrame,
    buffer: FrameBuffer,
    /// The offset of the buffer in the file.
    offset: u64,
    /// The digest of the written frames after FLOOR.
    digest: Digest,
}

/// A position in a segment that is being written. [`BaseWriter::finish`] converts it to a [`LogPosition`].
#[derive(Debug, Clone)]
pub(crate) struct SegmentPosition {
    offset: u64,
    digest: Digest,
}

impl BaseWriter {
    /// Creates the file at `path` for segment `number` of a table.
    pub(crate) fn create(
        fs: &Arc<dyn FileSystem>,
        path: PathBuf,
        table: u64,
        number: u64,
        floor: FloorFrame,
    ) -> Result<BaseWriter> {
        let failed = |e: io::Error| Error::io(format_args!("cannot write {}", path.display()), &e);
        fs::remove_if_exists(&**fs, &path).map_err(failed)?;
        let file = fs.create(&path).map_err(failed)?;
        let (buffer, digest) = (FrameBuffer::default(), Digest::default());
        let mut writer = BaseWriter { file, path, table, number, floor, buffer, offset: 0, digest };
        // FLOOR is written last, when its contents are known. Its length is known already.
        let (first, _) = writer.first_frame()?;
        writer.offset = first.len() as u64;
        Ok(writer)
    }

    /// Encodes the FLOOR frame, and returns its bytes and CRC.
    fn first_frame(&self) -> Result<(Vec<u8>, u32)> {
        let mut buffer = FrameBuffer::default();
        buffer.push(self.floor.floor.seq, self.floor.floor.time_ms, EventType::Floor, |out| {
            self.floor.encode(out);
            None
        });
        let address = FrameAddress { table: self.table, segment: self.number, offset: 0 };
        let crc = buffer.stamp(address, 0).first().copied().unwrap_or_default();
        if buffer.bytes().len() > crate::limits::FRAME_BYTES {
            return Err(Error::new(
                Reason::TooLarge,
                format!(
                    "cannot compact table {}: the FLOOR frame has {} bytes, and a frame has at most {}; compact fewer segments at once",
                    self.table,
                    buffer.bytes().len(),
                    crate::limits::FRAME_BYTES
                ),
            ));
        }
        Ok((buffer.bytes().to_vec(), crc))
    }

    /// Appends a frame.
    pub(crate) fn push(
        &mut self,
        (seq, time_ms): (u64, u64),
        kind: EventType,
        payload: impl FnOnce(&mut Vec<u8>),
    ) -> Result<()> {
        self.buffer.push(seq, time_ms, kind, |out| {
            payload(out);
            None
        });
        if self.buffer.bytes().len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let address = FrameAddress { table: self.table, segment: self.number, offset: self.offset };
        for crc in self.buffer.stamp(address, 0) {
            self.digest.add(crc);
        }
        let written = self.file.write_at(self.buffer.bytes(), self.offset);
        written.map_err(|e| Error::io(format_args!("cannot write {}", self.path.display()), &e))?;
        self.offset += self.buffer.bytes().len() as u64;
        self.buffer = FrameBuffer::default();
        Ok(())
    }

    /// Ends the base. Frames appended from now on are ordinary frames.
    pub(crate) fn end_base(&mut self) -> Result<()> {
        self.flush()?;
        let state = self.digest.seal(0);
        (self.floor.frames, self.floor.digest) = (state.frames, state.digest);
        Ok(())
    }

    /// Returns the present position, for [`BaseWriter::finish`].
    pub(crate) fn save_position(&mut self) -> Result<SegmentPosition> {
        self.flush()?;
        Ok(SegmentPosition { offset: self.offset, digest: self.digest.clone() })
    }

    /// Completes and syncs the file; its name is not durable yet. Returns its seal, and the log positions of the saved
    /// positions.
    pub(crate) fn finish(mut self, saved: &[SegmentPosition]) -> Result<(Seal, Vec<LogPosition>)> {
        self.flush()?;
        let (first, crc) = self.first_frame()?;
        let steps = || {
            self.file.write_at(&first, 0)?;
            self.file.sync()
        };
        steps().map_err(|e| Error::io(format_args!("cannot write {}", self.path.display()), &e))?;
        let mut floor = Digest::default();
        floor.add(crc);
        let position = |saved: &SegmentPosition| {
            let Seal { frames, digest, .. } = floor.then(&saved.digest).seal(saved.offset);
            LogPosition { segment: self.number, offset: saved.offset, frames, digest }
        };
        Ok((floor.then(&self.digest).seal(self.offset), saved.iter().map(position).collect()))
    }
}
