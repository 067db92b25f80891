//! The state of a reader, as Status tells it to a caller.

use std::sync::Arc;

use crate::context::RequestContext;
use crate::read_point::ReadPoint;
use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::convert;

/// The state of the reader. Of what names files or tables, each caller sees what it may read, and an administrator all.
pub fn read_status(context: &RequestContext, caller: &Caller) -> Result<v1::ReaderServiceStatusResponse> {
    let RequestContext { replica, files, compute, .. } = context;
    let applied = replica.applied();
    let point = ReadPoint { seq: applied.seq, applied };
    let tables = point.applied.tables_for(caller);
    let header = point.header(replica, tables.clone())?;
    let memtables = tables.map(|table| Arc::clone(&table.state().memtable));
    let (mut damaged_files, mut problems) = Default::default();
    if caller.is_admin() {
        (damaged_files, problems) =
            (convert::damaged_files_to_wire(replica.damaged_files()), replica.problems());
    }
    let load = compute.load();
    Ok(v1::ReaderServiceStatusResponse {
        lag_seqs: replica.head_seq().saturating_sub(header.applied_seq),
        header: Some(header),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        lag: replica.lag().try_into().ok(),
        watchers: replica.subscriptions().count() as u64,
        cache_bytes: files.cache.used_bytes(),
        cache_limit_bytes: files.cache.budget(),
        memtable_events: memtables.clone().map(|memtable| memtable.len() as u64).sum(),
        memtable_bytes: memtables.map(|memtable| memtable.bytes()).sum(),
        writer_address: context.writer_address(),
        memory: convert::memory_to_wire(&context.memory),
        damaged_files,
        problems,
        security: Some(context.security.to_wire(caller)),
        process: Some(context.activity.to_wire()),
        // The server adds what was lost.
        histories_lost: 0,
        last_history_lost: String::new(),
        queries: load.queries as u64,
        queries_running: load.lane.running as u64,
        queries_waiting: load.lane.waiting as u64,
        queries_refused: load.refused as u64,
    })
}
