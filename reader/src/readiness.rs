//! Whether a reader is ready: it is not while its staleness exceeds the limit.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::replica::Replica;

/// The interval between checks is a quarter of the limit, within these bounds.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
const MAX_INTERVAL: Duration = Duration::from_millis(250);

/// Reports from now on whether a replica's staleness is at most `max_lag`; always true if there is no limit.
///
/// The staleness also grows while HEAD is unreadable, or while reading HEAD hangs.
pub fn watch_readiness(
    replica: Arc<Replica>,
    max_lag: Option<Duration>,
    shutdown: CancellationToken,
) -> watch::Receiver<bool> {
    let Some(max_lag) = max_lag else { return watch::channel(true).1 };
    let (sender, ready) = watch::channel(replica.staleness() <= max_lag);
    let interval = (max_lag / 4).clamp(MIN_INTERVAL, MAX_INTERVAL);
    tokio::spawn(async move {
        while shutdown.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            let staleness = replica.staleness();
            let is_ready = staleness <= max_lag;
            let changed = sender.send_if_modified(|ready| std::mem::replace(ready, is_ready) != is_ready);
            match changed.then_some(is_ready) {
                Some(false) => {
                    let problem = replica.problem().map(|problem| problem.to_string());
                    tracing::warn!(?staleness, ?max_lag, problem, "not ready: the reader is too far behind");
                }
                Some(true) => tracing::info!("ready: the reader has caught up"),
                None => {}
            }
        }
    });
    ready
}
