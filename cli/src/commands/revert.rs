//! `revert`: restores a row as of a point in time, or prints what that would change.

use driftdb::client::Executed;
use driftdb::v1;
use driftdb_common::query::parser;

use crate::args::{RevertArgs, RowTargetArgs};
use crate::bulk;
use crate::database::DatabaseHandle;
use crate::exit::{CliResult, Failure};
use crate::render::{self, Printer, ResultItem};
use crate::shapes::{self, LoadSummary};
use crate::statement;

/// Restores the row and prints its commit, or prints the difference.
pub(crate) async fn run(args: RevertArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let to = statement::parse_point(&args.to, &database.clock()?)?;
    let options = v1::CommitOptions {
        reason: args.reason.clone().unwrap_or_default(),
        actor: args.actor.clone().unwrap_or_default(),
        ..Default::default()
    };
    if args.is_bulk() {
        return revert_many(&args, options, database, out).await;
    }
    if args.in_batches_of.is_some() {
        return Err(Failure::Usage("--in-batches-of needs --where or --all".to_owned()));
    }
    if args.dry_run {
        return preview(args.row, to, database, out).await;
    }
    let key = args.row.keys().first().cloned().unwrap_or_default();
    let operations = vec![v1::Operation::revert(args.row.table(), &key, to)];
    let request = v1::ApplyRequest { operations, options: Some(options), ..Default::default() };
    let token = database.apply(request).await?;
    out.print_record(&shapes::line(&LoadSummary {
        last_seq: token.seq,
        commits: 1,
        events: 1,
        skipped: None,
    })?)
}

/// Reverts the rows of a condition, or all rows.
async fn revert_many(
    args: &RevertArgs,
    options: v1::CommitOptions,
    database: &mut DatabaseHandle,
    out: &mut Printer,
) -> CliResult {
    let mut text = format!("REVERT `{}`", args.row.table().replace('`', "``"));
    if let Some(condition) = &args.condition {
        // Alone first, so that an error points into it.
        parser::parse_condition(condition, &[]).map_err(|error| Failure::in_text(error, condition))?;
        // It can end with a comment, which a new line ends.
        text.push_str(&format!(" WHERE {condition}\n"));
    }
    let point = serde_json::to_string(&args.to).map_err(|e| Failure::Usage(e.to_string()))?;
    text.push_str(&format!(" TO {point}"));
    if let Some(rows) = args.in_batches_of {
        text.push_str(&format!(" IN BATCHES OF {rows}"));
    }
    if args.dry_run {
        text.push_str(" DRY RUN");
    }
    let request = v1::WriterServiceExecuteRequest {
        statement: text,
        params: Vec::new(),
        options: Some(options),
        time_zone: database.time_zone(),
    };
    let Executed { token, bulk, .. } = database.execute_with_messages(request, |_| ()).await?;
    bulk::print(bulk.unwrap_or_default(), token.map(|token| token.seq), true, out)
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
