//! The commands, one file each.

pub mod apply;
pub mod bench;
pub mod compact;
pub mod completions;
pub mod demo;
pub mod dev;
pub mod diff;
pub mod doctor;
pub mod drift;
pub mod get;
pub mod ingest;
pub mod init;
pub mod revert;
pub mod select;
pub mod shell;
pub mod snapshot;
pub mod sql;
pub mod status;
pub mod storage_check;
pub mod verify;
pub mod watch;

#[cfg(test)]
mod maintenance_tests;
