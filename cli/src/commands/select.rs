//! `select`: the rows that match a condition, in the order of keys or of columns.

use driftdb::v1;
use driftdb_common::query::parser;

use crate::args::SelectArgs;
use crate::database::DatabaseHandle;
use crate::errors::to_error;
use crate::exit::{CliResult, Failure};
use crate::render::{self, Printer, ResultItem};
use crate::{shapes, statement};

/// Prints the rows as they arrive.
pub(crate) async fn run(args: SelectArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let order_by = args.order_by.unwrap_or_default();
    if !order_by.is_empty() {
        // Here, because an error of the reader would not say in which of the texts its place is.
        parser::parse_order_by(&order_by).map_err(|error| Failure::in_text(error, &order_by))?;
    }
    statement::check_fields(&args.fields)?;
    statement::parse_params(&args.param)?;
    let request = v1::SelectRequest {
        as_of: statement::parse_optional_point(args.as_of.as_deref(), &database.clock()?)?,
        time_zone: database.time_zone(),
        table: args.table.name().to_owned(),
        r#where: args.condition.clone().unwrap_or_default(),
        params: args.param,
        fields: args.fields,
        order_by,
        // One more row shows whether the limit leaves out any.
        limit: args.limit.map_or(0, |limit| limit.saturating_add(u64::from(out.wants_notes()))),
        ..Default::default()
    };
    let condition = args.condition.unwrap_or_default();
    let rows = database.fresh_client().await?.select(request).await;
    let mut rows = rows.map_err(|status| Failure::in_text(to_error(&status), &condition))?;
    render::note_all(&rows.header().notes);
    out.begin_pages();
    let (mut printed, limit) = (0, args.limit.unwrap_or(u64::MAX));
    while let Some(row) = rows.next().await? {
        if printed == limit {
            out.end_rows()?;
            render::note(&format!("note: more rows match than --limit {limit}"));
            return Ok(());
        }
        out.print_record(&shapes::row(row, args.meta)?)?;
        printed += 1;
    }
    for note in rows.notes() {
        out.print_item(ResultItem::Note(note.clone()))?;
    }
    out.end_rows()
}
