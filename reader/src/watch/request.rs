//! The decoding of a WatchDrift request: what to send, and the commit at which the watch starts.

use std::sync::Arc;
use std::time::Duration;

use driftdb::v1;
use driftdb::v1::watch_drift_request::Start;
use driftdb_common::error::{Reason, Result};
use driftdb_common::limits;
use driftdb_common::service::convert;
use driftdb_common::table::history::Images;
use driftdb_common::table::point_in_time::PointInTime;
use driftdb_common::work;
use prost::Message;
use tokio::time::{Instant, timeout_at};

use crate::context::RequestContext;
use crate::freshness::Freshness;
use crate::resume_token::{InitialRowPosition, WatchToken};
use crate::running_query::RunningQuery;
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
    pub async fn resolve(query: &RunningQuery, request: v1::WatchDriftRequest) -> Result<ResolvedWatch> {
        let format = convert::format_from_wire(request.format)?;
        let bytes = request.encoded_len();
        let decode = move || Ok((Arc::new(WatchFilter::from_wire(&request)?), request));
        let (filter, request) = query.prepare(bytes, decode).await?;
        let heartbeat = match &request.heartbeat {
            Some(heartbeat) => convert::duration_from_wire(heartbeat, "heartbeat")?,
            None => Duration::from_millis(limits::HEARTBEAT_MS),
        };
        // Subscribe first: the live ring keeps commits only while there are watches.
        let subscription = query.context().replica.subscriptions().subscribe()?;
        let (start_seq, initial_rows) = resolve_start(query, &filter, &request).await?;
        check_tables(query, &filter).await?;
        let checked = Arc::clone(&filter);
        let check_floors = move |context: &RequestContext| {
            let applied = context.replica.applied();
            checked.timelines(&applied).into_iter().try_for_each(|timeline| {
                work::step(8)?;
                timeline.check_floor(start_seq)
            })
        };
        query.look_up(check_floors).await?;
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
    query: &RunningQuery,
    filter: &Arc<WatchFilter>,
    request: &v1::WatchDriftRequest,
) -> Result<(u64, Option<InitialRowPosition>)> {
    let replica = &query.context().replica;
    let freshness = v1::Freshness { epoch: request.epoch, ..v1::Freshness::default() };
    let all_rows = request.initial_rows.then(InitialRowPosition::default);
    let (freshness, point, rows) = match &request.start {
        None => (freshness, None, all_rows),
        // All that is retained: from the first commit on, or from the floor if there is one.
        Some(Start::AfterSeq(0)) => {
            Freshness::from_wire(Some(freshness), replica)?;
            check_tables(query, filter).await?;
            return Ok((filter.floor(&replica.applied()), all_rows));
        }
        Some(Start::AfterSeq(seq)) => (freshness, Some(PointInTime::Seq(*seq)), all_rows),
        Some(Start::AfterTime(time)) => {
            let as_of = v1::AsOf { at: Some(v1::as_of::At::Time(*time)) };
            (freshness, convert::point_from_wire(Some(as_of))?, all_rows)
        }
        Some(Start::ResumeToken(token)) => {
            let token = WatchToken::decode(token, replica.database(), filter.hash())?;
            // The token proves that the commit exists, even if this replica has not seen it yet.
            let freshness = v1::Freshness { min_seq: token.seq, ..freshness };
            (freshness, Some(PointInTime::Seq(token.seq)), token.rows())
        }
    };
    let freshness = Freshness::from_wire(Some(freshness), replica)?;
    Ok((query.wait_for_point(freshness, point).await?.seq, rows))
}

/// Checks the tables and keys that the filter names. If a table is unknown, waits for a HEAD check, because the table may be
/// new.
async fn check_tables(query: &RunningQuery, filter: &Arc<WatchFilter>) -> Result<()> {
    let checked = Arc::clone(filter);
    let check = move |context: &RequestContext| checked.check(&context.replica.applied());
    let mut head_checks = query.context().replica.head_checks();
    head_checks.mark_unchanged();
    let deadline = Instant::now() + Duration::from_secs(limits::FRESHNESS_WAIT_SECS);
    // The HEAD check in progress may have read HEAD before this call; the next one reads it after.
    for _ in 0..2 {
        match query.look_up(check.clone()).await {
            Err(error) if error.reason() == Reason::TableNotFound => {
                if timeout_at(deadline, head_checks.changed()).await.is_err() {
                    return Err(error);
                }
            }
            checked => return checked,
        }
    }
    query.look_up(check).await
}
