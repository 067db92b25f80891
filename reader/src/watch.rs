//! WatchDrift: a stream of the commits that pass a filter, read from files at first and then from the live ring.

use std::sync::Arc;
use std::time::Instant;

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::service::server::{CallMemory, ResponseStream};

use crate::context::RequestContext;
use crate::running_query::RunningQuery;
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
    context: &Arc<RequestContext>,
    deadline: Option<Instant>,
    request: v1::WatchDriftRequest,
    call: &CallMemory,
) -> Result<ResponseStream<v1::WatchDriftResponse>> {
    let query = RunningQuery::watch(context, deadline);
    let watch = ResolvedWatch::resolve(&query, request, call).await?;
    Ok(stream::stream(WatchSession::new(query, watch)))
}
