//! `WriterService` over gRPC: single calls, ingest streams, maintenance calls, and reverts.

mod authorization;
mod bucket_status;
mod bulk;
mod bulk_rows;
mod commit_tokens;
mod decoding;
mod ingest_acks;
mod ingest_stream;
mod made_keys;
mod maintenance_rpc;
mod revert;
mod row_as_of;
mod service;
mod table_reader;
mod writer_status;

pub(crate) use bulk::BulkRunner;
pub(crate) use commit_tokens::CommitTokens;
pub(crate) use ingest_stream::IngestService;
pub(crate) use made_keys::MadeKeyReader;
pub(crate) use maintenance_rpc::MaintenanceCalls;
pub(crate) use revert::RevertResolver;
pub(crate) use row_as_of::RowAsOfReader;
pub(crate) use service::WriterRpc;
pub(crate) use table_reader::TableReader;
pub(crate) use writer_status::disk_to_wire;
