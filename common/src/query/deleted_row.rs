//! A soft-deleted row as `SELECT … DELETED` reads it: its last document, with when, by whom and why it was deleted.
//!
//! These are ordinary fields of the document that is read, so that conditions, projections and aggregates treat them as any other field. A field
//! of the row's own with such a name is hidden.

use crate::error::Result;
use crate::format::document::Document;
use crate::format::msgpack;
use crate::format::principal_text::actor_of;
use crate::table::format_time;
use crate::table::row_spans::RowDeletion;

/// The commit that deleted the row.
pub const SEQ: &str = "_deleted_seq";
/// Its time.
pub const TIME: &str = "_deleted_time";
/// Who made it.
pub const ACTOR: &str = "_deleted_by";
/// Why it was made.
pub const REASON: &str = "_deleted_reason";

/// The row's last document with the fields of its deletion after its own.
pub(crate) fn with_deletion(document: &Document, deletion: &RowDeletion) -> Result<Document> {
    let fields = msgpack::fields(document.msgpack())?;
    let own = || fields.iter().filter(|(name, _)| ![SEQ, TIME, ACTOR, REASON].contains(name));
    let mut out = Vec::with_capacity(document.msgpack().len() + 128);
    msgpack::write_map_len(&mut out, own().count() + 4);
    for (name, value) in own() {
        msgpack::write_str(&mut out, name);
        out.extend_from_slice(value);
    }
    msgpack::write_str(&mut out, SEQ);
    msgpack::write_uint(&mut out, deletion.seq);
    for (name, value) in [
        (TIME, format_time(deletion.time_ms)),
        (ACTOR, actor_of(&deletion.actor).to_owned()),
        (REASON, deletion.reason.clone()),
    ] {
        msgpack::write_str(&mut out, name);
        msgpack::write_str(&mut out, &value);
    }
    Ok(Document::trusted(out.into()))
}
