//! The writer's link to its bucket: the gate that commits pass before they are published, and the thread that ships behind them.
//!
//! With `async` the gate is open, and the thread ships every interval what was published. With `sync` each group waits at the gate for
//! the PUT of its chunk, and the thread ships only what no commit waits for: layers, manifests, the close. Whoever ships holds the shipper,
//! so one PUT is in flight at a time.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::bucket::beginning::{self, Place};
use crate::bucket::bucket_options::{BucketAck, BucketOptions, BucketStatus};
use crate::bucket::chunk::{ChunkOrigin, HEADER_BYTES};
use crate::bucket::collection;
use crate::bucket::fencing::{BucketClaim, replaced_error};
use crate::bucket::link_state::LinkState;
use crate::bucket::postponed_uploads::PostponedUploads;
use crate::bucket::ship_source::upload;
use crate::bucket::shipper::{ShipReport, ShippedHead, Shipper};
use crate::bucket::store::{BucketStore, Persistence};
use crate::error::{Error, Reason, Result};
use crate::metrics::catalog;
use crate::metrics::samples::Samples;
use crate::storage::fs::FileSystem;
use crate::storage::head::Head;
use crate::storage::layout::DataDir;
use crate::storage::wal::publish_gate::PublishGate;
use crate::vital::VitalPart;

/// How long the creation of one chunk is tried before the failure is reported; then it is tried again.
const TRY_FOR: Duration = Duration::from_secs(1);
/// How long uploads and reads are tried before the failure is reported.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause after a failure.
const FAILURE_PAUSE: Duration = Duration::from_millis(200);
/// How often what no commit waits for is shipped if commits wait for their own chunks.
const SYNC_BACKGROUND: Duration = Duration::from_secs(1);
/// How often what is too old is deleted: in a tenth of the time for which it is kept, within these bounds. A collection reads all
/// bases that are kept.
const COLLECT_EVERY_LEAST: Duration = Duration::from_secs(1);
const COLLECT_EVERY_MOST: Duration = Duration::from_secs(86_400);
/// When the first collection begins at the latest: a writer may be restarted every day.
const COLLECT_FIRST: Duration = Duration::from_secs(600);

/// The link of a writer to its bucket.
#[derive(Debug)]
pub struct BucketLink {
    store: BucketStore,
    options: BucketOptions,
    place: Place,
    /// The claim of a take-over, until the log is open.
    claim: Mutex<Option<BucketClaim>>,
    /// Whoever ships holds it, also while it waits for the store.
    shipper: Mutex<Option<Shipper>>,
    /// Held while a file is uploaded that no chunk names yet: collection must not delete it then.
    uploading: Mutex<()>,
    postponed: Mutex<PostponedUploads>,
    state: Mutex<LinkState>,
    changed: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl BucketLink {
    /// Opens the bucket for a writer that is about to open the database in `dir`. If the directory is empty and the bucket has a database,
    /// fills the directory from the bucket. Blocks.
    pub fn open(options: BucketOptions, fs: Arc<dyn FileSystem>, dir: DataDir) -> Result<Arc<BucketLink>> {
        let store = BucketStore::open(&options.url)?.with_patience(PATIENCE);
        BucketLink::over(store, options, fs, dir)
    }

    /// Does the same as [`BucketLink::open`] with a store that is open.
    pub fn over(
        store: BucketStore,
        options: BucketOptions,
        fs: Arc<dyn FileSystem>,
        dir: DataDir,
    ) -> Result<Arc<BucketLink>> {
        let place = (fs, dir);
        let claim = beginning::take_over(&store, &place, origin_of(&options))?;
        Ok(Arc::new(BucketLink {
            store,
            options,
            place,
            claim: Mutex::new(claim),
            shipper: Mutex::default(),
            uploading: Mutex::default(),
            postponed: Mutex::default(),
            state: Mutex::new(LinkState::new()),
            changed: Condvar::new(),
            threads: Mutex::default(),
        }))
    }

    /// Starts the threads that ship and collect. Without them, nothing is shipped but what commits wait for.
    pub fn start(self: &Arc<Self>) -> Result<()> {
        self.spawn("driftdb-ship", |link| link.run())?;
        if let Some(keep) = self.options.keep {
            let every = (keep / 10).clamp(COLLECT_EVERY_LEAST, COLLECT_EVERY_MOST);
            self.spawn("driftdb-collect", move |link| {
                let mut pause = every.min(COLLECT_FIRST);
                while !link.wait(pause) {
                    pause = every;
                    if let Err(error) = link.collect(keep) {
                        tracing::warn!(%error, bucket = link.store.url(), "cannot delete what is too old in the bucket; the next attempt continues");
                    }
                }
            })?;
        }
        Ok(())
    }

    fn spawn(
        self: &Arc<Self>,
        name: &'static str,
        run: impl FnOnce(&BucketLink) + Send + 'static,
    ) -> Result<()> {
        let link = Arc::clone(self);
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _vital = VitalPart::new(name);
            run(&link);
        });
        let thread = spawned.map_err(|e| Error::io(format_args!("cannot start the thread {name}"), &e))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Deletes what is too old, in small steps between which commits go on.
    pub fn collect(&self, keep: Duration) -> Result<()> {
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        let Some(plan) = collection::plan(&self.store, keep_ms)? else { return Ok(()) };
        self.check_still_last()?;
        collection::mark(&self.store, &plan, &Persistence::lasting(TRY_FOR))?;
        for object in &plan.files {
            if !self.goes_on()? {
                return Ok(());
            }
            let _uploads = self.uploading.lock();
            let shipper = self.shipper.lock();
            if shipper.as_ref().is_some_and(|shipper| !shipper.may_name(object)) {
                self.store.delete(object)?;
            }
        }
        collection::delete_chunks(&self.store, &plan, &mut || self.goes_on())?;
        tracing::info!(
            chunk = plan.first,
            files = plan.files.len(),
            bucket = self.store.url(),
            "deleted what was too old in the bucket"
        );
        Ok(())
    }

    fn goes_on(&self) -> Result<bool> {
        self.check_writer()?;
        Ok(!self.state.lock().is_ended())
    }

    /// Fails if another writer has taken over. Holds nobody up while it asks the bucket.
    fn check_still_last(&self) -> Result<()> {
        let next = match &*self.shipper.lock() {
            Some(shipper) => shipper.report().chunk + 1,
            None => return Ok(()),
        };
        let began = Instant::now();
        if let Some(start) = self.store.chunk_start(next, HEADER_BYTES as u64)? {
            // It can be this writer's own: stored meanwhile, or stored by a request whose answer was lost.
            let is_of_other = |shipper: &Shipper| shipper.is_of_other(&start, next);
            if self.shipper.lock().as_ref().is_some_and(is_of_other) {
                return Err(replaced_error(&self.store, &start, next));
            }
        }
        self.state.lock().confirmed_at = began;
        Ok(())
    }

    /// Finds out from time to time whether another writer has taken over, if there is nothing to ship that would show it.
    fn check_idle(&self) -> Result<()> {
        let is_due = self.state.lock().is_confirmation_due(&self.options);
        if is_due { self.check_still_last() } else { Ok(()) }
    }

    fn run(&self) {
        let interval = match self.options.ack {
            BucketAck::Async => self.options.interval,
            BucketAck::Sync => SYNC_BACKGROUND.max(self.options.interval),
        };
        while !self.wait(interval) {
            self.ship_behind();
        }
        // The close of the database, and what was published before it.
        while !self.ship_behind() && self.check_time().is_ok() {
            std::thread::sleep(FAILURE_PAUSE);
        }
    }

    /// Waits for some time. Returns true, perhaps earlier, if the link ends.
    fn wait(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut state = self.state.lock();
        while !state.is_ended() {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return state.is_ended();
            }
        }
        true
    }

    /// Ships what was published. Returns whether nothing is left to do.
    fn ship_behind(&self) -> bool {
        let began = Instant::now();
        let outcome = self.upload_wanted().and_then(|()| match &mut *self.shipper.lock() {
            Some(shipper) => shipper.ship(&ShippedHead::OnDisk, &Persistence::lasting(TRY_FOR)).map(Some),
            None => Ok(None),
        });
        let outcome = match outcome {
            Ok(Some(report)) if !report.is_new => self.check_idle().map(|()| Some(report)),
            outcome => outcome,
        };
        match outcome {
            Ok(Some(report)) => self.note_shipped(report, began),
            Ok(None) => {}
            Err(error) => {
                let is_over = error.reason() == Reason::Fenced;
                self.note_failure(&error);
                return is_over;
            }
        }
        true
    }

    /// Uploads the files that the next chunk needs, while commits go on. With `async` the log is shipped meanwhile: before the first file,
    /// and between the parts of long ones. A file that cannot be uploaded keeps neither the log nor the other files back.
    fn upload_wanted(&self) -> Result<()> {
        let wanted = match &mut *self.shipper.lock() {
            Some(shipper) => shipper.wanted()?,
            None => return Ok(()),
        };
        let mut shipped_at = None;
        let mut failed = Ok(());
        self.postponed.lock().retain(&wanted);
        for file in wanted {
            self.ship_log_beside(&mut shipped_at)?;
            self.check_time()?;
            // A writer that stops tries once more.
            if !self.state.lock().is_ended()
                && let Some(error) = self.postponed.lock().problem_of(&file)
            {
                failed = failed.and(Err(error));
                continue;
            }
            let _uploads = self.uploading.lock();
            let mut between = || {
                self.check_time()?;
                self.ship_log_beside(&mut shipped_at)
            };
            match upload(&self.store, &*self.place.0, self.place.1.root(), &file, &mut between) {
                Ok(known) => {
                    if let Some(shipper) = &mut *self.shipper.lock() {
                        shipper.note_uploaded(known);
                    }
                }
                // A job has replaced it meanwhile.
                Err(error) if error.reason() == Reason::FileGone => {}
                Err(error) if matches!(error.reason(), Reason::Fenced | Reason::Cancelled) => {
                    return Err(error);
                }
                Err(error) => {
                    self.postponed.lock().note_failure(file, &error);
                    failed = failed.and(Err(error));
                }
            }
        }
        failed
    }

    /// Ships the log beside an upload, if that is due.
    fn ship_log_beside(&self, shipped_at: &mut Option<Instant>) -> Result<()> {
        let is_due = shipped_at.is_none_or(|at: Instant| at.elapsed() >= self.options.interval);
        // With `sync` every commit has its own chunk: only the close of the log is left.
        let is_left = self.options.ack == BucketAck::Async || self.state.lock().is_ended();
        if !is_left || !is_due {
            return Ok(());
        }
        let began = Instant::now();
        let shipped = match &mut *self.shipper.lock() {
            Some(shipper) => shipper.ship_log(&Persistence::lasting(TRY_FOR)),
            None => Ok(None),
        };
        *shipped_at = Some(began);
        match shipped {
            Ok(report) => {
                report.into_iter().for_each(|report| self.state.lock().note_log_shipped(report, began));
                Ok(())
            }
            // A job has replaced files, and their manifest.
            Err(error) if error.reason() == Reason::FileGone => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Fails if the link has ended, and the time is over in which it may still ship.
    fn check_time(&self) -> Result<()> {
        match self.state.lock().ended_at {
            Some(at) if at.elapsed() >= self.options.timeout => Err(Error::new(
                Reason::Cancelled,
                "the writer is stopping; the next writer continues the upload",
            )),
            _ => Ok(()),
        }
    }

    fn note_shipped(&self, report: ShipReport, began: Instant) {
        let ended = self.state.lock().note_shipped(report, began);
        if let Some(problem) = ended {
            tracing::info!(bucket = self.store.url(), error = problem, "the bucket can be written again");
        }
    }

    fn note_failure(&self, error: &Error) {
        let due = self.state.lock().note_failure(error);
        if let Some(lag) = due {
            tracing::warn!(%error, bucket = self.store.url(), lag_ms = u64::try_from(lag.as_millis()).unwrap_or(u64::MAX), "cannot ship to the bucket");
        }
    }

    /// How far the bucket is, if the last published commit is `durable`.
    pub fn status(&self, durable: u64) -> BucketStatus {
        self.state.lock().status(self.store.url(), self.options.ack, durable)
    }

    /// Reads the metrics of the bucket, if the last published commit is `durable`.
    pub fn sample(&self, durable: u64, samples: &mut Samples) {
        let BucketStatus { last, chunk, lag, .. } = self.status(durable);
        samples.set(&catalog::BUCKET_SHIPPED_SEQ, last.seq);
        samples.set(&catalog::BUCKET_CHUNK, chunk);
        samples.set(&catalog::BUCKET_LAG_COMMITS, durable.saturating_sub(last.seq));
        samples.set(&catalog::BUCKET_LAG_SECONDS, lag);
    }

    /// Says that the writer closes: commits wait for the bucket only for the time-out from now on.
    pub fn begin_closing(&self) {
        self.state.lock().closing_since.get_or_insert_with(Instant::now);
    }

    /// Ships what is left, and ends the thread. Blocks. Called when the log is closed.
    pub fn finish(&self) {
        self.state.lock().ended_at.get_or_insert_with(Instant::now);
        self.changed.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the bucket panicked");
            }
        }
    }

    /// Takes over the bucket when the log opens, and returns what ships from then on.
    fn begin(&self, head: &Head) -> Result<Shipper> {
        let origin = origin_of(&self.options);
        let claim = self.claim.lock().take();
        let shipper = beginning::begin(&self.store, &self.place, head, claim, origin)?
            .with_base_after(self.options.base_chunks);
        self.state.lock().report = Some(shipper.report());
        Ok(shipper)
    }

    /// Ships a HEAD before it is published. A chunk that was begun is tried until its outcome is known: what the store may have must
    /// never be refused.
    fn ship_next(&self, shipper: &mut Shipper, head: &Head) -> Result<()> {
        loop {
            let began = Instant::now();
            self.state.lock().begun_at = Some(began);
            let next = ShippedHead::Next(head.clone());
            let error = match shipper.ship(&next, &Persistence::lasting(TRY_FOR)) {
                Ok(report) => {
                    self.note_shipped(report, began);
                    return Ok(());
                }
                Err(error) => error,
            };
            self.note_failure(&error);
            let closing_since = self.state.lock().closing_since;
            let is_over = closing_since.is_some_and(|since| since.elapsed() >= self.options.timeout);
            let can_pass = matches!(
                error.reason(),
                Reason::Unreachable | Reason::PermissionDenied | Reason::Overloaded | Reason::FileGone
            );
            if is_over || !can_pass {
                return Err(error);
            }
            std::thread::sleep(FAILURE_PAUSE);
        }
    }

    /// Waits until the next chunk for a commit may begin.
    fn pace(&self) {
        if let Some(at) = self.opens_at() {
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
        }
    }
}

impl PublishGate for BucketLink {
    fn pass(&self, next: &dyn Fn() -> Head) -> Result<()> {
        self.check_writer()?;
        let is_sync = self.options.ack == BucketAck::Sync;
        let is_open = self.state.lock().report.is_some();
        if is_open && !is_sync {
            return Ok(());
        }
        if is_sync {
            self.pace();
            self.state.lock().waiting_since = Some(Instant::now());
        }
        let mut shipper = self.shipper.lock();
        let head = next();
        let outcome = match &mut *shipper {
            Some(shipper) => self.ship_next(shipper, &head),
            none => self.begin(&head).and_then(|begun| {
                let shipper = none.insert(begun);
                if is_sync { self.ship_next(shipper, &head) } else { Ok(()) }
            }),
        };
        self.state.lock().waiting_since = None;
        outcome
    }

    fn opens_at(&self) -> Option<Instant> {
        if self.options.ack == BucketAck::Async {
            return None;
        }
        let at = self.state.lock().begun_at? + self.options.interval;
        (at > Instant::now()).then_some(at)
    }

    fn may_wait(&self) -> bool {
        self.options.ack == BucketAck::Sync
    }

    fn check_writer(&self) -> Result<()> {
        self.state.lock().replaced.clone().map_or(Ok(()), Err)
    }

    fn check_open(&self) -> Result<()> {
        self.state.lock().check_open(self.store.url(), self.options.timeout)
    }
}

fn origin_of(options: &BucketOptions) -> ChunkOrigin {
    match options.ack {
        BucketAck::Async => ChunkOrigin::AsyncWriter,
        BucketAck::Sync => ChunkOrigin::SyncWriter,
    }
}
