//! JSON shapes of changes: one line for each change, a whole commit, and the other records of a watch.

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use serde::Serialize;
use serde_json::value::RawValue;

use super::values::{line, raw, time};

/// A row before or after a change: `None` if not requested, `Some(None)` if the row did not exist.
type Image = Option<Option<Box<RawValue>>>;

/// Which images of rows were requested.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RequestedImages {
    /// The row before each change.
    pub(crate) before: bool,
    /// The row after each change.
    pub(crate) after: bool,
}

/// One change, with the properties of its commit.
#[derive(Debug, Serialize)]
pub(crate) struct EventJson {
    /// The seq of the commit.
    pub(crate) seq: u64,
    /// The time of the commit.
    pub(crate) time: String,
    /// The table.
    pub(crate) table: String,
    /// The key of the row; empty for a schema change.
    pub(crate) key: String,
    /// `insert`, `replace`, `patch`, `soft_delete`, `revert` or `schema`.
    pub(crate) kind: &'static str,
    /// The document or patch that was written.
    pub(crate) payload: Option<Box<RawValue>>,
    /// Who made the commit.
    pub(crate) actor: String,
    /// Who sent it, if the writer knew.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) principal: String,
    /// The reason of the commit.
    pub(crate) reason: String,
    /// The row before the change, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) before: Image,
    /// The row after the change, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after: Image,
}

/// The changes of a commit, or of a part of it.
pub(crate) fn events(commit: v1::Commit, images: RequestedImages) -> Result<Vec<EventJson>> {
    let time = time(commit.time.as_ref())?;
    let image = |wanted: bool, document| wanted.then(|| raw(document)).transpose();
    let events = commit.changes.into_iter().map(|change| {
        Ok(EventJson {
            seq: commit.seq,
            time: time.clone(),
            kind: kind(&change)?,
            table: change.table,
            key: change.key,
            payload: raw(change.payload)?,
            actor: commit.actor.clone(),
            principal: commit.principal.clone(),
            reason: commit.reason.clone(),
            before: image(images.before, change.before)?,
            after: image(images.after, change.after)?,
        })
    });
    events.collect()
}

/// The lines of `drift` for a commit, or for a part of it.
pub(crate) fn drift(commit: v1::Commit, images: RequestedImages) -> Result<Vec<String>> {
    events(commit, images)?.iter().map(line).collect()
}

/// A whole commit as one line, or a part of it if the commit says that there is more.
pub(crate) fn commit(commit: v1::Commit, images: RequestedImages) -> Result<String> {
    #[derive(Serialize)]
    struct ChangeJson {
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
    struct CommitJson {
        seq: u64,
        time: String,
        actor: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        principal: String,
        reason: String,
        changes: Vec<ChangeJson>,
    }
    let (seq, time) = (commit.seq, time(commit.time.as_ref())?);
    let (actor, principal, reason) =
        (commit.actor.clone(), commit.principal.clone(), commit.reason.clone());
    let changes = events(commit, images)?.into_iter().map(|event| {
        let EventJson { table, key, kind, payload, before, after, .. } = event;
        ChangeJson { table, key, kind, payload, before, after }
    });
    line(&CommitJson { seq, time, actor, principal, reason, changes: changes.collect() })
}

#[derive(Serialize)]
struct WatchedRowJson<'a> {
    table: &'a str,
    key: String,
    seq: u64,
    time: String,
    doc: Option<Box<RawValue>>,
}

fn row(table: &str, row: v1::Row) -> Result<WatchedRowJson<'_>> {
    let time = time(row.time.as_ref())?;
    Ok(WatchedRowJson { table, key: row.key, seq: row.seq, time, doc: raw(row.document)? })
}

/// An initial row of a watch.
pub(crate) fn watched_row(table: &str, row: v1::Row) -> Result<String> {
    #[derive(Serialize)]
    struct InitialRowJson<'a> {
        row: WatchedRowJson<'a>,
    }
    line(&InitialRowJson { row: self::row(table, row)? })
}

/// Several initial rows, as a program receives them.
pub(crate) fn watched_rows(batch: v1::RowBatch) -> Result<String> {
    #[derive(Serialize)]
    struct InitialRowsJson<'a> {
        rows: Vec<WatchedRowJson<'a>>,
    }
    let rows = batch.rows.into_iter().map(|found| row(&batch.table, found));
    line(&InitialRowsJson { rows: rows.collect::<Result<_>>()? })
}

/// The progress of a watch.
pub(crate) fn progress(seq: u64) -> Result<String> {
    #[derive(Serialize)]
    struct ProgressJson {
        progress: Seq,
    }
    #[derive(Serialize)]
    struct Seq {
        seq: u64,
    }
    line(&ProgressJson { progress: Seq { seq } })
}

fn kind(change: &v1::Change) -> Result<&'static str> {
    Ok(match change.kind() {
        v1::ChangeKind::Insert | v1::ChangeKind::SoftDelete if change.reverted => "revert",
        v1::ChangeKind::Insert if change.replaced => "replace",
        v1::ChangeKind::Insert => "insert",
        v1::ChangeKind::Patch => "patch",
        v1::ChangeKind::SoftDelete => "soft_delete",
        v1::ChangeKind::Schema => "schema",
        v1::ChangeKind::Unspecified => {
            return Err(Error::new(
                Reason::Internal,
                "a result has a change of an unknown kind; update driftctl",
            ));
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
    fn each_change_of_a_commit_is_a_line() {
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
            drift(commit.clone(), RequestedImages::default()).unwrap(),
            [
                r#"{"seq":7,"time":"1970-01-01T00:00:00.000Z","table":"orders","key":"o1","kind":"patch","payload":{"b":1,"a":2},"actor":"","reason":"why"}"#,
                r#"{"seq":7,"time":"1970-01-01T00:00:00.000Z","table":"orders","key":"o2","kind":"soft_delete","payload":null,"actor":"","reason":"why"}"#,
            ]
        );
        let images = RequestedImages { before: true, after: false };
        let whole = super::commit(commit, images).unwrap();
        let expected = concat!(
            r#"{"seq":7,"time":"1970-01-01T00:00:00.000Z","actor":"","reason":"why","changes":["#,
            r#"{"table":"orders","key":"o1","kind":"patch","payload":{"b":1,"a":2},"before":null},"#,
            r#"{"table":"orders","key":"o2","kind":"soft_delete","payload":null,"before":null}]}"#
        );
        assert_eq!(whole, expected);
    }

    #[test]
    fn a_replaced_and_a_reverted_row_have_kinds_of_their_own() {
        for (wire, replaced, reverted, shown) in [
            (v1::ChangeKind::Insert, false, false, "insert"),
            (v1::ChangeKind::Insert, true, false, "replace"),
            (v1::ChangeKind::Insert, true, true, "revert"),
            (v1::ChangeKind::SoftDelete, false, true, "revert"),
            (v1::ChangeKind::SoftDelete, false, false, "soft_delete"),
        ] {
            let change = v1::Change { kind: wire.into(), replaced, reverted, ..Default::default() };
            assert_eq!(kind(&change).unwrap(), shown);
        }
    }

    #[test]
    fn initial_rows_have_their_own_shape() {
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
