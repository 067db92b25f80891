//! Short forms of calls: execute a statement, read a whole stream, decode an answer.

use driftdb::v1;
pub use driftdb::v1::reader_service_execute_response::Result as Outcome;
use serde_json::{Value, json};
use tonic::Status;

use super::{Reader, Writer, text_of};

/// Executes a statement on the writer and returns its token.
pub async fn run(writer: &mut Writer, statement: &str) -> Result<v1::WriteToken, Status> {
    run_with(writer, statement, &[]).await
}

/// Like [`run`], with parameters.
pub async fn run_with(
    writer: &mut Writer,
    statement: &str,
    params: &[&str],
) -> Result<v1::WriteToken, Status> {
    let params = params.iter().map(ToString::to_string).collect();
    let request =
        v1::WriterServiceExecuteRequest { statement: statement.into(), params, ..Default::default() };
    let mut stream = writer.execute(request).await?.into_inner();
    let answer = stream.message().await?.unwrap();
    assert!(stream.message().await?.is_none());
    match answer.event.unwrap() {
        v1::writer_service_execute_response::Event::Token(token) => Ok(token),
        other => panic!("expected a token, found {other:?}"),
    }
}

/// Takes a snapshot of a table.
pub async fn snapshot(writer: &mut Writer, table: &str) -> Result<(), Status> {
    let mut answers = writer.snapshot(v1::SnapshotRequest { table: table.into() }).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

/// Compacts a table up to a point, or up to its newest snapshot.
pub async fn compact(
    writer: &mut Writer,
    table: &str,
    before: Option<v1::AsOf>,
    dry_run: bool,
) -> Result<v1::CompactInfo, Status> {
    let request = v1::CompactRequest { table: table.into(), before, dry_run };
    let mut answers = writer.compact(request).await?.into_inner();
    let mut info = None;
    while let Some(answer) = answers.message().await? {
        if let Some(v1::compact_response::Event::Compaction(found)) = answer.event {
            info = Some(found);
        }
    }
    Ok(info.expect("the last message of a compaction has its result"))
}

/// A freshness that waits for a commit.
pub fn fresh(seq: u64) -> Option<v1::Freshness> {
    Some(v1::Freshness { min_seq: seq, ..Default::default() })
}

/// The answer to a statement that reads.
#[derive(Debug, Default)]
pub struct Answer {
    pub headers: Vec<v1::ReadHeader>,
    pub results: Vec<Outcome>,
    pub notes: Vec<String>,
}

/// Executes a statement on a reader, once the reader has applied commit `seen`.
pub async fn ask(reader: &mut Reader, statement: &str, seen: u64) -> Result<Answer, Status> {
    ask_with(reader, statement, &[], seen).await
}

/// Like [`ask`], with parameters.
pub async fn ask_with(
    reader: &mut Reader,
    statement: &str,
    params: &[&str],
    seen: u64,
) -> Result<Answer, Status> {
    let request = v1::ReaderServiceExecuteRequest {
        statement: statement.into(),
        params: params.iter().map(ToString::to_string).collect(),
        freshness: fresh(seen),
        ..Default::default()
    };
    let mut stream = reader.execute(request).await?.into_inner();
    let mut answer = Answer::default();
    while let Some(message) = stream.message().await? {
        answer.headers.extend(message.header);
        answer.results.extend(message.result);
        answer.notes.extend(message.notes);
    }
    assert_eq!(answer.headers.len(), 1, "only the first message has a header");
    Ok(answer)
}

impl Answer {
    /// The commit that the answer shows.
    pub fn seq(&self) -> u64 {
        self.headers[0].read_seq
    }

    /// The rows of a SELECT: key and document.
    pub fn rows(&self) -> Vec<(String, Value)> {
        let batches = self.results.iter().map(|result| match result {
            Outcome::Rows(batch) => &batch.rows,
            other => panic!("expected rows, found {other:?}"),
        });
        batches.flatten().map(|row| (row.key.clone(), value_of(row.document.as_ref()))).collect()
    }

    /// What a SELECT returned, rows of the table or not.
    pub fn documents(&self) -> Vec<Value> {
        let of = |result: &Outcome| match result {
            Outcome::Rows(batch) => batch.rows.iter().map(|row| value_of(row.document.as_ref())).collect(),
            Outcome::Results(batch) => batch.results.iter().map(|result| value_of(Some(result))).collect(),
            Outcome::Count(count) => vec![json!({"COUNT(*)": count})],
            other => panic!("expected rows or results, found {other:?}"),
        };
        self.results.iter().flat_map(of as fn(&Outcome) -> Vec<Value>).collect()
    }

    /// The keys of a SELECT's rows.
    pub fn keys(&self) -> Vec<String> {
        self.rows().into_iter().map(|(key, _)| key).collect()
    }

    /// The answer to `COUNT(*)`.
    pub fn count(&self) -> u64 {
        match self.results.as_slice() {
            [Outcome::Count(count)] => *count,
            other => panic!("expected a count, found {other:?}"),
        }
    }

    /// The answer to EXPLAIN.
    pub fn message(&self) -> &str {
        match self.results.as_slice() {
            [Outcome::Message(message)] => message,
            other => panic!("expected a message, found {other:?}"),
        }
    }

    /// The tables of SHOW TABLES and DESCRIBE.
    pub fn tables(&self) -> Vec<&v1::TableInfo> {
        fn table(result: &Outcome) -> &v1::TableInfo {
            match result {
                Outcome::Table(table) => table,
                other => panic!("expected a table, found {other:?}"),
            }
        }
        self.results.iter().map(table).collect()
    }

    /// The events of SHOW DRIFT: commit, kind and key.
    pub fn drift(&self) -> Vec<(u64, v1::ChangeKind, String)> {
        let commits = self.results.iter().map(|result| match result {
            Outcome::Commit(commit) => commit,
            other => panic!("expected a commit, found {other:?}"),
        });
        commits
            .flat_map(|commit| {
                commit.changes.iter().map(|change| (commit.seq, change.kind(), change.key.clone()))
            })
            .collect()
    }

    /// The rows of SHOW DIFF: key, before and after.
    pub fn diff(&self) -> Vec<(String, Value, Value)> {
        let rows = self.results.iter().map(|result| match result {
            Outcome::Diff(row) => row,
            other => panic!("expected a difference, found {other:?}"),
        });
        rows.map(|row| (row.key.clone(), value_of(row.before.as_ref()), value_of(row.after.as_ref())))
            .collect()
    }
}

/// A document's content; null if there is no document.
pub fn value_of(document: Option<&v1::Document>) -> Value {
    document.map_or(Value::Null, |document| serde_json::from_str(text_of(document)).unwrap())
}
