//! `ingest`: rows from JSON Lines, many a commit.

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use serde_json::value::RawValue;
use v1::operation::Action;

use crate::args::Ingest;
use crate::client::Client;
use crate::exit::Outcome;
use crate::input::{Line, Lines};
use crate::render::{self, Output, Progress};
use crate::shapes::{self, Loaded};

/// Rows in a commit.
const ROWS: usize = 1000;
/// Bytes of rows in a commit, after which it is full.
const BYTES: usize = 1 << 20;

/// Loads the file's rows and prints how many there were.
pub async fn run(args: &Ingest, client: &mut Client, out: &mut Output) -> Outcome {
    let mut lines = Lines::open(&args.file)?;
    let mut loaded = Loaded::default();
    let outcome = load(args, &mut lines, client, &mut loaded).await;
    if outcome.is_err() && loaded.commits > 0 {
        let Loaded { last_seq, events, .. } = loaded;
        render::note(&format!("note: {events} rows before it were loaded, up to seq {last_seq}"));
    }
    outcome?;
    out.record(&shapes::line(&loaded)?)
}

async fn load(args: &Ingest, lines: &mut Lines, client: &mut Client, loaded: &mut Loaded) -> Result<()> {
    let mut progress = Progress::default();
    loop {
        let batch = batch(lines).await?;
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return Ok(()) };
        let place = match first.number == last.number {
            true => lines.place(first.number),
            false => format!("{} to {}", lines.place(first.number), last.number),
        };
        let rows = batch.len() as u64;
        let operations = batch.into_iter().map(|line| operation(args, line.text)).collect();
        let request = v1::ApplyRequest { operations, ..Default::default() };
        let token = client.apply(request).await.map_err(|e| e.context(place))?;
        loaded.last_seq = token.seq;
        loaded.commits += 1;
        loaded.events += rows;
        progress.show(format_args!("{} rows", loaded.events));
    }
}

/// The rows of the next commit; none at the end.
async fn batch(lines: &mut Lines) -> Result<Vec<Line>> {
    let (mut batch, mut bytes) = (Vec::with_capacity(ROWS), 0);
    while batch.len() < ROWS && bytes < BYTES {
        let Some(line) = lines.next().await? else { break };
        check(&line.text).map_err(|e| e.context(lines.place(line.number)))?;
        bytes += line.text.len();
        batch.push(line);
    }
    Ok(batch)
}

/// Finds what is no JSON object here, where the line is known. What a document may hold, the writer decides.
fn check(text: &str) -> Result<()> {
    let parsed = serde_json::from_str::<&RawValue>(text);
    let wrong = match parsed {
        Ok(value) if value.get().starts_with('{') => return Ok(()),
        Ok(_) => "a row is a JSON object".to_owned(),
        Err(e) => e.to_string(),
    };
    Err(Error::new(Reason::DocumentInvalid, wrong))
}

fn operation(args: &Ingest, text: String) -> v1::Operation {
    let document = v1::Document { body: Some(v1::document::Body::Json(text)) };
    let action = if args.upsert { Action::Put(document) } else { Action::Insert(document) };
    v1::Operation { table: args.table.clone(), key: String::new(), action: Some(action) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_objects() {
        assert!(check(r#" {"a":1} "#).is_ok());
        for text in ["[]", "1", "{\"a\":1", "{} {}", "id,status"] {
            assert_eq!(check(text).unwrap_err().reason(), Reason::DocumentInvalid, "{text}");
        }
    }
}
