//! Feeds systemd's watchdog as long as the daemon works: a thread of its own asks, so that it notices if the runtime does not answer.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Reason, Result};
use crate::service::monitor::notify::watchdog_interval;
use crate::service::monitor::state::Monitor;

/// Starts the thread, if the supervisor wants to hear from this process. It ends after `shutdown` is cancelled.
pub(super) fn start(monitor: &Monitor, shutdown: &CancellationToken) -> Result<()> {
    let Some(interval) = watchdog_interval() else { return Ok(()) };
    let (monitor, runtime, shutdown) = (monitor.clone(), Handle::current(), shutdown.clone());
    let (ended, end) = mpsc::channel::<()>();
    tokio::spawn(async move {
        shutdown.cancelled().await;
        drop(ended);
    });
    let feed = move || {
        // Half of the time is for the pause, a quarter for the check.
        let (pause, patience) = (interval / 2, interval / 4);
        loop {
            match check(&monitor, &runtime, patience) {
                Ok(()) => monitor.notify("WATCHDOG=1"),
                Err(error) => {
                    tracing::error!(%error, "the watchdog is not fed: its supervisor will end this process")
                }
            }
            if end.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("driftdb-watchdog".to_owned()).spawn(feed);
    thread.map(drop).map_err(|e| Error::io("cannot start the watchdog's thread", &e))
}

/// Whether the runtime runs tasks, and the daemon works.
fn check(monitor: &Monitor, runtime: &Handle, patience: Duration) -> Result<()> {
    let (answer, answered) = mpsc::sync_channel(1);
    // Nobody waits for an answer that comes too late.
    runtime.spawn(async move { _ = answer.send(()) });
    if answered.recv_timeout(patience).is_err() {
        let message = format!("the runtime has started no task for {patience:?}");
        return Err(Error::new(Reason::Internal, message));
    }
    monitor.check_alive()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::watch;

    use super::*;
    use crate::metrics::samples::Samples;
    use crate::service::monitor::state::MonitoredDaemon;

    struct Dead;

    impl MonitoredDaemon for Dead {
        fn sample(&self, _: &mut Samples) {}

        fn check_alive(&self) -> Result<()> {
            Err(Error::new(Reason::Internal, "dead"))
        }
    }

    const PATIENCE: Duration = Duration::from_millis(50);

    #[test]
    fn a_runtime_that_runs_no_task_is_not_alive() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let monitor = Monitor::default();
        check(&monitor, runtime.handle(), Duration::from_secs(10)).unwrap();
        let (release, released) = mpsc::channel::<()>();
        runtime.spawn(async move { _ = released.recv() });
        // The only thread may take the check first, but not all of them.
        let failed = (0..100).any(|_| check(&monitor, runtime.handle(), PATIENCE).is_err());
        assert!(failed);
        drop(release);
        check(&monitor, runtime.handle(), Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_daemon_that_does_not_work_is_not_alive() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let monitor = Monitor::default();
        monitor.serve(Arc::new(Dead), watch::channel(true).1);
        assert_eq!(check(&monitor, runtime.handle(), Duration::from_secs(10)).unwrap_err().message(), "dead");
    }
}
