//! What a reader knows: the tables as far as they are applied, and how far that is behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use driftdb_common::error::{Error, Result};
use driftdb_common::format::manifest::{Database, Floor};
use driftdb_common::table::commit_times::CommitTimes;
use driftdb_common::table::timeline::Timeline;
use driftdb_common::table::view::View;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::subscriptions::{LiveCommit, Subscriptions};

/// A look at HEAD may be so long ago before a reader that knows of nothing newer is said to lag.
const QUIET: Duration = Duration::from_secs(2);

/// Tables by name, dropped ones too.
pub type Tables = BTreeMap<String, Arc<Timeline>>;

/// The newest state that this reader shows. A query pins one and reads at one seq.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// The newest applied commit.
    pub seq: u64,
    /// The tables that there are, or were, by then.
    pub tables: Arc<Tables>,
}

/// What the follower's thread tells and requests read.
#[derive(Debug)]
pub struct Replica {
    database: Database,
    moments: CommitTimes,
    applied: ArcSwap<Applied>,
    /// The newest commit that HEAD has told of.
    known_seq: AtomicU64,
    /// When everything that was published had last been applied.
    current_at: Mutex<Instant>,
    /// Why the follower cannot go on, as long as it cannot.
    problem: Mutex<Option<Error>>,
    /// Told of every look at HEAD, so that waiting requests look again.
    looked: watch::Sender<u64>,
    subscriptions: Arc<Subscriptions>,
    /// How often tables have been taken anew from their files, because the old ones were gone.
    renewals: AtomicU64,
    floor: AtomicU64,
}

impl Replica {
    /// A replica that has applied nothing yet.
    pub fn new(database: Database) -> Replica {
        Replica {
            database,
            moments: CommitTimes::default(),
            applied: ArcSwap::default(),
            known_seq: AtomicU64::new(0),
            current_at: Mutex::new(Instant::now()),
            problem: Mutex::new(None),
            looked: watch::Sender::new(0),
            subscriptions: Arc::default(),
            renewals: AtomicU64::new(0),
            floor: AtomicU64::new(0),
        }
    }

    /// What names the database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// When each commit happened.
    pub fn moments(&self) -> &CommitTimes {
        &self.moments
    }

    /// The newest commits for watches, and how many of those there are.
    pub fn subscriptions(&self) -> &Arc<Subscriptions> {
        &self.subscriptions
    }

    /// How often tables have been taken anew. What reads from those of before may find its files gone.
    pub fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::Acquire)
    }

    /// Tells that tables have been taken anew, and are shown.
    pub fn renewed(&self) {
        self.renewals.fetch_add(1, Ordering::AcqRel);
    }

    /// The greatest floor of any table. Below it only the tables say when a commit was: what this reader has seen itself,
    /// before it was compacted away, another does not know (I9).
    pub fn greatest_floor(&self) -> u64 {
        self.floor.load(Ordering::Acquire)
    }

    /// Tells of a table's floor.
    pub fn raise_floor(&self, floor: Option<Floor>) {
        self.floor.fetch_max(floor.map_or(0, |floor| floor.seq), Ordering::AcqRel);
    }

    /// The time of a commit, in milliseconds since 1970; `None` where no table keeps it.
    pub fn time_of(&self, seq: u64, applied: &Applied) -> Result<Option<u64>> {
        if let Some(time) = self.moments.time_of(seq).filter(|_| seq >= self.greatest_floor()) {
            return Ok(Some(time));
        }
        for timeline in applied.tables.values() {
            if let Some(time) = timeline.time_of(seq)? {
                return Ok(Some(time));
            }
        }
        Ok(None)
    }

    /// Whether [`Replica::time_of`] tells a commit's time without a look at files.
    pub fn remembers(&self, seq: u64) -> bool {
        seq >= self.greatest_floor() && self.moments.time_of(seq).is_some()
    }

    /// The last commit at or before a time, over all tables, of those that are kept; 0 for none.
    pub fn seq_at(&self, time_ms: u64, applied: &Applied) -> Result<u64> {
        if let Some(seq) = self.moments.at(time_ms, applied.seq).filter(|seq| *seq >= self.greatest_floor()) {
            return Ok(seq);
        }
        let mut last = 0;
        for timeline in applied.tables.values() {
            last = last.max(timeline.last_at(time_ms)?);
        }
        Ok(last.min(applied.seq))
    }

    /// The newest state that is shown.
    pub fn applied(&self) -> Arc<Applied> {
        self.applied.load_full()
    }

    /// The newest commit that HEAD has told of.
    pub fn known_seq(&self) -> u64 {
        self.known_seq.load(Ordering::Acquire)
    }

    /// How long ago everything published had last been applied.
    pub fn staleness(&self) -> Duration {
        self.current_at.lock().elapsed()
    }

    /// How far behind it is: nothing where all that HEAD tells of is applied, and HEAD can be read.
    pub fn lag(&self) -> Duration {
        let staleness = self.staleness();
        let has_all = self.applied.load().seq >= self.known_seq() && self.problem.lock().is_none();
        if has_all && staleness <= QUIET { Duration::ZERO } else { staleness }
    }

    /// Why the follower cannot go on.
    pub fn problem(&self) -> Option<Error> {
        self.problem.lock().clone()
    }

    /// Notices of looks at HEAD.
    pub fn looks(&self) -> watch::Receiver<u64> {
        self.looked.subscribe()
    }

    /// Shows a newer state, and what made it so as far as it was read from the log.
    pub fn publish(&self, applied: Applied, commits: impl IntoIterator<Item = LiveCommit>) {
        let seq = applied.seq;
        self.applied.store(Arc::new(applied));
        self.subscriptions.extend(commits, seq);
    }

    /// Tells of a commit that HEAD knows.
    pub fn know(&self, seq: u64) {
        self.known_seq.fetch_max(seq, Ordering::AcqRel);
    }

    /// Tells the outcome of a look at HEAD, which began at `began`.
    pub fn looked(&self, began: Instant, problem: Option<Error>) {
        if problem.is_none() && self.applied.load().seq >= self.known_seq() {
            *self.current_at.lock() = began;
        }
        *self.problem.lock() = problem;
        self.looked.send_modify(|looks| *looks = looks.wrapping_add(1));
    }
}

impl Applied {
    /// A table by its name, which must have existed by then.
    pub fn table(&self, name: &str) -> Result<&Arc<Timeline>> {
        let found = self.tables.get(name);
        found.ok_or_else(|| Error::unknown_table(name, self.tables.keys().map(String::as_str)))
    }

    /// A table's state after a commit.
    pub fn view(&self, name: &str, seq: u64) -> Result<View> {
        View::at(self.table(name)?, seq)
    }
}
