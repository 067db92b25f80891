//! `revert`: restores a row as of a point in time, or prints what that would change.

use driftdb::v1;

use crate::args::{RevertArgs, RowTargetArgs};
use crate::database::DatabaseHandle;
use crate::exit::CliResult;
use crate::render::{self, Printer, ResultItem};
use crate::shapes::{self, LoadSummary};
use crate::statement;

/// Restores the row and prints its commit, or prints the difference.
pub(crate) async fn run(args: RevertArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let to = statement::parse_point(&args.to, &database.clock()?)?;
    if args.dry_run {
        return preview(args.row, to, database, out).await;
    }
    let key = args.row.keys().first().cloned().unwrap_or_default();
    let operations = vec![v1::Operation::revert(args.row.table(), &key, to)];
    let token = database.apply(operations.into()).await?;
    out.print_record(&shapes::line(&LoadSummary {
        last_seq: token.seq,
        commits: 1,
        events: 1,
        skipped: None,
    })?)
}

/// Prints the difference between the row now and the row as it was.
async fn preview(
    target: RowTargetArgs,
    to: v1::AsOf,
    database: &mut DatabaseHandle,
    out: &mut Printer,
) -> CliResult {
    let client = database.fresh_client().await?;
    let row = async |as_of: Option<v1::AsOf>| {
        let (table, keys) = (target.table().to_owned(), target.keys().to_vec());
        let request = v1::GetRequest { table, keys, as_of, ..Default::default() };
        let row = client.get_rows(request).await?.rows.pop();
        CliResult::Ok(row.and_then(|row| row.document))
    };
    let (before, after) = (row(None).await?, row(Some(to)).await?);
    if before == after {
        render::note("note: the row would not change");
        return Ok(());
    }
    let key = target.keys().first().cloned().unwrap_or_default();
    let diff = v1::RowDiff { key, before, after, ..Default::default() };
    out.print_item(ResultItem::Difference(shapes::difference(diff)?))
}
