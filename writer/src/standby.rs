//! A writer that cannot open its database yet: refuses calls while another writer holds it, or while the disk is full, and
//! opens it as soon as it can.
//!
//! A database on a full disk can be read, and readers need no writer for that. So a writer that finds no room even without its
//! reserve does not end: it listens, answers Status, refuses writes with DISK_FULL, and becomes writable when there is room.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use driftdb::v1;
use driftdb::v1::writer_service_server::WriterServiceServer;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::memory::MemoryBudget;
use driftdb_common::metrics::catalog;
use driftdb_common::metrics::samples::Samples;
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::convert;
use driftdb_common::service::monitor::MonitoredDaemon;
use driftdb_common::service::server::{self, Listener, ServerResources, ServiceFuture};
use driftdb_common::service::status;
use driftdb_common::storage::disk_space::{DiskReport, DiskSpace, FullDisk};
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::storage::layout::DataDir;
use driftdb_common::storage::{head, layout};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::{Grpc, NamedService};
use tonic_prost::ProstCodec;

use crate::config::WriterConfig;
use crate::rpc::{WriterRpc, disk_to_wire};
use crate::writer::WriterDaemon;

/// How often a standby tries the lock.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);
/// How often a writer on a full disk looks for room.
const ROOM_INTERVAL: Duration = Duration::from_millis(500);
/// The free bytes at which it tries to open the database. An open reads all of the log that no snapshot contains.
const ROOM_BYTES: u64 = 256 << 10;
/// How many times it looks before it tries to open the database anyway: a quota can free room that no free bytes show.
const LOOKS_PER_TRY: u32 = 20;

/// Opens the database and serves it until `shutdown` is cancelled. If the disk is too full to open it, waits for room as
/// [`stand_by`] waits for the lock.
pub async fn open_and_serve(
    config: WriterConfig,
    listen: impl AsyncFnOnce() -> Result<Listener>,
    shutdown: CancellationToken,
) -> Result<()> {
    match open(config.clone()).await {
        Ok(writer) => writer.serve(listen().await?, shutdown).await,
        Err(error) if error.reason() == Reason::DiskFull => {
            let mut waiting = WaitingWriter::new(config, error, false);
            waiting.record_full_disk().await;
            waiting.serve(listen().await?, shutdown).await
        }
        Err(error) => Err(error),
    }
}

/// Refuses calls with STANDBY until the lock is free, then opens the database and serves at the same address
/// until `shutdown` is cancelled. Fails if the database cannot be opened, or as [`WriterDaemon::serve`] does.
pub async fn stand_by(config: WriterConfig, listener: Listener, shutdown: CancellationToken) -> Result<()> {
    let cause = Error::new(Reason::DatabaseLocked, "the lock has not been tried yet");
    WaitingWriter::new(config, cause, true).serve(listener, shutdown).await
}

async fn open(config: WriterConfig) -> Result<WriterDaemon> {
    let opened = tokio::task::spawn_blocking(move || WriterDaemon::open(config)).await;
    opened.map_err(|e| Error::new(Reason::Internal, format!("opening the database failed: {e}")))?
}

/// A writer that waits until it can open its database.
#[derive(Debug)]
struct WaitingWriter {
    config: WriterConfig,
    obstacle: Arc<Mutex<Obstacle>>,
    is_standby: bool,
    logged: String,
    looks: u32,
}

/// Why the database is not open.
#[derive(Debug)]
struct Obstacle {
    cause: Error,
    /// What Status answers. Set if the disk is full: nothing else than this writer can answer then.
    status: Option<Box<v1::WriterServiceStatusResponse>>,
}

/// What the metrics show of a writer that waits: the disk, if it is too full to open the database. For the alert.
struct WaitingMetrics(Arc<Mutex<Obstacle>>);

impl MonitoredDaemon for WaitingMetrics {
    fn sample(&self, samples: &mut Samples) {
        let obstacle = self.0.lock();
        if let Some(disk) = obstacle.status.as_ref().and_then(|status| status.disk.as_ref()) {
            samples.set(&catalog::DISK_FREE, disk.free_bytes);
            samples.set(&catalog::DISK_FULL, obstacle.cause.reason() == Reason::DiskFull);
            samples.set(&catalog::RESERVE_BYTES, disk.reserve_bytes);
        }
    }

    fn check_alive(&self) -> Result<()> {
        Ok(())
    }
}

impl WaitingWriter {
    fn new(config: WriterConfig, cause: Error, is_standby: bool) -> WaitingWriter {
        let obstacle = Arc::new(Mutex::new(Obstacle { cause, status: None }));
        WaitingWriter { config, obstacle, is_standby, logged: String::new(), looks: 0 }
    }

    /// Refuses calls until the database is open, then serves it.
    async fn serve(self, listener: Listener, shutdown: CancellationToken) -> Result<()> {
        listener.monitor().wait_for(match self.is_standby {
            true => "another writer holds the database",
            false => "the disk is too full to open the database",
        });
        listener.monitor().watch_waiting(Arc::new(WaitingMetrics(Arc::clone(&self.obstacle))));
        let (waiting_listener, writer_listener) = listener.split()?;
        let (over, gone) = (shutdown.child_token(), waiting_listener.gone());
        let service = ObstacleService(Arc::clone(&self.obstacle));
        let health = server::standby_health::<ObstacleService>(over.clone()).await;
        let resources = ServerResources {
            memory: MemoryBudget::new(self.config.request_memory),
            limits: self.config.client_limits.clone(),
        };
        let refusing =
            tokio::spawn(server::serve(waiting_listener, service, health, resources, over.clone()));
        let outcome = self.wait(&shutdown).await;
        // The connections close, so clients connect again and reach the writer. Connections that stay open, such
        // as a health stream, are not waited for.
        over.cancel();
        match outcome? {
            Some(writer) => {
                gone.cancelled().await;
                writer.serve(writer_listener, shutdown).await
            }
            None => refusing
                .await
                .map_err(|e| Error::new(Reason::Internal, format!("the standby panicked: {e}")))?,
        }
    }

    /// Opens the database as soon as it can. Returns `None` at a shutdown.
    async fn wait(mut self, shutdown: &CancellationToken) -> Result<Option<WriterDaemon>> {
        loop {
            if (!self.is_disk_full() || self.has_room().await)
                && let Some(writer) = self.try_open(shutdown).await?
            {
                return Ok(Some(writer));
            }
            let interval = if self.is_disk_full() { ROOM_INTERVAL } else { LOCK_INTERVAL };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                () = tokio::time::sleep(interval) => {}
            }
        }
    }

    async fn try_open(&mut self, shutdown: &CancellationToken) -> Result<Option<WriterDaemon>> {
        let start = Instant::now();
        match open(self.config.clone()).await {
            Ok(writer) if shutdown.is_cancelled() => writer.close().map(|()| None),
            Ok(writer) => {
                let elapsed_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(elapsed_ms, "took over the database");
                Ok(Some(writer))
            }
            // FENCED: another standby took over at the same time and was faster.
            Err(error)
                if self.is_standby && matches!(error.reason(), Reason::DatabaseLocked | Reason::Fenced) =>
            {
                if self.logged != error.message() {
                    error.message().clone_into(&mut self.logged);
                    tracing::info!(%error, "standing by");
                }
                *self.obstacle.lock() = Obstacle { cause: error, status: None };
                Ok(None)
            }
            Err(error) if error.reason() == Reason::DiskFull => {
                self.obstacle.lock().cause = error;
                self.record_full_disk().await;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn is_disk_full(&self) -> bool {
        self.obstacle.lock().cause.reason() == Reason::DiskFull
    }

    /// Whether it is worth a try to open the database.
    async fn has_room(&mut self) -> bool {
        self.looks += 1;
        let data = self.config.data.clone();
        let look = move || DiskSpace::look(OsFileSystem::shared(), &DataDir::new(data));
        let Ok(report) = tokio::task::spawn_blocking(look).await else { return true };
        let DiskReport { free_bytes, reserve_bytes, .. } = report;
        if let Some(disk) = self.obstacle.lock().status.as_mut().and_then(|status| status.disk.as_mut()) {
            (disk.free_bytes, disk.reserve_bytes) = (free_bytes, reserve_bytes);
        }
        free_bytes >= ROOM_BYTES || self.looks.is_multiple_of(LOOKS_PER_TRY)
    }

    /// Prepares what Status answers, logs the full disk once, and lets the next open use the reserve.
    async fn record_full_disk(&mut self) {
        self.config.give_up_reserve = true;
        let cause = self.obstacle.lock().cause.clone();
        if self.logged.is_empty() {
            cause.message().clone_into(&mut self.logged);
            tracing::error!(error = %cause, "the disk is too full to open the database: writes are refused until there is room");
        }
        let since = self.obstacle.lock().status.as_ref().and_then(|status| status.disk.as_ref()?.full_since);
        let data = self.config.data.clone();
        let found = tokio::task::spawn_blocking(move || status_of_files(&DataDir::new(data), &cause)).await;
        let Ok(mut found) = found else { return };
        if let (Some(disk), Some(since)) = (&mut found.disk, since) {
            disk.full_since = Some(since);
        }
        self.obstacle.lock().status = Some(Box::new(found));
    }
}

/// What Status can answer without opening the database. What cannot be read is left out.
fn status_of_files(dir: &DataDir, cause: &Error) -> v1::WriterServiceStatusResponse {
    let fs = OsFileSystem::shared();
    let since_ms = driftdb_common::service::clock::now_ms();
    let full = Some(FullDisk { since_ms, message: cause.message().to_owned() });
    let disk = disk_to_wire(DiskReport { full, ..DiskSpace::look(Arc::clone(&fs), dir) });
    let unreadable = |error: &Error| tracing::warn!(%error, "Status cannot say everything");
    let database = layout::read_database(&*fs, dir).inspect_err(unreadable).ok().flatten();
    let header = head::read(&*fs, dir).inspect_err(unreadable).ok().flatten().map(|head| head.header);
    v1::WriterServiceStatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        database_id: database.map_or(String::new(), |database| database.id.to_string()),
        epoch: header.map_or(0, |header| header.epoch),
        term: header.map_or(0, |header| header.term),
        last_seq: header.map_or(0, |header| header.last_seq),
        last_time: header.map(|header| convert::time_to_wire(header.last_ms)),
        disk: Some(disk),
        ..v1::WriterServiceStatusResponse::default()
    }
}

/// Refuses every call of the writer's service except Status on a full disk, and says why.
#[derive(Debug, Clone)]
struct ObstacleService(Arc<Mutex<Obstacle>>);

impl ObstacleService {
    /// Why the call is refused. What holds the database can name files, for administrators.
    fn refusal(&self, for_admin: bool) -> Error {
        let obstacle = self.0.lock();
        let cause = &obstacle.cause;
        if cause.reason() == Reason::DiskFull {
            let message = format!(
                "cannot open the database for writing: {}; free space: the writer then continues by itself",
                cause.message()
            );
            return Error::new(Reason::DiskFull, message);
        }
        let why = if for_admin { cause.message() } else { "another writer holds the database" };
        let message = format!(
            "this writer is a standby: {why}; send writes to the other writer until this one takes over"
        );
        let refusal = Error::new(Reason::Standby, message);
        match cause.metadata().get("writer") {
            Some(address) => refusal.with("writer", address),
            None => refusal,
        }
    }
}

impl NamedService for ObstacleService {
    const NAME: &'static str = WriterServiceServer::<WriterRpc>::NAME;
}

/// The answer of one Status call.
struct StatusAnswer(v1::WriterServiceStatusResponse);

impl tonic::server::UnaryService<v1::WriterServiceStatusRequest> for StatusAnswer {
    type Response = v1::WriterServiceStatusResponse;
    type Future = std::future::Ready<Result<tonic::Response<Self::Response>, tonic::Status>>;

    fn call(&mut self, _: tonic::Request<v1::WriterServiceStatusRequest>) -> Self::Future {
        ready(Ok(tonic::Response::new(self.0.clone())))
    }
}

impl tonic::codegen::Service<Request<Body>> for ObstacleService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ServiceFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let caller = match Caller::in_extensions(request.extensions().get()) {
            Ok(caller) => caller,
            Err(unauthenticated) => return Box::pin(ready(Ok(unauthenticated.into_http()))),
        };
        let is_status = request.uri().path().ends_with("/Status");
        let known = self.0.lock().status.clone().filter(|_| is_status);
        match known {
            Some(mut known) => Box::pin(async move {
                if let Some(disk) = known.disk.as_mut().filter(|_| !caller.is_admin()) {
                    disk.message.clear();
                }
                let mut grpc = Grpc::new(ProstCodec::default());
                Ok(grpc.unary(StatusAnswer(*known), request).await)
            }),
            None => {
                let refusal = caller.redact(status::to_status(self.refusal(caller.is_admin())));
                Box::pin(ready(Ok(refusal.into_http())))
            }
        }
    }
}
