//! WatchDrift: a stream of the commits that pass a filter, read from files at first and then from the live ring.

use std::sync::Arc;

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::service::server::{CallMemory, ResponseStream};

use crate::context::RequestContext;
use crate::watch::request::ResolvedWatch;
use crate::watch::session::WatchSession;

mod catch_up;
mod commit_assembler;
mod delivery;
mod filter;
mod initial_rows;
mod request;
mod session;
mod stream;
mod watch_memory;

/// Starts a watch. Waits until the replica has reached the commit at which the watch starts.
pub async fn open_stream(
    context: &RequestContext,
    request: v1::WatchDriftRequest,
    call: &CallMemory,
) -> Result<ResponseStream<v1::WatchDriftResponse>> {
    let watch = ResolvedWatch::resolve(&context.replica, request, call).await?;
    Ok(stream::stream(WatchSession::new(Arc::clone(&context.replica), watch, context.shutdown.clone())))
}
