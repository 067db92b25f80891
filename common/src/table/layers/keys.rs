//! The keys of a layer's entries: rows by sort key, versions by row and event id, commits by time and seq.

use crate::error::{Error, Reason, Result};
use crate::format::key::{Key, KeyType};
use crate::format::snapshot::{read_commit_key, read_version};
use crate::format::sortkey;
use crate::table::event_id::EventId;

/// A key as bytes that sort as keys do.
pub fn sort_key(key: &Key) -> Vec<u8> {
    let mut out = Vec::new();
    sortkey::write_key(&mut out, key);
    out
}

/// The key that a sort key in a layer was made from. Fails with CORRUPT if the bytes are no sort key of the type.
pub fn read_sort_key(bytes: &[u8], key_type: KeyType) -> Result<Key> {
    match sortkey::read_key(bytes, key_type) {
        Some((key, [])) => Ok(key),
        _ => Err(not_a_key()),
    }
}

/// The error for an entry of a layer or index that should contain a key and does not.
pub(in crate::table) fn not_a_key() -> Error {
    Error::new(Reason::Corrupt, "an entry of a layer contains no valid key")
}

/// The seq in a commit's key.
pub(super) fn commit_seq(key: &[u8]) -> u64 {
    read_commit_key(key).map_or(0, |(_, seq)| seq)
}

/// The event id in a version's key; `None` if the version is another row's.
pub(super) fn version_of(version_key: &[u8], row: &[u8]) -> Option<EventId> {
    let (found, seq, index) = read_version(version_key)?;
    (found == row).then_some(EventId { seq, index })
}

/// Whether a version's key sorts at or before the version that an event made of a row.
pub(super) fn is_at_or_before(version_key: &[u8], row: &[u8], id: EventId) -> bool {
    match read_version(version_key) {
        Some((found, seq, index)) => (found, EventId { seq, index }) <= (row, id),
        None => version_key <= row,
    }
}
