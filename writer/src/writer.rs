//! The writer: opens a database under its lock, serves gRPC until a shutdown, and closes the database.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use driftdb::v1::writer_service_server::WriterServiceServer;
use driftdb_common::bucket::bucket_options::BackupTargets;
use driftdb_common::bucket::link::BucketLink;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::memory::MemoryBudget;
use driftdb_common::service::server::{self, Listener, ServerResources};
use driftdb_common::storage::disk_space::DiskSpace;
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::storage::layout::DataDir;
use driftdb_common::storage::recovery;
use driftdb_common::storage::sst::BlockCache;
use driftdb_common::storage::wal::appender::{AppendError, Log, LogOptions};
use driftdb_common::storage::wal::publish_gate::{OpenGate, PublishGate};
use driftdb_common::table::damaged_files::DamagedFile;
use driftdb_common::table::operation::WriteToken;
use driftdb_common::table::sound_layers::damaged_layer_file;
use driftdb_common::table::table_files::TableFiles;
use driftdb_common::vital::VitalPart;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::admission::rebuild::AdmissionRebuild;
use crate::clock_guard::ClockGuard;
use crate::commit::{self, CommitHandles};
use crate::config::{SnapshotTriggers, WriterConfig};
use crate::jobs::Jobs;
use crate::maintenance::{MaintenanceContext, MaintenanceHealth, MaintenanceWork};
use crate::monitored::MonitoredWriter;
use crate::rpc::{
    BulkRunner, CommitTokens, IngestService, MadeKeyReader, MaintenanceCalls, RevertResolver, RowAsOfReader,
    TableReader, WriterRpc,
};
use crate::tasks::TaskPool;

/// How often health looks at whether the disk is full.
const DISK_INTERVAL: Duration = Duration::from_millis(100);

/// A database that is open for writing: its lock is held, and recovery is done.
#[derive(Debug)]
pub struct WriterDaemon {
    config: WriterConfig,
    files: TableFiles,
    log: Log,
    admission: Admission,
    clock: Arc<ClockGuard>,
    health: Arc<MaintenanceHealth>,
    bucket: Option<Arc<BucketLink>>,
}

impl WriterDaemon {
    /// Opens the database in `config.data`, or creates it if the directory is empty or missing. Blocks during
    /// recovery.
    pub fn open(config: WriterConfig) -> Result<WriterDaemon> {
        let bucket = open_bucket(&config)?;
        let gate: Arc<dyn PublishGate> = match &bucket {
            Some(link) => Arc::clone(link) as Arc<dyn PublishGate>,
            None => Arc::new(OpenGate),
        };
        let options = LogOptions {
            segment_bytes: config.segment_bytes.max(1),
            background: true,
            fencing: config.fencing,
            give_up_reserve: config.give_up_reserve,
            gate,
            ..LogOptions::default()
        };
        let mut files = TableFiles {
            fs: OsFileSystem::shared(),
            dir: DataDir::new(&config.data),
            cache: BlockCache::new(config.cache_bytes),
        };
        let mut set_aside = Vec::new();
        let (log, admission, damaged) = loop {
            let found = match recover(&files, options.clone(), &config, &set_aside) {
                Ok(recovered) => break recovered,
                Err(error) => error,
            };
            // The layer is sound as far as its open reads it, and is not further on.
            match damaged_layer_file(&found).filter(|path| !set_aside.contains(path)) {
                Some(path) => set_aside.push(path),
                None => return Err(found.advising_doctor()),
            }
        };
        // From here on files are changed through the log's fenced file system: once another writer has taken
        // over, it refuses.
        files.fs = Arc::clone(log.fs());
        let clock = ClockGuard::open(Arc::clone(&config.clock), config.max_clock_jump, &files, &log)?;
        let clock = Arc::new(clock);
        let health = Arc::new(MaintenanceHealth::default());
        let mut daemon = WriterDaemon { config, files, log, admission, clock, health, bucket };
        daemon.drop_damaged_layers(damaged)?;
        Ok(daemon)
    }

    /// Writes the manifests without the layers that recovery has set aside, so that readers do without them, too.
    fn drop_damaged_layers(&mut self, damaged: Vec<(u64, DamagedFile)>) -> Result<()> {
        for (id, file) in damaged {
            let is_unusable = self.admission.tables.is_unusable(id);
            self.health.note_damage_at_start(file, is_unusable);
            if is_unusable {
                continue;
            }
            match self.log.edit_manifest(id, &mut |_| Ok(())) {
                Ok(_) => {}
                // The next change of the table's files drops them.
                Err(AppendError::Refused(error)) => {
                    tracing::warn!(%error, "cannot write a manifest without damaged layers");
                }
                Err(AppendError::Fatal(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Closes the database cleanly without serving.
    pub fn close(self) -> Result<()> {
        self.clock.record_at_close();
        self.log.close()?;
        if let Some(bucket) = self.bucket {
            bucket.start()?;
            bucket.finish();
        }
        Ok(())
    }

    /// Serves gRPC until `shutdown` is cancelled, then closes the database cleanly. An error means that the
    /// database was not closed cleanly: the log failed, and no later write was acknowledged (I5).
    pub async fn serve(self, listener: Listener, shutdown: CancellationToken) -> Result<()> {
        let WriterDaemon { config, files, mut log, admission, clock, health, bucket } = self;
        let address = config.advertise.or_else(|| listener.address().map(|address| address.to_string()));
        log.set_address(&address.unwrap_or_default())?;
        let (database, term, space) = (log.database().clone(), log.term(), Arc::clone(log.space()));
        let tokens = CommitTokens::new(database.epoch, log.lineage().clone());
        let (growth, growth_receiver) = mpsc::channel(1);
        let stopping = shutdown.child_token();
        let tasks = TaskPool::new(config.statement_timeout, stopping.clone());
        let bounds = (config.snapshots.memory.saturating_mul(2), tasks.clone());
        let (commits, committer) = commit::start(log, admission, growth, bounds, Arc::clone(&clock))?;
        let clock_ended = tokio::spawn(Arc::clone(&clock).run(stopping.clone()));
        let committer = join_committer(committer, &stopping, follow_with_bucket(bucket.as_ref(), &stopping)?);
        let targets =
            BackupTargets { directory: config.backup_dir, own: config.bucket.map(|bucket| bucket.url) };
        let (jobs, memory) = (Jobs::default(), MemoryBudget::new(config.request_memory));
        let jobs_ended = cancel_jobs_at_shutdown(&jobs, &stopping);
        let (work, background) = MaintenanceWork::new(MaintenanceContext {
            files: files.clone(),
            commits: commits.clone(),
            triggers: config.snapshots,
            window: config.requests,
            clock: Arc::clone(&clock),
            space: Arc::clone(&space),
            health: Arc::clone(&health),
        });
        let background = Arc::new(background);
        let background_ended = tokio::spawn(Arc::clone(&background).run(growth_receiver, stopping.clone()));
        let CommitHandles { pipeline, ingest, catalog, log, status, .. } = commits;
        let reader = TableReader::new(files.clone(), catalog.clone(), log.clone(), Arc::clone(&memory));
        let rows = RowAsOfReader::new(files.clone(), catalog.clone(), log);
        let reverts = RevertResolver::new(catalog.clone(), rows, tasks.clone());
        let rpc = WriterRpc {
            pipeline: pipeline.clone(),
            status,
            ingest: IngestService::new(
                (ingest, pipeline.clone()),
                (reverts.clone(), tasks.clone()),
                tokens.clone(),
                stopping.clone(),
            )
            .noting_damage_in(Arc::clone(&health)),
            reverts,
            made_keys: MadeKeyReader::new(reader.clone(), &tasks),
            bulk: BulkRunner::new(&pipeline, reader, &tasks, &memory),
            maintenance: MaintenanceCalls::new(jobs, work, catalog, targets),
            tasks,
            cache: files.cache,
            memory,
            database,
            tokens,
            term,
            clock: Arc::clone(&clock),
            health,
            security: Arc::clone(listener.security()),
            activity: Arc::clone(listener.activity()),
            bucket,
        };
        let resources = ServerResources { memory: Arc::clone(&rpc.memory), limits: config.client_limits };
        let served = serve_rpc(rpc, listener, resources, (space, config.snapshots), &stopping).await;
        // Jobs and the background task end before the log closes: after that another writer may change the
        // files.
        stopping.cancel();
        let maintenance_ended = jobs_ended.await.and(background_ended.await).and(clock_ended.await);
        background.delete_unused_files();
        let recorded = tokio::task::spawn_blocking(move || clock.record_at_close()).await;
        pipeline.close();
        let failed = |what: &str, e| Error::new(Reason::Internal, format!("{what}: {e}"));
        let closed = committer.await.map_err(|e| failed("waiting for the committer failed", e))?;
        let ended = maintenance_ended.and(recorded).map_err(|e| failed("waiting for maintenance failed", e));
        served.and(closed).and(ended)
    }
}

/// Opens the bucket that the configuration names, and fills an empty data directory from it.
fn open_bucket(config: &WriterConfig) -> Result<Option<Arc<BucketLink>>> {
    let Some(options) = config.bucket.clone() else { return Ok(None) };
    BucketLink::open(options, OsFileSystem::shared(), DataDir::new(&config.data)).map(Some)
}

/// The thread that ships to the bucket, if there is one.
struct BucketThread(Option<Arc<BucketLink>>);

impl BucketThread {
    /// Ships what is left after the log is closed, and ends the thread. Blocks.
    fn finish(self) {
        if let Some(link) = self.0 {
            link.finish();
        }
    }
}

/// Starts the thread that ships what was published. When the writer closes, commits wait for the bucket only for a limited time.
fn follow_with_bucket(link: Option<&Arc<BucketLink>>, stopping: &CancellationToken) -> Result<BucketThread> {
    let Some(link) = link.cloned() else { return Ok(BucketThread(None)) };
    link.start()?;
    let (closing, stopping) = (Arc::clone(&link), stopping.clone());
    tokio::spawn(async move {
        stopping.cancelled().await;
        closing.begin_closing();
    });
    Ok(BucketThread(Some(link)))
}

/// The log, the admission state, and the damaged files, each with its table's id.
type Recovered = (Log, Admission, Vec<(u64, DamagedFile)>);

/// Opens the log, without the layers of `set_aside`.
fn recover(
    files: &TableFiles,
    options: LogOptions,
    config: &WriterConfig,
    set_aside: &[PathBuf],
) -> Result<Recovered> {
    let mut rebuild = AdmissionRebuild::new(files, config.requests, set_aside);
    let log = recovery::open(Arc::clone(&files.fs), &files.dir, options, &mut rebuild)?;
    let (seq, time_ms) = log.published();
    let damaged = rebuild.take_damaged();
    Ok((log, rebuild.finish(WriteToken { seq, time_ms }), damaged))
}

/// Serves the writer's service and health until `stopping` is cancelled. The writer is NOT_SERVING while it refuses commits
/// because the disk is full or because of the clock.
async fn serve_rpc(
    rpc: WriterRpc,
    listener: Listener,
    resources: ServerResources,
    (space, triggers): (Arc<DiskSpace>, SnapshotTriggers),
    stopping: &CancellationToken,
) -> Result<()> {
    let (steady, monitored) = (rpc.clock.steadiness(), Arc::new(MonitoredWriter::of(&rpc, triggers)));
    let service = WriterServiceServer::new(rpc)
        .max_decoding_message_size(limits::REQUEST_BYTES)
        .max_encoding_message_size(limits::REQUEST_BYTES);
    let ready = both(watch_disk(space, stopping.clone()), steady, stopping.clone());
    listener.monitor().serve(monitored, ready.clone());
    let health = server::health_while::<WriterServiceServer<WriterRpc>>(ready, stopping.clone()).await;
    server::serve(listener, service, health, resources, stopping.clone()).await
}

/// Starts the task that finds out whether writes that need room are accepted, which health reports.
fn watch_disk(space: Arc<DiskSpace>, stopping: CancellationToken) -> watch::Receiver<bool> {
    let (ready, receiver) = watch::channel(!space.is_full());
    tokio::spawn(async move {
        let _vital = VitalPart::new("the task that looks at the room on the disk");
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(DISK_INTERVAL) => {}
            }
            let now = !space.is_full();
            ready.send_if_modified(|ready| std::mem::replace(ready, now) != now);
        }
    });
    receiver
}

/// Waits for the committer's thread, and then for the bucket. Without a committer the writer cannot serve, so its end shuts the writer
/// down.
fn join_committer(
    thread: JoinHandle<Result<()>>,
    stopping: &CancellationToken,
    shipping: BucketThread,
) -> tokio::task::JoinHandle<Result<()>> {
    let stopping = stopping.clone();
    tokio::task::spawn_blocking(move || {
        let ended = thread.join();
        stopping.cancel();
        shipping.finish();
        ended.unwrap_or_else(|_| Err(Error::new(Reason::Internal, "the committer's thread panicked")))
    })
}

/// Cancels the jobs as soon as the writer shuts down, because calls under way wait for them. The task ends
/// when all jobs have ended.
fn cancel_jobs_at_shutdown(jobs: &Jobs, stopping: &CancellationToken) -> tokio::task::JoinHandle<()> {
    let (jobs, stopping) = (jobs.clone(), stopping.clone());
    tokio::spawn(async move {
        stopping.cancelled().await;
        jobs.cancel();
        // If a job panicked, its own call has reported that.
        let _ = tokio::task::spawn_blocking(move || jobs.join()).await;
    })
}

/// True while both are.
fn both(
    mut one: watch::Receiver<bool>,
    mut other: watch::Receiver<bool>,
    stopping: CancellationToken,
) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(*one.borrow_and_update() && *other.borrow_and_update());
    tokio::spawn(async move {
        loop {
            // A sender that is gone never changes its value again.
            tokio::select! {
                () = stopping.cancelled() => return,
                Ok(()) = one.changed() => {}
                Ok(()) = other.changed() => {}
            }
            sender.send_replace(*one.borrow_and_update() && *other.borrow_and_update());
        }
    });
    receiver
}
