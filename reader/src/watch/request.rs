//! The decoding of a WatchDrift request: what to send, and the commit at which the watch starts.

use std::sync::Arc;
use std::time::Duration;

use driftdb::v1;
use driftdb::v1::watch_drift_request::Start;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::lineage::LineagePoint;
use driftdb_common::limits;
use driftdb_common::planted::{self, PlantedBug};
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::clock::now_ms;
use driftdb_common::service::convert;
use driftdb_common::service::server::CallMemory;
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
use crate::watch::watch_memory::WatchMemory;

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
    /// The memory of the watch.
    pub memory: WatchMemory,
}

impl ResolvedWatch {
    /// Decodes a request. Waits until the replica has reached the commit at which the watch starts.
    pub async fn resolve(
        query: &RunningQuery,
        caller: &Caller,
        request: v1::WatchDriftRequest,
        call: &CallMemory,
    ) -> Result<ResolvedWatch> {
        let mut memory = WatchMemory::reserve(call, &request)?;
        let format = convert::format_from_wire(request.format)?;
        let bytes = request.encoded_len();
        let watching = caller.clone();
        let decode = move || Ok((Arc::new(WatchFilter::from_wire(&request, &watching)?), request));
        let (filter, request) = query.prepare(bytes, decode).await?;
        let heartbeat = match &request.heartbeat {
            Some(heartbeat) => convert::duration_from_wire(heartbeat, "heartbeat")?,
            None => Duration::from_millis(limits::HEARTBEAT_MS),
        };
        // Subscribe first: the live ring keeps commits only while there are watches.
        let subscription = query.context().replica.subscriptions().subscribe()?;
        let WatchStart { seq: start_seq, initial_rows, after_ms } =
            resolve_start(query, &filter, &request).await?;
        let filter = Arc::new(Arc::unwrap_or_clone(filter).after_time(after_ms));
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
        let interest = filter.interest();
        memory.reserve_index(interest.bytes())?;
        subscription.set_interest(interest);
        Ok(ResolvedWatch {
            filter,
            images: Images { before: request.with_before, after: request.with_after },
            format,
            until: Some(request.until_seq).filter(|until| *until > 0),
            heartbeat: heartbeat.clamp(Duration::from_millis(limits::HEARTBEAT_LEAST_MS), MAX_HEARTBEAT),
            start_seq,
            initial_rows,
            subscription,
            memory,
        })
    }
}

/// Where a watch starts.
#[derive(Debug, Default)]
struct WatchStart {
    /// The commit after which it starts.
    seq: u64,
    /// The initial rows to send first.
    initial_rows: Option<InitialRowPosition>,
    /// Only commits after this time are sent, in milliseconds since 1970; 0 for all.
    after_ms: u64,
}

/// Resolves where a watch starts, once the replica has reached that commit.
async fn resolve_start(
    query: &RunningQuery,
    filter: &Arc<WatchFilter>,
    request: &v1::WatchDriftRequest,
) -> Result<WatchStart> {
    let replica = &query.context().replica;
    let freshness = v1::Freshness { epoch: request.epoch, ..v1::Freshness::default() };
    let mut resumed = LineagePoint::default();
    let initial_rows = request.initial_rows.then(InitialRowPosition::default);
    let mut start = WatchStart { initial_rows, ..WatchStart::default() };
    let (freshness, point) = match &request.start {
        None => (freshness, None),
        // All that is retained: from the first commit on, or from the floor if there is one.
        Some(Start::AfterSeq(0)) => {
            Freshness::from_wire(Some(freshness), replica)?;
            replica.check_kept()?;
            check_tables(query, filter).await?;
            return Ok(WatchStart { seq: filter.floor(&replica.applied()), ..start });
        }
        Some(Start::AfterSeq(seq)) => {
            resumed = LineagePoint { incarnation: request.incarnation, seq: *seq };
            (freshness, Some(PointInTime::Seq(*seq)))
        }
        Some(Start::AfterTime(time)) => {
            let as_of = v1::AsOf { at: Some(v1::as_of::At::Time(*time)) };
            let point = convert::point_from_wire(Some(as_of))?;
            start.after_ms = after_ms(point, request.initial_rows)?;
            (freshness, point)
        }
        Some(Start::ResumeToken(token)) => {
            let token = WatchToken::decode(token, replica.database(), filter.hash())?;
            filter.caller().check_token_scope(token.principal())?;
            start.initial_rows = token.rows();
            start.after_ms = token.after_ms();
            // The token proves that the commit exists, even if this replica has not seen it yet.
            resumed = token.point();
            let freshness = v1::Freshness { min_seq: token.seq, ..freshness };
            (freshness, Some(PointInTime::Seq(token.seq)))
        }
    };
    let freshness = Freshness::from_wire(Some(freshness), replica)?.requiring(resumed);
    let seq = query.wait_for_point(freshness, point).await?.seq;
    let is_resumed = matches!(&request.start, Some(Start::ResumeToken(_)));
    let skipped = u64::from(is_resumed && planted::is_planted(PlantedBug::ResumeOffByOne));
    Ok(WatchStart { seq: seq + skipped, ..start })
}

/// The time after which a watch that starts at a point sends commits; 0 for all after the commit that the point names.
///
/// With initial rows, every commit after those rows is sent, so that there is no gap. The rows cannot be of a time that
/// is still to come.
fn after_ms(point: Option<PointInTime>, initial_rows: bool) -> Result<u64> {
    let Some(PointInTime::Time(time_ms)) = point else { return Ok(0) };
    let time_ms = u64::try_from(time_ms).unwrap_or(0);
    if !initial_rows {
        return Ok(time_ms);
    }
    if time_ms > now_ms() {
        let message = "after_time is in the future: initial_rows needs a time that has passed; \
                       leave out initial_rows, or after_time to start now";
        return Err(Error::new(Reason::ArgumentInvalid, message));
    }
    Ok(0)
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
