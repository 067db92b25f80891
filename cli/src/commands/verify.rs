//! `verify`: everything read at the writer, and what is wrong with it.

use std::cell::RefCell;

use driftdb::v1;
use driftdb_common::error::{Error, Reason};
use serde::Serialize;

use crate::args::Verify;
use crate::client::Client;
use crate::exit::{Failure, Outcome};
use crate::render::Output;
use crate::shapes;

#[derive(Serialize)]
struct Found {
    file: String,
    offset: u64,
    message: String,
}

#[derive(Serialize)]
struct Summary {
    files: u64,
    frames: u64,
    rows: u64,
    problems: u64,
}

/// Prints each problem, then the summary; fails where there was a problem.
pub async fn run(args: Verify, client: &mut Client, out: &mut Output) -> Outcome {
    let request = v1::VerifyRequest { table: args.table.unwrap_or_default(), deep: args.deep };
    let summary = {
        // The first that cannot be printed ends the printing.
        let printed = RefCell::new((&mut *out, Ok(())));
        let print = |v1::verify_response::Problem { file, offset, message }| {
            let (out, printed) = &mut *printed.borrow_mut();
            if printed.is_ok() {
                let line = shapes::line(&Found { file, offset, message }).map_err(Failure::from);
                *printed = line.and_then(|line| out.record(&line));
            }
        };
        let summary = client.verify(request, print).await;
        printed.into_inner().1?;
        summary?
    };
    out.end_of_result()?;
    let v1::verify_response::Summary { files, frames, rows, problems } = summary;
    out.record(&shapes::line(&Summary { files, frames, rows, problems })?)?;
    if problems == 0 {
        return Ok(());
    }
    Err(Error::new(Reason::Corrupt, format!("damage was found: {problems} problems")).into())
}
