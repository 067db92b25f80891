//! The frame: one event as stored in a segment, with its length and a CRC that also covers its address.
//!
//! `[u32 length][u32 crc32][varint seq][u64 unix_ms][u8 event_type][msgpack payload]`, little-endian. See `FORMAT.md`.

use std::fmt;

use crate::format::event::EventType;
use crate::format::varint;
use crate::limits;
use crate::planted::{PlantedBug, is_planted};

/// The bytes before the body: length and CRC.
pub(crate) const PREFIX: usize = 8;
/// The length of the shortest body in bytes: a seq of one byte, time, type, an empty map. Zeros are never a frame, because
/// their length would be 0.
const MIN_BODY: usize = 1 + 8 + 1 + 1;

/// The address of a frame. The CRC covers it, so that a copied or shifted frame is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameAddress {
    /// The table's id: the seq that created the table.
    pub table: u64,
    /// The segment's number.
    pub segment: u64,
    /// The offset of the frame's first byte in the segment.
    pub offset: u64,
}

/// A decoded frame over borrowed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The seq of the frame's commit.
    pub seq: u64,
    /// The commit's time, in milliseconds since 1970.
    pub time_ms: u64,
    /// The type of the event.
    pub kind: EventType,
    /// The event's payload, a MessagePack map.
    pub payload: &'a [u8],
    /// The length of the frame in bytes, prefix included.
    pub len: usize,
    /// The stored CRC.
    pub crc: u32,
}

/// Why bytes are not a valid frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The bytes end before the frame does. The frame has this many bytes.
    Incomplete(usize),
    /// The length field has a value that no frame has.
    Length(u32),
    /// The CRC does not match.
    Crc,
    /// The CRC matches, but the body is invalid.
    Body(&'static str),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Incomplete(needed) => write!(f, "the frame is cut short: it has {needed} bytes"),
            FrameError::Length(length) => write!(f, "invalid frame length {length}"),
            FrameError::Crc => f.write_str("the CRC does not match"),
            FrameError::Body(what) => write!(f, "the CRC matches, but {what}"),
        }
    }
}

impl std::error::Error for FrameError {}

fn crc(length: [u8; 4], body: &[u8], address: FrameAddress) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(body);
    hasher.update(&address.table.to_le_bytes());
    hasher.update(&address.segment.to_le_bytes());
    hasher.update(&address.offset.to_le_bytes());
    hasher.finalize()
}

/// Decodes the frame at the start of `bytes`, which were read from `address`.
pub fn parse(bytes: &[u8], address: FrameAddress) -> Result<Frame<'_>, FrameError> {
    let Some((length_bytes, rest)) = bytes.split_first_chunk::<4>() else {
        return Err(FrameError::Incomplete(PREFIX + MIN_BODY));
    };
    let length = u32::from_le_bytes(*length_bytes);
    let body_len = length as usize;
    if !(MIN_BODY..=limits::FRAME_BYTES).contains(&body_len) {
        return Err(FrameError::Length(length));
    }
    let incomplete = FrameError::Incomplete(PREFIX + body_len);
    let Some((stored, rest)) = rest.split_first_chunk::<4>() else { return Err(incomplete) };
    let Some(body) = rest.get(..body_len) else { return Err(incomplete) };
    let stored = u32::from_le_bytes(*stored);
    if crc(*length_bytes, body, address) != stored && !is_planted(PlantedBug::CrcIgnored) {
        return Err(FrameError::Crc);
    }
    let Some((seq, rest)) = varint::read(body) else {
        return Err(FrameError::Body("its seq is not a valid varint"));
    };
    let Some((time, rest)) = rest.split_first_chunk::<8>() else {
        return Err(FrameError::Body("it ends before its commit time"));
    };
    let Some((kind, payload)) = rest.split_first() else {
        return Err(FrameError::Body("it ends before its event type"));
    };
    let Some(kind) = EventType::from_byte(*kind) else {
        return Err(FrameError::Body("its event type is unknown"));
    };
    let time_ms = u64::from_le_bytes(*time);
    Ok(Frame { seq, time_ms, kind, payload, len: PREFIX + body_len, crc: stored })
}

/// Encoded frames of one table that are not bound to an address yet.
///
/// Admission encodes frames while the previous group is still being synced. Only when the writer writes the group are the
/// frames' addresses and the last published seq known. [`FrameBuffer::stamp`] fills in both.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    starts: Vec<usize>,
    published_at: Option<usize>,
}

impl FrameBuffer {
    /// Appends a frame. `write_payload` appends the payload and, for the first frame of a group only, returns the position in
    /// the buffer of eight bytes that it reserved for the last published seq.
    pub fn push(
        &mut self,
        seq: u64,
        time_ms: u64,
        kind: EventType,
        write_payload: impl FnOnce(&mut Vec<u8>) -> Option<usize>,
    ) {
        let start = self.bytes.len();
        self.starts.push(start);
        self.bytes.extend_from_slice(&[0; PREFIX]);
        varint::write(&mut self.bytes, seq);
        self.bytes.extend_from_slice(&time_ms.to_le_bytes());
        self.bytes.push(kind.to_byte());
        if let Some(at) = write_payload(&mut self.bytes) {
            self.published_at = Some(at);
        }
        // Cannot overflow: documents are limited far below 4 GiB. If it did, readers would refuse the length.
        let length = u32::try_from(self.bytes.len() - start - PREFIX).unwrap_or(u32::MAX);
        if let Some(prefix) = self.bytes.get_mut(start..start + 4) {
            prefix.copy_from_slice(&length.to_le_bytes());
        }
    }

    /// Binds the frames to their addresses: the first frame will be written at `first`, the others follow it. Writes the last
    /// published seq and the CRCs, and returns the CRC of each frame, in order.
    pub fn stamp(&mut self, first: FrameAddress, published: u64) -> Vec<u32> {
        if let Some(at) = self.published_at
            && let Some(field) = self.bytes.get_mut(at..at + 8)
        {
            field.copy_from_slice(&published.to_be_bytes());
        }
        let ends = self.starts.iter().skip(1).copied().chain([self.bytes.len()]);
        let mut crcs = Vec::with_capacity(self.starts.len());
        for (start, end) in self.starts.iter().copied().zip(ends) {
            let address = FrameAddress { offset: first.offset + start as u64, ..first };
            let Some(frame) = self.bytes.get_mut(start..end) else { continue };
            let Some((length, rest)) = frame.split_first_chunk_mut::<4>() else { continue };
            let Some((stored, body)) = rest.split_first_chunk_mut::<4>() else { continue };
            let value = crc(*length, body, address);
            *stored = value.to_le_bytes();
            crcs.push(value);
        }
        crcs
    }

    /// The bytes of all frames.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of frames.
    pub fn frames(&self) -> usize {
        self.starts.len()
    }

    /// Whether the buffer has no frame.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: FrameAddress = FrameAddress { table: 1, segment: 2, offset: 300 };

    fn frame_bytes(seq: u64) -> Vec<u8> {
        let mut buffer = FrameBuffer::default();
        buffer.push(seq, 1_700_000_000_000, EventType::Insert, |out| {
            out.extend_from_slice(&[0x81, 0xa1, b'k', 0x07]);
            None
        });
        buffer.stamp(ADDRESS, 0);
        buffer.bytes().to_vec()
    }

    #[test]
    fn a_frame_round_trips() {
        for seq in [1, 127, 128, 300, 1 << 35, u64::MAX] {
            let bytes = frame_bytes(seq);
            let frame = parse(&bytes, ADDRESS).unwrap();
            assert_eq!((frame.seq, frame.time_ms, frame.kind), (seq, 1_700_000_000_000, EventType::Insert));
            assert_eq!((frame.payload, frame.len), (&[0x81, 0xa1, b'k', 0x07][..], bytes.len()));
        }
    }

    #[test]
    fn a_frame_is_valid_only_at_its_address() {
        let bytes = frame_bytes(9);
        for wrong in [
            FrameAddress { table: 2, ..ADDRESS },
            FrameAddress { segment: 3, ..ADDRESS },
            FrameAddress { offset: 301, ..ADDRESS },
        ] {
            assert_eq!(parse(&bytes, wrong), Err(FrameError::Crc));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_an_error() {
        let bytes = frame_bytes(9);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&flipped, ADDRESS).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(matches!(parse(&bytes[..len], ADDRESS), Err(FrameError::Incomplete(_))), "cut at {len}");
        }
    }

    #[test]
    fn zeros_and_huge_lengths_are_not_frames() {
        assert_eq!(parse(&[0; 64], ADDRESS), Err(FrameError::Length(0)));
        assert_eq!(parse(&[0xff; 64], ADDRESS), Err(FrameError::Length(u32::MAX)));
    }
}
