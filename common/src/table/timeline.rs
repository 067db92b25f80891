//! The history of one table: its schemas, and where its events are stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};

use crate::error::{Error, Reason, Result};
use crate::format::event::{CommitMeta, Event, EventType};
use crate::format::key::KeyType;
use crate::format::manifest::{FileTotals, Floor};
use crate::format::snapshot::SchemaEntry;
use crate::table::layers::LayerMap;
use crate::table::memtable::{CommitInfo, Memtable};
use crate::table::point_in_time::{CommitBound, below_floor};
use crate::table::schema::{Schema, SchemaAction, SchemaEvent};
use crate::table::table_counts::TableCounts;
use crate::table::table_state::TableState;
use crate::work;

pub mod naming;

/// How long a read waits before it is repeated, if the newer manifest has not been read yet.
const READ_RETRY_PAUSE: Duration = Duration::from_millis(25);

/// How often a read of any table of this process has found damage.
static DAMAGE_FOUND: AtomicU64 = AtomicU64::new(0);

/// A number that grows when a read of any table finds damage: as long as it is the same, no table need be asked.
pub fn damage_found() -> u64 {
    DAMAGE_FOUND.load(Ordering::Acquire)
}

/// The history of one table, from its creation on.
#[derive(Debug)]
pub struct Timeline {
    id: u64,
    /// The name before the first SCHEMA event that is known.
    first_name: Arc<str>,
    /// Oldest first.
    schemas: RwLock<Vec<SchemaVersion>>,
    state: ArcSwap<TableState>,
    /// What the table's files take on disk, as far as the owner of the timeline knows them.
    file_totals: Mutex<FileTotals>,
    /// Why the table cannot be read at all: its layers are damaged beyond what the log can replace.
    unreadable: Option<Error>,
    /// The first damage that a read has found, until somebody asks for it.
    found_damage: Mutex<Option<Error>>,
}

/// The schema that a SCHEMA event began.
#[derive(Debug, Clone)]
struct SchemaVersion {
    commit: Arc<CommitInfo>,
    /// `None` after a DROP.
    schema: Option<Arc<Schema>>,
    /// The table's name; the last one after a DROP.
    name: Arc<str>,
    /// The last CREATE. Rows of earlier commits are absent.
    created_at: u64,
}

/// A table's schema at a point in time.
#[derive(Debug, Clone)]
pub struct SchemaAt {
    /// The schema.
    pub schema: Arc<Schema>,
    /// The last CREATE. Rows of earlier commits are absent.
    pub created_at: u64,
}

impl Timeline {
    /// A table without events.
    pub fn new(id: u64, name: impl Into<String>) -> Timeline {
        let name: String = name.into();
        Timeline {
            id,
            first_name: Arc::from(name),
            schemas: RwLock::default(),
            state: ArcSwap::default(),
            file_totals: Mutex::default(),
            unreadable: None,
            found_damage: Mutex::default(),
        }
    }

    /// A table that cannot be read: every read of it fails with this error. Its events are taken and forgotten.
    pub fn unreadable(id: u64, name: impl Into<String>, error: Error) -> Timeline {
        Timeline { unreadable: Some(error), ..Timeline::new(id, name) }
    }

    /// Why the table cannot be read at all; `None` if it can be.
    pub fn unreadable_because(&self) -> Option<&Error> {
        self.unreadable.as_ref()
    }

    /// Takes the first damage that a read of the table has found since the last call.
    pub fn take_found_damage(&self) -> Option<Error> {
        self.found_damage.lock().take()
    }

    /// A table with the events that its layers hold.
    pub fn open(id: u64, name: impl Into<String>, layers: LayerMap) -> Result<Timeline> {
        let timeline = Timeline::new(id, name);
        for entry in &layers.properties().schema_entries {
            let SchemaEntry { seq, time_ms, actor, reason, document } = entry;
            let meta = CommitMeta { actor: actor.clone(), reason: reason.clone(), ..CommitMeta::default() };
            let meta = Some(Box::new(meta)).filter(|meta| **meta != CommitMeta::default());
            let commit = Arc::new(CommitInfo { seq: *seq, time_ms: *time_ms, meta });
            timeline.push_schema(&commit, SchemaEvent::from_document(document)?);
        }
        let memtable = Memtable::above(layers.counts());
        memtable.set_indexes(&timeline.indexes());
        timeline.state.store(Arc::new(TableState { layers, memtable: Arc::new(memtable) }));
        Ok(timeline)
    }

    /// The table's id: the seq of the commit that first created it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the table's files take on disk.
    pub fn file_totals(&self) -> FileTotals {
        *self.file_totals.lock()
    }

    /// Sets what the table's files take on disk: who follows the files knows it.
    pub fn set_file_totals(&self, totals: FileTotals) {
        *self.file_totals.lock() = totals;
    }

    /// Where the table's events are stored now.
    pub fn state(&self) -> Arc<TableState> {
        self.state.load_full()
    }

    /// Calls `read` with the table's state. Repeats the call if a file has vanished because newer layers replaced it, for as
    /// long as the present work has patience. `read` must not hold a lock.
    pub(super) fn read<T>(&self, mut read: impl FnMut(&TableState) -> Result<T>) -> Result<T> {
        if let Some(error) = &self.unreadable {
            return Err(error.clone());
        }
        let mut gone_since: Option<Instant> = None;
        loop {
            let state = self.state();
            match read(&state) {
                Err(error)
                    if error.reason() == Reason::FileGone
                        && gone_since.get_or_insert_with(Instant::now).elapsed() < work::patience() =>
                {
                    if Arc::ptr_eq(&state, &self.state()) {
                        // The thread that follows the manifest has not read the newer one yet. A shared mount may show
                        // it late.
                        work::pause(READ_RETRY_PAUSE)?;
                    }
                }
                Err(error) if error.reason() == Reason::FileGone => {
                    return Err(error.context(format_args!("cannot read table {:?}", self.name())));
                }
                Err(error) if error.reason() == Reason::Corrupt => {
                    self.found_damage.lock().get_or_insert_with(|| error.clone());
                    DAMAGE_FOUND.fetch_add(1, Ordering::AcqRel);
                    return Err(error);
                }
                other => return other,
            }
        }
    }

    /// Switches to newer layers, up to whose end everything must have been applied here. Only the thread that applies
    /// commits may call this.
    pub fn install_layers(&self, layers: LayerMap) {
        let state = self.state();
        let memtable = if layers.end() > state.layers.end() {
            Arc::new(state.memtable.rebase(layers.counts()))
        } else {
            Arc::clone(&state.memtable)
        };
        self.state.store(Arc::new(TableState { layers, memtable }));
    }

    /// Raises the floor if newer layers cannot be opened.
    pub fn raise_floor(&self, floor: Option<Floor>) {
        let state = self.state();
        let layers = state.layers.with_floor(floor);
        self.state.store(Arc::new(TableState { layers, memtable: Arc::clone(&state.memtable) }));
    }

    /// The time of one of the table's commits, in milliseconds since 1970; `None` if the table has no such commit.
    pub fn time_of(&self, seq: u64) -> Result<Option<u64>> {
        if self.unreadable.is_some() {
            // Points in time must be resolved for the other tables all the same.
            return Ok(None);
        }
        self.read(|state| state.time_of(seq))
    }

    /// The last of the table's commits at or before a time in milliseconds since 1970; 0 if there is none. Of the
    /// commits below the floor, only those with a SCHEMA event count.
    pub fn last_at(&self, time_ms: u64) -> Result<u64> {
        if self.unreadable.is_some() {
            return Ok(0);
        }
        if let Some(seq) = self.read(|state| state.last_at(time_ms))? {
            return Ok(seq);
        }
        // SCHEMA events are kept below the floor: they separate points in time below it from points in time before
        // the table existed.
        let schemas = self.schemas.read();
        let count = schemas.partition_point(|version| version.commit.time_ms <= time_ms);
        let version = count.checked_sub(1).and_then(|last| schemas.get(last));
        Ok(version.map_or(0, |version| version.commit.seq))
    }

    /// The table's counts after a commit.
    pub fn counts(&self, seq: u64) -> Result<TableCounts> {
        self.read(|state| state.counts(seq))
    }

    /// Applies one commit's events of this table. Commits must be applied in order, by one thread.
    pub fn apply(&self, commit: &Arc<CommitInfo>, events: Vec<Event>) -> Result<()> {
        if self.unreadable.is_some() {
            return self.follow_names(commit, &events);
        }
        let TableState { layers, memtable } = &*self.state();
        for (event, index) in events.into_iter().zip(0..) {
            match (event.kind, &event.document) {
                (EventType::Schema, Some(payload)) => {
                    let change = SchemaEvent::from_document(payload)?;
                    let emptied = change.action.removes_rows();
                    self.push_schema(commit, change);
                    memtable.set_indexes(&self.indexes());
                    memtable.push_schema(commit, index, payload.clone(), emptied)?;
                }
                (EventType::Note, _) => memtable.push_note(commit, index)?,
                _ => {
                    let created_at = self.schemas.read().last().map_or(0, |last| last.created_at);
                    memtable.push_row(commit, index, event, created_at, layers)?;
                }
            }
        }
        Ok(())
    }

    fn push_schema(&self, commit: &Arc<CommitInfo>, change: SchemaEvent) {
        let SchemaEvent { action, schema, .. } = change;
        let mut schemas = self.schemas.write();
        let created_at = match action {
            SchemaAction::Create => commit.seq,
            _ => schemas.last().map_or(0, |last| last.created_at),
        };
        let name = schemas.last().map(|last| &last.name).filter(|name| ***name == *schema.table);
        let name = name.map_or_else(|| Arc::from(schema.table.as_str()), Arc::clone);
        let schema = (action != SchemaAction::Drop).then(|| Arc::new(schema));
        schemas.push(SchemaVersion { commit: Arc::clone(commit), schema, name, created_at });
    }

    /// The paths that the newest schema has indexes on.
    fn indexes(&self) -> Vec<String> {
        let schemas = self.schemas.read();
        let newest = schemas.last().and_then(|last| last.schema.as_ref());
        newest.map(|schema| schema.indexes.clone()).unwrap_or_default()
    }

    /// Fails with BELOW_FLOOR if a commit is below the floor (I10).
    pub fn check_floor(&self, seq: u64) -> Result<()> {
        match self.state.load().layers.floor() {
            Some(floor) if seq < floor.seq => {
                Err(below_floor(&self.name_at(seq), CommitBound::Seq(seq), floor))
            }
            _ => Ok(()),
        }
    }

    /// The table's schema after a commit. Fails with TABLE_NOT_FOUND before the table's creation and after a DROP;
    /// the error says when that was (I10).
    pub fn schema_at(&self, seq: u64) -> Result<SchemaAt> {
        if let Some(error) = &self.unreadable {
            return Err(error.clone());
        }
        let schemas = self.schemas.read();
        let count = schemas.partition_point(|version| version.commit.seq <= seq);
        let version = count.checked_sub(1).and_then(|last| schemas.get(last));
        match (version, schemas.first()) {
            (Some(SchemaVersion { schema: Some(schema), created_at, .. }), _) => {
                Ok(SchemaAt { schema: Arc::clone(schema), created_at: *created_at })
            }
            (Some(SchemaVersion { commit, name, .. }), _) => {
                Err(not_found(name, seq, ("it was dropped", ""), commit))
            }
            // The name that it was asked for by: the newest.
            (None, Some(first)) => Err(not_found(
                schemas.last().map_or(&first.name, |last| &last.name),
                seq,
                ("it was created", ""),
                &first.commit,
            )),
            (None, None) => {
                Err(Error::new(Reason::TableNotFound, format!("table {:?} does not exist", self.first_name)))
            }
        }
    }

    /// The type of the table's keys.
    pub fn key_type(&self) -> Result<KeyType> {
        Ok(self.key_schema()?.key_type)
    }

    /// The schema that says what the keys of all rows are: the newest. A table gets another key only if it never had a row.
    pub fn key_schema(&self) -> Result<Arc<Schema>> {
        if let Some(error) = &self.unreadable {
            return Err(error.clone());
        }
        let newest = self.schemas.read().iter().rev().find_map(|version| version.schema.clone());
        newest.ok_or_else(|| {
            Error::new(Reason::TableNotFound, format!("table {:?} does not exist", self.first_name))
        })
    }

    /// The last CREATE at or before a commit; 0 if there is none.
    pub fn created_at(&self, seq: u64) -> u64 {
        let schemas = self.schemas.read();
        let count = schemas.partition_point(|version| version.commit.seq <= seq);
        count.checked_sub(1).and_then(|last| schemas.get(last)).map_or(0, |version| version.created_at)
    }

    /// The commits up to and including `last` that left the table without rows: each CREATE and DROP, oldest first.
    pub(super) fn emptied_up_to(&self, last: u64) -> Vec<u64> {
        let schemas = self.schemas.read();
        let kept = schemas.iter().take_while(|version| version.commit.seq <= last);
        // Every version but that of an ALTER.
        let emptied =
            kept.filter(|version| version.schema.is_none() || version.created_at == version.commit.seq);
        emptied.map(|version| version.commit.seq).collect()
    }

    /// The commit that first created the table.
    pub fn created_seq(&self) -> u64 {
        self.schemas.read().first().map_or(self.id, |first| first.commit.seq)
    }
}

/// The error for a table that does not exist at a commit: what another commit did to it, and what to do about it.
fn not_found(name: &str, seq: u64, (what_happened, advice): (&str, &str), commit: &CommitInfo) -> Error {
    let time = crate::table::format_time(commit.time_ms);
    let message = format!(
        "table {name:?} does not exist at seq {seq}: {what_happened} by commit {} at {time}{advice}",
        commit.seq
    );
    Error::new(Reason::TableNotFound, message)
        .with("table", name)
        .with("seq", commit.seq.to_string())
        .with("time", time)
}
