//! What a supervisor and a scraper learn of a daemon: its metrics, whether it is ready, and whether it is alive.
//!
//! A daemon has one monitor, from before it opens its database until it ends. The parts of the daemon tell it what they are; it
//! answers over HTTP (`scrape`), notifies systemd (`notify`), and feeds systemd's watchdog as long as the daemon works (`watchdog`).

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::metrics::catalog::DaemonKind;
use crate::service::options::MetricsArgs;

mod notify;
mod places;
mod process;
mod scrape;
mod state;
mod watchdog;

pub use state::{Monitor, MonitoredDaemon};

/// Starts the monitor of this process, until `shutdown` is cancelled: listens for scrapes if the options say so, and notifies systemd
/// if that started the process. On SIGHUP it calls `reload`, which may block. Needs a tokio runtime.
///
/// # Errors
/// If the address of the metrics is taken.
pub async fn start(
    kind: DaemonKind,
    options: &MetricsArgs,
    reload: impl Fn() + Send + Sync + 'static,
    shutdown: &CancellationToken,
) -> Result<Monitor> {
    let monitor = Monitor::of_process(kind);
    if let Some(address) = options.metrics {
        let listener = TcpListener::bind(address).await;
        let failed = |e| Error::io(format_args!("cannot serve metrics on {address}"), &e);
        let listener = listener.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        tracing::info!(%address, "serving metrics");
        tokio::spawn(scrape::serve(listener, monitor.clone(), shutdown.clone()));
    }
    monitor.notify_status();
    watchdog::start(&monitor, shutdown)?;
    reload_on_hangup(&monitor, reload, shutdown.clone())?;
    let (stopping, shutdown) = (monitor.clone(), shutdown.clone());
    tokio::spawn(async move {
        shutdown.cancelled().await;
        stopping.stop();
    });
    Ok(monitor)
}

/// Calls `reload` on each SIGHUP. Without this, the signal would end the process.
fn reload_on_hangup(
    monitor: &Monitor,
    reload: impl Fn() + Send + Sync + 'static,
    shutdown: CancellationToken,
) -> Result<()> {
    let mut hangup =
        signal(SignalKind::hangup()).map_err(|e| Error::io("cannot handle the signal SIGHUP", &e))?;
    let (monitor, reload) = (monitor.clone(), Arc::new(reload));
    tokio::spawn(async move {
        while let Some(Some(())) = shutdown.run_until_cancelled(hangup.recv()).await {
            // A supervisor that still waits for the start would take the end of the reload for it.
            let is_started = monitor.is_started();
            if is_started {
                monitor.notify("RELOADING=1\nSTATUS=reading files again");
            }
            let reload = Arc::clone(&reload);
            if let Err(error) = tokio::task::spawn_blocking(move || reload()).await {
                tracing::error!(%error, "reading files again failed");
            }
            if is_started {
                monitor.notify_ready();
            }
        }
    });
    Ok(())
}
