//! The commands, one file each.

pub(crate) mod apply;
pub(crate) mod auth;
pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod cert;
pub(crate) mod clock;
pub(crate) mod clone;
pub(crate) mod compact;
pub(crate) mod completions;
pub(crate) mod context;
pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod drift;
pub(crate) mod dump;
pub(crate) mod export;
pub(crate) mod find;
pub(crate) mod get;
pub(crate) mod health;
pub(crate) mod ingest;
pub(crate) mod init;
pub(crate) mod load;
pub(crate) mod man;
pub(crate) mod request_costs;
pub(crate) mod restore;
pub(crate) mod revert;
pub(crate) mod select;
pub(crate) mod shell;
pub(crate) mod snapshot;
pub(crate) mod sql;
pub(crate) mod status;
pub(crate) mod storage_check;
pub(crate) mod token;
pub(crate) mod top;
pub(crate) mod verify;
pub(crate) mod watch;

#[cfg(test)]
mod maintenance_tests;
