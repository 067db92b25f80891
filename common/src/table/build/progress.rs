//! How a long build reports its progress, and how it is stopped.

use crate::error::Result;

/// How many rows, versions or frames a build handles between two progress reports. Few, because a report also stops the build at
/// a shutdown: a row can have 1 MiB.
pub(super) const REPORT_INTERVAL: u64 = 64;

/// Called with the number of rows, versions or frames done so far. If it returns an error, the build stops with that error.
pub type ProgressFn<'a> = &'a dyn Fn(u64) -> Result<()>;
