//! Snapshots: taken in the background when enough has happened, or when asked for; merged and thinned as the rule wants it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::key::Key;
use driftdb_common::format::manifest::{LogPosition, Manifest};
use driftdb_common::format::snapshot::{TableChange, kind};
use driftdb_common::format::sortkey;
use driftdb_common::limits;
use driftdb_common::storage::layout::{delta_stem, image_stem, snapshot_files};
use driftdb_common::table::build::index;
use driftdb_common::table::build::merge_policy::{self, MergeTask, RequestsSince};
use driftdb_common::table::build::snapshot::{self, DeltaLimits, ReadLimit};
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::operation::WriteToken;
use driftdb_common::table::table_files::{LayerFile, TableFiles};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::commit::{Commits, Tail};
use crate::requests::Window;

/// When snapshots are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When {
    /// After so many events in a table,
    pub events: u64,
    /// or so many bytes of log.
    pub bytes: u64,
    /// Where all tables together have more bytes in memory, the one with most comes first.
    pub memory: u64,
}

impl Default for When {
    fn default() -> When {
        When {
            events: limits::SNAPSHOT_EVENTS,
            bytes: limits::SNAPSHOT_BYTES,
            memory: limits::MEMTABLE_BYTES,
        }
    }
}

/// How long files that no manifest names any more are left to readers that have not seen the new one.
const GRACE: Duration = Duration::from_secs(2);
/// Between two passes.
const AFTER_A_PASS: Duration = Duration::from_millis(50);
/// After a failure, doubled with each one that follows.
const AFTER_A_FAILURE: Duration = Duration::from_secs(1);
/// The longest wait after failures.
const AT_MOST: Duration = Duration::from_secs(60);
/// A pass comes at least so often: files wait to be removed.
const AT_LEAST: Duration = Duration::from_secs(1);
/// Rows let go of while the lock is held.
const FORGET_AT_ONCE: usize = 1000;

/// Takes snapshots of the tables of an open database.
#[derive(Debug, Clone)]
pub struct Snapshotter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shelf: TableFiles,
    commits: Commits,
    when: When,
    window: Window,
    /// Held while a table's files are being changed: by table id.
    busy: Mutex<HashMap<u64, Arc<Mutex<()>>>>,
    doomed: Mutex<Vec<(Instant, PathBuf)>>,
    /// When a table's retention was last looked at.
    retained: Mutex<HashMap<u64, Instant>>,
}

/// A snapshot that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// The commit it is of.
    pub seq: u64,
    /// Live rows then.
    pub rows: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// How many eras were written for it; none where there was one already.
    pub deltas: u64,
}

impl Snapshotter {
    /// Of a database whose commits these are.
    pub fn new(shelf: TableFiles, commits: Commits, when: When, window: Window) -> Snapshotter {
        let (busy, doomed, retained) = Default::default();
        Snapshotter(Arc::new(Inner { shelf, commits, when, window, busy, doomed, retained }))
    }

    /// Where files are found and opened.
    pub fn shelf(&self) -> &TableFiles {
        &self.0.shelf
    }

    /// The way to the log.
    pub fn commits(&self) -> &Commits {
        &self.0.commits
    }

    /// What is held while a table's files are being changed.
    pub fn lock_of(&self, id: u64) -> Arc<Mutex<()>> {
        Arc::clone(self.0.busy.lock().entry(id).or_default())
    }

    /// Snapshots a table up to the newest commit, and does what the rule wants then. `watch` is told of what has been done,
    /// and may end it.
    pub fn take(&self, id: u64, watch: &dyn Fn(u64) -> Result<()>) -> Result<Taken> {
        let lock = self.lock_of(id);
        let _busy = lock.lock();
        let (_, reach, _) = self.look(id)?;
        let mut taken = Taken::default();
        while self.take_era(id, reach.seq, &mut taken, watch)? {
            // Each time: the next era looks rows up in what there is, which must not grow long.
            self.tend(id, watch)?;
        }
        self.tend(id, watch)?;
        let (manifest, _, chain) = self.look(id)?;
        if taken.deltas == 0 {
            // Nothing has happened since: the last one is it.
            taken.bytes = manifest.deltas.last().map_or(0, |era| era.bytes);
        }
        Ok(Taken { seq: chain.end(), rows: chain.counts().rows, ..taken })
    }

    /// A table's files as they are now.
    pub fn chain(&self, id: u64) -> Result<Arc<LayerMap>> {
        let missing = || Error::new(Reason::TableNotFound, format!("there is no table of id {id}"));
        self.0.commits.chain(id).ok_or_else(missing)
    }

    /// A table's manifest, how far its log may be read, and the files that the manifest names. Asked for with the table's
    /// lock held.
    fn look(&self, id: u64) -> Result<(Manifest, ReadLimit, Arc<LayerMap>)> {
        let (manifest, reach) = self.0.commits.look(id)?;
        let mut chain = self.chain(id)?;
        if !chain.is_of(&manifest) {
            // They were put in place, and could not be opened then. What comes next rests on them.
            chain = Arc::new(self.0.shelf.open(&manifest, Some(&chain))?);
            self.0.commits.adopt(id, &chain);
        }
        Ok((manifest, reach, chain))
    }

    /// Takes the next era, up to a commit. False where there is nothing more.
    pub fn take_era(
        &self,
        id: u64,
        upto: u64,
        taken: &mut Taken,
        watch: &dyn Fn(u64) -> Result<()>,
    ) -> Result<bool> {
        let (manifest, mut reach, chain) = self.look(id)?;
        reach.seq = upto;
        let limits = DeltaLimits { events: self.0.when.events, bytes: self.0.when.bytes };
        let began = Instant::now();
        let era = snapshot::next_era(&self.0.shelf, &manifest, &chain, reach, limits, watch)?;
        let Some(era) = era else { return Ok(false) };
        taken.bytes += era.bytes;
        taken.deltas += 1;
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            table = manifest.table,
            seq = era.seq,
            events = era.events,
            bytes = era.bytes,
            millis,
            "snapshot"
        );
        let held = Tail { events: era.events, bytes: bytes_between(&manifest, era.position) };
        let added = era.clone();
        let (before, after) = self.edit(id, move |manifest| manifest.deltas.push(added.clone()))?;
        self.0.commits.shorten_tail(id, held);
        self.go_over(id, before, &after)?;
        self.forget(id, chain.end())?;
        Ok(true)
    }

    /// Lets go of the rows in memory that the newest era holds.
    fn forget(&self, id: u64, after: u64) -> Result<()> {
        let (_, _, chain) = self.look(id)?;
        let mut commits = chain.commits(after, chain.end(), false);
        let mut keys: Vec<Key> = Vec::with_capacity(FORGET_AT_ONCE);
        while let Some(commit) = commits.next_commit()? {
            for change in commit.entry.changes {
                if let TableChange::Row(bytes) = change
                    && let Some((key, _)) = sortkey::read_key(&bytes, chain.key_type())
                {
                    keys.push(key);
                }
            }
            if keys.len() >= FORGET_AT_ONCE {
                self.0.commits.forget(id, &keys);
                keys.clear();
            }
        }
        self.0.commits.forget(id, &keys);
        Ok(())
    }

    /// Changes which files make up a table, and goes over to them. Those that are no longer named go, after a while.
    pub fn install(&self, id: u64, edit: impl Fn(&mut Manifest) + Send + 'static) -> Result<Manifest> {
        let (before, after) = self.edit(id, edit)?;
        self.go_over(id, before, &after)?;
        Ok(after)
    }

    /// Changes which files make up a table: its manifest before and after.
    fn edit(
        &self,
        id: u64,
        edit: impl Fn(&mut Manifest) + Send + 'static,
    ) -> Result<(Option<Manifest>, Manifest)> {
        let edited = self.0.commits.with_log(move |log| {
            let before = log.manifest(id).cloned();
            let after = log.edit_manifest(id, &mut |manifest| {
                edit(manifest);
                Ok(())
            })?;
            Ok((before, after, log.table_storage(id)))
        })?;
        let (before, after, storage) = edited;
        self.0.commits.stored(id, storage);
        Ok((before, after))
    }

    fn go_over(&self, id: u64, before: Option<Manifest>, after: &Manifest) -> Result<()> {
        let known = self.chain(id)?;
        let chain = Arc::new(self.0.shelf.open(after, Some(&known))?);
        self.0.commits.adopt(id, &chain);
        if let Some(before) = before {
            let kept = snapshot_files(&self.0.shelf.dir, after);
            let gone =
                snapshot_files(&self.0.shelf.dir, &before).into_iter().filter(|file| !kept.contains(file));
            self.doom(gone);
        }
        Ok(())
    }

    /// Files that no manifest names any more: they go once readers have had time to see that.
    pub fn doom(&self, files: impl IntoIterator<Item = PathBuf>) {
        let now = Instant::now();
        let mut doomed = self.0.doomed.lock();
        for file in files {
            if !doomed.iter().any(|(_, other)| *other == file) {
                doomed.push((now, file));
            }
        }
    }

    /// Files that are about to be written again (an index was dropped, and is wanted once more): those before them do not go.
    pub fn spare(&self, files: &[PathBuf]) {
        self.0.doomed.lock().retain(|(_, doomed)| !files.contains(doomed));
    }

    /// Whether something is due for a table that was last done so long ago; then it counts as done now.
    pub fn is_due_again(&self, id: u64, every: Duration, now: Instant) -> bool {
        let mut retained = self.0.retained.lock();
        let due = retained.get(&id).is_none_or(|last| now.duration_since(*last) >= every);
        if due {
            retained.insert(id, now);
        }
        due
    }

    /// Removes the files that have been named by nothing for a while; all of them at the end.
    pub fn sweep(&self, all: bool) {
        // Held to the end: what is spared meanwhile must not be on its way out.
        let mut doomed = self.0.doomed.lock();
        let (gone, kept): (Vec<_>, Vec<_>) =
            doomed.drain(..).partition(|(since, _)| all || since.elapsed() >= GRACE);
        for (_, file) in gone {
            if let Err(error) = self.0.shelf.disk.remove(&file) {
                // The next open removes it.
                tracing::warn!(%error, file = %file.display(), "cannot remove a file that is not needed any more");
            }
        }
        *doomed = kept;
    }

    /// Does what the rule wants for a table: all rows anew, eras merged, indexes made, moments let go of.
    pub fn tend(&self, id: u64, watch: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        loop {
            let (manifest, _, chain) = self.look(id)?;
            let table = (manifest.table.as_str(), id);
            let shelf = &self.0.shelf;
            match merge_policy::next_task(&manifest) {
                Some(MergeTask::ImageLayer) => {
                    let indexes = manifest.deltas.last().map(|era| era.indexes.clone()).unwrap_or_default();
                    let full = snapshot::full(shelf, table, &chain, chain.end(), &indexes, watch)?;
                    tracing::info!(
                        table = table.0,
                        seq = full.seq,
                        rows = full.rows,
                        bytes = full.bytes,
                        "all rows"
                    );
                    self.install(id, move |manifest| manifest.images.push(full.clone()))?;
                }
                Some(MergeTask::Merge(range)) => {
                    let deltas = chain.opened_eras(&manifest, range.clone());
                    let since = self.requests_since();
                    let Some(era) = merge_policy::merge_eras(shelf, table, &deltas, since, watch)? else {
                        return Ok(());
                    };
                    self.install(id, move |manifest| {
                        manifest.deltas.splice(range.clone(), [era.clone()]);
                    })?;
                }
                Some(MergeTask::Drop(at)) => {
                    self.install(id, move |manifest| _ = manifest.images.remove(at))?;
                }
                None => return self.index(id, watch),
            }
        }
    }

    /// The requests that are still asked about: as memory does, counted back from the newest commit, whose time need not
    /// be now.
    pub fn requests_since(&self) -> RequestsSince {
        let Window { commits, millis } = self.0.window;
        let WriteToken { seq, time_ms } = self.0.commits.durable();
        RequestsSince { seq: seq.saturating_sub(commits), time_ms: time_ms.saturating_sub(millis) }
    }

    /// Makes the indexes that the newest schema names and the newest files lack, and lets go of those it does not name.
    fn index(&self, id: u64, watch: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        let schemas = self.0.commits.all_tables(|table| {
            (table.id() == id && table.is_live()).then(|| table.schema().indexes.clone())
        });
        let Some(wanted) = schemas.into_iter().flatten().next() else { return Ok(()) };
        let (manifest, _, chain) = self.look(id)?;
        let (table, shelf) = ((manifest.table.as_str(), id), &self.0.shelf);
        let covered = manifest.images.last().map_or(0, |full| full.seq);
        let mut made: Vec<(u64, u8, String, u64)> = Vec::new();
        for path in &wanted {
            for (snapshot, is_full) in chain.needed_now() {
                if snapshot.index(path).is_some() {
                    continue;
                }
                let before = |key: &[u8], seq: u64| chain.document_before(key, seq);
                self.spare(&[index_file(shelf, &manifest, snapshot, path, is_full)]);
                let bytes = index::build(shelf, table, snapshot, path, is_full, &before, watch)?;
                let kind = if is_full { kind::IMAGE } else { kind::DELTA };
                made.push((snapshot.seq, kind, path.clone(), bytes));
            }
        }
        let unwanted = |indexes: &[String]| indexes.iter().any(|path| !wanted.contains(path));
        let drops = manifest.deltas.iter().any(|era| unwanted(&era.indexes))
            || manifest.images.iter().any(|full| unwanted(&full.indexes));
        if made.is_empty() && !drops {
            return Ok(());
        }
        tracing::info!(table = table.0, covered, made = made.len(), "indexes");
        self.install(id, move |manifest| {
            let deltas = manifest.deltas.iter_mut();
            let deltas = deltas.map(|era| ((era.seq, kind::DELTA), &mut era.indexes, &mut era.bytes));
            let images = manifest.images.iter_mut();
            let images = images.map(|full| ((full.seq, kind::IMAGE), &mut full.indexes, &mut full.bytes));
            for (snapshot, paths, bytes) in deltas.chain(images) {
                let new = made.iter().filter(|(seq, of, ..)| (*seq, *of) == snapshot);
                new.for_each(|(_, _, path, len)| {
                    paths.push(path.clone());
                    *bytes += len;
                });
                paths.retain(|path| wanted.contains(path));
            }
        })?;
        Ok(())
    }

    /// The table that is due a snapshot, if any is: one that has reached the limits, or the one with most where all
    /// together have.
    pub fn due(&self) -> Option<u64> {
        let When { events, bytes, memory } = self.0.when;
        let tails = self.0.commits.tails();
        let largest = tails.iter().max_by_key(|(_, tail)| (tail.events.saturating_mul(1000), tail.bytes))?;
        let all = tails.iter().fold(Tail::default(), |sum, (_, tail)| Tail {
            events: sum.events + tail.events,
            bytes: sum.bytes + tail.bytes,
        });
        let over = |tail: &Tail| tail.events >= events || tail.bytes >= bytes;
        let due = tails.iter().find(|(_, tail)| over(tail)).map(|(id, _)| *id);
        let too_much = all.bytes > memory || all.events > events.saturating_mul(2);
        due.or(Some(largest.0).filter(|_| too_much && largest.1.events > 0))
    }

    /// Makes the indexes that tables lack, and lets go of those that their schemas do not name.
    fn index_all(&self, watch: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        let needs = self.0.commits.all_tables(|table| {
            let wanted = &table.schema().indexes;
            let lacks = table.chain().needed_now().any(|(snapshot, _)| {
                wanted.iter().any(|path| snapshot.index(path).is_none())
                    || snapshot.indexes.iter().any(|(path, _)| !wanted.contains(path))
            });
            (table.is_live() && lacks).then(|| table.id())
        });
        for id in needs.into_iter().flatten() {
            let lock = self.lock_of(id);
            let _busy = lock.lock();
            self.index(id, watch)?;
        }
        Ok(())
    }

    /// Everything that is due.
    fn pass(&self, watch: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        while let Some(id) = self.due() {
            let taken = self.take(id, watch)?;
            if taken.deltas == 0 {
                // Nothing was to be taken: what is due is not in the log yet.
                break;
            }
        }
        self.index_all(watch)?;
        self.retain(watch)?;
        self.sweep(false);
        Ok(())
    }

    /// Does what is due, whenever something may be, until the writer goes down.
    pub async fn run(self, mut grown: mpsc::Receiver<()>, stopping: CancellationToken) {
        let mut wait = AFTER_A_PASS;
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = grown.recv() => {}
                () = tokio::time::sleep(AT_LEAST) => {}
            }
            let (snapshotter, ending) = (self.clone(), stopping.clone());
            let watch = move |_| if ending.is_cancelled() { Err(snapshot::cancelled()) } else { Ok(()) };
            let passed = tokio::task::spawn_blocking(move || snapshotter.pass(&watch)).await;
            let failed = match passed {
                Ok(outcome) => outcome.err(),
                Err(error) => Some(Error::new(Reason::Internal, format!("a snapshot: {error}"))),
            };
            if stopping.is_cancelled() {
                return;
            }
            if let Some(error) = failed {
                // Commits go on; what a snapshot would have let go of stays in memory until one succeeds.
                tracing::error!(%error, "a snapshot failed; it is tried again");
                wait = (wait * 2).clamp(AFTER_A_FAILURE, AT_MOST);
            } else {
                wait = AFTER_A_PASS;
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

/// Bytes of a table's log between where a manifest's snapshots end and a later place.
fn bytes_between(manifest: &Manifest, end: LogPosition) -> u64 {
    let start = manifest.deltas.last().map(|era| era.position).unwrap_or_default();
    let segments = manifest.segments.iter().map(|segment| (segment.number, segment.sealed));
    let passed = segments
        .skip_while(|(number, _)| start.segment != 0 && *number != start.segment)
        .take_while(|(number, _)| *number != end.segment);
    let passed: u64 = passed.filter_map(|(_, sealed)| sealed).map(|seal| seal.bytes).sum();
    (passed + end.offset).saturating_sub(start.offset)
}

/// The file of an index of a snapshot.
fn index_file(
    shelf: &TableFiles,
    manifest: &Manifest,
    snapshot: &LayerFile,
    path: &str,
    is_full: bool,
) -> PathBuf {
    let stem = if is_full { image_stem(snapshot.seq) } else { delta_stem(snapshot.base, snapshot.seq) };
    shelf.dir.index(&manifest.table, path, &stem)
}
