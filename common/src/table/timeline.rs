//! The life of one table: its schemas, its past in files, and what came after those in memory.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::RwLock;

use crate::error::{Error, Reason, Result};
use crate::format::event::{CommitMeta, Event, EventType};
use crate::format::key::KeyType;
use crate::format::manifest::Floor;
use crate::format::snapshot;
use crate::table::layers::LayerMap;
use crate::table::memtable::{CommitInfo, Memtable, TableCounts};
use crate::table::schema::{Schema, SchemaAction, SchemaEvent};
use crate::table::view::{counts_in, read};

/// One table, from its creation on.
#[derive(Debug)]
pub struct Timeline {
    id: u64,
    name: String,
    schema_entries: RwLock<Vec<SchemaVersion>>,
    state: ArcSwap<TableState>,
}

/// Where a table's events are to be found: up to the chain's end in files, after it in memory. What is in both is the
/// same in both.
#[derive(Debug, Default)]
pub struct TableState {
    /// The files.
    pub chain: LayerMap,
    /// What came after them.
    pub overlay: Arc<Memtable>,
}

/// What a SCHEMA event began.
#[derive(Debug, Clone)]
struct SchemaVersion {
    commit: Arc<CommitInfo>,
    /// `None` from a drop on.
    schema: Option<Arc<Schema>>,
    /// The last CREATE: rows of commits before it are absent.
    born: u64,
}

/// A table's schema at a moment.
#[derive(Debug, Clone)]
pub struct SchemaAt {
    /// The schema.
    pub schema: Arc<Schema>,
    /// The last CREATE: rows of commits before it are absent.
    pub born: u64,
}

impl Timeline {
    /// A table that no event has been seen of yet.
    pub fn new(id: u64, name: impl Into<String>) -> Timeline {
        Timeline { id, name: name.into(), schema_entries: RwLock::default(), state: ArcSwap::default() }
    }

    /// A table as its files have it.
    pub fn open(id: u64, name: impl Into<String>, chain: LayerMap) -> Result<Timeline> {
        let timeline = Timeline::new(id, name);
        for schema_entry in &chain.properties().schema_entries {
            let snapshot::SchemaEntry { seq, time_ms, actor, reason, document } = schema_entry;
            let meta = CommitMeta { actor: actor.clone(), reason: reason.clone(), ..CommitMeta::default() };
            let meta = Some(Box::new(meta)).filter(|meta| **meta != CommitMeta::default());
            let commit = Arc::new(CommitInfo { seq: *seq, time_ms: *time_ms, meta });
            timeline.begin_chapter(&commit, SchemaEvent::from_document(document)?);
        }
        let overlay = Memtable::above(chain.counts());
        overlay.set_indexes(&timeline.indexes());
        timeline.state.store(Arc::new(TableState { chain, overlay: Arc::new(overlay) }));
        Ok(timeline)
    }

    /// The table's id: the seq that first created it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its events are to be found now.
    pub fn state(&self) -> Arc<TableState> {
        self.state.load_full()
    }

    /// Goes over to newer files, whose end must have been applied here. Only the thread that applies may ask for it.
    pub fn adopt(&self, chain: LayerMap) {
        let state = self.state();
        let overlay = if chain.end() > state.chain.end() {
            Arc::new(state.overlay.rebase(chain.counts()))
        } else {
            Arc::clone(&state.overlay)
        };
        self.state.store(Arc::new(TableState { chain, overlay }));
    }

    /// Raises the floor where newer files cannot be had.
    pub fn raise_floor(&self, floor: Option<Floor>) {
        let state = self.state();
        let chain = state.chain.with_floor(floor);
        self.state.store(Arc::new(TableState { chain, overlay: Arc::clone(&state.overlay) }));
    }

    /// The time of one of its commits, in milliseconds since 1970; `None` where it has no such commit.
    pub fn time_of(&self, seq: u64) -> Result<Option<u64>> {
        read(self, |state| match state.overlay.time_of(seq) {
            Some(time) => Ok(Some(time)),
            None => state.chain.time_of(seq),
        })
    }

    /// The last of its commits at or before a time, of those that are kept; 0 for none.
    pub fn last_at(&self, time_ms: u64) -> Result<u64> {
        let found = read(self, |state| match state.overlay.last_at(time_ms) {
            Some(seq) => Ok(Some(seq)),
            None => state.chain.last_at(time_ms),
        })?;
        // SCHEMA events are kept below the floor, too: they tell what is below it from what was before the table.
        let schema_entries = self.schema_entries.read();
        let upto = schema_entries.partition_point(|schema_entry| schema_entry.commit.time_ms <= time_ms);
        let schema_entry = upto.checked_sub(1).and_then(|last| schema_entries.get(last));
        Ok(found.unwrap_or_else(|| schema_entry.map_or(0, |schema_entry| schema_entry.commit.seq)))
    }

    /// How many events and live rows it had at a moment.
    pub fn counts(&self, seq: u64) -> Result<TableCounts> {
        read(self, |state| counts_in(state, seq))
    }

    /// Takes in one commit's events of this table. Commits must come in order, from one thread.
    pub fn apply(&self, commit: &Arc<CommitInfo>, events: Vec<Event>) -> Result<()> {
        let TableState { chain, overlay } = &*self.state();
        for (event, index) in events.into_iter().zip(0..) {
            match (event.kind, &event.document) {
                (EventType::Schema, Some(payload)) => {
                    let change = SchemaEvent::from_document(payload)?;
                    let emptied = change.action != SchemaAction::Alter;
                    self.begin_chapter(commit, change);
                    overlay.set_indexes(&self.indexes());
                    overlay.push_schema(commit, index, payload.clone(), emptied);
                }
                (EventType::Note, _) => overlay.push_note(commit, index),
                _ => {
                    let born = self.schema_entries.read().last().map_or(0, |last| last.born);
                    overlay.push_row(commit, index, event, born, chain)?;
                }
            }
        }
        Ok(())
    }

    fn begin_chapter(&self, commit: &Arc<CommitInfo>, change: SchemaEvent) {
        let SchemaEvent { action, schema } = change;
        let mut schema_entries = self.schema_entries.write();
        let born = match action {
            SchemaAction::Create => commit.seq,
            _ => schema_entries.last().map_or(0, |last| last.born),
        };
        let schema = (action != SchemaAction::Drop).then(|| Arc::new(schema));
        schema_entries.push(SchemaVersion { commit: Arc::clone(commit), schema, born });
    }

    /// The paths that its newest schema has indexes on.
    fn indexes(&self) -> Vec<String> {
        let schema_entries = self.schema_entries.read();
        let newest = schema_entries.last().and_then(|last| last.schema.as_ref());
        newest.map(|schema| schema.indexes.clone()).unwrap_or_default()
    }

    /// Fails for moments below the floor (I10).
    pub fn check_floor(&self, seq: u64) -> Result<()> {
        match self.state.load().chain.floor() {
            Some(floor) if seq < floor.seq => {
                let time = crate::table::format_time(floor.time_ms);
                let message = format!(
                    "table {:?} was compacted: its oldest moment that can be read is seq {}, at {time}, and seq {seq} was asked for",
                    self.name, floor.seq
                );
                Err(Error::new(Reason::BelowFloor, message)
                    .with("table", self.name.clone())
                    .with("floor_seq", floor.seq.to_string())
                    .with("floor_time", time))
            }
            _ => Ok(()),
        }
    }

    /// The table as it was at a moment. NOT_FOUND before its creation and after a drop, saying when that was (I10).
    pub fn schema_at(&self, seq: u64) -> Result<SchemaAt> {
        let schema_entries = self.schema_entries.read();
        let upto = schema_entries.partition_point(|schema_entry| schema_entry.commit.seq <= seq);
        let schema_entry = upto.checked_sub(1).and_then(|last| schema_entries.get(last));
        match (schema_entry, schema_entries.first()) {
            (Some(SchemaVersion { schema: Some(schema), born, .. }), _) => {
                Ok(SchemaAt { schema: Arc::clone(schema), born: *born })
            }
            (Some(SchemaVersion { commit, .. }), _) => Err(self.absent(seq, "was dropped by", commit)),
            (None, Some(first)) => Err(self.absent(seq, "was created by", &first.commit)),
            (None, None) => Err(Error::new(Reason::TableNotFound, format!("unknown table {:?}", self.name))),
        }
    }

    fn absent(&self, seq: u64, what: &str, commit: &CommitInfo) -> Error {
        let time = crate::table::format_time(commit.time_ms);
        let message = format!(
            "table {:?} does not exist at seq {seq}: it {what} commit {} at {time}",
            self.name, commit.seq
        );
        Error::new(Reason::TableNotFound, message)
            .with("table", self.name.clone())
            .with("seq", commit.seq.to_string())
            .with("time", time)
    }

    /// The type of the table's keys: the same all its life.
    pub fn key_type(&self) -> Result<KeyType> {
        Ok(self.schema_at(self.created_seq())?.schema.key_type)
    }

    /// The last CREATE at or before a commit; 0 where there is none.
    pub fn born_at(&self, seq: u64) -> u64 {
        let schema_entries = self.schema_entries.read();
        let upto = schema_entries.partition_point(|schema_entry| schema_entry.commit.seq <= seq);
        upto.checked_sub(1)
            .and_then(|last| schema_entries.get(last))
            .map_or(0, |schema_entry| schema_entry.born)
    }

    /// The commit that first created the table.
    pub fn created_seq(&self) -> u64 {
        self.schema_entries.read().first().map_or(self.id, |first| first.commit.seq)
    }
}
