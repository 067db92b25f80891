//! What happened, as JSON: a line a change, or a commit whole; and what else a watch prints.

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{line, raw, time};

/// The row before and after a change: `None` where it was not asked for, `Some(None)` where there was none.
type Image = Option<Option<Box<RawValue>>>;

/// Which images of rows were asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Images {
    /// The row before each change.
    pub before: bool,
    /// The row after it.
    pub after: bool,
}

/// One change, with all that is known of its commit.
#[derive(Debug, Serialize)]
pub struct Event {
    /// The commit.
    pub seq: u64,
    /// Its time.
    pub time: String,
    /// The table.
    pub table: String,
    /// The row; empty for a change of the schema.
    pub key: String,
    /// `insert`, `patch`, `soft_delete` or `schema`.
    pub kind: &'static str,
    /// What was written.
    pub payload: Option<Box<RawValue>>,
    /// Who wrote it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// The row before, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Image,
    /// The row after, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Image,
}

/// The changes of a commit, or of a part of one.
pub fn events(commit: v1::Commit, images: Images) -> Result<Vec<Event>> {
    let time = time(commit.time.as_ref())?;
    let image = |wanted: bool, document| wanted.then(|| raw(document)).transpose();
    let events = commit.changes.into_iter().map(|change| {
        Ok(Event {
            seq: commit.seq,
            time: time.clone(),
            kind: kind(change.kind())?,
            table: change.table,
            key: change.key,
            payload: raw(change.payload)?,
            actor: commit.actor.clone(),
            reason: commit.reason.clone(),
            before: image(images.before, change.before)?,
            after: image(images.after, change.after)?,
        })
    });
    events.collect()
}

/// The drift lines of a commit, or of a part of one.
pub fn drift(commit: v1::Commit) -> Result<Vec<String>> {
    events(commit, Images::default())?.iter().map(line).collect()
}

/// A commit as one line.
pub fn commit(commit: v1::Commit, images: Images) -> Result<String> {
    #[derive(Serialize)]
    struct Change {
        table: String,
        key: String,
        kind: &'static str,
        payload: Option<Box<RawValue>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        before: Image,
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Image,
    }
    #[derive(Serialize)]
    struct Commit {
        seq: u64,
        time: String,
        actor: String,
        reason: String,
        changes: Vec<Change>,
    }
    let (seq, time) = (commit.seq, time(commit.time.as_ref())?);
    let (actor, reason) = (commit.actor.clone(), commit.reason.clone());
    let changes = events(commit, images)?.into_iter().map(|event| {
        let Event { table, key, kind, payload, before, after, .. } = event;
        Change { table, key, kind, payload, before, after }
    });
    line(&Commit { seq, time, actor, reason, changes: changes.collect() })
}

#[derive(Serialize)]
struct Row<'a> {
    table: &'a str,
    key: String,
    seq: u64,
    time: String,
    doc: Option<Box<RawValue>>,
}

fn row(table: &str, row: v1::Row) -> Result<Row<'_>> {
    let time = time(row.time.as_ref())?;
    Ok(Row { table, key: row.key, seq: row.seq, time, doc: raw(row.document)? })
}

/// A row that stands at the beginning of a watch.
pub fn watched_row(table: &str, row: v1::Row) -> Result<String> {
    #[derive(Serialize)]
    struct Line<'a> {
        row: Row<'a>,
    }
    line(&Line { row: self::row(table, row)? })
}

/// Several such rows, as a program gets them.
pub fn watched_rows(batch: v1::RowBatch) -> Result<String> {
    #[derive(Serialize)]
    struct Line<'a> {
        rows: Vec<Row<'a>>,
    }
    let rows = batch.rows.into_iter().map(|found| row(&batch.table, found));
    line(&Line { rows: rows.collect::<Result<_>>()? })
}

/// How far a watch is.
pub fn progress(seq: u64) -> Result<String> {
    #[derive(Serialize)]
    struct Line {
        progress: Seq,
    }
    #[derive(Serialize)]
    struct Seq {
        seq: u64,
    }
    line(&Line { progress: Seq { seq } })
}

fn kind(kind: v1::ChangeKind) -> Result<&'static str> {
    Ok(match kind {
        v1::ChangeKind::Insert => "insert",
        v1::ChangeKind::Patch => "patch",
        v1::ChangeKind::SoftDelete => "soft_delete",
        v1::ChangeKind::Schema => "schema",
        v1::ChangeKind::Unspecified => {
            return Err(Error::new(Reason::Internal, "an answer has a change of no kind this version knows"));
        }
    })
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    fn json(text: &str) -> Option<v1::Document> {
        Some(text.into())
    }

    #[test]
    fn a_commit_is_a_line_a_change() {
        let change = |kind: v1::ChangeKind, key: &str, payload| v1::Change {
            table: "orders".into(),
            key: key.into(),
            kind: kind.into(),
            payload,
            ..Default::default()
        };
        let commit = v1::Commit {
            seq: 7,
            time: Some(Timestamp { seconds: 0, nanos: 0 }),
            reason: "why".into(),
            changes: vec![
                change(v1::ChangeKind::Patch, "o1", json(r#"{"b":1,"a":2}"#)),
                change(v1::ChangeKind::SoftDelete, "o2", None),
            ],
            ..Default::default()
        };
        assert_eq!(
            drift(commit.clone()).unwrap(),
            [
                r#"{"seq":7,"time":"1970-01-01T00:00:00.000Z","table":"orders","key":"o1","kind":"patch","payload":{"b":1,"a":2},"actor":"","reason":"why"}"#,
                r#"{"seq":7,"time":"1970-01-01T00:00:00.000Z","table":"orders","key":"o2","kind":"soft_delete","payload":null,"actor":"","reason":"why"}"#,
            ]
        );
        let images = Images { before: true, after: false };
        let whole = super::commit(commit, images).unwrap();
        let expected = concat!(
            r#"{"seq":7,"time":"1970-01-01T00:00:00.000Z","actor":"","reason":"why","changes":["#,
            r#"{"table":"orders","key":"o1","kind":"patch","payload":{"b":1,"a":2},"before":null},"#,
            r#"{"table":"orders","key":"o2","kind":"soft_delete","payload":null,"before":null}]}"#
        );
        assert_eq!(whole, expected);
    }

    #[test]
    fn rows_at_the_beginning_have_lines_of_their_own() {
        let row = v1::Row { key: "o1".into(), seq: 3, time: None, document: json(r#"{"b":1,"a":2}"#) };
        let inner = concat!(
            r#"{"table":"orders","key":"o1","seq":3,"time":"1970-01-01T00:00:00.000Z","#,
            r#""doc":{"b":1,"a":2}}"#
        );
        assert_eq!(watched_row("orders", row.clone()).unwrap(), format!(r#"{{"row":{inner}}}"#));
        let batch = v1::RowBatch { table: "orders".into(), rows: vec![row.clone(), row] };
        assert_eq!(watched_rows(batch).unwrap(), format!(r#"{{"rows":[{inner},{inner}]}}"#));
        assert_eq!(progress(7).unwrap(), r#"{"progress":{"seq":7}}"#);
    }
}
