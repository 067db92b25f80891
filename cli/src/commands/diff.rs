//! `diff`: the net difference between two points in time.

use driftdb::v1;

use crate::args::DiffArgs;
use crate::database::DatabaseHandle;
use crate::exit::CliResult;
use crate::render::{self, Printer, ResultItem};
use crate::{shapes, statement};

/// Prints the rows that differ, as they arrive.
pub(crate) async fn run(args: DiffArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let clock = database.clock()?;
    let request = v1::DiffRequest {
        start: Some(statement::parse_point(&args.from, &clock)?),
        end: Some(statement::parse_point(&args.to, &clock)?),
        added_if_missing: !args.strict,
        table: args.rows.table().to_owned(),
        keys: args.rows.keys().to_vec(),
        ..Default::default()
    };
    out.begin_pages();
    let mut answers = database.fresh_client().await?.diff(request).await?;
    while let Some(answer) = answers.next().await? {
        render::note_all(answer.header.as_ref().map_or(&[], |header| &header.notes));
        for row in answer.rows {
            out.print_item(ResultItem::Difference(shapes::difference(row)?))?;
        }
    }
    out.end_rows()
}
