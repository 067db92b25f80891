//! Whether a reader is ready: not while it lags by more than it may.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::replica::Replica;

/// How often the lag is looked at, at the least and at the most.
const OFTEN: Duration = Duration::from_millis(10);
const SELDOM: Duration = Duration::from_millis(250);

/// Tells from now on whether a replica's lag is at most `max_lag`; without a limit it is always ready. It counts too where
/// HEAD cannot be read, or reading it does not come back: the lag grows then.
pub fn watch(
    replica: Arc<Replica>,
    max_lag: Option<Duration>,
    shutdown: CancellationToken,
) -> watch::Receiver<bool> {
    let Some(max_lag) = max_lag else { return watch::channel(true).1 };
    let (tell, ready) = watch::channel(replica.staleness() <= max_lag);
    let every = (max_lag / 4).clamp(OFTEN, SELDOM);
    tokio::spawn(async move {
        while shutdown.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            let staleness = replica.staleness();
            let now = staleness <= max_lag;
            let changed = tell.send_if_modified(|ready| std::mem::replace(ready, now) != now);
            match changed.then_some(now) {
                Some(false) => {
                    let problem = replica.problem().map(|problem| problem.to_string());
                    tracing::warn!(?staleness, ?max_lag, problem, "not ready: too far behind");
                }
                Some(true) => tracing::info!("ready again: caught up"),
                None => {}
            }
        }
    });
    ready
}
