//! What all measurements of `bench` share: its options, and where it measures.

use std::time::Duration;

use super::target::Target;
use crate::args::{BenchArgs, BenchPhase};
use crate::render;

/// The number of clients of W2, and of its ceilings.
const WRITERS: usize = 64;
/// The number of clients of R1 and R2 in their concurrent runs.
const READERS: usize = 32;

/// The options, and where to measure.
pub(super) struct Bench<'a> {
    /// The options.
    pub(super) args: &'a BenchArgs,
    /// The daemons.
    pub(super) target: Target,
}

impl Bench<'_> {
    /// Whether a phase is measured.
    pub(super) fn wants(&self, phase: BenchPhase) -> bool {
        self.args.phases.contains(&phase)
    }

    /// Whether `bench` starts the daemons itself, which this phase needs.
    pub(super) fn has_own(&self, phase: BenchPhase) -> bool {
        let own = !self.target.is_given();
        if !own {
            render::note(&format!("note: skipped {phase}: it must start and stop its own daemons"));
        }
        own
    }

    /// The number of concurrent writing clients.
    pub(super) fn writers(&self) -> usize {
        self.args.clients.map_or(WRITERS, usize::from)
    }

    /// The number of concurrent reading clients.
    pub(super) fn readers(&self) -> usize {
        self.args.clients.map_or(READERS, usize::from)
    }

    /// The duration of a run.
    pub(super) fn time(&self) -> Duration {
        Duration::from_secs(self.args.seconds.into())
    }
}
