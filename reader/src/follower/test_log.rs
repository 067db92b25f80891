//! A log with one table on a simulated disk, which tests write, snapshot and compact under a follower.

use std::cell::RefCell;
use std::ops::Bound;
use std::path::PathBuf;

use driftdb_common::service::access::caller::Caller;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::document::Document;
use driftdb_common::format::event::{self, CommitMeta, CommitShape, EventType};
use driftdb_common::format::head::TableEntry;
use driftdb_common::format::key::{Key, KeyType};
use driftdb_common::format::manifest::Manifest;
use driftdb_common::storage::fs::sim::SimDisk;
use driftdb_common::storage::layout::{self, DataDir};
use driftdb_common::storage::recovery;
use driftdb_common::storage::sst::BlockCache;
use driftdb_common::storage::wal::appender::{AppendError, CompactionInput, Group, Log, LogOptions};
use driftdb_common::table::build::compaction::{self, CompactionLog, CompactionRequest, ManifestEdit};
use driftdb_common::table::build::delta;
use driftdb_common::table::build::delta::DeltaLimits;
use driftdb_common::table::build::requests_since::RequestsSince;
use driftdb_common::table::log_tail::ReadLimit;
use driftdb_common::table::schema::{Schema, SchemaAction, SchemaEvent};
use driftdb_common::table::table_files::TableFiles;
use driftdb_common::table::view::View;

use crate::replica::Replica;

/// The data directory.
pub fn dir() -> DataDir {
    DataDir::new("/data")
}

/// The data directory on a disk, with a cache.
pub fn files(disk: &SimDisk) -> TableFiles {
    TableFiles { fs: disk.shared(), dir: dir(), cache: BlockCache::new(1 << 20) }
}

/// Opens the log for writing.
pub fn open(disk: &SimDisk) -> Log {
    let options = LogOptions { background: false, ..LogOptions::default() };
    recovery::open(disk.shared(), &dir(), options, &mut |_| Ok(())).unwrap()
}

/// Appends commit `seq`, which creates a table with that id.
pub fn create(log: &mut Log, seq: u64, table: &str) {
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

/// A log with table `t`, whose id is 1.
pub struct TestLog {
    pub disk: SimDisk,
    pub log: RefCell<Log>,
}

fn inner(error: AppendError) -> Error {
    let (AppendError::Refused(error) | AppendError::Fatal(error)) = error;
    error
}

impl CompactionLog for TestLog {
    fn begin(&self, upto: u64) -> Result<CompactionInput> {
        self.log.borrow_mut().begin_compaction(1, upto).map_err(inner)
    }

    fn install(&self, edit: ManifestEdit) -> Result<Manifest> {
        let mut edit = |manifest: &mut Manifest| {
            edit(manifest);
            Ok(())
        };
        self.log.borrow_mut().edit_manifest(1, &mut edit).map_err(inner)
    }
}

impl TestLog {
    /// Creates the table in commit 1. Commits 2 to `last` insert one row each.
    pub fn start(last: u64) -> TestLog {
        let disk = SimDisk::new();
        let mut log = open(&disk);
        create(&mut log, 1, "t");
        let log = TestLog { disk, log: RefCell::new(log) };
        (2..=last).for_each(|seq| log.insert(seq));
        log
    }

    /// Appends commit `seq`, which inserts a row.
    pub fn insert(&self, seq: u64) {
        self.insert_into(1, seq);
    }

    /// Appends commit `seq`, which inserts a row into a table.
    pub fn insert_into(&self, table: u64, seq: u64) {
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

    /// Appends commit `seq`, which deletes the row that commit `of` has inserted.
    pub fn delete(&self, seq: u64, of: u64) {
        let key = Key::Str(format!("k{of:02}").into());
        let mut group = Group { last_seq: seq, last_ms: seq, ..Group::default() };
        let frames = group.tables.entry(1).or_default();
        frames.last_seq = seq;
        let meta = CommitMeta::default();
        frames.frames.push(seq, seq, EventType::SoftDelete, |out| {
            event::encode(out, Some(&key), None, false, Some((CommitShape::SINGLE, &meta)), true)
        });
        self.log.borrow_mut().append(&mut group).unwrap();
    }

    /// Takes a snapshot of all events.
    pub fn snapshot(&self) {
        let (manifest, entry) = self.current();
        let limit = ReadLimit { segment: entry.segment, bytes: entry.bytes, seq: entry.last_seq };
        let files = files(&self.disk);
        let layers = files.open(&manifest, None).unwrap();
        let limits = DeltaLimits { events: u64::MAX, bytes: u64::MAX };
        let built =
            delta::build_next(&files, &manifest, &layers, limit, limits, &|_| Ok(())).unwrap().unwrap();
        self.install(Box::new(move |manifest| manifest.deltas.push(built.layer.clone()))).unwrap();
    }

    fn current(&self) -> (Manifest, TableEntry) {
        let log = self.log.borrow();
        (log.manifest(1).unwrap().clone(), *log.table_entry(1).unwrap())
    }

    /// Compacts up to commit `seq`, and removes the superseded files at once, without the delay that readers get.
    pub fn compact(&self, seq: u64) {
        self.compact_and_keep_files(seq)
            .into_iter()
            .for_each(|file| self.disk.shared().remove(&file).unwrap());
    }

    /// Compacts up to commit `seq`. Returns the superseded files.
    pub fn compact_and_keep_files(&self, seq: u64) -> Vec<PathBuf> {
        let (manifest, _) = self.current();
        let files = files(&self.disk);
        let layers = files.open(&manifest, None).unwrap();
        let request = CompactionRequest { seq, time_ms: seq, requests: RequestsSince::default() };
        let plan = compaction::plan(&files, &manifest, &layers, request).unwrap();
        let done = compaction::run(&files, self, &layers, (plan, request), &|_| Ok(())).unwrap();
        let kept = layout::snapshot_files(&files.dir, &self.current().0);
        let old =
            layout::snapshot_files(&files.dir, &manifest).into_iter().filter(|file| !kept.contains(file));
        old.chain(done.superseded).collect()
    }

    /// Checks that a replica has applied commit `last`, and that it shows each commit from `floor` on.
    pub fn check(&self, replica: &Replica, floor: u64, last: u64) {
        let applied = replica.applied();
        assert_eq!(applied.seq, last);
        for seq in 1..=last {
            let view = View::at(applied.table("t", &Caller::everyone()).unwrap(), seq);
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
