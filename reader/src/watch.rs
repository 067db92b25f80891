//! WatchDrift: a stream of the commits that pass a filter, read from files at first and then from the live ring.

use std::sync::Arc;
use std::time::Instant;

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::service::access::authorize::{AccessAction, authorize};
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::access::lease::{LeaseNeeds, lease_stream};
use driftdb_common::service::access::role::Role;
use driftdb_common::service::server::{CallMemory, ResponseStream};

use crate::context::RequestContext;
use crate::running_query::RunningQuery;
use crate::suggestion::suggesting;
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
    caller: &Caller,
    deadline: Option<Instant>,
    request: v1::WatchDriftRequest,
    call: &CallMemory,
) -> Result<ResponseStream<v1::WatchDriftResponse>> {
    if let Err(error) = authorize(caller, AccessAction::Read, request.tables.iter().map(String::as_str)) {
        return Err(suggesting(context, caller, error).await);
    }
    let needs = match request.tables.is_empty() {
        true => LeaseNeeds::AllReadable,
        false => LeaseNeeds::Tables(Role::Read, request.tables.clone()),
    };
    let query = RunningQuery::watch(context, deadline);
    let watch = ResolvedWatch::resolve(&query, caller, request, call).await?;
    Ok(lease_stream(stream::stream(WatchSession::new(query, watch)), caller, needs))
}
