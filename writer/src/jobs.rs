//! Long jobs: each on a thread of its own, in its turn, going on when nobody listens any more.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::table::check::verification::Problem;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

#[cfg(test)]
mod tests;

/// The least time between two pieces of news of how far a job is.
const NEWS: Duration = Duration::from_millis(100);

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Writes a snapshot of a table.
    Snapshot,
    /// Raises a table's floor.
    Compact,
    /// Reads everything, and changes nothing.
    Verify,
}

/// What a job is: what it does, and to which table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// What it does.
    pub kind: Kind,
    /// The table; all of them where none is named.
    pub table: Option<String>,
}

impl Task {
    /// Whether both at once would get in each other's way. Only compaction takes away what others read.
    fn collides(&self, other: &Task) -> bool {
        let same_table = self.table.is_none() || other.table.is_none() || self.table == other.table;
        let one_only = match (self.kind, other.kind) {
            (Kind::Compact, _) | (_, Kind::Compact) | (Kind::Snapshot, Kind::Snapshot) => true,
            (Kind::Verify, _) | (_, Kind::Verify) => false,
        };
        same_table && one_only
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Snapshot => "snapshot",
            Kind::Compact => "compaction",
            Kind::Verify => "verification",
        };
        write!(f, "{kind} of {}", self.table.as_deref().unwrap_or("all tables"))
    }
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Names the job.
    pub id: String,
    /// What it is, for people.
    pub what: String,
    /// It has not begun: others go first.
    pub waits: bool,
    /// How much is done.
    pub done: u64,
    /// Of how much; 0 where that is not known.
    pub total: u64,
    /// Of what: "rows", "bytes", "frames".
    pub unit: &'static str,
}

/// What a follower hears.
#[derive(Debug)]
pub enum News<T> {
    /// How far the job is.
    Progress(Progress),
    /// Something that a verification found wrong.
    Problem(Problem),
    /// The end.
    Done(Result<T>),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Figures {
    done: u64,
    total: u64,
    unit: &'static str,
}

/// A job that waits or runs.
#[derive(Debug)]
struct Job {
    number: u64,
    task: Task,
    runs: AtomicBool,
    figures: watch::Sender<Figures>,
}

impl Job {
    fn progress(&self) -> Progress {
        let Figures { done, total, unit } = *self.figures.borrow();
        let (id, what) = (format!("job-{}", self.number), self.task.to_string());
        Progress { id, what, waits: !self.runs.load(Ordering::Acquire), done, total, unit }
    }
}

/// What a job's work has of the registry: the way to say how far it is, and to hear that it should end.
#[derive(Debug)]
pub struct JobHandle {
    job: Arc<Job>,
    cancelled: Arc<AtomicBool>,
    problems: mpsc::UnboundedSender<Problem>,
    told: AtomicU64,
}

impl JobHandle {
    /// Says how far the job is, `total` being 0 where it is not known. Never waits for anybody who listens; a call for
    /// some hundreds of frames is often enough.
    pub fn report(&self, done: u64, total: u64, unit: &'static str) {
        self.job.figures.send_replace(Figures { done, total, unit });
    }

    /// Whether the writer is going down: then the work undoes or leaves what it has begun, and returns
    /// [`JobHandle::check`]'s error.
    pub fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Fails once the job is cancelled.
    pub fn check(&self) -> Result<()> {
        if self.cancelled() { Err(shutting_down()) } else { Ok(()) }
    }

    /// Tells of a problem. Beyond [`limits::PROBLEMS_LISTED`] nobody is told: the summary has their number.
    pub fn problem(&self, problem: Problem) {
        if self.told.fetch_add(1, Ordering::Relaxed) < limits::PROBLEMS_LISTED {
            // Who asked may have gone; the job goes on.
            let _ = self.problems.send(problem);
        }
    }

    /// A handle of no registry, with what cancels it, for tests of work.
    #[cfg(test)]
    pub fn detached() -> (JobHandle, Arc<AtomicBool>) {
        let (cancelled, (problems, _)) = (Arc::<AtomicBool>::default(), mpsc::unbounded_channel());
        let task = Task { kind: Kind::Verify, table: None };
        let (runs, figures) = (AtomicBool::new(true), watch::Sender::default());
        let job = Arc::new(Job { number: 0, task, runs, figures });
        (JobHandle { job, cancelled: cancelled.clone(), problems, told: AtomicU64::new(0) }, cancelled)
    }
}

fn shutting_down() -> Error {
    Error::new(Reason::ShuttingDown, "the writer is shutting down")
}

/// Hears of a job. Where it is dropped, the job goes on.
#[derive(Debug)]
pub struct Follower<T> {
    job: Arc<Job>,
    figures: watch::Receiver<Figures>,
    problems: mpsc::UnboundedReceiver<Problem>,
    outcome: Option<oneshot::Receiver<Result<T>>>,
    /// Before this there is no more news of progress.
    due: Instant,
    /// The work has ended; what is left is told.
    ended: bool,
}

impl<T> Follower<T> {
    /// What comes next: progress as it is now, however much was reported meanwhile; the last, and then the end.
    pub async fn next(&mut self) -> Option<News<T>> {
        if !self.ended {
            let (due, figures) = (self.due, &mut self.figures);
            let progress = async {
                tokio::time::sleep_until(due).await;
                // The job, held here, keeps the sender.
                figures.changed().await
            };
            tokio::select! {
                biased;
                problem = self.problems.recv() => match problem {
                    Some(problem) => return Some(News::Problem(problem)),
                    None => self.ended = true,
                },
                _ = progress => {
                    self.due = Instant::now() + NEWS;
                    return Some(News::Progress(self.job.progress()));
                }
            }
        }
        let outcome = self.outcome.as_mut()?;
        if self.figures.has_changed().unwrap_or(false) {
            self.figures.mark_unchanged();
            return Some(News::Progress(self.job.progress()));
        }
        let outcome = outcome.await;
        self.outcome = None;
        let task = &self.job.task;
        let gone = |_| Err(Error::new(Reason::Internal, format!("the {task} ended without a result")));
        Some(News::Done(outcome.unwrap_or_else(gone)))
    }

    /// The end, whatever else is told before.
    #[cfg(test)]
    pub async fn outcome(mut self) -> Result<T> {
        while let Some(news) = self.next().await {
            if let News::Done(outcome) = news {
                return outcome;
            }
        }
        Err(Error::new(Reason::Internal, "the job's end was told before"))
    }
}

#[derive(Debug, Default)]
struct State {
    /// By number: those that came first, first.
    jobs: BTreeMap<u64, Arc<Job>>,
    last: u64,
    closing: bool,
}

impl State {
    /// Whether nothing that came before a job is in its way.
    fn is_free(&self, job: &Job) -> bool {
        !self.jobs.range(..job.number).any(|(_, other)| other.task.collides(&job.task))
    }

    /// Whether it is a job's turn: it is free, and those that run, and the free that came before it, leave it a place.
    fn may_begin(&self, job: &Job) -> bool {
        let before = |other: &Job| other.number < job.number && self.is_free(other);
        let runs = |other: &Job| other.runs.load(Ordering::Acquire);
        let taken = self.jobs.values().filter(|other| runs(other) || before(other)).count();
        taken < limits::JOBS && self.is_free(job)
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    cancelled: Arc<AtomicBool>,
}

/// The jobs that wait or run.
#[derive(Debug, Clone, Default)]
pub struct Jobs(Arc<Shared>);

impl Jobs {
    /// Begins a job, or lines it up behind those in its way. A compaction of a table that is being compacted is refused:
    /// what it would do is known only after the first.
    pub fn start<T: Send + 'static>(
        &self,
        task: Task,
        work: impl FnOnce(&JobHandle) -> Result<T> + Send + 'static,
    ) -> Result<Follower<T>> {
        let job = self.add(task)?;
        let (problems, found) = mpsc::unbounded_channel();
        let (result, outcome) = oneshot::channel();
        let (figures, due) = (job.figures.subscribe(), Instant::now());
        let follower = Follower {
            job: job.clone(),
            figures,
            problems: found,
            outcome: Some(outcome),
            due,
            ended: false,
        };
        let listed = Listed { shared: self.0.clone(), number: job.number };
        let cancelled = self.0.cancelled.clone();
        let handle = JobHandle { job, cancelled, problems, told: AtomicU64::new(0) };
        let run = move || {
            // Left where the work panics, too: whoever waits for the registry waits for the work.
            let listed = listed;
            let outcome = listed.wait(&handle.job).and_then(|()| work(&handle));
            if let Err(error) = &outcome {
                tracing::warn!(job = handle.job.number, task = %handle.job.task, %error, "a job failed");
            }
            // Before the outcome is told: whoever hears of it may ask for the same again.
            drop(listed);
            let _ = result.send(outcome);
            drop(handle);
        };
        let thread = std::thread::Builder::new().name("driftdb-job".to_owned()).spawn(run);
        thread.map_err(|e| Error::io("cannot start a job's thread", &e))?;
        Ok(follower)
    }

    fn add(&self, task: Task) -> Result<Arc<Job>> {
        let mut state = self.0.state.lock();
        if state.closing {
            return Err(shutting_down());
        }
        let compacting = |job: &&Arc<Job>| task.kind == Kind::Compact && job.task == task;
        if let Some(job) = state.jobs.values().find(compacting) {
            let id = format!("job-{}", job.number);
            let table = task.table.as_deref().unwrap_or_default();
            let message = format!("table {table:?} is being compacted by {id}: wait for its end");
            return Err(Error::new(Reason::JobRunning, message).with("job_id", id).with("table", table));
        }
        if state.jobs.len() >= limits::JOBS + limits::JOBS_WAITING {
            let message = format!("{} jobs wait or run: try again when some have ended", state.jobs.len());
            return Err(Error::new(Reason::Overloaded, message).retry_after(Duration::from_secs(1)));
        }
        state.last += 1;
        let number = state.last;
        let (runs, figures) = (AtomicBool::new(false), watch::Sender::default());
        let job = Arc::new(Job { number, task, runs, figures });
        state.jobs.insert(number, job.clone());
        Ok(job)
    }

    /// Every job that waits or runs, in the order in which they came.
    pub fn list(&self) -> Vec<Progress> {
        self.0.state.lock().jobs.values().map(|job| job.progress()).collect()
    }

    /// Takes no more jobs, and tells those there are to end.
    pub fn cancel(&self) {
        self.0.state.lock().closing = true;
        self.0.cancelled.store(true, Ordering::Release);
        self.0.changed.notify_all();
    }

    /// Waits until every job has ended.
    pub fn join(&self) {
        let mut state = self.0.state.lock();
        while !state.jobs.is_empty() {
            self.0.changed.wait(&mut state);
        }
    }
}

/// A job's place in the registry, left when this is dropped.
struct Listed {
    shared: Arc<Shared>,
    number: u64,
}

impl Listed {
    /// Waits for the job's turn.
    fn wait(&self, job: &Job) -> Result<()> {
        let mut state = self.shared.state.lock();
        loop {
            if state.closing {
                return Err(shutting_down());
            }
            if state.may_begin(job) {
                job.runs.store(true, Ordering::Release);
                return Ok(());
            }
            self.shared.changed.wait(&mut state);
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.shared.state.lock().jobs.remove(&self.number);
        self.shared.changed.notify_all();
    }
}
