//! What an event does to a row. This is the only place that decides it: the writer, readers and recovery all call it.

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::event::EventType;

/// Returns the row after an event; `None` if the row is deleted.
///
/// `apply` does not check whether the event is allowed: the writer has checked that before it wrote the event. Fails with
/// CORRUPT if a PATCH finds no row.
pub fn apply(
    before: Option<&Document>,
    kind: EventType,
    payload: Option<&Document>,
) -> Result<Option<Document>> {
    match (kind, payload) {
        (EventType::Insert, Some(document)) => Ok(Some(document.clone())),
        (EventType::Patch, Some(patch)) => match before {
            Some(before) => before.merge(patch).map(Some),
            None => Err(Error::new(Reason::Corrupt, "a PATCH of a row that does not exist")),
        },
        (EventType::SoftDelete, _) => Ok(None),
        (EventType::Schema | EventType::Floor | EventType::Keep | EventType::Note, _) | (_, None) => {
            Err(Error::new(Reason::Internal, "an event that changes no row was applied to a row"))
        }
    }
}
