//! `select`: the rows that match a condition, in key order.

use driftdb::v1;

use crate::args::SelectArgs;
use crate::database::DatabaseHandle;
use crate::errors::to_error;
use crate::exit::{CliResult, Failure};
use crate::render::{self, Printer};
use crate::{shapes, statement};

/// Prints the rows as they arrive.
pub(crate) async fn run(args: SelectArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let request = v1::SelectRequest {
        as_of: statement::parse_optional_point(args.as_of.as_deref(), &database.clock()?)?,
        time_zone: database.time_zone(),
        table: args.table.name().to_owned(),
        r#where: args.condition.clone().unwrap_or_default(),
        params: args.param,
        fields: args.fields,
        limit: args.limit.unwrap_or(0),
        ..Default::default()
    };
    let condition = args.condition.unwrap_or_default();
    let rows = database.fresh_client().await?.select(request).await;
    let mut rows = rows.map_err(|status| Failure::in_text(to_error(&status), &condition))?;
    render::note_all(&rows.header().notes);
    while let Some(row) = rows.next().await? {
        out.print_record(&shapes::row(row, args.meta)?)?;
    }
    out.end_rows()
}
