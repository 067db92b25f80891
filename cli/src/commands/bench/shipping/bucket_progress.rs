//! How far a writer and its bucket are.

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};

use crate::address::DaemonAddress;
use crate::database::{WriterApi, writer_on};
use crate::errors::to_error;

async fn status(writer: &mut WriterApi) -> Result<v1::WriterServiceStatusResponse> {
    let status = writer.status(v1::WriterServiceStatusRequest {}).await;
    status.map(tonic::Response::into_inner).map_err(|s| to_error(&s))
}

/// How far the bucket is.
pub(super) async fn bucket_state(writer: &mut WriterApi) -> Result<v1::BucketState> {
    let bucket = status(writer).await?.bucket;
    bucket.ok_or_else(|| Error::new(Reason::Internal, "the writer has no bucket"))
}

/// The last commit of a writer.
pub(super) async fn last_seq(writer: &DaemonAddress) -> Result<u64> {
    Ok(status(&mut writer_on(writer.connect().await?)).await?.last_seq)
}
