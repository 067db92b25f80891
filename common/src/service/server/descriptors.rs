//! File descriptors: the process's limit, raised at the start of a daemon, and the part of it that connections may take.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits;

/// Descriptors that are kept for neither connections nor data files: standard streams, the runtime, the log.
const RESERVED: u64 = 16;
/// Connections are accepted even under a tiny limit.
const CONNECTIONS_LEAST: u64 = 8;

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

/// The number of connections that the limit of open files allows: half of it, because the other half is for data files.
pub fn connections() -> usize {
    connections_under(getrlimit(Resource::Nofile).current)
}

/// `limit` is the number of open files that the process may have; `None` if there is no limit.
fn connections_under(limit: Option<u64>) -> usize {
    let half = limit.map_or(u64::MAX, |limit| (limit / 2).saturating_sub(RESERVED)).max(CONNECTIONS_LEAST);
    usize::try_from(half).unwrap_or(usize::MAX).min(limits::CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_take_at_most_half_of_the_open_files() {
        let limits = [Some(0), Some(64), Some(1024), Some(20_000), None].map(connections_under);
        assert_eq!(limits, [8, 16, 496, 9984, limits::CONNECTIONS]);
    }
}
