//! Estimates of the bytes that documents and changes take in a message.

use driftdb::v1;

/// Estimated bytes of a change, or of a row difference, besides its key and documents.
const ITEM_OVERHEAD_BYTES: usize = 64;

/// Estimated bytes of a document in a message; 0 for none.
pub fn document_size(document: Option<&v1::Document>) -> usize {
    match document.and_then(|document| document.body.as_ref()) {
        Some(v1::document::Body::Json(text)) => text.len(),
        Some(v1::document::Body::Msgpack(bytes)) => bytes.len(),
        None => 0,
    }
}

/// Estimated bytes of a change in a message.
pub fn change_size(change: &v1::Change) -> usize {
    let documents = [&change.payload, &change.before, &change.after];
    ITEM_OVERHEAD_BYTES
        + change.key.len()
        + documents.into_iter().map(|document| document_size(document.as_ref())).sum::<usize>()
}

/// Estimated bytes of a row difference in a message.
pub fn diff_size(row: &v1::RowDiff) -> usize {
    let documents = [&row.before, &row.after];
    ITEM_OVERHEAD_BYTES
        + row.json_patch.len()
        + documents.into_iter().map(|document| document_size(document.as_ref())).sum::<usize>()
}
