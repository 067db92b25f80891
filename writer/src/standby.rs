//! A writer that waits for another's end: it refuses what it is asked for, and takes the database over once the lock is free.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use driftdb::v1::writer_service_server::WriterServiceServer;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::service::server::{self, Listener};
use driftdb_common::service::status;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;

use crate::rpc::WriterRpc;
use crate::{Config, Writer};

/// How often the lock is tried.
const POLL: Duration = Duration::from_millis(50);

/// Waits for the lock and refuses calls meanwhile, with STANDBY; then opens the database, and answers at the same address
/// until `shutdown`. An error means that the database cannot be opened, or what [`Writer::serve`] says.
pub async fn stand_by(config: Config, listener: Listener, shutdown: CancellationToken) -> Result<()> {
    let (waiting, taken) = listener.split()?;
    let over = shutdown.child_token();
    let held = Arc::new(Mutex::new(Error::new(Reason::DatabaseLocked, "the lock has not been tried yet")));
    let mut routes = RoutesBuilder::default();
    routes.add_service(Refusing(Arc::clone(&held)));
    let health = server::standby_health::<Refusing>(over.clone()).await;
    let refusing = tokio::spawn(server::serve(waiting, routes, health, over.clone()));
    let outcome = wait(&config, &held, &shutdown).await;
    // Its connections are told to go: their clients connect again, and find the writer. Those that do not, a stream of health
    // say, are not waited for.
    over.cancel();
    match outcome? {
        Some(writer) => writer.serve(taken, shutdown).await,
        None => refusing.await.map_err(|e| Error::new(Reason::Internal, format!("the standby: {e}")))?,
    }
}

/// Opens the database as soon as nobody holds it; `None` at a shutdown.
async fn wait(config: &Config, held: &Mutex<Error>, shutdown: &CancellationToken) -> Result<Option<Writer>> {
    let mut told = String::new();
    loop {
        let began = Instant::now();
        let config = config.clone();
        let opened = tokio::task::spawn_blocking(move || Writer::open(config)).await;
        match opened.map_err(|e| Error::new(Reason::Internal, format!("opening the database: {e}")))? {
            Ok(writer) if shutdown.is_cancelled() => return writer.close().map(|()| None),
            Ok(writer) => {
                tracing::info!(opened_in = ?began.elapsed(), "nobody holds the database: took it over");
                return Ok(Some(writer));
            }
            // Held, or lost to another at the last moment.
            Err(error) if matches!(error.reason(), Reason::DatabaseLocked | Reason::Fenced) => {
                if told != error.message() {
                    error.message().clone_into(&mut told);
                    tracing::info!("standing by: {error}");
                }
                *held.lock() = error;
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

/// Answers every call of the writer's service that this is a standby, and who is the writer.
#[derive(Debug, Clone)]
struct Refusing(Arc<Mutex<Error>>);

impl Refusing {
    fn refusal(&self) -> Error {
        let held = self.0.lock();
        let message = format!(
            "this writer is a standby: it takes over when the other one has ended. Until then send writes to that one: {}",
            held.message()
        );
        let refusal = Error::new(Reason::Standby, message);
        match held.metadata().get("writer") {
            Some(address) => refusal.with("writer", address),
            None => refusal,
        }
    }
}

impl NamedService for Refusing {
    const NAME: &'static str = WriterServiceServer::<WriterRpc>::NAME;
}

impl tonic::codegen::Service<Request<Body>> for Refusing {
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
