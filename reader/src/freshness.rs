//! Waits until the replica is as fresh as a request demands, and resolves the request's AS OF.

use std::sync::Arc;
use std::time::Duration;

use driftdb::v1;
use driftdb_common::error::{CAUSE, Error, Reason, Result};
use driftdb_common::format::lineage::{LineagePoint, Membership};
use driftdb_common::limits;
use driftdb_common::service::clock::now_ms;
use driftdb_common::service::convert;
use driftdb_common::table::point_in_time::{PointInTime, beyond_head};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::read_point::ReadPoint;
use crate::replica::{Applied, Replica};

/// How fresh the replica must be for a request.
#[derive(Debug, Clone, Copy)]
pub struct Freshness {
    /// The replica must have applied this commit.
    min_seq: u64,
    /// The replica must have been current at most this long ago.
    max_staleness: Option<Duration>,
    /// Commits that the history must contain.
    points: [LineagePoint; 2],
    /// When the request stops waiting.
    deadline: Instant,
}

impl Freshness {
    /// Decodes the freshness of a request. Fails if the request belongs to another epoch of the database.
    pub fn from_wire(freshness: Option<v1::Freshness>, replica: &Replica) -> Result<Freshness> {
        let v1::Freshness { min_seq, epoch, max_staleness, wait, incarnation } =
            freshness.unwrap_or_default();
        let ours = replica.database().epoch;
        if epoch != 0 && epoch != ours {
            let message = "the token belongs to an earlier epoch of the database, which was restored since; drop the token";
            return Err(Error::new(Reason::EpochChanged, message).with("epoch", ours.to_string()));
        }
        let max_staleness =
            max_staleness.map(|limit| convert::duration_from_wire(&limit, "max_staleness")).transpose()?;
        let wait = match wait {
            Some(wait) => convert::duration_from_wire(&wait, "wait")?,
            None => Duration::from_secs(limits::FRESHNESS_WAIT_SECS),
        };
        let wait = wait.min(Duration::from_secs(limits::FRESHNESS_WAIT_MAX_SECS));
        let points = [LineagePoint { incarnation, seq: min_seq }, LineagePoint::default()];
        Ok(Freshness { min_seq, max_staleness, points, deadline: Instant::now() + wait })
    }

    /// Requires that the history contains another commit: that of a resume token.
    #[must_use]
    pub fn requiring(self, point: LineagePoint) -> Freshness {
        let [own, _] = self.points;
        Freshness { points: [own, point], ..self }
    }

    /// The commit that the replica must have applied to read a point in time.
    fn min_seq_of(&self, as_of: Option<PointInTime>) -> u64 {
        match as_of {
            Some(PointInTime::Seq(seq)) => self.min_seq.max(seq),
            _ => self.min_seq,
        }
    }
}

impl Freshness {
    /// The same, but the replica must also have applied a commit that is known to exist.
    #[must_use]
    pub fn at_least(self, seq: u64) -> Freshness {
        Freshness { min_seq: self.min_seq.max(seq), ..self }
    }
}

impl Replica {
    /// The state that is served, if it is fresh enough for a point in time; `None` is now.
    pub fn fresh_state(&self, freshness: &Freshness, as_of: Option<PointInTime>) -> Option<Arc<Applied>> {
        if self.loss().is_some() || !self.has_points(freshness) {
            return None;
        }
        let applied = self.applied();
        let fresh = freshness.max_staleness.is_none_or(|limit| self.staleness() <= limit);
        (applied.seq >= freshness.min_seq_of(as_of) && fresh).then_some(applied)
    }

    /// Waits until the replica is fresh enough for a point in time; `None` is now.
    ///
    /// Fails with REPLICA_BEHIND at the request's deadline, with BEYOND_HEAD if the point names a commit that HEAD does not
    /// contain, and with EPOCH_CHANGED if the history lacks a commit that a token of the request names.
    pub async fn wait_until_fresh(
        &self,
        freshness: Freshness,
        as_of: Option<PointInTime>,
    ) -> Result<Arc<Applied>> {
        let min_seq = freshness.min_seq_of(as_of);
        for point in freshness.points {
            self.check_point(point, freshness.deadline).await?;
        }
        let mut head_checks = self.head_checks();
        loop {
            head_checks.mark_unchanged();
            self.check_kept()?;
            if let Some(applied) = self.fresh_state(&freshness, as_of) {
                return Ok(applied);
            }
            // A commit that neither a token nor HEAD vouches for does not exist: do not wait for it.
            if let Some(PointInTime::Seq(seq)) = as_of
                && seq > freshness.min_seq
                && self.is_beyond_head(seq, &mut head_checks, freshness.deadline).await
            {
                return Err(beyond_head(seq, self.head_seq()));
            }
            if timeout_at(freshness.deadline, head_checks.changed()).await.is_err() {
                return Err(self.behind_error(min_seq, &self.applied()));
            }
        }
    }

    /// Whether the history contains every commit that the tokens of a request name.
    fn has_points(&self, freshness: &Freshness) -> bool {
        let is_named = |point: &&LineagePoint| point.incarnation != 0;
        let mut named = freshness.points.iter().filter(is_named).peekable();
        if named.peek().is_none() {
            return true;
        }
        let lineage = self.lineage();
        named.all(|point| lineage.membership(*point) == Membership::Contained)
    }

    /// Fails if the history of this replica is lost. The request can be repeated: another replica takes its place.
    pub fn check_kept(&self) -> Result<()> {
        let Some(loss) = self.loss() else { return Ok(()) };
        let message = format!("the reader starts over with another history{CAUSE}{}", loss.message());
        Err(Error::new(Reason::ReplicaBehind, message).retry_after(Duration::from_millis(100)))
    }

    /// Fails with EPOCH_CHANGED unless the history of this replica contains a commit. If it does not, waits for HEAD: a writer may
    /// have opened the database just now.
    pub async fn check_point(&self, point: LineagePoint, deadline: Instant) -> Result<()> {
        let mut head_checks = self.head_checks();
        // The HEAD check in progress may have read HEAD before this call; the next one reads it after.
        let mut checks_left = 2;
        loop {
            head_checks.mark_unchanged();
            let membership = self.lineage().membership(point);
            if membership == Membership::Contained {
                return Ok(());
            }
            self.check_kept()?;
            // An old view of a network file system may lack the newest incarnation for longer.
            let may_come = membership == Membership::Unknown && self.is_view_stale();
            if checks_left == 0 && !may_come {
                return Err(self.lost_commit_error(point));
            }
            if timeout_at(deadline, head_checks.changed()).await.is_err() {
                let lost = self.lost_commit_error(point);
                return Err(if may_come { self.behind_error(point.seq, &self.applied()) } else { lost });
            }
            checks_left = u32::saturating_sub(checks_left, 1);
        }
    }

    fn lost_commit_error(&self, point: LineagePoint) -> Error {
        let message = format!(
            "the token's commit {} is not in this history of the database: an older copy was put back, or another copy was written \
             to; drop the token and start again",
            point.seq
        );
        Error::new(Reason::EpochChanged, message)
            .with("epoch", self.database().epoch.to_string())
            .with("incarnation", self.lineage().current().to_string())
    }

    /// Whether HEAD, read after this call began, does not contain a commit.
    async fn is_beyond_head(
        &self,
        seq: u64,
        head_checks: &mut watch::Receiver<u64>,
        deadline: Instant,
    ) -> bool {
        // The HEAD check in progress may have read HEAD before this call; the next one reads it after.
        for _ in 0..2 {
            if self.head_seq() >= seq
                || !matches!(timeout_at(deadline, head_checks.changed()).await, Ok(Ok(())))
            {
                return false;
            }
        }
        self.head_seq() < seq && self.problem().is_none()
    }

    fn behind_error(&self, min_seq: u64, applied: &Applied) -> Error {
        if let Some(problem) = self.problem().filter(|problem| problem.reason() == Reason::Corrupt) {
            return problem;
        }
        let why = self.problem().map(|problem| format!("{CAUSE}{problem}")).unwrap_or_default();
        let message = if applied.seq < min_seq {
            format!("replica is behind: commit {min_seq} is required, commit {} is applied{why}", applied.seq)
        } else if self.staleness() == Duration::MAX {
            format!("replica is behind: it has not been current since its start{why}")
        } else {
            format!("replica is behind: it was last current {:?} ago{why}", self.staleness())
        };
        Error::new(Reason::ReplicaBehind, message)
            .with("applied_seq", applied.seq.to_string())
            .retry_after(Duration::from_millis(100))
    }

    /// Resolves a point in time in a state; `None` is now. May read files.
    pub fn point_at(&self, applied: &Arc<Applied>, as_of: Option<PointInTime>) -> Result<ReadPoint> {
        let point = as_of.unwrap_or(PointInTime::Now);
        let seq = point.resolve(applied.seq, now_ms(), |time_ms| self.seq_at(time_ms, applied).map(Some))?;
        // Seq 0 is the state before the first commit.
        Ok(ReadPoint { seq: seq.unwrap_or(0), applied: Arc::clone(applied) })
    }
}
