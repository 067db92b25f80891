//! Who calls, what a call may do, and the record of it.

pub mod audit;
mod audit_file;
pub mod audit_options;
mod audit_queue;
pub mod auth_file;
pub mod authorize;
pub mod caller;
pub mod control;
pub mod lease;
pub mod principal;
pub mod review;
pub mod role;
pub mod rules;
pub mod statement_tables;
mod table_pattern;
pub mod token;
