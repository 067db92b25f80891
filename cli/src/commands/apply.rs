//! `apply`: applies commits from a JSON Lines file, in order. Each line is one atomic commit.

use std::borrow::Cow;

use driftdb::client::WriteReceipt;
use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result, counted};
use driftdb_common::format::rfc3339::UtcTime;
use driftdb_common::table::schema::SchemaEvent;
use serde::Deserialize;
use serde_json::value::RawValue;
use v1::operation::Action;

use crate::args::ApplyArgs;
use crate::changes::{self, ImportedContent, KnownSchemas};
use crate::database::DatabaseHandle;
use crate::exit::CliResult;
use crate::input::Lines;
use crate::made_keys;
use crate::render::{self, Printer, ProgressLine};
use crate::shapes::{self, CommitRecord, LoadSummary};

/// The commits whose keys people are told.
const COMMITS_NOTED: u64 = 10;

/// A line of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommitLine<'a> {
    #[serde(borrow)]
    time: Option<Cow<'a, str>>,
    reason: Option<String>,
    actor: Option<String>,
    #[serde(borrow)]
    ops: Vec<OperationLine<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperationLine<'a> {
    op: OperationName,
    table: String,
    key: Option<KeyJson>,
    /// Kept as text: the writer validates documents.
    #[serde(borrow)]
    doc: Option<&'a RawValue>,
    #[serde(borrow)]
    patch: Option<&'a RawValue>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OperationName {
    Insert,
    Put,
    Patch,
    Delete,
}

/// A key. The API takes keys as text, also those of INT tables.
#[derive(Deserialize)]
#[serde(untagged)]
enum KeyJson {
    Text(String),
    Int(i64),
    /// The values of a composite key.
    Values(Vec<serde_json::Value>),
    /// The same with its fields.
    Fields(serde_json::Map<String, serde_json::Value>),
}

/// Applies the commits of the file and prints their number.
pub(crate) async fn run(args: &ApplyArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let mut lines = Lines::open(&args.file)?;
    let mut loaded = LoadSummary::default();
    let outcome = load(args, &mut lines, (database, &mut *out), &mut loaded).await;
    if outcome.is_err() && loaded.commits > 0 {
        let LoadSummary { last_seq, commits, .. } = loaded;
        render::note(&format!("note: commits applied before the error: {commits}; last seq: {last_seq}"));
    }
    outcome?;
    out.print_record(&shapes::line(&loaded)?)
}

/// The commits of a file on their way to the writer.
struct Applying<'a> {
    database: &'a mut DatabaseHandle,
    keys: PrintedKeys<'a>,
    preserve_time: bool,
    /// The next commit must not be earlier than this.
    latest: Option<UtcTime>,
    /// The commits whose own time is before that, and which therefore have another.
    moved: u64,
    /// The schemas of the tables, once a line has changed one.
    schemas: Option<KnownSchemas>,
}

async fn load(
    args: &ApplyArgs,
    lines: &mut Lines,
    (database, out): (&mut DatabaseHandle, &mut Printer),
    loaded: &mut LoadSummary,
) -> CliResult {
    let mut progress = ProgressLine::default();
    let latest = match args.preserve_time {
        true => database.writer_status().await?.last_time.and_then(moment),
        false => None,
    };
    let preserve_time = args.preserve_time;
    let keys = PrintedKeys { out, noted: 0 };
    let mut applying = Applying { database, keys, preserve_time, latest, moved: 0, schemas: None };
    while let Some(line) = lines.next().await? {
        let applied = applying.apply(&line.text).await.map_err(|e| e.context(lines.place(line.number)))?;
        let AppliedLine { seq, events, made_keys } = applied;
        loaded.last_seq = seq;
        loaded.commits += 1;
        loaded.events += events;
        applying.keys.print(seq, made_keys)?;
        progress.show(format_args!("{} commits, {} events", loaded.commits, loaded.events));
    }
    drop(progress);
    applying.keys.finish();
    if applying.moved > 0 {
        let commits = counted(applying.moved, "commit");
        let message = format!(
            "note: {commits} got a later time than in the file: no commit may be earlier than the commit before it in the \
             database; to keep all times, apply the file first, to a new database"
        );
        render::note(&message);
    }
    Ok(())
}

/// What a line has become.
struct AppliedLine {
    /// The commit.
    seq: u64,
    /// The number of its events.
    events: u64,
    /// The keys that the writer made for its inserts.
    made_keys: Vec<v1::MadeKey>,
}

/// The keys that the writer made, commit by commit as they are known: nobody else can tell them afterwards.
struct PrintedKeys<'a> {
    out: &'a mut Printer,
    /// The commits whose keys people were told, or would have been.
    noted: u64,
}

impl PrintedKeys<'_> {
    /// Prints the keys of a commit: for programs as a record, for people as a note.
    fn print(&mut self, seq: u64, made: Vec<v1::MadeKey>) -> CliResult {
        if made.is_empty() {
            return Ok(());
        }
        let keys = made_keys::texts(made);
        if !self.out.is_for_people() && self.out.can_stream() {
            return self.out.print_record(&shapes::line(&CommitRecord { seq, keys })?);
        }
        self.noted += 1;
        if self.noted <= COMMITS_NOTED {
            render::note(&format!("note: seq {seq}{}", made_keys::with_keys(&keys)));
        }
        Ok(())
    }

    /// Tells how many commits were not noted.
    fn finish(&self) {
        let more = self.noted.saturating_sub(COMMITS_NOTED);
        if more > 0 {
            render::note(&format!(
                "note: {more} more commits have keys that the writer made; -o jsonl prints all"
            ));
        }
    }
}

impl Applying<'_> {
    /// Applies a line.
    async fn apply(&mut self, line: &str) -> Result<AppliedLine> {
        let (request, time) = if changes::has_changes(line) {
            let commit = changes::parse(line)?;
            let options =
                v1::CommitOptions { reason: commit.reason, actor: commit.actor, ..Default::default() };
            match commit.content {
                ImportedContent::Rows(operations) => (
                    v1::ApplyRequest { operations, options: Some(options), ..Default::default() },
                    commit.time,
                ),
                ImportedContent::Schema(event) => {
                    let seq = self.change_schema(&event, options, commit.time).await?;
                    return Ok(AppliedLine { seq, events: 1, made_keys: Vec::new() });
                }
            }
        } else {
            request(line)?
        };
        let (commit_time, events) = (self.commit_time(time), request.operations.len() as u64);
        let options = request.options.map(|options| v1::CommitOptions { commit_time, ..options });
        let applied = self.database.apply_inserts(v1::ApplyRequest { options, ..request }).await?;
        let WriteReceipt { token, made_keys, .. } = applied;
        self.latest = token.time.and_then(moment).or(self.latest);
        Ok(AppliedLine { seq: token.seq, events, made_keys })
    }

    /// The time of a commit that names one, if times are kept.
    fn commit_time(&mut self, time: Option<UtcTime>) -> Option<prost_types::Timestamp> {
        let kept = time.filter(|_| self.preserve_time)?;
        let latest = self.latest.filter(|latest| *latest > kept);
        self.moved += u64::from(latest.is_some());
        Some(shapes::timestamp(latest.unwrap_or(kept)))
    }

    async fn change_schema(
        &mut self,
        event: &SchemaEvent,
        options: v1::CommitOptions,
        time: Option<UtcTime>,
    ) -> Result<u64> {
        let mut schemas = match self.schemas.take() {
            Some(schemas) => schemas,
            None => KnownSchemas::of(self.database.writer_status().await?.tables),
        };
        let commit_time = self.commit_time(time);
        let request = schemas.request(event, v1::CommitOptions { commit_time, ..options })?;
        let token = self.database.change_schema(request).await?.unwrap_or_default();
        self.latest = token.time.and_then(moment).or(self.latest);
        schemas.learn(event);
        self.schemas = Some(schemas);
        Ok(token.seq)
    }
}

fn moment(time: prost_types::Timestamp) -> Option<UtcTime> {
    UtcTime::from_parts(time.seconds, time.nanos)
}

/// The request of a line, and the time that the line names.
fn request(line: &str) -> Result<(v1::ApplyRequest, Option<UtcTime>)> {
    let commit: CommitLine<'_> = serde_json::from_str(line).map_err(|e| invalid(format_args!("{e}")))?;
    let time =
        commit.time.map(|time| time.parse::<UtcTime>().map_err(|e| invalid(format_args!("\"time\": {e}"))));
    let operations = commit.ops.into_iter().map(operation).collect::<Result<_>>()?;
    let options = v1::CommitOptions {
        reason: commit.reason.unwrap_or_default(),
        actor: commit.actor.unwrap_or_default(),
        ..Default::default()
    };
    let request = v1::ApplyRequest { operations, options: Some(options), ..Default::default() };
    Ok((request, time.transpose()?))
}

fn operation(op: OperationLine<'_>) -> Result<v1::Operation> {
    let key = op.key.map(|key| match key {
        KeyJson::Text(text) => text,
        KeyJson::Int(int) => int.to_string(),
        KeyJson::Values(values) => serde_json::Value::Array(values).to_string(),
        KeyJson::Fields(fields) => serde_json::Value::Object(fields).to_string(),
    });
    let (wanted, other) = match op.op {
        OperationName::Patch => (op.patch, op.doc.map(|_| "doc")),
        OperationName::Insert | OperationName::Put => (op.doc, op.patch.map(|_| "patch")),
        OperationName::Delete => (None, op.doc.map(|_| "doc").or(op.patch.map(|_| "patch"))),
    };
    if let Some(name) = other {
        return Err(invalid(format_args!("operation {:?} does not take the field {name:?}", op.op)));
    }
    let missing = |name| invalid(format_args!("operation {:?} needs the field {name:?}", op.op));
    let key = match op.op {
        OperationName::Insert | OperationName::Put => key.unwrap_or_default(),
        OperationName::Patch | OperationName::Delete => key.ok_or_else(|| missing("key"))?,
    };
    let document = |name| {
        let text = wanted.ok_or_else(|| missing(name))?.get().to_owned();
        Ok::<_, Error>(v1::Document { body: Some(v1::document::Body::Json(text)) })
    };
    let action = match op.op {
        OperationName::Insert => Action::Insert(document("doc")?),
        OperationName::Put => Action::Put(document("doc")?),
        OperationName::Patch => Action::Patch(document("patch")?),
        OperationName::Delete => Action::SoftDelete(v1::operation::SoftDelete {}),
    };
    Ok(v1::Operation { table: op.table, key, action: Some(action) })
}

fn invalid(what: std::fmt::Arguments<'_>) -> Error {
    Error::new(Reason::ArgumentInvalid, format!("not a commit: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_one_request_with_unchanged_documents() {
        let line = r#"{"time":"2026-01-01T00:00:00Z","reason":"why","ops":[
            {"op":"insert","table":"t","doc":{ "z": 1.0, "a": 1e2 }},
            {"op":"put","table":"t","key":"k","doc":{}},
            {"op":"patch","table":"t","key":7,"patch":{"a":null}},
            {"op":"delete","table":"t","key":"k"}]}"#;
        let (request, time) = request(line).unwrap();
        assert_eq!(time.unwrap().to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(request.options.unwrap().reason, "why");
        let json = |text: &str| v1::Document { body: Some(v1::document::Body::Json(text.into())) };
        let actions: Vec<_> = request.operations.into_iter().map(|o| (o.key, o.action.unwrap())).collect();
        assert_eq!(
            actions,
            [
                (String::new(), Action::Insert(json(r#"{ "z": 1.0, "a": 1e2 }"#))),
                ("k".into(), Action::Put(json("{}"))),
                ("7".into(), Action::Patch(json(r#"{"a":null}"#))),
                ("k".into(), Action::SoftDelete(v1::operation::SoftDelete {})),
            ]
        );
    }

    #[test]
    fn an_invalid_line_is_rejected() {
        for line in [
            "",
            "[]",
            "{}",
            r#"{"ops":[{"op":"nonsense","table":"t","key":"k"}]}"#,
            r#"{"ops":[{"op":"patch","table":"t","key":"k"}]}"#,
            r#"{"ops":[{"op":"patch","table":"t","patch":{}}]}"#,
            r#"{"ops":[{"op":"insert","table":"t","patch":{}}]}"#,
            r#"{"ops":[{"op":"delete","table":"t","key":"k","doc":{}}]}"#,
            r#"{"ops":[{"op":"delete","key":"k"}]}"#,
            r#"{"ops":[],"tiem":"2026-01-01T00:00:00Z"}"#,
            r#"{"ops":[],"time":"yesterday"}"#,
        ] {
            let error = request(line).unwrap_err();
            assert!(error.message().starts_with("not a commit: "), "{line}: {error}");
        }
    }
}
