//! `database.json` and each table's `meta.json`: small JSON files that carry a CRC of themselves.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, Reason, Result};

/// The most bytes that such a file may have.
pub const FILE_BYTES: u64 = 64 << 20;

/// What names a database: `database.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// The database's id, a UUID.
    pub id: uuid::Uuid,
    /// Names this history, in hexadecimal (JSON numbers lose bits in many readers); another after a restore.
    #[serde(with = "hex")]
    pub epoch: u64,
    /// The version of the on-disk format.
    pub format: u8,
}

/// The files that make up a table now, in order: `meta.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The table's name.
    pub table: String,
    /// The table's id: the seq that created it.
    pub table_id: u64,
    /// One more at each change.
    pub version: u64,
    /// The term of the writer that wrote it.
    pub term: u64,
    /// The last published commit when it was written: recovery may not fall below it.
    pub published: u64,
    /// That commit's time in milliseconds since 1970; told where there are eras, and the log before them is not read.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub published_ms: u64,
    /// The oldest moment that can be read, where compaction has raised it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Floor>,
    /// What happened from the floor on, in files: oldest first, each from where the one before it ends.
    #[serde(rename = "eras", default, skip_serializing_if = "Vec::is_empty")]
    pub deltas: Vec<DeltaLayer>,
    /// All live rows at some moments, oldest first.
    #[serde(rename = "fulls", default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageLayer>,
    /// The segments, oldest first: this order counts, not their numbers. The last one is active, those before it are
    /// sealed.
    pub segments: Vec<Segment>,
}

/// The oldest moment of a table that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// The commit.
    pub seq: u64,
    /// Its time in milliseconds since 1970.
    pub time_ms: u64,
    /// The last commit up to it that has a frame in the table.
    pub last_seq: u64,
    /// Events up to it, since the table's creation.
    pub events: u64,
    /// Live rows after it.
    pub rows: u64,
}

/// A file of everything that happened in a table after one commit, up to another. One whose `base` is its `seq` stands at the
/// floor for what compaction has folded: it holds no event, but the requests and producers that outlive theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaLayer {
    /// After this commit; 0 for the first.
    pub base: u64,
    /// Up to and with this one, which has a frame in the table where any is held.
    pub seq: u64,
    /// The file's length in bytes, its indexes' too.
    pub bytes: u64,
    /// How many events it holds.
    pub events: u64,
    /// The paths that it has an index file of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<String>,
    /// Where the log goes on after it.
    pub position: LogPosition,
}

impl DeltaLayer {
    /// Whether it stands for what compaction has folded.
    pub fn is_compaction_base(&self) -> bool {
        self.base == self.seq
    }
}

/// A file of all live rows at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    /// The moment.
    pub seq: u64,
    /// How many rows it holds.
    pub rows: u64,
    /// The file's length in bytes, its indexes' too.
    pub bytes: u64,
    /// The paths that it has an index file of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<String>,
}

/// A place in a table's log, with the sum of the segment's frames before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogPosition {
    /// The segment's number.
    pub segment: u64,
    /// The offset of the next frame in it.
    pub offset: u64,
    /// How many frames stand before it.
    pub frames: u64,
    /// Their digest, as [`Seal`] has it.
    pub digest: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A segment, as the manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The number in the file's name.
    pub number: u64,
    /// What a sealed segment holds; absent for the active one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Seal>,
}

/// What a sealed segment holds. It never changes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The file's length in bytes.
    pub bytes: u64,
    /// How many frames it has.
    pub frames: u64,
    /// CRC-32 over its frames' stored CRCs (4 bytes each, little-endian), in order.
    pub digest: u32,
}

/// Sums up a segment's frames as they are written or read.
#[derive(Debug, Clone, Default)]
pub struct Digest {
    frames: u64,
    hasher: crc32fast::Hasher,
}

impl Digest {
    /// Takes in the next frame's CRC.
    pub fn add(&mut self, crc: u32) {
        self.frames += 1;
        self.hasher.update(&crc.to_le_bytes());
    }

    /// The sum of these frames, and then of those of another sum.
    #[must_use]
    pub fn then(&self, later: &Digest) -> Digest {
        let mut hasher = self.hasher.clone();
        hasher.combine(&later.hasher);
        Digest { frames: self.frames + later.frames, hasher }
    }

    /// The sum of the frames before a place in a segment.
    pub fn resume(position: &LogPosition) -> Digest {
        let hasher = crc32fast::Hasher::new_with_initial_len(position.digest, position.frames * 4);
        Digest { frames: position.frames, hasher }
    }

    /// The seal of a segment of `bytes` bytes with the frames taken in.
    pub fn seal(&self, bytes: u64) -> Seal {
        Seal { bytes, frames: self.frames, digest: self.hasher.clone().finalize() }
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<B> {
    crc32: String,
    body: B,
}

/// The bytes of such a file: `{"crc32": …, "body": …}`, the CRC over the body's bytes as they stand.
pub fn encode<T: Serialize>(content: &T) -> Result<Vec<u8>> {
    let failed = |e| Error::new(Reason::Internal, format!("cannot encode a manifest: {e}"));
    let body = serde_json::value::to_raw_value(content).map_err(failed)?;
    let crc32 = format!("{:08x}", crc32fast::hash(body.get().as_bytes()));
    let mut bytes = serde_json::to_vec(&Envelope { crc32, body }).map_err(failed)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads such a file; the error says what is wrong with it, for the caller to add which file it is.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> std::result::Result<T, String> {
    let envelope: Envelope<Box<RawValue>> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let body = envelope.body.get();
    if envelope.crc32 != format!("{:08x}", crc32fast::hash(body.as_bytes())) {
        return Err("its CRC does not match".to_owned());
    }
    serde_json::from_str(body).map_err(|e| e.to_string())
}

mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{value:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_seen_or_changes_nothing() {
        let seal = Seal { bytes: 100, frames: 3, digest: 9 };
        let manifest = Manifest {
            table: "orders".into(),
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
