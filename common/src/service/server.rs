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
use crate::service::server::limit_options::ServerLimits;

mod accept;
mod answer_body;
mod byte_stream;
mod call;
mod call_memory;
mod clients;
mod connection;
mod connection_age;
mod connections;
pub(in crate::service) mod descriptors;
mod health;
pub mod limit_options;
mod listener;
mod message_scan;
mod request_body;

pub use call_memory::CallMemory;
pub use clients::WatchPlace;
pub use connection::STREAM_WINDOW;
pub use health::{health, health_while, standby_health};
pub use listener::{Listener, MemoryConnector};

/// How long calls in progress may run after a shutdown began.
pub const DRAIN: Duration = Duration::from_secs(10);

/// The stream of messages with which an RPC responds.
pub type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What a server may give its clients.
#[derive(Debug, Clone)]
pub struct ServerResources {
    /// The memory of requests and answers.
    pub memory: Arc<MemoryBudget>,
    /// What one client may take.
    pub limits: ServerLimits,
}

/// Serves gRPC, health and reflection until `shutdown` is cancelled, with `resources`.
///
/// After that the server takes no new call, and cuts calls that are still open after 10 seconds.
pub async fn serve<H: Health>(
    listener: Listener,
    routes: RoutesBuilder,
    health: HealthServer<H>,
    resources: ServerResources,
    shutdown: CancellationToken,
) -> Result<()> {
    let ServerResources { memory, limits } = resources;
    let internal = |e: &dyn std::fmt::Display| Error::new(Reason::Internal, format!("gRPC server: {e}"));
    let reflection =
        |bytes| tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(bytes);
    let descriptors =
        |bytes| reflection(bytes).register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let mut routes = routes;
    routes.add_service(health);
    routes.add_service(descriptors(driftdb::FILE_DESCRIPTOR_SET).build_v1().map_err(|e| internal(&e))?);
    routes.add_service(descriptors(driftdb::FILE_DESCRIPTOR_SET).build_v1alpha().map_err(|e| internal(&e))?);
    let serving = Acceptor::new(routes.routes().prepare(), memory, limits).run(listener, shutdown.clone());
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
