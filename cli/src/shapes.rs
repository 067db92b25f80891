//! The JSON shapes of driftctl's output, converted from the messages of the daemons.

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::json;
use driftdb_common::table::schema::format_retain;
use prost_types::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use v1::document::Body;

mod event;

pub use event::{Event, Images, commit, drift, events, progress, watched_row, watched_rows};

/// Encodes a value as one line of JSON.
pub fn line<T: Serialize>(answer: &T) -> Result<String> {
    serde_json::to_string(answer)
        .map_err(|e| Error::new(Reason::Internal, format!("cannot encode a result as JSON: {e}")))
}

/// Formats a time as RFC 3339 in UTC with milliseconds.
pub fn time(timestamp: Option<&Timestamp>) -> Result<String> {
    let Timestamp { seconds, nanos } = timestamp.copied().unwrap_or_default();
    let moment = jiff::Timestamp::new(seconds, nanos);
    let moment = moment.map_err(|e| Error::new(Reason::Internal, format!("a result has an invalid time: {e}")))?;
    Ok(moment.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

/// Converts a time for the API.
pub fn timestamp(moment: jiff::Timestamp) -> Timestamp {
    // The API wants seconds rounded down: nanoseconds are never negative.
    let nanos = moment.subsec_nanosecond();
    let below = i64::from(nanos < 0);
    Timestamp {
        seconds: moment.as_second() - below,
        nanos: nanos + if below == 1 { 1_000_000_000 } else { 0 },
    }
}

/// The JSON text of a document, as the daemon sent it.
pub fn document(document: v1::Document) -> Result<String> {
    match document.body {
        Some(Body::Json(text)) => Ok(text),
        Some(Body::Msgpack(encoded)) => json::from_msgpack(&encoded),
        None => Err(Error::new(Reason::Internal, "a result has a document without a body")),
    }
}

fn raw(document: Option<v1::Document>) -> Result<Option<Box<RawValue>>> {
    let Some(document) = document else { return Ok(None) };
    let text = self::document(document)?;
    let raw = RawValue::from_string(text);
    raw.map(Some)
        .map_err(|e| Error::new(Reason::Internal, format!("a result has a document that is not JSON: {e}")))
}

/// A row: its document, or with `meta` also its key, seq and time.
pub fn row(row: v1::Row, meta: bool) -> Result<String> {
    #[derive(Serialize)]
    struct Meta {
        key: String,
        seq: u64,
        time: String,
        doc: Option<Box<RawValue>>,
    }
    if meta {
        let time = time(row.time.as_ref())?;
        return line(&Meta { key: row.key, seq: row.seq, time, doc: raw(row.document)? });
    }
    document(row.document.unwrap_or_default())
}

/// The net change of one row between two points in time.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// The key of the row.
    pub key: String,
    /// `added`, `removed` or `changed`.
    pub kind: &'static str,
    /// The row at the earlier point, or `None` if it did not exist.
    pub before: Option<Box<RawValue>>,
    /// The row at the later point, or `None` if it did not exist.
    pub after: Option<Box<RawValue>>,
}

/// Converts the net change of one row.
pub fn difference(diff: v1::RowDiff) -> Result<Difference> {
    let kind = match (&diff.before, &diff.after) {
        (None, _) => "added",
        (_, None) => "removed",
        _ => "changed",
    };
    Ok(Difference { key: diff.key, kind, before: raw(diff.before)?, after: raw(diff.after)? })
}

/// The properties of a table.
#[derive(Debug, Serialize)]
pub struct Table {
    table: String,
    primary_key: String,
    key_type: &'static str,
    indexes: Vec<String>,
    rows: u64,
    created_seq: u64,
    last_seq: u64,
    floor_seq: u64,
    events: u64,
    bytes_on_disk: u64,
    segments: u64,
    snapshots: u64,
    /// The value of RETAIN; `null` if history is kept for ever.
    retain: Option<String>,
}

impl From<v1::TableInfo> for Table {
    fn from(info: v1::TableInfo) -> Table {
        let key_type = match info.key_type() {
            v1::KeyType::Int => "INT",
            v1::KeyType::String | v1::KeyType::Unspecified => "STRING",
        };
        Table {
            key_type,
            table: info.table,
            primary_key: info.primary_key,
            indexes: info.indexes,
            rows: info.rows,
            created_seq: info.created_seq,
            last_seq: info.last_seq,
            floor_seq: info.floor_seq,
            events: info.events,
            bytes_on_disk: info.bytes_on_disk,
            segments: info.segments,
            snapshots: info.snapshots,
            retain: info.retain.as_ref().map(retain),
        }
    }
}

fn retain(kept: &prost_types::Duration) -> String {
    let millis = std::time::Duration::try_from(*kept).map(|kept| kept.as_millis()).unwrap_or_default();
    format_retain(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// The result of `apply`, `ingest` and `revert`.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Loaded {
    /// The seq of the last commit; 0 if no commit was made.
    pub last_seq: u64,
    /// The number of commits.
    pub commits: u64,
    /// The number of events in them.
    pub events: u64,
    /// The number of skipped lines, if skipping was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Option<v1::Document> {
        Some(v1::Document { body: Some(Body::Json(text.into())) })
    }

    #[test]
    fn times_have_milliseconds_and_end_with_z() {
        for (seconds, nanos, text) in [
            (1_767_225_600, 0, "2026-01-01T00:00:00.000Z"),
            (1_767_225_600, 5_000_000, "2026-01-01T00:00:00.005Z"),
            (1_767_225_600, 999_999_999, "2026-01-01T00:00:00.999Z"),
            (-1, 500_000_000, "1969-12-31T23:59:59.500Z"),
        ] {
            let wire = Timestamp { seconds, nanos };
            assert_eq!(time(Some(&wire)).unwrap(), text);
            assert_eq!(timestamp(jiff::Timestamp::new(seconds, nanos).unwrap()), wire);
        }
        assert!(time(Some(&Timestamp { seconds: i64::MAX, nanos: 0 })).is_err());
    }

    #[test]
    fn documents_keep_their_field_order() {
        let text = r#"{"z":1,"a":{"y":1.0,"b":[1e3]}}"#;
        let row = |document| v1::Row { key: "k".into(), seq: 7, time: None, document };
        assert_eq!(super::row(row(json(text)), false).unwrap(), text);
        assert_eq!(
            super::row(row(json(text)), true).unwrap(),
            format!(r#"{{"key":"k","seq":7,"time":"1970-01-01T00:00:00.000Z","doc":{text}}}"#)
        );
        let packed = json::to_msgpack(r#"{"z":1,"a":2}"#).unwrap().into();
        let packed = v1::Document { body: Some(Body::Msgpack(packed)) };
        assert_eq!(super::row(row(Some(packed)), false).unwrap(), r#"{"z":1,"a":2}"#);
    }

    #[test]
    fn a_difference_has_a_kind() {
        for (before, after, kind) in [
            (None, json("{}"), "added"),
            (json("{}"), None, "removed"),
            (json("{}"), json(r#"{"a":1}"#), "changed"),
        ] {
            let diff = v1::RowDiff { key: "k".into(), before, after, json_patch: String::new() };
            assert_eq!(difference(diff).unwrap().kind, kind);
        }
    }
}
