//! What both daemons share of being a gRPC server: configuration, logs, errors on the wire, conversions.

pub mod config;
pub mod convert;
pub mod server;
pub mod status;
pub mod telemetry;
