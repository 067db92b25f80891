//! The `driftdb-reader` program.

use std::process::ExitCode;
use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::metrics::catalog::DaemonKind;
use driftdb_common::service::monitor::Monitor;
use driftdb_common::service::server::Security;
use driftdb_common::service::{config_file, daemon};
use driftdb_common::storage::layout::DataDir;
use driftdb_reader::ReaderConfig;
use driftdb_reader::bucket_mirror::BucketMirror;

use mimalloc::MiMalloc;
use tokio_util::sync::CancellationToken;

use crate::args::ReaderArgs;

mod args;

// It returns freed memory to the system, which the system allocator keeps for minutes after a burst of requests.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let args: ReaderArgs = config_file::parse();
    daemon::run(
        ("driftdb-reader", DaemonKind::Reader),
        (&args.log, &args.metrics, &args.traces),
        async |shutdown| {
            let security = Security::open(&args.security, args.listen, &shutdown).await?;
            let monitor = daemon::monitor(DaemonKind::Reader, &args.metrics, &security, &shutdown).await?;
            let served = serve(&args, (&security, &monitor), shutdown).await;
            security.close().await;
            served
        },
    )
}

async fn serve(
    args: &ReaderArgs,
    watched: (&Arc<Security>, &Monitor),
    shutdown: CancellationToken,
) -> Result<()> {
    let mut config = args.config();
    let mirror = match &args.bucket {
        Some(url) => {
            let dir = DataDir::new(&config.data);
            Some(BucketMirror::start(url, &dir, args.bucket_poll_interval(), args.bucket_cache)?)
        }
        None => None,
    };
    config.bucket = mirror.as_ref().map(|mirror| Arc::clone(mirror.state()));
    let served = serve_directory(args, config, watched, shutdown).await;
    if let Some(mirror) = mirror {
        mirror.close().await;
    }
    served
}

async fn serve_directory(
    args: &ReaderArgs,
    config: ReaderConfig,
    (security, monitor): (&Arc<Security>, &Monitor),
    shutdown: CancellationToken,
) -> Result<()> {
    if !driftdb_reader::has_database(&config).await? {
        let listener = daemon::listen(args.listen, security, monitor).await?;
        return driftdb_reader::wait_and_serve(config, listener, shutdown).await;
    }
    let reader = driftdb_reader::open_reader(config).await?;
    reader.serve(daemon::listen(args.listen, security, monitor).await?, shutdown).await
}
