//! The output line of a check.

use serde::Serialize;

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum CheckResult {
    #[serde(rename = "ok")]
    Fine,
    #[serde(rename = "slow")]
    Slow,
    /// Not supported, and not needed.
    #[serde(rename = "no")]
    Absent,
    #[serde(rename = "UNSAFE")]
    Unsafe,
}

/// The output line of a check. The names of checks are API: they must not change.
#[derive(Debug, Serialize)]
pub(super) struct CheckLine {
    pub(super) check: &'static str,
    pub(super) result: CheckResult,
    pub(super) ms: Option<u64>,
    pub(super) means: String,
}
