//! The work of one request: whether it may go on, and how much of it has been done.
//!
//! A hostile condition, a large document or a long history can keep a thread busy for minutes. Such loops therefore call
//! [`step`], which costs a subtraction, and every few thousand steps looks whether the work may go on. Its error ends the
//! work like any other error, so no half answer can leave: once a look has failed, [`Work::enter`] returns that error
//! whatever the work itself returned.
//!
//! The work is a property of the thread and not an argument, because the loops are far below those who know the request: in
//! the reader of MessagePack, in the cursor over a layer, in the row matcher. An argument would go through every function
//! of four layers, also where the writer or a tool calls them without any request, and the one place that forgot to pass it
//! on would be the hole. Nothing of the work is async, so it never moves to another thread in between.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, Reason, Result};
use crate::memory::{MemoryBudget, MemoryPermit, MemoryUse};
use crate::planted::{PlantedBug, is_planted};
use crate::trace::{TraceContext, TraceStep};

/// The steps between two looks: some ten microseconds.
const STEPS_PER_LOOK: u32 = 4096;
/// The steps that [`quick`] allows: about a hundred microseconds.
const QUICK_STEPS: u32 = 16_384;
/// How long work keeps its turn while others wait for one.
const SLICE: Duration = Duration::from_millis(5);
/// How many bytes of a text or an encoded value count as one step.
const BYTES_PER_STEP: usize = 64;
/// The steps of a read from a file.
const STEPS_PER_READ: u32 = 512;
/// How long a read repeats itself after a file has vanished, if nothing says otherwise.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why work ends before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    /// Whoever asked for it has left.
    CallerGone,
    /// The deadline of the request has passed.
    DeadlinePassed,
    /// It took longer than the daemon allows a statement.
    StatementTimeout,
    /// The daemon shuts down.
    ShuttingDown,
}

impl StopCause {
    const ALL: [StopCause; 4] = [
        StopCause::CallerGone,
        StopCause::DeadlinePassed,
        StopCause::StatementTimeout,
        StopCause::ShuttingDown,
    ];

    /// The error that the work returns.
    pub fn error(self) -> Error {
        match self {
            StopCause::CallerGone => {
                Error::new(Reason::Cancelled, "the request was cancelled: its caller has left")
            }
            StopCause::DeadlinePassed => Error::new(
                Reason::StatementTimeout,
                "the request was stopped: its deadline has passed; ask for less, or allow more time",
            ),
            StopCause::StatementTimeout => Error::new(
                Reason::StatementTimeout,
                "the request was stopped: it took longer than --statement-timeout; ask for less, or raise that option",
            ),
            StopCause::ShuttingDown => Error::new(
                Reason::ShuttingDown,
                "the request was stopped: the daemon is shutting down; retry, or ask another daemon",
            ),
        }
    }
}

/// A flag that stops all work that was started under it: the daemon's shutdown.
#[derive(Debug, Default)]
pub struct WorkGroup(AtomicBool);

impl WorkGroup {
    /// Stops all work of the group.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What a request allows its work.
#[derive(Debug, Clone, Default)]
pub struct WorkOptions {
    /// Stops the work at this time.
    pub deadline: Option<Instant>,
    /// The most time that the work may take, whenever its clock runs.
    pub timeout: Option<Duration>,
    /// How long a read repeats itself after a file has vanished; a second if `None`.
    pub patience: Option<Duration>,
    /// Where the work reserves memory for what it holds; nowhere if `None`.
    pub memory: Option<Arc<MemoryBudget>>,
    /// What stops it together with other work.
    pub group: Arc<WorkGroup>,
}

/// The work of one request. Clones share their state.
#[derive(Debug, Clone)]
pub struct Work(Arc<WorkState>);

#[derive(Debug)]
struct WorkState {
    options: WorkOptions,
    /// 0, or one more than the position of the cause in [`StopCause::ALL`].
    stopped: AtomicU8,
    clock: Mutex<WorkClock>,
}

/// How much of the timeout is left. The clock stands still while a slow client reads what it has got.
#[derive(Debug)]
struct WorkClock {
    left: Option<Duration>,
    running_since: Option<Instant>,
}

/// A place in the order in which work takes turns on a bounded number of processors.
pub trait Turn: fmt::Debug + Send + Sync {
    /// Lets others that wait have their turn first.
    fn give_way(&self);
    /// Waits, and lets others have the turn meanwhile.
    fn rest(&self, time: Duration);
}

/// What the thread works on.
#[derive(Debug)]
enum Scope {
    Work(WorkScope),
    /// [`quick`]: whether a step was refused.
    Quick {
        refused: bool,
    },
}

#[derive(Debug)]
struct WorkScope {
    work: Work,
    turn: Option<Arc<dyn Turn>>,
    expires: Option<(Instant, StopCause)>,
    slice_end: Instant,
    /// The cause that a look has reported.
    reported: Option<StopCause>,
}

thread_local! {
    /// The steps until the next look. Without a destructor, so that access is one instruction.
    static LEFT: Cell<u32> = const { Cell::new(STEPS_PER_LOOK) };
    static SCOPE: RefCell<Option<Scope>> = const { RefCell::new(None) };
}

impl Work {
    /// Work that is about to begin. Its clock stands still.
    pub fn new(options: WorkOptions) -> Work {
        let clock = WorkClock { left: options.timeout, running_since: None };
        Work(Arc::new(WorkState { options, stopped: AtomicU8::new(0), clock: Mutex::new(clock) }))
    }

    /// Stops the work at its next look. The first cause counts.
    pub fn stop(&self, cause: StopCause) {
        let position = StopCause::ALL.iter().position(|known| *known == cause).unwrap_or_default();
        let number = u8::try_from(position + 1).unwrap_or(u8::MAX);
        // An error means that it was stopped before.
        let _ = self.0.stopped.compare_exchange(0, number, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Why the work was stopped, if it was.
    pub fn stopped(&self) -> Option<StopCause> {
        let number = self.0.stopped.load(Ordering::Acquire);
        let cause = usize::from(number).checked_sub(1).and_then(|position| StopCause::ALL.get(position));
        match cause {
            None if self.0.options.group.0.load(Ordering::Acquire) => Some(StopCause::ShuttingDown),
            cause => cause.copied(),
        }
    }

    /// Lets the clock of the timeout run.
    pub fn start_clock(&self) {
        self.0.clock.lock().running_since.get_or_insert_with(Instant::now);
    }

    /// Stops the clock of the timeout.
    pub fn stop_clock(&self) {
        let mut clock = self.0.clock.lock();
        if let Some(since) = clock.running_since.take() {
            clock.left = clock.left.map(|left| left.saturating_sub(since.elapsed()));
        }
    }

    /// When the work ends at the latest if its clock goes on running, and why.
    pub fn expires(&self) -> Option<(Instant, StopCause)> {
        let clock = self.0.clock.lock();
        let timeout = clock.left.zip(clock.running_since).and_then(|(left, since)| since.checked_add(left));
        let timeout = timeout.map(|at| (at, StopCause::StatementTimeout));
        let deadline = self.0.options.deadline.map(|at| (at, StopCause::DeadlinePassed));
        timeout.into_iter().chain(deadline).min_by_key(|(at, _)| *at)
    }

    /// Runs a part of the work on this thread. `turn` is the thread's place among those that share its processors.
    ///
    /// # Errors
    /// Those of `run`; but if the work was stopped meanwhile, the error that says so.
    pub fn enter<T>(&self, turn: Option<Arc<dyn Turn>>, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let scope = WorkScope {
            work: self.clone(),
            turn,
            expires: self.expires(),
            slice_end: Instant::now() + SLICE,
            reported: None,
        };
        let left = ScopeGuard::enter(Scope::Work(scope), STEPS_PER_LOOK);
        // Before the first step: the work may have waited long for its turn.
        let outcome = look().and_then(|()| run());
        match left.leave() {
            Some(Scope::Work(WorkScope { reported: Some(cause), .. })) => Err(cause.error()),
            _ => outcome,
        }
    }
}

/// Restores what the thread worked on before, also when a panic unwinds.
struct ScopeGuard {
    outer: Option<Scope>,
    outer_left: u32,
}

impl ScopeGuard {
    fn enter(scope: Scope, steps: u32) -> ScopeGuard {
        let outer = SCOPE.with(|current| current.borrow_mut().replace(scope));
        ScopeGuard { outer, outer_left: LEFT.replace(steps) }
    }

    /// Returns the scope that ends here.
    fn leave(mut self) -> Option<Scope> {
        let outer = self.outer.take();
        SCOPE.with(|current| std::mem::replace(&mut *current.borrow_mut(), outer))
    }
}

impl Drop for ScopeGuard {
    fn drop(&mut self) {
        LEFT.set(self.outer_left);
        if std::thread::panicking() {
            let outer = self.outer.take();
            SCOPE.with(|current| *current.borrow_mut() = outer);
        }
    }
}

/// Counts steps of the present work: loop iterations of a few nanoseconds. Outside of any work it only counts.
///
/// # Errors
/// `CANCELLED`, `STATEMENT_TIMEOUT` or `SHUTTING_DOWN` if the work may not go on.
#[inline]
pub fn step(steps: u32) -> Result<()> {
    let left = LEFT.get();
    if left > steps {
        LEFT.set(left - steps);
        return Ok(());
    }
    look()
}

/// Counts the steps that reading so many bytes takes.
///
/// # Errors
/// As [`step`].
#[inline]
pub fn step_bytes(bytes: usize) -> Result<()> {
    step(u32::try_from(bytes / BYTES_PER_STEP).unwrap_or(u32::MAX).saturating_add(1))
}

/// Counts the steps of a read from a file, which [`quick`] never allows.
///
/// # Errors
/// As [`step`].
pub fn step_for_read() -> Result<()> {
    let is_quick = SCOPE.with(|scope| match &mut *scope.borrow_mut() {
        Some(Scope::Quick { refused }) => {
            *refused = true;
            true
        }
        _ => false,
    });
    if is_quick { Err(not_quick()) } else { step(STEPS_PER_READ) }
}

/// Runs something that is expected to be short on a thread that must not be held up. Returns `None` if it would have read a
/// file or taken more than a hundred microseconds, whatever it has returned: then it must run elsewhere.
pub fn quick<T>(run: impl FnOnce() -> Result<T>) -> Option<Result<T>> {
    quick_within(QUICK_STEPS, run)
}

/// As [`quick`], for the first page of a short answer: it may take twice as long, because a change of threads would.
pub fn quick_page<T>(run: impl FnOnce() -> Result<T>) -> Option<Result<T>> {
    quick_within(2 * QUICK_STEPS, run)
}

fn quick_within<T>(steps: u32, run: impl FnOnce() -> Result<T>) -> Option<Result<T>> {
    let _step = TraceContext::current().begin(TraceStep::Read);
    let left = ScopeGuard::enter(Scope::Quick { refused: false }, steps);
    let outcome = run();
    match left.leave() {
        Some(Scope::Quick { refused: true }) => None,
        _ => Some(outcome),
    }
}

/// Whether the thread runs something that must be quick.
pub fn is_quick() -> bool {
    SCOPE.with(|scope| matches!(&*scope.borrow(), Some(Scope::Quick { .. })))
}

/// Reserves memory for what the present work holds; nothing if no work is under way, or none that has a budget.
///
/// # Errors
/// `OVERLOADED`, with a retry delay, if all memory for queries is in use.
pub fn reserve(bytes: usize) -> Result<Option<MemoryPermit>> {
    let budget = SCOPE.with(|scope| match &*scope.borrow() {
        Some(Scope::Work(WorkScope { work, .. })) => work.0.options.memory.clone(),
        _ => None,
    });
    budget.map(|budget| budget.reserve(MemoryUse::Queries, bytes as u64)).transpose()
}

/// How long a read repeats itself after a file has vanished, until the manifest that replaced the file is seen.
pub fn patience() -> Duration {
    let own = SCOPE.with(|scope| match &*scope.borrow() {
        Some(Scope::Work(WorkScope { work, .. })) => work.0.options.patience,
        _ => None,
    });
    own.unwrap_or(PATIENCE)
}

/// Waits a little for something that others do. Others have the thread's turn meanwhile.
///
/// # Errors
/// As [`step`].
pub fn pause(time: Duration) -> Result<()> {
    let turn = SCOPE.with(|scope| match &*scope.borrow() {
        Some(Scope::Work(scope)) => scope.turn.clone(),
        _ => None,
    });
    match turn {
        Some(turn) => turn.rest(time),
        None => std::thread::park_timeout(time),
    }
    look()
}

fn not_quick() -> Error {
    Error::new(Reason::Internal, "the work is too long for a thread of the async runtime")
}

/// Looks whether the present work may go on, and lets others go first if its turn has been long enough.
#[cold]
fn look() -> Result<()> {
    let turn = SCOPE.with(|scope| match &mut *scope.borrow_mut() {
        None => Ok(None),
        Some(Scope::Quick { refused }) => {
            *refused = true;
            Err(not_quick())
        }
        Some(Scope::Work(scope)) => scope.check(),
    });
    // After an error every further step fails at once, also if somebody swallows the error.
    LEFT.set(if turn.is_ok() { STEPS_PER_LOOK } else { 0 });
    let Some(turn) = turn? else { return Ok(()) };
    turn.give_way();
    SCOPE.with(|scope| match &mut *scope.borrow_mut() {
        Some(Scope::Work(scope)) => {
            scope.slice_end = Instant::now() + SLICE;
            scope.check().map(|_| ())
        }
        _ => Ok(()),
    })
}

impl WorkScope {
    /// Fails if the work may not go on. Returns its turn if others should have it now.
    fn check(&mut self) -> Result<Option<Arc<dyn Turn>>> {
        let now = Instant::now();
        if let Some((at, cause)) = self.expires
            && now >= at
        {
            self.work.stop(cause);
        }
        if let Some(cause) = self.work.stopped()
            && !is_planted(PlantedBug::CancellationIgnored)
        {
            self.reported = Some(cause);
            return Err(cause.error());
        }
        Ok(self.turn.clone().filter(|_| now >= self.slice_end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spin(work: &Work) -> Result<()> {
        work.enter(None, || {
            loop {
                step(1)?;
            }
        })
    }

    #[test]
    fn outside_of_any_work_nothing_is_refused() {
        for _ in 0..3 * STEPS_PER_LOOK {
            step(1).unwrap();
        }
        step_for_read().unwrap();
        assert!(reserve(1 << 40).unwrap().is_none());
    }

    #[test]
    fn stopped_work_ends_with_its_first_cause() {
        let work = Work::new(WorkOptions::default());
        let other = work.clone();
        let stopper = std::thread::spawn(move || {
            other.stop(StopCause::CallerGone);
            other.stop(StopCause::DeadlinePassed);
        });
        assert_eq!(spin(&work).unwrap_err().reason(), Reason::Cancelled);
        stopper.join().unwrap();
        // It stays stopped.
        assert_eq!(work.enter(None, || Ok(())).unwrap_err().reason(), Reason::Cancelled);
    }

    #[test]
    fn a_shutdown_stops_all_work() {
        let options = WorkOptions::default();
        let works = [Work::new(options.clone()), Work::new(options.clone())];
        options.group.stop();
        for work in works {
            assert_eq!(spin(&work).unwrap_err().reason(), Reason::ShuttingDown);
        }
    }

    #[test]
    fn a_swallowed_stop_is_returned_at_the_end() {
        let work = Work::new(WorkOptions::default());
        let outcome = work.enter(None, || {
            work.stop(StopCause::CallerGone);
            // Work that takes an error of a step for a missing value.
            Ok((0..2 * STEPS_PER_LOOK).filter(|_| step(1).is_ok()).count())
        });
        assert_eq!(outcome.unwrap_err().reason(), Reason::Cancelled);
    }

    #[test]
    fn the_timeout_counts_only_while_the_clock_runs() {
        let timeout = Some(Duration::from_millis(20));
        let work = Work::new(WorkOptions { timeout, ..WorkOptions::default() });
        assert_eq!(work.expires(), None);
        work.start_clock();
        assert_eq!(work.expires().map(|(_, cause)| cause), Some(StopCause::StatementTimeout));
        work.stop_clock();
        assert_eq!(work.expires(), None);
        work.start_clock();
        assert_eq!(spin(&work).unwrap_err().reason(), Reason::StatementTimeout);
        let passed = Some(Instant::now());
        let late = Work::new(WorkOptions { deadline: passed, ..WorkOptions::default() });
        assert_eq!(late.enter(None, || Ok(())).unwrap_err().reason(), Reason::StatementTimeout);
    }

    #[test]
    fn quick_work_neither_reads_files_nor_takes_long() {
        assert_eq!(quick(|| step(QUICK_STEPS - 1)).map(|outcome| outcome.is_ok()), Some(true));
        assert!(quick(|| step(QUICK_STEPS)).is_none());
        assert!(quick(|| Ok(step_for_read().is_err())).is_none(), "also if the error is swallowed");
        // The thread is as it was.
        step(QUICK_STEPS).unwrap();
    }
}
