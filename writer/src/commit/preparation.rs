//! What is done for a change between two attempts to admit it, outside of the lock.

use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::work::WorkOptions;

use crate::admission::draft::Draft;
use crate::admission::missing::MissingWork;
use crate::commit::state::CommitShared;

/// How often the admission of a change is tried. The first attempts find out what must be read. Each later one means that a
/// table's files or a large row have changed while they were read.
pub(super) const TRIES: u32 = 8;
/// The bytes of rows that the first attempt may patch under the lock.
const MERGE_BYTES: usize = 32 << 10;
/// How long a client waits before it retries when its rows keep changing.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// The bytes of rows that an attempt may patch under the lock. They grow: many clients that patch one large row take it from
/// each other, and without this some would never come to an end.
pub(super) fn merge_bytes(attempt: u32) -> usize {
    MERGE_BYTES << attempt
}

/// Does what a change needs before it can be admitted.
pub(super) async fn prepare(shared: &CommitShared, mut draft: Draft, missing: MissingWork) -> Result<Draft> {
    if missing.is_short(&draft) {
        missing.run(&mut draft)?;
        return Ok(draft);
    }
    let is_stoppable = missing.has_conditions();
    let work = move || {
        missing.run(&mut draft)?;
        Ok(draft)
    };
    if is_stoppable {
        shared.tasks.run_steps(WorkOptions::default(), work).await
    } else {
        shared.tasks.run(work).await
    }
}

/// The error after [`TRIES`] attempts.
pub(super) fn rows_keep_changing() -> Error {
    let message = format!(
        "cannot admit the change: its rows or the files that hold them changed {TRIES} times while they were read; retry later"
    );
    Error::new(Reason::Overloaded, message).retry_after(RETRY_AFTER)
}
