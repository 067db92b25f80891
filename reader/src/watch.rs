//! WatchDrift: catches up from files, follows the live ring, and goes back to the files where it has fallen behind.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use driftdb::v1;
use driftdb::v1::watch_drift_response::Event;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::key::Key;
use driftdb_common::service::convert;
use driftdb_common::service::status::to_status;
use driftdb_common::table::history::Images;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, ReusableBoxFuture};
use tonic::Status;

use crate::freshness::Moment;
use crate::replica::Replica;
use crate::steps::Answers;
use crate::subscriptions::{LiveCommit, Next, Subscription};
use crate::token::WatchToken;
use crate::watch::catch_up::CatchUp;
use crate::watch::filter::Filter;
use crate::watch::initial::InitialRows;
use crate::watch::live::Delivery;
use crate::watch::message::Assembler;

mod catch_up;
mod filter;
mod initial;
mod live;
mod message;
mod start;

/// How long to wait for tables to be taken anew, where their files are gone.
const RENEWAL: Duration = Duration::from_secs(5);

/// One WatchDrift under way. It computes a message when the subscriber takes one, and holds no more than a few.
#[derive(Debug)]
pub struct Watch {
    replica: Arc<Replica>,
    shutdown: CancellationToken,
    filter: Arc<Filter>,
    /// What goes with each change.
    images: Images,
    format: v1::DocumentFormat,
    until: Option<u64>,
    heartbeat: Duration,
    /// Everything up to this commit has been sent.
    position: u64,
    /// Everything up to this commit has been gone through: what passes of it has been sent, or is in `out`.
    gone_through: u64,
    out: Assembler,
    phase: Phase,
    /// The commit at which the subscriber is told that it follows the head; none where it has been.
    catching_up_to: Option<u64>,
    head: watch::Receiver<u64>,
    /// What the tables read from were: the replica's count of renewals.
    renewals: u64,
    sent_at: Instant,
    _subscription: Subscription,
}

/// What a watch does next.
#[derive(Debug)]
enum Phase {
    /// Tells where it starts, and goes on with initial rows where there is a place in them.
    Opening(Option<(u64, Option<Key>)>),
    /// Sends the rows of the moment it starts at.
    Rows(Box<InitialRows>),
    /// Reads commits that are no longer in memory; begins to where there is no way yet.
    CatchingUp(Option<Box<CatchUp>>),
    /// Follows the ring.
    Following(Option<Delivery>),
    Ended,
}

impl Watch {
    /// The next message; none at the end.
    async fn next(&mut self) -> Result<Option<v1::WatchDriftResponse>> {
        loop {
            tokio::task::coop::consume_budget().await;
            if self.shutdown.is_cancelled() {
                let message = "the reader is shutting down: go on with the resume token, here or elsewhere";
                return Err(Error::new(Reason::ShuttingDown, message));
            }
            if let Some(commit) = self.out.take() {
                return self.commit(commit).map(Some);
            }
            self.position = self.position.max(self.gone_through);
            let event = match std::mem::replace(&mut self.phase, Phase::Ended) {
                Phase::Opening(rows) => Some(self.open(rows).await?),
                Phase::Rows(rows) => self.send_rows(rows).await?,
                Phase::CatchingUp(way) => self.catch_up(way).await?,
                Phase::Following(delivery) => self.follow(delivery).await?,
                Phase::Ended => return Ok(None),
            };
            let event = match event {
                None if self.is_quiet() => Some(Event::Progress(self.header().await?)),
                event => event,
            };
            if let Some(event) = event {
                return self.message(event).map(Some);
            }
        }
    }

    /// Whether it is time to say how far the stream is. Within initial rows that cannot be said.
    fn is_quiet(&self) -> bool {
        !matches!(self.phase, Phase::Rows(_))
            && !self.out.is_within()
            && self.out.is_empty()
            && self.sent_at.elapsed() >= self.heartbeat
    }

    /// Where the stream is, as a message tells it. What only files know of it is read where that holds nobody up.
    async fn header(&self) -> Result<v1::ReadHeader> {
        let moment = Moment { applied: self.replica.applied(), seq: self.position };
        let (replica, filter) = (Arc::clone(&self.replica), Arc::clone(&self.filter));
        let header = move || moment.header(&replica, filter.timelines(&moment.applied));
        if self.replica.remembers(self.position) { header() } else { blocking(header).await? }
    }

    fn message(&mut self, event: Event) -> Result<v1::WatchDriftResponse> {
        let rows = match &self.phase {
            Phase::Rows(rows) => Some(rows.place()),
            _ => None,
        };
        let token = self.token(rows)?;
        self.send(event, token)
    }

    /// The token of where the stream is now; with a place in the initial rows where they are under way.
    fn token(&self, rows: Option<(u64, Option<Key>)>) -> Result<Vec<u8>> {
        let token = WatchToken::new(self.replica.database(), self.filter.hash(), self.position);
        match rows {
            Some((table, after)) => token.at_row(table, after.as_ref()).encode(),
            None => token.encode(),
        }
    }

    fn send(&mut self, event: Event, resume_token: Vec<u8>) -> Result<v1::WatchDriftResponse> {
        self.sent_at = Instant::now();
        Ok(v1::WatchDriftResponse { event: Some(event), resume_token: resume_token.into() })
    }

    fn commit(&mut self, commit: v1::Commit) -> Result<v1::WatchDriftResponse> {
        if commit.more {
            return self.send(Event::Commit(commit), Vec::new());
        }
        self.position = commit.seq;
        let token = self.token(None)?;
        self.send(Event::Commit(commit), token)
    }

    async fn open(&mut self, rows: Option<(u64, Option<Key>)>) -> Result<Event> {
        self.phase = match rows {
            Some(place) => Phase::Rows(self.initial_rows(place)),
            None => Phase::CatchingUp(None),
        };
        Ok(Event::Opened(self.header().await?))
    }

    fn initial_rows(&self, place: (u64, Option<Key>)) -> Box<InitialRows> {
        Box::new(InitialRows::new(Arc::clone(&self.filter), &self.replica, self.position, place))
    }

    /// After a failure: waits until the tables have been taken anew from their files, where that is what it takes. What has
    /// not been sent is gone through again.
    async fn renew(&mut self, error: Error) -> Result<()> {
        if error.reason() != Reason::Corrupt {
            return Err(error);
        }
        let deadline = Instant::now() + RENEWAL;
        let mut looks = self.replica.looks();
        while self.replica.renewals() == self.renewals {
            if timeout_at(deadline, looks.changed()).await.is_err() {
                // What the follower cannot see yet says more.
                let behind = self.replica.problem().filter(|problem| problem.reason() != Reason::Corrupt);
                return Err(behind.unwrap_or(error));
            }
        }
        if self.out.is_within() {
            // The parts that were sent cannot be taken back: from the last token on they come again.
            let message =
                "the files of a commit were replaced while it was sent: go on with the resume token";
            return Err(Error::new(Reason::FileGone, message));
        }
        self.renewals = self.replica.renewals();
        self.out = Assembler::new(self.format);
        self.gone_through = self.position;
        Ok(())
    }

    /// The next batch of initial rows, or that there are no more. A batch without rows says that the stream is alive.
    async fn send_rows(&mut self, mut rows: Box<InitialRows>) -> Result<Option<Event>> {
        let replica = Arc::clone(&self.replica);
        let subscriptions = Arc::clone(self.replica.subscriptions());
        let turn = subscriptions.turn().await;
        let batch;
        (rows, batch) = blocking(move || {
            let batch = rows.next_batch(&replica);
            (rows, batch)
        })
        .await?;
        drop(turn);
        let batch = match batch {
            Ok(Some(batch)) => batch,
            Ok(None) => {
                self.phase = Phase::CatchingUp(None);
                return Ok(Some(Event::RowsDone(self.header().await?)));
            }
            Err(error) => {
                self.renew(error).await?;
                self.phase = Phase::Rows(self.initial_rows(rows.place()));
                return Ok(None);
            }
        };
        self.phase = Phase::Rows(rows);
        if batch.rows.is_empty() && self.sent_at.elapsed() < self.heartbeat {
            return Ok(None);
        }
        let documents = batch.rows.iter().map(|row| convert::row_to_wire(row, self.format));
        Ok(Some(Event::Rows(v1::RowBatch { table: batch.table, rows: documents.collect::<Result<_>>()? })))
    }

    /// Ends the stream where it has come to its end.
    async fn end(&mut self) -> Result<Option<Event>> {
        self.phase = Phase::Ended;
        Ok(Some(Event::Progress(self.header().await?)))
    }

    fn is_at_end(&self) -> bool {
        self.until.is_some_and(|until| self.position >= until)
    }

    /// Goes on reading files, until the ring has what comes next.
    async fn catch_up(&mut self, way: Option<Box<CatchUp>>) -> Result<Option<Event>> {
        if self.is_at_end() {
            return self.end().await;
        }
        let subscriptions = Arc::clone(self.replica.subscriptions());
        let turn = subscriptions.turn().await;
        // One that stood before tables were taken anew would find their files gone.
        let way = way.filter(|_| self.replica.renewals() == self.renewals || self.out.is_within());
        let mut way = match way {
            Some(way) => way,
            None => {
                self.renewals = self.replica.renewals();
                self.out = Assembler::new(self.format);
                let applied = self.replica.applied().seq;
                self.catching_up_to.get_or_insert(applied);
                if !matches!(self.replica.subscriptions().after(self.position), Next::Behind) {
                    self.phase = Phase::Following(None);
                    return Ok(None);
                }
                let way = (self.position, self.until.map_or(applied, |until| until.min(applied)));
                let way = CatchUp::new(Arc::clone(&self.filter), &self.replica, way, self.images)?;
                Box::new(way)
            }
        };
        let mut out = std::mem::replace(&mut self.out, Assembler::new(self.format));
        let reached;
        (way, out, reached) = blocking(move || {
            let reached = way.step(&mut out);
            (way, out, reached)
        })
        .await?;
        drop(turn);
        self.out = out;
        match reached {
            Ok(reached) => {
                self.gone_through = reached;
                // The subscriber may take its time: what a way holds on to, tables that are old by then, is let go first.
                let kept = !way.is_done() && !self.out.settle();
                self.phase = Phase::CatchingUp(kept.then_some(way));
            }
            Err(error) => {
                self.renew(error).await?;
                self.phase = Phase::CatchingUp(None);
            }
        }
        Ok(None)
    }

    /// Delivers what the ring has, and waits for more.
    async fn follow(&mut self, delivery: Option<Delivery>) -> Result<Option<Event>> {
        if let Some(delivery) = delivery {
            return self.deliver(delivery).await;
        }
        if self.is_at_end() {
            return self.end().await;
        }
        self.phase = Phase::Following(None);
        if self.catching_up_to.take_if(|upto| *upto <= self.position).is_some() {
            return Ok(Some(Event::CaughtUp(self.header().await?)));
        }
        self.head.borrow_and_update();
        match self.replica.subscriptions().after(self.position) {
            Next::Commit(commit) => {
                self.phase = Phase::Following(Some(Delivery::new(commit)));
                Ok(None)
            }
            Next::Behind => self.fall_behind().await,
            Next::AtHead => {
                tokio::select! {
                    // It ends with the replica, which this holds on to.
                    _ = self.head.changed() => {}
                    () = sleep_until(self.sent_at + self.heartbeat) => {}
                    () = self.shutdown.cancelled() => {}
                }
                Ok(None)
            }
        }
    }

    /// Goes back to the files, and says so where the subscriber was told that it follows the head.
    async fn fall_behind(&mut self) -> Result<Option<Event>> {
        self.phase = Phase::CatchingUp(None);
        match self.catching_up_to {
            None => Ok(Some(Event::FellBehind(self.header().await?))),
            Some(_) => Ok(None),
        }
    }

    /// Goes on with a commit of the ring.
    async fn deliver(&mut self, mut delivery: Delivery) -> Result<Option<Event>> {
        let commit: &Arc<LiveCommit> = delivery.commit();
        let seq = commit.info.seq;
        let wanted = self.filter.images(self.images);
        let done = if delivery.is_ready(&self.filter, wanted) {
            delivery.step(&self.filter, self.images, &mut self.out)
        } else {
            // Rows that only files have.
            let subscriptions = Arc::clone(self.replica.subscriptions());
            let _turn = subscriptions.turn().await;
            let mut out = std::mem::replace(&mut self.out, Assembler::new(self.format));
            let (filter, images) = (Arc::clone(&self.filter), self.images);
            let done;
            (delivery, out, done) = blocking(move || {
                let done = delivery.step_resolving(&filter, images, &mut out);
                (delivery, out, done)
            })
            .await?;
            self.out = out;
            done
        };
        match done {
            Ok(true) => {
                self.out.finish_before(seq + 1);
                self.gone_through = seq;
                self.phase = Phase::Following(None);
            }
            Ok(false) => self.phase = Phase::Following(Some(delivery)),
            Err(error) => {
                self.renew(error).await?;
                return self.fall_behind().await;
            }
        }
        Ok(None)
    }

    /// As a stream of messages, as tonic takes it.
    pub fn into_stream(self) -> Answers<v1::WatchDriftResponse> {
        Box::pin(Messages { next: ReusableBoxFuture::new(step(self)), ended: false })
    }
}

/// Runs what may read files where that holds nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|e| Error::new(Reason::Internal, format!("a watch's work ended: {e}")))
}

type Stepped = (Watch, Result<Option<v1::WatchDriftResponse>>);

async fn step(mut watch: Watch) -> Stepped {
    let message = watch.next().await;
    (watch, message)
}

/// The stream of a watch's messages. Its one future is used again for each of them.
struct Messages {
    next: ReusableBoxFuture<'static, Stepped>,
    ended: bool,
}

impl Stream for Messages {
    type Item = Result<v1::WatchDriftResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready((watch, message)) = self.next.poll(cx) else { return Poll::Pending };
        match message {
            Ok(Some(message)) => {
                self.next.set(step(watch));
                Poll::Ready(Some(Ok(message)))
            }
            Ok(None) => {
                self.ended = true;
                Poll::Ready(None)
            }
            Err(error) => {
                self.ended = true;
                Poll::Ready(Some(Err(to_status(error))))
            }
        }
    }
}
