//! The event: one immutable change, and the metadata of its commit.

use bytes::Bytes;

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::key::Key;
use crate::format::msgpack::{self, MsgpackItem, MsgpackReader};

/// The type of a frame. The numbers are part of the disk format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Creates a row, or replaces it as a whole.
    Insert,
    /// Applies a merge patch to a row.
    Patch,
    /// Deletes a row. Its history stays.
    SoftDelete,
    /// Creates, alters or drops a table.
    Schema,
    /// Starts a compaction base: see [`compaction_base`](crate::format::compaction_base). Always the first frame of its
    /// segment.
    Floor,
    /// Requests and producers in a compaction base, whose commits compaction has discarded.
    Keep,
    /// A commit without operations: a mark in the history. It is in the log of the oldest table.
    Note,
}

impl EventType {
    /// The byte in a frame.
    pub const fn to_byte(self) -> u8 {
        match self {
            EventType::Insert => 1,
            EventType::Patch => 2,
            EventType::SoftDelete => 3,
            EventType::Schema => 4,
            EventType::Floor => 5,
            EventType::Keep => 6,
            EventType::Note => 7,
        }
    }

    /// The type with this byte; `None` if the byte is unknown.
    pub const fn from_byte(byte: u8) -> Option<EventType> {
        Some(match byte {
            1 => EventType::Insert,
            2 => EventType::Patch,
            3 => EventType::SoftDelete,
            4 => EventType::Schema,
            5 => EventType::Floor,
            6 => EventType::Keep,
            7 => EventType::Note,
            _ => return None,
        })
    }
}

/// What is known of how an event came about. Older logs and layers have no marks: nothing is known then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventMarks {
    /// An INSERT replaced a live row.
    pub replaces: bool,
    /// A REVERT wrote the row as it had been.
    pub reverts: bool,
}

impl From<bool> for EventMarks {
    /// The marks of an event that replaced a live row, or did not.
    fn from(replaces: bool) -> EventMarks {
        EventMarks { replaces, reverts: false }
    }
}

/// Who made a commit, and why. The commit's first frame in each table contains it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommitMeta {
    /// Who made the commit, as the client said; may be empty.
    pub actor: String,
    /// The reason that the client gave; may be empty.
    pub reason: String,
    /// The request id, if the client gave one.
    pub request: Option<RequestId>,
    /// The position in a producer's stream, if the commit came through Ingest from a named producer.
    pub origin: Option<IngestOrigin>,
}

/// A request id that the client chose. A retry with the same id gets the first answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId {
    /// The id, 1 to 128 bytes.
    pub id: String,
    /// A hash of the request's content, to distinguish a retry from another request with the same id.
    pub fingerprint: [u8; 16],
}

/// The position of a commit in a producer's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestOrigin {
    /// The producer's name.
    pub producer: String,
    /// The number of the batch, from 1.
    pub batch: u64,
    /// The index in the batch of the last operation that the commit contains, from 0.
    pub operation: u32,
    /// Whether this is the last commit of the batch: all later operations were refused, or none exist.
    pub ends: bool,
}

/// The size of a commit. The commit's first frame in each table contains it, so that readers know when a commit is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitShape {
    /// The commit's frames in all tables.
    pub frames: u32,
    /// The commit's frames in this table.
    pub frames_in_table: u32,
}

impl CommitShape {
    /// A commit of one frame.
    pub const SINGLE: CommitShape = CommitShape { frames: 1, frames_in_table: 1 };
}

/// An event, decoded from the payload of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The type of the event.
    pub kind: EventType,
    /// The row's key; `None` for SCHEMA and NOTE.
    pub key: Option<Key>,
    /// The document of an INSERT, the merge patch of a PATCH, the schema of a SCHEMA; `None` for SOFT_DELETE and NOTE.
    pub document: Option<Document>,
    /// How the event came about.
    pub marks: EventMarks,
    /// The commit's shape in the commit's first frame in a table; [`CommitShape::SINGLE`] in later frames.
    pub shape: CommitShape,
    /// The commit's metadata; `None` if it is empty, and in frames after the commit's first in the table.
    pub meta: Option<Box<CommitMeta>>,
    /// The last published seq when the group was written. Only the first frame that a group writes to a segment has it.
    pub published: Option<u64>,
}

/// Appends the payload of an event.
///
/// With `first_of_commit` the payload contains the commit's shape and metadata. With `first_of_group` it reserves eight bytes
/// for the last published seq, and the function returns their position in `out`.
pub fn encode(
    out: &mut Vec<u8>,
    key: Option<&Key>,
    document: Option<&Document>,
    marks: impl Into<EventMarks>,
    first_of_commit: Option<(CommitShape, &CommitMeta)>,
    first_of_group: bool,
) -> Option<usize> {
    let EventMarks { replaces, reverts } = marks.into();
    let (shape, meta) = match first_of_commit {
        Some((shape, meta)) => (shape, Some(meta)),
        None => (CommitShape::SINGLE, None),
    };
    let actor = meta.map(|meta| meta.actor.as_str()).filter(|actor| !actor.is_empty());
    let reason = meta.map(|meta| meta.reason.as_str()).filter(|reason| !reason.is_empty());
    let request = meta.and_then(|meta| meta.request.as_ref());
    let origin = meta.and_then(|meta| meta.origin.as_ref());
    let fields = usize::from(first_of_group)
        + usize::from(shape.frames > 1)
        + usize::from(shape.frames_in_table > 1)
        + usize::from(actor.is_some())
        + usize::from(reason.is_some())
        + 2 * usize::from(request.is_some())
        + 3 * usize::from(origin.is_some())
        + usize::from(origin.is_some_and(|origin| origin.ends))
        + usize::from(replaces)
        + usize::from(reverts)
        + usize::from(key.is_some())
        + usize::from(document.is_some());
    msgpack::write_map_len(out, fields);
    let mut published_at = None;
    if first_of_group {
        msgpack::write_str(out, "h");
        published_at = Some(out.len() + 1);
        msgpack::write_fixed_u64(out, 0);
    }
    for (name, frames) in [("n", shape.frames), ("m", shape.frames_in_table)] {
        if frames > 1 {
            msgpack::write_str(out, name);
            msgpack::write_uint(out, frames.into());
        }
    }
    for (name, text) in [("a", actor), ("w", reason)] {
        if let Some(text) = text {
            msgpack::write_str(out, name);
            msgpack::write_str(out, text);
        }
    }
    if let Some(RequestId { id, fingerprint }) = request {
        msgpack::write_str(out, "r");
        msgpack::write_str(out, id);
        msgpack::write_str(out, "f");
        msgpack::write_bin(out, fingerprint);
    }
    if let Some(IngestOrigin { producer, batch, operation, ends }) = origin {
        msgpack::write_str(out, "p");
        msgpack::write_str(out, producer);
        msgpack::write_str(out, "b");
        msgpack::write_uint(out, *batch);
        msgpack::write_str(out, "j");
        msgpack::write_uint(out, (*operation).into());
        if *ends {
            msgpack::write_str(out, "e");
            msgpack::write_bool(out, true);
        }
    }
    for (name, mark) in [("u", replaces), ("v", reverts)] {
        if mark {
            msgpack::write_str(out, name);
            msgpack::write_bool(out, true);
        }
    }
    if let Some(key) = key {
        msgpack::write_str(out, "k");
        key.encode(out);
    }
    if let Some(document) = document {
        msgpack::write_str(out, "d");
        out.extend_from_slice(document.msgpack());
    }
    published_at
}

/// Decodes the payload of an event. The document shares the memory of `payload`. Skips unknown fields.
///
/// Fails if the fields do not fit the type `kind`.
pub fn decode(kind: EventType, payload: &Bytes) -> Result<Event> {
    let mut event = Event {
        kind,
        key: None,
        document: None,
        marks: EventMarks::default(),
        shape: CommitShape::SINGLE,
        meta: None,
        published: None,
    };
    let mut meta = CommitMeta::default();
    let mut request = RequestId { id: String::new(), fingerprint: [0; 16] };
    let mut origin = IngestOrigin { producer: String::new(), batch: 0, operation: 0, ends: false };
    let mut reader = MsgpackReader::new(payload);
    for _ in 0..reader.map()? {
        match reader.str()? {
            "k" => event.key = Some(Key::decode(&mut reader)?),
            "d" => {
                let document = reader.value()?;
                event.document = Some(Document::trusted(payload.slice_ref(document)));
            }
            "h" => event.published = Some(reader.uint()?),
            "n" => event.shape.frames = frame_count(&mut reader)?,
            "m" => event.shape.frames_in_table = frame_count(&mut reader)?,
            "a" => meta.actor = reader.str()?.to_owned(),
            "w" => meta.reason = reader.str()?.to_owned(),
            "r" => request.id = reader.str()?.to_owned(),
            "f" => request.fingerprint = reader.bin()?,
            "p" => origin.producer = reader.str()?.to_owned(),
            "b" => origin.batch = reader.uint()?,
            "j" => {
                origin.operation = u32::try_from(reader.uint()?)
                    .map_err(|_| corrupt("an operation index is out of range"))?
            }
            "u" => event.marks.replaces = reader.token()? == MsgpackItem::Bool(true),
            "v" => event.marks.reverts = reader.token()? == MsgpackItem::Bool(true),
            "e" => origin.ends = reader.token()? == MsgpackItem::Bool(true),
            _ => {
                reader.value()?;
            }
        }
    }
    reader.finish()?;
    let is_complete = match kind {
        EventType::Insert | EventType::Patch => event.key.is_some() && event.document.is_some(),
        EventType::SoftDelete => event.key.is_some() && event.document.is_none(),
        EventType::Schema => event.key.is_none() && event.document.is_some(),
        EventType::Note => event.key.is_none() && event.document.is_none(),
        EventType::Floor | EventType::Keep => {
            return Err(corrupt("a FLOOR or KEEP frame outside a compaction base"));
        }
    };
    if !is_complete {
        return Err(corrupt("its fields do not fit its event type"));
    }
    if event.shape.frames_in_table > event.shape.frames {
        return Err(corrupt("the commit has more frames in this table than in all tables"));
    }
    meta.request = Some(request).filter(|request| !request.id.is_empty());
    meta.origin = Some(origin).filter(|origin| !origin.producer.is_empty());
    if meta != CommitMeta::default() {
        event.meta = Some(Box::new(meta));
    }
    Ok(event)
}

fn corrupt(what: &str) -> Error {
    Error::new(Reason::Corrupt, format!("invalid event payload: {what}"))
}

fn frame_count(reader: &mut MsgpackReader<'_>) -> Result<u32> {
    u32::try_from(reader.uint()?)
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| corrupt("a number of frames is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_round_trips() {
        let document = Document::from_json(r#"{"id":"a","n":1}"#).unwrap();
        let key = Key::Str("a".into());
        let request = Some(RequestId { id: "req-1".into(), fingerprint: [0xab; 16] });
        let origin =
            Some(IngestOrigin { producer: "loader".into(), batch: 9, operation: 70_000, ends: true });
        let meta = CommitMeta { actor: "ops".into(), reason: "import".into(), request, origin };
        let shape = CommitShape { frames: 3, frames_in_table: 2 };
        let mut out = Vec::new();
        let at = encode(&mut out, Some(&key), Some(&document), true, Some((shape, &meta)), true).unwrap();
        out[at..at + 8].copy_from_slice(&77u64.to_be_bytes());
        let event = decode(EventType::Insert, &Bytes::from(out)).unwrap();
        assert_eq!((event.published, event.marks.replaces), (Some(77), true));
        assert_eq!((event.key, event.document), (Some(key), Some(document)));
        assert_eq!((event.shape, event.meta), (shape, Some(Box::new(meta))));
    }

    #[test]
    fn an_event_without_a_required_field_is_refused() {
        let key = Key::Int(4);
        let mut out = Vec::new();
        encode(&mut out, Some(&key), None, false, None, false);
        let payload = Bytes::from(out);
        assert!(decode(EventType::SoftDelete, &payload).is_ok());
        assert!(decode(EventType::Insert, &payload).is_err());
        assert!(decode(EventType::Schema, &payload).is_err());
    }
}
