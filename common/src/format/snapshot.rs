//! The entries of snapshot files (delta and image layers) and of their index files, and the keys of those entries.

use bytes::Bytes;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::event::{EventMarks, EventType, IngestOrigin, RequestId};
use crate::format::varint;

mod entry_reader;

use entry_reader::{EntryReader, corrupt};

/// The ids of the trees in a snapshot or index file.
pub mod tree {
    /// In a delta layer, every event of every row: row key, seq and index in the commit → [`super::VersionEntry`].
    pub const VERSIONS: u8 = 1;
    /// In a delta layer, every commit: time and seq → [`super::CommitEntry`].
    pub const COMMITS: u8 = 2;
    /// In a delta layer, commits whose client gave a request id: seq → [`super::RequestEntry`].
    pub const REQUESTS: u8 = 3;
    /// In a delta layer, the newest position of each producer's stream: producer name → [`super::ProducerEntry`].
    pub const PRODUCERS: u8 = 4;
    /// In an image layer, live rows: row key → [`super::RowEntry`].
    pub const ROWS: u8 = 5;
    /// In an index, candidate rows: value and row key → [`super::CandidateEntry`].
    pub const CANDIDATES: u8 = 6;
}

/// The kinds of snapshot and index files, as [`SstIdentity`](crate::format::sst::SstIdentity) contains them.
pub mod kind {
    /// An image layer: all live rows after one commit.
    pub const IMAGE: u8 = 1;
    /// A delta layer: every event after one commit, up to and including another.
    pub const DELTA: u8 = 2;
    /// An index of an image layer.
    pub const IMAGE_INDEX: u8 = 3;
    /// An index of a delta layer.
    pub const DELTA_INDEX: u8 = 4;
}

/// One event of a row, in a delta layer.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionEntry {
    /// The type of the event: INSERT, PATCH or SOFT_DELETE.
    pub kind: EventType,
    /// The commit's time in milliseconds since 1970.
    pub time_ms: u64,
    /// Who made the commit; may be empty.
    pub actor: String,
    /// Why the commit was made; may be empty.
    pub reason: String,
    /// The document of an INSERT, the merge patch of a PATCH; `None` for SOFT_DELETE.
    pub payload: Option<Document>,
    /// The row after a PATCH. Only some patches of a row have it: as many as keep reading the row cheap.
    pub image: Option<Document>,
    /// How the event came about.
    pub marks: EventMarks,
}

/// One change that a commit made in a table.
#[derive(Debug, Clone, PartialEq)]
pub enum TableChange {
    /// It changed the row with this sort key.
    Row(Bytes),
    /// It changed the schema: the SCHEMA event's document, and whether the change removed all rows.
    Schema(Document, bool),
}

/// What one commit did in a table, in a delta layer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CommitEntry {
    /// Events in the table since its creation, up to and including this commit.
    pub events: u64,
    /// Live rows after the commit.
    pub rows: u64,
    /// Who made the commit; may be empty.
    pub actor: String,
    /// Why the commit was made; may be empty.
    pub reason: String,
    /// The changes, in the order of the commit's operations.
    pub changes: Vec<TableChange>,
}

/// The request that a commit answered, so that a retry gets the same answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestEntry {
    /// The commit's time in milliseconds since 1970.
    pub time_ms: u64,
    /// The request's id and fingerprint.
    pub request: RequestId,
}

/// The newest committed position of a producer's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerEntry {
    /// The commit that reached the position.
    pub seq: u64,
    /// The position in the stream.
    pub origin: IngestOrigin,
}

/// A live row, in an image layer.
#[derive(Debug, Clone, PartialEq)]
pub struct RowEntry {
    /// The commit that last changed the row.
    pub seq: u64,
    /// That commit's time in milliseconds since 1970.
    pub time_ms: u64,
    /// The row's document.
    pub document: Document,
}

/// The range of commits after which a row may have an indexed value, within the layer that the index belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CandidateEntry {
    /// The first commit that gave the row the value.
    pub first: u64,
    /// The commit that last removed the value; 0 if the row has the value at the end of the layer.
    pub until: u64,
}

/// The key of a commit in its tree. Time and seq increase together, so the tree can be searched by either.
pub(crate) fn commit_key(time_ms: u64, seq: u64) -> [u8; 16] {
    (u128::from(time_ms) << 64 | u128::from(seq)).to_be_bytes()
}

/// The time and seq in the key of a commit; `None` if the key has another length.
pub(crate) fn read_commit_key(key: &[u8]) -> Option<(u64, u64)> {
    let (time, rest) = key.split_first_chunk::<8>()?;
    let seq: &[u8; 8] = rest.try_into().ok()?;
    Some((u64::from_be_bytes(*time), u64::from_be_bytes(*seq)))
}

/// Turns a row's sort key into the key of one of its versions: appends the seq and the event's index in the commit.
pub fn push_version(out: &mut Vec<u8>, seq: u64, index: u32) {
    out.extend_from_slice(&seq.to_be_bytes());
    out.extend_from_slice(&index.to_be_bytes());
}

/// The row's sort key, the seq, and the index in the commit, from the key of a version; `None` if the key is too short.
pub fn read_version(key: &[u8]) -> Option<(&[u8], u64, u32)> {
    let (rest, index) = key.split_last_chunk::<4>()?;
    let (row, seq) = rest.split_last_chunk::<8>()?;
    Some((row, u64::from_be_bytes(*seq), u32::from_be_bytes(*index)))
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::write(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

const PAYLOAD: u8 = 1;
const IMAGE: u8 = 2;
const META: u8 = 4;
const REPLACES: u8 = 8;
const REVERTS: u8 = 16;

/// Appends the bytes of a version's entry: its type with its marks, its time, its actor and reason, its payload and its image.
pub(crate) fn encode_version(
    out: &mut Vec<u8>,
    (kind, marks): (EventType, EventMarks),
    time_ms: u64,
    (actor, reason): (&str, &str),
    (payload, image): (Option<&Document>, Option<&Document>),
) {
    let meta = !actor.is_empty() || !reason.is_empty();
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.push(kind.to_byte());
    let marked = flag(marks.replaces, REPLACES) | flag(marks.reverts, REVERTS);
    out.push(flag(payload.is_some(), PAYLOAD) | flag(image.is_some(), IMAGE) | flag(meta, META) | marked);
    varint::write(out, time_ms);
    if meta {
        write_bytes(out, actor.as_bytes());
        write_bytes(out, reason.as_bytes());
    }
    for document in [payload, image].into_iter().flatten() {
        write_bytes(out, document.msgpack());
    }
}

impl VersionEntry {
    /// Appends the entry's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let documents = (self.payload.as_ref(), self.image.as_ref());
        encode_version(out, (self.kind, self.marks), self.time_ms, (&self.actor, &self.reason), documents);
    }

    /// Decodes an entry. Its documents share the memory of `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<VersionEntry> {
        let mut fields = EntryReader::new(bytes);
        let kind =
            EventType::from_byte(fields.byte()?).ok_or_else(|| corrupt("its event type is unknown"))?;
        let flags = fields.byte()?;
        let time_ms = fields.varint()?;
        let (mut actor, mut reason) = (String::new(), String::new());
        if flags & META != 0 {
            (actor, reason) = (fields.text()?, fields.text()?);
        }
        let payload = if flags & PAYLOAD != 0 { Some(fields.document()?) } else { None };
        let image = if flags & IMAGE != 0 { Some(fields.document()?) } else { None };
        fields.finish()?;
        let is_complete = match kind {
            EventType::Insert => payload.is_some() && image.is_none(),
            EventType::Patch => payload.is_some(),
            EventType::SoftDelete => payload.is_none() && image.is_none(),
            _ => false,
        };
        if !is_complete {
            return Err(corrupt("its fields do not fit its event type"));
        }
        let marks = EventMarks { replaces: flags & REPLACES != 0, reverts: flags & REVERTS != 0 };
        Ok(VersionEntry { kind, time_ms, actor, reason, payload, image, marks })
    }
}

const CHANGE_ROW: u8 = 0;
const CHANGE_SCHEMA: u8 = 1;
const CHANGE_SCHEMA_EMPTIED: u8 = 2;

/// A [`TableChange`] that is only referred to.
pub(crate) enum ChangeRef<'a> {
    Row(&'a [u8]),
    Schema(&'a Document, bool),
}

/// Appends the bytes of a commit's entry: the table's events and live rows after it, its actor and reason, and its changes.
pub(crate) fn encode_commit<'a>(
    out: &mut Vec<u8>,
    (events, rows): (u64, u64),
    (actor, reason): (&str, &str),
    changes: impl ExactSizeIterator<Item = ChangeRef<'a>>,
) {
    varint::write(out, events);
    varint::write(out, rows);
    write_bytes(out, actor.as_bytes());
    write_bytes(out, reason.as_bytes());
    varint::write(out, changes.len() as u64);
    for change in changes {
        match change {
            ChangeRef::Row(key) => {
                out.push(CHANGE_ROW);
                write_bytes(out, key);
            }
            ChangeRef::Schema(document, emptied) => {
                out.push(if emptied { CHANGE_SCHEMA_EMPTIED } else { CHANGE_SCHEMA });
                write_bytes(out, document.msgpack());
            }
        }
    }
}

impl CommitEntry {
    /// Appends the entry's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let changes = self.changes.iter().map(|change| match change {
            TableChange::Row(key) => ChangeRef::Row(key),
            TableChange::Schema(document, emptied) => ChangeRef::Schema(document, *emptied),
        });
        encode_commit(out, (self.events, self.rows), (&self.actor, &self.reason), changes);
    }

    /// Decodes only the counts: events and rows.
    pub(crate) fn decode_counts(bytes: &Bytes) -> Result<(u64, u64)> {
        let mut fields = EntryReader::new(bytes);
        Ok((fields.varint()?, fields.varint()?))
    }

    /// Decodes an entry.
    pub fn decode(bytes: &Bytes) -> Result<CommitEntry> {
        let mut fields = EntryReader::new(bytes);
        let (events, rows) = (fields.varint()?, fields.varint()?);
        let (actor, reason) = (fields.text()?, fields.text()?);
        let mut changes = Vec::new();
        for _ in 0..fields.varint()? {
            changes.push(match fields.byte()? {
                CHANGE_ROW => TableChange::Row(fields.bytes()?),
                CHANGE_SCHEMA => TableChange::Schema(fields.document()?, false),
                CHANGE_SCHEMA_EMPTIED => TableChange::Schema(fields.document()?, true),
                _ => return Err(corrupt("a change of a commit has an unknown type")),
            });
        }
        fields.finish()?;
        Ok(CommitEntry { events, rows, actor, reason, changes })
    }
}

impl RequestEntry {
    /// Appends the entry's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        varint::write(out, self.time_ms);
        out.extend_from_slice(&self.request.fingerprint);
        out.extend_from_slice(self.request.id.as_bytes());
    }

    /// Decodes an entry.
    pub fn decode(bytes: &Bytes) -> Result<RequestEntry> {
        let mut fields = EntryReader::new(bytes);
        let time_ms = fields.varint()?;
        let rest = fields.rest();
        let (fingerprint, id) = rest.split_first_chunk::<16>().ok_or_else(|| corrupt("it is cut short"))?;
        let id = std::str::from_utf8(id).map_err(|_| corrupt("a text is not UTF-8"))?.to_owned();
        Ok(RequestEntry { time_ms, request: RequestId { id, fingerprint: *fingerprint } })
    }
}

impl ProducerEntry {
    /// Appends the entry's bytes, without the producer's name, which is the entry's key.
    pub fn encode(&self, out: &mut Vec<u8>) {
        varint::write(out, self.seq);
        varint::write(out, self.origin.batch);
        varint::write(out, self.origin.operation.into());
        out.push(u8::from(self.origin.ends));
    }

    /// Decodes the entry with the key `producer`.
    pub fn decode(producer: &[u8], bytes: &Bytes) -> Result<ProducerEntry> {
        let mut fields = EntryReader::new(bytes);
        let (seq, batch) = (fields.varint()?, fields.varint()?);
        let operation =
            u32::try_from(fields.varint()?).map_err(|_| corrupt("an operation index is out of range"))?;
        let ends = fields.byte()? != 0;
        fields.finish()?;
        let producer = std::str::from_utf8(producer).map_err(|_| corrupt("a text is not UTF-8"))?;
        Ok(ProducerEntry {
            seq,
            origin: IngestOrigin { producer: producer.to_owned(), batch, operation, ends },
        })
    }
}

impl RowEntry {
    /// Appends the entry's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        varint::write(out, self.seq);
        varint::write(out, self.time_ms);
        out.extend_from_slice(self.document.msgpack());
    }

    /// Decodes an entry. Its document shares the memory of `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<RowEntry> {
        let mut fields = EntryReader::new(bytes);
        let (seq, time_ms) = (fields.varint()?, fields.varint()?);
        Ok(RowEntry { seq, time_ms, document: Document::trusted(fields.rest()) })
    }
}

impl CandidateEntry {
    /// Appends the entry's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        varint::write(out, self.first);
        varint::write(out, self.until);
    }

    /// Decodes an entry.
    pub fn decode(bytes: &[u8]) -> Result<CandidateEntry> {
        let read = |bytes| varint::read(bytes).ok_or_else(|| corrupt("it contains an invalid varint"));
        let (first, rest) = read(bytes)?;
        let (until, rest) = read(rest)?;
        match rest.len() {
            0 => Ok(CandidateEntry { first, until }),
            left => Err(corrupt(&format!("{left} bytes follow its last field"))),
        }
    }

    /// Whether the row may have the value after commit `seq`, which the layer must contain.
    pub(crate) fn may_hold_at(&self, seq: u64) -> bool {
        self.first <= seq && (self.until == 0 || seq < self.until)
    }

    /// Whether the row may have had the value after commit `after`, or after a later one up to and including commit `last`, or
    /// between two events of such a later one.
    pub(crate) fn may_hold_within(&self, after: u64, last: u64) -> bool {
        self.first <= last && (self.until == 0 || after < self.until)
    }
}

/// The properties of a delta layer: the table at the end of the layer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeltaProperties {
    /// Events since the table's creation.
    pub events: u64,
    /// Live rows.
    pub rows: u64,
    /// The time of the layer's last commit, in milliseconds since 1970.
    pub time_ms: u64,
    /// Every SCHEMA event of the table so far, oldest first.
    pub schema_entries: Vec<SchemaEntry>,
}

/// A SCHEMA event.
#[derive(Debug, Clone, PartialEq)]
pub struct SchemaEntry {
    /// The commit that contains the event.
    pub seq: u64,
    /// The commit's time in milliseconds since 1970.
    pub time_ms: u64,
    /// Who made the commit; may be empty.
    pub actor: String,
    /// Why the commit was made; may be empty.
    pub reason: String,
    /// The event's document.
    pub document: Document,
}

impl DeltaProperties {
    /// Encodes the properties.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for number in [self.events, self.rows, self.time_ms, self.schema_entries.len() as u64] {
            varint::write(&mut out, number);
        }
        for schema_entry in &self.schema_entries {
            varint::write(&mut out, schema_entry.seq);
            varint::write(&mut out, schema_entry.time_ms);
            write_bytes(&mut out, schema_entry.actor.as_bytes());
            write_bytes(&mut out, schema_entry.reason.as_bytes());
            write_bytes(&mut out, schema_entry.document.msgpack());
        }
        out
    }

    /// Decodes the properties.
    pub fn decode(bytes: &Bytes) -> Result<DeltaProperties> {
        let mut fields = EntryReader::new(bytes);
        let (events, rows, time_ms) = (fields.varint()?, fields.varint()?, fields.varint()?);
        let mut schema_entries = Vec::new();
        for _ in 0..fields.varint()? {
            schema_entries.push(SchemaEntry {
                seq: fields.varint()?,
                time_ms: fields.varint()?,
                actor: fields.text()?,
                reason: fields.text()?,
                document: fields.document()?,
            });
        }
        fields.finish()?;
        Ok(DeltaProperties { events, rows, time_ms, schema_entries })
    }
}

#[cfg(test)]
mod tests;
