//! `driftdb-reader`: reads the command line, follows the database, serves until a signal.

use std::process::ExitCode;

use clap::Parser;
use driftdb_common::error::{Error, Result};
use driftdb_common::service::server::{Listener, on_signals};
use driftdb_common::service::{config, telemetry};
use driftdb_reader::Reader;

mod args;

fn main() -> ExitCode {
    let args = args::Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("driftdb-reader: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &args::Args) -> Result<()> {
    telemetry::init(args.log.log_format, &args.log.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|e| Error::io("cannot start the runtime", &e))?.block_on(async {
        let shutdown = on_signals()?;
        let reader = Reader::open(args.config())?;
        let listener = Listener::bind(args.listen).await?;
        config::announce(listener.address());
        reader.serve(listener, shutdown).await
    })
}
