//! `clock`: shows the writer's clock, and confirms it after a jump.

use driftdb::v1;
use driftdb_common::service::convert;
use serde::Serialize;

use crate::args::{ClockArgs, ClockCommand};
use crate::database::DatabaseHandle;
use crate::exit::CliResult;
use crate::render::Printer;
use crate::shapes;

#[derive(Serialize)]
struct ClockJson {
    clock_time: String,
    /// The time that the clock should show, if commits are refused.
    expected_time: Option<String>,
    last_commit_time: String,
}

#[derive(Serialize)]
struct ConfirmedJson {
    clock_time: String,
    was_refusing: bool,
}

/// Prints the clock, or confirms it and prints what was confirmed.
pub(crate) async fn run(args: ClockArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let ClockCommand::Confirm { time } = args.command.unwrap_or(ClockCommand::Show) else {
        let status = database.writer_status().await?;
        let expected = status.clock_expected.as_ref().map(|time| shapes::time(Some(time))).transpose()?;
        return out.print_record(&shapes::line(&ClockJson {
            clock_time: shapes::time(status.clock_time.as_ref())?,
            expected_time: expected,
            last_commit_time: shapes::time(status.last_time.as_ref())?,
        })?);
    };
    let time = time.map(|time| u64::try_from(time.as_millisecond()).unwrap_or(0)).map(convert::time_to_wire);
    let confirmed = database.confirm_clock(v1::ConfirmClockRequest { time }).await?;
    out.print_record(&shapes::line(&ConfirmedJson {
        clock_time: shapes::time(confirmed.time.as_ref())?,
        was_refusing: confirmed.was_refusing,
    })?)
}
