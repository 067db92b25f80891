//! The only `apply`: what an event makes of a row. Writer, readers and recovery all call it.

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::event::EventType;

/// The row after an event; `None` where there is no live row then.
///
/// Whether the event may happen is not asked here: the writer has asked before it wrote it.
pub fn apply(
    before: Option<&Document>,
    kind: EventType,
    payload: Option<&Document>,
) -> Result<Option<Document>> {
    match (kind, payload) {
        (EventType::Insert, Some(document)) => Ok(Some(document.clone())),
        (EventType::Patch, Some(patch)) => match before {
            Some(before) => before.merge(patch).map(Some),
            None => Err(Error::new(Reason::Corrupt, "a patch of a row that is not there")),
        },
        (EventType::SoftDelete, _) => Ok(None),
        (EventType::Schema | EventType::Floor | EventType::Keep | EventType::Note, _) | (_, None) => {
            Err(Error::new(Reason::Internal, "an event that changes no row was applied to one"))
        }
    }
}
