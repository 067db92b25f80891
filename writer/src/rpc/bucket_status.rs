//! What the Status call answers about the writer's bucket.

use driftdb::v1;
use driftdb_common::bucket::bucket_options::{BucketAck, BucketStatus};
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::convert;

/// How far the bucket is. Only an administrator learns where it is.
pub(crate) fn bucket_to_wire(status: BucketStatus, caller: &Caller) -> v1::BucketState {
    let BucketStatus { url, ack, last, chunk, lag, problem } = status;
    let for_admins = |text: String| if caller.is_admin() { text } else { String::new() };
    v1::BucketState {
        url: for_admins(url),
        sync: ack == BucketAck::Sync,
        last_seq: last.seq,
        last_time: Some(convert::time_to_wire(last.time_ms)),
        chunk,
        lag_ms: u64::try_from(lag.as_millis()).unwrap_or(u64::MAX),
        problem: for_admins(problem.unwrap_or_default()),
    }
}
