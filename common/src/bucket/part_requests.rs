//! Requests for parts of files, for queries that wait for them: a bucket that does not answer must not keep others from their turn.
//!
//! Each request runs on a thread of its own, because the query that waits for it may be stopped earlier, and gives its turn to others
//! meanwhile. After a failure one request at a time finds out whether the bucket answers again, and all others fail at once.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::bucket::store::BucketStore;
use crate::error::{Error, Reason, Result};
use crate::limits;
use crate::work;

/// How long a request may take before its query gives its turn to others.
const TURN_KEPT: Duration = Duration::from_millis(5);
/// How often a query that has given its turn looks for the answer.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// For how long no request follows one that has failed.
const FAILED_FOR: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct RequestState {
    under_way: usize,
    /// When the last request failed, and why; `None` if it did not.
    failed: Option<(Instant, Error)>,
    /// Whether a request finds out if the bucket answers again.
    is_trying: bool,
}

/// The requests for parts of a bucket's files.
#[derive(Debug)]
pub(super) struct PartRequests {
    store: BucketStore,
    state: Mutex<RequestState>,
}

/// A request that is under way.
struct PartRequest {
    requests: Arc<PartRequests>,
    error: Option<Error>,
}

impl Drop for PartRequest {
    fn drop(&mut self) {
        let mut state = self.requests.state.lock();
        state.under_way -= 1;
        state.is_trying = false;
        let silent = self.error.take().filter(|error| error.reason() == Reason::Unreachable);
        state.failed = silent.map(|error| (Instant::now(), error));
    }
}

impl PartRequests {
    pub(super) fn new(store: BucketStore) -> Arc<PartRequests> {
        Arc::new(PartRequests { store, state: Mutex::default() })
    }

    /// Reads a range of an object.
    pub(super) fn read(self: &Arc<Self>, object: &str, range: Range<u64>) -> Result<Bytes> {
        let mut request = self.admit()?;
        let (reply, answer) = mpsc::sync_channel(1);
        let object = object.to_owned();
        let spawned = std::thread::Builder::new().name("driftdb-part".to_owned()).spawn(move || {
            let outcome = request.requests.store.read_range(&object, range);
            request.error = outcome.as_ref().err().cloned();
            drop(request);
            // The query may have been stopped.
            let _ = reply.send(outcome);
        });
        spawned.map_err(|e| Error::io("cannot start a thread that reads from the bucket", &e))?;
        let lost = || Error::new(Reason::Internal, "the thread that reads from the bucket has ended");
        match answer.recv_timeout(TURN_KEPT) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Disconnected) => return Err(lost()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        loop {
            work::pause(LOOK_EVERY)?;
            match answer.try_recv() {
                Ok(outcome) => return outcome,
                Err(TryRecvError::Disconnected) => return Err(lost()),
                Err(TryRecvError::Empty) => {}
            }
        }
    }

    /// Waits until a request may begin.
    fn admit(self: &Arc<Self>) -> Result<PartRequest> {
        loop {
            {
                let mut state = self.state.lock();
                if let Some((at, error)) = &state.failed
                    && (state.is_trying || at.elapsed() < FAILED_FOR)
                {
                    return Err(error.clone());
                }
                if state.under_way < limits::BUCKET_PART_REQUESTS {
                    state.under_way += 1;
                    state.is_trying = state.failed.is_some();
                    return Ok(PartRequest { requests: Arc::clone(self), error: None });
                }
            }
            work::pause(LOOK_EVERY)?;
        }
    }
}
