//! The compaction base: the state of a table at its floor, with which the log of a compacted table begins.
//!
//! A compacted segment starts with a FLOOR frame, which announces the frames of the base. KEEP frames follow with requests and
//! producers, SCHEMA frames, and one INSERT frame for each live row.

use crate::error::{Error, Reason, Result};
use crate::format::event::{IngestOrigin, RequestId};
use crate::format::manifest::Floor;
use crate::format::msgpack::{self, MsgpackItem, MsgpackReader};
use crate::format::snapshot::{ProducerEntry, RequestEntry};

/// The first frame of a compacted segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FloorFrame {
    /// The point in time whose state follows.
    pub floor: Floor,
    /// The number of frames in the base after this one: KEEP, SCHEMA, INSERT.
    pub frames: u64,
    /// CRC-32 over the stored CRCs of those frames, like the digest of a segment.
    pub digest: u32,
    /// The numbers of the segments that this one replaces. Any of them that still exists can be removed.
    pub superseded: Vec<u64>,
}

/// The payload of a KEEP frame: what must outlive the commits that compaction discards.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeepFrame {
    /// Seqs of commits whose client gave a request id, with that request.
    pub requests: Vec<(u64, RequestEntry)>,
    /// The position of each producer's stream.
    pub producers: Vec<ProducerEntry>,
}

fn corrupt(what: &str) -> Error {
    Error::new(Reason::Corrupt, format!("invalid compaction base: {what}"))
}

fn array_of_len(reader: &mut MsgpackReader<'_>, expected: u32) -> Result<()> {
    if reader.array()? == expected { Ok(()) } else { Err(corrupt("an entry has the wrong number of fields")) }
}

impl FloorFrame {
    /// Appends the payload. Its length does not depend on `frames` and `digest`, because the writer fills them in last.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Floor { seq, time_ms, last_seq, events, rows } = self.floor;
        msgpack::write_map_len(out, 8);
        for (name, number) in [("s", seq), ("t", time_ms), ("l", last_seq), ("e", events), ("r", rows)] {
            msgpack::write_str(out, name);
            msgpack::write_uint(out, number);
        }
        for (name, number) in [("c", self.frames), ("g", self.digest.into())] {
            msgpack::write_str(out, name);
            msgpack::write_fixed_u64(out, number);
        }
        msgpack::write_str(out, "x");
        msgpack::write_array_len(out, self.superseded.len());
        self.superseded.iter().for_each(|number| msgpack::write_uint(out, *number));
    }

    /// Decodes the payload. Skips unknown fields.
    pub fn decode(payload: &[u8]) -> Result<FloorFrame> {
        let mut floor = Floor { seq: 0, time_ms: 0, last_seq: 0, events: 0, rows: 0 };
        let (mut frames, mut digest, mut superseded) = (None, None, Vec::new());
        let mut reader = MsgpackReader::new(payload);
        for _ in 0..reader.map()? {
            match reader.str()? {
                "s" => floor.seq = reader.uint()?,
                "t" => floor.time_ms = reader.uint()?,
                "l" => floor.last_seq = reader.uint()?,
                "e" => floor.events = reader.uint()?,
                "r" => floor.rows = reader.uint()?,
                "c" => frames = Some(reader.uint()?),
                "g" => {
                    let number = u32::try_from(reader.uint()?);
                    digest =
                        Some(number.map_err(|_| corrupt("the digest of its FLOOR frame is out of range"))?);
                }
                "x" => {
                    for _ in 0..reader.array()? {
                        superseded.push(reader.uint()?);
                    }
                }
                _ => _ = reader.value()?,
            }
        }
        reader.finish()?;
        let (Some(frames), Some(digest)) = (frames, digest) else {
            return Err(corrupt("its FLOOR frame lacks the number or the digest of the frames that follow"));
        };
        if floor.seq == 0 || floor.last_seq > floor.seq {
            return Err(corrupt("its FLOOR frame has an invalid seq"));
        }
        Ok(FloorFrame { floor, frames, digest, superseded })
    }
}

impl KeepFrame {
    /// Whether the frame has neither requests nor producers.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.producers.is_empty()
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        msgpack::write_map_len(out, 2);
        msgpack::write_str(out, "r");
        msgpack::write_array_len(out, self.requests.len());
        for (seq, RequestEntry { time_ms, request }) in &self.requests {
            msgpack::write_array_len(out, 4);
            msgpack::write_str(out, &request.id);
            msgpack::write_bin(out, &request.fingerprint);
            msgpack::write_uint(out, *seq);
            msgpack::write_uint(out, *time_ms);
        }
        msgpack::write_str(out, "p");
        msgpack::write_array_len(out, self.producers.len());
        for ProducerEntry { seq, origin } in &self.producers {
            msgpack::write_array_len(out, 5);
            msgpack::write_str(out, &origin.producer);
            msgpack::write_uint(out, origin.batch);
            msgpack::write_uint(out, origin.operation.into());
            msgpack::write_bool(out, origin.ends);
            msgpack::write_uint(out, *seq);
        }
    }

    /// Decodes the payload. Skips unknown fields.
    pub fn decode(payload: &[u8]) -> Result<KeepFrame> {
        let mut keep = KeepFrame::default();
        let mut reader = MsgpackReader::new(payload);
        for _ in 0..reader.map()? {
            match reader.str()? {
                "r" => {
                    for _ in 0..reader.array()? {
                        array_of_len(&mut reader, 4)?;
                        let request = RequestId { id: reader.str()?.to_owned(), fingerprint: reader.bin()? };
                        let (seq, time_ms) = (reader.uint()?, reader.uint()?);
                        keep.requests.push((seq, RequestEntry { time_ms, request }));
                    }
                }
                "p" => {
                    for _ in 0..reader.array()? {
                        array_of_len(&mut reader, 5)?;
                        keep.producers.push(decode_producer(&mut reader)?);
                    }
                }
                _ => _ = reader.value()?,
            }
        }
        reader.finish()?;
        Ok(keep)
    }
}

fn decode_producer(reader: &mut MsgpackReader<'_>) -> Result<ProducerEntry> {
    let producer = reader.str()?.to_owned();
    let batch = reader.uint()?;
    let operation =
        u32::try_from(reader.uint()?).map_err(|_| corrupt("an operation index is out of range"))?;
    let MsgpackItem::Bool(ends) = reader.token()? else { return Err(corrupt("expected a boolean")) };
    Ok(ProducerEntry { seq: reader.uint()?, origin: IngestOrigin { producer, batch, operation, ends } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floor_and_keep_frames_round_trip() {
        let floor = Floor { seq: 900, time_ms: 1_700_000_000_000, last_seq: 890, events: 70_000, rows: 3 };
        let frame = FloorFrame { floor, frames: 9, digest: 0xcbf4_3926, superseded: vec![1, 2, 300] };
        let (mut out, mut other) = (Vec::new(), Vec::new());
        frame.encode(&mut out);
        assert_eq!(FloorFrame::decode(&out).unwrap(), frame);
        FloorFrame { frames: 0, digest: 0, ..frame }.encode(&mut other);
        assert_eq!(out.len(), other.len(), "frames and digest have a fixed length");

        let request = RequestId { id: "r-1".into(), fingerprint: [7; 16] };
        let origin = IngestOrigin { producer: "loader".into(), batch: 4, operation: 70_000, ends: true };
        let keep = KeepFrame {
            requests: vec![(890, RequestEntry { time_ms: 5, request })],
            producers: vec![ProducerEntry { seq: 880, origin }],
        };
        let mut out = Vec::new();
        keep.encode(&mut out);
        assert_eq!(KeepFrame::decode(&out).unwrap(), keep);
        for cut in 0..out.len() {
            assert!(KeepFrame::decode(out.get(..cut).unwrap()).is_err(), "cut at {cut}");
        }
    }
}
