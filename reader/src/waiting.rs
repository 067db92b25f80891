//! A reader without a database to read yet: refuses calls, and waits until a writer has created the database.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use driftdb::v1::reader_service_server::ReaderServiceServer;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::memory::MemoryBudget;
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::server::{self, Listener, ServerResources, ServiceFuture};
use driftdb_common::service::status;
use driftdb_common::storage::foreign_files::check_no_foreign_files;
use driftdb_common::storage::fs::{FileSystem, OsFileSystem};
use driftdb_common::storage::layout::{self, DataDir};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;

use crate::rpc::ReaderServer;
use crate::{ReaderConfig, ReaderDaemon};

/// How often the reader looks for the database.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Whether a directory contains a database. Fails if it contains the files of something else: no writer will create a
/// database there.
pub async fn has_database(config: &ReaderConfig) -> Result<bool> {
    if config.bucket.as_ref().is_some_and(|bucket| !bucket.is_usable()) {
        return Ok(false);
    }
    let dir = DataDir::new(&config.data);
    let looked = tokio::task::spawn_blocking(move || {
        let fs: Arc<dyn FileSystem> = OsFileSystem::shared();
        let found = layout::read_database(&*fs, &dir).map_err(Error::advising_doctor)?;
        if found.is_none() {
            check_no_foreign_files(&*fs, &dir)?;
            if !layout::table_names(&*fs, &dir)?.is_empty() {
                // A writer writes database.json before it creates a table.
                let detail = "the file is missing, and the database has tables";
                return Err(Error::corrupt(dir.database().display(), 0, detail).advising_doctor());
            }
        }
        Ok(found.is_some())
    });
    looked.await.map_err(|e| Error::new(Reason::Internal, format!("looking for the database failed: {e}")))?
}

/// Refuses calls until the directory contains a database, then opens it and serves at the same address until `shutdown` is
/// cancelled.
pub async fn wait_and_serve(
    config: ReaderConfig,
    listener: Listener,
    shutdown: CancellationToken,
) -> Result<()> {
    listener.monitor().wait_for("the directory contains no database yet");
    let (waiting_listener, reader_listener) = listener.split()?;
    let (over, gone) = (shutdown.child_token(), waiting_listener.gone());
    let service = WaitingService(waiting_error(&config));
    tracing::warn!(error = %service.0, "waiting for the database");
    let health = server::standby_health::<WaitingService>(over.clone()).await;
    let resources = ServerResources {
        memory: MemoryBudget::new(config.request_memory),
        limits: config.client_limits.clone(),
    };
    let refusing = tokio::spawn(server::serve(waiting_listener, service, health, resources, over.clone()));
    let opened = wait_for_database(&config, &shutdown).await;
    // The connections close, so clients connect again and reach the reader.
    over.cancel();
    match opened? {
        Some(reader) => {
            gone.cancelled().await;
            reader.serve(reader_listener, shutdown).await
        }
        None => refusing
            .await
            .map_err(|e| Error::new(Reason::Internal, format!("waiting for the database failed: {e}")))?,
    }
}

/// Opens the database once it exists. Returns `None` at a shutdown.
async fn wait_for_database(
    config: &ReaderConfig,
    shutdown: &CancellationToken,
) -> Result<Option<ReaderDaemon>> {
    while !has_database(config).await? {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
    open_reader(config.clone()).await.map(Some)
}

/// Opens a database, away from the threads of the runtime: probes are answered meanwhile.
pub async fn open_reader(config: ReaderConfig) -> Result<ReaderDaemon> {
    let opened = tokio::task::spawn_blocking(move || ReaderDaemon::open(config)).await;
    opened.map_err(|e| Error::new(Reason::Internal, format!("opening the database failed: {e}")))?
}

fn waiting_error(config: &ReaderConfig) -> Error {
    let dir = config.data.display();
    if config.bucket.is_some() {
        let message = format!(
            "this reader copies the bucket to {dir}, and answers when it has all of it; retry, and see its log if that takes long"
        );
        return Error::new(Reason::Unreachable, message);
    }
    let message = format!(
        "this reader waits for a database in {dir}: the directory contains none yet; start driftdb-writer with --data \
         {dir}, or run `driftctl init {dir}`"
    );
    Error::new(Reason::Unreachable, message)
}

/// Refuses every call of the reader's service, and says what it waits for.
#[derive(Debug, Clone)]
struct WaitingService(Error);

impl NamedService for WaitingService {
    const NAME: &'static str = ReaderServiceServer::<ReaderServer>::NAME;
}

impl tonic::codegen::Service<Request<Body>> for WaitingService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ServiceFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let refusal = match Caller::in_extensions(request.extensions().get()) {
            Ok(caller) if caller.is_admin() => status::to_status(self.0.clone()),
            // The whole text names the directory.
            Ok(_) => status::to_status(Error::new(
                self.0.reason(),
                "this reader waits for a database; retry later",
            )),
            Err(unauthenticated) => unauthenticated,
        };
        Box::pin(ready(Ok(refusal.into_http())))
    }
}
