//! Checks of a database: verification of a table's files, and the doctor, which examines and repairs a data directory.

pub mod doctor;
pub mod offline;
pub mod verification;
