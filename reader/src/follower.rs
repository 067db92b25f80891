//! The follower: looks at HEAD, reads what is newly durable, and applies whole commits in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::head::Slot;
use driftdb_common::format::manifest::Manifest;
use driftdb_common::log::cursor::{Cursor, Span};
use driftdb_common::log::dir::{self, DataDir};
use driftdb_common::log::disk::Disk;
use driftdb_common::log::head::{self, Head};
use driftdb_common::log::merge::{Commit, Merge};
use driftdb_common::table::overlay::CommitInfo;
use driftdb_common::table::timeline::Timeline;

use crate::replica::{Applied, Replica};

/// Commits applied before they are shown, while catching up: waiting reads see progress.
const SHOW_EVERY: u64 = 10_000;

/// Follows one data directory. Takes no lock and writes nothing.
#[derive(Debug)]
pub struct Follower {
    disk: Arc<dyn Disk>,
    dir: DataDir,
    merge: Merge,
    tables: HashMap<u64, Followed>,
    term: u64,
    /// A commit that could not be applied: the state after it is not known, and nothing later may be shown.
    failed: Option<Error>,
    replica: Arc<Replica>,
}

/// A table as far as it has been seen.
#[derive(Debug)]
struct Followed {
    timeline: Arc<Timeline>,
    manifest: Manifest,
    slot: Slot,
    /// HEAD has named it: it is there to stay.
    named: bool,
}

impl Follower {
    /// A follower that has applied nothing yet.
    pub fn open(disk: Arc<dyn Disk>, dir: DataDir) -> Result<Follower> {
        let database = dir::read_database(&*disk, &dir)?.ok_or_else(|| {
            let message = format!(
                "{} holds no database: start driftdb-writer on it first, or run driftctl init",
                dir.root().display()
            );
            Error::new(Reason::Unreachable, message)
        })?;
        let replica = Arc::new(Replica::new(database));
        Ok(Follower {
            disk,
            dir,
            merge: Merge::new(1),
            tables: HashMap::new(),
            term: 0,
            failed: None,
            replica,
        })
    }

    /// What the follower tells.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
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
            self.tables.retain(|_, table| table.named);
            self.tables.values_mut().for_each(|table| table.slot = Slot::default());
            self.try_look()
        });
        self.replica.looked(began, outcome.as_ref().err().cloned());
        outcome
    }

    fn try_look(&mut self) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let Some(head) = head::read(&*self.disk, &self.dir)? else {
            return Err(Error::corrupt(self.dir.head().display(), 0, "it is missing"));
        };
        let database = self.replica.database();
        if head.header.database_id != *database.id.as_bytes() || head.header.epoch != database.epoch {
            let message = format!(
                "{} has another history than the one this reader started with: restart the reader",
                self.dir.root().display()
            );
            return Err(Error::new(Reason::EpochChanged, message));
        }
        if head.header.term < self.term {
            // An orphan that an old writer still writes to, or a stale view of the directory.
            return Ok(());
        }
        self.term = head.header.term;
        self.replica.know(head.last_seq());
        self.allow(&head)?;
        self.apply()?;
        self.complain(&head)
    }

    /// Allows every table's log to be read as far as its slot says.
    fn allow(&mut self, head: &Head) -> Result<()> {
        if head.slots.iter().any(|slot| slot.table != 0 && !self.tables.contains_key(&slot.table)) {
            self.discover()?;
        }
        for slot in head.slots.iter().filter(|slot| slot.table != 0) {
            let Some(table) = self.tables.get_mut(&slot.table) else {
                let what = format!("it names table {}, and no directory is that table's", slot.table);
                return Err(Error::corrupt(self.dir.head().display(), 0, what));
            };
            if (table.slot.segment, table.slot.bytes) >= (slot.segment, slot.bytes) {
                continue;
            }
            if table.slot.segment != slot.segment {
                let name = table.timeline.name();
                table.manifest = dir::read_manifest(&*self.disk, &self.dir, name)?
                    .filter(|manifest| manifest.table_id == slot.table && manifest.version >= slot.manifest)
                    .ok_or_else(|| {
                        Error::corrupt(self.dir.manifest(name).display(), 0, "it is older than HEAD")
                    })?;
                for segment in table.manifest.segments.iter().filter(|segment| segment.number < slot.segment)
                {
                    let end = segment.sealed.map_or(0, |seal| seal.bytes);
                    self.merge
                        .extend(slot.table, Span { segment: segment.number, end, seal: segment.sealed });
                }
            }
            self.merge.extend(slot.table, Span { segment: slot.segment, end: slot.bytes, seal: None });
            table.slot = *slot;
            table.named = true;
        }
        Ok(())
    }

    /// Finds the tables that have come to be.
    fn discover(&mut self) -> Result<()> {
        for name in dir::table_names(&*self.disk, &self.dir)? {
            if self.tables.values().any(|table| table.timeline.name() == name) {
                continue;
            }
            // One that is being created has no manifest yet, or one that HEAD does not name yet.
            let Some(manifest) = dir::read_manifest(&*self.disk, &self.dir, &name)? else { continue };
            let id = manifest.table_id;
            self.merge.add(id, Cursor::new(Arc::clone(&self.disk), &self.dir, &name, id));
            let timeline = Arc::new(Timeline::new(id, name));
            self.tables.insert(id, Followed { timeline, manifest, slot: Slot::default(), named: false });
        }
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
                        self.failed = Some(error.clone());
                        break Err(error);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
            if applied.seq - shown >= SHOW_EVERY {
                self.replica.publish(applied.clone());
                shown = applied.seq;
            }
        };
        if applied.seq > shown {
            self.replica.publish(applied);
        }
        outcome
    }

    fn apply_commit(&self, applied: &mut Applied, commit: Commit) -> Result<()> {
        // What only the writer asks about is not kept.
        let meta = commit.meta.filter(|meta| !meta.actor.is_empty() || !meta.reason.is_empty());
        let info = Arc::new(CommitInfo { seq: commit.seq, time_ms: commit.time_ms, meta });
        for (id, events) in commit.parts {
            let Some(table) = self.tables.get(&id) else { continue };
            table.timeline.apply(&info, events)?;
            if !applied.tables.contains_key(table.timeline.name()) {
                Arc::make_mut(&mut applied.tables)
                    .insert(table.timeline.name().to_owned(), Arc::clone(&table.timeline));
            }
        }
        self.replica.moments().push(info.time_ms);
        applied.seq = info.seq;
        Ok(())
    }

    /// Reports what HEAD calls durable and the files do not hold.
    fn complain(&self, head: &Head) -> Result<()> {
        for (id, source) in self.merge.sources() {
            if let Some(error) = source.invalid() {
                let slot = head.slots.iter().find(|slot| slot.table == *id);
                let durable = slot.map_or(0, |slot| slot.bytes);
                let what = format!("{error}; HEAD says that it is durable to byte {durable}");
                let cursor = source.cursor();
                return Err(Error::corrupt(cursor.path().display(), cursor.mark().offset, what));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use driftdb_common::format::event::{self, CommitMeta, CommitShape, EventType};
    use driftdb_common::format::key::KeyType;
    use driftdb_common::format::manifest::{self, Segment};
    use driftdb_common::log::appender::{Group, Log, Options};
    use driftdb_common::log::disk::{self, sim::SimDisk};
    use driftdb_common::log::recovery;
    use driftdb_common::table::schema::{Schema, SchemaAction, SchemaEvent};

    use super::*;

    fn dir() -> DataDir {
        DataDir::new("/data")
    }

    fn open(disk: &SimDisk) -> Log {
        let options = Options { background: false, ..Options::default() };
        recovery::open(disk.shared(), &dir(), options, &mut |_| Ok(())).unwrap()
    }

    /// Commit `seq`, which creates a table.
    fn create(log: &mut Log, seq: u64, table: &str) {
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
            event::encode(out, None, Some(&document), Some((CommitShape::SINGLE, &meta)), true)
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
        let manifest = Manifest { table: table.into(), table_id, version, term, published, segments };
        disk::replace(&*shared, &dir().manifest(table), &manifest::encode(&manifest).unwrap()).unwrap();
    }

    /// A reader has seen the directory of a table that then never came to be; its number, or its name, is used again.
    #[test]
    fn a_table_that_never_came_to_be_is_forgotten() {
        for (third, fourth) in [("other", "lost"), ("lost", "other"), ("other", "another")] {
            let disk = SimDisk::new();
            let mut log = open(&disk);
            create(&mut log, 1, "first");
            let mut follower = Follower::open(disk.shared(), dir()).unwrap();
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
