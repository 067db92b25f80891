//! What a daemon's server does, for Status: its connections, its calls, and the memory of the process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use driftdb::v1;

use crate::storage::process_usage::ProcessOf;

/// Counts what a server does.
#[derive(Debug)]
pub struct ServerActivity {
    started: Instant,
    connections: AtomicU64,
    calls: AtomicU64,
}

impl Default for ServerActivity {
    fn default() -> ServerActivity {
        ServerActivity { started: Instant::now(), connections: AtomicU64::new(0), calls: AtomicU64::new(0) }
    }
}

impl ServerActivity {
    /// A connection was opened.
    pub(super) fn open_connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was closed.
    pub(super) fn close_connection(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// A call has begun.
    pub(super) fn begin_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of open connections.
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// What Status says.
    pub fn to_wire(&self) -> v1::ProcessState {
        v1::ProcessState {
            uptime: self.started.elapsed().try_into().ok(),
            connections: self.connections(),
            calls: self.calls.load(Ordering::Relaxed),
            resident_bytes: ProcessOf::Own.resident_bytes().unwrap_or_default(),
        }
    }
}
