//! Everything that a refused call reports: code, reason, message, metadata and details.

use std::collections::HashMap;

use driftdb::v1;
use driftdb_common::limits;
use prost::Message;
use tonic::{Code, Status};
use tonic_types::{StatusExt, pb};

/// A refusal with a reason of DriftDB.
#[derive(Debug)]
pub struct Refusal {
    pub status: Status,
    pub metadata: HashMap<String, String>,
}

/// Expects that a call was refused with this code and reason.
#[track_caller]
pub fn refused<T>(outcome: Result<T, Status>, code: Code, reason: &str) -> Refusal {
    let Err(status) = outcome else { panic!("expected {reason}, but the call succeeded") };
    let info = status.get_details_error_info();
    let info =
        info.unwrap_or_else(|| panic!("expected {reason}, but the status has no ErrorInfo: {status:?}"));
    assert_eq!((status.code(), info.reason.as_str()), (code, reason), "{}", status.message());
    assert_eq!(info.domain, "driftdb.v1");
    assert!(status.details().len() < limits::STATUS_DETAILS_BYTES);
    Refusal { status, metadata: info.metadata }
}

/// Expects that a call was refused with INVALID_ARGUMENT and this reason.
#[track_caller]
pub fn invalid<T>(outcome: Result<T, Status>, reason: &str) -> Refusal {
    refused(outcome, Code::InvalidArgument, reason)
}

impl Refusal {
    /// Expects all of these words in the message.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Refusal {
        for word in words {
            let message = self.status.message();
            assert!(message.contains(word), "the message {message:?} does not contain {word:?}");
        }
        self
    }

    /// Expects this entry in the metadata.
    #[track_caller]
    pub fn tells(self, key: &str, value: impl ToString) -> Refusal {
        let found = self.metadata.get(key);
        assert_eq!(found, Some(&value.to_string()), "{key} of {:?}", self.metadata);
        self
    }

    /// The place in the statement, from the details.
    #[track_caller]
    pub fn place(&self) -> v1::QueryError {
        let whole = pb::Status::decode(self.status.details()).unwrap();
        assert_eq!((whole.code, whole.message.as_str()), (self.status.code() as i32, self.status.message()));
        let name = "type.googleapis.com/driftdb.v1.QueryError";
        let found = whole.details.iter().find(|any| any.type_url == name);
        let found = found.unwrap_or_else(|| panic!("no QueryError: {:?}", self.status));
        let place = v1::QueryError::decode(found.value.as_slice()).unwrap();
        assert_eq!(place.message, self.status.message());
        place
    }

    /// The failed preconditions in the details: what was checked, of which row, and how it failed.
    pub fn violations(&self) -> Vec<(String, String, String)> {
        let failure = self.status.get_details_precondition_failure().unwrap();
        failure.violations.into_iter().map(|v| (v.r#type, v.subject, v.description)).collect()
    }
}
