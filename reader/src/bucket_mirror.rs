//! Keeps a reader's directory equal to a bucket, on a thread of its own, so that the follower reads it like the directory of a writer.
//!
//! The bucket is asked for the next chunk, and for nothing else. A bucket that does not answer stops nothing: the reader serves what
//! the directory has. It counts as current only from when the bucket has last said that there is no newer chunk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use driftdb_common::bucket::chain;
use driftdb_common::bucket::mirror::Mirror;
use driftdb_common::bucket::remote_files::{BucketFileSystem, RemoteFiles};
use driftdb_common::bucket::store::BucketStore;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::metrics::catalog;
use driftdb_common::metrics::samples::Samples;
use driftdb_common::storage::fs::{FileSystem, OsFileSystem};
use driftdb_common::storage::layout::DataDir;
use driftdb_common::vital::VitalPart;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

/// The default interval between two questions for the next chunk.
pub const BUCKET_POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How long one attempt is repeated before the reader says that the bucket does not answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause after a failure, and the longest if nothing but a change of the bucket or of the options can end it.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long a reader that ends waits for the thread.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);
/// After such a pause, for example of the whole machine, the chunk that is next may not be kept any more. As often it is asked
/// whether the last one is kept, and whether there are later ones than the next, because the bucket answers a question for a chunk that it
/// kept once, or that is lost, as one for a chunk to come.
const LONG_PAUSE: Duration = Duration::from_secs(60);

/// How current a directory is.
#[derive(Debug, Clone, Default)]
pub struct Currency {
    /// The start of the last question that the bucket answered with: no newer chunk. `None` before the first such answer to this process:
    /// the directory may be of any age.
    pub current_at: Option<Instant>,
    /// Why the last question failed; `None` if it did not.
    pub problem: Option<Error>,
    /// Whether the directory is a database that can be served: the bucket has shown that it is a copy of it, or does not answer now.
    pub is_usable: bool,
}

/// How current the directory is.
#[derive(Debug)]
pub struct BucketState {
    currency: Mutex<Currency>,
    /// The last chunk that the directory has.
    chunk: AtomicU64,
    /// The files of the directory, and those that stay in the bucket.
    files: Arc<dyn FileSystem>,
    /// The cache for those that stay, if some do.
    remote: Option<Arc<RemoteFiles>>,
}

impl BucketState {
    fn new(files: Arc<dyn FileSystem>, remote: Option<Arc<RemoteFiles>>) -> BucketState {
        BucketState { currency: Mutex::default(), chunk: AtomicU64::new(0), files, remote }
    }

    /// Reads the metrics of the mirror.
    pub(crate) fn sample(&self, samples: &mut Samples) {
        samples.set(&catalog::MIRROR_CHUNK, self.chunk.load(Ordering::Relaxed));
        // Not known before the bucket has answered once.
        let age = self.currency.lock().current_at.map_or(Duration::MAX, |at| at.elapsed());
        samples.set(&catalog::MIRROR_AGE, age);
        if let Some(remote) = &self.remote {
            remote.sample(samples);
        }
    }

    /// The files of the directory, and those that stay in the bucket.
    pub fn files(&self) -> Arc<dyn FileSystem> {
        Arc::clone(&self.files)
    }

    /// Whether the directory can be opened.
    pub fn is_usable(&self) -> bool {
        self.currency.lock().is_usable
    }

    /// When the directory was last known to have everything, and why it may not have it now.
    pub fn currency(&self) -> Currency {
        self.currency.lock().clone()
    }
}

/// What ends the thread.
#[derive(Debug, Default)]
struct StopSignal {
    /// For what is being read from the bucket.
    flag: Arc<AtomicBool>,
    is_stopped: Mutex<bool>,
    stopped: Condvar,
}

impl StopSignal {
    fn set(&self) {
        self.flag.store(true, Ordering::Release);
        *self.is_stopped.lock() = true;
        self.stopped.notify_all();
    }

    /// Waits. Returns whether the thread is to end.
    fn wait(&self, time: Duration) -> bool {
        let mut is_stopped = self.is_stopped.lock();
        if !*is_stopped {
            self.stopped.wait_for(&mut is_stopped, time);
        }
        *is_stopped
    }

    fn check(&self) -> Result<()> {
        match self.flag.load(Ordering::Acquire) {
            true => Err(Error::new(Reason::ShuttingDown, "the reader is shutting down")),
            false => Ok(()),
        }
    }
}

/// The thread that follows a bucket. Dropping this stops the thread, and does not wait for it: a request to the bucket may be under way.
#[derive(Debug)]
pub struct BucketMirror {
    state: Arc<BucketState>,
    stop: Arc<StopSignal>,
    ended: oneshot::Receiver<()>,
}

impl BucketMirror {
    /// Starts to follow a bucket in a directory. Fails if the directory has anything else.
    ///
    /// With a budget in bytes, layers and older segments stay in the bucket, and parts of them are cached.
    pub fn start(
        url: &str,
        dir: &DataDir,
        poll_interval: Duration,
        cache_bytes: Option<u64>,
    ) -> Result<BucketMirror> {
        let stop = Arc::new(StopSignal::default());
        let store = BucketStore::open(url)?.with_patience(PATIENCE).stopped_by(&stop.flag);
        let local = OsFileSystem::shared();
        let mirror = Mirror::open(store.clone(), Arc::clone(&local), dir)?;
        let (mirror, files, remote) = match cache_bytes {
            None => (mirror.with_whole_files()?, local, None),
            Some(budget) => {
                let timeout = Duration::from_secs(limits::BUCKET_PART_SECS);
                let parts = BucketStore::open_with_timeout(url, timeout)?;
                let parts = parts.with_patience(PATIENCE).stopped_by(&stop.flag);
                let remote = RemoteFiles::new(parts, Arc::clone(&local), dir, budget)?;
                let files: Arc<dyn FileSystem> = Arc::new(BucketFileSystem::new(local, Arc::clone(&remote)));
                (mirror.keeping_in_bucket(Arc::clone(&remote))?, files, Some(remote))
            }
        };
        let state = Arc::new(BucketState::new(files, remote));
        let work = BucketWork {
            store,
            mirror,
            is_connected: false,
            kept_at: Instant::now(),
            poll_interval,
            state: Arc::clone(&state),
            stop: Arc::clone(&stop),
        };
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("driftdb-mirror".to_owned()).spawn(move || {
            let _vital = VitalPart::new("the thread that follows the bucket");
            work.run();
            // Nobody waits if the process is ending.
            let _ = end.send(());
        });
        thread.map_err(|e| Error::io("cannot start the thread that follows the bucket", &e))?;
        Ok(BucketMirror { state, stop, ended })
    }

    /// Ends the thread, which then has recorded how far it was. Gives up if a request to the bucket takes too long: the next start
    /// applies some chunks once more.
    pub async fn close(mut self) {
        self.stop.set();
        if tokio::time::timeout(CLOSE_LIMIT, &mut self.ended).await.is_err() {
            tracing::warn!("the bucket did not answer in time; the next start applies some chunks once more");
        }
    }

    /// How current the directory is.
    pub fn state(&self) -> &Arc<BucketState> {
        &self.state
    }
}

impl Drop for BucketMirror {
    fn drop(&mut self) {
        self.stop.set();
    }
}

/// What the thread works on.
struct BucketWork {
    store: BucketStore,
    mirror: Mirror,
    /// Whether the mirror has found its place in the bucket.
    is_connected: bool,
    /// When the bucket was last known to keep the last chunk.
    kept_at: Instant,
    poll_interval: Duration,
    state: Arc<BucketState>,
    stop: Arc<StopSignal>,
}

impl BucketWork {
    fn run(mut self) {
        let mut reported: Option<Reason> = None;
        let (mut answered_at, mut failure_pause) = (Instant::now(), FAILURE_PAUSE);
        loop {
            let started_at = Instant::now();
            if answered_at.elapsed() > LONG_PAUSE {
                self.is_connected = false;
            }
            let outcome = self.take_new_chunks();
            let pause = match &outcome {
                Ok(()) => {
                    (answered_at, failure_pause) = (Instant::now(), FAILURE_PAUSE);
                    if reported.take().is_some() {
                        tracing::info!("following the bucket again");
                    }
                    self.poll_interval
                }
                Err(error) if error.reason() == Reason::ShuttingDown => break,
                Err(error) => {
                    // A chunk that does not follow: this may be the fence of a writer that has started over.
                    self.is_connected &= error.reason() != Reason::Corrupt;
                    if reported.replace(error.reason()) != Some(error.reason()) {
                        tracing::error!(%error, "cannot follow the bucket; the reader serves what it has");
                    }
                    let pause = failure_pause;
                    // What the bucket has stays as it is, and to look for it costs many requests.
                    if matches!(error.reason(), Reason::Corrupt | Reason::ArgumentInvalid) {
                        failure_pause = (failure_pause * 2).min(FAILURE_PAUSE_MAX);
                    }
                    self.poll_interval.max(pause)
                }
            };
            self.note_currency(started_at, outcome.err());
            if self.stop.wait(pause) {
                break;
            }
        }
        // Without it the next start applies the last chunks once more.
        if let Err(error) = self.mirror.checkpoint() {
            tracing::warn!(%error, "cannot record how far the directory follows the bucket");
        }
    }

    fn note_currency(&self, started_at: Instant, problem: Option<Error>) {
        self.state.chunk.store(self.mirror.last_chunk(), Ordering::Relaxed);
        let mut currency = self.state.currency.lock();
        // Any other failure can mean that this is not the bucket of the directory.
        let is_usable = problem.as_ref().is_none_or(|problem| problem.reason() == Reason::Unreachable);
        currency.is_usable |= is_usable && self.mirror.is_whole();
        if problem.is_none() {
            currency.current_at = Some(started_at);
        }
        currency.problem = problem;
    }

    /// Applies all chunks that the directory does not have.
    fn take_new_chunks(&mut self) -> Result<()> {
        if !self.is_connected {
            let ends = chain::ends(&self.store)?;
            self.mirror.reconnect();
            let (stop, mut logged) = (&self.stop, Instant::now());
            self.mirror.catch_up(ends, &mut |made| {
                if logged.elapsed() >= Duration::from_secs(5) {
                    tracing::info!(
                        chunk = made.chunk,
                        chunks = made.last_chunk,
                        bytes = made.bytes,
                        left = made.left,
                        "copying the bucket"
                    );
                    logged = Instant::now();
                }
                stop.check()
            })?;
            (self.is_connected, self.kept_at) = (true, Instant::now());
        }
        let stop = &self.stop;
        while self.mirror.advance(&mut |_| stop.check())? {
            stop.check()?;
        }
        if self.kept_at.elapsed() > LONG_PAUSE {
            self.kept_at = Instant::now();
            self.mirror.check_no_gap()?;
            if !self.mirror.is_kept()? {
                self.is_connected = false;
                let message =
                    "the bucket keeps the reader's last chunk no longer; it continues with a newer base";
                return Err(Error::new(Reason::ReplicaBehind, message));
            }
        }
        if self.mirror.is_whole() { Ok(()) } else { self.mirror.complete() }
    }
}
