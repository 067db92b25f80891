//! The life of one table: its schemas, and its events by era. There is one era so far, in memory.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::error::{Error, Reason, Result};
use crate::format::event::{Event, EventType};
use crate::table::overlay::{CommitInfo, Overlay};
use crate::table::schema::{Schema, SchemaAction, SchemaEvent};

/// One table, from its creation on.
#[derive(Debug)]
pub struct Timeline {
    id: u64,
    name: String,
    chapters: RwLock<Vec<Chapter>>,
    overlay: Overlay,
}

/// What a SCHEMA event began.
#[derive(Debug, Clone)]
struct Chapter {
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
        Timeline { id, name: name.into(), chapters: RwLock::default(), overlay: Overlay::default() }
    }

    /// The table's id: the seq that first created it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The events of the newest era.
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// Takes in one commit's events of this table. Commits must come in order, from one thread.
    pub fn apply(&self, commit: &Arc<CommitInfo>, events: Vec<Event>) -> Result<()> {
        for event in events {
            match (event.kind, &event.document) {
                (EventType::Schema, Some(payload)) => {
                    let SchemaEvent { action, schema } = SchemaEvent::from_document(payload)?;
                    let created = action == SchemaAction::Create;
                    let dropped = action == SchemaAction::Drop;
                    let mut chapters = self.chapters.write();
                    let born = if created { commit.seq } else { chapters.last().map_or(0, |last| last.born) };
                    let schema = (!dropped).then(|| Arc::new(schema));
                    chapters.push(Chapter { commit: Arc::clone(commit), schema, born });
                    self.overlay.push_schema(commit, payload.clone(), created || dropped);
                }
                (EventType::Note, _) => {}
                _ => {
                    let born = self.chapters.read().last().map_or(0, |last| last.born);
                    self.overlay.push_row(commit, event, born)?;
                }
            }
        }
        Ok(())
    }

    /// The table as it was at a moment. NOT_FOUND before its creation and after a drop, saying when that was (I10).
    pub fn schema_at(&self, seq: u64) -> Result<SchemaAt> {
        let chapters = self.chapters.read();
        let upto = chapters.partition_point(|chapter| chapter.commit.seq <= seq);
        let chapter = upto.checked_sub(1).and_then(|last| chapters.get(last));
        match (chapter, chapters.first()) {
            (Some(Chapter { schema: Some(schema), born, .. }), _) => {
                Ok(SchemaAt { schema: Arc::clone(schema), born: *born })
            }
            (Some(Chapter { commit, .. }), _) => Err(self.absent(seq, "was dropped by", commit)),
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

    /// The last CREATE at or before a commit; 0 where there is none.
    pub fn born_at(&self, seq: u64) -> u64 {
        let chapters = self.chapters.read();
        let upto = chapters.partition_point(|chapter| chapter.commit.seq <= seq);
        upto.checked_sub(1).and_then(|last| chapters.get(last)).map_or(0, |chapter| chapter.born)
    }

    /// The commit that first created the table.
    pub fn created_seq(&self) -> u64 {
        self.chapters.read().first().map_or(self.id, |first| first.commit.seq)
    }
}
