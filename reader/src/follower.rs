//! The follower: looks at HEAD, reads what is newly durable, and applies whole commits in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::head::TableEntry;
use driftdb_common::format::manifest::Manifest;
use driftdb_common::storage::head::{self, Head};
use driftdb_common::storage::layout;
use driftdb_common::storage::wal::commit_reader::{CommitReader, LogCommit};
use driftdb_common::storage::wal::cursor::{CursorPosition, LogCursor, SegmentSpan};
use driftdb_common::table::memtable::CommitInfo;
use driftdb_common::table::table_files::TableFiles;
use driftdb_common::table::timeline::Timeline;

use crate::follower::patience::Patience;
use crate::replica::{Applied, Replica};
use crate::subscriptions::LiveCommit;

mod patience;

/// Commits applied before they are shown, while catching up: waiting reads see progress.
const SHOW_EVERY: u64 = 10_000;

/// Follows one data directory. Takes no lock and writes nothing.
#[derive(Debug)]
pub struct Follower {
    shelf: TableFiles,
    merge: CommitReader,
    tables: HashMap<u64, Followed>,
    /// Nothing has been applied since the follower began, or began anew: snapshots may be taken for what they hold.
    fresh: bool,
    term: u64,
    /// A commit that could not be applied: the state after it is not known, and nothing later may be shown.
    failed: Option<Error>,
    /// A table is being read again from its newest snapshot on, and may not have come to what is shown yet.
    rereading: bool,
    /// Applied and not shown yet, for watches.
    live: Vec<LiveCommit>,
    patience: Patience,
    replica: Arc<Replica>,
}

/// A table as far as it has been seen.
#[derive(Debug)]
struct Followed {
    timeline: Arc<Timeline>,
    manifest: Manifest,
    slot: TableEntry,
    /// HEAD has named it: it is there to stay.
    named: bool,
    /// The manifest whose snapshots the timeline has gone over to, or cannot go over to.
    adopted: u64,
}

impl Follower {
    /// A follower that has applied nothing yet.
    pub fn open(shelf: TableFiles) -> Result<Follower> {
        let database = layout::read_database(&*shelf.disk, &shelf.dir)?.ok_or_else(|| {
            let message = format!(
                "{} holds no database: start driftdb-writer on it first, or run driftctl init",
                shelf.dir.root().display()
            );
            Error::new(Reason::Unreachable, message)
        })?;
        let replica = Arc::new(Replica::new(database));
        Ok(Follower {
            patience: Patience::with(&shelf),
            shelf,
            merge: CommitReader::new(0),
            tables: HashMap::new(),
            fresh: true,
            term: 0,
            failed: None,
            rereading: false,
            live: Vec::new(),
            replica,
        })
    }

    /// What the follower tells.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// The first look, again every so often as long as what it shows may be stale.
    pub fn first_look(&mut self, every: Duration) -> Result<()> {
        let mut told = false;
        loop {
            match self.look() {
                Err(error) if error.reason() == Reason::ReplicaBehind => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "waiting for the storage");
                    }
                    std::thread::sleep(every);
                }
                outcome => return outcome,
            }
        }
    }

    /// Looks at HEAD and applies what is newly durable. Whatever goes wrong, what is applied stays, and the next look
    /// tries again.
    pub fn look(&mut self) -> Result<()> {
        let began = Instant::now();
        let outcome = self.try_look().or_else(|_| {
            // The view of a file may have been stale, or the manifest newer than HEAD: once more, with everything
            // opened anew. Never skip.
            self.merge.refresh();
            // A table that HEAD has not named may never have come to be, and its number or its name be another's now.
            if self.fresh {
                self.begin_anew();
            }
            self.tables.retain(|_, table| table.named);
            self.tables.values_mut().for_each(|table| table.slot = TableEntry::default());
            self.try_look()
        });
        let outcome = self.patience.judge(outcome);
        self.replica.looked(began, outcome.as_ref().err().cloned());
        outcome
    }

    /// Forgets what was read, so that the next look begins with the newest snapshots. What is shown stays.
    fn begin_anew(&mut self) {
        self.merge = CommitReader::new(0);
        self.tables.clear();
        self.rereading = false;
        self.live.clear();
        self.replica.subscriptions().forget();
        self.fresh = true;
    }

    fn try_look(&mut self) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut head = self.read_head()?;
        if self.fresh {
            self.discover()?;
            // What the newest snapshots rest on has been published: a HEAD read after them tells of it.
            head = self.read_head()?;
            if head.last_seq() < self.merge.assumed_whole() {
                return Err(Error::corrupt(self.shelf.dir.head().display(), 0, "it is older than snapshots"));
            }
        }
        self.term = head.header.term;
        self.replica.know(head.last_seq());
        self.allow(&head)?;
        let applied = self.apply();
        if applied.is_ok() {
            self.complain(&head)?;
        }
        applied
    }

    /// HEAD, where it is of this history and not of a writer before the last one seen.
    fn read_head(&self) -> Result<Head> {
        let TableFiles { disk, dir, .. } = &self.shelf;
        let Some(head) = head::read(&**disk, dir)? else {
            return Err(Error::file_gone(dir.head().display(), "is the storage there?"));
        };
        let database = self.replica.database();
        if head.header.database_id != *database.id.as_bytes() || head.header.epoch != database.epoch {
            let message = format!(
                "{} has another history than the one this reader started with: restart the reader",
                dir.root().display()
            );
            return Err(Error::new(Reason::EpochChanged, message));
        }
        if head.header.term < self.term {
            // An orphan that an old writer still writes to, or a stale view of the directory: what it tells is no news.
            let message = format!("{} is that of an earlier writer", dir.head().display());
            return Err(Error::new(Reason::ReplicaBehind, message));
        }
        Ok(head)
    }

    /// Allows every table's log to be read as far as its slot says.
    fn allow(&mut self, head: &Head) -> Result<()> {
        if head.entries.iter().any(|slot| slot.table != 0 && !self.tables.contains_key(&slot.table)) {
            let known = self.tables.len();
            self.discover()?;
            if self.fresh && self.tables.len() > known {
                // Its snapshots may rest on commits that this HEAD does not know.
                return Err(Error::new(Reason::FileGone, "a table came to be while its database was opened"));
            }
        }
        for slot in head.entries.iter().filter(|slot| slot.table != 0) {
            let Some(table) = self.tables.get(&slot.table) else {
                let what = format!("it names table {}, and no directory is that table's", slot.table);
                return Err(Error::corrupt(self.shelf.dir.head().display(), 0, what));
            };
            let newer_files = slot.manifest > table.manifest.version || table.slot.segment == 0;
            if !newer_files && (table.slot.segment, table.slot.bytes) >= (slot.segment, slot.bytes) {
                continue;
            }
            if newer_files || table.slot.segment != slot.segment {
                self.reread(slot)?;
            }
            self.merge.extend(slot.table, SegmentSpan { segment: slot.segment, end: slot.bytes, seal: None });
            if let Some(table) = self.tables.get_mut(&slot.table) {
                table.slot = *slot;
                table.named = true;
            }
        }
        Ok(())
    }

    /// Reads a table's manifest anew and allows the segments before the active one to be read.
    fn reread(&mut self, slot: &TableEntry) -> Result<()> {
        let Some(table) = self.tables.get(&slot.table) else { return Ok(()) };
        let name = table.timeline.name().to_owned();
        let manifest = layout::read_manifest(&*self.shelf.disk, &self.shelf.dir, &name)?
            .filter(|manifest| manifest.table_id == slot.table && manifest.version >= slot.manifest)
            .ok_or_else(|| {
                Error::corrupt(self.shelf.dir.manifest(&name).display(), 0, "it is older than HEAD")
            })?;
        let at = self.merge.sources().get(&slot.table).map_or(0, |source| source.cursor().position().segment);
        let listed = manifest.segments.iter().position(|segment| segment.number == at);
        if at != 0 && listed.is_none() {
            self.reload(manifest)?;
            return self.reread(slot);
        }
        let upto = manifest.segments.iter().position(|segment| segment.number == slot.segment);
        let (from, upto) = (listed.unwrap_or(0), upto.unwrap_or(manifest.segments.len()));
        for segment in manifest.segments.get(from..upto).unwrap_or_default() {
            let end = segment.sealed.map_or(0, |seal| seal.bytes);
            self.merge.extend(slot.table, SegmentSpan { segment: segment.number, end, seal: segment.sealed });
        }
        if let Some(table) = self.tables.get_mut(&slot.table) {
            table.manifest = manifest;
        }
        Ok(())
    }

    /// Takes a table anew from its newest snapshot, where compaction has taken away the log that was being read.
    fn reload(&mut self, manifest: Manifest) -> Result<()> {
        let applied = self.merge.next_seq() - 1;
        if self.fresh || manifest.deltas.last().is_none_or(|era| era.seq > applied) {
            // This reader is behind the snapshot: so are its other tables, perhaps.
            self.begin_anew();
            return Err(Error::new(Reason::FileGone, "the log was compacted while it was being read"));
        }
        self.merge.assume_whole(applied);
        self.replica.subscriptions().forget();
        self.rereading = true;
        self.add(manifest, true)
    }

    /// Finds the tables that have come to be.
    fn discover(&mut self) -> Result<()> {
        for name in layout::table_names(&*self.shelf.disk, &self.shelf.dir)? {
            if self.tables.values().any(|table| table.timeline.name() == name) {
                continue;
            }
            // One that is being created has no manifest yet, or one that HEAD does not name yet.
            let Some(manifest) = layout::read_manifest(&*self.shelf.disk, &self.shelf.dir, &name)? else {
                continue;
            };
            let applied = self.merge.next_seq() - 1;
            let known = manifest.deltas.last().is_some_and(|era| self.fresh || era.seq <= applied);
            if !known && manifest.floor.is_some() {
                self.begin_anew();
                return Err(Error::new(Reason::FileGone, "a table's log was compacted before it was read"));
            }
            self.add(manifest, known)?;
        }
        Ok(())
    }

    /// Takes a table in: from its snapshots on, or from the start of its log.
    fn add(&mut self, manifest: Manifest, from_snapshots: bool) -> Result<()> {
        self.replica.raise_floor(manifest.floor);
        let (id, name) = (manifest.table_id, manifest.table.clone());
        let mut cursor = LogCursor::new(Arc::clone(&self.shelf.disk), &self.shelf.dir, &name, id);
        let (mut timeline, mut last_seq, mut adopted) = (Timeline::new(id, &*name), 0, 0);
        if from_snapshots && let Some(era) = manifest.deltas.last() {
            timeline = Timeline::open(id, &*name, self.shelf.open(&manifest, None)?)?;
            cursor = cursor.starting_at(CursorPosition::from_log_position(&era.position));
            (last_seq, adopted) = (era.seq, manifest.version);
            if self.fresh && manifest.published > self.merge.assumed_whole() {
                self.merge.assume_whole(manifest.published);
                // Begun anew, it has seen the moments up to what it shows already.
                if manifest.published > self.replica.applied().seq {
                    self.replica.moments().push(manifest.published, manifest.published_ms);
                }
            }
        }
        self.merge.add_table(id, cursor, last_seq);
        let (timeline, slot) = (Arc::new(timeline), TableEntry::default());
        self.tables.insert(id, Followed { timeline, manifest, slot, named: false, adopted });
        Ok(())
    }

    /// Applies every commit that is there and whole, and shows the state after the last.
    fn apply(&mut self) -> Result<()> {
        let mut applied = Applied::clone(&self.replica.applied());
        let mut shown = applied.seq;
        let outcome = loop {
            match self.merge.next_commit() {
                Ok(Some(commit)) => {
                    if let Err(error) = self.apply_commit(&mut applied, commit) {
                        if matches!(error.reason(), Reason::FileGone | Reason::Io) {
                            // A snapshot was replaced while it was being asked, or could not be read just now: from the
                            // newest ones on, at the next look.
                            self.begin_anew();
                        } else {
                            self.failed = Some(error.clone());
                        }
                        return Err(error);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
            let whole = !self.fresh && !self.rereading;
            if whole && applied.seq >= shown + SHOW_EVERY && self.merge.next_seq() > applied.seq {
                self.show(&mut applied);
                shown = applied.seq;
            }
        };
        let unread = self.merge.sources().values().any(|source| source.invalid().is_some());
        if outcome.is_ok() && (self.fresh || self.rereading) && !unread {
            // Everything up to there is in snapshots, or has been read after them.
            applied.seq = applied.seq.max(self.merge.next_seq() - 1);
            (self.fresh, self.rereading) = (false, false);
        }
        // Begun anew, it may still be behind what it has shown.
        if !self.fresh && !self.rereading && self.merge.next_seq() > applied.seq {
            self.show(&mut applied);
            self.adopt(applied.seq);
        }
        outcome
    }

    /// Shows a state, with the tables that there are by then.
    fn show(&mut self, applied: &mut Applied) {
        let shown = |table: &&Followed| table.named && table.timeline.created_seq() <= applied.seq;
        let tables = self.tables.values().filter(shown);
        let is_new = |table: &Followed| {
            let known = applied.tables.get(table.timeline.name());
            known.is_none_or(|known| !Arc::ptr_eq(known, &table.timeline))
        };
        let new: Vec<_> =
            tables.filter(|table| is_new(table)).map(|table| Arc::clone(&table.timeline)).collect();
        let renewed = new.iter().any(|table| applied.tables.contains_key(table.name()));
        if !new.is_empty() {
            let tables = Arc::make_mut(&mut applied.tables);
            tables.extend(new.into_iter().map(|timeline| (timeline.name().to_owned(), timeline)));
        }
        self.replica.publish(applied.clone(), self.live.drain(..));
        if renewed {
            self.replica.renewed();
        }
    }

    /// Goes over to newer snapshots, which lets go of the events that they hold.
    fn adopt(&mut self, applied: u64) {
        for table in self.tables.values_mut() {
            let end = table.manifest.deltas.last().map_or(0, |era| era.seq);
            if table.adopted == table.manifest.version || end > applied {
                continue;
            }
            let state = table.timeline.state();
            self.replica.raise_floor(table.manifest.floor);
            match self.shelf.open(&table.manifest, Some(&state.chain)) {
                Ok(chain) => table.timeline.adopt(chain),
                // Replaced meanwhile: the next look reads the manifest that did.
                Err(error) if error.reason() == Reason::FileGone => continue,
                Err(error) => {
                    // What is in memory goes on serving. The floor counts all the same.
                    tracing::error!(%error, table = table.timeline.name(), "cannot use new snapshots");
                    table.timeline.raise_floor(table.manifest.floor);
                }
            }
            table.adopted = table.manifest.version;
        }
    }

    fn apply_commit(&mut self, applied: &mut Applied, commit: LogCommit) -> Result<()> {
        // What only the writer asks about is not kept.
        let meta = commit.meta.filter(|meta| !meta.actor.is_empty() || !meta.reason.is_empty());
        let info = Arc::new(CommitInfo { seq: commit.seq, time_ms: commit.time_ms, meta });
        let is_next = info.seq > applied.seq && info.seq > self.merge.assumed_whole();
        let followed = is_next && self.replica.subscriptions().watches() > 0;
        let mut live = followed.then(|| LiveCommit::new(Arc::clone(&info)));
        for (id, events) in commit.parts {
            let Some(table) = self.tables.get(&id) else { continue };
            if let Some(live) = &mut live {
                live.push(&table.timeline, &events);
            }
            table.timeline.apply(&info, events)?;
        }
        if is_next {
            self.replica.moments().push(info.seq, info.time_ms);
            applied.seq = info.seq;
            self.live.extend(live);
        }
        Ok(())
    }

    /// Reports what HEAD calls durable and the files do not hold.
    fn complain(&self, head: &Head) -> Result<()> {
        for (id, source) in self.merge.sources() {
            if let Some(error) = source.invalid() {
                let slot = head.entries.iter().find(|slot| slot.table == *id);
                let durable = slot.map_or(0, |slot| slot.bytes);
                let what = format!("{error}; HEAD says that it is durable to byte {durable}");
                let cursor = source.cursor();
                return Err(Error::corrupt(cursor.path().display(), cursor.position().offset, what));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod compacted;
#[cfg(test)]
mod stale;

#[cfg(test)]
mod tests {
    use driftdb_common::format::event::{self, CommitMeta, CommitShape, EventType};
    use driftdb_common::format::key::KeyType;
    use driftdb_common::format::manifest::{self, Segment};
    use driftdb_common::storage::fs::{self, sim::SimDisk};
    use driftdb_common::storage::layout::DataDir;
    use driftdb_common::storage::recovery;
    use driftdb_common::storage::sst::BlockCache;
    use driftdb_common::storage::wal::appender::{Group, Log, LogOptions};
    use driftdb_common::table::schema::{Schema, SchemaAction, SchemaEvent};

    use super::*;

    pub(super) fn dir() -> DataDir {
        DataDir::new("/data")
    }

    pub(super) fn shelf(disk: &SimDisk) -> TableFiles {
        TableFiles { disk: disk.shared(), dir: dir(), cache: BlockCache::new(1 << 20) }
    }

    pub(super) fn open(disk: &SimDisk) -> Log {
        let options = LogOptions { background: false, ..LogOptions::default() };
        recovery::open(disk.shared(), &dir(), options, &mut |_| Ok(())).unwrap()
    }

    /// LogCommit `seq`, which creates a table.
    pub(super) fn create(log: &mut Log, seq: u64, table: &str) {
        let schema = Schema {
            table: table.into(),
            primary_key: "id".into(),
            key_type: KeyType::String,
            indexes: Vec::new(),
            retain_ms: None,
        };
        let document = SchemaEvent { action: SchemaAction::Create, schema }.to_document().unwrap();
        let created = vec![(seq, table.to_owned())];
        let mut group = Group { created, last_seq: seq, last_ms: seq, ..Group::default() };
        let frames = group.tables.entry(seq).or_default();
        frames.last_seq = seq;
        let meta = CommitMeta::default();
        frames.frames.push(seq, seq, EventType::Schema, |out| {
            event::encode(out, None, Some(&document), false, Some((CommitShape::SINGLE, &meta)), true)
        });
        log.append(&mut group).unwrap();
    }

    /// What a writer that dies while it creates a table leaves: a manifest, and an empty segment.
    fn begin_to_create(disk: &SimDisk, seq: u64, table: &str) {
        let shared = disk.shared();
        shared.create_dir(&dir().segments(table)).unwrap();
        shared.create(&dir().segment(table, 1)).unwrap().write_at(&[0; 64], 0).unwrap();
        let segments = vec![Segment { number: 1, sealed: None }];
        let (table_id, version, term, published) = (seq, 1, 1, seq - 1);
        let manifest = Manifest {
            table: table.into(),
            table_id,
            version,
            term,
            published,
            published_ms: 0,
            floor: None,
            deltas: Vec::new(),
            images: Vec::new(),
            segments,
        };
        fs::replace(&*shared, &dir().manifest(table), &manifest::encode(&manifest).unwrap()).unwrap();
    }

    /// A reader has seen the directory of a table that then never came to be; its number, or its name, is used again.
    #[test]
    fn a_table_that_never_came_to_be_is_forgotten() {
        for (third, fourth) in [("other", "lost"), ("lost", "other"), ("other", "another")] {
            let disk = SimDisk::new();
            let mut log = open(&disk);
            create(&mut log, 1, "first");
            let mut follower = Follower::open(shelf(&disk)).unwrap();
            follower.look().unwrap();
            create(&mut log, 2, "second");
            begin_to_create(&disk, 3, "lost");
            follower.look().unwrap();
            drop(log);

            let mut log = open(&disk);
            create(&mut log, 3, third);
            follower.look().unwrap();
            create(&mut log, 4, fourth);
            follower.look().unwrap();
            let applied = follower.replica().applied();
            assert_eq!(applied.seq, 4);
            let mut names = vec!["first", "second", third, fourth];
            names.sort_unstable();
            assert!(applied.tables.keys().eq(names), "{:?}", applied.tables.keys());
        }
    }
}
