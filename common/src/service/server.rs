//! The gRPC server of both daemons: its limits, and the calls that are cut when it stops.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::RoutesBuilder;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::error::{Error, Reason, Result};
use crate::memory::MemoryBudget;
use crate::service::server::accept::Acceptor;
use crate::service::server::services::{OwnService, ServerServices};

mod accept;
mod answer_body;
mod byte_stream;
mod call;
mod call_memory;
mod connection;
mod connection_calls;
mod connections;
pub(in crate::service) mod descriptors;
mod health;
mod listener;
mod message_scan;
mod request_body;
mod services;
mod task_parts;

pub use call_memory::CallMemory;
pub use connection::STREAM_WINDOW;
pub use health::{health, health_while, standby_health};
pub use listener::{Listener, MemoryConnector};
pub use services::ServiceFuture;

/// How long calls in progress may run after a shutdown began.
pub const DRAIN: Duration = Duration::from_secs(10);

/// The stream of messages with which an RPC responds.
pub type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves a daemon's own service, health and reflection until `shutdown` is cancelled. Requests and answers take their memory from `memory`.
///
/// After that the server takes no new call, and cuts calls that are still open after 10 seconds.
pub async fn serve<S: OwnService, H: Health>(
    listener: Listener,
    own: S,
    health: HealthServer<H>,
    memory: Arc<MemoryBudget>,
    shutdown: CancellationToken,
) -> Result<()> {
    let internal = |e: &dyn std::fmt::Display| Error::new(Reason::Internal, format!("gRPC server: {e}"));
    let reflection =
        |bytes| tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(bytes);
    let descriptors =
        |bytes| reflection(bytes).register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let mut routes = RoutesBuilder::default();
    routes.add_service(health);
    routes.add_service(descriptors(driftdb::FILE_DESCRIPTOR_SET).build_v1().map_err(|e| internal(&e))?);
    routes.add_service(descriptors(driftdb::FILE_DESCRIPTOR_SET).build_v1alpha().map_err(|e| internal(&e))?);
    let services = ServerServices::new(own, routes.routes().prepare());
    let serving = Acceptor::new(services, memory).run(listener, shutdown.clone());
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
