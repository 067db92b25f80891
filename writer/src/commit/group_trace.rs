//! The steps of a group in the traces of its requests.

use std::time::Instant;

use driftdb_common::trace::{TraceContext, TraceStep};

use crate::commit::state::OpenGroup;

/// Records the steps of a group that was published, once for each of its requests that is recorded. Writing it began at `began`.
pub(super) fn record(group: &OpenGroup, began: Instant) {
    let Some(times) = group.group.times else { return };
    let requests = group.acks.len() as u64;
    for ack in &group.acks {
        let Some((trace, waited_since)) = &ack.traced else { continue };
        let step = |step, began, ended| TraceContext::record(trace, step, (began, ended), &[]);
        step(TraceStep::Queue, *waited_since, began);
        step(TraceStep::Append, began, times.written);
        let size = [("driftdb.group.requests", requests)];
        trace.record(TraceStep::Fsync, (times.written, times.synced), &size);
        if let Some(passed) = times.passed {
            step(TraceStep::Bucket, times.synced, passed);
        }
        let seq = ack.outcome.as_ref().map(|receipt| receipt.token.seq).unwrap_or_default();
        let publish = (times.passed.unwrap_or(times.synced), times.published);
        trace.record(TraceStep::Publish, publish, &[("driftdb.seq", seq)]);
    }
}
