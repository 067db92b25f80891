//! The metrics of the process itself, with the names that Prometheus' own clients give them.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};

use crate::metrics::catalog;
use crate::metrics::samples::Samples;
use crate::storage::process_usage::ProcessOf;

/// Reads what the system says of this process. What it does not say is left out.
pub(super) fn sample(samples: &mut Samples, started_at: Option<SystemTime>) {
    if let Some(at) = started_at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()) {
        samples.set(&catalog::PROCESS_START, at);
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        samples.set(&catalog::PROCESS_MAX_FDS, limit);
    }
    if let Some(bytes) = ProcessOf::Own.resident_bytes() {
        samples.set(&catalog::PROCESS_MEMORY, bytes);
    }
    if let Some(time) = ProcessOf::Own.processor_time() {
        samples.set(&catalog::PROCESS_CPU, time);
    }
}
