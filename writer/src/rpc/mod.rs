//! `WriterService` over gRPC: single calls, ingest streams, maintenance calls, and reverts.

mod authorization;
mod bulk;
mod bulk_rows;
mod commit_tokens;
mod decoding;
mod ingest_acks;
mod ingest_stream;
mod maintenance_rpc;
mod revert;
mod row_as_of;
mod service;
mod table_reader;

pub(crate) use bulk::BulkRunner;
pub(crate) use commit_tokens::CommitTokens;
pub(crate) use ingest_stream::IngestService;
pub(crate) use maintenance_rpc::MaintenanceCalls;
pub(crate) use revert::RevertResolver;
pub(crate) use row_as_of::RowAsOfReader;
pub(crate) use service::{WriterRpc, disk_to_wire};
pub(crate) use table_reader::TableReader;
