//! File descriptors: the process's limit, raised at the start of a daemon, and the part of it that connections may take.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits;
use crate::storage::descriptors::DescriptorShares;

/// Raises the limit of open files as far as the system allows, and logs it.
pub(in crate::service) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => tracing::info!(
            open_files = maximum,
            before = current,
            connections = connections(),
            "raised the limit of open files"
        ),
        Err(error) => tracing::warn!(%error, open_files = current, "cannot raise the limit of open files"),
    }
}

/// The number of connections that the limit of open files allows: see [`DescriptorShares`].
pub fn connections() -> usize {
    DescriptorShares::of_process().connections.min(limits::CONNECTIONS)
}
