//! Where a watch starts: what a request asks for, checked and resolved to a commit.

use std::sync::Arc;
use std::time::Duration;

use driftdb::v1;
use driftdb::v1::watch_drift_request::Start;
use driftdb_common::error::{Reason, Result};
use driftdb_common::format::key::Key;
use driftdb_common::limits;
use driftdb_common::service::convert;
use driftdb_common::table::history::Images;
use driftdb_common::table::point_in_time::PointInTime;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::freshness::Freshness;
use crate::replica::Replica;
use crate::token::WatchToken;
use crate::watch::filter::Filter;
use crate::watch::message::Assembler;
use crate::watch::{Phase, Watch};

/// The longest heartbeat: more is as good as this.
const HEARTBEAT_MOST: Duration = Duration::from_secs(86_400);

/// Where a watch starts: the commit after which, and the place in the initial rows where there are any to send.
type Place = (u64, Option<(u64, Option<Key>)>);

impl Watch {
    /// A watch as a request asks for it. Waits until this replica has come to where it starts.
    pub async fn start(
        replica: Arc<Replica>,
        request: v1::WatchDriftRequest,
        shutdown: CancellationToken,
    ) -> Result<Watch> {
        let format = convert::format_from_wire(request.format)?;
        let filter = Arc::new(Filter::from_wire(&request)?);
        let heartbeat = match &request.heartbeat {
            Some(heartbeat) => convert::duration_from_wire(heartbeat, "heartbeat")?,
            None => Duration::from_millis(limits::HEARTBEAT_MS),
        };
        // From now on commits are kept for it.
        let subscription = replica.subscriptions().subscribe()?;
        let (position, rows) = place(&replica, &filter, &request).await?;
        check_tables(&replica, &filter).await?;
        for timeline in filter.timelines(&replica.applied()) {
            timeline.check_floor(position)?;
        }
        let head = replica.subscriptions().head();
        Ok(Watch {
            images: Images { before: request.with_before, after: request.with_after },
            out: Assembler::new(format),
            format,
            until: Some(request.until_seq).filter(|until| *until > 0),
            heartbeat: heartbeat.clamp(Duration::from_millis(limits::HEARTBEAT_LEAST_MS), HEARTBEAT_MOST),
            position,
            gone_through: position,
            phase: Phase::Opening(rows),
            catching_up_to: None,
            renewals: replica.renewals(),
            head,
            sent_at: Instant::now(),
            _subscription: subscription,
            replica,
            shutdown,
            filter,
        })
    }
}

/// The place at which a request starts.
async fn place(replica: &Replica, filter: &Filter, request: &v1::WatchDriftRequest) -> Result<Place> {
    let freshness = v1::Freshness { epoch: request.epoch, ..v1::Freshness::default() };
    let beginning = request.initial_rows.then_some((0, None));
    let (freshness, point, rows) = match &request.start {
        None => (freshness, None, beginning),
        // All that is retained: where nothing has been compacted, from the first commit on.
        Some(Start::AfterSeq(0)) => {
            Freshness::from_wire(Some(freshness), replica)?;
            check_tables(replica, filter).await?;
            return Ok((filter.floor(&replica.applied()), beginning));
        }
        Some(Start::AfterSeq(seq)) => (freshness, Some(PointInTime::Seq(*seq)), beginning),
        Some(Start::AfterTime(time)) => {
            let as_of = v1::AsOf { at: Some(v1::as_of::At::Time(*time)) };
            (freshness, convert::point_from_wire(Some(as_of))?, beginning)
        }
        Some(Start::ResumeToken(token)) => {
            let token = WatchToken::decode(token, replica.database(), filter.hash())?;
            // It has happened, though this replica may not have come to see it.
            let freshness = v1::Freshness { min_seq: token.seq, ..freshness };
            (freshness, Some(PointInTime::Seq(token.seq)), token.rows())
        }
    };
    let freshness = Freshness::from_wire(Some(freshness), replica)?;
    Ok((replica.resolve(freshness, point).await?.seq, rows))
}

/// Checks what the filter says of tables. One that is not there may have been created just now: HEAD is asked first.
async fn check_tables(replica: &Replica, filter: &Filter) -> Result<()> {
    let mut looks = replica.looks();
    looks.mark_unchanged();
    let deadline = Instant::now() + Duration::from_secs(limits::FRESHNESS_WAIT_SECS);
    // The look under way may have begun before; the one after it has not.
    for _ in 0..2 {
        match filter.check(&replica.applied()) {
            Err(error) if error.reason() == Reason::TableNotFound => {
                if timeout_at(deadline, looks.changed()).await.is_err() {
                    return Err(error);
                }
            }
            checked => return checked,
        }
    }
    filter.check(&replica.applied())
}
