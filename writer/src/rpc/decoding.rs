//! Decodes requests: large ones away from the threads that serve the network.

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::limits;
use driftdb_common::service::convert;
use driftdb_common::service::preconditions::preconditions_from_wire;
use driftdb_common::table::operation::{Action, CommitRequest, Operation};

use crate::admission::draft::{DraftConditions, check_count, error_at_operation};
use crate::tasks::TaskPool;

/// What a request may have, in parts and in bytes, to be decoded on the thread that received it. That takes about a millisecond.
const SHORT_PARTS: usize = 256;
const SHORT_BYTES: usize = 64 << 10;

/// Whether operations are decoded in a short time.
pub(super) fn is_short(operations: &[v1::Operation]) -> bool {
    use v1::document::Body;
    use v1::operation::Action as Wire;
    let bytes = |operation: &v1::Operation| match &operation.action {
        Some(Wire::Insert(document) | Wire::Put(document) | Wire::Patch(document)) => match &document.body {
            Some(Body::Json(text)) => text.len(),
            Some(Body::Msgpack(bytes)) => bytes.len(),
            None => 0,
        },
        _ => 0,
    };
    operations.len() <= SHORT_PARTS && operations.iter().map(bytes).sum::<usize>() <= SHORT_BYTES
}

/// Whether preconditions are decoded in a short time.
fn are_short(preconditions: &[v1::Precondition]) -> bool {
    preconditions.iter().map(|precondition| 1 + precondition.params.len()).sum::<usize>() <= SHORT_PARTS
}

/// Whether an operation is a revert, which is resolved before it is admitted.
pub(super) fn is_revert(operation: &v1::Operation) -> bool {
    matches!(operation.action, Some(v1::operation::Action::Revert(_)))
}

/// Whether a statement is parsed in a short time.
pub(super) fn is_short_statement(statement: &str, params: &[String]) -> bool {
    statement.len() + params.iter().map(String::len).sum::<usize>() <= SHORT_BYTES
}

/// Whether all of a change is read in a short time.
pub(super) fn is_short_change(change: &CommitRequest) -> bool {
    let CommitRequest::Rows { operations, preconditions, .. } = change else { return true };
    let bytes = |operation: &Operation| match &operation.action {
        Action::Insert(document) | Action::Put(document) | Action::Patch(document) => {
            document.msgpack().len()
        }
        Action::SoftDelete | Action::Revert(_) | Action::Restore(_) => 0,
    };
    operations.len() + preconditions.len() <= SHORT_PARTS
        && operations.iter().map(bytes).sum::<usize>() <= SHORT_BYTES
}

/// Decodes the change that an Apply asks for.
pub(super) async fn change_of_apply(
    tasks: &TaskPool,
    operations: Vec<v1::Operation>,
    preconditions: Vec<v1::Precondition>,
) -> Result<CommitRequest> {
    // Before anything else: it takes as long to decode too many as it takes to decode enough.
    check_count("operations", operations.len(), limits::OPERATIONS_PER_COMMIT)?;
    check_count("preconditions", preconditions.len(), limits::PRECONDITIONS_PER_COMMIT)?;
    let is_short = is_short(&operations) && are_short(&preconditions);
    let decode = move || {
        let count = operations.len();
        let operation = |(i, operation)| {
            convert::operation_from_wire(operation).map_err(|e| error_at_operation(e, i, count))
        };
        let operations = operations.into_iter().enumerate().map(operation).collect::<Result<_>>()?;
        let (preconditions, boundaries) = preconditions_from_wire(preconditions)?;
        Ok(CommitRequest::Rows { operations, preconditions, boundaries })
    };
    if is_short { decode() } else { tasks.run(decode).await }
}

/// Decodes what must hold before an atomic batch of Ingest.
pub(super) async fn conditions_of_batch(
    tasks: &TaskPool,
    preconditions: Vec<v1::Precondition>,
) -> Result<DraftConditions> {
    check_count("preconditions", preconditions.len(), limits::PRECONDITIONS_PER_COMMIT)?;
    let is_short = are_short(&preconditions);
    let decode = move || {
        let (preconditions, boundaries) = preconditions_from_wire(preconditions)?;
        DraftConditions::new(preconditions, boundaries)
    };
    if is_short { decode() } else { tasks.run(decode).await }
}
