//! The machine-readable reasons of failed calls, and what they allow.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of DriftDB in `google.rpc.ErrorInfo`.
pub(super) const DOMAIN: &str = "driftdb.v1";
/// The reason if a daemon cannot be reached: nothing was sent.
pub(super) const UNREACHABLE: &str = "UNREACHABLE";
/// The reason if there is no TLS connection to a daemon: nothing was sent, and waiting does not help.
pub(super) const TLS_FAILED: &str = "TLS_FAILED";
/// The error detail that holds the address of that daemon.
pub(super) const ADDRESS: &str = "address";
/// The reason of a standby writer, which has executed nothing.
pub(super) const STANDBY: &str = "STANDBY";
/// The error detail that holds the address of the active writer.
const WRITER: &str = "writer";
/// The reason of a read of a table at a point in time at which it did not exist.
const TABLE_NOT_FOUND: &str = "TABLE_NOT_FOUND";
/// The reason if the response to a write is missing.
pub(super) const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
/// The reason of a read that took longer than it may.
pub(super) const STATEMENT_TIMEOUT: &str = "STATEMENT_TIMEOUT";
/// The reason of a reader that did not catch up in time.
pub(super) const REPLICA_BEHIND: &str = "REPLICA_BEHIND";
/// The reason of a reader whose history is not the requested one.
pub(super) const EPOCH_CHANGED: &str = "EPOCH_CHANGED";
/// The reason of a daemon that is too busy, such as a reader with its maximum number of watchers.
pub(super) const OVERLOADED: &str = "OVERLOADED";
/// The reason of a writer that rejects a write because its clock has jumped ahead.
pub(super) const CLOCK_JUMPED: &str = "CLOCK_JUMPED";
/// The reason of a writer that rejects a write because its disk is full.
pub(super) const DISK_FULL: &str = "DISK_FULL";

/// The reason of an argument without meaning.
const ARGUMENT_INVALID: &str = "ARGUMENT_INVALID";
/// The reason of a document that is not what it should be.
const DOCUMENT_INVALID: &str = "DOCUMENT_INVALID";

/// The error of an argument without meaning, which the client finds itself.
pub(super) fn invalid(message: String) -> Status {
    with_reason(Code::InvalidArgument, ARGUMENT_INVALID, message)
}

/// The error of a document that cannot be sent, or is not of the expected type.
pub(super) fn document_invalid(message: String) -> Status {
    with_reason(Code::InvalidArgument, DOCUMENT_INVALID, message)
}

/// An error that the client finds itself.
pub(super) fn with_reason(code: Code, reason: &str, message: String) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code, message, details)
}

/// The address of the daemon that could not be reached, if that is why a call failed.
pub fn unreachable_at(status: &Status) -> Option<String> {
    let mut info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    info.metadata.remove(ADDRESS).filter(|_| info.reason == UNREACHABLE)
}

/// The address of the active writer, if a call failed because the writer is a standby and knows the address.
pub fn standby_for(status: &Status) -> Option<String> {
    let mut info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    info.metadata.remove(WRITER).filter(|_| info.reason == STANDBY)
}

/// Whether a call failed because the writer is a standby.
pub(super) fn is_standby(status: &Status) -> bool {
    reason(status).as_deref() == Some(STANDBY)
}

/// The machine-readable reason of a failed call, such as `ROW_EXISTS`, if a daemon of DriftDB gave one.
pub fn reason(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN).then_some(info.reason)
}

/// The commit that created or dropped a table, if a read failed because the table did not exist at its point in time, but at another one.
pub fn created_or_dropped_at(status: &Status) -> Option<u64> {
    let info = status
        .get_details_error_info()
        .filter(|info| info.domain == DOMAIN && info.reason == TABLE_NOT_FOUND)?;
    info.metadata.get("seq")?.parse().ok()
}

/// Whether another reader may succeed after this error.
pub(super) fn is_retryable_read(status: &Status) -> bool {
    status.code() == Code::Unavailable
}
