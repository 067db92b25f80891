//! `diff`: the net difference between two points in time.

use driftdb::v1;

use crate::args::DiffArgs;
use crate::database::DatabaseHandle;
use crate::exit::CliResult;
use crate::render::{Printer, ResultItem};
use crate::{shapes, statement};

/// Prints the rows that differ, as they arrive.
pub(crate) async fn run(args: DiffArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let request = v1::DiffRequest {
        start: Some(statement::parse_point(&args.from)?),
        end: Some(statement::parse_point(&args.to)?),
        table: args.rows.table().to_owned(),
        keys: args.rows.keys().to_vec(),
        ..Default::default()
    };
    out.begin_pages();
    let mut answers = database.fresh_client().await?.diff(request).await?;
    while let Some(answer) = answers.next().await? {
        for row in answer.rows {
            out.print_item(ResultItem::Difference(shapes::difference(row)?))?;
        }
    }
    out.end_rows()
}
