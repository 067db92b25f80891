//! Errors that several parts of the writer report.

use driftdb_common::error::{Error, Reason};

/// The error of a call or a job that the shutdown refuses or ends.
pub(crate) fn shutting_down() -> Error {
    Error::new(Reason::ShuttingDown, "the writer is shutting down; retry later")
}

/// The error for a table id that no table has.
pub(crate) fn unknown_table_id(id: u64) -> Error {
    Error::new(Reason::TableNotFound, format!("unknown table id {id}"))
}
