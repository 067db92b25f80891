//! The event: one immutable change, and what its commit carries along with it.

use bytes::Bytes;

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::key::Key;
use crate::format::msgpack::{self, MsgpackItem, MsgpackReader};

/// What kind of event a frame holds. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// A row made, or replaced as a whole.
    Insert,
    /// A merge patch of a row.
    Patch,
    /// A row taken away; its past stays.
    SoftDelete,
    /// A table created, altered or dropped.
    Schema,
    /// What the frames after it are: a table's state, folded by compaction. It stands first in its segment.
    Floor,
    /// Requests and producers that compaction kept, though their commits are gone.
    Keep,
    /// A commit that changes nothing: a mark in the history. It stands in the log of the oldest table.
    Note,
}

impl EventType {
    /// The byte that frames hold.
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

    /// The type that a byte stands for.
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

/// Who made a commit and why. Kept in the commit's first frame in each table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommitMeta {
    /// The authenticated principal, or empty.
    pub actor: String,
    /// Why: as the client gave it, or empty.
    pub reason: String,
    /// The client's name for the request, where it gave one.
    pub request: Option<RequestId>,
    /// Where in a producer's stream it came from, where it came by one.
    pub origin: Option<IngestOrigin>,
}

/// A client's name for a request: a retry with it answers as the first did.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId {
    /// The id, of the client's choice.
    pub id: String,
    /// A hash of what was asked, to tell a retry from another request.
    pub fingerprint: [u8; 16],
}

/// Where in a producer's stream a commit came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestOrigin {
    /// The producer's name.
    pub producer: String,
    /// The batch, from 1.
    pub batch: u64,
    /// The last of the batch's operations that the commit holds, from 0.
    pub operation: u32,
    /// No later operation of the batch was committed: the others were refused, or there are none.
    pub ends: bool,
}

/// What a commit's first frame in a table says of the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitShape {
    /// Frames of the commit in all tables.
    pub frames: u32,
    /// Frames of the commit in this table.
    pub frames_in_table: u32,
}

impl CommitShape {
    /// A commit of one frame.
    pub const SINGLE: CommitShape = CommitShape { frames: 1, frames_in_table: 1 };
}

/// An event as a frame's payload holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What kind of change it is.
    pub kind: EventType,
    /// The row's key; none for SCHEMA and NOTE.
    pub key: Option<Key>,
    /// The whole document for INSERT, the merge patch for PATCH, the schema for SCHEMA; none
    /// for SOFT_DELETE and NOTE.
    pub document: Option<Document>,
    /// INSERT: the row was live, and is replaced. Not said by every log: where it is not, the row may have been.
    pub replaces: bool,
    /// The commit's shape, as its first frame in a table tells it; [`CommitShape::SINGLE`] in frames after the first.
    pub shape: CommitShape,
    /// Who and why, where the commit's first frame says.
    pub meta: Option<Box<CommitMeta>>,
    /// The last published seq when the group was written: in the first frame of each segment's part of a group.
    pub published: Option<u64>,
}

/// Appends an event's payload. With `first_of_commit` it carries the commit's shape and meta. With `first_of_group`
/// eight bytes are left for the last published seq, and their position is returned.
pub fn encode(
    out: &mut Vec<u8>,
    key: Option<&Key>,
    document: Option<&Document>,
    replaces: bool,
    first_of_commit: Option<(CommitShape, &CommitMeta)>,
    first_of_group: bool,
) -> Option<usize> {
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
    if replaces {
        msgpack::write_str(out, "u");
        msgpack::write_bool(out, true);
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

/// Reads an event's payload. The document shares the payload's bytes. Unknown fields are passed over.
pub fn decode(kind: EventType, payload: &Bytes) -> Result<Event> {
    let invalid = |what: &str| Error::new(Reason::Corrupt, format!("an event's payload: {what}"));
    let mut event = Event {
        kind,
        key: None,
        document: None,
        replaces: false,
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
            "h" => event.published = Some(uint(&mut reader)?),
            "n" => event.shape.frames = count(&mut reader)?,
            "m" => event.shape.frames_in_table = count(&mut reader)?,
            "a" => meta.actor = reader.str()?.to_owned(),
            "w" => meta.reason = reader.str()?.to_owned(),
            "r" => request.id = reader.str()?.to_owned(),
            "f" => request.fingerprint = reader.bin()?,
            "p" => origin.producer = reader.str()?.to_owned(),
            "b" => origin.batch = uint(&mut reader)?,
            "j" => {
                origin.operation =
                    u32::try_from(uint(&mut reader)?).map_err(|_| invalid("an operation's position"))?
            }
            "u" => event.replaces = reader.token()? == MsgpackItem::Bool(true),
            "e" => origin.ends = reader.token()? == MsgpackItem::Bool(true),
            _ => {
                reader.value()?;
            }
        }
    }
    reader.finish()?;
    let whole = match kind {
        EventType::Insert | EventType::Patch => event.key.is_some() && event.document.is_some(),
        EventType::SoftDelete => event.key.is_some() && event.document.is_none(),
        EventType::Schema => event.key.is_none() && event.document.is_some(),
        EventType::Note => event.key.is_none() && event.document.is_none(),
        // They are no events: see `format::folded`.
        EventType::Floor | EventType::Keep => {
            return Err(invalid("it is no event, but a part of a folded state"));
        }
    };
    if !whole {
        return Err(invalid("it lacks what its type needs"));
    }
    if event.shape.frames_in_table > event.shape.frames {
        return Err(invalid("more frames in one table than in all"));
    }
    meta.request = Some(request).filter(|request| !request.id.is_empty());
    meta.origin = Some(origin).filter(|origin| !origin.producer.is_empty());
    if meta != CommitMeta::default() {
        event.meta = Some(Box::new(meta));
    }
    Ok(event)
}

fn uint(reader: &mut MsgpackReader<'_>) -> Result<u64> {
    match reader.token()? {
        MsgpackItem::Int(int) => u64::try_from(int).ok(),
        _ => None,
    }
    .ok_or_else(|| Error::new(Reason::Corrupt, "an event's payload: expected a whole number"))
}

fn count(reader: &mut MsgpackReader<'_>) -> Result<u32> {
    u32::try_from(uint(reader)?)
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| Error::new(Reason::Corrupt, "an event's payload: a count out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
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
        assert_eq!((event.published, event.replaces), (Some(77), true));
        assert_eq!((event.key, event.document), (Some(key), Some(document)));
        assert_eq!((event.shape, event.meta), (shape, Some(Box::new(meta))));
    }

    #[test]
    fn an_event_that_lacks_a_part_is_refused() {
        let key = Key::Int(4);
        let mut out = Vec::new();
        encode(&mut out, Some(&key), None, false, None, false);
        let payload = Bytes::from(out);
        assert!(decode(EventType::SoftDelete, &payload).is_ok());
        assert!(decode(EventType::Insert, &payload).is_err());
        assert!(decode(EventType::Schema, &payload).is_err());
    }
}
