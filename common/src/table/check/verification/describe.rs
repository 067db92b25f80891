//! Describes keys and entries of snapshots for messages.

use crate::format::manifest::Floor;
use crate::format::snapshot::{CommitEntry, ProducerEntry, RequestEntry, read_version};

/// A row, by its sort key, which is mostly readable.
pub(super) fn row(key: &[u8]) -> String {
    format!("row \"{}\"", key.escape_ascii())
}

/// A version of a row, by its key.
pub(super) fn version(key: &[u8]) -> String {
    match read_version(key) {
        Some((key, seq, index)) => format!("version {seq}.{index} of {}", row(key)),
        None => format!("a version with the invalid key \"{}\"", key.escape_ascii()),
    }
}

/// A producer, by its key.
pub(super) fn producer(key: &[u8]) -> String {
    format!("producer \"{}\"", key.escape_ascii())
}

/// The request of a commit, by its key.
pub(super) fn request(key: &[u8]) -> String {
    match key.try_into().map(u64::from_be_bytes) {
        Ok(seq) => format!("the request of commit {seq}"),
        Err(_) => format!("a request with the invalid key \"{}\"", key.escape_ascii()),
    }
}

/// How the request of a commit differs between a layer and the log. `key` is the entry's key.
pub(super) fn request_difference(
    key: &[u8],
    found: Option<&RequestEntry>,
    in_log: Option<&RequestEntry>,
) -> String {
    let describe = |entry: Option<&RequestEntry>| match entry {
        Some(RequestEntry { time_ms, request }) => format!("id {:?} at time {time_ms}", request.id),
        None => "missing".to_owned(),
    };
    let (found, in_log) = (describe(found), describe(in_log));
    let note = if found == in_log { " with another fingerprint" } else { "" };
    format!("{}: {found}, but in the log {in_log}{note}", request(key))
}

/// How the position of a producer differs between a layer and the log. `key` is the entry's key.
pub(super) fn producer_difference(
    key: &[u8],
    found: Option<&ProducerEntry>,
    in_log: Option<&ProducerEntry>,
) -> String {
    let describe = |entry: Option<&ProducerEntry>| match entry {
        Some(ProducerEntry { seq, origin }) => {
            let end = if origin.ends { ", the end of the batch" } else { "" };
            format!("batch {} up to operation {}{end}, in commit {seq}", origin.batch, origin.operation)
        }
        None => "missing".to_owned(),
    };
    format!("{}: {}, but in the log {}", producer(key), describe(found), describe(in_log))
}

/// The counts and metadata of a commit.
pub(super) fn commit_entry(entry: &CommitEntry) -> String {
    let CommitEntry { events, rows, actor, reason, changes } = entry;
    format!("{events} events, {rows} rows, actor {actor:?}, reason {reason:?}, {} changes", changes.len())
}

/// A floor.
pub(super) fn floor(floor: &Floor) -> String {
    let Floor { seq, time_ms, last_seq, events, rows } = floor;
    format!("commit {seq} at time {time_ms}, last commit {last_seq}, {events} events, {rows} rows")
}
