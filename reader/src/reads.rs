//! The reads, each with one implementation that its RPC and its DriftQL statement share.

pub mod diff;
pub mod every;
pub mod find;
pub mod get;
pub mod history;
mod json_patch;
pub mod select;
pub mod tables;
pub mod target;
