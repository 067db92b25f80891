//! Describes keys and entries of snapshots for messages.

use crate::format::key::KeyType;
use crate::format::manifest::Floor;
use crate::format::snapshot::{CommitEntry, ProducerEntry, RequestEntry, read_version};
use crate::format::sortkey::read_key;
use crate::table::format_time;

/// A row, by its sort key.
pub(super) fn row(key: &[u8]) -> String {
    let read = |key_type| read_key(key, key_type).filter(|(_, rest)| rest.is_empty());
    match read(KeyType::String).or_else(|| read(KeyType::Int)) {
        Some((key, _)) => format!("row {}", key.quoted()),
        None => format!("a row with the invalid key \"{}\"", key.escape_ascii()),
    }
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
        Some(RequestEntry { time_ms, request }) => {
            format!("id {:?} at {}", request.id, format_time(*time_ms))
        }
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
    let time = format_time(*time_ms);
    format!("commit {seq} at {time}, last commit {last_seq}, {events} events, {rows} rows")
}

/// The commit that last changed a row, if it differs between a layer and the log.
pub(super) fn row_commit_difference(key: &[u8], found: (u64, u64), in_log: (u64, u64)) -> String {
    let describe = |(seq, time_ms)| format!("commit {seq} at {}", format_time(time_ms));
    format!("{} was last changed by {}, but in the log by {}", row(key), describe(found), describe(in_log))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::key::Key;
    use crate::format::sortkey::write_key;

    #[test]
    fn row_keys_are_readable() {
        let sort_key = |key: &Key| {
            let mut out = Vec::new();
            write_key(&mut out, key);
            out
        };
        assert_eq!(row(&sort_key(&Key::Str("k\0\"1".into()))), r#"row "k\0\"1""#);
        for int in [0, 1, -1, i64::MAX, i64::MIN] {
            assert_eq!(row(&sort_key(&Key::Int(int))), format!("row {int}"));
        }
        assert_eq!(row(b"x"), r#"a row with the invalid key "x""#);
    }
}
