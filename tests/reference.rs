//! The examples of docs/driftql.md: every statement runs, and returns what the page says.
//!
//! In blocks of the language `driftql`, a line `> …` is a statement, and the lines after it are its answer: documents as JSON,
//! messages, notes and errors. `DRIFTDB_BLESS=1 cargo test --test integration reference::` writes the actual answers.

use std::fmt::Write as _;

use driftdb_common::query::ast::StatementKind;
use driftdb_common::query::parser;

use crate::harness::calls::{Outcome, ask};
use crate::harness::*;
use driftdb::v1;
use driftdb::v1::writer_service_execute_response::Event;

const PAGE: &str = include_str!("../docs/driftql.md");

/// Executes a statement, and returns its answer as lines. `seen` is the newest commit of the examples.
async fn answer(cluster: &mut Cluster, statement: &str, seen: &mut u64) -> String {
    let kind = parser::parse(statement, &[]).map(|statement| statement.kind());
    if matches!(kind, Ok(StatementKind::Write)) {
        return match write(&mut cluster.writer, statement, seen).await {
            Ok(text) => text,
            Err(status) => format!("error: {}\n", status.message()),
        };
    }
    let answer = match ask(&mut cluster.reader, statement, *seen).await {
        Ok(answer) => answer,
        Err(status) => return format!("error: {}\n", status.message()),
    };
    let mut text = String::new();
    for result in &answer.results {
        match result {
            Outcome::Rows(batch) => batch
                .rows
                .iter()
                .for_each(|row| writeln!(text, "{}", text_of(row.document.as_ref().unwrap())).unwrap()),
            Outcome::Results(batch) => {
                batch
                    .results
                    .iter()
                    .for_each(|result| writeln!(text, "{}", without_moment(text_of(result))).unwrap());
            }
            Outcome::Count(count) => writeln!(text, "{{\"count\":{count}}}").unwrap(),
            // Without what is not the same in every run: the time of the commit.
            Outcome::Commit(commit) => commit.changes.iter().for_each(|change| {
                let kind = format!("{:?}", change.kind()).to_lowercase().replace("softdelete", "soft_delete");
                let field = |name: &str, document: &Option<v1::Document>| {
                    document
                        .as_ref()
                        .map_or(String::new(), |document| format!(",\"{name}\":{}", text_of(document)))
                };
                let fields =
                    [("payload", &change.payload), ("before", &change.before), ("after", &change.after)];
                let fields: String = fields.map(|(name, document)| field(name, document)).concat();
                let (seq, key) = (commit.seq, &change.key);
                let key = serde_json::Value::from(key.as_str());
                writeln!(text, "{{\"seq\":{seq},\"key\":{key},\"kind\":\"{kind}\"{fields}}}").unwrap();
            }),
            Outcome::Diff(row) => {
                let document = |document: &Option<v1::Document>| {
                    document.as_ref().map_or("null".to_owned(), |document| text_of(document).to_owned())
                };
                let (key, before, after) = (&row.key, document(&row.before), document(&row.after));
                writeln!(text, "{{\"key\":\"{key}\",\"before\":{before},\"after\":{after}}}").unwrap();
            }
            Outcome::Message(message) => writeln!(text, "{message}").unwrap(),
            other => writeln!(text, "{other:?}").unwrap(),
        }
    }
    answer
        .headers
        .iter()
        .flat_map(|header| &header.notes)
        .for_each(|note| writeln!(text, "note: {note}").unwrap());
    answer.notes.iter().for_each(|note| writeln!(text, "note: {note}").unwrap());
    text
}

/// Executes a statement at the writer. A commit has no text; what a statement over many rows has done has one.
async fn write(writer: &mut Writer, statement: &str, seen: &mut u64) -> Result<String, tonic::Status> {
    let request = v1::WriterServiceExecuteRequest { statement: statement.into(), ..Default::default() };
    let mut answers = writer.execute(request).await?.into_inner();
    let mut text = String::new();
    while let Some(answer) = answers.message().await? {
        match answer.event.unwrap() {
            Event::Token(token) => *seen = token.seq,
            Event::Bulk(v1::BulkResult { rows, commits, dry_run, sample, .. }) => {
                let (what, by) = if dry_run {
                    ("would change", String::new())
                } else {
                    (
                        "changed",
                        if commits == 1 {
                            " in one commit".to_owned()
                        } else {
                            format!(" in {commits} commits")
                        },
                    )
                };
                writeln!(text, "{rows} rows {what}{by}").unwrap();
                for change in sample {
                    let row = |row: &Option<v1::Document>| {
                        row.as_ref().map_or("nothing".to_owned(), |row| text_of(row).to_owned())
                    };
                    writeln!(text, "{}: {} → {}", change.key, row(&change.before), row(&change.after))
                        .unwrap();
                }
            }
            Event::Message(message) => writeln!(text, "{message}").unwrap(),
            Event::Progress(_) => {}
        }
    }
    Ok(text)
}

/// A result without the time of its moment, which is not the same in every run.
fn without_moment(result: &str) -> String {
    match result.strip_prefix("{\"_moment\":\"").and_then(|rest| rest.split_once('"')) {
        Some((_, rest)) => format!("{{\"_moment\":\"…\"{rest}"),
        None => result.to_owned(),
    }
}

#[tokio::test]
async fn every_example_of_the_reference_returns_what_the_page_says() {
    let mut cluster = Cluster::start().await;
    let (mut found, mut seen, mut is_example) = (String::new(), 0, false);
    for line in PAGE.lines() {
        if line.starts_with("```") {
            is_example = line == "```driftql";
        }
        match line.strip_prefix("> ").filter(|_| is_example) {
            Some(statement) => {
                writeln!(found, "{line}").unwrap();
                found += &answer(&mut cluster, statement, &mut seen).await;
            }
            None if is_example && !line.starts_with("```") => {}
            None => writeln!(found, "{line}").unwrap(),
        }
    }
    if std::env::var_os("DRIFTDB_BLESS").is_some() {
        let path = format!("{}/docs/driftql.md", env!("CARGO_MANIFEST_DIR"));
        #[expect(clippy::disallowed_methods, reason = "a page of the documentation, not a database")]
        std::fs::write(path, &found).unwrap();
        return;
    }
    for (expected, found) in PAGE.split("```").zip(found.split("```")) {
        assert_eq!(found, expected, "DRIFTDB_BLESS=1 accepts it");
    }
}
