//! The `driftdb-reader` program.

use std::process::ExitCode;

use clap::Parser;
use driftdb_common::service::daemon;
use driftdb_reader::ReaderDaemon;

mod args;

fn main() -> ExitCode {
    let args = args::ReaderArgs::parse();
    daemon::run("driftdb-reader", &args.log, async |shutdown| {
        let reader = ReaderDaemon::open(args.config())?;
        reader.serve(daemon::listen(args.listen).await?, shutdown).await
    })
}
