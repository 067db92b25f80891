//! A standby writer: refuses calls while another writer holds the database, and takes over when the lock is
//! free.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use driftdb::v1::writer_service_server::WriterServiceServer;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::memory::MemoryBudget;
use driftdb_common::service::server::{self, Listener};
use driftdb_common::service::status;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;

use crate::config::WriterConfig;
use crate::rpc::WriterRpc;
use crate::writer::WriterDaemon;

/// How often a standby tries the lock.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// Refuses calls with STANDBY until the lock is free, then opens the database and serves at the same address
/// until `shutdown` is cancelled. Fails if the database cannot be opened, or as [`WriterDaemon::serve`] does.
pub async fn stand_by(config: WriterConfig, listener: Listener, shutdown: CancellationToken) -> Result<()> {
    let (standby_listener, writer_listener) = listener.split()?;
    let over = shutdown.child_token();
    let cause = Error::new(Reason::DatabaseLocked, "the lock has not been tried yet");
    let holder = Arc::new(Mutex::new(cause));
    let mut routes = RoutesBuilder::default();
    routes.add_service(StandbyService(Arc::clone(&holder)));
    let health = server::standby_health::<StandbyService>(over.clone()).await;
    let refusing = tokio::spawn(server::serve(
        standby_listener,
        routes,
        health,
        MemoryBudget::new(config.request_memory),
        over.clone(),
    ));
    let outcome = wait_for_lock(&config, &holder, &shutdown).await;
    // The connections close, so clients connect again and reach the writer. Connections that stay open, such
    // as a health stream, are not waited for.
    over.cancel();
    match outcome? {
        Some(writer) => writer.serve(writer_listener, shutdown).await,
        None => {
            refusing.await.map_err(|e| Error::new(Reason::Internal, format!("the standby panicked: {e}")))?
        }
    }
}

/// Opens the database as soon as no other writer holds it. Returns `None` at a shutdown. `holder` receives
/// the error that says who holds the database.
async fn wait_for_lock(
    config: &WriterConfig,
    holder: &Mutex<Error>,
    shutdown: &CancellationToken,
) -> Result<Option<WriterDaemon>> {
    let mut logged = String::new();
    loop {
        let start = Instant::now();
        let config = config.clone();
        let opened = tokio::task::spawn_blocking(move || WriterDaemon::open(config)).await;
        match opened.map_err(|e| Error::new(Reason::Internal, format!("opening the database failed: {e}")))? {
            Ok(writer) if shutdown.is_cancelled() => return writer.close().map(|()| None),
            Ok(writer) => {
                tracing::info!(opened_in = ?start.elapsed(), "took over the database");
                return Ok(Some(writer));
            }
            // FENCED: another standby took over at the same time and was faster.
            Err(error) if matches!(error.reason(), Reason::DatabaseLocked | Reason::Fenced) => {
                if logged != error.message() {
                    error.message().clone_into(&mut logged);
                    tracing::info!("standing by: {error}");
                }
                *holder.lock() = error;
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(LOCK_INTERVAL) => {}
        }
    }
}

/// Refuses every call of the writer's service, and says which writer holds the database.
#[derive(Debug, Clone)]
struct StandbyService(Arc<Mutex<Error>>);

impl StandbyService {
    fn refusal(&self) -> Error {
        let holder = self.0.lock();
        let message = format!(
            "this writer is a standby: {}; send writes to the other writer until this one takes over",
            holder.message()
        );
        let refusal = Error::new(Reason::Standby, message);
        match holder.metadata().get("writer") {
            Some(address) => refusal.with("writer", address),
            None => refusal,
        }
    }
}

impl NamedService for StandbyService {
    const NAME: &'static str = WriterServiceServer::<WriterRpc>::NAME;
}

impl tonic::codegen::Service<Request<Body>> for StandbyService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<std::result::Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        ready(Ok(status::to_status(self.refusal()).into_http()))
    }
}
