//! A history written directly to the log, with snapshots taken step by step as the writer takes them, and the expected
//! rows after every commit.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::document::Document;
use driftdb_common::format::event::{self, CommitMeta, CommitShape, EventType};
use driftdb_common::format::key::{Key, KeyType};
use driftdb_common::format::manifest::{DeltaLayer, ImageLayer, Manifest};
use driftdb_common::storage::fs::sim::SimDisk;
use driftdb_common::storage::layout::{DataDir, snapshot_files};
use driftdb_common::storage::recovery::{self, Replay};
use driftdb_common::storage::sst::BlockCache;
use driftdb_common::storage::wal::appender::{AppendError, Group, Log, LogOptions};
use driftdb_common::storage::wal::commit_reader::LogCommit;
use driftdb_common::table::build::delta::DeltaLimits;
use driftdb_common::table::build::merge;
use driftdb_common::table::build::merge_policy::MergeTask;
use driftdb_common::table::build::requests_since::RequestsSince;
use driftdb_common::table::build::{delta, image};
use driftdb_common::table::history::{History, HistoryQuery, Images};
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::log_tail::ReadLimit;
use driftdb_common::table::memtable::CommitInfo;
use driftdb_common::table::schema::{Schema, SchemaAction, SchemaEvent};
use driftdb_common::table::table_files::TableFiles;
use driftdb_common::table::timeline::Timeline;
use driftdb_common::table::view::View;
use driftdb_common::table::{build::index, diff};
use serde_json::{Value, json};

pub const TABLES: [&str; 2] = ["t", "u"];
/// Commit 21 drops `t`, commit 22 creates it again. Commit 11 gives it another index.
const DROPPED: u64 = 21;
const ALTERED: u64 = 11;

pub fn dir() -> DataDir {
    DataDir::new("/data")
}

type Rows = BTreeMap<String, Value>;
/// An event of one table: kind, key, and the row after it.
type ScriptEvent = (EventType, Option<String>, Option<Value>);

/// The events of a commit, by table index, given the rows before it.
fn commit(seq: u64, rows: &[Option<Rows>; 2]) -> Vec<(usize, ScriptEvent)> {
    match seq {
        1 | 2 => return vec![(usize::from(seq == 2), (EventType::Schema, None, None))],
        ALTERED => return vec![(0, (EventType::Schema, None, None))],
        DROPPED => return vec![(0, (EventType::Schema, None, None))],
        _ if seq == DROPPED + 1 => return vec![(0, (EventType::Schema, None, None))],
        _ => {}
    }
    let mut events = Vec::new();
    let tables = if seq.is_multiple_of(3) { 2 } else { 1 };
    for (table, rows) in rows.iter().enumerate().take(tables) {
        let mut now = rows.clone().unwrap_or_default();
        for i in 0..1 + seq % 3 {
            let key = format!("k{}", (seq * 7 + i * i) % 5);
            let event = match now.get(&key) {
                None => {
                    let row = json!({"id": key, "n": seq, "pad": "x".repeat(usize::try_from(seq % 4).unwrap() * 50)});
                    (EventType::Insert, Some(key.clone()), Some(row))
                }
                Some(_) if (seq + i).is_multiple_of(4) => (EventType::SoftDelete, Some(key.clone()), None),
                Some(row) => {
                    let mut row = row.clone();
                    row["n"] = (seq * 10 + i).into();
                    (EventType::Patch, Some(key.clone()), Some(row))
                }
            };
            match &event.2 {
                Some(row) => _ = now.insert(key, row.clone()),
                None => _ = now.remove(&key),
            }
            events.push((table, event));
        }
    }
    events
}

/// The rows of each table after every commit, and the events of every commit.
pub struct Script {
    pub states: Vec<[Option<Rows>; 2]>,
    pub events: Vec<Vec<(usize, ScriptEvent)>>,
}

impl Script {
    pub fn new(last: u64) -> Script {
        let mut script = Script { states: vec![[None, None]], events: vec![Vec::new()] };
        for seq in 1..=last {
            let mut rows = script.states.last().unwrap().clone();
            let events = commit(seq, &rows);
            for (table, (kind, key, after)) in &events {
                match (kind, key) {
                    (EventType::Schema, _) if seq == DROPPED => rows[*table] = None,
                    (EventType::Schema, _) => _ = rows[*table].get_or_insert_default(),
                    (_, Some(key)) => {
                        let rows = rows[*table].as_mut().unwrap();
                        match after {
                            Some(row) => _ = rows.insert(key.clone(), row.clone()),
                            None => _ = rows.remove(key),
                        }
                    }
                    _ => {}
                }
            }
            script.states.push(rows);
            script.events.push(events);
        }
        script
    }

    /// A commit as the log takes it.
    pub fn group(&self, seq: u64) -> Group {
        let events = &self.events[usize::try_from(seq).unwrap()];
        let mut group = Group { last_seq: seq, last_ms: 1000 + seq * 10, ..Group::default() };
        let mut told: BTreeSet<usize> = BTreeSet::new();
        let meta = CommitMeta { reason: format!("r{seq}"), ..CommitMeta::default() };
        for (table, (kind, key, after)) in events {
            let id = *table as u64 + 1;
            let here = u32::try_from(events.iter().filter(|(at, _)| at == table).count()).unwrap();
            let shape = CommitShape { frames: u32::try_from(events.len()).unwrap(), frames_in_table: here };
            let first = told.insert(*table).then_some((shape, &meta));
            let document = match kind {
                EventType::Schema => Some(schema(*table, seq)),
                EventType::Patch => Some(json_document(&json!({"n": after.as_ref().unwrap()["n"]}))),
                _ => after.as_ref().map(json_document),
            };
            if seq <= 2 {
                group.created.push((id, TABLES[*table].to_owned()));
            }
            let frames = group.tables.entry(id).or_default();
            let first_of_group = frames.frames.is_empty();
            frames.last_seq = seq;
            let key = key.as_ref().map(|key| Key::Str(key.as_str().into()));
            frames.frames.push(seq, group.last_ms, *kind, |out| {
                event::encode(out, key.as_ref(), document.as_ref(), false, first, first_of_group)
            });
        }
        group
    }
}

fn json_document(value: &Value) -> Document {
    Document::from_json(&value.to_string()).unwrap()
}

fn schema(table: usize, seq: u64) -> Document {
    let action = match seq {
        DROPPED => SchemaAction::Drop,
        ALTERED => SchemaAction::Alter,
        _ => SchemaAction::Create,
    };
    let indexes = if seq >= ALTERED { vec!["n".to_owned(), "pad".to_owned()] } else { vec!["n".to_owned()] };
    let schema = Schema {
        table: TABLES[table].to_owned(),
        primary_key: "id".to_owned(),
        key_type: KeyType::String,
        indexes,
        retain_ms: None,
        auto_key: false,
    };
    SchemaEvent::new(action, schema).to_document().unwrap()
}

/// The next merge task. It comes much sooner than files of this size would need it.
fn next_task(manifest: &Manifest) -> Option<MergeTask> {
    let image = manifest.images.last().map_or(0, |image| image.seq);
    let last = manifest.deltas.last()?.seq;
    if last >= image + 9 {
        return Some(MergeTask::WriteImage);
    }
    if manifest.images.len() > 1 {
        return Some(MergeTask::RemoveImage(0));
    }
    let newest = manifest.deltas.partition_point(|delta| delta.seq <= image);
    (manifest.deltas.len() - newest > 3).then(|| MergeTask::MergeDeltas(newest + 1..newest + 3))
}

/// A database open for writing, and what recovery found in it.
pub struct OpenDatabase {
    pub log: Log,
    pub table_files: TableFiles,
    layer_maps: BTreeMap<u64, LayerMap>,
    pub timelines: BTreeMap<u64, Arc<Timeline>>,
}

pub fn table_files(disk: &SimDisk) -> TableFiles {
    TableFiles { fs: disk.shared(), dir: dir(), cache: BlockCache::new(1 << 20) }
}

struct Opening<'a> {
    table_files: &'a TableFiles,
    layer_maps: BTreeMap<u64, LayerMap>,
    timelines: BTreeMap<u64, Arc<Timeline>>,
}

impl Replay for Opening<'_> {
    fn replay_table(&mut self, manifest: &Manifest) -> Result<()> {
        let layers = self.table_files.open(manifest, None)?;
        let id = manifest.table_id;
        self.layer_maps.insert(id, layers.clone());
        self.timelines.insert(id, Arc::new(Timeline::open(id, &*manifest.table, layers)?));
        Ok(())
    }

    fn replay_commit(&mut self, commit: LogCommit) -> Result<()> {
        let info = Arc::new(CommitInfo { seq: commit.seq, time_ms: commit.time_ms, meta: commit.meta });
        commit.parts.into_iter().try_for_each(|(id, events)| {
            let timeline = self.timelines.get(&id).expect("recovery announces a table before its commits");
            timeline.apply(&info, events)
        })
    }
}

impl OpenDatabase {
    pub fn open(disk: &SimDisk) -> Result<OpenDatabase> {
        let table_files = table_files(disk);
        let options = LogOptions { background: false, ..LogOptions::default() };
        let mut opening =
            Opening { table_files: &table_files, layer_maps: BTreeMap::new(), timelines: BTreeMap::new() };
        let log = recovery::open(disk.shared(), &dir(), options, &mut opening)?;
        let Opening { layer_maps, mut timelines, .. } = opening;
        // Recovery also announces tables whose creation did not survive.
        timelines.retain(|id, _| log.manifest(*id).is_some());
        Ok(OpenDatabase { log, table_files, layer_maps, timelines })
    }

    pub fn published(&self) -> u64 {
        self.log.published().0
    }

    pub fn manifest(&self, id: u64) -> Manifest {
        self.log.manifest(id).unwrap().clone()
    }

    fn edit(&mut self, id: u64, change: &dyn Fn(&mut Manifest)) -> Result<(), AppendError> {
        let before = self.manifest(id);
        let after = self.log.edit_manifest(id, &mut |manifest| {
            change(manifest);
            Ok(())
        })?;
        let known = self.layer_maps.get(&id);
        let layers = self.table_files.open(&after, known).map_err(AppendError::Refused)?;
        self.layer_maps.insert(id, layers);
        let kept = snapshot_files(&self.table_files.dir, &after);
        for file in
            snapshot_files(&self.table_files.dir, &before).into_iter().filter(|file| !kept.contains(file))
        {
            let _ = self.table_files.fs.remove(&file);
        }
        Ok(())
    }

    fn layers(&mut self, id: u64) -> Result<LayerMap, AppendError> {
        let manifest = self.manifest(id);
        let known = self.layer_maps.get(&id).cloned().unwrap_or_default();
        if !known.matches(&manifest) {
            let layers = self.table_files.open(&manifest, Some(&known)).map_err(AppendError::Refused)?;
            self.layer_maps.insert(id, layers);
        }
        Ok(self.layer_maps.get(&id).cloned().unwrap_or_default())
    }

    /// Takes a snapshot of a table and runs the merge tasks that are then due. Returns the names of the steps.
    pub fn take(&mut self, id: u64, limits: DeltaLimits) -> Result<Vec<&'static str>, AppendError> {
        let refused = AppendError::Refused;
        let mut done = Vec::new();
        let (seq, _) = self.log.published();
        loop {
            let (manifest, layers) = (self.manifest(id), self.layers(id)?);
            let slot = self.log.table_entry(id).unwrap();
            let reach = ReadLimit { segment: slot.segment, bytes: slot.bytes, seq };
            let built = delta::build_next(&self.table_files, &manifest, &layers, reach, limits, &|_| Ok(()));
            let Some(built) = built.map_err(refused)? else { break };
            self.edit(id, &|manifest| manifest.deltas.push(built.layer.clone()))?;
            done.push("delta");
        }
        loop {
            let (manifest, layers) = (self.manifest(id), self.layers(id)?);
            let table = (manifest.table.as_str(), id);
            match next_task(&manifest) {
                Some(MergeTask::WriteImage) => {
                    let indexes = manifest.deltas.last().unwrap().indexes.clone();
                    let image =
                        image::build(&self.table_files, table, &layers, layers.end(), &indexes, &|_| Ok(()));
                    let image = image.map_err(refused)?;
                    self.edit(id, &|manifest| manifest.images.push(image.clone()))?;
                    done.push("image");
                }
                Some(MergeTask::MergeDeltas(range)) => {
                    let deltas = layers.deltas_of(&manifest, range.clone());
                    let since = RequestsSince::default();
                    let delta = merge::merge_deltas(&self.table_files, table, &deltas, since, &|_| Ok(()));
                    let delta = delta.map_err(refused)?.unwrap();
                    self.edit(id, &|manifest| {
                        _ = manifest.deltas.splice(range.clone(), [delta.clone()]).count()
                    })?;
                    done.push("merge");
                }
                Some(MergeTask::RemoveImage(at)) => {
                    self.edit(id, &|manifest| _ = manifest.images.remove(at))?;
                    done.push("drop");
                }
                None => break,
            }
        }
        done.extend(self.index(id)?);
        Ok(done)
    }

    /// Builds the index on `pad` for the newest files that lack it.
    fn index(&mut self, id: u64) -> Result<Option<&'static str>, AppendError> {
        let (manifest, layers) = (self.manifest(id), self.layers(id)?);
        if id != 1 || layers.end() < ALTERED {
            return Ok(None);
        }
        let (mut deltas, mut images) = (Vec::new(), Vec::new());
        for (file, is_image) in layers.newest_layers().filter(|(file, _)| file.index("pad").is_none()) {
            let before = |key: &[u8], seq: u64| layers.document_before(key, seq);
            let table = (manifest.table.as_str(), id);
            index::build(&self.table_files, table, file, "pad", is_image, &before, &|_| Ok(()))
                .map_err(AppendError::Refused)?;
            if is_image { images.push(file.seq) } else { deltas.push(file.seq) }
        }
        if deltas.is_empty() && images.is_empty() {
            return Ok(None);
        }
        self.edit(id, &|manifest| {
            let add = |indexes: &mut Vec<String>| indexes.push("pad".to_owned());
            manifest
                .deltas
                .iter_mut()
                .filter(|delta: &&mut DeltaLayer| deltas.contains(&delta.seq))
                .for_each(|e| add(&mut e.indexes));
            manifest
                .images
                .iter_mut()
                .filter(|f: &&mut ImageLayer| images.contains(&f.seq))
                .for_each(|f| add(&mut f.indexes));
        })?;
        Ok(Some("index"))
    }

    /// Checks that the snapshot and index files on disk are those in the manifests.
    pub fn check_files(&self) -> Result<(), String> {
        for (id, timeline) in &self.timelines {
            let named: BTreeSet<PathBuf> = snapshot_files(&dir(), &self.manifest(*id)).into_iter().collect();
            let mut found = BTreeSet::new();
            let table = timeline.name();
            for of_files in [dir().snapshots(&table), dir().indexes(&table)] {
                let names = self.table_files.fs.list(&of_files).unwrap_or_default();
                found.extend(names.into_iter().map(|name| of_files.join(name)));
            }
            if named != found {
                return Err(format!("named are {named:?}, and there are {found:?}"));
            }
        }
        Ok(())
    }

    /// Checks that every commit up to `upto` reads as the script says.
    pub fn check(&self, script: &Script, upto: u64) -> Result<(), String> {
        for (table, name) in TABLES.iter().enumerate() {
            let Some(timeline) = self.timelines.get(&(table as u64 + 1)) else {
                if upto > table as u64 {
                    return Err(format!("table {table} is not there"));
                }
                continue;
            };
            check_timeline(timeline, script, table, upto).map_err(|e| format!("{name}: {e}"))?;
        }
        Ok(())
    }
}

/// Why an answer is wrong: it is an error, or its content differs.
#[derive(Debug)]
pub enum Wrong {
    Failed(Error),
    Content(String),
}

impl From<Error> for Wrong {
    fn from(error: Error) -> Wrong {
        Wrong::Failed(error)
    }
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Checks one table after every commit, by every way to read it.
pub fn check_timeline(
    timeline: &Arc<Timeline>,
    script: &Script,
    table: usize,
    upto: u64,
) -> Result<(), Wrong> {
    for seq in 0..=upto {
        check_moment(timeline, script, table, seq)?;
    }
    check_history(timeline, script, table, upto)?;
    let first = script.states.iter().position(|rows| rows[table].is_some()).unwrap() as u64;
    for (low, high) in [(first, upto), (upto / 2, upto)] {
        let rows = |seq: u64| script.states[seq as usize][table].clone();
        let (Some(before), Some(after)) = (rows(low), rows(high)) else { continue };
        let mut walk = diff::Diff::new(Some(View::at(timeline, low)?), View::at(timeline, high)?, None)?;
        let mut found = BTreeSet::new();
        while let Some(row) = walk.next_row()? {
            found.insert(row.key.to_string());
        }
        let keys = before.keys().chain(after.keys());
        let expected = keys.filter(|key| before.get(*key) != after.get(*key)).cloned().collect();
        same(&found, &expected, || format!("diff from {low} to {high}"))?;
    }
    Ok(())
}

fn check_moment(timeline: &Arc<Timeline>, script: &Script, table: usize, seq: u64) -> Result<(), Wrong> {
    let view = match (View::at(timeline, seq), &script.states[seq as usize][table]) {
        (Ok(view), Some(_)) => view,
        (Err(error), None) if error.reason() == Reason::TableNotFound => return Ok(()),
        (Err(error), _) => return Err(error.into()),
        (Ok(_), None) => return Err(Wrong::Content(format!("there is no table at {seq}"))),
    };
    let expected = script.states[seq as usize][table].clone().unwrap();
    let mut found = Rows::new();
    let mut failed = None;
    view.scan((Bound::Unbounded, Bound::Unbounded), |row| match row.document.to_json() {
        Ok(text) => {
            found.insert(row.key.to_string(), serde_json::from_str(&text).unwrap());
            true
        }
        Err(error) => {
            failed = Some(error);
            false
        }
    })?;
    failed.map_or(Ok(()), Err)?;
    same(&found, &expected, || format!("rows at {seq}"))?;
    for key in (0..5).map(|k| format!("k{k}")) {
        let row = view.get(&Key::Str(key.as_str().into()))?;
        let row = row.map(|row| row.document.to_json()).transpose()?;
        let row: Option<Value> = row.map(|text| serde_json::from_str(&text).unwrap());
        same(&row.as_ref(), &expected.get(&key), || format!("{key} at {seq}"))?;
    }
    same(&view.counts()?.rows, &(expected.len() as u64), || format!("rows counted at {seq}"))?;
    let events =
        script.events[..=seq as usize].iter().flatten().filter(|(at, _)| *at == table).count() as u64;
    same(&view.counts()?.events, &events, || format!("events counted at {seq}"))
}

fn check_history(timeline: &Arc<Timeline>, script: &Script, table: usize, upto: u64) -> Result<(), Wrong> {
    for newest_first in [false, true] {
        let images = Images { before: true, after: true };
        let wanted = HistoryQuery { last: upto, newest_first, images, ..HistoryQuery::default() };
        let mut history = History::new(timeline, wanted);
        let mut found = Vec::new();
        loop {
            let batch = history.next_batch(7)?;
            if batch.is_empty() {
                break;
            }
            for change in batch {
                let after = change.after.map(|row| row.document.to_json()).transpose()?;
                let after: Option<Value> = after.map(|text| serde_json::from_str(&text).unwrap());
                let reason = change.commit.meta.as_ref().map(|meta| meta.reason.clone());
                let key = change.key.map(|key| key.to_string());
                found.push((change.commit.seq, reason, change.kind, key, after));
            }
        }
        let events = script.events.iter().enumerate().take(upto as usize + 1);
        let mut expected: Vec<_> = events
            .flat_map(|(seq, events)| events.iter().map(move |event| (seq as u64, event)))
            .filter(|(_, (at, _))| *at == table)
            .map(|(seq, (_, (kind, key, after)))| {
                (seq, Some(format!("r{seq}")), *kind, key.clone(), after.clone())
            })
            .collect();
        if newest_first {
            expected.reverse();
        }
        same(&found, &expected, || format!("history, newest first: {newest_first}"))?;
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(
    found: &T,
    expected: &T,
    what: impl Fn() -> String,
) -> Result<(), Wrong> {
    if found == expected {
        return Ok(());
    }
    Err(Wrong::Content(format!("{}: found {found:?}, expected {expected:?}", what())))
}
