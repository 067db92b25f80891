//! Why the log did not do something: nothing happened, or it is not known what is on disk.

use crate::error::{Error, Reason};

/// Why a group did not become durable, or a table's files were not changed.
#[derive(Debug)]
pub enum AppendError {
    /// Nothing was written that counts, and the log stays usable: for example, the disk is full.
    Refused(Error),
    /// It is not known what is on disk. The log must not be used again (I5).
    Fatal(Error),
}

impl AppendError {
    /// Converts the error of a step that can fail without harm to the log. It is fatal if another writer has taken over.
    pub(in crate::storage) fn from_step(error: Error) -> AppendError {
        match error.reason() {
            Reason::Fenced => AppendError::Fatal(error),
            _ => AppendError::Refused(error),
        }
    }

    /// The cause.
    pub fn into_error(self) -> Error {
        match self {
            AppendError::Refused(error) | AppendError::Fatal(error) => error,
        }
    }
}
