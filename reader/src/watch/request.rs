//! The decoding of a WatchDrift request: what to send, and the commit at which the watch starts.

use std::sync::Arc;
use std::time::Duration;

use driftdb::v1;
use driftdb::v1::watch_drift_request::Start;
use driftdb_common::error::{Reason, Result};
use driftdb_common::format::lineage::LineagePoint;
use driftdb_common::limits;
use driftdb_common::service::convert;
use driftdb_common::table::history::Images;
use driftdb_common::table::point_in_time::PointInTime;
use tokio::time::{Instant, timeout_at};

use crate::freshness::Freshness;
use crate::replica::Replica;
use crate::resume_token::{InitialRowPosition, WatchToken};
use crate::subscriptions::Subscription;
use crate::watch::filter::WatchFilter;

/// The longest heartbeat interval; longer ones are shortened to it.
const MAX_HEARTBEAT: Duration = Duration::from_secs(86_400);

/// A WatchDrift request, checked and resolved.
#[derive(Debug)]
pub struct ResolvedWatch {
    /// The events and rows to send.
    pub filter: Arc<WatchFilter>,
    /// The row images to send with each event.
    pub images: Images,
    /// The encoding of documents.
    pub format: v1::DocumentFormat,
    /// The watch ends after this commit; `None` for never.
    pub until: Option<u64>,
    /// The watch sends a message at least this often.
    pub heartbeat: Duration,
    /// The watch starts after this commit.
    pub start_seq: u64,
    /// The initial rows to send first; `None` for none.
    pub initial_rows: Option<InitialRowPosition>,
    /// Keeps new commits in the live ring.
    pub subscription: Subscription,
}

impl ResolvedWatch {
    /// Decodes a request. Waits until the replica has reached the commit at which the watch starts.
    pub async fn resolve(replica: &Arc<Replica>, request: v1::WatchDriftRequest) -> Result<ResolvedWatch> {
        let format = convert::format_from_wire(request.format)?;
        let filter = Arc::new(WatchFilter::from_wire(&request)?);
        let heartbeat = match &request.heartbeat {
            Some(heartbeat) => convert::duration_from_wire(heartbeat, "heartbeat")?,
            None => Duration::from_millis(limits::HEARTBEAT_MS),
        };
        // Subscribe first: the live ring keeps commits only while there are watches.
        let subscription = replica.subscriptions().subscribe()?;
        let (start_seq, initial_rows) = resolve_start(replica, &filter, &request).await?;
        check_tables(replica, &filter).await?;
        for timeline in filter.timelines(&replica.applied()) {
            timeline.check_floor(start_seq)?;
        }
        Ok(ResolvedWatch {
            filter,
            images: Images { before: request.with_before, after: request.with_after },
            format,
            until: Some(request.until_seq).filter(|until| *until > 0),
            heartbeat: heartbeat.clamp(Duration::from_millis(limits::HEARTBEAT_LEAST_MS), MAX_HEARTBEAT),
            start_seq,
            initial_rows,
            subscription,
        })
    }
}

/// The commit after which a watch starts, and the initial rows to send first.
async fn resolve_start(
    replica: &Replica,
    filter: &WatchFilter,
    request: &v1::WatchDriftRequest,
) -> Result<(u64, Option<InitialRowPosition>)> {
    let freshness = v1::Freshness { epoch: request.epoch, ..v1::Freshness::default() };
    let mut resumed = LineagePoint::default();
    let all_rows = request.initial_rows.then(InitialRowPosition::default);
    let (freshness, point, rows) = match &request.start {
        None => (freshness, None, all_rows),
        // All that is retained: from the first commit on, or from the floor if there is one.
        Some(Start::AfterSeq(0)) => {
            Freshness::from_wire(Some(freshness), replica)?;
            replica.check_kept()?;
            check_tables(replica, filter).await?;
            return Ok((filter.floor(&replica.applied()), all_rows));
        }
        Some(Start::AfterSeq(seq)) => {
            resumed = LineagePoint { incarnation: request.incarnation, seq: *seq };
            (freshness, Some(PointInTime::Seq(*seq)), all_rows)
        }
        Some(Start::AfterTime(time)) => {
            let as_of = v1::AsOf { at: Some(v1::as_of::At::Time(*time)) };
            (freshness, convert::point_from_wire(Some(as_of))?, all_rows)
        }
        Some(Start::ResumeToken(token)) => {
            let token = WatchToken::decode(token, replica.database(), filter.hash())?;
            // The token proves that the commit exists, even if this replica has not seen it yet.
            resumed = token.point();
            let freshness = v1::Freshness { min_seq: token.seq, ..freshness };
            (freshness, Some(PointInTime::Seq(token.seq)), token.rows())
        }
    };
    let freshness = Freshness::from_wire(Some(freshness), replica)?.requiring(resumed);
    Ok((replica.wait_for_point(freshness, point).await?.seq, rows))
}

/// Checks the tables and keys that the filter names. If a table is unknown, waits for a HEAD check, because the table may be
/// new.
async fn check_tables(replica: &Replica, filter: &WatchFilter) -> Result<()> {
    let mut head_checks = replica.head_checks();
    head_checks.mark_unchanged();
    let deadline = Instant::now() + Duration::from_secs(limits::FRESHNESS_WAIT_SECS);
    // The HEAD check in progress may have read HEAD before this call; the next one reads it after.
    for _ in 0..2 {
        match filter.check(&replica.applied()) {
            Err(error) if error.reason() == Reason::TableNotFound => {
                if timeout_at(deadline, head_checks.changed()).await.is_err() {
                    return Err(error);
                }
            }
            checked => return checked,
        }
    }
    filter.check(&replica.applied())
}
