//! How much one delta layer may hold.

/// How much one delta layer may hold. A commit is never split: the last one may exceed the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaLimits {
    /// The number of events.
    pub events: u64,
    /// The bytes of the events' frames.
    pub bytes: u64,
}
