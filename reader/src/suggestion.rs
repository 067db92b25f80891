//! The nearest name for a table that does not exist for the caller.

use std::sync::Arc;

use driftdb_common::error::{Error, Reason};
use driftdb_common::service::access::caller::Caller;

use crate::context::RequestContext;
use crate::running_query::RunningQuery;

/// The error of an unknown table with the nearest name of those that the caller may see. Other errors stay as they are.
pub async fn suggesting(context: &Arc<RequestContext>, caller: &Caller, error: Error) -> Error {
    if error.reason() != Reason::TableNotFound {
        return error;
    }
    let (unknown, caller) = (error.clone(), caller.clone());
    let suggest = move |context: &RequestContext| context.replica.applied().suggest_table(unknown, &caller);
    // Without a suggestion the error is still true.
    let Ok(query) = RunningQuery::lookup(context, None) else { return error };
    query.compute(suggest).await.unwrap_or(error)
}
