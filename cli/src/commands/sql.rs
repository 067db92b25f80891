//! `sql`: runs DriftQL scripts from the command line, a file or stdin.

use std::path::PathBuf;

use driftdb::v1;

use crate::args::SqlArgs;
use crate::database::DatabaseHandle;
use crate::exit::CliResult;
use crate::render::Printer;
use crate::session::Session;
use crate::{input, shapes};

/// Runs the scripts and stops at the first error.
pub(crate) async fn run(args: SqlArgs, database: &mut DatabaseHandle, out: &mut Printer) -> CliResult {
    let options = v1::CommitOptions {
        reason: args.reason.unwrap_or_default(),
        actor: args.actor.unwrap_or_default(),
        commit_time: args.time.map(shapes::timestamp),
        ..Default::default()
    };
    let mut session = Session::new(database, out, options, args.param)?;
    if args.statement.is_empty() && args.script.is_none() {
        let path = args.file.unwrap_or_else(|| PathBuf::from("-"));
        let script = input::read_script(&path).await?;
        session.run_script(&script, Some(&input::name(&path))).await?;
    }
    for script in args.script.iter().chain(&args.statement) {
        session.run_script(script, None).await?;
    }
    session.end()
}

#[cfg(test)]
mod tests;
