//! The options of the audit log.

/// What the audit log records besides refusals and administration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AuditedCalls {
    writes: bool,
    reads: bool,
}

impl AuditedCalls {
    /// Writes.
    pub const WRITES: AuditedCalls = AuditedCalls { writes: true, reads: false };
    /// Reads.
    pub const READS: AuditedCalls = AuditedCalls { writes: false, reads: true };
}
