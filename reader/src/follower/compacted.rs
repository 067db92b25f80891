//! A follower whose log is compacted under it goes over to the new one, and refuses what lies below the floor.

use std::cell::RefCell;
use std::ops::Bound;

use driftdb_common::format::document::Document;
use driftdb_common::format::event::{self, CommitMeta, CommitShape, EventType};
use driftdb_common::format::key::Key;
use driftdb_common::storage::fs::sim::SimDisk;
use driftdb_common::storage::wal::appender::{AppendError, CompactionInput, Group, Log};
use driftdb_common::table::build::compaction::{self, CompactionLog, CompactionRequest, ManifestEdit};
use driftdb_common::table::build::merge_policy::RequestsSince;
use driftdb_common::table::build::snapshot::{self, DeltaLimits, ReadLimit};

use super::tests::{create, open, shelf};
use super::*;

pub(super) struct Writing {
    pub(super) disk: SimDisk,
    pub(super) log: RefCell<Log>,
}

fn plain(error: AppendError) -> Error {
    let (AppendError::Refused(error) | AppendError::Fatal(error)) = error;
    error
}

impl CompactionLog for Writing {
    fn begin(&self, upto: u64) -> Result<CompactionInput> {
        self.log.borrow_mut().begin_compaction(1, upto).map_err(plain)
    }

    fn install(&self, edit: ManifestEdit) -> Result<Manifest> {
        let mut edit = |manifest: &mut Manifest| {
            edit(manifest);
            Ok(())
        };
        self.log.borrow_mut().edit_manifest(1, &mut edit).map_err(plain)
    }
}

impl Writing {
    /// A table, and commits 2 to `last`: each makes a row of its own.
    pub(super) fn start(last: u64) -> Writing {
        let disk = SimDisk::new();
        let mut log = open(&disk);
        create(&mut log, 1, "t");
        let writing = Writing { disk, log: RefCell::new(log) };
        (2..=last).for_each(|seq| writing.insert(seq));
        writing
    }

    pub(super) fn insert(&self, seq: u64) {
        self.insert_into(1, seq);
    }

    pub(super) fn insert_into(&self, table: u64, seq: u64) {
        let key = Key::Str(format!("k{seq:02}").into());
        let document = Document::from_json(&format!(r#"{{"id":"{key}"}}"#)).unwrap();
        let mut group = Group { last_seq: seq, last_ms: seq, ..Group::default() };
        let frames = group.tables.entry(table).or_default();
        frames.last_seq = seq;
        let meta = CommitMeta::default();
        frames.frames.push(seq, seq, EventType::Insert, |out| {
            event::encode(out, Some(&key), Some(&document), false, Some((CommitShape::SINGLE, &meta)), true)
        });
        self.log.borrow_mut().append(&mut group).unwrap();
    }

    /// Snapshots everything there is.
    pub(super) fn snapshot(&self) {
        let (manifest, slot) = self.now();
        let reach = ReadLimit { segment: slot.segment, bytes: slot.bytes, seq: slot.last_seq };
        let shelf = shelf(&self.disk);
        let chain = shelf.open(&manifest, None).unwrap();
        let limits = DeltaLimits { events: u64::MAX, bytes: u64::MAX };
        let era = snapshot::next_era(&shelf, &manifest, &chain, reach, limits, &|_| Ok(())).unwrap().unwrap();
        self.install(Box::new(move |manifest| manifest.deltas.push(era.clone()))).unwrap();
    }

    fn now(&self) -> (Manifest, TableEntry) {
        let log = self.log.borrow();
        (log.manifest(1).unwrap().clone(), *log.table_entry(1).unwrap())
    }

    /// Compacts, and removes at once what is not needed any more, as if every reader had had its time.
    pub(super) fn compact(&self, seq: u64) {
        let (manifest, _) = self.now();
        let shelf = shelf(&self.disk);
        let chain = shelf.open(&manifest, None).unwrap();
        let wanted = CompactionRequest { seq, time_ms: seq, requests: RequestsSince::default() };
        let plan = compaction::plan(&shelf, &manifest, &chain, wanted).unwrap();
        let done = compaction::run(&shelf, self, &chain, (plan, wanted), &|_| Ok(())).unwrap();
        let kept = layout::snapshot_files(&shelf.dir, &self.now().0);
        let old =
            layout::snapshot_files(&shelf.dir, &manifest).into_iter().filter(|file| !kept.contains(file));
        old.chain(done.superseded).for_each(|file| shelf.disk.remove(&file).unwrap());
    }

    /// Every moment, as a follower shows it.
    pub(super) fn check(&self, follower: &Follower, floor: u64, last: u64) {
        let applied = follower.replica().applied();
        assert_eq!(applied.seq, last);
        for seq in 1..=last {
            let view = applied.view("t", seq);
            if seq < floor {
                assert_eq!(view.unwrap_err().reason(), Reason::BelowFloor);
                continue;
            }
            let mut rows = 0;
            let count = |_| {
                rows += 1;
                true
            };
            view.unwrap().scan((Bound::Unbounded, Bound::Unbounded), count).unwrap();
            assert_eq!(rows, seq - 1, "at {seq}");
        }
    }
}

#[test]
fn one_that_has_seen_everything_goes_over() {
    let writing = Writing::start(12);
    let mut follower = Follower::open(shelf(&writing.disk)).unwrap();
    follower.look().unwrap();
    writing.check(&follower, 0, 12);
    writing.snapshot();
    writing.insert(13);
    follower.look().unwrap();
    writing.compact(12);
    follower.look().unwrap();
    writing.check(&follower, 12, 13);
    writing.insert(14);
    follower.look().unwrap();
    writing.check(&follower, 12, 14);
}

/// The segment that it reads is gone before it has come to its end.
#[test]
fn one_that_lags_reloads() {
    for (seen, floor) in [(3, 6), (8, 6), (9, 9), (10, 5), (2, 9)] {
        let writing = Writing::start(seen);
        let mut follower = Follower::open(shelf(&writing.disk)).unwrap();
        follower.look().unwrap();
        (seen + 1..=11).for_each(|seq| writing.insert(seq));
        writing.snapshot();
        writing.insert(12);
        writing.compact(floor);
        writing.insert(13);
        follower.look().unwrap();
        writing.check(&follower, floor, 13);
        writing.snapshot();
        writing.compact(13);
        writing.insert(14);
        follower.look().unwrap();
        writing.check(&follower, 13, 14);
        let mut fresh = Follower::open(shelf(&writing.disk)).unwrap();
        fresh.look().unwrap();
        writing.check(&fresh, 13, 14);
    }
}
