//! The health service of a daemon: serving, not ready, or waiting for its turn.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::pb::health_server::{Health, HealthServer};

/// The health service of a daemon that serves `S`: SERVING until `shutdown` is cancelled, then NOT_SERVING.
pub async fn health<S: NamedService>(shutdown: CancellationToken) -> HealthServer<impl Health> {
    health_while::<S>(watch::channel(true).1, shutdown).await
}

/// Like [`health`], but also NOT_SERVING while `ready` is false. The server as a whole (the empty service name) stays
/// SERVING, because the process is alive.
pub async fn health_while<S: NamedService>(
    mut ready: watch::Receiver<bool>,
    shutdown: CancellationToken,
) -> HealthServer<impl Health> {
    let (reporter, server) = tonic_health::server::health_reporter();
    let report = async move |serving: bool| match serving {
        true => reporter.set_serving::<S>().await,
        false => reporter.set_not_serving::<S>().await,
    };
    let now = *ready.borrow_and_update();
    report(now).await;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return report(false).await,
                Ok(()) = ready.changed() => {
                    let now = *ready.borrow_and_update();
                    report(now).await;
                }
            }
        }
    });
    server
}

/// The health service of a daemon that waits to serve `S`: NOT_SERVING until `over` is cancelled, then unknown.
pub async fn standby_health<S: NamedService>(over: CancellationToken) -> HealthServer<impl Health> {
    let (mut reporter, server) = tonic_health::server::health_reporter();
    reporter.set_not_serving::<S>().await;
    tokio::spawn(async move {
        over.cancelled().await;
        // This ends the clients' Watch streams: the clients call again and reach the server that took over.
        reporter.clear_service_status(S::NAME).await;
    });
    server
}
