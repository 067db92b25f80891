//! `drift`: the history of a row or a table.

use driftdb::v1;

use crate::args::DriftArgs;
use crate::database::DatabaseHandle;
use crate::errors::to_error;
use crate::exit::{CliResult, Failure};
use crate::render::{self, Printer};
use crate::shapes::{self, RequestedImages};
use crate::statement;

/// Prints the events as they arrive, oldest first.
pub(crate) async fn run(args: DriftArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let clock = database.clock()?;
    let images = RequestedImages { before: args.with_before, after: args.with_after };
    let request = v1::HistoryRequest {
        start: statement::parse_optional_point(args.from.as_deref(), &clock)?,
        end: statement::parse_optional_point(args.to.as_deref(), &clock)?,
        r#where: args.condition.clone().unwrap_or_default(),
        params: args.param,
        actor: args.by.unwrap_or_default(),
        with_before: args.with_before,
        with_after: args.with_after,
        time_zone: database.time_zone(),
        table: args.rows.table().to_owned(),
        key: args.rows.keys().first().cloned().unwrap_or_default(),
        limit: args.limit.unwrap_or(0),
        ..Default::default()
    };
    out.begin_pages();
    let mut noted = false;
    let condition = args.condition.unwrap_or_default();
    let in_condition = |status| Failure::in_text(to_error(&status), &condition);
    let mut answers = database.fresh_client().await?.history(request).await.map_err(in_condition)?;
    while let Some(answer) = answers.next().await? {
        render::note_all(answer.header.as_ref().map_or(&[], |header| &header.notes));
        if answer.truncated && !std::mem::replace(&mut noted, true) {
            render::note_truncated(answer.header.as_ref());
        }
        for commit in answer.commits {
            for line in shapes::drift(commit, images)? {
                out.print_record(&line)?;
            }
        }
    }
    out.end_rows()
}
