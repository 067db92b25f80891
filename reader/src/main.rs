//! The `driftdb-reader` program.

use std::process::ExitCode;

use clap::Parser;
use driftdb_common::service::daemon;
use driftdb_common::service::server::Security;
use driftdb_reader::ReaderDaemon;

use mimalloc::MiMalloc;

mod args;

// It returns freed memory to the system, which the system allocator keeps for minutes after a burst of requests.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let args = args::ReaderArgs::parse();
    daemon::run("driftdb-reader", &args.log, async |shutdown| {
        let security = Security::open(&args.security, args.listen, &shutdown).await?;
        let config = args.config();
        if !driftdb_reader::has_database(&config).await? {
            let listener = daemon::listen(args.listen, &security).await?;
            return driftdb_reader::wait_and_serve(config, listener, shutdown).await;
        }
        let reader = ReaderDaemon::open(config)?;
        reader.serve(daemon::listen(args.listen, &security).await?, shutdown).await
    })
}
