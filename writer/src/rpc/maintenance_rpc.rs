//! Maintenance calls: each starts a job and streams the job's progress and result.

use driftdb::v1;
use driftdb::v1::writer_service_execute_response::Event as ExecuteEvent;
use driftdb_common::bucket::bucket_options::BackupTargets;
use driftdb_common::bucket::shipper::ShipReport;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::query::ast::Statement;
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::access::lease::{LeaseNeeds, lease_stream};
use driftdb_common::service::access::role::Role;
use driftdb_common::service::convert;
use driftdb_common::service::server::ResponseStream;
use driftdb_common::service::status::to_status;
use driftdb_common::table::check::verification::Problem;
use driftdb_common::table::point_in_time::PointInTime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use crate::commit::TableCatalog;
use crate::jobs::{JobEvent, JobFollower, JobKind, JobProgress, JobTask, Jobs};
use crate::maintenance::{CompactionSummary, MaintenanceWork, SnapshotSummary, VerificationSummary};

/// Responses that wait for a slow client. At the limit the stream waits, and the job's progress reports are
/// merged.
const RESPONSES_AHEAD: usize = 16;

/// The responses of one call.
pub(crate) type JobStream<M> = ReceiverStream<Result<M, Status>>;

/// Starts jobs for calls.
#[derive(Debug, Clone)]
pub(crate) struct MaintenanceCalls {
    jobs: Jobs,
    work: MaintenanceWork,
    catalog: TableCatalog,
    targets: BackupTargets,
}

impl MaintenanceCalls {
    /// Runs `work` in `jobs`, backups only to `targets`.
    pub(crate) fn new(
        jobs: Jobs,
        work: MaintenanceWork,
        catalog: TableCatalog,
        targets: BackupTargets,
    ) -> MaintenanceCalls {
        MaintenanceCalls { jobs, work, catalog, targets }
    }

    /// The jobs that wait or run, oldest first, as far as the caller may know of them.
    pub(crate) fn jobs(&self, caller: &Caller) -> Vec<v1::Progress> {
        let is_known = |job: &JobProgress| match &job.table {
            Some(table) => caller.lists(table),
            None => caller.is_admin(),
        };
        self.jobs.list().into_iter().filter(is_known).map(progress_to_wire).collect()
    }

    /// All jobs.
    pub(crate) fn registry(&self) -> &Jobs {
        &self.jobs
    }

    /// Starts a snapshot of a table.
    pub(crate) fn snapshot(&self, table: &str) -> Result<JobFollower<SnapshotSummary>> {
        let task = self.task(JobKind::Snapshot, Some(table))?;
        let (work, table) = (self.work.clone(), table.to_owned());
        self.jobs.start(task, move |job| work.snapshot(&table, job))
    }

    /// Starts a compaction of the tables with a name.
    pub(crate) fn compact(
        &self,
        table: &str,
        before: Option<PointInTime>,
        dry_run: bool,
    ) -> Result<JobFollower<CompactionSummary>> {
        // Dropped tables too: their history takes space.
        self.catalog.ids_of_name(table)?;
        let task = JobTask { kind: JobKind::Compact, table: Some(table.to_owned()) };
        let (work, table) = (self.work.clone(), table.to_owned());
        self.jobs.start(task, move |job| work.compact(&table, before, dry_run, job))
    }

    /// Starts a verification of a table, or of all tables.
    pub(crate) fn verify(&self, table: Option<&str>, deep: bool) -> Result<JobFollower<VerificationSummary>> {
        let task = self.task(JobKind::Verify, table)?;
        let (work, table) = (self.work.clone(), table.map(str::to_owned));
        self.jobs.start(task, move |job| {
            work.verify(table.as_deref(), deep, job, &mut |problem| job.report_problem(problem))
        })
    }

    /// Starts a backup.
    pub(crate) async fn back_up(&self, url: String, force: bool) -> Result<JobFollower<ShipReport>> {
        // It looks at directories, whose disk may not answer.
        let (targets, place) = (self.targets.clone(), url.clone());
        let checked = tokio::task::spawn_blocking(move || targets.check(&place)).await;
        checked.map_err(|e| Error::new(Reason::Internal, format!("cannot check the bucket: {e}")))??;
        let (task, work) = (self.task(JobKind::Backup, None)?, self.work.clone());
        self.jobs.start(task, move |job| work.back_up(&url, force, job))
    }

    /// A task on a table. Fails if the table does not exist.
    fn task(&self, kind: JobKind, table: Option<&str>) -> Result<JobTask> {
        table.map(|table| self.catalog.table_id(table)).transpose()?;
        Ok(JobTask { kind, table: table.map(str::to_owned) })
    }

    /// Runs a maintenance statement: SNAPSHOT, COMPACT or VERIFY.
    pub(crate) fn execute(
        &self,
        statement: Statement,
    ) -> Result<JobStream<v1::WriterServiceExecuteResponse>> {
        let response = |event| v1::WriterServiceExecuteResponse { event: Some(event), made_keys: Vec::new() };
        let message = move |text: String| response(ExecuteEvent::Message(text));
        let progress = move |progress| response(ExecuteEvent::Progress(progress_to_wire(progress)));
        let problem = move |problem: Problem| message(problem.to_string());
        Ok(match statement {
            Statement::Snapshot { table } => {
                let follower = self.snapshot(&table.text)?;
                let done = move |summary: SnapshotSummary| (message(summary.line(&table.text)), None);
                job_responses(follower, progress, problem, done)
            }
            Statement::Compact { table, before, dry_run } => {
                let follower = self.compact(&table.text, before, dry_run)?;
                let done =
                    move |summary: CompactionSummary| (message(summary.line(&table.text, dry_run)), None);
                job_responses(follower, progress, problem, done)
            }
            Statement::Verify { table, deep } => {
                let follower = self.verify(table.as_ref().map(|table| table.text.as_str()), deep)?;
                let done = move |summary: VerificationSummary| {
                    (message(summary.to_string()), summary.damage_error())
                };
                job_responses(follower, progress, problem, done)
            }
            _ => return Err(Error::new(Reason::QueryInvalid, "not a maintenance statement")),
        })
    }
}

/// Streams a job: one response for each progress report and each problem, and one for the result, which an
/// error may follow. If the client disconnects, the stream ends and the job continues.
fn job_responses<T: Send + 'static, M: Send + 'static>(
    mut follower: JobFollower<T>,
    progress: impl Fn(JobProgress) -> M + Send + 'static,
    problem: impl Fn(Problem) -> M + Send + 'static,
    done: impl FnOnce(T) -> (M, Option<Error>) + Send + 'static,
) -> JobStream<M> {
    let (sender, responses) = mpsc::channel(RESPONSES_AHEAD);
    tokio::spawn(async move {
        let mut done = Some(done);
        loop {
            let event = tokio::select! {
                () = sender.closed() => return,
                event = follower.next() => event,
            };
            let (response, end) = match event {
                None => return,
                Some(JobEvent::Progress(event)) => (Some(progress(event)), None),
                Some(JobEvent::Problem(event)) => (Some(problem(event)), None),
                Some(JobEvent::Done(Ok(result))) => match done.take() {
                    Some(done) => {
                        let (response, error) = done(result);
                        (Some(response), error)
                    }
                    None => return,
                },
                Some(JobEvent::Done(Err(error))) => (None, Some(error)),
            };
            let messages = response.map(Ok).into_iter().chain(end.map(|error| Err(to_status(error))));
            for message in messages {
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        }
    });
    ReceiverStream::new(responses)
}

/// The answer of a job, as long as the caller may start it: as an administrator of the table, or of the database if it is about all
/// tables.
pub(crate) fn job_response<M: Send + 'static>(
    responses: JobStream<M>,
    caller: &Caller,
    table: Option<&str>,
) -> Response<ResponseStream<M>> {
    let needs = match table {
        Some(table) => LeaseNeeds::Tables(Role::Admin, vec![table.to_owned()]),
        None => LeaseNeeds::Administer,
    };
    Response::new(lease_stream(Box::pin(responses), caller, needs))
}

fn progress_to_wire(progress: JobProgress) -> v1::Progress {
    let JobProgress { id, description, queued, done, total, unit, .. } = progress;
    v1::Progress { job_id: id, done, total, unit: unit.to_owned(), description, queued }
}

/// The responses of a Snapshot call.
pub(crate) fn snapshot_responses(follower: JobFollower<SnapshotSummary>) -> JobStream<v1::SnapshotResponse> {
    use v1::snapshot_response::Event;
    let response = |event| v1::SnapshotResponse { event };
    job_responses(
        follower,
        move |progress| response(Some(Event::Progress(progress_to_wire(progress)))),
        move |_| response(None),
        move |SnapshotSummary { seq, rows, bytes }| {
            (response(Some(Event::Snapshot(v1::SnapshotInfo { seq, rows, bytes }))), None)
        },
    )
}

/// The responses of a Compact call.
pub(crate) fn compact_responses(follower: JobFollower<CompactionSummary>) -> JobStream<v1::CompactResponse> {
    use v1::compact_response::Event;
    let response = |event| v1::CompactResponse { event };
    job_responses(
        follower,
        move |progress| response(Some(Event::Progress(progress_to_wire(progress)))),
        move |_| response(None),
        move |CompactionSummary { floor_seq, events_compacted, bytes_freed }| {
            let info = v1::CompactInfo { floor_seq, events_folded: events_compacted, bytes_freed };
            (response(Some(Event::Compaction(info))), None)
        },
    )
}

/// The responses of a Backup call.
pub(crate) fn backup_responses(follower: JobFollower<ShipReport>) -> JobStream<v1::BackupResponse> {
    use v1::backup_response::Event;
    let response = |event| v1::BackupResponse { event };
    job_responses(
        follower,
        move |progress| response(Some(Event::Progress(progress_to_wire(progress)))),
        move |_| response(None),
        move |ShipReport { last, chunk, is_new }| {
            let last_time = Some(convert::time_to_wire(last.time_ms));
            let info = v1::BackupInfo { last_seq: last.seq, last_time, chunk, is_new };
            (response(Some(Event::Backup(info))), None)
        },
    )
}

/// The responses of a Verify call.
pub(crate) fn verify_responses(follower: JobFollower<VerificationSummary>) -> JobStream<v1::VerifyResponse> {
    use v1::verify_response::{self, Event};
    let response = |event| v1::VerifyResponse { event: Some(event) };
    job_responses(
        follower,
        move |progress| response(Event::Progress(progress_to_wire(progress))),
        move |Problem { file, offset, message }| {
            response(Event::Problem(verify_response::Problem { file, offset, message }))
        },
        move |VerificationSummary { files, frames, rows, problems }| {
            let summary = verify_response::Summary { files, frames, rows, problems };
            (response(Event::Summary(summary)), None)
        },
    )
}
