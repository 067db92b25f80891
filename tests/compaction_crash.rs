//! A power cut at any step of a compaction, or of the recovery after it, leaves the table as it was before or after.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use crate::harness::script;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::document::Document;
use driftdb_common::format::event::{self, CommitMeta, CommitShape, EventType, RequestId};
use driftdb_common::format::key::{Key, KeyType};
use driftdb_common::format::manifest::Manifest;
use driftdb_common::storage::fs::sim::{CrashPolicy, SimDisk};
use driftdb_common::storage::layout::{self, DataDir};
use driftdb_common::storage::recovery::{self, Replay};
use driftdb_common::storage::sst::BlockCache;
use driftdb_common::storage::wal::appender::{AppendError, CompactionInput, Group, Log};
use driftdb_common::storage::wal::commit_reader::LogCommit;
use driftdb_common::storage::wal::compaction_base::{BaseItem, BaseReader};
use driftdb_common::storage::wal::cursor::{CursorItem, LogCursor, SegmentSpan};
use driftdb_common::table::build::compaction::{self, CompactionLog, CompactionRequest, ManifestEdit};
use driftdb_common::table::build::delta::DeltaLimits;
use driftdb_common::table::build::merge_policy;
use driftdb_common::table::build::requests_since::RequestsSince;
use driftdb_common::table::build::{delta, image};
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::log_tail::ReadLimit;
use driftdb_common::table::memtable::CommitInfo;
use driftdb_common::table::schema::{Schema, SchemaAction, SchemaEvent};
use driftdb_common::table::table_files::TableFiles;
use driftdb_common::table::timeline::Timeline;
use driftdb_common::table::view::View;

const SEGMENT: u64 = 700;
const TABLES: [&str; 2] = ["t", "u"];

type Rows = BTreeMap<String, (u64, String)>;

fn time_of(seq: u64) -> u64 {
    1_000 + seq * 10
}

/// An event of a commit: table, kind, key, content.
fn commit(seq: u64) -> Vec<(u64, EventType, Option<String>, Option<String>)> {
    if let Some(table) = TABLES.get(usize::try_from(seq).unwrap() - 1) {
        let schema = Schema {
            table: (*table).to_owned(),
            primary_key: "id".to_owned(),
            key_type: KeyType::String,
            indexes: vec!["n".to_owned()],
            retain_ms: None,
            auto_key: false,
        };
        let event = SchemaEvent::new(SchemaAction::Create, schema);
        return vec![(seq, EventType::Schema, None, Some(event.to_document().unwrap().to_json().unwrap()))];
    }
    let key = format!("k{}", seq * 5 % 7);
    let insert = |key: &str| format!(r#"{{"id":"{key}","n":{seq},"pad":"{}"}}"#, "x".repeat(40));
    let live = state_at(seq - 1, 1).contains_key(&key);
    let mut events = Vec::new();
    if seq % 6 != 3 {
        events.push(match (live, seq % 4) {
            (true, 0) => (1, EventType::SoftDelete, Some(key.clone()), None),
            (true, 1 | 2) => (1, EventType::Patch, Some(key.clone()), Some(format!(r#"{{"zz":{seq}}}"#))),
            _ => (1, EventType::Insert, Some(key.clone()), Some(insert(&key))),
        });
    }
    if seq.is_multiple_of(3) {
        events.push((2, EventType::Insert, Some(key.clone()), Some(insert(&key))));
    }
    events
}

fn state_at(seq: u64, table: u64) -> Rows {
    thread_local! {
        static STATES: RefCell<HashMap<(u64, u64), Rows>> = RefCell::default();
    }
    if seq < 3 {
        return Rows::new();
    }
    if let Some(known) = STATES.with_borrow(|states| states.get(&(seq, table)).cloned()) {
        return known;
    }
    let mut rows = state_at(seq - 1, table);
    for (_, kind, key, content) in commit(seq).into_iter().filter(|event| event.0 == table) {
        let key = key.unwrap();
        match kind {
            EventType::SoftDelete => _ = rows.remove(&key),
            EventType::Patch => {
                let mut row: serde_json::Value = serde_json::from_str(&rows[&key].1).unwrap();
                crate::harness::model::merge(&mut row, &serde_json::from_str(&content.unwrap()).unwrap());
                rows.insert(key, (seq, row.to_string()));
            }
            _ => _ = rows.insert(key, (seq, content.unwrap())),
        }
    }
    STATES.with_borrow_mut(|states| states.insert((seq, table), rows.clone()));
    rows
}

fn events_upto(seq: u64, table: u64) -> u64 {
    (1..=seq).flat_map(commit).filter(|event| event.0 == table).count() as u64
}

fn has_request(seq: u64) -> bool {
    seq > 2 && seq % 4 == 1
}

fn group(from: u64, to: u64) -> Group {
    let mut group = Group::default();
    for seq in from..=to {
        let events = commit(seq);
        let frames = u32::try_from(events.len()).unwrap();
        let request = has_request(seq).then(|| RequestId { id: format!("r{seq}"), fingerprint: [7; 16] });
        let meta = CommitMeta { request, ..CommitMeta::default() };
        for (table, kind, key, content) in events {
            if kind == EventType::Schema {
                group.created.push((table, TABLES[usize::try_from(table).unwrap() - 1].to_owned()));
            }
            let shape = CommitShape { frames, frames_in_table: 1 };
            let key = key.map(|key| Key::Str(key.into()));
            let document = content.map(|text| Document::from_json(&text).unwrap());
            let entry = group.tables.entry(table).or_default();
            let first = entry.frames.is_empty();
            entry.last_seq = seq;
            entry.frames.push(seq, time_of(seq), kind, |out| {
                event::encode(out, key.as_ref(), document.as_ref(), false, Some((shape, &meta)), first)
            });
        }
        (group.last_seq, group.last_ms) = (seq, time_of(seq));
    }
    group
}

/// A database open for writing, with everything that recovery reported.
struct Open {
    table_files: TableFiles,
    log: RefCell<Log>,
    timelines: HashMap<u64, Arc<Timeline>>,
    requests: BTreeSet<u64>,
    kept: u64,
    obsolete: RefCell<Vec<PathBuf>>,
}

struct Opening<'a> {
    table_files: &'a TableFiles,
    timelines: HashMap<u64, Arc<Timeline>>,
    requests: BTreeSet<u64>,
}

impl Replay for Opening<'_> {
    fn replay_table(&mut self, manifest: &Manifest) -> Result<()> {
        let (id, name) = (manifest.table_id, manifest.table.as_str());
        let timeline = if manifest.deltas.is_empty() {
            Timeline::new(id, name)
        } else {
            let layers = self.table_files.open(manifest, None)?;
            layers.requests(&mut |seq, _| _ = self.requests.insert(seq))?;
            Timeline::open(id, name, layers)?
        };
        self.timelines.insert(id, Arc::new(timeline));
        Ok(())
    }

    fn replay_commit(&mut self, commit: LogCommit) -> Result<()> {
        if commit.meta.as_ref().is_some_and(|meta| meta.request.is_some()) {
            self.requests.insert(commit.seq);
        }
        let info = Arc::new(CommitInfo { seq: commit.seq, time_ms: commit.time_ms, meta: None });
        for (id, events) in commit.parts {
            self.timelines[&id].apply(&info, events)?;
        }
        Ok(())
    }
}

fn open(disk: &SimDisk) -> Result<Open> {
    let table_files =
        TableFiles { fs: disk.shared(), dir: DataDir::new("/data"), cache: BlockCache::new(1 << 20) };
    let mut opening =
        Opening { table_files: &table_files, timelines: HashMap::new(), requests: BTreeSet::new() };
    let log = recovery::open(disk.shared(), &table_files.dir, script::options(SEGMENT), &mut opening)?;
    let Opening { timelines, requests, .. } = opening;
    let (kept, _) = log.published();
    Ok(Open { table_files, log: RefCell::new(log), timelines, requests, kept, obsolete: RefCell::default() })
}

fn plain(error: AppendError) -> Error {
    let (AppendError::Refused(error) | AppendError::Fatal(error)) = error;
    error
}

struct OneTable<'a>(&'a Open, u64);

impl CompactionLog for OneTable<'_> {
    fn begin(&self, upto: u64) -> Result<CompactionInput> {
        self.0.log.borrow_mut().begin_compaction(self.1, upto).map_err(plain)
    }

    fn install(&self, edit: ManifestEdit) -> Result<Manifest> {
        self.0.edit(self.1, &*edit)
    }
}

impl Open {
    fn manifest(&self, id: u64) -> Manifest {
        self.log.borrow().manifest(id).unwrap().clone()
    }

    fn layers(&self, id: u64) -> Result<LayerMap> {
        self.table_files.open(&self.manifest(id), None)
    }

    fn edit(&self, id: u64, edit: &dyn Fn(&mut Manifest)) -> Result<Manifest> {
        let before = layout::snapshot_files(&self.table_files.dir, &self.manifest(id));
        let edited = self.log.borrow_mut().edit_manifest(id, &mut |manifest| {
            edit(manifest);
            Ok(())
        });
        let after = edited.map_err(plain)?;
        let named = layout::snapshot_files(&self.table_files.dir, &after);
        self.obsolete.borrow_mut().extend(before.into_iter().filter(|file| !named.contains(file)));
        Ok(after)
    }

    fn append(&self, from: u64, to: u64) -> Result<()> {
        self.log.borrow_mut().append(&mut group(from, to)).map_err(plain)
    }

    fn snapshot(&self, id: u64) -> Result<()> {
        loop {
            let (manifest, slot) = (self.manifest(id), *self.log.borrow().table_entry(id).unwrap());
            let (seq, _) = self.log.borrow().published();
            let reach = ReadLimit { segment: slot.segment, bytes: slot.bytes, seq };
            let limits = DeltaLimits { events: 9, bytes: u64::MAX };
            let layers = self.layers(id)?;
            let built = delta::build_next(&self.table_files, &manifest, &layers, reach, limits, &|_| Ok(()))?;
            let Some(built) = built else { break };
            self.edit(id, &|manifest| manifest.deltas.push(built.layer.clone()))?;
        }
        if let Some(merge_policy::MergeTask::WriteImage) = merge_policy::next_task(&self.manifest(id)) {
            let layers = self.layers(id)?;
            let name = TABLES[usize::try_from(id).unwrap() - 1];
            let indexes = ["n".to_owned()];
            let image =
                image::build(&self.table_files, (name, id), &layers, layers.end(), &indexes, &|_| Ok(()))?;
            self.edit(id, &|manifest| manifest.images.push(image.clone()))?;
        }
        Ok(())
    }

    /// Compacts as the writer does, without removing the files that are no longer needed.
    fn compact(&self, id: u64, seq: u64) -> Result<()> {
        let manifest = self.manifest(id);
        if manifest.floor.is_some_and(|floor| floor.seq == seq) && compaction::is_complete(&manifest) {
            return Ok(());
        }
        if manifest.deltas.last().is_none_or(|delta| delta.seq < seq) {
            self.snapshot(id)?;
        }
        let (manifest, layers) = (self.manifest(id), self.layers(id)?);
        let wanted = CompactionRequest { seq, time_ms: time_of(seq), requests: RequestsSince::default() };
        let plan = compaction::plan(&self.table_files, &manifest, &layers, wanted)?;
        let hands = OneTable(self, id);
        let done = compaction::run(&self.table_files, &hands, &layers, (plan, wanted), &|_| Ok(()))?;
        self.obsolete.borrow_mut().extend(done.superseded);
        Ok(())
    }

    fn sweep(&self) -> Result<()> {
        for file in self.obsolete.take() {
            match self.table_files.fs.remove(&file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("sweep", &e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Checks every readable commit against the model.
    fn check(&self) {
        let expected: BTreeSet<u64> = (1..=self.kept).filter(|seq| has_request(*seq)).collect();
        assert_eq!(self.requests, expected);
        for (id, timeline) in &self.timelines {
            let floor = timeline.state().layers.floor().map_or(0, |floor| floor.seq);
            for seq in *id..=self.kept {
                let view = View::at(timeline, seq);
                if seq < floor {
                    assert_eq!(view.unwrap_err().reason(), Reason::BelowFloor);
                    continue;
                }
                let view = view.unwrap();
                let mut found = Rows::new();
                view.scan((Bound::Unbounded, Bound::Unbounded), |row| {
                    found.insert(row.key.to_string(), (row.seq, row.document.to_json().unwrap()));
                    true
                })
                .unwrap();
                let rows = state_at(seq, *id);
                assert_eq!(found, rows, "table {id} at {seq}, floor {floor}");
                let counts = view.counts().unwrap();
                assert_eq!((counts.rows, counts.events), (rows.len() as u64, events_upto(seq, *id)));
            }
            self.check_log(*id);
        }
    }

    /// Checks that the log alone gives the same rows (I8).
    fn check_log(&self, id: u64) {
        let manifest = self.manifest(id);
        let (table, first) = ((manifest.table.as_str(), id), &manifest.segments[0]);
        let mut cursor = LogCursor::new(Arc::clone(&self.table_files.fs), &self.table_files.dir, table.0, id);
        let (mut rows, mut upto) = (Rows::new(), 0);
        if let Some(seal) = first.sealed
            && let Some(mut base) = BaseReader::open(
                &*self.table_files.fs,
                &self.table_files.dir,
                table,
                first.number,
                seal.bytes,
            )
            .unwrap()
        {
            upto = base.floor().floor.seq;
            while let Some(piece) = base.next_item().unwrap() {
                if let BaseItem::Event(seq, time_ms, event) = piece {
                    assert_eq!(time_ms, time_of(seq));
                    let Some(key) = event.key else { continue };
                    rows.insert(key.to_string(), (seq, event.document.unwrap().to_json().unwrap()));
                }
            }
            assert_eq!(rows, state_at(upto, id));
            cursor = cursor.starting_at(base.position());
        }
        for segment in &manifest.segments {
            let end = segment
                .sealed
                .map_or_else(|| self.log.borrow().table_entry(id).unwrap().bytes, |seal| seal.bytes);
            cursor.extend(SegmentSpan { segment: segment.number, end, seal: segment.sealed });
        }
        let mut found = Vec::new();
        while let CursorItem::Frame(entry) = cursor.next_frame().unwrap() {
            found.push(entry.seq);
        }
        let expected: Vec<u64> = (upto + 1..=self.kept)
            .flat_map(|seq| commit(seq).into_iter().filter(|event| event.0 == id).map(move |_| seq))
            .collect();
        assert_eq!(found, expected, "table {id} from {upto} on");
    }

    fn floor(&self, id: u64) -> u64 {
        self.manifest(id).floor.map_or(0, |floor| floor.seq)
    }
}

/// Checks that the manifests name every file of the tables.
fn expect_no_orphans(disk: &SimDisk) {
    let (shared, data) = (disk.shared(), DataDir::new("/data"));
    for name in TABLES {
        let manifest = layout::read_manifest(&*shared, &data, name).unwrap().unwrap();
        let segments = manifest.segments.iter().map(|segment| data.segment(name, segment.number));
        let mut named: BTreeSet<PathBuf> = segments.chain(layout::snapshot_files(&data, &manifest)).collect();
        named.extend([data.manifest(name), data.schema(name)]);
        for path in disk.paths().into_iter().filter(|path| path.starts_with(data.table(name))) {
            let aside = path.to_string_lossy().contains(".torn.") || path.to_string_lossy().ends_with(".tmp");
            let is_dir = disk.bytes(&path).is_none();
            assert!(aside || is_dir || named.contains(&path), "{} is an orphan", path.display());
        }
    }
}

/// A table with several delta layers. It has been compacted once, and the superseded files still exist.
fn prepared() -> SimDisk {
    let disk = SimDisk::new();
    let open = open(&disk).unwrap();
    let mut seq = 1;
    while seq < 48 {
        open.append(seq, seq + 2).unwrap();
        seq += 3;
        if seq == 22 || seq == 34 {
            open.snapshot(1).unwrap();
        }
        if seq == 28 {
            open.compact(1, 13).unwrap();
        }
    }
    drop(open);
    disk
}

/// The steps to interrupt: a compaction at `floor`, a commit, the removal of superseded files, another commit.
fn run(disk: &SimDisk, floor: u64, acknowledged: &Cell<u64>) -> Result<()> {
    let open = open(disk)?;
    acknowledged.set(open.kept);
    open.compact(1, floor)?;
    open.append(open.kept + 1, open.kept + 2)?;
    acknowledged.set(open.kept + 2);
    open.sweep()?;
    open.append(open.kept + 3, open.kept + 3)?;
    acknowledged.set(open.kept + 3);
    Ok(())
}

/// Opens what is left, checks it, compacts again, and checks again.
fn expect_whole(disk: &SimDisk, floors: &[u64], acknowledged: u64, what: &str) {
    let found = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(found.kept >= acknowledged, "{what}: {} of {acknowledged} kept", found.kept);
    assert!(floors.contains(&found.floor(1)), "{what}: floor {}", found.floor(1));
    found.check();
    let next = found.floor(1).max(40);
    found.compact(1, next).unwrap_or_else(|error| panic!("{what}: cannot compact again: {error}"));
    found.append(found.kept + 1, found.kept + 2).unwrap();
    drop(found);
    let again = open(disk).unwrap_or_else(|error| panic!("{what}: a second time: {error}"));
    assert_eq!(again.floor(1), next, "{what}");
    again.check();
    drop(again);
    expect_no_orphans(disk);
}

fn every_step(floor: u64) {
    let old = prepared();
    let whole = old.clone_state();
    run(&whole, floor, &Cell::new(0)).unwrap();
    expect_whole(&whole, &[floor], 51, "whole");
    let whole = old.clone_state();
    run(&whole, floor, &Cell::new(0)).unwrap();
    for stop in 1..=whole.operations() {
        let disk = old.clone_state();
        disk.power_off_at(stop);
        let acknowledged = Cell::new(48);
        run(&disk, floor, &acknowledged).unwrap_err();
        for lost in CrashPolicy::all(stop * 31 + floor) {
            let what = format!("floor {floor}, stopped at {stop}, {lost:?}");
            expect_whole(&disk.crash(lost), &[13, floor], acknowledged.get(), &what);
        }
    }
}

#[test]
fn a_power_cut_in_a_compaction_within_a_layer_leaves_the_old_or_new_table() {
    every_step(26);
}

#[test]
#[ignore = "slow"]
fn a_power_cut_in_a_compaction_at_the_newest_snapshot_leaves_the_old_or_new_table() {
    every_step(31);
}

#[test]
#[ignore = "slow"]
fn a_power_cut_in_a_compaction_at_the_newest_commit_leaves_the_old_or_new_table() {
    every_step(48);
}

#[test]
#[ignore = "slow"]
fn a_power_cut_in_the_recovery_from_a_compaction_leaves_the_old_or_new_table() {
    let (old, floor) = (prepared(), 48);
    let whole = old.clone_state();
    run(&whole, floor, &Cell::new(0)).unwrap();
    for stop in (1..=whole.operations()).step_by(3) {
        let disk = old.clone_state();
        disk.power_off_at(stop);
        let acknowledged = Cell::new(48);
        run(&disk, floor, &acknowledged).unwrap_err();
        for lost in [CrashPolicy::KeepAll, CrashPolicy::RandomHalves(stop)] {
            let found = disk.crash(lost);
            let opened = found.clone_state();
            drop(open(&opened).unwrap());
            for again in (1..=opened.operations()).step_by(2) {
                let disk = found.clone_state();
                disk.power_off_at(again);
                let _ = open(&disk);
                let what = format!("stopped at {stop}, {lost:?}, then in recovery at {again}");
                expect_whole(&disk.crash(CrashPolicy::Mixed(again)), &[13, floor], acknowledged.get(), &what);
            }
        }
    }
}
