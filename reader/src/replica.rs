//! The replica: the tables as far as this reader has applied them, and how far that is behind HEAD.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::lineage::Lineage;
use driftdb_common::format::manifest::{Database, Floor};
use driftdb_common::service::access::caller::Caller;
use driftdb_common::table::commit_times::CommitTimes;
use driftdb_common::table::damaged_files::DamagedFiles;
use driftdb_common::table::timeline::Timeline;
use driftdb_common::work;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::live_commit::LiveCommit;
use crate::subscriptions::Subscriptions;
use crate::table_names::TableNames;

/// A reader that has applied every commit of the HEAD it read counts as lagging if its last HEAD check is older than this.
const MAX_CHECK_AGE: Duration = Duration::from_secs(2);

/// The newest state that this reader serves. A query pins one state and reads it at one seq.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// The newest applied commit.
    pub seq: u64,
    /// The tables by the names of their directories, including dropped ones.
    pub tables: Arc<BTreeMap<String, Arc<Timeline>>>,
    /// The same tables by the names that they have had.
    pub names: Arc<TableNames>,
}

impl Applied {
    /// The table that a name means after a commit, as [`TableNames::find`] says. A name that the caller may not see means none.
    pub fn table_at(&self, name: &str, seq: u64, caller: &Caller) -> Result<&Arc<Timeline>> {
        let found = match caller.may_see(name) {
            true => self.names.find(name, (seq, self.seq), |name| caller.may_see(name)),
            false => Err(Error::unknown_table(name, [])),
        };
        match found {
            Err(error) => Err(self.suggest_table(error, caller)?),
            found => found,
        }
    }

    /// The error of an unknown table with the nearest name of those that the caller may see. Other errors stay as they are.
    pub fn suggest_table(&self, error: Error, caller: &Caller) -> Result<Error> {
        if error.reason() != Reason::TableNotFound || error.metadata().contains_key("seq") {
            return Ok(error);
        }
        // It compares all names.
        let names = self.names.all();
        work::step(u32::try_from(names.len().saturating_mul(256)).unwrap_or(u32::MAX))?;
        Ok(error.suggesting(names.filter(|name| caller.lists(name))))
    }

    /// The tables, dropped ones too, of which the caller may see a name.
    pub fn tables_for<'a>(&'a self, caller: &'a Caller) -> impl Iterator<Item = &'a Arc<Timeline>> + Clone {
        let is_visible =
            |table: &&Arc<Timeline>| caller.is_admin() || table.names().iter().any(|name| caller.lists(name));
        self.tables.values().filter(is_visible)
    }

    /// A table by its id.
    pub fn table_by_id(&self, id: u64) -> Option<&Arc<Timeline>> {
        self.tables.values().find(|table| table.id() == id)
    }

    /// Adds tables, each with the name of its directory, or puts them in the place of those that they were.
    pub fn add_tables(&mut self, new: impl IntoIterator<Item = (String, Arc<Timeline>)>) {
        for (directory, timeline) in new {
            Arc::make_mut(&mut self.names).add(&timeline);
            Arc::make_mut(&mut self.tables).insert(directory, timeline);
        }
    }
}

/// The state that the follower's thread writes and that requests read.
#[derive(Debug)]
pub struct Replica {
    database: Database,
    commit_times: CommitTimes,
    applied: ArcSwap<Applied>,
    /// The newest commit in HEAD, as of the last HEAD check.
    head_seq: AtomicU64,
    /// The start of the last HEAD check after which everything in HEAD was applied. `None` if HEAD is that of a bucket which has not
    /// answered yet, and may be of any age.
    caught_up_at: Mutex<Option<Instant>>,
    /// Why the last HEAD check failed; `None` if it succeeded.
    problem: Mutex<Option<Error>>,
    /// The number of HEAD checks. Wakes requests that wait for a newer state.
    head_checks: watch::Sender<u64>,
    subscriptions: Arc<Subscriptions>,
    /// How often the follower replaced a table by one that it read again from files.
    table_reloads: AtomicU64,
    /// The greatest floor of any table.
    max_floor: AtomicU64,
    lineage: ArcSwap<Lineage>,
    /// Why the history of this replica is lost.
    loss: OnceLock<Error>,
    /// Cancelled when the history is lost.
    lost: CancellationToken,
    /// Whether the storage may show old states.
    is_view_stale: bool,
    damaged_files: DamagedFiles,
    /// Why newer layers of a table could not be opened, by the table's name.
    failed_adoptions: Mutex<BTreeMap<String, Error>>,
}

impl Replica {
    /// A replica that has applied nothing yet. `is_view_stale`: whether the storage may show old states.
    pub fn new(database: Database, is_view_stale: bool) -> Replica {
        Replica {
            database,
            commit_times: CommitTimes::default(),
            applied: ArcSwap::default(),
            head_seq: AtomicU64::new(0),
            caught_up_at: Mutex::new(Some(Instant::now())),
            problem: Mutex::new(None),
            head_checks: watch::Sender::new(0),
            subscriptions: Arc::default(),
            table_reloads: AtomicU64::new(0),
            max_floor: AtomicU64::new(0),
            damaged_files: DamagedFiles::default(),
            failed_adoptions: Mutex::default(),
            lineage: ArcSwap::default(),
            loss: OnceLock::new(),
            lost: CancellationToken::new(),
            is_view_stale,
        }
    }

    /// The incarnations of this replica's history.
    pub fn lineage(&self) -> Arc<Lineage> {
        self.lineage.load_full()
    }

    /// Whether the storage may show old states.
    pub fn is_view_stale(&self) -> bool {
        self.is_view_stale
    }

    /// Records the incarnations of this replica's history.
    pub fn set_lineage(&self, lineage: &Arc<Lineage>) {
        if !Arc::ptr_eq(&self.lineage.load(), lineage) {
            self.lineage.store(Arc::clone(lineage));
        }
    }

    /// Ends this replica, because its history is lost, and wakes everyone who waits for it.
    pub fn lose(&self, error: Error) {
        // A replica is lost once.
        let _ = self.loss.set(error);
        self.lost.cancel();
        self.head_checks.send_modify(|checks| *checks = checks.wrapping_add(1));
    }

    /// Why the history of this replica is lost; `None` if it is not.
    pub fn loss(&self) -> Option<&Error> {
        self.loss.get()
    }

    /// Waits until the history of this replica is lost.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// The layer and index files that this reader does without.
    pub fn damaged_files(&self) -> &DamagedFiles {
        &self.damaged_files
    }

    /// Records why newer layers of a table cannot be opened; `None` if they can be.
    pub fn note_adoption(&self, table: &str, failure: Option<Error>) {
        let mut failed = self.failed_adoptions.lock();
        match failure {
            Some(error) => _ = failed.insert(table.to_owned(), error),
            None => _ = failed.remove(table),
        }
    }

    /// What the follower fails to do and retries, one line each.
    pub fn problems(&self) -> Vec<String> {
        let failed = self.failed_adoptions.lock();
        let adoptions = failed.iter().map(|(table, error)| {
            format!("cannot open newer snapshots of table {table:?}: {error}; retrying")
        });
        let follows = self.problem().map(|problem| format!("cannot follow the log: {problem}; retrying"));
        follows.into_iter().chain(adoptions).collect()
    }

    /// The identity of the database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The times of the commits that this reader applied from the log.
    pub fn commit_times(&self) -> &CommitTimes {
        &self.commit_times
    }

    /// The newest commits for watches, and the watches.
    pub fn subscriptions(&self) -> &Arc<Subscriptions> {
        &self.subscriptions
    }

    /// How often the follower replaced a table by one that it read again from files.
    ///
    /// A caller that holds a table from before the last reload may find that its files are gone.
    pub fn table_reloads(&self) -> u64 {
        self.table_reloads.load(Ordering::Acquire)
    }

    /// Counts a reload, once the replaced tables are published.
    pub fn count_table_reload(&self) {
        self.table_reloads.fetch_add(1, Ordering::AcqRel);
    }

    /// The greatest floor of any table. Below this floor, commit times come only from table files: a time that this reader
    /// remembers from before the compaction is unknown to other readers, and all readers must answer alike (I9).
    fn max_floor(&self) -> u64 {
        self.max_floor.load(Ordering::Acquire)
    }

    /// Takes a table's floor into account.
    pub fn raise_floor(&self, floor: Option<Floor>) {
        self.max_floor.fetch_max(floor.map_or(0, |floor| floor.seq), Ordering::AcqRel);
    }

    /// The time of a commit in milliseconds since 1970; `None` if no table keeps the commit.
    pub fn time_of(&self, seq: u64, applied: &Applied) -> Result<Option<u64>> {
        if let Some(time) = self.commit_times.time_of(seq).filter(|_| seq >= self.max_floor()) {
            return Ok(Some(time));
        }
        for timeline in applied.tables.values() {
            if let Some(time) = timeline.time_of(seq)? {
                return Ok(Some(time));
            }
        }
        Ok(None)
    }

    /// Whether [`Replica::time_of`] finds a commit's time without reading files.
    pub fn has_time_in_memory(&self, seq: u64) -> bool {
        seq >= self.max_floor() && self.commit_times.time_of(seq).is_some()
    }

    /// The last retained commit of any table at or before a time; 0 if there is none.
    pub fn seq_at(&self, time_ms: u64, applied: &Applied) -> Result<u64> {
        let in_memory = self.commit_times.last_at(time_ms, applied.seq);
        if let Some(seq) = in_memory.filter(|seq| *seq >= self.max_floor()) {
            return Ok(seq);
        }
        let mut last = 0;
        for timeline in applied.tables.values() {
            last = last.max(timeline.last_at(time_ms)?);
        }
        Ok(last.min(applied.seq))
    }

    /// The newest state that this reader serves.
    pub fn applied(&self) -> Arc<Applied> {
        self.applied.load_full()
    }

    /// The newest commit in HEAD, as of the last HEAD check.
    pub fn head_seq(&self) -> u64 {
        self.head_seq.load(Ordering::Acquire)
    }

    /// The time since this reader had applied everything in HEAD.
    pub fn staleness(&self) -> Duration {
        self.caught_up_at.lock().map_or(Duration::MAX, |at| at.elapsed())
    }

    /// How far this reader is behind: zero if everything in HEAD is applied and HEAD was readable recently.
    pub fn lag(&self) -> Duration {
        let staleness = self.staleness();
        let has_all = self.applied.load().seq >= self.head_seq() && self.problem.lock().is_none();
        if has_all && staleness <= MAX_CHECK_AGE { Duration::ZERO } else { staleness }
    }

    /// Why the last HEAD check failed; `None` if it succeeded.
    pub fn problem(&self) -> Option<Error> {
        self.problem.lock().clone()
    }

    /// A receiver that changes after each HEAD check.
    pub fn head_checks(&self) -> watch::Receiver<u64> {
        self.head_checks.subscribe()
    }

    /// Serves a newer state from now on. `commits` are the commits that led to it, as far as they came from the log.
    pub fn publish(&self, applied: Applied, commits: impl IntoIterator<Item = LiveCommit>) {
        let seq = applied.seq;
        self.applied.store(Arc::new(applied));
        self.subscriptions.extend(commits, seq);
    }

    /// Records the newest commit in HEAD.
    pub fn raise_head_seq(&self, seq: u64) {
        self.head_seq.fetch_max(seq, Ordering::AcqRel);
    }

    /// Records the outcome of a HEAD check, and wakes the requests that wait for one.
    pub fn finish_head_check(&self, current_at: Option<Instant>, problem: Option<Error>) {
        let has_all = problem.is_none() && self.applied.load().seq >= self.head_seq();
        if has_all || current_at.is_none() {
            *self.caught_up_at.lock() = current_at;
        }
        *self.problem.lock() = problem;
        self.head_checks.send_modify(|checks| *checks = checks.wrapping_add(1));
    }
}
