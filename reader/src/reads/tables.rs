//! ListTables and `SHOW TABLES`, DescribeTable and `DESCRIBE`: the tables at one point in time.

use std::sync::Arc;

use driftdb::v1;
use driftdb_common::error::{Reason, Result};
use driftdb_common::query::ast::PointInTime;
use driftdb_common::service::convert;
use driftdb_common::table::timeline::Timeline;
use driftdb_common::work;

use crate::context::RequestContext;
use crate::freshness::Freshness;
use crate::reads::target::TableTarget;
use crate::running_query::RunningQuery;

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
    query: &RunningQuery,
    freshness: Freshness,
    as_of: Option<PointInTime>,
    after: String,
    limit: usize,
) -> Result<TableList> {
    let applied = query.wait_until_fresh(freshness, as_of).await?;
    let list = move |context: &RequestContext| {
        let point = context.replica.point_at(&applied, as_of)?;
        let header = point.header(&context.replica, point.applied.tables.values())?;
        let mut tables: Vec<v1::TableInfo> = Vec::new();
        for (name, timeline) in point.applied.tables.iter() {
            work::step(16)?;
            if tables.len() > limit {
                break;
            }
            if after.is_empty() || *name > after {
                tables.extend(listed_info(timeline, point.seq));
            }
        }
        let has_more = tables.len() > limit;
        tables.truncate(limit);
        Ok(TableList { header, tables, has_more })
    };
    query.look_up(list).await
}

/// A table at a point in time. Fails if the table did not exist then, or if the point is below its floor.
pub async fn describe(
    query: &RunningQuery,
    freshness: Freshness,
    as_of: Option<PointInTime>,
    table: TableTarget,
) -> Result<(v1::ReadHeader, v1::TableInfo)> {
    let applied = query.wait_until_fresh(freshness, as_of).await?;
    let describe = move |context: &RequestContext| {
        let point = context.replica.point_at(&applied, as_of)?;
        let timeline = table.find(&point)?;
        let info = table_info(timeline, point.seq)?;
        Ok((point.header(&context.replica, [timeline])?, info))
    };
    query.look_up(describe).await
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
