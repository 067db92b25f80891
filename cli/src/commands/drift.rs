//! `drift`: the history of a row or a table.

use driftdb::v1;

use crate::args::DriftArgs;
use crate::database::DatabaseHandle;
use crate::exit::CliResult;
use crate::render::{self, Printer};
use crate::{shapes, statement};

/// Prints the events as they arrive, oldest first.
pub(crate) async fn run(args: DriftArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let request = v1::HistoryRequest {
        start: statement::parse_optional_point(args.from.as_deref())?,
        end: statement::parse_optional_point(args.to.as_deref())?,
        table: args.rows.table().to_owned(),
        key: args.rows.keys().first().cloned().unwrap_or_default(),
        limit: args.limit.unwrap_or(0),
        ..Default::default()
    };
    out.begin_pages();
    let mut noted = false;
    let mut answers = database.fresh_client().await?.history(request).await?;
    while let Some(answer) = answers.next().await? {
        if answer.truncated && !std::mem::replace(&mut noted, true) {
            render::note_truncated(answer.header.as_ref());
        }
        for commit in answer.commits {
            for line in shapes::drift(commit)? {
                out.print_record(&line)?;
            }
        }
    }
    out.end_rows()
}
