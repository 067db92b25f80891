//! Conversions of single values between the API and JSON: times, documents, lines.

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::json;
use driftdb_common::format::rfc3339::{self, UtcTime};
use prost_types::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use v1::document::Body;

/// Encodes a value as one line of JSON.
pub(crate) fn line<T: Serialize>(answer: &T) -> Result<String> {
    serde_json::to_string(answer)
        .map_err(|e| Error::new(Reason::Internal, format!("cannot encode a result as JSON: {e}")))
}

/// Formats a time as RFC 3339 in UTC with milliseconds.
pub(crate) fn time(timestamp: Option<&Timestamp>) -> Result<String> {
    let Timestamp { seconds, nanos } = timestamp.copied().unwrap_or_default();
    let time = UtcTime::from_parts(seconds, nanos).ok_or_else(|| {
        Error::new(Reason::Internal, format!("a result has an invalid time: {seconds} s and {nanos} ns"))
    })?;
    Ok(rfc3339::format_millis(time.millis()))
}

/// Converts a time for the API.
pub(crate) fn timestamp(time: UtcTime) -> Timestamp {
    let (seconds, nanos) = time.parts();
    Timestamp { seconds, nanos }
}

/// The JSON text of a document, as the daemon sent it.
pub(crate) fn document(document: v1::Document) -> Result<String> {
    match document.body {
        Some(Body::Json(text)) => Ok(text),
        Some(Body::Msgpack(encoded)) => json::from_msgpack(&encoded),
        None => Err(Error::new(Reason::Internal, "a result has a document without a body")),
    }
}

/// The JSON text of an optional document, to embed in other JSON.
pub(super) fn raw(document: Option<v1::Document>) -> Result<Option<Box<RawValue>>> {
    let Some(document) = document else { return Ok(None) };
    let text = self::document(document)?;
    let raw = RawValue::from_string(text);
    raw.map(Some)
        .map_err(|e| Error::new(Reason::Internal, format!("a result has a document that is not JSON: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_and_end_with_z() {
        for (seconds, nanos, text) in [
            (1_767_225_600, 0, "2026-01-01T00:00:00.000Z"),
            (1_767_225_600, 5_000_000, "2026-01-01T00:00:00.005Z"),
            (1_767_225_600, 999_999_999, "2026-01-01T00:00:00.999Z"),
            (253_402_300_799, 999_999_999, "9999-12-31T23:59:59.999Z"),
            (-1, 500_000_000, "1969-12-31T23:59:59.500Z"),
        ] {
            let wire = Timestamp { seconds, nanos };
            assert_eq!(time(Some(&wire)).unwrap(), text);
            assert_eq!(timestamp(UtcTime::from_parts(seconds, nanos).unwrap()), wire);
        }
        assert!(time(Some(&Timestamp { seconds: i64::MAX, nanos: 0 })).is_err());
    }
}
