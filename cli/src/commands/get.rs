//! `get`: rows by key, all at the same point in time.

use std::collections::HashSet;

use driftdb::v1;
use driftdb_common::error::{Error, Reason};
use driftdb_common::format::key_columns::CompositeKey;
use driftdb_common::limits;

use crate::args::GetArgs;
use crate::database::DatabaseHandle;
use crate::exit::CliResult;
use crate::render::Printer;
use crate::{shapes, statement};

/// How many missing keys an error names.
const NAMED: usize = 10;

/// Prints the rows in the order of the keys on the command line. A key without a row is an error at the end.
pub(crate) async fn run(args: GetArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let table = args.rows.table();
    let mut missing = Vec::new();
    let mut as_of = statement::parse_optional_point(args.as_of.as_deref(), &database.clock()?)?;
    let client = database.fresh_client().await?;
    out.begin_pages();
    for keys in args.rows.keys().chunks(limits::KEYS_PER_GET) {
        let request =
            v1::GetRequest { table: table.to_owned(), keys: keys.to_vec(), as_of, ..Default::default() };
        let answer = client.get_rows(request).await?;
        let found: HashSet<&str> = answer.rows.iter().map(|row| row.key.as_str()).collect();
        let is_missing = |key: &&String| {
            !found.contains(key.as_str()) && !answer.rows.iter().any(|row| is_named(row, key))
        };
        missing.extend(keys.iter().filter(is_missing).cloned());
        for row in answer.rows {
            out.print_record(&shapes::row(row, args.meta)?)?;
        }
        // Read the remaining keys at the point in time of the first result.
        as_of = Some(v1::AsOf::seq(answer.header.unwrap_or_default().read_seq));
    }
    if missing.is_empty() {
        return out.end_rows();
    }
    let more = missing.len().saturating_sub(NAMED);
    missing.truncate(NAMED);
    let named = missing.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let message = format!("table {table:?} has no row with key {named}{more} at this point in time");
    out.finish_with(Error::new(Reason::RowNotFound, message))
}

/// Whether a composite key in another spelling names a row: an array with spaces, or an object with the fields.
fn is_named(row: &v1::Row, key: &str) -> bool {
    if let Some(text) = CompositeKey::canonical_text(key) {
        return text == row.key;
    }
    let Ok(fields) = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(key) else {
        return false;
    };
    let Some(v1::document::Body::Json(text)) = row.document.as_ref().and_then(|d| d.body.as_ref()) else {
        return false;
    };
    let document = serde_json::from_str::<serde_json::Value>(text).unwrap_or_default();
    fields.iter().all(|(name, value)| document.get(name) == Some(value))
}
