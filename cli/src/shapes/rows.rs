//! JSON shapes of rows, differences, tables and loads.

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::table::schema::format_retain;
use serde::Serialize;
use serde_json::value::RawValue;

use super::values::{document, line, raw, time};

/// A row: its document, or with `meta` also its key, seq and time.
pub(crate) fn row(row: v1::Row, meta: bool) -> Result<String> {
    #[derive(Serialize)]
    struct RowJson {
        key: String,
        seq: u64,
        time: String,
        doc: Option<Box<RawValue>>,
    }
    if meta {
        let time = time(row.time.as_ref())?;
        return line(&RowJson { key: row.key, seq: row.seq, time, doc: raw(row.document)? });
    }
    document(row.document.unwrap_or_default())
}

/// The net change of one row between two points in time.
#[derive(Debug, Serialize)]
pub(crate) struct Difference {
    /// The key of the row.
    pub(crate) key: String,
    /// `added`, `removed` or `changed`.
    pub(crate) kind: &'static str,
    /// The row at the earlier point, or `None` if it did not exist.
    pub(crate) before: Option<Box<RawValue>>,
    /// The row at the later point, or `None` if it did not exist.
    pub(crate) after: Option<Box<RawValue>>,
}

/// Converts the net change of one row.
pub(crate) fn difference(diff: v1::RowDiff) -> Result<Difference> {
    let kind = match (&diff.before, &diff.after) {
        (None, _) => "added",
        (_, None) => "removed",
        _ => "changed",
    };
    Ok(Difference { key: diff.key, kind, before: raw(diff.before)?, after: raw(diff.after)? })
}

/// The properties of a table.
#[derive(Debug, Serialize)]
pub(crate) struct TableJson {
    table: String,
    primary_key: String,
    key_type: String,
    /// Whether the writer makes keys.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    auto_key: bool,
    indexes: Vec<String>,
    rows: u64,
    created_seq: u64,
    last_seq: u64,
    floor_seq: u64,
    events: u64,
    bytes_on_disk: u64,
    segments: u64,
    snapshots: u64,
    /// The value of RETAIN; `null` if history is kept forever.
    retain: Option<String>,
    /// Why the table cannot be used now.
    #[serde(skip_serializing_if = "String::is_empty")]
    problem: String,
}

impl From<v1::TableInfo> for TableJson {
    fn from(info: v1::TableInfo) -> TableJson {
        let name = |of: v1::KeyType| if of == v1::KeyType::Int { "INT" } else { "STRING" };
        let columns: Vec<&str> = info.key_columns.iter().map(|column| name(column.r#type())).collect();
        let key_type = match columns.is_empty() {
            true => name(info.key_type()).to_owned(),
            false => format!("({})", columns.join(", ")),
        };
        TableJson {
            key_type,
            auto_key: info.auto_key,
            table: info.table,
            primary_key: info.primary_key,
            indexes: info.indexes.into_iter().chain(info.composite_indexes.iter().map(composite)).collect(),
            rows: info.rows,
            created_seq: info.created_seq,
            last_seq: info.last_seq,
            floor_seq: info.floor_seq,
            events: info.events,
            bytes_on_disk: info.bytes_on_disk,
            segments: info.segments,
            snapshots: info.snapshots,
            retain: info.retain.as_ref().map(retain),
            problem: info.problem,
        }
    }
}

/// The columns of a list of tables for people: few enough for a narrow terminal. DESCRIBE has the rest.
#[derive(Debug, Serialize)]
pub(crate) struct TableSummary<'a> {
    table: &'a str,
    primary_key: String,
    indexes: String,
    rows: u64,
    events: u64,
    last_seq: u64,
    bytes_on_disk: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    retain: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    problem: &'a str,
}

impl TableJson {
    /// The table in a list for people.
    pub(crate) fn summary(&self) -> TableSummary<'_> {
        let of_type = match (self.key_type.as_str(), self.auto_key) {
            ("STRING", false) => String::new(),
            ("STRING", true) => " AUTO".to_owned(),
            (name, _) => format!(" {name}"),
        };
        TableSummary {
            table: &self.table,
            primary_key: format!("{}{of_type}", self.primary_key),
            indexes: self.indexes.join(", "),
            rows: self.rows,
            events: self.events,
            last_seq: self.last_seq,
            bytes_on_disk: self.bytes_on_disk,
            retain: self.retain.as_deref(),
            problem: &self.problem,
        }
    }
}

/// A composite index as `INDEX` in DriftQL takes it.
fn composite(index: &v1::CompositeIndex) -> String {
    format!("({})", index.paths.join(", "))
}

fn retain(kept: &prost_types::Duration) -> String {
    let millis = std::time::Duration::try_from(*kept).map(|kept| kept.as_millis()).unwrap_or_default();
    format_retain(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// A commit, and the keys that the writer made for its inserts.
#[derive(Debug, Serialize)]
pub(crate) struct CommitRecord {
    /// The seq of the commit.
    pub(crate) seq: u64,
    /// The keys, in the order of the inserts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) keys: Vec<String>,
}

/// The result of `apply`, `ingest` and `revert`.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct LoadSummary {
    /// The seq of the last commit; 0 if no commit was made.
    pub(crate) last_seq: u64,
    /// The number of commits.
    pub(crate) commits: u64,
    /// The number of events in them.
    pub(crate) events: u64,
    /// The number of skipped lines, if skipping was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) skipped: Option<u64>,
}

#[cfg(test)]
mod tests {
    use driftdb_common::format::json;
    use v1::document::Body;

    use super::*;

    fn json(text: &str) -> Option<v1::Document> {
        Some(v1::Document { body: Some(Body::Json(text.into())) })
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
            let diff = v1::RowDiff { key: "k".into(), before, after, ..Default::default() };
            assert_eq!(difference(diff).unwrap().kind, kind);
        }
    }
}
