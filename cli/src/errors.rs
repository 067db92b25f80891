//! Converts the status of a failed call to an error.

use driftdb::client::{standby_for, unreachable_at};
use driftdb_common::error::Error;
use driftdb_common::service::status::from_status;
use tonic::Status;

/// The error detail that holds the address of a daemon that cannot be reached.
pub(crate) const ADDRESS: &str = "address";
/// The error detail of a standby that holds the address of the active writer.
pub(crate) const ACTIVE_WRITER: &str = "writer";

/// The error of a failed call, from a daemon or from the connection to it.
pub(crate) fn to_error(status: &Status) -> Error {
    let error = from_status(status);
    match (unreachable_at(status), standby_for(status)) {
        (Some(address), _) => error.with(ADDRESS, address),
        (None, Some(active)) => error.with(ACTIVE_WRITER, active),
        (None, None) => error,
    }
}
