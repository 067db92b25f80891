//! The point in time at which a read sees the database.

use std::sync::Arc;

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::convert;
use driftdb_common::table::timeline::Timeline;
use driftdb_common::table::view::View;

use crate::replica::{Applied, Replica};

/// A pinned state of the replica, and the commit in it at which a read sees the tables.
#[derive(Debug, Clone)]
pub struct ReadPoint {
    /// The newest state when the read started.
    pub applied: Arc<Applied>,
    /// The read sees the tables as they were after this commit.
    pub seq: u64,
}

impl ReadPoint {
    /// A table as it was at this point.
    pub fn view(&self, table: &str, caller: &Caller) -> Result<View> {
        View::at(self.applied.table(table, caller)?, self.seq)
    }

    /// The header of a response about some tables.
    pub fn header<'a>(
        &self,
        replica: &Replica,
        tables: impl IntoIterator<Item = &'a Arc<Timeline>>,
    ) -> Result<v1::ReadHeader> {
        let floors = tables.into_iter().filter_map(|table| table.state().layers.floor());
        Ok(v1::ReadHeader {
            read_seq: self.seq,
            read_time: replica.time_of(self.seq, &self.applied)?.map(convert::time_to_wire),
            applied_seq: self.applied.seq,
            floor_seq: floors.map(|floor| floor.seq).max().unwrap_or(0),
            database_id: replica.database().id.to_string(),
            epoch: replica.database().epoch,
            notes: Vec::new(),
            incarnation: replica.lineage().point(self.seq).incarnation,
        })
    }
}
