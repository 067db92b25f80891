//! The `driftdb-writer` program.

use std::process::ExitCode;
use std::sync::Arc;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::metrics::catalog::DaemonKind;
use driftdb_common::service::monitor::Monitor;
use driftdb_common::service::server::Security;
use driftdb_common::service::{config_file, daemon};
use driftdb_writer::{open_and_serve, stand_by};

use mimalloc::MiMalloc;
use tokio_util::sync::CancellationToken;

use crate::args::WriterArgs;

mod args;
mod bucket_args;

// It returns freed memory to the system, which the system allocator keeps for minutes after a burst of requests.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let args: WriterArgs = config_file::parse();
    daemon::run(
        ("driftdb-writer", DaemonKind::Writer),
        (&args.log, &args.metrics, &args.traces),
        async |shutdown| {
            let security = Security::open(&args.security, args.listen, &shutdown).await?;
            let monitor = daemon::monitor(DaemonKind::Writer, &args.metrics, &security, &shutdown).await?;
            let served = serve(&args, (&security, &monitor), shutdown).await;
            security.close().await;
            served
        },
    )
}

async fn serve(
    args: &WriterArgs,
    (security, monitor): (&Arc<Security>, &Monitor),
    shutdown: CancellationToken,
) -> Result<()> {
    let listen = async || daemon::listen(args.listen, security, monitor).await;
    if args.standby {
        return Box::pin(stand_by(args.config(), listen().await?, shutdown)).await;
    }
    Box::pin(open_and_serve(args.config(), listen, shutdown)).await.map_err(with_standby_hint)
}

/// Adds what the operator can do about a database that another writer holds.
fn with_standby_hint(error: Error) -> Error {
    if error.reason() != Reason::DatabaseLocked {
        return error;
    }
    Error::new(
        Reason::DatabaseLocked,
        format!("{error}; start with --standby to take over when that writer stops"),
    )
}
