//! The JSON shapes of driftctl's output, converted from the messages of the daemons.

mod changes;
mod dumped;
mod rows;
mod values;

pub(crate) use changes::{
    EventJson, RequestedImages, commit, drift, events, progress, watched_row, watched_rows,
};
pub(crate) use dumped::{created_table, inserted_rows, schema};
pub(crate) use rows::{CommitRecord, Difference, LoadSummary, TableJson, difference, row};
pub(crate) use values::{document, line, time, timestamp};
