//! The frame of a daemon's `main`: the log, the runtime, signals, the exit code and the error on standard error.
//!
//! A daemon ends soon after SIGTERM whatever it does. The signal is received by a thread of its own, with a runtime of its
//! own: it is heard also while every thread of the main runtime is busy, or while the daemon still opens its files. If the
//! daemon has not ended by itself when the calls in progress have been cut, that thread ends the process. For the data this
//! is a crash, which loses nothing that was acknowledged.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::metrics;
use crate::metrics::catalog::DaemonKind;
use crate::service::monitor::{self, Monitor};
use crate::service::options::{LogArgs, MetricsArgs, TraceArgs};
use crate::service::server::{DRAIN, Listener, Security, check_metrics_address, descriptors};
use crate::service::telemetry;
use crate::trace::{self, TraceExport, TraceOptions};

/// How long a daemon may still take to end after it has cut the calls in progress. A supervisor usually sends SIGKILL later.
const LAST_RESORT: Duration = Duration::from_millis(1000);
/// How often a daemon has the allocator look for memory to give back.
const GIVE_BACK_INTERVAL: Duration = Duration::from_secs(5);
/// How long tasks that read files are waited for, once the daemon has ended.
const LEFTOVER_TASKS: Duration = Duration::from_millis(300);

/// Has the kernel give this process memory in small pages. With huge pages, the first byte of each region that the allocator
/// begins costs 2 MiB and the time to clear them; after a load a quarter to a third of the daemons' memory was never used.
fn use_small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        // The daemon only takes more memory.
        tracing::debug!(%error, "cannot switch off transparent huge pages");
    }
}

/// Runs a daemon until `serve` returns, and returns the exit code of the process.
///
/// `serve` gets a token that SIGTERM and SIGINT cancel. An error of `serve` goes to standard error as
/// `{program}: {error}`, and the exit code is 1.
pub fn run(
    (program, kind): (&'static str, DaemonKind),
    (log, measured, traced): (&LogArgs, &MetricsArgs, &TraceArgs),
    serve: impl AsyncFnOnce(CancellationToken) -> Result<()>,
) -> ExitCode {
    match try_run((program, kind), (log, measured, traced), serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn try_run(
    (program, kind): (&'static str, DaemonKind),
    (log, measured, traced): (&LogArgs, &MetricsArgs, &TraceArgs),
    serve: impl AsyncFnOnce(CancellationToken) -> Result<()>,
) -> Result<()> {
    telemetry::start(log.log_format, &log.log)?;
    if measured.metrics.is_some() {
        metrics::install(kind)?;
    }
    descriptors::raise_limit();
    use_small_pages();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::io("cannot start the async runtime", &e))?;
    let shutdown = CancellationToken::new();
    end_on_signals(program, shutdown.clone())?;
    let traces = start_traces(program, traced, &runtime)?;
    let served = runtime.block_on(serve(shutdown));
    if let Some(traces) = traces {
        traces.close();
    }
    // A task that hangs in a file system must not keep the process.
    runtime.shutdown_timeout(LEFTOVER_TASKS);
    served
}

/// Starts to send traces, if there is a collector for them.
fn start_traces(
    program: &'static str,
    options: &TraceArgs,
    runtime: &tokio::runtime::Runtime,
) -> Result<Option<TraceExport>> {
    let Some(collector) = options.otlp.clone() else { return Ok(None) };
    // The connection to the collector is a task of the runtime.
    let _entered = runtime.enter();
    let options = TraceOptions { collector, sample: options.otlp_sample, service: program };
    let export = trace::start(&options)?;
    tracing::info!(address = options.collector, "sending traces to a collector");
    Ok(Some(export))
}

/// Makes the allocator of an idle daemon give freed memory back to the system. mimalloc does so when a thread has allocated much,
/// or ends; in a daemon that has become idle after a burst of requests, neither may happen for hours. Never returns.
async fn give_memory_back() {
    let mut ticks = tokio::time::interval(GIVE_BACK_INTERVAL);
    loop {
        ticks.tick().await;
        // If no thread can be started now, the next tick tries again.
        _ = std::thread::Builder::new().name("driftdb-idle".to_owned()).spawn(|| {});
    }
}

/// Cancels `shutdown` on SIGTERM or SIGINT, and ends the process if it does not end by itself.
fn end_on_signals(program: &str, shutdown: CancellationToken) -> Result<()> {
    let failed = |e: io::Error| Error::io("cannot handle signals", &e);
    let program = program.to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let signal = runtime.block_on(async { next_signal() })?;
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                () = signal => {}
                () = give_memory_back() => {}
            }
            tracing::info!("shutting down");
            shutdown.cancel();
            tokio::time::sleep(DRAIN + LAST_RESORT).await;
        });
        eprintln!("{program}: did not end within {:?} of the signal; exiting", DRAIN + LAST_RESORT);
        std::process::exit(1);
    };
    std::thread::Builder::new().name("driftdb-signals".to_owned()).spawn(wait).map_err(failed)?;
    Ok(())
}

/// Starts the monitor of a daemon, which also reads the files of TLS and the auth file again on SIGHUP.
pub async fn monitor(
    kind: DaemonKind,
    metrics: &MetricsArgs,
    security: &Arc<Security>,
    shutdown: &CancellationToken,
) -> Result<Monitor> {
    if let Some(address) = metrics.metrics
        && let Some(warning) = check_metrics_address(address, metrics.metrics_insecure_listen)?
    {
        tracing::warn!("{warning}");
    }
    let reloaded = Arc::clone(security);
    monitor::start(kind, metrics, move || reloaded.reload(), shutdown).await
}

/// Listens on `address`, for connections that are protected, and prints `listening on {address}` as the first line on standard output.
/// If `address` has port 0, the line shows the port that the system chose.
pub async fn listen(address: SocketAddr, security: &Arc<Security>, monitor: &Monitor) -> Result<Listener> {
    let listener = Listener::bind_with(address, Arc::clone(security)).await?.watched_by(monitor);
    if let Some(address) = listener.address() {
        println!("listening on {address}");
    }
    Ok(listener)
}

/// Returns a token that SIGTERM or SIGINT cancels. Needs a tokio runtime.
pub fn cancel_on_signals() -> Result<CancellationToken> {
    let signal = next_signal()?;
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        signal.await;
        tracing::info!("shutting down");
        token.cancel();
    });
    Ok(shutdown)
}

/// Waits for SIGTERM or SIGINT. Handles both from this call on. Needs a tokio runtime.
fn next_signal() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |e: io::Error| Error::io("cannot handle signals", &e);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
