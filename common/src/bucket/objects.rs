//! What DriftDB asks of an object store, one attempt each: the stores of `remote`, or a simulated one.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::Result;
use crate::metrics::{self, catalog, counter_of};

/// The length of a part of a large object, as long as that makes not too many parts. Every store takes parts of this size.
pub const PART_BYTES: u64 = 8 << 20;
/// The first pause before an attempt is repeated, and the longest.
pub(super) const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long a pause can be before it is seen that the caller stops.
const STOP_CHECK: Duration = Duration::from_millis(50);

/// Whether a store has created an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateAnswer {
    /// It has, just now.
    Created,
    /// An object of the name exists: of another writer, or of an earlier attempt whose answer was lost.
    Exists,
}

/// What an attempt met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The store does not answer, or not now. The request may have been done.
    Transient,
    /// The credentials are missing, or do not suffice.
    Denied,
    /// The store cannot do this.
    Unsupported,
    /// The object is not what DriftDB has written.
    Damaged,
}

/// Why an attempt has failed. The text contains no credentials.
#[derive(Debug, Clone)]
pub struct StoreFault {
    /// What the attempt met.
    pub kind: FaultKind,
    /// For people.
    pub message: String,
}

/// An object that a listing has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundObject {
    /// Its name, from the bucket's prefix on.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// Decides whether a failed attempt is repeated, and pauses before it is.
#[derive(Debug, Clone)]
pub struct Persistence {
    /// When attempts are given up; `None` for never.
    until: Option<Instant>,
    stop: Arc<AtomicBool>,
    pause: Duration,
}

impl Persistence {
    /// Repeats attempts for some time.
    pub fn lasting(time: Duration) -> Persistence {
        Persistence { until: Some(Instant::now() + time), stop: Arc::default(), pause: PAUSE_FIRST }
    }

    /// Repeats attempts until `stop` is set.
    pub fn until_stopped(stop: &Arc<AtomicBool>) -> Persistence {
        Persistence { until: None, stop: Arc::clone(stop), pause: PAUSE_FIRST }
    }

    /// Without pauses, for simulations: gives up when `stop` is set.
    pub fn without_pauses(stop: &Arc<AtomicBool>) -> Persistence {
        Persistence { pause: Duration::ZERO, ..Persistence::until_stopped(stop) }
    }

    /// The same, given up soon after `stop` is set.
    #[must_use]
    pub(super) fn stopped_by(mut self, stop: &Arc<AtomicBool>) -> Persistence {
        self.stop = Arc::clone(stop);
        self
    }

    /// The same with another first pause.
    #[must_use]
    pub(super) fn pausing(mut self, pause: Duration) -> Persistence {
        self.pause = pause;
        self
    }

    /// Repeats an attempt while the store is not reachable.
    pub fn repeat<T>(mut self, mut attempt: impl FnMut() -> Result<T, StoreFault>) -> Result<T, StoreFault> {
        loop {
            match attempt() {
                Err(fault) if fault.kind == FaultKind::Transient && self.wait() => {}
                outcome => return outcome,
            }
        }
    }

    /// Waits before the next attempt. Returns false if no attempt may follow.
    pub(super) fn wait(&mut self) -> bool {
        let end = Instant::now() + self.pause;
        if self.until.is_some_and(|until| end >= until) {
            return false;
        }
        while !self.stop.load(Ordering::Acquire) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                metrics::count(&catalog::BUCKET_RETRIES);
                return true;
            }
            std::thread::sleep(left.min(STOP_CHECK));
        }
        false
    }
}

/// One attempt each at what DriftDB asks of an object store. Reads see every write whose answer has arrived.
pub trait Objects: fmt::Debug + Send + Sync {
    /// Creates an object, only if none has the name.
    fn create(&self, name: &str, bytes: &Bytes) -> Result<CreateAnswer, StoreFault>;
    /// Reads an object or a range of it; `None` if it does not exist. Fails if it has more than `limit` bytes.
    fn get(&self, name: &str, range: Option<Range<u64>>, limit: u64) -> Result<Option<Bytes>, StoreFault>;
    /// The length of an object; `None` if it does not exist.
    fn length(&self, name: &str) -> Result<Option<u64>, StoreFault>;
    /// The objects in a folder, by name.
    fn list(&self, folder: &str) -> Result<Vec<FoundObject>, StoreFault>;
    /// Those of them whose names come after one.
    fn list_after(&self, folder: &str, after: &str) -> Result<Vec<FoundObject>, StoreFault>;
    /// Deletes an object. Succeeds if it does not exist.
    fn delete(&self, name: &str) -> Result<(), StoreFault>;
    /// Creates or replaces an object.
    fn put_whole(&self, name: &str, bytes: &Bytes) -> Result<(), StoreFault>;
    /// Does the same with the parts of a large object. Each part is repeated with a `patience` of its own: if one fails, the others are
    /// not sent again. The inner error is that of a part that cannot be read.
    fn put_parts(
        &self,
        name: &str,
        parts: &mut dyn Iterator<Item = Result<Bytes>>,
        patience: &dyn Fn() -> Persistence,
    ) -> Result<Result<()>, StoreFault>;
}

/// Objects whose requests are counted.
#[derive(Debug)]
pub(super) struct CountedObjects<O>(pub(super) O);

/// Counts a request, and what its answer was.
fn counted<T>(
    request: &'static str,
    answer: Result<T, StoreFault>,
    result: impl Fn(&T) -> &'static str,
) -> Result<T, StoreFault> {
    let result = answer.as_ref().map_or("failed", result);
    counter_of(&catalog::BUCKET_REQUESTS, &[request, result]).increment(1);
    answer
}

fn is_found<T>(found: &Option<T>) -> &'static str {
    if found.is_some() { "ok" } else { "missing" }
}

fn count_sent<T>(answer: Result<T, StoreFault>, bytes: usize) -> Result<T, StoreFault> {
    if answer.is_ok() {
        counter_of(&catalog::BUCKET_SENT_BYTES, &[]).increment(bytes as u64);
    }
    answer
}

impl<O: Objects> Objects for CountedObjects<O> {
    fn create(&self, name: &str, bytes: &Bytes) -> Result<CreateAnswer, StoreFault> {
        let answer = counted("create", self.0.create(name, bytes), |answer| match answer {
            CreateAnswer::Created => "ok",
            CreateAnswer::Exists => "exists",
        });
        let is_taken = matches!(answer, Ok(CreateAnswer::Created));
        count_sent(answer, if is_taken { bytes.len() } else { 0 })
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, limit: u64) -> Result<Option<Bytes>, StoreFault> {
        let answer = counted("get", self.0.get(name, range, limit), is_found);
        if let Ok(Some(found)) = &answer {
            counter_of(&catalog::BUCKET_RECEIVED_BYTES, &[]).increment(found.len() as u64);
        }
        answer
    }

    fn length(&self, name: &str) -> Result<Option<u64>, StoreFault> {
        counted("head", self.0.length(name), is_found)
    }

    fn list(&self, folder: &str) -> Result<Vec<FoundObject>, StoreFault> {
        counted("list", self.0.list(folder), |_| "ok")
    }

    fn list_after(&self, folder: &str, after: &str) -> Result<Vec<FoundObject>, StoreFault> {
        counted("list", self.0.list_after(folder, after), |_| "ok")
    }

    fn delete(&self, name: &str) -> Result<(), StoreFault> {
        counted("delete", self.0.delete(name), |()| "ok")
    }

    fn put_whole(&self, name: &str, bytes: &Bytes) -> Result<(), StoreFault> {
        count_sent(counted("put", self.0.put_whole(name, bytes), |()| "ok"), bytes.len())
    }

    fn put_parts(
        &self,
        name: &str,
        parts: &mut dyn Iterator<Item = Result<Bytes>>,
        patience: &dyn Fn() -> Persistence,
    ) -> Result<Result<()>, StoreFault> {
        let mut sent = 0;
        let mut parts = parts.inspect(|part| sent += part.as_ref().map_or(0, Bytes::len));
        let answer = self.0.put_parts(name, &mut parts, patience);
        count_sent(counted("put", answer, |_| "ok"), sent)
    }
}
