//! ListTables and `SHOW TABLES`, DescribeTable and `DESCRIBE`: the tables at one point in time.

use std::sync::Arc;

use driftdb::v1;
use driftdb_common::error::{Reason, Result};
use driftdb_common::query::ast::PointInTime;
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::convert;
use driftdb_common::table::timeline::Timeline;
use driftdb_common::work;
use prost::Message;

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

/// How many tables a list may have.
#[derive(Debug, Clone, Copy)]
pub struct TableListLimit {
    /// The number of tables.
    pub tables: usize,
    /// Their bytes in the message, unless one alone has more: with many indexes each, the tables of a page could be larger than the messages
    /// that clients take.
    pub bytes: usize,
}

impl TableListLimit {
    /// All tables.
    pub const NONE: TableListLimit = TableListLimit { tables: usize::MAX, bytes: usize::MAX };
}

/// The tables that existed at a point in time for a caller: those with names after `after`, within the limit.
pub async fn list(
    query: &RunningQuery,
    caller: &Caller,
    (freshness, as_of): (Freshness, Option<PointInTime>),
    (after, with_dropped): (String, bool),
    limit: TableListLimit,
) -> Result<TableList> {
    let applied = query.wait_until_fresh(freshness, as_of).await?;
    // What the rules allow after the wait, not before.
    let caller = caller.renewed();
    let list = move |context: &RequestContext| {
        let point = context.replica.point_at(&applied, as_of)?;
        let header = point.header(&context.replica, point.applied.tables_for(&caller))?;
        let (mut tables, mut bytes, mut has_more) = (Vec::new(), 0_usize, false);
        let names =
            point.applied.names.at(point.seq, &after, with_dropped).filter(|(name, _)| caller.lists(name));
        for (name, timeline) in names {
            work::step(16)?;
            let Some(mut info) = listed_info(name, timeline, point.seq) else { continue };
            caller.redact_problem(&mut info.problem);
            bytes = bytes.saturating_add(info.encoded_len());
            if tables.len() == limit.tables || (bytes > limit.bytes && !tables.is_empty()) {
                has_more = true;
                break;
            }
            tables.push(info);
        }
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

/// A table in a list, which may have been dropped; `None` if the point is below its floor. A table that cannot be read is listed with
/// the reason: it must not look as if it did not exist.
fn listed_info(name: &str, timeline: &Arc<Timeline>, seq: u64) -> Option<v1::TableInfo> {
    let info = match table_info(timeline, seq) {
        // Only a list with dropped tables asks for one that does not exist.
        Err(error) if error.reason() == Reason::TableNotFound => dropped_info(name, timeline, seq),
        other => other,
    };
    match info {
        Ok(info) => Some(info),
        Err(error) if matches!(error.reason(), Reason::TableNotFound | Reason::BelowFloor) => None,
        Err(error) => Some(convert::unusable_table_to_wire(name, &error)),
    }
}

/// A table that was dropped at or before a commit.
fn dropped_info(name: &str, timeline: &Arc<Timeline>, seq: u64) -> Result<v1::TableInfo> {
    timeline.check_floor(seq)?;
    Ok(v1::TableInfo {
        table: name.to_owned(),
        created_seq: timeline.created_at(seq),
        last_seq: timeline.counts(seq)?.last_seq,
        floor_seq: timeline.state().layers.floor().map_or(0, |floor| floor.seq),
        dropped: true,
        ..Default::default()
    })
}

fn table_info(timeline: &Arc<Timeline>, seq: u64) -> Result<v1::TableInfo> {
    let at = timeline.schema_at(seq)?;
    timeline.check_floor(seq)?;
    let counts = timeline.counts(seq)?;
    let (state, files) = (timeline.state(), timeline.file_totals());
    Ok(v1::TableInfo {
        rows: counts.rows,
        created_seq: at.created_at,
        last_seq: counts.last_seq,
        events: counts.events,
        floor_seq: state.layers.floor().map_or(0, |floor| floor.seq),
        snapshots: state.layers.len() as u64,
        bytes_on_disk: files.bytes,
        segments: files.segments,
        ..convert::schema_to_wire(&at.schema)
    })
}
