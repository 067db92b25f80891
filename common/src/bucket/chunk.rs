//! A chunk of the log in a bucket: the bytes that a mirror adds to its directory, between two published positions.
//!
//! A chunk never contains half a commit group: it leads from what HEAD published once to what HEAD published later. Its pieces are
//! ranges of segment files, so a mirror has the same bytes as the directory, and what reads the one reads the other.
//! Each chunk names the digest of the chunk before it. So a chunk that was replaced, swapped or taken from another bucket is found by
//! whoever reads on, whatever the store did with its names.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use crate::bucket::chunk_bytes::{ChunkReader, ChunkWriter, Invalid, is_immutable_path, is_replaced_path};
use crate::error::{Error, Reason, Result};
use crate::limits;

/// The version of the chunks that DriftDB writes.
pub const CHUNK_FORMAT: u8 = 1;
/// The length of a chunk's header, in bytes.
pub const HEADER_BYTES: usize = 144;
const MAGIC: [u8; 8] = *b"DRIFTCHK";
/// The CRC at the end.
const CRC_BYTES: usize = 4;
const FLAG_SYNC: u8 = 1;
const FLAG_BACKUP: u8 = 2;
/// Where the length is, and the CRC of the header before it.
const LENGTH_AT: Range<usize> = 16..24;
const HEADER_CRC_AT: Range<usize> = 128..132;

/// What a chunk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkKind {
    /// A writer has taken over: no chunk of an earlier term follows. It has no content and is never deleted.
    Fence,
    /// What has changed since the chunk before it.
    Changes,
    /// The whole state: a mirror can begin here, without any chunk before it.
    Base,
}

impl ChunkKind {
    const ALL: [ChunkKind; 3] = [ChunkKind::Fence, ChunkKind::Changes, ChunkKind::Base];

    fn code(self) -> u8 {
        match self {
            ChunkKind::Fence => 1,
            ChunkKind::Changes => 2,
            ChunkKind::Base => 3,
        }
    }
}

/// A published commit and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChunkMark {
    /// The commit's seq; 0 before the first commit.
    pub seq: u64,
    /// Its time in milliseconds since 1970, from its frames.
    pub time_ms: u64,
}

/// XXH3-128 of a chunk or of a file.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
pub struct ContentDigest(pub [u8; 16]);

impl ContentDigest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> ContentDigest {
        ContentDigest(xxh3_128(bytes).to_le_bytes())
    }

    /// Parses what is displayed.
    pub fn parse(text: &str) -> Option<ContentDigest> {
        let value = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
        Some(ContentDigest(value.to_be_bytes()))
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who ships.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkOrigin {
    /// A writer that acknowledges commits before they are in the bucket.
    AsyncWriter,
    /// A writer that acknowledges no commit before.
    SyncWriter,
    /// A backup, which ends.
    Backup,
}

impl ChunkOrigin {
    /// Whether it acknowledges nothing that is not in the bucket.
    pub fn is_sync(self) -> bool {
        self == ChunkOrigin::SyncWriter
    }

    /// Whether it is a backup.
    pub fn is_backup(self) -> bool {
        self == ChunkOrigin::Backup
    }
}

/// What a chunk says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// What the chunk is for.
    pub kind: ChunkKind,
    /// Whether the writer acknowledged nothing after the chunk before this one that is not in this one.
    pub is_sync: bool,
    /// Whether it was made by a backup that has ended, and not by a writer that may still ship.
    pub is_backup: bool,
    /// The number in the chunk's name, from 1, without gaps.
    pub number: u64,
    /// The term in the bucket of the writer that made it: a fence has the term of the chunk before it and one.
    pub term: u64,
    /// Drawn by each writer for its time as the bucket's writer.
    pub nonce: [u8; 16],
    /// The database's id.
    pub database_id: [u8; 16],
    /// The digest of the chunk before it; zeros in chunk 1.
    pub previous: ContentDigest,
    /// The number of the base from which a mirror of this chunk begins: its own, if it is one. 0 if there is none yet.
    pub base: u64,
    /// The last commit that the chunks before this one contain.
    pub after: ChunkMark,
    /// The last commit that the chunks up to this one contain.
    pub last: ChunkMark,
}

/// A range of bytes of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// The table's id.
    pub table: u64,
    /// The segment's number.
    pub segment: u64,
    /// Where the bytes are in the segment.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// A file that is replaced as a whole, for example a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplacedFile {
    /// Its path in the data directory, checked: `database.json`, `lineage.json`, `clock.json`, or a table's `meta.json` or `schema.yaml`.
    pub path: String,
    /// Its content.
    pub bytes: Bytes,
}

/// A file that is an object of its own: a layer, an index, or the first bytes of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoredFile {
    /// The table's id.
    pub table: u64,
    /// Its path in the data directory, checked: of a table's segment, layer or index.
    pub path: String,
    /// Its length in bytes. A segment can be longer by the pieces of later chunks.
    pub bytes: u64,
    /// The digest of these bytes.
    pub digest: ContentDigest,
}

impl StoredFile {
    /// The object's name in the bucket. It contains the digest: no two contents ever have one name.
    pub fn object(&self) -> String {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        format!("files/{}/{name}.{}", self.table, self.digest)
    }
}

/// A chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// What the chunk says about itself.
    pub header: ChunkHeader,
    /// The whole content of HEAD; empty in a fence.
    pub head: Bytes,
    /// The files that are replaced. Of a base: all.
    pub replaced: Vec<ReplacedFile>,
    /// The files to fetch: they were in the bucket before the chunk. Of a base: all.
    pub files: Vec<StoredFile>,
    /// Of a base: the files that chunks since the base before it named, or that one, and that this one does not name. Collection
    /// finds in these lists what no chunk names any more.
    pub retired: Vec<StoredFile>,
    /// What is appended to segments, in the order of table, segment and offset.
    pub pieces: Vec<LogPiece>,
}

/// The name of the object of a chunk.
pub fn chunk_name(number: u64) -> String {
    format!("log/{number:020}")
}

/// The number in a chunk's name; `None` for other names.
pub fn chunk_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log/")?;
    let number = digits.parse().ok()?;
    (number > 0 && chunk_name(number) == name).then_some(number)
}

impl Chunk {
    /// The chunk that says that a writer has taken over.
    pub fn fence(header: ChunkHeader) -> Chunk {
        let header = ChunkHeader { kind: ChunkKind::Fence, ..header };
        Chunk {
            header,
            head: Bytes::new(),
            replaced: Vec::new(),
            files: Vec::new(),
            retired: Vec::new(),
            pieces: Vec::new(),
        }
    }

    /// Encodes the chunk. Fails if it is longer than a chunk may be.
    pub fn encode(&self) -> Result<Bytes> {
        let content: usize = self.pieces.iter().map(|piece| piece.bytes.len()).sum();
        let mut out = ChunkWriter::with_capacity(content + self.head.len() + 4096);
        self.put_header(&mut out);
        out.block(&self.head);
        out.count(self.replaced.len());
        for file in &self.replaced {
            out.text(&file.path);
            out.block(&file.bytes);
        }
        for files in [&self.files, &self.retired] {
            out.count(files.len());
            for file in files {
                out.u64(file.table);
                out.text(&file.path);
                out.u64(file.bytes);
                out.raw(&file.digest.0);
            }
        }
        out.count(self.pieces.len());
        for piece in &self.pieces {
            out.u64(piece.table);
            out.u64(piece.segment);
            out.u64(piece.offset);
            out.block(&piece.bytes);
        }
        let mut bytes = out.finish();
        let len = (bytes.len() + CRC_BYTES) as u64;
        if len > limits::BUCKET_CHUNK_BYTES {
            let message = format!(
                "a chunk for the bucket has {len} bytes: the limit is {}",
                limits::BUCKET_CHUNK_BYTES
            );
            return Err(Error::new(Reason::TooLarge, message));
        }
        if let Some(field) = bytes.get_mut(LENGTH_AT) {
            field.copy_from_slice(&len.to_le_bytes());
        }
        let header_crc = crc32fast::hash(bytes.get(..HEADER_CRC_AT.start).unwrap_or_default());
        if let Some(field) = bytes.get_mut(HEADER_CRC_AT) {
            field.copy_from_slice(&header_crc.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        Ok(Bytes::from(bytes))
    }

    fn put_header(&self, out: &mut ChunkWriter) {
        let header = &self.header;
        out.raw(&MAGIC);
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let flags = flag(header.is_sync, FLAG_SYNC) | flag(header.is_backup, FLAG_BACKUP);
        out.raw(&[CHUNK_FORMAT, header.kind.code(), flags, 0]);
        out.raw(&[0; 4]);
        out.u64(0); // the length
        out.u64(header.number);
        out.u64(header.term);
        out.raw(&header.nonce);
        out.raw(&header.database_id);
        out.raw(&header.previous.0);
        out.u64(header.base);
        for mark in [header.after, header.last] {
            out.u64(mark.seq);
            out.u64(mark.time_ms);
        }
        out.raw(&[0; 16]); // the header's CRC
    }

    /// Decodes the object of a chunk: checks its length, CRC and number, and every path in it. `name` is for the error.
    pub fn decode(bytes: &Bytes, number: u64, name: &str) -> Result<Chunk> {
        decode_checked(bytes, number).map_err(|invalid| error_of(invalid, name))
    }
}

impl ChunkHeader {
    /// Decodes the header from the first [`HEADER_BYTES`] bytes of the object of a chunk, for lists: the rest is not looked at.
    pub fn decode(start: &Bytes, number: u64, name: &str) -> Result<ChunkHeader> {
        let read = read_header(&mut ChunkReader::new(start), number);
        read.map(|(header, _)| header).map_err(|invalid| error_of(invalid, name))
    }
}

fn error_of(invalid: Invalid, name: &str) -> Error {
    match invalid {
        Invalid::Damaged(offset, detail) => Error::corrupt(name, offset, detail),
        Invalid::Newer(version) => {
            let message = format!(
                "cannot read {name}: it has format {version}, and this version of DriftDB supports format {CHUNK_FORMAT}; use a newer DriftDB"
            );
            Error::new(Reason::NotSupported, message)
        }
    }
}

fn decode_checked(bytes: &Bytes, number: u64) -> Result<Chunk, Invalid> {
    let (header, len) = read_header(&mut ChunkReader::new(bytes), number)?;
    if len != bytes.len() as u64 {
        let detail = format!("it has {} bytes, and was written with {len}", bytes.len());
        return Err(Invalid::Damaged(bytes.len() as u64, detail));
    }
    let (content, crc) = bytes.split_at_checked(bytes.len().saturating_sub(CRC_BYTES)).unwrap_or_default();
    if crc32fast::hash(content).to_le_bytes() != *crc {
        return Err(Invalid::Damaged(0, "the CRC does not match".into()));
    }
    let mut input = ChunkReader::new(&bytes.slice(..content.len()));
    input.skip(HEADER_BYTES)?;
    let chunk = Chunk {
        header,
        head: input.block()?,
        replaced: input.list(6, read_replaced)?,
        files: input.list(34, read_stored)?,
        retired: input.list(34, read_stored)?,
        pieces: input.list(28, read_piece)?,
    };
    input.end()?;
    Ok(chunk)
}

/// Reads the header of the chunk of a number, and the chunk's length.
fn read_header(input: &mut ChunkReader, number: u64) -> Result<(ChunkHeader, u64), Invalid> {
    let start = input.clone();
    if input.array::<8>()? != MAGIC {
        return Err(Invalid::Damaged(0, "it is not a chunk".into()));
    }
    let [version, kind, flags, _] = input.array::<4>()?;
    input.skip(4)?;
    if version > CHUNK_FORMAT {
        return Err(Invalid::Newer(version));
    }
    let covered: [u8; HEADER_CRC_AT.start] = start.clone().array()?;
    let mut stored = start;
    stored.skip(HEADER_CRC_AT.start)?;
    if crc32fast::hash(&covered).to_le_bytes() != stored.array::<4>()? {
        return Err(Invalid::Damaged(0, "the CRC of the header does not match".into()));
    }
    let len = input.u64()?;
    let kind = ChunkKind::ALL.into_iter().find(|known| known.code() == kind);
    let header = ChunkHeader {
        kind: kind.ok_or_else(|| Invalid::Damaged(9, "it is of an unknown kind".into()))?,
        is_sync: flags & FLAG_SYNC != 0,
        is_backup: flags & FLAG_BACKUP != 0,
        number: input.u64()?,
        term: input.u64()?,
        nonce: input.array()?,
        database_id: input.array()?,
        previous: ContentDigest(input.array()?),
        base: input.u64()?,
        after: ChunkMark { seq: input.u64()?, time_ms: input.u64()? },
        last: ChunkMark { seq: input.u64()?, time_ms: input.u64()? },
    };
    if header.number != number {
        let detail = format!("it is chunk {}, under the name of chunk {number}", header.number);
        return Err(Invalid::Damaged(LENGTH_AT.end as u64, detail));
    }
    Ok((header, len))
}

fn read_replaced(input: &mut ChunkReader) -> Result<ReplacedFile, Invalid> {
    let path = input.text(is_replaced_path)?;
    Ok(ReplacedFile { path, bytes: input.block()? })
}

fn read_stored(input: &mut ChunkReader) -> Result<StoredFile, Invalid> {
    let table = input.u64()?;
    let path = input.text(is_immutable_path)?;
    Ok(StoredFile { table, path, bytes: input.u64()?, digest: ContentDigest(input.array()?) })
}

fn read_piece(input: &mut ChunkReader) -> Result<LogPiece, Invalid> {
    Ok(LogPiece { table: input.u64()?, segment: input.u64()?, offset: input.u64()?, bytes: input.block()? })
}

#[cfg(test)]
mod tests;
