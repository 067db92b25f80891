//! Which moment a read is of: waits until the replica is as fresh as asked, and resolves AS OF.

use std::sync::Arc;
use std::time::Duration;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::service::clock::now_ms;
use driftdb_common::service::convert;
use driftdb_common::table::point_in_time::{PointInTime, beyond_head};
use driftdb_common::table::timeline::Timeline;
use driftdb_common::table::view::View;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::replica::{Applied, Replica};

/// A pinned state and the moment in it that a read is of.
#[derive(Debug, Clone)]
pub struct Moment {
    /// The newest state when the read began.
    pub applied: Arc<Applied>,
    /// The commit after which the state is read.
    pub seq: u64,
}

impl Moment {
    /// A table's state at this moment.
    pub fn view(&self, table: &str) -> Result<View> {
        self.applied.view(table, self.seq)
    }

    /// Which moment this is, as an answer about some tables tells it.
    pub fn header<'a>(
        &self,
        replica: &Replica,
        tables: impl IntoIterator<Item = &'a Arc<Timeline>>,
    ) -> Result<v1::ReadHeader> {
        let floors = tables.into_iter().filter_map(|table| table.state().chain.floor());
        Ok(v1::ReadHeader {
            read_seq: self.seq,
            read_time: replica.time_of(self.seq, &self.applied)?.map(convert::time_to_wire),
            applied_seq: self.applied.seq,
            floor_seq: floors.map(|floor| floor.seq).max().unwrap_or(0),
            database_id: replica.database().id.to_string(),
            epoch: replica.database().epoch,
        })
    }
}

/// How caught up a replica must be, decoded.
#[derive(Debug, Clone, Copy)]
pub struct Freshness {
    min_seq: u64,
    max_staleness: Option<Duration>,
    deadline: Instant,
}

impl Freshness {
    /// Decodes what a request asks for, and checks that it is of this history.
    pub fn from_wire(freshness: Option<v1::Freshness>, replica: &Replica) -> Result<Freshness> {
        let v1::Freshness { min_seq, epoch, max_staleness, wait } = freshness.unwrap_or_default();
        let ours = replica.database().epoch;
        if epoch != 0 && epoch != ours {
            let message = "the token is of another history of this database: it was restored since";
            return Err(Error::new(Reason::EpochChanged, message).with("epoch", ours.to_string()));
        }
        let max_staleness =
            max_staleness.map(|limit| convert::duration_from_wire(&limit, "max_staleness")).transpose()?;
        let wait = match wait {
            Some(wait) => convert::duration_from_wire(&wait, "wait")?,
            None => Duration::from_secs(limits::FRESHNESS_WAIT_SECS),
        };
        let wait = wait.min(Duration::from_secs(limits::FRESHNESS_WAIT_MAX_SECS));
        Ok(Freshness { min_seq, max_staleness, deadline: Instant::now() + wait })
    }
}

impl Replica {
    /// The moment that a request is of: waits until this replica is fresh enough.
    pub async fn moment(
        &self,
        freshness: Option<v1::Freshness>,
        as_of: Option<PointInTime>,
    ) -> Result<Moment> {
        let freshness = Freshness::from_wire(freshness, self)?;
        self.resolve(freshness, as_of).await
    }

    /// The moment that a point names, once the replica is fresh enough.
    pub async fn resolve(&self, freshness: Freshness, as_of: Option<PointInTime>) -> Result<Moment> {
        let min_seq = match as_of {
            Some(PointInTime::Seq(seq)) => freshness.min_seq.max(seq),
            _ => freshness.min_seq,
        };
        let mut looks = self.looks();
        loop {
            looks.mark_unchanged();
            let applied = self.applied();
            let fresh = freshness.max_staleness.is_none_or(|limit| self.staleness() <= limit);
            if applied.seq >= min_seq && fresh {
                return Ok(Moment { seq: self.seq_of(as_of, &applied)?, applied });
            }
            // What no token vouches for and HEAD does not know does not exist: no use waiting for it.
            if let Some(PointInTime::Seq(seq)) = as_of
                && seq > freshness.min_seq
                && self.is_beyond_head(seq, &mut looks, freshness.deadline).await
            {
                return Err(beyond_head(seq, self.known_seq()));
            }
            if timeout_at(freshness.deadline, looks.changed()).await.is_err() {
                return Err(self.behind(min_seq, &applied));
            }
        }
    }

    /// Whether HEAD, looked at after this call began, knows no such commit.
    async fn is_beyond_head(&self, seq: u64, looks: &mut watch::Receiver<u64>, deadline: Instant) -> bool {
        // The look under way may have begun before; the one after it has not.
        for _ in 0..2 {
            if self.known_seq() >= seq || !matches!(timeout_at(deadline, looks.changed()).await, Ok(Ok(()))) {
                return false;
            }
        }
        self.known_seq() < seq && self.problem().is_none()
    }

    fn behind(&self, min_seq: u64, applied: &Applied) -> Error {
        if let Some(problem) = self.problem().filter(|problem| problem.reason() == Reason::Corrupt) {
            return problem;
        }
        let why = self.problem().map(|problem| format!(" ({problem})")).unwrap_or_default();
        let message = if applied.seq < min_seq {
            format!(
                "this replica has applied commit {}, and commit {min_seq} was asked for{why}",
                applied.seq
            )
        } else {
            format!("this replica was last current {:?} ago{why}", self.staleness())
        };
        Error::new(Reason::ReplicaBehind, message)
            .with("applied_seq", applied.seq.to_string())
            .retry_after(Duration::from_millis(100))
    }

    fn seq_of(&self, as_of: Option<PointInTime>, applied: &Applied) -> Result<u64> {
        let point = as_of.unwrap_or(PointInTime::Now);
        let seq = point.resolve(applied.seq, now_ms(), |time_ms| self.seq_at(time_ms, applied).map(Some))?;
        // Seq 0 is the state before the first commit.
        Ok(seq.unwrap_or(0))
    }
}
