//! `verify`: the writer checks every file, and driftctl prints the damage.

use std::cell::RefCell;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, counted};
use serde::Serialize;

use crate::args::VerifyArgs;
use crate::database::DatabaseHandle;
use crate::exit::{CliResult, Failure};
use crate::render::Printer;
use crate::shapes;

#[derive(Serialize)]
struct ProblemJson {
    file: String,
    offset: u64,
    message: String,
}

#[derive(Serialize)]
struct VerifyTotals {
    files: u64,
    frames: u64,
    rows: u64,
    problems: u64,
}

/// Prints each problem and then the summary. Fails if there was a problem.
pub(crate) async fn run(args: VerifyArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let request = v1::VerifyRequest { table: args.table.unwrap_or_default(), deep: args.deep };
    let summary = {
        // After the first problem that cannot be printed, print nothing more.
        let printed = RefCell::new((&mut *out, Ok(())));
        let print = |v1::verify_response::Problem { file, offset, message }| {
            let (out, printed) = &mut *printed.borrow_mut();
            if printed.is_ok() {
                let line = shapes::line(&ProblemJson { file, offset, message }).map_err(Failure::from);
                *printed = line.and_then(|line| out.print_record(&line));
            }
        };
        let summary = database.verify(request, print).await;
        printed.into_inner().1?;
        summary?
    };
    out.end_result()?;
    let v1::verify_response::Summary { files, frames, rows, problems } = summary;
    out.print_record(&shapes::line(&VerifyTotals { files, frames, rows, problems })?)?;
    if problems == 0 {
        out.end_result()?;
        return if out.is_for_people() { out.print_text("no damage found\n") } else { Ok(()) };
    }
    out.finish_with(Error::new(Reason::Corrupt, format!("found {}", counted(problems, "problem"))))
}
