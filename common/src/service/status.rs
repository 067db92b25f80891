//! Conversion of errors to gRPC statuses and back.

use std::collections::HashMap;
use std::time::Duration;

use driftdb::v1;
use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, PreconditionViolation, StatusExt, pb};

use crate::error::{Error, ErrorKind, QueryPlace, Reason, Violation};
use crate::limits;

/// The domain in every `google.rpc.ErrorInfo` of DriftDB.
pub const DOMAIN: &str = "driftdb.v1";
/// Maximum bytes of one metadata entry in `ErrorInfo`. Longer values appear only in the message.
const METADATA_BYTES: usize = 2 << 10;

/// The gRPC code for errors of a kind.
pub fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::Conflict | ErrorKind::Locked => Code::FailedPrecondition,
        ErrorKind::OutOfRange => Code::OutOfRange,
        ErrorKind::Behind | ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::Denied => Code::PermissionDenied,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::TimedOut => Code::DeadlineExceeded,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::Unknown => Code::Unknown,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::Internal => Code::Internal,
    }
}

/// Converts an error to the status that clients get: code, message and `ErrorInfo` with the reason; for some errors also
/// `PreconditionFailure`, `RetryInfo` or `driftdb.v1.QueryError`.
pub fn to_status(error: Error) -> Status {
    let error = error.advising_doctor();
    let metadata: HashMap<String, String> = error
        .metadata()
        .iter()
        .filter(|(key, value)| key.len() + value.len() <= METADATA_BYTES)
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect();
    let mut details = ErrorDetails::with_error_info(error.reason().as_str(), DOMAIN, metadata);
    if !error.violations().is_empty() {
        let listed = error.violations().iter().take(limits::PRECONDITIONS_LISTED);
        let mut budget = limits::STATUS_DETAILS_BYTES / 2;
        let violations = listed
            .map(|v| {
                PreconditionViolation::new(clipped(&v.check), clipped(&v.subject), clipped(&v.description))
            })
            .take_while(|v| {
                let size = v.r#type.len() + v.subject.len() + v.description.len();
                budget.checked_sub(size).map(|left| budget = left).is_some()
            })
            .collect::<Vec<_>>();
        details.set_precondition_failure(violations);
    }
    if let Some(delay) = error.retry_delay() {
        details.set_retry_info(Some(delay));
    }
    // HTTP/2 sends the message percent-encoded in a header, and HTTP/2 stacks limit the size of headers.
    let message = clip(error.message(), 2 << 10);
    let status = Status::with_error_details(code(error.kind()), message, details);
    match error.place() {
        Some(place) => with_query_error(&status, place, &error),
        None => status,
    }
}

/// Adds a `driftdb.v1.QueryError` to the details of a status.
fn with_query_error(status: &Status, place: &QueryPlace, error: &Error) -> Status {
    let detail = v1::QueryError {
        start: place.start,
        end: place.end,
        line: place.line,
        column: place.column,
        message: clip(error.message(), 2 << 10),
        hint: clipped(&place.hint),
    };
    let any = prost_types::Any {
        type_url: "type.googleapis.com/driftdb.v1.QueryError".to_owned(),
        value: detail.encode_to_vec(),
    };
    let Ok(mut whole) = pb::Status::decode(status.details()) else { return status.clone() };
    whole.details.push(any);
    Status::with_details(status.code(), status.message(), whole.encode_to_vec().into())
}

fn clipped(text: &str) -> String {
    clip(text, 256)
}

/// A text, cut at `limit` bytes if it is longer.
pub fn clip(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut end = limit;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// The place in the statement that the status's `driftdb.v1.QueryError` names.
fn query_place(status: &Status) -> Option<QueryPlace> {
    let whole = pb::Status::decode(status.details()).ok()?;
    let any = whole.details.iter().find(|any| any.type_url.ends_with("/driftdb.v1.QueryError"))?;
    let v1::QueryError { start, end, line, column, hint, .. } =
        v1::QueryError::decode(any.value.as_slice()).ok()?;
    Some(QueryPlace { start, end, line, column, hint })
}

/// Converts a daemon's status back to the error that it describes.
///
/// A status without DriftDB's `ErrorInfo`, such as one from a proxy, gets the closest reason for its code. One that has a source was
/// made on this side of the connection, whatever its code: the connection broke.
pub fn from_status(status: &Status) -> Error {
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.domain == DOMAIN);
    let reason = info.and_then(|info| Reason::parse(&info.reason)).unwrap_or(match status.code() {
        Code::InvalidArgument => Reason::ArgumentInvalid,
        Code::Unimplemented => Reason::NotSupported,
        Code::ResourceExhausted => Reason::Overloaded,
        Code::OutOfRange => Reason::TooLarge,
        Code::Unauthenticated => Reason::Unauthenticated,
        Code::PermissionDenied => Reason::PermissionDenied,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Reason::Unreachable,
        Code::Unknown => Reason::OutcomeUnknown,
        _ if std::error::Error::source(status).is_some() => Reason::Unreachable,
        _ => Reason::Internal,
    });
    let mut error = Error::new(reason, status.message());
    if let Some(place) = query_place(status) {
        error = error.at(place);
    }
    if let Some(failure) = details.precondition_failure() {
        let violations = failure.violations.iter();
        error = error.violating(
            violations
                .map(|v| Violation {
                    check: v.r#type.clone(),
                    subject: v.subject.clone(),
                    description: v.description.clone(),
                })
                .collect(),
        );
    }
    match details.retry_info().and_then(|info| info.retry_delay) {
        Some(delay) => error.retry_after(delay.max(Duration::from_millis(1))),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_wire() {
        let place =
            QueryPlace { start: 14, end: 19, line: 1, column: 15, hint: "did you mean \"orders\"?".into() };
        let violation =
            Violation { check: "seq_is".into(), subject: "t/k".into(), description: "found 7".into() };
        let error = Error::new(Reason::QueryInvalid, "table \"ordes\" does not exist")
            .at(place.clone())
            .violating(vec![violation.clone()])
            .retry_after(Duration::from_millis(50));
        let back = from_status(&to_status(error));
        assert_eq!(back.reason(), Reason::QueryInvalid);
        assert_eq!(back.message(), "table \"ordes\" does not exist");
        assert_eq!(back.place(), Some(&place));
        assert_eq!(back.violations(), [violation]);
        assert_eq!(back.retry_delay(), Some(Duration::from_millis(50)));
    }

    #[test]
    fn a_connection_that_broke_is_no_error_of_the_daemon() {
        let mut broken = Status::internal("h2 protocol error");
        assert_eq!(from_status(&broken).reason(), Reason::Internal);
        broken.set_source(std::sync::Arc::new(std::io::Error::other("GOAWAY")));
        assert_eq!(from_status(&broken).reason(), Reason::Unreachable);
    }

    #[test]
    fn details_stay_under_their_limit() {
        let violation =
            Violation { check: "é".repeat(500), subject: "s".repeat(5000), description: "d".repeat(5000) };
        let error = Error::new(Reason::PreconditionFailed, "m".repeat(100_000))
            .violating(vec![violation; 100])
            .with("key", "v".repeat(100_000));
        assert!(to_status(error).details().len() < limits::STATUS_DETAILS_BYTES);
    }
}
