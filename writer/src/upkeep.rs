//! Maintenance over gRPC: each call follows a job, whose progress and result are its answers.

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::query::ast::Statement;
use driftdb_common::service::status::to_status;
use driftdb_common::table::check::verification::Problem;
use driftdb_common::table::point_in_time::PointInTime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::commit::Commits;
use crate::jobs::{Follower, Jobs, Kind, News, Progress, Task};
use crate::maintenance::{CompactInfo, Maintenance, SnapshotInfo, VerifySummary};

use v1::writer_service_execute_response::Event as Executed;

/// Answers that wait for a slow caller. The job waits for nobody: what it says meanwhile is kept, or comes to one.
const AHEAD: usize = 16;

/// The answers of one call.
pub type Messages<M> = ReceiverStream<Result<M, Status>>;

/// Starts jobs for calls.
#[derive(Debug, Clone)]
pub struct Upkeep {
    /// The jobs that wait or run.
    pub jobs: Jobs,
    work: Maintenance,
    commits: Commits,
}

impl Upkeep {
    /// Of a database whose commits these are.
    pub fn new(jobs: Jobs, work: Maintenance, commits: Commits) -> Upkeep {
        Upkeep { jobs, work, commits }
    }

    /// Starts a snapshot of a table.
    pub fn snapshot(&self, table: &str) -> Result<Follower<SnapshotInfo>> {
        let task = self.task(Kind::Snapshot, Some(table))?;
        let (work, table) = (self.work.clone(), table.to_owned());
        self.jobs.start(task, move |job| work.snapshot(&table, job))
    }

    /// Starts a compaction of a table.
    pub fn compact(
        &self,
        table: &str,
        before: Option<PointInTime>,
        dry_run: bool,
    ) -> Result<Follower<CompactInfo>> {
        let task = self.task(Kind::Compact, Some(table))?;
        let (work, table) = (self.work.clone(), table.to_owned());
        self.jobs.start(task, move |job| work.compact(&table, before, dry_run, job))
    }

    /// Starts a verification of a table, or of all.
    pub fn verify(&self, table: Option<&str>, deep: bool) -> Result<Follower<VerifySummary>> {
        let task = self.task(Kind::Verify, table)?;
        let (work, table) = (self.work.clone(), table.map(str::to_owned));
        self.jobs.start(task, move |job| {
            work.verify(table.as_deref(), deep, job, &mut |problem| job.problem(problem))
        })
    }

    /// A task on a table that is there.
    fn task(&self, kind: Kind, table: Option<&str>) -> Result<Task> {
        table.map(|table| self.commits.schema(table)).transpose()?;
        Ok(Task { kind, table: table.map(str::to_owned) })
    }

    /// Runs a statement that maintains.
    pub fn execute(&self, statement: Statement) -> Result<Messages<v1::WriterServiceExecuteResponse>> {
        let answer = |event| v1::WriterServiceExecuteResponse { event: Some(event) };
        let told = move |text: String| answer(Executed::Message(text));
        let made = move |progress| answer(Executed::Progress(progress_to_wire(progress)));
        let found = move |problem: Problem| told(problem.to_string());
        Ok(match statement {
            Statement::Snapshot { table } => {
                let follower = self.snapshot(&table.text)?;
                answers(follower, made, found, move |info| (vec![told(info.line(&table.text))], None))
            }
            Statement::Compact { table, before, dry_run } => {
                let follower = self.compact(&table.text, before, dry_run)?;
                let line = move |info: CompactInfo| told(info.line(&table.text, dry_run));
                answers(follower, made, found, move |info| (vec![line(info)], None))
            }
            Statement::Verify { table, deep } => {
                let follower = self.verify(table.as_ref().map(|table| table.text.as_str()), deep)?;
                answers(follower, made, found, move |summary| {
                    (vec![told(summary.to_string())], summary.damage())
                })
            }
            _ => return Err(Error::new(Reason::QueryInvalid, "this statement does not maintain")),
        })
    }
}

/// A call's answers: a message for each piece of a job's news, and what its result comes to.
pub fn answers<T: Send + 'static, M: Send + 'static>(
    mut follower: Follower<T>,
    progress: impl Fn(Progress) -> M + Send + 'static,
    problem: impl Fn(Problem) -> M + Send + 'static,
    done: impl FnOnce(T) -> (Vec<M>, Option<Error>) + Send + 'static,
) -> Messages<M> {
    let (sender, messages) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let mut done = Some(done);
        loop {
            let news = tokio::select! {
                // The job goes on.
                () = sender.closed() => return,
                news = follower.next() => news,
            };
            let (said, end) = match news {
                None => return,
                Some(News::Progress(made)) => (vec![progress(made)], None),
                Some(News::Problem(found)) => (vec![problem(found)], None),
                Some(News::Done(Ok(result))) => match done.take() {
                    Some(done) => done(result),
                    None => return,
                },
                Some(News::Done(Err(error))) => (Vec::new(), Some(error)),
            };
            let said = said.into_iter().map(Ok).chain(end.map(|error| Err(to_status(error))));
            for message in said {
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        }
    });
    ReceiverStream::new(messages)
}

/// How far a job is, as the API has it.
pub fn progress_to_wire(progress: Progress) -> v1::Progress {
    let Progress { id, what, waits, done, total, unit } = progress;
    v1::Progress { job_id: id, done, total, unit: unit.to_owned(), description: what, queued: waits }
}

/// What a Snapshot answers.
pub fn snapshot(follower: Follower<SnapshotInfo>) -> Messages<v1::SnapshotResponse> {
    use v1::snapshot_response::Event;
    let answer = |event| v1::SnapshotResponse { event };
    answers(
        follower,
        move |progress| answer(Some(Event::Progress(progress_to_wire(progress)))),
        move |_| answer(None),
        move |SnapshotInfo { seq, rows, bytes }| {
            (vec![answer(Some(Event::Snapshot(v1::SnapshotInfo { seq, rows, bytes })))], None)
        },
    )
}

/// What a Compact answers.
pub fn compact(follower: Follower<CompactInfo>) -> Messages<v1::CompactResponse> {
    use v1::compact_response::Event;
    let answer = |event| v1::CompactResponse { event };
    answers(
        follower,
        move |progress| answer(Some(Event::Progress(progress_to_wire(progress)))),
        move |_| answer(None),
        move |CompactInfo { floor_seq, events_folded, bytes_freed }| {
            let info = v1::CompactInfo { floor_seq, events_folded, bytes_freed };
            (vec![answer(Some(Event::Compaction(info)))], None)
        },
    )
}

/// What a Verify answers.
pub fn verify(follower: Follower<VerifySummary>) -> Messages<v1::VerifyResponse> {
    use v1::verify_response::{self, Event};
    let answer = |event| v1::VerifyResponse { event: Some(event) };
    answers(
        follower,
        move |progress| answer(Event::Progress(progress_to_wire(progress))),
        move |Problem { file, offset, message }| {
            answer(Event::Problem(verify_response::Problem { file, offset, message }))
        },
        move |VerifySummary { files, frames, rows, problems }| {
            let summary = verify_response::Summary { files, frames, rows, problems };
            (vec![answer(Event::Summary(summary))], None)
        },
    )
}
