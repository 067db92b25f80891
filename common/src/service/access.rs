//! Who calls, what a call may do, and the record of it.

pub mod audit;
mod audit_file;
pub mod audit_options;
mod audit_queue;
