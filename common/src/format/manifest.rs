//! The content of `database.json` and of each table's `meta.json` (the manifest): JSON with a CRC.
//!
//! Some fields have other names in JSON than in the code: the names on disk are older and part of the format.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, Reason, Result};

/// The maximum length of such a file, in bytes.
pub const FILE_BYTES: u64 = 64 << 20;

/// The identity of a database: `database.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// The database's id, a UUID.
    pub id: uuid::Uuid,
    /// The id of this history; a restore starts another. Hexadecimal, because many JSON readers round large numbers.
    #[serde(with = "hex")]
    pub epoch: u64,
    /// The version of the on-disk format.
    pub format: u8,
}

/// The last time that a writer saw on a clock that it trusted: `clock.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockRecord {
    /// The time, in milliseconds since 1970.
    pub seen_ms: u64,
}

/// The manifest: the current files of a table, in order (`meta.json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The name of the table's directory. It never changes.
    pub table: String,
    /// The table's name at the end of the delta layers, if it is not the one that the directory shows: the table was renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The table's id: the seq that created the table.
    pub table_id: u64,
    /// Incremented at each change.
    pub version: u64,
    /// The term of the writer that wrote this version.
    pub term: u64,
    /// The seq of the last published commit when this version was written. Recovery must not end before it.
    pub published: u64,
    /// That commit's time in milliseconds since 1970; 0 if the manifest has no delta layers. Recovery needs it because it
    /// does not read the log that the layers cover.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub published_ms: u64,
    /// The oldest point in time that can be read, if compaction has discarded older history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Floor>,
    /// The delta layers, oldest first. Each starts at the seq at which the previous one ends. `eras` on disk.
    #[serde(rename = "eras", default, skip_serializing_if = "Vec::is_empty")]
    pub deltas: Vec<DeltaLayer>,
    /// The image layers, oldest first. `fulls` on disk.
    #[serde(rename = "fulls", default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageLayer>,
    /// The segments, oldest first. Their order counts, not their numbers. The last one is active, the others are sealed.
    pub segments: Vec<Segment>,
}

/// What the files of a table take on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileTotals {
    /// The bytes of the log's frames, of the layers and of the indexes.
    pub bytes: u64,
    /// The number of segments.
    pub segments: u64,
}

impl Manifest {
    /// The table's name at the end of the delta layers.
    pub fn table_name(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| created_name(&self.table))
    }

    /// Records the table's name at the end of the delta layers.
    pub fn set_table_name(&mut self, name: &str) {
        self.name = (name != created_name(&self.table)).then(|| name.to_owned());
    }

    /// What the files take, if the active segment has this number and this many bytes. Zeros ahead of the frames do not count.
    pub fn file_totals(&self, active: u64, active_bytes: u64) -> FileTotals {
        let sealed = self.segments.iter().filter(|segment| segment.number != active);
        let sealed = sealed.filter_map(|segment| segment.sealed).map(|seal| seal.bytes);
        let layers =
            self.deltas.iter().map(|delta| delta.bytes).chain(self.images.iter().map(|image| image.bytes));
        FileTotals {
            bytes: active_bytes + sealed.chain(layers).sum::<u64>(),
            segments: self.segments.len() as u64,
        }
    }
}

/// The oldest point in time at which a table can be read, and the state of the table then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// The seq of the commit.
    pub seq: u64,
    /// The commit's time in milliseconds since 1970.
    pub time_ms: u64,
    /// The last seq up to and including `seq` that has a frame in the table.
    pub last_seq: u64,
    /// Events since the table's creation, up to and including `seq`.
    pub events: u64,
    /// Live rows after the commit.
    pub rows: u64,
}

/// A delta layer: a file with every event of a table after one commit, up to and including another.
///
/// If `base` equals `seq`, the layer is the compaction base: it has no events, only the requests and producers that outlive the
/// commits that compaction discarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaLayer {
    /// The layer's events are after this seq; 0 for the first layer.
    pub base: u64,
    /// The last seq of the layer. Its commit has a frame in the table, unless the layer is the compaction base.
    pub seq: u64,
    /// The length of the file and of its index files, in bytes.
    pub bytes: u64,
    /// The number of events.
    pub events: u64,
    /// The paths for which the layer has an index file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<String>,
    /// The position in the log at which the layer ends.
    pub position: LogPosition,
}

/// The name that the table of a directory was created with: the directory of a table that was not the first of its name has the
/// table's id after it.
pub fn created_name(directory: &str) -> &str {
    directory.split_once('.').map_or(directory, |(name, _)| name)
}

impl DeltaLayer {
    /// Whether the layer is the compaction base.
    pub fn is_compaction_base(&self) -> bool {
        self.base == self.seq
    }
}

/// An image layer: a file with all live rows after one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    /// The seq of the commit.
    pub seq: u64,
    /// The number of rows.
    pub rows: u64,
    /// The length of the file and of its index files, in bytes.
    pub bytes: u64,
    /// The paths for which the layer has an index file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<String>,
}

/// A position between two frames of a table's log, with a digest of the segment's frames before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogPosition {
    /// The number of the segment.
    pub segment: u64,
    /// The offset of the next frame in the segment, in bytes.
    pub offset: u64,
    /// The number of frames in the segment before the position.
    pub frames: u64,
    /// The digest of those frames, computed as in [`Seal`].
    pub digest: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A segment in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The number in the name of the file.
    pub number: u64,
    /// The content of a sealed segment; `None` for the active segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Seal>,
}

/// The length and digest of a sealed segment. A sealed segment never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The length of the file in bytes.
    pub bytes: u64,
    /// The number of frames.
    pub frames: u64,
    /// CRC-32 over the stored CRCs of the frames (4 bytes each, little-endian), in order.
    pub digest: u32,
}

/// Computes the number and the digest of a segment's frames while they are written or read.
#[derive(Debug, Clone, Default)]
pub struct Digest {
    frames: u64,
    hasher: crc32fast::Hasher,
}

impl Digest {
    /// Adds the CRC of the next frame.
    pub fn add(&mut self, crc: u32) {
        self.frames += 1;
        self.hasher.update(&crc.to_le_bytes());
    }

    /// The digest of these frames followed by the frames of `later`.
    #[must_use]
    pub fn then(&self, later: &Digest) -> Digest {
        let mut hasher = self.hasher.clone();
        hasher.combine(&later.hasher);
        Digest { frames: self.frames + later.frames, hasher }
    }

    /// The digest of the frames before a position, to continue from there.
    pub fn resume(position: &LogPosition) -> Digest {
        let hasher = crc32fast::Hasher::new_with_initial_len(position.digest, position.frames * 4);
        Digest { frames: position.frames, hasher }
    }

    /// The seal of a segment with the added frames and a length of `bytes` bytes.
    pub fn seal(&self, bytes: u64) -> Seal {
        Seal { bytes, frames: self.frames, digest: self.hasher.clone().finalize() }
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<B> {
    crc32: String,
    body: B,
}

/// Encodes `content` as the bytes of such a file: `{"crc32": …, "body": …}`, with the CRC over the body's bytes.
pub fn encode<T: Serialize>(content: &T) -> Result<Vec<u8>> {
    let failed = |e| Error::new(Reason::Internal, format!("cannot encode a manifest: {e}"));
    let body = serde_json::value::to_raw_value(content).map_err(failed)?;
    let crc32 = format!("{:08x}", crc32fast::hash(body.get().as_bytes()));
    let mut bytes = serde_json::to_vec(&Envelope { crc32, body }).map_err(failed)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Decodes the bytes of such a file. The error says what is wrong; the caller adds the name of the file.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> std::result::Result<T, String> {
    let envelope: Envelope<Box<RawValue>> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let body = envelope.body.get();
    if envelope.crc32 != format!("{:08x}", crc32fast::hash(body.as_bytes())) {
        return Err("its CRC does not match".to_owned());
    }
    serde_json::from_str(body).map_err(|e| e.to_string())
}

pub(super) mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::format) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{value:016x}"))
    }

    pub(in crate::format) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_an_error_or_changes_nothing() {
        let seal = Seal { bytes: 100, frames: 3, digest: 9 };
        let manifest = Manifest {
            table: "orders".into(),
            name: Some("sales".into()),
            table_id: 1,
            version: 4,
            term: 2,
            published: 7,
            published_ms: 8,
            floor: Some(Floor { seq: 2, time_ms: 5, last_seq: 2, events: 4, rows: 1 }),
            deltas: vec![DeltaLayer {
                base: 2,
                seq: 6,
                bytes: 900,
                events: 4,
                indexes: vec!["status".into()],
                position: LogPosition { segment: 2, offset: 30, frames: 1, digest: 77 },
            }],
            images: vec![ImageLayer { seq: 2, rows: 3, bytes: 300, indexes: Vec::new() }],
            segments: vec![Segment { number: 1, sealed: Some(seal) }, Segment { number: 2, sealed: None }],
        };
        let bytes = encode(&manifest).unwrap();
        assert_eq!(decode::<Manifest>(&bytes), Ok(manifest.clone()));
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[i] ^= 1 << bit;
                if let Ok(found) = decode::<Manifest>(&damaged) {
                    assert_eq!(found, manifest, "byte {i} bit {bit}");
                }
            }
        }
    }
}
