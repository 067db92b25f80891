//! ListTables and `SHOW TABLES`, DescribeTable and `DESCRIBE`: the tables at one point in time.

use std::sync::Arc;

use driftdb::v1;
use driftdb_common::error::{Reason, Result};
use driftdb_common::query::ast::PointInTime;
use driftdb_common::service::convert;
use driftdb_common::table::timeline::Timeline;

use crate::freshness::Freshness;
use crate::reads::target::TableTarget;
use crate::replica::Replica;

/// Some of the tables at one point in time, ordered by name.
#[derive(Debug)]
pub struct TableList {
    /// The point in time.
    pub header: v1::ReadHeader,
    /// The tables.
    pub tables: Vec<v1::TableInfo>,
    /// Whether the limit left out tables.
    pub has_more: bool,
}

/// The tables that existed at a point in time: those with names after `after`, at most `limit` of them.
pub async fn list(
    replica: &Replica,
    freshness: Freshness,
    as_of: Option<PointInTime>,
    after: &str,
    limit: usize,
) -> Result<TableList> {
    let point = replica.wait_for_point(freshness, as_of).await?;
    let header = point.header(replica, point.applied.tables.values())?;
    let named = point.applied.tables.iter().filter(|(name, _)| after.is_empty() || name.as_str() > after);
    let listed = named.filter_map(|(_, timeline)| listed_info(timeline, point.seq));
    let mut tables: Vec<v1::TableInfo> = listed.take(limit.saturating_add(1)).collect();
    let has_more = tables.len() > limit;
    tables.truncate(limit);
    Ok(TableList { header, tables, has_more })
}

/// A table at a point in time. Fails if the table did not exist then, or if the point is below its floor.
pub async fn describe(
    replica: &Replica,
    freshness: Freshness,
    as_of: Option<PointInTime>,
    table: TableTarget<'_>,
) -> Result<(v1::ReadHeader, v1::TableInfo)> {
    let point = replica.wait_for_point(freshness, as_of).await?;
    let timeline = table.find(&point)?;
    let info = table_info(timeline, point.seq)?;
    Ok((point.header(replica, [timeline])?, info))
}

/// A table in a list: `None` if it did not exist then, or if the point is below its floor. A table that cannot be read is
/// listed with the reason: it must not look as if it did not exist.
fn listed_info(timeline: &Arc<Timeline>, seq: u64) -> Option<v1::TableInfo> {
    match table_info(timeline, seq) {
        Ok(info) => Some(info),
        Err(error) if matches!(error.reason(), Reason::TableNotFound | Reason::BelowFloor) => None,
        Err(error) => Some(convert::unusable_table_to_wire(timeline.name(), &error)),
    }
}

fn table_info(timeline: &Arc<Timeline>, seq: u64) -> Result<v1::TableInfo> {
    let at = timeline.schema_at(seq)?;
    timeline.check_floor(seq)?;
    let counts = timeline.counts(seq)?;
    let state = timeline.state();
    Ok(v1::TableInfo {
        rows: counts.rows,
        created_seq: at.created_at,
        last_seq: counts.last_seq,
        events: counts.events,
        floor_seq: state.layers.floor().map_or(0, |floor| floor.seq),
        snapshots: state.layers.len() as u64,
        ..convert::schema_to_wire(&at.schema)
    })
}
