//! The frame of a daemon's `main`: the log, the runtime, signals, the exit code and the error on standard error.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::service::options::LogArgs;
use crate::service::server::{Listener, descriptors};
use crate::service::telemetry;

/// Runs a daemon until `serve` returns, and returns the exit code of the process.
///
/// `serve` gets a token that SIGTERM and SIGINT cancel. An error of `serve` goes to standard error as
/// `{program}: {error}`, and the exit code is 1.
pub fn run(
    program: &str,
    log: &LogArgs,
    serve: impl AsyncFnOnce(CancellationToken) -> Result<()>,
) -> ExitCode {
    match try_run(log, serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn try_run(log: &LogArgs, serve: impl AsyncFnOnce(CancellationToken) -> Result<()>) -> Result<()> {
    telemetry::start(log.log_format, &log.log)?;
    descriptors::raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::io("cannot start the async runtime", &e))?;
    runtime.block_on(async { serve(cancel_on_signals()?).await })
}

/// Listens on `address` and prints `listening on {address}` as the first line on standard output. If `address` has port
/// 0, the line shows the port that the system chose.
pub async fn listen(address: SocketAddr) -> Result<Listener> {
    let listener = Listener::bind(address).await?;
    if let Some(address) = listener.address() {
        println!("listening on {address}");
    }
    Ok(listener)
}

/// Returns a token that SIGTERM or SIGINT cancels. Needs a tokio runtime.
pub fn cancel_on_signals() -> Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |e: io::Error| Error::io("cannot handle signals", &e);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shutting down");
        token.cancel();
    });
    Ok(shutdown)
}
