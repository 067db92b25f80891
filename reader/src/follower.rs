//! The follower: reads HEAD and the frames that HEAD made durable, and applies whole commits in order.
//!
//! The follower takes no lock, so the writer may compact a table or replace its files at any time, and a network file system
//! may show an old state of any file. A HEAD check therefore trusts nothing that it cannot verify, and a check that fails
//! leaves the applied state as it is: the next check tries again. If files that the follower still needs are gone, it reads
//! one table again from its newest snapshot ([`Follower::reload_table`]), or restarts with all tables from their newest
//! snapshots ([`Follower::restart_from_snapshots`]). It never skips a frame and never publishes part of a commit.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::event::EventType;
use driftdb_common::format::head::TableEntry;
use driftdb_common::format::manifest::Manifest;
use driftdb_common::storage::foreign_files::check_no_foreign_files;
use driftdb_common::storage::fs::FileId;
use driftdb_common::storage::head::Head;
use driftdb_common::storage::head_reader::{FoundHead, HeadReader};
use driftdb_common::storage::layout;
use driftdb_common::storage::wal::commit_reader::{CommitReader, LogCommit};
use driftdb_common::storage::wal::cursor::{CursorPosition, LogCursor};
use driftdb_common::table::memtable::CommitInfo;
use driftdb_common::table::table_files::TableFiles;
use driftdb_common::table::timeline::Timeline;

use crate::bucket_mirror::{BucketState, Currency};
use crate::follower::continuity::FollowedHistory;
use crate::follower::staleness::StaleViewTolerance;
use crate::live_commit::LiveCommit;
use crate::replica::{Applied, Replica};
use crate::replica_slot::ReplicaSlot;

mod adoption;
mod continuity;
mod read_limits;
mod staleness;

pub use staleness::read_patience;

/// While catching up, the number of commits between two published states. Requests that wait for a commit see progress.
const PUBLISH_EVERY: u64 = 10_000;

/// How often a reader that found damage reads everything again. What a new reader would serve, this one serves then as well.
const DAMAGE_RESTART_PAUSE: Duration = Duration::from_secs(30);

/// How long a reader that opens a database retries while files are replaced.
const FIRST_CHECK_LIMIT: Duration = Duration::from_secs(10);

/// Follows one data directory. Takes no lock and writes nothing.
#[derive(Debug)]
pub struct Follower {
    files: TableFiles,
    heads: HeadReader,
    commits: CommitReader,
    /// The tables by id.
    tables: HashMap<u64, FollowedTable>,
    /// The last HEAD whose entries were all applied to the read limits, if nothing was read again since.
    raised: Option<Arc<Head>>,
    /// The tables that may have to be published or may have newer layers to adopt, by id.
    unsettled: HashSet<u64>,
    /// How much damage reads had found when it was last dealt with.
    damage_seen: u64,
    /// Nothing has been applied since the follower started or restarted, so tables may be opened at their newest snapshots.
    starting: bool,
    history: FollowedHistory,
    /// The data directory itself. Another one at the same path has other files of the same names.
    root: Option<FileId>,
    /// The data directory at the path is another one than at the last [`Follower::take_directory_change`].
    is_directory_changed: bool,
    /// When everything was last read again because of damage.
    damage_restart: Option<Instant>,
    /// Why a commit could not be applied. The state after that commit is unknown, so nothing later may be published.
    failure: Option<Error>,
    /// A table is being read again from its newest snapshot, and may still be behind the published state.
    reloading: bool,
    /// Applied commits that watches have not seen yet.
    unpublished: Vec<LiveCommit>,
    tolerance: StaleViewTolerance,
    /// How current the directory itself is, if it follows a bucket.
    bucket: Option<Arc<BucketState>>,
    /// The replica of the history that is followed.
    replica: Arc<Replica>,
    /// The replica that is served: that of a lost history until the next one is loaded.
    slot: Arc<ReplicaSlot>,
}

/// A table as far as the follower has seen it.
#[derive(Debug)]
struct FollowedTable {
    timeline: Arc<Timeline>,
    manifest: Manifest,
    /// The table's entry in the newest HEAD seen.
    entry: TableEntry,
    /// HEAD has an entry for the table, so its creation is durable.
    in_head: bool,
    /// The version of the manifest whose layers the timeline uses.
    installed_version: u64,
    /// Newer layers could not be opened.
    failed_adoption: Option<FailedAdoption>,
}

/// Newer layers of a table that could not be opened.
#[derive(Debug)]
struct FailedAdoption {
    reason: Reason,
    next_try: Instant,
}

impl Follower {
    /// A follower that has applied nothing yet. Fails if the directory contains no database.
    pub fn open(files: TableFiles) -> Result<Follower> {
        let database = layout::read_database(&*files.fs, &files.dir)?;
        if database.is_none() {
            check_no_foreign_files(&*files.fs, &files.dir)?;
        }
        let database = database.ok_or_else(|| {
            let message = format!(
                "cannot open {}: it contains no database; start driftdb-writer or run `driftctl init` first",
                files.dir.root().display()
            );
            Error::new(Reason::Unreachable, message)
        })?;
        let tolerance = StaleViewTolerance::for_storage(&files);
        let replica = Arc::new(Replica::new(database, !tolerance.limit().is_zero()));
        Ok(Follower {
            history: FollowedHistory::new(tolerance.limit()),
            root: files.fs.file_id(files.dir.root()).ok().flatten(),
            is_directory_changed: false,
            slot: ReplicaSlot::new(Arc::clone(&replica)),
            tolerance,
            heads: HeadReader::new(&files.fs, &files.dir),
            files,
            commits: CommitReader::new(0),
            tables: HashMap::new(),
            raised: None,
            unsettled: HashSet::new(),
            damage_seen: 0,
            starting: true,
            damage_restart: None,
            failure: None,
            reloading: false,
            unpublished: Vec::new(),
            bucket: None,
            replica,
        })
    }

    /// The same follower, of a directory that follows a bucket: it is at most as current as the directory.
    #[must_use]
    pub fn behind(self, bucket: Option<Arc<BucketState>>) -> Follower {
        Follower { bucket, ..self }
    }

    /// The replica that the follower updates.
    #[cfg(test)]
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// What requests read.
    pub fn slot(&self) -> &Arc<ReplicaSlot> {
        &self.slot
    }

    /// The path of the data directory.
    pub fn directory(&self) -> &Path {
        self.files.dir.root()
    }

    /// Returns whether another directory has taken the place of the data directory since the last call.
    pub fn take_directory_change(&mut self) -> bool {
        std::mem::take(&mut self.is_directory_changed)
    }

    /// The first HEAD check. Repeats it at `interval` as long as the storage may show an old state, and for a while if files
    /// were replaced meanwhile: the writer may be creating and compacting tables.
    pub fn wait_for_first_check(&mut self, interval: Duration) -> Result<()> {
        let (mut logged, started_at) = (false, Instant::now());
        loop {
            match self.check_head() {
                Err(error)
                    if error.reason() == Reason::ReplicaBehind
                        || (error.reason() == Reason::FileGone
                            && started_at.elapsed() < FIRST_CHECK_LIMIT) =>
                {
                    if !std::mem::replace(&mut logged, true) {
                        tracing::warn!(%error, "waiting for the storage");
                    }
                    std::thread::sleep(interval);
                }
                outcome => return outcome,
            }
        }
    }

    /// Reads HEAD and applies what is newly durable. After an error the applied state is unchanged, and the next check tries
    /// again. If the history is lost, starts over with the one that has taken its place.
    pub fn check_head(&mut self) -> Result<()> {
        let outcome = self.check_followed_head();
        match outcome {
            Err(error) if error.reason() == Reason::EpochChanged => {
                self.start_over(&error);
                self.check_followed_head()
            }
            outcome => outcome,
        }
    }

    /// Drops the history that was followed. Its replica is not served any more, and the next HEAD check reads another one.
    fn start_over(&mut self, error: &Error) {
        if self.replica.loss().is_none() && self.slot.serves(&self.replica) {
            tracing::error!(%error, "the history that this reader served is lost; it starts over");
            self.slot.count_loss(error.message());
            self.replica.lose(error.clone());
        }
        let database = match layout::read_database(&*self.files.fs, &self.files.dir) {
            Ok(Some(database)) => database,
            // The next HEAD check finds out, and starts over again.
            _ => self.replica.database().clone(),
        };
        self.replica = Arc::new(Replica::new(database, self.replica.is_view_stale()));
        self.history = self.history.start_over();
        self.failure = None;
        self.restart_from_snapshots();
    }

    fn check_followed_head(&mut self) -> Result<()> {
        let started_at = Instant::now();
        let outcome = self.try_check_head().or_else(|_| {
            // A file may have been stale, or a manifest newer than HEAD: try once more with all files opened again.
            self.commits.refresh();
            if self.starting {
                self.restart_from_snapshots();
            }
            // The creation of a table that HEAD does not contain may have failed, and its id or name may be reused.
            self.tables.retain(|_, table| table.in_head);
            self.tables.values_mut().for_each(|table| table.entry = TableEntry::default());
            self.raised = None;
            self.try_check_head()
        });
        let outcome = self.tolerance.classify(outcome);
        if outcome.as_ref().is_err_and(|error| error.reason() == Reason::Corrupt) {
            self.restart_after_damage();
        }
        let (current_at, problem) = match &self.bucket {
            None => (Some(started_at), None),
            Some(bucket) => {
                let Currency { current_at, problem, .. } = bucket.currency();
                (current_at.map(|at| at.min(started_at)), problem)
            }
        };
        let problem = outcome.as_ref().err().cloned().or(problem);
        self.replica.finish_head_check(current_at, problem);
        if outcome.is_ok() && !self.slot.serves(&self.replica) {
            self.slot.install(&self.replica);
            tracing::info!(seq = self.replica.applied().seq, "serving the history that is there now");
        }
        outcome
    }

    /// Restarts from snapshots if nothing else helped: they may contain what is damaged.
    fn restart_after_damage(&mut self) {
        let pauses = self.damage_restart.is_some_and(|last| last.elapsed() < DAMAGE_RESTART_PAUSE);
        if self.failure.is_none() && !self.starting && !pauses {
            self.damage_restart = Some(Instant::now());
            self.restart_from_snapshots();
        }
    }

    /// Drops everything that was read, so that the next HEAD check starts at the newest snapshots. The published state stays.
    fn restart_from_snapshots(&mut self) {
        self.commits = CommitReader::new(0);
        self.tables.clear();
        self.unsettled.clear();
        self.raised = None;
        self.reloading = false;
        self.unpublished.clear();
        self.replica.subscriptions().clear();
        self.starting = true;
    }

    fn try_check_head(&mut self) -> Result<()> {
        self.notice_directory_change();
        let mut head = self.read_head()?;
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        if self.starting {
            self.discover_tables()?;
            // The writer publishes commits before it snapshots them: a HEAD read after the snapshots must contain them.
            head = self.read_head()?;
            if head.last_seq() < self.commits.assumed_whole() {
                let what = format!(
                    "its newest commit is {}, but snapshots contain commit {}",
                    head.last_seq(),
                    self.commits.assumed_whole()
                );
                return Err(Error::corrupt(self.files.dir.head().display(), 0, what));
            }
        }
        self.replica.raise_head_seq(head.last_seq());
        self.raise_read_limits(&head)?;
        let applied = self.apply_commits();
        if applied.is_ok() {
            self.check_durable_frames(&head)?;
            self.set_aside_found_damage()?;
        }
        applied
    }

    /// Reads HEAD. Fails with EPOCH_CHANGED unless HEAD contains what was applied.
    fn read_head(&mut self) -> Result<Arc<Head>> {
        let dir = &self.files.dir;
        let Some(FoundHead { head, damage }) = self.heads.read()? else {
            return Err(Error::file_gone(dir.head().display(), "check that the storage is mounted"));
        };
        self.note_head_damage(damage);
        let database = self.replica.database();
        if head.header.database_id != *database.id.as_bytes() || head.header.epoch != database.epoch {
            let message = format!(
                "another database, or a later epoch of this one, has replaced the one in {} that this reader followed",
                dir.root().display()
            );
            return Err(Error::new(Reason::EpochChanged, message));
        }
        self.history.accept(&self.files, &head, self.replica.applied().seq)?;
        self.replica.set_lineage(self.history.lineage());
        Ok(head)
    }

    /// Files that were read after HEAD may be another history's, if it took the place of this one meanwhile. So nothing that was
    /// read is published before HEAD is read once more. If HEAD cannot be read now, nothing shows that the history is lost.
    fn confirm_history(&mut self) -> Result<()> {
        match self.read_head() {
            Err(error) if error.reason() == Reason::EpochChanged => Err(error),
            _ => Ok(()),
        }
    }

    /// If the data directory is another one, all files are opened again: an open file may be one of the old directory.
    fn notice_directory_change(&mut self) {
        let root = self.files.fs.file_id(self.files.dir.root()).ok().flatten();
        if root.is_some() && std::mem::replace(&mut self.root, root) != root {
            self.is_directory_changed = true;
            self.restart_from_snapshots();
        }
    }

    /// Adds the tables that were created since the last call.
    fn discover_tables(&mut self) -> Result<()> {
        // A set: with thousands of tables, each new one would otherwise cost millions of comparisons.
        let known: HashSet<String> = self.tables.values().map(|table| table.manifest.table.clone()).collect();
        let names = layout::table_names(&*self.files.fs, &self.files.dir)?;
        for name in names.into_iter().filter(|name| !known.contains(name)) {
            // A table in creation has no manifest yet, or one that HEAD does not name yet.
            let Some(manifest) = layout::read_manifest(&*self.files.fs, &self.files.dir, &name)? else {
                continue;
            };
            let applied = self.commits.next_seq() - 1;
            let from_snapshots =
                manifest.deltas.last().is_some_and(|layer| self.starting || layer.seq <= applied);
            if !from_snapshots && manifest.floor.is_some() {
                self.restart_from_snapshots();
                return Err(compacted(&name));
            }
            self.add_table(manifest, from_snapshots)?;
        }
        Ok(())
    }

    /// Adds a table, to be read from its newest snapshot or from the start of its log.
    fn add_table(&mut self, manifest: Manifest, from_snapshots: bool) -> Result<()> {
        self.replica.raise_floor(manifest.floor);
        let (id, name) = (manifest.table_id, manifest.table.clone());
        let mut cursor = LogCursor::new(Arc::clone(&self.files.fs), &self.files.dir, &name, id);
        let (mut timeline, mut last_seq, mut installed_version) =
            (Timeline::new(id, manifest.table_name()), 0, 0);
        if from_snapshots && !manifest.deltas.is_empty() {
            let (opened, sound) = self.open_timeline(&manifest)?;
            (timeline, installed_version) = (opened, manifest.version);
            if let Some(layer) = sound.deltas.last() {
                cursor = cursor.starting_at(CursorPosition::from_log_position(&layer.position));
                last_seq = layer.seq;
            }
            if self.starting && manifest.published > self.commits.assumed_whole() {
                self.commits.assume_whole(manifest.published);
                // After a restart, the times up to the published state are already known.
                if manifest.published > self.replica.applied().seq {
                    self.replica.commit_times().push(manifest.published, manifest.published_ms);
                }
            }
        }
        self.commits.add_table(id, cursor, last_seq);
        self.raised = None;
        self.unsettled.insert(id);
        let (timeline, entry) = (Arc::new(timeline), TableEntry::default());
        self.tables.insert(
            id,
            FollowedTable {
                timeline,
                manifest,
                entry,
                in_head: false,
                installed_version,
                failed_adoption: None,
            },
        );
        Ok(())
    }

    /// Applies all complete commits within the read limits, and publishes the state after the last.
    fn apply_commits(&mut self) -> Result<()> {
        let mut applied = Applied::clone(&self.replica.applied());
        let mut published = applied.seq;
        let outcome = loop {
            match self.commits.next_commit() {
                Ok(Some(commit)) => {
                    if let Err(error) = self.apply_commit(&mut applied, commit) {
                        if matches!(error.reason(), Reason::FileGone | Reason::Io)
                            || self.set_aside_for_restart(&error)
                        {
                            // A layer was replaced while it was read, could not be read, or is damaged: the next check
                            // starts again at the newest layers that are sound.
                            self.restart_from_snapshots();
                        } else {
                            self.failure = Some(error.clone());
                        }
                        return Err(error);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
            if self.is_consistent(&applied) && applied.seq >= published + PUBLISH_EVERY {
                self.confirm_history()?;
                self.publish(&mut applied);
                published = applied.seq;
            }
        };
        let has_invalid_frame = self.commits.invalid_sources().next().is_some();
        if outcome.is_ok() && (self.starting || self.reloading) && !has_invalid_frame {
            // All commits up to here are in snapshots, or have been read after them.
            applied.seq = applied.seq.max(self.commits.next_seq() - 1);
            (self.starting, self.reloading) = (false, false);
        }
        if self.is_consistent(&applied) {
            if applied.seq > self.replica.applied().seq {
                self.confirm_history()?;
            }
            self.publish(&mut applied);
            let outcome = outcome.and(self.adopt_newer_layers(applied.seq));
            self.settle();
            return outcome;
        }
        outcome
    }

    /// Whether all tables have been read up to the applied state. After a restart or a reload some are behind it at first.
    fn is_consistent(&self, applied: &Applied) -> bool {
        !self.starting && !self.reloading && self.commits.next_seq() > applied.seq
    }

    /// Forgets the tables that are published and have adopted the layers of their manifests.
    fn settle(&mut self) {
        let (applied, tables) = (self.replica.applied(), &self.tables);
        self.unsettled.retain(|id| {
            tables.get(id).is_some_and(|table| {
                let published = applied.tables.get(&table.manifest.table);
                let is_published = published.is_some_and(|published| Arc::ptr_eq(published, &table.timeline));
                !is_published || table.installed_version != table.manifest.version
            })
        });
    }

    /// Publishes a state, with all tables that were created up to it.
    fn publish(&mut self, applied: &mut Applied) {
        let is_visible =
            |table: &&FollowedTable| table.in_head && table.timeline.created_seq() <= applied.seq;
        let published = |table: &FollowedTable| applied.tables.get(&table.manifest.table);
        let is_new = |table: &&FollowedTable| {
            let is_published = published(table).is_some_and(|known| Arc::ptr_eq(known, &table.timeline));
            !is_published || !applied.names.has(&table.timeline)
        };
        let is_other = |table: &&FollowedTable| {
            published(table).is_some_and(|known| !Arc::ptr_eq(known, &table.timeline))
        };
        let unsettled = self.unsettled.iter().filter_map(|id| self.tables.get(id));
        let new: Vec<&FollowedTable> = unsettled.filter(is_visible).filter(is_new).collect();
        let reloaded = new.iter().any(is_other);
        let new = new.into_iter().map(|table| (table.manifest.table.clone(), Arc::clone(&table.timeline)));
        applied.add_tables(new.collect::<Vec<_>>());
        self.replica.publish(applied.clone(), self.unpublished.drain(..));
        if reloaded {
            self.replica.count_table_reload();
        }
    }

    fn apply_commit(&mut self, applied: &mut Applied, commit: LogCommit) -> Result<()> {
        // Only the writer needs the request id: a commit without actor and reason needs no metadata here.
        let meta = commit.meta.filter(|meta| !meta.actor.is_empty() || !meta.reason.is_empty());
        let info = Arc::new(CommitInfo { seq: commit.seq, time_ms: commit.time_ms, meta });
        let is_next = info.seq > applied.seq && info.seq > self.commits.assumed_whole();
        let sharing = self.replica.subscriptions().sharing();
        let is_watched = is_next && sharing.watches() > 0;
        let mut live = is_watched.then(|| LiveCommit::new(Arc::clone(&info), sharing));
        for (id, events) in commit.parts {
            let Some(table) = self.tables.get(&id) else { continue };
            if let Some(live) = &mut live {
                live.push(&table.timeline, &events);
            }
            if events.iter().any(|event| event.kind == EventType::Schema) {
                // It may have another name.
                self.unsettled.insert(id);
            }
            table.timeline.apply(&info, events)?;
        }
        if is_next {
            self.replica.commit_times().push(info.seq, info.time_ms);
            applied.seq = info.seq;
            self.unpublished.extend(live);
        }
        Ok(())
    }

    /// Fails if the files lack frames that HEAD says are durable.
    fn check_durable_frames(&self, head: &Head) -> Result<()> {
        for (id, log) in self.commits.invalid_sources() {
            if let Some(error) = log.invalid() {
                let entry = head.entries.iter().find(|entry| entry.table == *id);
                let durable = entry.map_or(0, |entry| entry.bytes);
                let what = format!("{error}; HEAD says that the log is durable up to byte {durable}");
                let cursor = log.cursor();
                return Err(Error::corrupt(cursor.path().display(), cursor.position().offset, what));
            }
        }
        Ok(())
    }
}

fn compacted(table: &str) -> Error {
    Error::new(
        Reason::FileGone,
        format!("the log of table {table:?} was compacted before this reader read it; retry"),
    )
}

#[cfg(test)]
mod adoption_tests;
#[cfg(test)]
mod compaction_tests;
#[cfg(test)]
mod discovery_tests;
#[cfg(test)]
mod freshness_tests;
#[cfg(test)]
mod stale_view_tests;
#[cfg(test)]
mod test_log;
