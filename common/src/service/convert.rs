//! Conversion of API messages to DriftDB's own types and back.

use std::time::Duration;

use driftdb::v1;

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::event::EventType;
use crate::format::index_columns::{IndexColumns, name_of_path};
use crate::format::key::Key;
use crate::format::lineage::{Lineage, LineagePoint};
use crate::format::path::Path;
use crate::format::principal_text::{actor_of, principal_of};
use crate::format::rfc3339::UtcTime;
use crate::limits;
use crate::memory::{MemoryBudget, MemoryUsage};
use crate::service::key_schema::{key_columns_to_wire, key_type_to_wire};
use crate::table::damaged_files::{DamagedFile, DamagedFiles};
use crate::table::history::DriftEvent;
use crate::table::memtable::CommitInfo;
use crate::table::operation::{Action, Check, CommitOptions, KeyInput, Operation, Precondition, WriteToken};
use crate::table::point_in_time::PointInTime;
use crate::table::schema::Schema;
use crate::table::view::Row;

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Reason::ArgumentInvalid, message)
}

/// Milliseconds since 1970 of a timestamp, rounded down. Fails, naming the field `what`, for what protobuf does not allow.
fn timestamp_from_wire(time: &prost_types::Timestamp, what: &str) -> Result<i64> {
    let prost_types::Timestamp { seconds, nanos } = *time;
    let time = UtcTime::from_parts(seconds, nanos).map(UtcTime::millis);
    time.ok_or_else(|| {
        invalid(format!(
            "{what} must be between 0001-01-01T00:00:00Z and 9999-12-31T23:59:59.999999999Z, and its nanos between 0 and 999999999; got {seconds} s and {nanos} ns"
        ))
    })
}

/// Milliseconds since 1970 of a commit's time, rounded down. Fails for a time before 1970.
pub fn time_from_wire(time: &prost_types::Timestamp) -> Result<u64> {
    let millis = timestamp_from_wire(time, "commit_time")?;
    u64::try_from(millis).map_err(|_| invalid(format!("commit_time is before 1970; got {} s", time.seconds)))
}

/// The timestamp for a time in milliseconds since 1970.
pub fn time_to_wire(time_ms: u64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(time_ms / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(time_ms % 1000 * 1_000_000).unwrap_or(0),
    }
}

/// A duration. Fails, naming the field `what`, if the duration is negative.
pub fn duration_from_wire(duration: &prost_types::Duration, what: &str) -> Result<Duration> {
    if duration.nanos.unsigned_abs() > 999_999_999 {
        return Err(invalid(format!(
            "the nanos of {what} must be between 0 and 999999999; got {}",
            duration.nanos
        )));
    }
    if duration.seconds < 0 || duration.nanos < 0 {
        return Err(invalid(format!("{what} must not be negative")));
    }
    Duration::try_from(*duration).map_err(|_| invalid(format!("{what} is out of range")))
}

/// A table's retention in milliseconds, rounded down.
pub fn retain_from_wire(retain: Option<prost_types::Duration>) -> Result<Option<u64>> {
    let Some(retain) = retain else { return Ok(None) };
    let millis = duration_from_wire(&retain, "retain")?.as_millis();
    u64::try_from(millis).map(Some).map_err(|_| invalid("retain is out of range"))
}

/// The change that AlterTable makes to a table's retention: `Some(None)` removes it, `None` leaves it as it is.
pub fn retain_change_from_wire(
    retain: Option<prost_types::Duration>,
    forever: bool,
) -> Result<Option<Option<u64>>> {
    match (retain_from_wire(retain)?, forever) {
        (Some(_), true) => Err(invalid("retain and retain_forever are both set; set only one")),
        (None, true) => Ok(Some(None)),
        (retain, false) => Ok(retain.map(Some)),
    }
}

/// The API's duration for a retention in milliseconds.
fn retain_to_wire(retain_ms: u64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(retain_ms / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(retain_ms % 1000 * 1_000_000).unwrap_or(0),
    }
}

/// Parses a document in either encoding.
fn document_from_wire(document: v1::Document) -> Result<Document> {
    match document.body {
        Some(v1::document::Body::Json(text)) => Document::from_json(&text),
        Some(v1::document::Body::Msgpack(bytes)) => Document::from_msgpack(bytes),
        None => Err(Error::new(Reason::DocumentInvalid, "document is empty; set json or msgpack")),
    }
}

/// Encodes a document in the requested format.
pub fn document_to_wire(document: &Document, format: v1::DocumentFormat) -> Result<v1::Document> {
    let body = match format {
        v1::DocumentFormat::Msgpack => v1::document::Body::Msgpack(document.msgpack().clone()),
        v1::DocumentFormat::Json | v1::DocumentFormat::Unspecified => {
            v1::document::Body::Json(document.to_json()?)
        }
    };
    Ok(v1::Document { body: Some(body) })
}

/// The document format that a request names.
pub fn format_from_wire(format: i32) -> Result<v1::DocumentFormat> {
    v1::DocumentFormat::try_from(format).map_err(|_| invalid(format!("unknown document format {format}")))
}

/// The point in time that an AsOf names; `None` if it names none.
pub fn point_from_wire(as_of: Option<v1::AsOf>) -> Result<Option<PointInTime>> {
    Ok(match as_of.and_then(|as_of| as_of.at) {
        None => None,
        Some(v1::as_of::At::Seq(seq)) => Some(PointInTime::Seq(seq)),
        Some(v1::as_of::At::Time(time)) => Some(PointInTime::Time(timestamp_from_wire(&time, "as_of.time")?)),
        Some(v1::as_of::At::Ago(ago)) => Some(PointInTime::Ago(duration_from_wire(&ago, "as_of.ago")?)),
    })
}

/// The AsOf for a point in time; `None` for [`PointInTime::Now`].
fn point_to_wire(point: PointInTime) -> Option<v1::AsOf> {
    let at = match point {
        PointInTime::Now => return None,
        PointInTime::Seq(seq) => v1::as_of::At::Seq(seq),
        PointInTime::Time(ms) => {
            let nanos = i32::try_from(ms.rem_euclid(1000) * 1_000_000).unwrap_or(0);
            v1::as_of::At::Time(prost_types::Timestamp { seconds: ms.div_euclid(1000), nanos })
        }
        PointInTime::Ago(ago) => v1::as_of::At::Ago(ago.try_into().ok()?),
    };
    Some(v1::AsOf { at: Some(at) })
}

/// Parses an operation of Apply.
pub fn operation_from_wire(operation: v1::Operation) -> Result<Operation> {
    use v1::operation::Action as Wire;
    let action = match operation.action {
        Some(Wire::Insert(document)) => Action::Insert(document_from_wire(document)?),
        Some(Wire::Put(document)) => Action::Put(document_from_wire(document)?),
        Some(Wire::Patch(patch)) => Action::Patch(document_from_wire(patch)?),
        Some(Wire::SoftDelete(_)) => Action::SoftDelete,
        Some(Wire::Revert(revert)) => {
            let to = point_from_wire(revert.to)?;
            Action::Revert(
                to.ok_or_else(|| {
                    invalid("cannot revert to the present; set `to` to an earlier seq or time")
                })?,
            )
        }
        None => {
            return Err(invalid("operation has no action; set insert, put, patch, soft_delete or revert"));
        }
    };
    let key = Some(operation.key).filter(|key| !key.is_empty()).map(KeyInput::Text);
    Ok(Operation { table: operation.table, key, action })
}

/// The API's message for an operation.
pub fn operation_to_wire(operation: Operation) -> v1::Operation {
    use v1::operation::Action as Wire;
    let document = |document: Document| v1::Document {
        body: Some(v1::document::Body::Msgpack(document.msgpack().clone())),
    };
    let action = match operation.action {
        Action::Insert(content) => Wire::Insert(document(content)),
        Action::Put(content) => Wire::Put(document(content)),
        Action::Patch(patch) => Wire::Patch(document(patch)),
        Action::SoftDelete | Action::Restore(None) => Wire::SoftDelete(v1::operation::SoftDelete {}),
        Action::Restore(Some(content)) => Wire::Put(document(content)),
        Action::Revert(to) => Wire::Revert(v1::operation::Revert { to: point_to_wire(to) }),
    };
    let key = operation.key.as_ref().map(ToString::to_string).unwrap_or_default();
    v1::Operation { table: operation.table, key, action: Some(action) }
}

/// Parses a precondition of Apply.
pub fn precondition_from_wire(precondition: v1::Precondition) -> Result<Precondition> {
    use v1::precondition::Check as Wire;
    let check = match precondition.check {
        Some(Wire::SeqIs(seq)) => Check::SeqIs(seq),
        Some(Wire::Exists(exists)) => Check::Exists(exists),
        Some(Wire::UnchangedSince(seq)) => Check::UnchangedSince(seq),
        None => return Err(invalid("precondition has no check; set seq_is, exists or unchanged_since")),
    };
    Ok(Precondition { table: precondition.table, key: KeyInput::Text(precondition.key), check })
}

/// The API's message for a precondition.
pub fn precondition_to_wire(precondition: Precondition) -> v1::Precondition {
    use v1::precondition::Check as Wire;
    let check = match precondition.check {
        Check::SeqIs(seq) => Wire::SeqIs(seq),
        Check::Exists(exists) => Wire::Exists(exists),
        Check::UnchangedSince(seq) => Wire::UnchangedSince(seq),
    };
    let (table, key) = (precondition.table, precondition.key.to_string());
    v1::Precondition { table, key, check: Some(check), ..v1::Precondition::default() }
}

/// Parses the options of a commit. Fails if one is longer than its limit.
pub fn options_from_wire(options: Option<v1::CommitOptions>) -> Result<CommitOptions> {
    let Some(options) = options else { return Ok(CommitOptions::default()) };
    if options.request_id.len() > limits::REQUEST_ID_BYTES {
        let message = format!(
            "the request id is too long: {} bytes, the limit is {}",
            options.request_id.len(),
            limits::REQUEST_ID_BYTES
        );
        return Err(Error::new(Reason::TooLarge, message));
    }
    if options.reason.len() > limits::REASON_BYTES {
        let message = format!(
            "the reason is too long: {} bytes, the limit is {}",
            options.reason.len(),
            limits::REASON_BYTES
        );
        return Err(Error::new(Reason::TooLarge, message));
    }
    if options.actor.len() > limits::ACTOR_BYTES {
        let message = format!(
            "the actor is too long: {} bytes, the limit is {}",
            options.actor.len(),
            limits::ACTOR_BYTES
        );
        return Err(Error::new(Reason::TooLarge, message));
    }
    if options.request_id.starts_with('\0') {
        return Err(scoped_id_error("request id"));
    }
    if options.actor.contains('\0') {
        return Err(invalid("the actor contains a NUL character; leave it out"));
    }
    let commit_time_ms = options.commit_time.as_ref().map(time_from_wire).transpose()?;
    let v1::CommitOptions { request_id, reason, actor, .. } = options;
    Ok(CommitOptions { actor, reason, commit_time_ms, request_id })
}

/// The error of an id that a client has chosen and that looks as one of a principal is stored: without authentication it could be taken
/// for that one later.
pub fn scoped_id_error(what: &str) -> Error {
    invalid(format!("the {what} begins with a NUL character; choose another"))
}

/// The write token for a commit of a history, which an epoch and a lineage name.
pub fn token_to_wire(token: WriteToken, epoch: u64, lineage: &Lineage) -> v1::WriteToken {
    let LineagePoint { incarnation, seq } = lineage.point(token.seq);
    v1::WriteToken { seq, time: Some(time_to_wire(token.time_ms)), epoch, incarnation }
}

/// The text of a key.
fn key_to_wire(key: &Key) -> String {
    match key {
        Key::Str(text) => text.as_ref().to_owned(),
        Key::Int(int) => int.to_string(),
        Key::Composite(key) => key.text().to_owned(),
    }
}

/// The API's message for a row, with the document in the requested format.
pub fn row_to_wire(row: &Row, format: v1::DocumentFormat) -> Result<v1::Row> {
    Ok(v1::Row {
        key: key_to_wire(&row.key),
        seq: row.seq,
        time: Some(time_to_wire(row.time_ms)),
        document: Some(document_to_wire(&row.document, format)?),
    })
}

/// The API's message for a commit, still without changes.
pub fn commit_to_wire(commit: &CommitInfo) -> v1::Commit {
    let (stored, reason) = match &commit.meta {
        Some(meta) => (meta.actor.as_str(), meta.reason.clone()),
        None => Default::default(),
    };
    v1::Commit {
        seq: commit.seq,
        time: Some(time_to_wire(commit.time_ms)),
        actor: actor_of(stored).to_owned(),
        principal: principal_of(stored).unwrap_or_default().to_owned(),
        reason,
        changes: Vec::new(),
        more: false,
    }
}

/// A document of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeDocument {
    /// What the event stores: a document or a patch.
    Payload,
    /// The row before the event.
    Before,
    /// The row after it.
    After,
}

/// The API's message for an event of a table, with documents in the requested format. Contains the row before and after
/// the event if `change` does.
pub fn change_to_wire(change: &DriftEvent, table: &str, format: v1::DocumentFormat) -> Result<v1::Change> {
    change_with_documents(change, table, |_, document| document_to_wire(document, format))
}

/// The same, with documents that the caller encodes.
pub fn change_with_documents(
    change: &DriftEvent,
    table: &str,
    encode: impl Fn(ChangeDocument, &Document) -> Result<v1::Document>,
) -> Result<v1::Change> {
    let kind = match change.kind {
        EventType::Insert => v1::ChangeKind::Insert,
        EventType::Patch => v1::ChangeKind::Patch,
        EventType::SoftDelete => v1::ChangeKind::SoftDelete,
        EventType::Schema => v1::ChangeKind::Schema,
        EventType::Floor | EventType::Keep | EventType::Note => v1::ChangeKind::Unspecified,
    };
    let wire =
        |which, document: Option<&Document>| document.map(|document| encode(which, document)).transpose();
    Ok(v1::Change {
        table: table.to_owned(),
        key: change.key.as_ref().map(key_to_wire).unwrap_or_default(),
        kind: kind.into(),
        payload: wire(ChangeDocument::Payload, change.payload.as_ref())?,
        before: wire(ChangeDocument::Before, change.before.as_ref().map(|row| &row.document))?,
        after: wire(ChangeDocument::After, change.after.as_ref().map(|row| &row.document))?,
        replaced: change.marks.replaces,
        reverted: change.marks.reverts,
    })
}

/// The names of the indexes that a request lists: those on one path, and composite ones.
pub fn indexes_from_wire(paths: Vec<String>, composite: &[v1::CompositeIndex]) -> Result<Vec<String>> {
    let mut names: Vec<String> = paths.iter().map(|path| name_of_path(path)).collect();
    for index in composite {
        if index.paths.len() < 2 {
            return Err(invalid(format!(
                "a composite index has two or more paths; got {}",
                index.paths.len()
            )));
        }
        let paths = index.paths.iter().map(|path| Path::of_index(path)).collect();
        names.push(IndexColumns::new(paths).to_string());
    }
    Ok(names)
}

fn is_composite(name: &str) -> bool {
    IndexColumns::of(name).is_composite()
}

fn composite_to_wire(name: &str) -> Option<v1::CompositeIndex> {
    let columns = IndexColumns::of(name);
    let paths = columns.paths().iter().map(ToString::to_string).collect();
    columns.is_composite().then_some(v1::CompositeIndex { paths })
}

/// The part of TableInfo that comes from the schema. The caller adds the counts.
pub fn schema_to_wire(schema: &Schema) -> v1::TableInfo {
    v1::TableInfo {
        table: schema.table.clone(),
        primary_key: schema.primary_key.clone(),
        key_type: key_type_to_wire(schema.key_type).into(),
        key_columns: key_columns_to_wire(schema),
        indexes: schema.indexes.iter().filter(|name| !is_composite(name)).cloned().collect(),
        composite_indexes: schema.indexes.iter().filter_map(|name| composite_to_wire(name)).collect(),
        retain: schema.retain_ms.map(retain_to_wire),
        auto_key: schema.auto_key,
        ..v1::TableInfo::default()
    }
}

/// The API's message for what each use of a daemon's memory takes.
pub fn memory_to_wire(memory: &MemoryBudget) -> Vec<v1::MemoryUsage> {
    let usage = memory.usage().into_iter();
    let wire = |MemoryUsage { of, bytes, limit_bytes, refused }| v1::MemoryUsage {
        name: of.name().to_owned(),
        bytes,
        limit_bytes,
        refused,
    };
    usage.map(wire).collect()
}

/// A table that cannot be used, in a list of tables.
pub fn unusable_table_to_wire(table: &str, error: &Error) -> v1::TableInfo {
    let problem = error.clone().advising_doctor().to_string();
    v1::TableInfo { table: table.to_owned(), problem, ..v1::TableInfo::default() }
}

/// The files that a daemon does without.
pub fn damaged_files_to_wire(files: &DamagedFiles) -> Vec<v1::DamagedFile> {
    let wire = |(file, what_is_done): (DamagedFile, String)| v1::DamagedFile {
        path: file.path.display().to_string(),
        offset: file.offset,
        message: file.message,
        what_is_done,
    };
    files.list().into_iter().map(wire).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_survives_conversion_to_the_wire_and_back() {
        let span = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
        for ms in [1000, 1500, 7_776_000_000] {
            assert_eq!(retain_from_wire(Some(retain_to_wire(ms))).unwrap(), Some(ms));
        }
        assert_eq!(retain_from_wire(span(1, 999_999)).unwrap(), Some(1000));
        assert_eq!(retain_change_from_wire(None, false).unwrap(), None);
        assert_eq!(retain_change_from_wire(None, true).unwrap(), Some(None));
        assert_eq!(retain_change_from_wire(span(60, 0), false).unwrap(), Some(Some(60_000)));
        for (retain, forever) in [(span(60, 0), true), (span(-1, 0), false), (span(i64::MAX, 0), false)] {
            assert!(retain_change_from_wire(retain, forever).is_err(), "{retain:?}");
        }
    }
}
