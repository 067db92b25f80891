//! `get`: rows by key, all of one moment.

use std::collections::{HashSet, VecDeque};

use driftdb::v1;
use driftdb_common::error::{Error, Reason};
use driftdb_common::limits;

use crate::args::Get;
use crate::client::{Client, Reader};
use crate::commands::moment;
use crate::exit::Outcome;
use crate::render::Output;
use crate::shapes;

/// Keys that an error names.
const NAMED: usize = 10;

/// Prints the rows in the order of their keys on the command line; a key without a row is an error at the end.
pub async fn run(args: Get, client: &mut Client, out: &mut Output) -> Outcome {
    let mut wanted: VecDeque<String> = args.keys.into_iter().chain(args.key).collect();
    let mut missing = Vec::new();
    let mut as_of = moment(args.as_of.as_deref())?;
    let freshness = client.freshness().await?;
    while !wanted.is_empty() {
        let keys: Vec<String> = wanted.drain(..wanted.len().min(limits::KEYS_PER_GET)).collect();
        let request = v1::GetRequest {
            table: args.table.clone(),
            keys: keys.clone(),
            as_of,
            freshness,
            ..Default::default()
        };
        let answer =
            client.read(async |mut reader: Reader| reader.get(request.clone()).await).await?.into_inner();
        let left: HashSet<String> = answer.remaining.iter().cloned().collect();
        let found: HashSet<String> = answer.rows.iter().map(|row| row.key.clone()).collect();
        missing.extend(keys.into_iter().filter(|key| !found.contains(key) && !left.contains(key)));
        for row in answer.rows {
            out.record(&shapes::row(row, args.meta)?)?;
        }
        answer.remaining.into_iter().rev().for_each(|key| wanted.push_front(key));
        // What is still to be read is read at the moment that this answer was.
        let seq = answer.header.unwrap_or_default().read_seq;
        as_of = Some(v1::AsOf { at: Some(v1::as_of::At::Seq(seq)) });
    }
    if missing.is_empty() {
        return Ok(());
    }
    let more = missing.len().saturating_sub(NAMED);
    missing.truncate(NAMED);
    let named = missing.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let message = format!("table {:?} has no row with the key {named}{more} at that moment", args.table);
    Err(Error::new(Reason::RowNotFound, message).into())
}
