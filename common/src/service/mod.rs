//! What both daemons need to serve gRPC: options, logs, the server, messages and statuses on the wire.

pub mod access;
pub mod clock;
pub mod compute;
pub mod config_file;
pub mod convert;
pub mod daemon;
pub mod deadline;
pub mod key_schema;
pub mod log_throttle;
pub mod manual_page;
pub mod monitor;
pub mod options;
pub mod preconditions;
pub mod reloaded_file;
pub mod server;
pub mod status;
mod telemetry;
