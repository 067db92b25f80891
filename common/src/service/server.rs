//! The gRPC server of both daemons: its limits, and the calls that are cut when it stops.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::error::{Error, Reason, Result};
use crate::service::server::accept::Acceptor;
use crate::service::server::for_principals::ForPrincipals;
use crate::service::server::services::{OwnService, ServerServices};

mod accept;
mod activity;
mod answer_body;
mod byte_stream;
mod call;
mod call_memory;
mod call_metrics;
mod clients;
mod connection;
mod connection_age;
mod connection_calls;
mod connections;
pub(in crate::service) mod descriptors;
mod for_principals;
mod handshake;
mod health;
pub mod limit_options;
mod listener;
mod message_scan;
mod nested_lists;
pub mod peer;
mod request_body;
mod resources;
pub(in crate::service) mod response_stream;
mod security;
mod services;
mod task_parts;
mod tls;

pub use activity::ServerActivity;
pub use call_memory::CallMemory;
pub use clients::{WatchPlace, network_of};
pub use connection::STREAM_WINDOW;
pub use health::{health, health_while, standby_health};
pub use listener::{Listener, MemoryConnector};
pub use resources::ServerResources;
pub use response_stream::ResponseStream;
pub use security::{Security, check_address, check_metrics_address};
pub use services::ServiceFuture;

/// How long calls in progress may run after a shutdown began.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Serves a daemon's own service, health and reflection until `shutdown` is cancelled, as protected as the listener says, with
/// `resources`.
///
/// After that the server takes no new call, and cuts calls that are still open after 10 seconds.
pub async fn serve<S: OwnService, H: Health>(
    listener: Listener,
    own: S,
    health: HealthServer<H>,
    resources: ServerResources,
    shutdown: CancellationToken,
) -> Result<()> {
    let internal = |e: &dyn std::fmt::Display| Error::new(Reason::Internal, format!("gRPC server: {e}"));
    let reflection =
        |bytes| tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(bytes);
    let descriptors =
        |bytes| reflection(bytes).register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let mut routes = RoutesBuilder::default();
    routes.add_service(health);
    let reflection = descriptors(driftdb::FILE_DESCRIPTOR_SET).build_v1().map_err(|e| internal(&e))?;
    routes.add_service(ForPrincipals(reflection));
    let reflection = descriptors(driftdb::FILE_DESCRIPTOR_SET).build_v1alpha().map_err(|e| internal(&e))?;
    routes.add_service(ForPrincipals(reflection));
    let services = ServerServices::new(own, routes.routes().prepare());
    let acceptor = Acceptor::new(services, resources, &listener);
    let connections = Arc::clone(acceptor.connections());
    listener.monitor().listen(move |samples| connections.sample(samples));
    let serving = acceptor.run(listener, shutdown.clone());
    let drained = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        () = serving => {}
        () = drained => tracing::warn!("cut the calls that were still open {DRAIN:?} after the shutdown began"),
    }
    Ok(())
}
