//! The tables and the disk of a writer, as Status tells them to a caller.

use driftdb::v1;
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::convert;
use driftdb_common::storage::disk_space::DiskReport;

use crate::commit::{CommitStatus, LiveTable};

/// The tables that are not dropped and that exist for the caller, by name.
pub(super) fn tables_to_wire(status: &CommitStatus, caller: &Caller) -> Vec<v1::TableInfo> {
    let table = |LiveTable { schema, created_seq, counts, storage }: LiveTable| v1::TableInfo {
        rows: counts.rows,
        created_seq,
        last_seq: counts.last_seq,
        events: counts.events,
        bytes_on_disk: storage.bytes_on_disk,
        segments: storage.segments,
        snapshots: storage.snapshots,
        floor_seq: storage.floor,
        ..convert::schema_to_wire(&schema)
    };
    let mut tables: Vec<_> = status.live_tables().into_iter().map(table).collect();
    let unusable = status.unusable_tables();
    tables.extend(unusable.iter().map(|(name, error)| convert::unusable_table_to_wire(name, error)));
    tables.retain(|info| caller.lists(&info.table));
    tables.iter_mut().for_each(|info| caller.redact_problem(&mut info.problem));
    tables.sort_unstable_by(|a, b| a.table.cmp(&b.table));
    tables
}

/// The room on the disk, as the Status call answers it.
pub(crate) fn disk_to_wire(report: DiskReport) -> v1::DiskState {
    let DiskReport { free_bytes, reserve_bytes, full } = report;
    let full_since = full.as_ref().map(|full| convert::time_to_wire(full.since_ms));
    v1::DiskState {
        free_bytes,
        reserve_bytes,
        full_since,
        message: full.map_or(String::new(), |full| full.message),
    }
}
