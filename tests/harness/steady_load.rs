//! Clients that write all the time, and note what was acknowledged and when.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tonic::Status;

use super::{Writer, apply, put, reason};

/// The longest time to wait for something that must happen.
const LIMIT: Duration = Duration::from_secs(90);
/// The pause of a client that was refused.
const PAUSE: Duration = Duration::from_millis(20);

/// A write that was acknowledged. Each has a row of its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AckedWrite {
    pub n: u64,
    pub seq: u64,
    pub at: Instant,
}

#[derive(Debug, Default)]
struct LoadNotes {
    acked: Mutex<Vec<AckedWrite>>,
    refused: AtomicU64,
    next: AtomicU64,
    stops: AtomicBool,
}

/// Clients that write until they are told to stop, or until an error ends them. OVERLOADED does not: they retry.
pub struct SteadyLoad {
    notes: Arc<LoadNotes>,
    clients: Vec<JoinHandle<Option<Status>>>,
}

impl SteadyLoad {
    pub fn start(writer: &Writer, table: &str, clients: usize) -> SteadyLoad {
        let notes = Arc::new(LoadNotes::default());
        let clients = (0..clients).map(|_| {
            let (mut writer, table, notes) = (writer.clone(), table.to_owned(), Arc::clone(&notes));
            tokio::spawn(async move {
                while !notes.stops.load(Ordering::Acquire) {
                    let n = notes.next.fetch_add(1, Ordering::AcqRel);
                    match apply(&mut writer, vec![put(&table, format!(r#"{{"id":"k{n}","n":{n}}}"#))]).await {
                        Ok(token) => {
                            let write = AckedWrite { n, seq: token.seq, at: Instant::now() };
                            notes.acked.lock().unwrap().push(write);
                        }
                        Err(status) if reason(&status) == "OVERLOADED" => {
                            notes.refused.fetch_add(1, Ordering::AcqRel);
                            tokio::time::sleep(PAUSE).await;
                        }
                        Err(status) => return Some(status),
                    }
                }
                None
            })
        });
        SteadyLoad { clients: clients.collect(), notes }
    }

    /// The writes that were acknowledged so far.
    pub fn acked(&self) -> Vec<AckedWrite> {
        self.notes.acked.lock().unwrap().clone()
    }

    /// How many were.
    pub fn count(&self) -> usize {
        self.notes.acked.lock().unwrap().len()
    }

    /// How many were refused with OVERLOADED.
    pub fn refused(&self) -> u64 {
        self.notes.refused.load(Ordering::Acquire)
    }

    /// Waits for a state of this load.
    pub async fn until(&self, what: &str, holds: impl Fn(&SteadyLoad) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !holds(self) {
            let (acked, refused) = (self.count(), self.refused());
            assert!(Instant::now() < deadline, "{what}: {acked} acknowledged, {refused} refused");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends the clients. Returns what was acknowledged, and the errors that ended clients before.
    pub async fn finish(self) -> (Vec<AckedWrite>, Vec<Status>) {
        self.notes.stops.store(true, Ordering::Release);
        let mut errors = Vec::new();
        for client in self.clients {
            let ended = tokio::time::timeout(LIMIT, client).await.expect("a client does not end");
            errors.extend(ended.unwrap());
        }
        let acked = self.notes.acked.lock().unwrap().clone();
        (acked, errors)
    }
}
