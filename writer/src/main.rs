//! `driftdb-writer`: reads the command line, opens the database, and serves until a signal.

use std::process::ExitCode;

use clap::Parser;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::service::server::{Listener, on_signals};
use driftdb_common::service::{config, telemetry};
use driftdb_writer::{Writer, stand_by};

mod args;

fn main() -> ExitCode {
    let args = args::WriterArgs::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("driftdb-writer: {error}");
            if error.reason() == Reason::DatabaseLocked {
                eprintln!("With --standby this writer waits and takes over when the other one ends.");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(args: &args::WriterArgs) -> Result<()> {
    telemetry::init(args.log.log_format, &args.log.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|e| Error::io("cannot start the runtime", &e))?.block_on(async {
        let shutdown = on_signals()?;
        if args.standby {
            let listener = Listener::bind(args.listen).await?;
            config::announce(listener.address());
            return stand_by(args.config(), listener, shutdown).await;
        }
        let writer = Writer::open(args.config())?;
        let listener = Listener::bind(args.listen).await?;
        config::announce(listener.address());
        writer.serve(listener, shutdown).await
    })
}
