//! A lane: threads that take turns with jobs, so that a long job holds up nobody for longer than its slice.
//!
//! A lane has a fixed number of *turns*, about one for each processor, and runs a job only while the job has a turn. A job
//! that works for longer than its slice parks its thread at the next step and queues for another turn, wherever it is:
//! between two rows, or inside of one match. So the code that works need not be written as a state machine to be fair. The
//! price is a parked thread for each job that is in the middle of something; their number is bounded, and a job that is
//! between two pages gives its thread back. Three classes of jobs alternate, each in the order of arrival: new queries,
//! queries that have run before, and watches. A short query therefore waits for a few slices at most, however many scans
//! run.
//!
//! A job must not hold a lock while it counts steps: who waits for that lock would wait with a turn.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::work::Turn;

/// In which of a lane's queues a job waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobClass {
    /// A query that has not run yet.
    New,
    /// A query that has run before.
    Running,
    /// A watch.
    Watch,
}

const CLASSES: usize = 3;

/// A job: returns whether it must run again to come to its end.
pub type Job = Box<dyn FnMut(Arc<dyn Turn>) -> bool + Send>;

/// The threads of a lane.
#[derive(Debug, Clone, Copy)]
pub struct LaneOptions {
    /// The name of the threads.
    pub name: &'static str,
    /// How many jobs run at the same time.
    pub turns: usize,
    /// The most threads, those of parked jobs included.
    pub threads: usize,
    /// What is added to the threads' nice value, so that others come first.
    pub nice: i32,
}

/// Jobs in a lane, for Status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneLoad {
    /// Jobs that have a turn.
    pub running: usize,
    /// Jobs that wait for one.
    pub waiting: usize,
}

/// Threads that take turns with jobs.
pub struct Lane {
    options: LaneOptions,
    state: Mutex<LaneState>,
    /// Wakes a thread without a job.
    job_ready: Condvar,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("options", &self.options).finish_non_exhaustive()
    }
}

struct LaneState {
    /// Turns that nobody has.
    free: usize,
    queues: [VecDeque<Waiting>; CLASSES],
    /// The class whose turn is next.
    next_class: usize,
    /// Jobs that have a turn and no thread yet.
    ready: VecDeque<(JobClass, Job)>,
    /// Threads without a job.
    idle: usize,
    threads: usize,
    closed: bool,
}

/// Who waits for a turn.
enum Waiting {
    Job(JobClass, Job),
    /// A thread in the middle of a job.
    Thread(Arc<ParkedThread>),
}

#[derive(Default)]
struct ParkedThread {
    granted: Mutex<bool>,
    wake: Condvar,
}

impl ParkedThread {
    fn grant(&self) {
        *self.granted.lock() = true;
        self.wake.notify_one();
    }

    fn wait(&self) {
        let mut granted = self.granted.lock();
        while !*granted {
            self.wake.wait(&mut granted);
        }
    }
}

impl LaneState {
    /// Takes the next one that a turn would help: a job only if a thread can run it.
    fn pick(&mut self, has_thread: bool) -> Option<Waiting> {
        for offset in 0..CLASSES {
            let class = (self.next_class + offset) % CLASSES;
            let Some(queue) = self.queues.get_mut(class) else { continue };
            let can_run = |waiting: &Waiting| has_thread || matches!(waiting, Waiting::Thread(_));
            if let Some(at) = queue.iter().position(can_run) {
                self.next_class = (class + 1) % CLASSES;
                return queue.remove(at);
            }
        }
        None
    }

    fn push(&mut self, class: JobClass, waiting: Waiting) {
        if let Some(queue) = self.queues.get_mut(class as usize) {
            queue.push_back(waiting);
        }
    }

    fn waiting(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }
}

impl Lane {
    /// Starts a lane with one thread. More start when they are needed.
    pub fn start(options: LaneOptions) -> Result<Arc<Lane>> {
        let state = LaneState {
            free: options.turns,
            queues: Default::default(),
            next_class: 0,
            ready: VecDeque::new(),
            idle: 0,
            threads: 0,
            closed: false,
        };
        let lane = Arc::new(Lane { options, state: Mutex::new(state), job_ready: Condvar::new() });
        lane.start_thread(&mut lane.state.lock())?;
        Ok(lane)
    }

    /// Queues a job.
    pub fn submit(self: &Arc<Self>, class: JobClass, job: Job) {
        let mut state = self.state.lock();
        if !state.closed {
            state.push(class, Waiting::Job(class, job));
            self.hand_out(&mut state, 0);
        }
    }

    /// Drops the jobs that wait, and ends each thread when its job ends.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let mut dropped: Vec<_> =
            state.ready.drain(..).map(|(class, job)| Waiting::Job(class, job)).collect();
        for queue in &mut state.queues {
            let (threads, jobs) = queue.drain(..).partition(|waiting| matches!(waiting, Waiting::Thread(_)));
            *queue = threads;
            dropped.extend(jobs);
        }
        self.job_ready.notify_all();
        // Without the lock, because what a job owns may do anything when it is dropped.
        drop(state);
        drop(dropped);
    }

    /// How many jobs run and wait.
    pub fn load(&self) -> LaneLoad {
        let state = self.state.lock();
        LaneLoad { running: self.options.turns - state.free, waiting: state.waiting() + state.ready.len() }
    }

    fn start_thread(self: &Arc<Self>, state: &mut LaneState) -> Result<()> {
        let lane = Arc::clone(self);
        let thread = std::thread::Builder::new().name(self.options.name.to_owned());
        let started = thread.spawn(move || lane.run());
        started.map_err(|e| Error::io("cannot start a thread that computes", &e))?;
        state.threads += 1;
        Ok(())
    }

    /// Hands the free turns to those that wait for one. `spare` threads of the caller can run a job right away.
    fn hand_out(self: &Arc<Self>, state: &mut LaneState, spare: usize) {
        while state.free > 0 {
            let unused = (spare + state.idle).saturating_sub(state.ready.len());
            let can_start = state.threads < self.options.threads;
            let Some(next) = state.pick(unused > 0 || can_start) else { return };
            state.free -= 1;
            match next {
                Waiting::Thread(thread) => thread.grant(),
                Waiting::Job(class, job) => {
                    state.ready.push_back((class, job));
                    if state.ready.len() > spare + state.idle {
                        if let Err(error) = self.start_thread(state) {
                            // The job runs when another thread has finished its own.
                            tracing::warn!(%error, "fewer threads compute than planned");
                        }
                    } else if state.ready.len() > spare {
                        self.job_ready.notify_one();
                    }
                }
            }
        }
    }

    /// Runs jobs until the lane is closed.
    fn run(self: Arc<Self>) {
        lower_priority(self.options.nice);
        let mut state = self.state.lock();
        loop {
            if let Some((class, job)) = state.ready.pop_front() {
                MutexGuard::unlocked(&mut state, || self.run_job(class, job));
                state.free += 1;
                self.hand_out(&mut state, 1);
            } else if state.closed {
                state.threads -= 1;
                return;
            } else {
                // A job may have found no thread when it was submitted.
                self.hand_out(&mut state, 1);
                if state.ready.is_empty() {
                    state.idle += 1;
                    self.job_ready.wait(&mut state);
                    state.idle -= 1;
                }
            }
        }
    }

    /// Runs a job once, and queues it again if it has not come to its end.
    fn run_job(self: &Arc<Self>, class: JobClass, mut job: Job) {
        let class = if class == JobClass::New { JobClass::Running } else { class };
        let turn = Arc::new(LaneTurn { lane: Arc::clone(self), class });
        // The panic hook reports a panic. Whoever waits for the job sees that it was dropped.
        let again = catch_unwind(AssertUnwindSafe(|| job(turn))).unwrap_or(false);
        if again {
            let mut state = self.state.lock();
            if !state.closed {
                state.push(class, Waiting::Job(class, job));
            }
        }
    }
}

/// The turn of a job that runs.
#[derive(Debug)]
struct LaneTurn {
    lane: Arc<Lane>,
    class: JobClass,
}

impl LaneTurn {
    /// Gives the turn back and queues for another one. Others that wait come first.
    fn queue_again(&self, mut state: MutexGuard<'_, LaneState>) {
        let thread = Arc::new(ParkedThread::default());
        state.push(self.class, Waiting::Thread(Arc::clone(&thread)));
        self.lane.hand_out(&mut state, 0);
        drop(state);
        thread.wait();
    }
}

impl Turn for LaneTurn {
    fn give_way(&self) {
        let mut state = self.lane.state.lock();
        if state.waiting() > 0 {
            state.free += 1;
            self.queue_again(state);
        }
    }

    fn rest(&self, time: Duration) {
        let mut state = self.lane.state.lock();
        state.free += 1;
        self.lane.hand_out(&mut state, 0);
        drop(state);
        std::thread::park_timeout(time);
        self.queue_again(self.lane.state.lock());
    }
}

/// Lets other threads come before this one. A failure costs only that.
fn lower_priority(nice: i32) {
    // Only Linux has priorities of threads. Elsewhere this would slow the whole process down.
    if cfg!(target_os = "linux")
        && nice != 0
        && let Err(error) = rustix::process::nice(nice)
    {
        tracing::debug!(%error, "cannot lower the priority of a thread");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::work::{self, StopCause, Work, WorkOptions};

    fn lane(turns: usize, threads: usize) -> Arc<Lane> {
        Lane::start(LaneOptions { name: "test", turns, threads, nice: 0 }).unwrap()
    }

    /// Submits work that goes on until it is stopped.
    fn spin(lane: &Arc<Lane>, work: &Work, ended: &mpsc::Sender<()>) {
        let (work, ended) = (work.clone(), ended.clone());
        let endless = || -> Result<()> {
            loop {
                work::step(1)?;
            }
        };
        let job = move |turn| {
            work.enter(Some(turn), endless).unwrap_err();
            ended.send(()).unwrap();
            false
        };
        lane.submit(JobClass::New, Box::new(job));
    }

    #[test]
    fn a_short_job_passes_endless_ones() {
        let lane = lane(1, 8);
        let (sender, ended) = mpsc::channel();
        let work = Work::new(WorkOptions::default());
        for _ in 0..4 {
            spin(&lane, &work, &sender);
        }
        let (done, short) = mpsc::channel();
        for class in [JobClass::New, JobClass::Watch, JobClass::Running] {
            let done = done.clone();
            lane.submit(class, Box::new(move |_| done.send(class).is_err()));
            assert_eq!(short.recv().unwrap(), class);
        }
        work.stop(StopCause::CallerGone);
        (0..4).for_each(|_| ended.recv().unwrap());
        lane.close();
    }

    #[test]
    fn more_endless_jobs_than_threads_end_too() {
        let lane = lane(2, 2);
        let (sender, ended) = mpsc::channel();
        let work = Work::new(WorkOptions::default());
        for _ in 0..10 {
            spin(&lane, &work, &sender);
        }
        while lane.load().running < 2 {
            std::thread::yield_now();
        }
        work.stop(StopCause::CallerGone);
        (0..10).for_each(|_| ended.recv().unwrap());
        lane.close();
    }

    #[test]
    fn a_resting_job_lets_others_work() {
        let lane = lane(1, 4);
        let (sender, events) = mpsc::channel();
        let resting = sender.clone();
        let job = move |turn: Arc<dyn Turn>| {
            resting.send("rests").unwrap();
            turn.rest(Duration::from_millis(200));
            resting.send("rested").unwrap();
            false
        };
        lane.submit(JobClass::New, Box::new(job));
        assert_eq!(events.recv().unwrap(), "rests");
        lane.submit(JobClass::New, Box::new(move |_| sender.send("works").is_err()));
        assert_eq!([events.recv().unwrap(), events.recv().unwrap()], ["works", "rested"]);
        lane.close();
    }

    #[test]
    fn a_job_runs_until_it_ends_and_a_panic_ends_only_itself() {
        let lane = lane(1, 1);
        let (sender, counts) = mpsc::channel();
        lane.submit(JobClass::New, Box::new(|_| std::panic::resume_unwind(Box::new("a defect"))));
        let count = AtomicUsize::new(0);
        let job = move |_| {
            let runs = count.fetch_add(1, Ordering::Relaxed) + 1;
            sender.send(runs).unwrap();
            runs < 3
        };
        lane.submit(JobClass::New, Box::new(job));
        assert_eq!(counts.iter().take(3).collect::<Vec<_>>(), [1, 2, 3]);
        lane.close();
    }
}
