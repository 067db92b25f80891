//! The `driftdb-reader` program.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use driftdb_common::error::Result;
use driftdb_common::service::daemon;
use driftdb_common::service::server::Security;
use driftdb_reader::ReaderDaemon;

use mimalloc::MiMalloc;
use tokio_util::sync::CancellationToken;

use crate::args::ReaderArgs;

mod args;

// It returns freed memory to the system, which the system allocator keeps for minutes after a burst of requests.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let args = ReaderArgs::parse();
    daemon::run("driftdb-reader", &args.log, async |shutdown| {
        let security = Security::open(&args.security, args.listen, &shutdown).await?;
        let served = serve(&args, &security, shutdown).await;
        security.close().await;
        served
    })
}

async fn serve(args: &ReaderArgs, security: &Arc<Security>, shutdown: CancellationToken) -> Result<()> {
    let config = args.config();
    if !driftdb_reader::has_database(&config).await? {
        let listener = daemon::listen(args.listen, security).await?;
        return driftdb_reader::wait_and_serve(config, listener, shutdown).await;
    }
    let reader = ReaderDaemon::open(config)?;
    reader.serve(daemon::listen(args.listen, security).await?, shutdown).await
}
