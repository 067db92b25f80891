//! The replica that this reader serves now. Another history gets a new replica, so that no request mixes two.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::replica::Replica;

/// The replica that requests use.
#[derive(Debug)]
pub struct ReplicaSlot {
    current: ArcSwap<Replica>,
    losses: Mutex<HistoryLosses>,
}

/// The histories that this reader served and that are lost.
#[derive(Debug, Clone, Default)]
pub struct HistoryLosses {
    /// How many.
    pub count: u64,
    /// What happened to the last one; empty if there is none.
    pub last: String,
}

impl ReplicaSlot {
    /// Serves a replica.
    pub fn new(replica: Arc<Replica>) -> Arc<ReplicaSlot> {
        Arc::new(ReplicaSlot { current: ArcSwap::new(replica), losses: Mutex::default() })
    }

    /// The replica to serve a request from. A request uses one replica to its end.
    pub fn current(&self) -> Arc<Replica> {
        self.current.load_full()
    }

    /// Serves another replica from now on.
    pub fn install(&self, replica: &Arc<Replica>) {
        self.current.store(Arc::clone(replica));
    }

    /// Whether requests are served from a replica.
    pub fn serves(&self, replica: &Arc<Replica>) -> bool {
        Arc::ptr_eq(&self.current.load(), replica)
    }

    /// Counts a lost history.
    pub fn count_loss(&self, what: &str) {
        let mut losses = self.losses.lock();
        losses.count += 1;
        what.clone_into(&mut losses.last);
    }

    /// The histories that were lost.
    pub fn losses(&self) -> HistoryLosses {
        self.losses.lock().clone()
    }
}
