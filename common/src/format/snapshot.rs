//! What stands in the trees of snapshot files: versions, commits, requests, producers, rows; and in index files.

use bytes::Bytes;

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::event::{EventType, IngestOrigin, RequestId};

/// Trees of an era's file, and of a file of all rows.
pub mod tree {
    /// Every event of a row: key, seq and position in the commit → [`super::VersionEntry`].
    pub const VERSIONS: u8 = 1;
    /// Every commit: time and seq → [`super::CommitEntry`].
    pub const COMMITS: u8 = 2;
    /// Commits that were asked for with a request id: seq → [`super::RequestEntry`].
    pub const REQUESTS: u8 = 3;
    /// Where each producer's stream has come to: its name → [`super::ProducerEntry`].
    pub const PRODUCERS: u8 = 4;
    /// Live rows: key → [`super::RowEntry`].
    pub const ROWS: u8 = 5;
    /// Candidates of an index: value and key → [`super::CandidateEntry`].
    pub const CANDIDATES: u8 = 6;
}

/// Kinds of files, as their identity has them.
pub mod kind {
    /// All live rows at a moment.
    pub const FULL: u8 = 1;
    /// What happened after one commit, up to another.
    pub const ERA: u8 = 2;
    /// An index of a file of all rows.
    pub const FULL_INDEX: u8 = 3;
    /// An index of an era.
    pub const ERA_INDEX: u8 = 4;
}

/// One event of a row, in an era's file.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionEntry {
    /// What kind of event it was.
    pub kind: EventType,
    /// The commit's time in milliseconds since 1970.
    pub time_ms: u64,
    /// Who made the commit; or empty.
    pub actor: String,
    /// Why; or empty.
    pub reason: String,
    /// What was written; none for SOFT_DELETE.
    pub payload: Option<Document>,
    /// The row after a PATCH, where that is kept.
    pub image: Option<Document>,
}

/// What a commit did in a table, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Did {
    /// It changed a row, whose key as sort key this is.
    Row(Bytes),
    /// It changed the schema: the SCHEMA event's document, and whether no row was left.
    Schema(Document, bool),
}

/// A commit as a table saw it, in an era's file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CommitEntry {
    /// Events in the table up to and with this commit, since its creation.
    pub events: u64,
    /// Live rows after it.
    pub rows: u64,
    /// Who made it; or empty.
    pub actor: String,
    /// Why; or empty.
    pub reason: String,
    /// What it did.
    pub did: Vec<Did>,
}

/// A request that became a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestEntry {
    /// The commit's time in milliseconds since 1970.
    pub time_ms: u64,
    /// The id, and the hash of what was asked.
    pub request: RequestId,
}

/// Where a producer's stream has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerEntry {
    /// The commit.
    pub seq: u64,
    /// Where in the stream it came from.
    pub origin: IngestOrigin,
}

/// A live row, in a file of all rows.
#[derive(Debug, Clone, PartialEq)]
pub struct RowEntry {
    /// The commit that last changed it.
    pub seq: u64,
    /// That commit's time in milliseconds since 1970.
    pub time_ms: u64,
    /// Its content.
    pub document: Document,
}

/// From when to when a row may have had a value, as far as its file tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CandidateEntry {
    /// The first commit that gave it the value.
    pub first: u64,
    /// The commit that last took it away; 0 where the row had the value at the file's end.
    pub until: u64,
}

/// The key of a commit: time and seq, which grow together.
pub fn commit_key(time_ms: u64, seq: u64) -> [u8; 16] {
    (u128::from(time_ms) << 64 | u128::from(seq)).to_be_bytes()
}

/// Time and seq from the key of a commit.
pub fn read_commit_key(key: &[u8]) -> Option<(u64, u64)> {
    let (time, rest) = key.split_first_chunk::<8>()?;
    let seq: &[u8; 8] = rest.try_into().ok()?;
    Some((u64::from_be_bytes(*time), u64::from_be_bytes(*seq)))
}

/// Appends to a row's sort key what makes it the key of one of its versions.
pub fn push_version(out: &mut Vec<u8>, seq: u64, index: u32) {
    out.extend_from_slice(&seq.to_be_bytes());
    out.extend_from_slice(&index.to_be_bytes());
}

/// A row's sort key, and the seq and position in the commit, from the key of a version.
pub fn read_version(key: &[u8]) -> Option<(&[u8], u64, u32)> {
    let (rest, index) = key.split_last_chunk::<4>()?;
    let (row, seq) = rest.split_last_chunk::<8>()?;
    Some((row, u64::from_be_bytes(*seq), u32::from_be_bytes(*index)))
}

/// Appends LEB128.
pub fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "under 0x80 here")]
    out.push(value as u8);
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn damaged(what: &str) -> Error {
    Error::new(Reason::Corrupt, format!("an entry of a snapshot: {what}"))
}

/// Takes fields off an entry, one after the other.
struct Fields<'a>(&'a Bytes, usize);

impl Fields<'_> {
    fn byte(&mut self) -> Result<u8> {
        let byte = self.0.get(self.1).copied().ok_or_else(|| damaged("it ends too early"))?;
        self.1 += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(damaged("a number that is too long"))
    }

    fn bytes(&mut self) -> Result<Bytes> {
        let len = usize::try_from(self.varint()?).map_err(|_| damaged("a length out of range"))?;
        let end = self.1.checked_add(len).filter(|end| *end <= self.0.len());
        let end = end.ok_or_else(|| damaged("it ends too early"))?;
        let bytes = self.0.slice(self.1..end);
        self.1 = end;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<String> {
        String::from_utf8(self.bytes()?.into()).map_err(|_| damaged("text that is not UTF-8"))
    }

    fn document(&mut self) -> Result<Document> {
        Ok(Document::trusted(self.bytes()?))
    }

    fn finish(self) -> Result<()> {
        if self.1 == self.0.len() { Ok(()) } else { Err(damaged("it goes on after its end")) }
    }
}

const PAYLOAD: u8 = 1;
const IMAGE: u8 = 2;
const META: u8 = 4;

impl VersionEntry {
    /// Appends the entry's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let meta = !self.actor.is_empty() || !self.reason.is_empty();
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.push(self.kind.to_byte());
        out.push(
            flag(self.payload.is_some(), PAYLOAD) | flag(self.image.is_some(), IMAGE) | flag(meta, META),
        );
        write_varint(out, self.time_ms);
        if meta {
            write_bytes(out, self.actor.as_bytes());
            write_bytes(out, self.reason.as_bytes());
        }
        for document in [&self.payload, &self.image].into_iter().flatten() {
            write_bytes(out, document.msgpack());
        }
    }

    /// Reads an entry. Its documents share the bytes.
    pub fn decode(bytes: &Bytes) -> Result<VersionEntry> {
        let mut fields = Fields(bytes, 0);
        let kind = EventType::from_byte(fields.byte()?).ok_or_else(|| damaged("an unknown event type"))?;
        let flags = fields.byte()?;
        let time_ms = fields.varint()?;
        let (mut actor, mut reason) = (String::new(), String::new());
        if flags & META != 0 {
            (actor, reason) = (fields.text()?, fields.text()?);
        }
        let payload = if flags & PAYLOAD != 0 { Some(fields.document()?) } else { None };
        let image = if flags & IMAGE != 0 { Some(fields.document()?) } else { None };
        fields.finish()?;
        let whole = match kind {
            EventType::Insert => payload.is_some() && image.is_none(),
            EventType::Patch => payload.is_some(),
            EventType::SoftDelete => payload.is_none() && image.is_none(),
            _ => false,
        };
        if !whole {
            return Err(damaged("a version that lacks what its type needs"));
        }
        Ok(VersionEntry { kind, time_ms, actor, reason, payload, image })
    }
}

const DID_ROW: u8 = 0;
const DID_SCHEMA: u8 = 1;
const DID_EMPTY: u8 = 2;

impl CommitEntry {
    /// Appends the entry's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write_varint(out, self.events);
        write_varint(out, self.rows);
        write_bytes(out, self.actor.as_bytes());
        write_bytes(out, self.reason.as_bytes());
        write_varint(out, self.did.len() as u64);
        for did in &self.did {
            match did {
                Did::Row(key) => {
                    out.push(DID_ROW);
                    write_bytes(out, key);
                }
                Did::Schema(document, emptied) => {
                    out.push(if *emptied { DID_EMPTY } else { DID_SCHEMA });
                    write_bytes(out, document.msgpack());
                }
            }
        }
    }

    /// Reads the counts alone: events and rows.
    pub fn decode_counts(bytes: &Bytes) -> Result<(u64, u64)> {
        let mut fields = Fields(bytes, 0);
        Ok((fields.varint()?, fields.varint()?))
    }

    /// Reads an entry.
    pub fn decode(bytes: &Bytes) -> Result<CommitEntry> {
        let mut fields = Fields(bytes, 0);
        let (events, rows) = (fields.varint()?, fields.varint()?);
        let (actor, reason) = (fields.text()?, fields.text()?);
        let mut did = Vec::new();
        for _ in 0..fields.varint()? {
            did.push(match fields.byte()? {
                DID_ROW => Did::Row(fields.bytes()?),
                DID_SCHEMA => Did::Schema(fields.document()?, false),
                DID_EMPTY => Did::Schema(fields.document()?, true),
                _ => return Err(damaged("a commit that did what is not known")),
            });
        }
        fields.finish()?;
        Ok(CommitEntry { events, rows, actor, reason, did })
    }
}

impl RequestEntry {
    /// Appends the entry's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write_varint(out, self.time_ms);
        out.extend_from_slice(&self.request.fingerprint);
        out.extend_from_slice(self.request.id.as_bytes());
    }

    /// Reads an entry.
    pub fn decode(bytes: &Bytes) -> Result<RequestEntry> {
        let mut fields = Fields(bytes, 0);
        let time_ms = fields.varint()?;
        let rest = bytes.get(fields.1..).unwrap_or_default();
        let (fingerprint, id) = rest.split_first_chunk::<16>().ok_or_else(|| damaged("it ends too early"))?;
        let id = std::str::from_utf8(id).map_err(|_| damaged("text that is not UTF-8"))?.to_owned();
        Ok(RequestEntry { time_ms, request: RequestId { id, fingerprint: *fingerprint } })
    }
}

impl ProducerEntry {
    /// Appends the entry's bytes; the producer's name is its key.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write_varint(out, self.seq);
        write_varint(out, self.origin.batch);
        write_varint(out, self.origin.operation.into());
        out.push(u8::from(self.origin.ends));
    }

    /// Reads the entry of a producer.
    pub fn decode(producer: &[u8], bytes: &Bytes) -> Result<ProducerEntry> {
        let mut fields = Fields(bytes, 0);
        let (seq, batch) = (fields.varint()?, fields.varint()?);
        let operation = u32::try_from(fields.varint()?).map_err(|_| damaged("an operation's position"))?;
        let ends = fields.byte()? != 0;
        fields.finish()?;
        let producer = std::str::from_utf8(producer).map_err(|_| damaged("text that is not UTF-8"))?;
        Ok(ProducerEntry {
            seq,
            origin: IngestOrigin { producer: producer.to_owned(), batch, operation, ends },
        })
    }
}

impl RowEntry {
    /// Appends the entry's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write_varint(out, self.seq);
        write_varint(out, self.time_ms);
        out.extend_from_slice(self.document.msgpack());
    }

    /// Reads an entry. Its document shares the bytes.
    pub fn decode(bytes: &Bytes) -> Result<RowEntry> {
        let mut fields = Fields(bytes, 0);
        let (seq, time_ms) = (fields.varint()?, fields.varint()?);
        Ok(RowEntry { seq, time_ms, document: Document::trusted(bytes.slice(fields.1..)) })
    }
}

impl CandidateEntry {
    /// Appends the entry's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write_varint(out, self.first);
        write_varint(out, self.until);
    }

    /// Reads an entry.
    pub fn decode(bytes: &Bytes) -> Result<CandidateEntry> {
        let mut fields = Fields(bytes, 0);
        let entry = CandidateEntry { first: fields.varint()?, until: fields.varint()? };
        fields.finish()?;
        Ok(entry)
    }

    /// Whether the row may have the value after a commit, as far as the file reaches.
    pub fn may_hold_at(&self, seq: u64) -> bool {
        self.first <= seq && (self.until == 0 || seq < self.until)
    }
}

/// What an era's file says of itself: the table at its end.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeltaProperties {
    /// Events since the table's creation.
    pub events: u64,
    /// Live rows.
    pub rows: u64,
    /// The time of its last commit, in milliseconds since 1970.
    pub time_ms: u64,
    /// Every SCHEMA event of the table so far.
    pub chapters: Vec<SchemaEntry>,
}

/// A SCHEMA event.
#[derive(Debug, Clone, PartialEq)]
pub struct SchemaEntry {
    /// Its commit.
    pub seq: u64,
    /// The commit's time in milliseconds since 1970.
    pub time_ms: u64,
    /// Who made the commit; or empty.
    pub actor: String,
    /// Why; or empty.
    pub reason: String,
    /// The event's document.
    pub document: Document,
}

impl DeltaProperties {
    /// The properties as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for number in [self.events, self.rows, self.time_ms, self.chapters.len() as u64] {
            write_varint(&mut out, number);
        }
        for chapter in &self.chapters {
            write_varint(&mut out, chapter.seq);
            write_varint(&mut out, chapter.time_ms);
            write_bytes(&mut out, chapter.actor.as_bytes());
            write_bytes(&mut out, chapter.reason.as_bytes());
            write_bytes(&mut out, chapter.document.msgpack());
        }
        out
    }

    /// Reads the properties.
    pub fn decode(bytes: &Bytes) -> Result<DeltaProperties> {
        let mut fields = Fields(bytes, 0);
        let (events, rows, time_ms) = (fields.varint()?, fields.varint()?, fields.varint()?);
        let mut chapters = Vec::new();
        for _ in 0..fields.varint()? {
            chapters.push(SchemaEntry {
                seq: fields.varint()?,
                time_ms: fields.varint()?,
                actor: fields.text()?,
                reason: fields.text()?,
                document: fields.document()?,
            });
        }
        fields.finish()?;
        Ok(DeltaProperties { events, rows, time_ms, chapters })
    }
}

#[cfg(test)]
mod tests;
