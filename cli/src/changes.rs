//! Lines of changes: one commit per line, as `watch --format changes` and `dump` print them, and as `apply` and `load` take them back.
//!
//! Such a line has what a commit did, not the operations that somebody asked for. So each change has exactly one effect on a table that is in
//! the state before it, and a history that is written again line by line passes through the same states.

use std::borrow::Cow;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::rfc3339::UtcTime;
use driftdb_common::table::schema::SchemaEvent;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use v1::operation::Action;

mod schemas;

pub(crate) use schemas::{KnownSchemas, SchemaRequest};

/// A commit of a line.
#[derive(Debug, PartialEq)]
pub(crate) struct ImportedCommit {
    /// The seq that the commit had; 0 if the line names none.
    pub(crate) seq: u64,
    /// The time that the commit had.
    pub(crate) time: Option<UtcTime>,
    /// The reason of the commit.
    pub(crate) reason: String,
    /// Who made the commit.
    pub(crate) actor: String,
    /// What the commit did.
    pub(crate) content: ImportedContent,
}

/// What a commit did: rows and schemas do not change in the same one.
#[derive(Debug, PartialEq)]
pub(crate) enum ImportedContent {
    /// Rows changed, maybe none.
    Rows(Vec<v1::Operation>),
    /// A table was created, altered or dropped.
    Schema(SchemaEvent),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangesLine<'a> {
    #[serde(default)]
    seq: u64,
    #[serde(borrow)]
    time: Option<Cow<'a, str>>,
    #[serde(default)]
    actor: String,
    /// Who sent the commit. Nobody can write as somebody else: it is for people.
    #[serde(default, rename = "principal")]
    _principal: IgnoredAny,
    #[serde(default)]
    reason: String,
    #[serde(borrow)]
    changes: Vec<ChangeItem<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeItem<'a> {
    table: String,
    #[serde(default)]
    key: String,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    /// Kept as text: the writer validates documents.
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(default, rename = "before")]
    _before: IgnoredAny,
    #[serde(default, rename = "after")]
    _after: IgnoredAny,
}

/// Whether a line has changes, and not operations.
pub(crate) fn has_changes(line: &str) -> bool {
    #[derive(Deserialize)]
    struct ChangesProbe {
        changes: Option<IgnoredAny>,
    }
    serde_json::from_str::<ChangesProbe>(line).is_ok_and(|probe| probe.changes.is_some())
}

/// Parses a line of changes.
pub(crate) fn parse(line: &str) -> Result<ImportedCommit> {
    let commit: ChangesLine<'_> = serde_json::from_str(line).map_err(|e| invalid(format_args!("{e}")))?;
    let time = commit.time.map(|time| time.parse().map_err(|e| invalid(format_args!("\"time\": {e}"))));
    let content = match commit.changes.as_slice() {
        [change] if change.kind == "schema" => ImportedContent::Schema(schema(change)?),
        changes => ImportedContent::Rows(changes.iter().map(operation).collect::<Result<_>>()?),
    };
    let ChangesLine { seq, actor, reason, .. } = commit;
    Ok(ImportedCommit { seq, time: time.transpose()?, reason, actor, content })
}

fn schema(change: &ChangeItem<'_>) -> Result<SchemaEvent> {
    let text = change.payload.ok_or_else(|| missing(change))?.get();
    serde_json::from_str(text)
        .map_err(|e| invalid(format_args!("the schema of table {:?}: {e}", change.table)))
}

/// The operation with the effect of a change. A change that wrote a whole row says `insert`, whether it created or replaced the row.
fn operation(change: &ChangeItem<'_>) -> Result<v1::Operation> {
    let document = || {
        let text = change.payload.ok_or_else(|| missing(change))?.get().to_owned();
        Ok::<_, Error>(v1::Document { body: Some(v1::document::Body::Json(text)) })
    };
    let action = match &*change.kind {
        "insert" | "put" | "replace" => Action::Put(document()?),
        "patch" => Action::Patch(document()?),
        // A revert wrote a row, or deleted it.
        "revert" if change.payload.is_some() => Action::Put(document()?),
        "soft_delete" | "revert" => Action::SoftDelete(v1::operation::SoftDelete {}),
        "schema" => return Err(invalid(format_args!("a change of a schema is a commit of its own"))),
        other => return Err(invalid(format_args!("unknown kind {other:?}"))),
    };
    Ok(v1::Operation { table: change.table.clone(), key: change.key.clone(), action: Some(action) })
}

fn missing(change: &ChangeItem<'_>) -> Error {
    invalid(format_args!("a change of kind {:?} needs the field \"payload\"", change.kind))
}

fn invalid(what: std::fmt::Arguments<'_>) -> Error {
    Error::new(Reason::ArgumentInvalid, format!("not a line of changes: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_the_operations_that_have_its_effect() {
        let line = r#"{"seq":7,"time":"2026-01-01T00:00:00.000Z","actor":"ann","reason":"why","changes":[
            {"table":"t","key":"a","kind":"insert","payload":{"id":"a","n":1.0}},
            {"table":"t","key":"b","kind":"patch","payload":{"n":null},"before":null,"after":{}},
            {"table":"u","key":"7","kind":"soft_delete","payload":null}]}"#;
        assert!(has_changes(line));
        let commit = parse(line).unwrap();
        assert_eq!((commit.seq, commit.reason.as_str(), commit.actor.as_str()), (7, "why", "ann"));
        let ImportedContent::Rows(operations) = commit.content else { panic!("no rows") };
        let put = v1::Operation::put("t", r#"{"id":"a","n":1.0}"#);
        assert_eq!(operations[0], v1::Operation { key: "a".into(), ..put });
        assert_eq!(operations[1], v1::Operation::patch("t", "b", r#"{"n":null}"#));
        assert_eq!(operations[2], v1::Operation::delete("u", "7"));
    }

    #[test]
    fn a_change_of_a_schema_is_a_commit_of_its_own() {
        let schema = r#"{"table":"t","key":"","kind":"schema","payload":{"action":"create","table":"t","primary_key":"id","key_type":"STRING","indexes":["a",["b","c"]],"retain_ms":1000}}"#;
        let commit = parse(&format!(r#"{{"changes":[{schema}]}}"#)).unwrap();
        let ImportedContent::Schema(event) = commit.content else { panic!("no schema") };
        assert_eq!((event.schema.indexes.len(), event.schema.retain_ms), (2, Some(1000)));
        assert!(parse(&format!(r#"{{"changes":[{schema},{schema}]}}"#)).is_err());
    }

    #[test]
    fn an_invalid_line_is_rejected() {
        for line in [
            r#"{"changes":[{"table":"t","key":"a","kind":"insert"}]}"#,
            r#"{"changes":[{"table":"t","key":"a","kind":"nonsense","payload":{}}]}"#,
            r#"{"changes":[],"tiem":"2026-01-01T00:00:00Z"}"#,
            r#"{"changes":[],"time":"yesterday"}"#,
            r#"{"changes":[{"table":"t","key":"","kind":"schema","payload":{"action":"create"}}]}"#,
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.message().starts_with("not a line of changes: "), "{line}: {error}");
        }
        assert!(!has_changes(r#"{"ops":[]}"#) && !has_changes("nonsense"));
    }
}
