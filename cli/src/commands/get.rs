//! `get`: rows by key, all of one moment.

use std::collections::HashSet;

use driftdb::v1;
use driftdb_common::error::{Error, Reason};
use driftdb_common::limits;

use crate::args::Get;
use crate::client::Client;
use crate::commands::moment;
use crate::exit::Outcome;
use crate::render::Output;
use crate::shapes;

/// Keys that an error names.
const NAMED: usize = 10;

/// Prints the rows in the order of their keys on the command line; a key without a row is an error at the end.
pub async fn run(args: Get, client: &mut Client, out: &mut Output) -> Outcome {
    let wanted: Vec<String> = args.keys.into_iter().chain(args.key).collect();
    let mut missing = Vec::new();
    let mut as_of = moment(args.as_of.as_deref())?;
    let database = client.reading().await?;
    for keys in wanted.chunks(limits::KEYS_PER_GET) {
        let request =
            v1::GetRequest { table: args.table.clone(), keys: keys.to_vec(), as_of, ..Default::default() };
        let answer = database.get_rows(request).await?;
        let found: HashSet<&str> = answer.rows.iter().map(|row| row.key.as_str()).collect();
        missing.extend(keys.iter().filter(|key| !found.contains(key.as_str())).cloned());
        for row in answer.rows {
            out.record(&shapes::row(row, args.meta)?)?;
        }
        // What is still to be read is read at the moment that this answer was.
        as_of = Some(v1::AsOf::seq(answer.header.unwrap_or_default().read_seq));
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
