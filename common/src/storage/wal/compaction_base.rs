//! A compacted segment: a state that stands for the events it was folded from, then frames as in any other.
//!
//! [`BaseWriter`] writes one, [`BaseReader`] reads the state back; the frames after it are a cursor's, from
//! [`BaseReader::mark`] on. Nobody else reads a folded state: what is read day by day begins at a snapshot's position,
//! which stands after it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Reason, Result};
use crate::format::compaction_base::{FloorFrame, KeepFrame};
use crate::format::event::{self, Event, EventType};
use crate::format::frame::{self, FrameAddress, FrameBuffer, FrameError};
use crate::format::manifest::{Digest, LogPosition, Seal};
use crate::storage::fs::{File, FileSystem};
use crate::storage::layout::DataDir;
use crate::storage::wal::cursor::CursorPosition;

/// How much is read, and written, at once.
const CHUNK: usize = 1 << 20;

/// A frame as it stands, its payload not looked into.
#[derive(Debug)]
pub struct RawFrame {
    /// The commit it belongs to.
    pub seq: u64,
    /// The commit's time, in milliseconds since 1970.
    pub time_ms: u64,
    /// What kind of event it holds.
    pub kind: EventType,
    /// The payload.
    pub payload: Bytes,
    /// The stored CRC.
    pub crc: u32,
}

/// Reads the frames of a stretch of one segment.
#[derive(Debug)]
pub struct RawFrames {
    path: PathBuf,
    file: Box<dyn File>,
    /// Of the next frame.
    place: FrameAddress,
    end: u64,
    buffer: Bytes,
}

impl RawFrames {
    /// The frames from a place up to `end`.
    pub fn open(
        disk: &dyn FileSystem,
        dir: &DataDir,
        table: &str,
        place: FrameAddress,
        end: u64,
    ) -> Result<RawFrames> {
        let path = dir.segment(table, place.segment);
        let failed = |e: io::Error| Error::io(format_args!("cannot open {}", path.display()), &e);
        let file = disk.open(&path).map_err(failed)?;
        Ok(RawFrames { path, file, place, end, buffer: Bytes::new() })
    }

    /// Where the next frame starts.
    pub fn offset(&self) -> u64 {
        self.place.offset
    }

    /// The next frame. Bytes that are no frame are damage.
    pub fn next_frame(&mut self) -> Result<Option<RawFrame>> {
        let left = self.end.saturating_sub(self.place.offset);
        if left == 0 {
            return Ok(None);
        }
        let mut parsed = frame::parse(&self.buffer, self.place);
        for _ in 0..2 {
            if let Err(FrameError::Incomplete(needed)) = parsed {
                self.fill(left.min(CHUNK.max(needed) as u64))?;
                parsed = frame::parse(&self.buffer, self.place);
            }
        }
        let frame = parsed.map_err(|e| self.damaged(&e.to_string()))?;
        let payload = self.buffer.slice_ref(frame.payload);
        let (seq, time_ms, kind, crc) = (frame.seq, frame.time_ms, frame.kind, frame.crc);
        let len = frame.len;
        self.place.offset += len as u64;
        let _ = self.buffer.split_to(len);
        Ok(Some(RawFrame { seq, time_ms, kind, payload, crc }))
    }

    fn damaged(&self, what: &str) -> Error {
        Error::corrupt(self.path.display(), self.place.offset, what)
    }

    fn fill(&mut self, len: u64) -> Result<()> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let read = self.file.read_at(&mut bytes, self.place.offset);
        let read = read.map_err(|e| Error::io(format_args!("cannot read {}", self.path.display()), &e))?;
        bytes.truncate(read);
        self.buffer = bytes.into();
        Ok(())
    }
}

/// A piece of a folded state.
#[derive(Debug)]
pub enum BasePiece {
    /// Requests and producers.
    Keep(KeepFrame),
    /// A SCHEMA event, or a live row as INSERT; with the commit it came from and that commit's time.
    Event(u64, u64, Event),
}

/// Reads a folded state, and checks that it is whole.
#[derive(Debug)]
pub struct BaseReader {
    frames: RawFrames,
    floor: FloorFrame,
    left: u64,
    /// Of the state.
    state: Digest,
    /// Of the segment.
    all: Digest,
}

impl BaseReader {
    /// The state that a segment begins with; `None` where it begins with none.
    pub fn open(
        disk: &dyn FileSystem,
        dir: &DataDir,
        (table, id): (&str, u64),
        number: u64,
        end: u64,
    ) -> Result<Option<BaseReader>> {
        let place = FrameAddress { table: id, segment: number, offset: 0 };
        let mut frames = RawFrames::open(disk, dir, table, place, end)?;
        let Some(first) = frames.next_frame()?.filter(|first| first.kind == EventType::Floor) else {
            return Ok(None);
        };
        let floor = FloorFrame::decode(&first.payload);
        let floor = floor.map_err(|e| Error::corrupt(frames.path.display(), 0, e.message()))?;
        let mut all = Digest::default();
        all.add(first.crc);
        Ok(Some(BaseReader { left: floor.frames, frames, floor, state: Digest::default(), all }))
    }

    /// What the first frame says.
    pub fn floor(&self) -> &FloorFrame {
        &self.floor
    }

    /// The next piece; `None` at the end of the state, which then was whole.
    pub fn next_piece(&mut self) -> Result<Option<BasePiece>> {
        if self.left == 0 {
            let found = self.state.seal(0);
            if (found.frames, found.digest) != (self.floor.frames, self.floor.digest) {
                return Err(self.frames.damaged("the folded state is not the one that its FLOOR sums up"));
            }
            return Ok(None);
        }
        let at = self.frames.offset();
        let Some(frame) = self.frames.next_frame()? else {
            return Err(self.frames.damaged("the folded state ends too early"));
        };
        self.left -= 1;
        self.state.add(frame.crc);
        self.all.add(frame.crc);
        let piece = match frame.kind {
            EventType::Keep => KeepFrame::decode(&frame.payload).map(BasePiece::Keep),
            EventType::Schema | EventType::Insert => event::decode(frame.kind, &frame.payload)
                .map(|event| BasePiece::Event(frame.seq, frame.time_ms, event)),
            _ => Err(Error::new(Reason::Corrupt, "a frame that no folded state has")),
        };
        piece.map(Some).map_err(|e| Error::corrupt(self.frames.path.display(), at, e.message()))
    }

    /// Where a cursor goes on, once the state has been read.
    pub fn mark(&self) -> CursorPosition {
        CursorPosition {
            segment: self.frames.place.segment,
            offset: self.frames.offset(),
            digest: self.all.clone(),
        }
    }
}

/// Writes a compacted segment, under a name that means nothing until it is whole.
#[derive(Debug)]
pub struct BaseWriter {
    file: Box<dyn File>,
    path: PathBuf,
    table: u64,
    number: u64,
    floor: FloorFrame,
    buffer: FrameBuffer,
    /// Where the buffer goes.
    offset: u64,
    /// Of the frames after FLOOR, as far as written.
    digest: Digest,
}

/// A place in a segment that is being written.
#[derive(Debug, Clone)]
pub struct SegmentPosition {
    offset: u64,
    digest: Digest,
}

impl BaseWriter {
    /// Begins the file at `path` for segment `number` of a table.
    pub fn create(
        disk: &Arc<dyn FileSystem>,
        path: PathBuf,
        table: u64,
        number: u64,
        floor: FloorFrame,
    ) -> Result<BaseWriter> {
        let failed = |e: io::Error| Error::io(format_args!("cannot write {}", path.display()), &e);
        match disk.remove(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let file = disk.create(&path).map_err(failed)?;
        let (buffer, digest) = (FrameBuffer::default(), Digest::default());
        let mut writer = BaseWriter { file, path, table, number, floor, buffer, offset: 0, digest };
        // Written when all that it says is known; its length is, already.
        let (first, _) = writer.first_frame()?;
        writer.offset = first.len() as u64;
        Ok(writer)
    }

    /// FLOOR as the bytes it stands in, and its CRC.
    fn first_frame(&self) -> Result<(Vec<u8>, u32)> {
        let mut buffer = FrameBuffer::default();
        buffer.push(self.floor.floor.seq, self.floor.floor.time_ms, EventType::Floor, |out| {
            self.floor.encode(out);
            None
        });
        let place = FrameAddress { table: self.table, segment: self.number, offset: 0 };
        let crc = buffer.stamp(place, 0).first().copied().unwrap_or_default();
        if buffer.bytes().len() > crate::limits::FRAME_BYTES {
            return Err(Error::new(Reason::TooLarge, "too many segments to compact at once"));
        }
        Ok((buffer.bytes().to_vec(), crc))
    }

    /// Appends a frame.
    pub fn push(
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
        let place = FrameAddress { table: self.table, segment: self.number, offset: self.offset };
        for crc in self.buffer.stamp(place, 0) {
            self.digest.add(crc);
        }
        let written = self.file.write_at(self.buffer.bytes(), self.offset);
        written.map_err(|e| Error::io(format_args!("cannot write {}", self.path.display()), &e))?;
        self.offset += self.buffer.bytes().len() as u64;
        self.buffer = FrameBuffer::default();
        Ok(())
    }

    /// What was appended so far is the state: what follows are frames as in any segment.
    pub fn end_state(&mut self) -> Result<()> {
        self.flush()?;
        let state = self.digest.seal(0);
        (self.floor.frames, self.floor.digest) = (state.frames, state.digest);
        Ok(())
    }

    /// Remembers this place.
    pub fn here(&mut self) -> Result<SegmentPosition> {
        self.flush()?;
        Ok(SegmentPosition { offset: self.offset, digest: self.digest.clone() })
    }

    /// Ends the file, durably but for its name: its seal, and what positions the places remembered are.
    pub fn finish(mut self, spots: &[SegmentPosition]) -> Result<(Seal, Vec<LogPosition>)> {
        self.flush()?;
        let (first, crc) = self.first_frame()?;
        let steps = || {
            self.file.write_at(&first, 0)?;
            self.file.sync()
        };
        steps().map_err(|e| Error::io(format_args!("cannot write {}", self.path.display()), &e))?;
        let mut floor = Digest::default();
        floor.add(crc);
        let position = |spot: &SegmentPosition| {
            let Seal { frames, digest, .. } = floor.then(&spot.digest).seal(spot.offset);
            LogPosition { segment: self.number, offset: spot.offset, frames, digest }
        };
        Ok((floor.then(&self.digest).seal(self.offset), spots.iter().map(position).collect()))
    }
}
