//! Whether a reader is ready: it is not while its staleness exceeds the limit, or after its history was lost until another one is
//! loaded.

use std::sync::Arc;
use std::time::Duration;

use driftdb_common::vital::VitalPart;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::replica::Replica;
use crate::replica_slot::ReplicaSlot;

/// The interval between checks is a quarter of the limit, within these bounds.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
const MAX_INTERVAL: Duration = Duration::from_millis(250);

/// Reports from now on whether the served replica's history is kept, and its staleness at most `max_lag`, if there is a limit.
///
/// The staleness also grows while HEAD is unreadable, or while reading HEAD hangs.
pub fn watch_readiness(
    slot: Arc<ReplicaSlot>,
    max_lag: Option<Duration>,
    shutdown: CancellationToken,
) -> watch::Receiver<bool> {
    let max_lag = max_lag.unwrap_or(Duration::MAX);
    let is_ready = move |replica: &Replica| replica.loss().is_none() && replica.staleness() <= max_lag;
    let (sender, ready) = watch::channel(is_ready(&slot.current()));
    let interval = (max_lag / 4).clamp(MIN_INTERVAL, MAX_INTERVAL);
    tokio::spawn(async move {
        let _vital = VitalPart::new("the task that reports whether the reader is ready");
        while shutdown.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            let replica = slot.current();
            let staleness = replica.staleness();
            let is_ready = is_ready(&replica);
            let changed = sender.send_if_modified(|ready| std::mem::replace(ready, is_ready) != is_ready);
            match changed.then_some(is_ready) {
                Some(false) => {
                    let problem = replica.loss().cloned().or_else(|| replica.problem());
                    let error = problem.map(|problem| problem.to_string());
                    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                    let (lag_ms, max_lag_ms) = (millis(staleness), millis(max_lag));
                    tracing::warn!(lag_ms, max_lag_ms, error, "not ready: the reader is too far behind");
                }
                Some(true) => tracing::info!("ready: the reader has caught up"),
                None => {}
            }
        }
    });
    ready
}
