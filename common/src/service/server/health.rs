//! The health service of a daemon: serving, not ready, or waiting for its turn.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::{HealthReporter, HealthService};

use crate::limits;
use crate::service::access::caller::Caller;
use crate::service::access::lease::{LeaseNeeds, lease_stream};
use crate::service::server::response_stream::ResponseStream;

/// The health of a daemon. Whether it is alive, which is the empty service name, everyone may ask; the rest needs a principal.
#[derive(Debug)]
pub struct DaemonHealth(HealthService);

impl DaemonHealth {
    fn server(reporter: &HealthReporter) -> HealthServer<DaemonHealth> {
        let health = DaemonHealth(HealthService::from_health_reporter(reporter.clone()));
        // Its request is the only one that is received of whoever may call.
        HealthServer::new(health).max_decoding_message_size(limits::HEALTH_REQUEST_BYTES)
    }
}

/// The caller, if it must be known.
fn caller_of(request: &Request<HealthCheckRequest>) -> Result<Option<Caller>, Status> {
    match request.get_ref().service.is_empty() {
        true => Ok(None),
        false => Caller::of(request).map(Some),
    }
}

#[tonic::async_trait]
impl Health for DaemonHealth {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        caller_of(&request)?;
        self.0.check(request).await
    }

    type WatchStream = ResponseStream<HealthCheckResponse>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let caller = caller_of(&request)?;
        let states: Self::WatchStream = Box::pin(self.0.watch(request).await?.into_inner());
        Ok(Response::new(match caller {
            Some(caller) => lease_stream(states, &caller, LeaseNeeds::Principal),
            None => states,
        }))
    }
}

/// The health service of a daemon that serves `S`: SERVING until `shutdown` is cancelled, then NOT_SERVING.
pub async fn health<S: NamedService>(shutdown: CancellationToken) -> HealthServer<DaemonHealth> {
    health_while::<S>(watch::channel(true).1, shutdown).await
}

/// Like [`health`], but also NOT_SERVING while `ready` is false. The server as a whole (the empty service name) stays
/// SERVING, because the process is alive.
pub async fn health_while<S: NamedService>(
    mut ready: watch::Receiver<bool>,
    shutdown: CancellationToken,
) -> HealthServer<DaemonHealth> {
    let reporter = HealthReporter::new();
    let server = DaemonHealth::server(&reporter);
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
pub async fn standby_health<S: NamedService>(over: CancellationToken) -> HealthServer<DaemonHealth> {
    let mut reporter = HealthReporter::new();
    let server = DaemonHealth::server(&reporter);
    reporter.set_not_serving::<S>().await;
    tokio::spawn(async move {
        over.cancelled().await;
        // This ends the clients' Watch streams: the clients call again and reach the server that took over.
        reporter.clear_service_status(S::NAME).await;
    });
    server
}
