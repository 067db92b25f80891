//! The events of a row, or of a whole table, between two points in time.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::event::{CommitMeta, EventMarks, EventType};
use crate::format::key::Key;
use crate::format::principal_text::actor_of;
use crate::format::snapshot::{TableChange, VersionEntry};
use crate::limits;
use crate::table::event_id::EventId;
use crate::table::layers::{TableCommit, read_sort_key, sort_key};
use crate::table::memtable::{CommitInfo, MemtableEvent, NumberedEvent, Version};
use crate::table::table_state::TableState;
use crate::table::timeline::Timeline;
use crate::table::view::Row;
use crate::work;

/// One event, with the row before and after it if the query asks for them.
#[derive(Debug, Clone)]
pub struct DriftEvent {
    /// The commit.
    pub commit: Arc<CommitInfo>,
    /// The row's key; `None` for SCHEMA.
    pub key: Option<Key>,
    /// What kind of event it was.
    pub kind: EventType,
    /// What was written; `None` for SOFT_DELETE.
    pub payload: Option<Document>,
    /// How it came about.
    pub marks: EventMarks,
    /// The row before the event.
    pub before: Option<Row>,
    /// The row after the event.
    pub after: Option<Row>,
}

impl DriftEvent {
    /// Removes the images that are not wanted.
    pub fn keep_images(&mut self, wanted: Images) {
        self.before = self.before.take().filter(|_| wanted.before);
        self.after = self.after.take().filter(|_| wanted.after);
    }

    /// The event of a row that made a version of it. It holds no memory besides its own.
    pub fn of_version(
        (key, id): (&Key, EventId),
        version: VersionEntry,
        (before, after): RowImages,
    ) -> DriftEvent {
        let VersionEntry { kind, time_ms, actor, reason, payload, marks, .. } = version;
        let detached = |row: Row| Row { document: row.document.detached(), ..row };
        DriftEvent {
            commit: commit_info(id.seq, time_ms, actor, reason),
            key: Some(key.clone()),
            kind,
            payload: payload.map(|payload| payload.detached()),
            marks,
            before: before.map(detached),
            after: after.map(detached),
        }
    }

    /// An estimate of the bytes that the event takes.
    pub fn size(&self) -> usize {
        let images = [&self.before, &self.after].into_iter().flatten().map(|row| &row.document);
        let documents = images.chain(&self.payload).map(|document| document.msgpack().len());
        EVENT_OVERHEAD + documents.sum::<usize>()
    }
}

/// An estimate of the bytes that an event takes besides its documents.
const EVENT_OVERHEAD: usize = 128;

/// Which images of a row are returned with its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Images {
    /// The row before the event.
    pub before: bool,
    /// The row after the event.
    pub after: bool,
}

/// A filter of rows by key. A row passes if it meets both conditions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyFilter {
    /// The row's key, as text, is one of these. If empty, any key meets the condition.
    pub keys: BTreeSet<String>,
    /// The row's key, as text, begins with this.
    pub prefix: String,
}

impl KeyFilter {
    /// Whether every row passes.
    pub fn passes_all(&self) -> bool {
        self.keys.is_empty() && self.prefix.is_empty()
    }

    /// Whether a row passes.
    pub fn passes(&self, key: &Key) -> bool {
        let meets =
            |text: &str| (self.keys.is_empty() || self.keys.contains(text)) && text.starts_with(&self.prefix);
        match key {
            _ if self.passes_all() => true,
            Key::Str(text) => meets(text),
            Key::Int(int) => meets(&int.to_string()),
            Key::Composite(key) => meets(key.text()),
        }
    }
}

/// Which events, in which order.
#[derive(Debug, Clone, Default)]
pub struct HistoryQuery {
    /// The row whose events are read. If `None`, the events of the whole table, SCHEMA events included.
    pub key: Option<Key>,
    /// For the whole table: only the events of rows that pass. SCHEMA events always pass.
    pub rows: Arc<KeyFilter>,
    /// For the whole table: only the events of commits that this actor made, SCHEMA events included.
    pub actor: Option<String>,
    /// Events after this commit. Events at or below the floor are never returned: compaction has discarded them.
    pub after: u64,
    /// Events up to and including this commit.
    pub last: u64,
    /// The newest events first.
    pub newest_first: bool,
    /// Which images of the row are returned with each event.
    pub images: Images,
}

/// How much one call reads.
#[derive(Debug, Clone, Copy)]
pub struct ReadBudget {
    /// The number of events read, whether they pass the filter or not.
    pub events: usize,
    /// An estimate of the bytes of the events returned. One event may exceed it.
    pub bytes: usize,
}

/// The events of a table, or of one row, after one commit and up to another. It keeps no files open between two calls.
#[derive(Debug, Clone)]
pub struct History {
    timeline: Arc<Timeline>,
    query: HistoryQuery,
    /// The events that are still to be read lie after the first id, up to and including the second.
    unread: (EventId, EventId),
    is_truncated: bool,
}

/// The events that one call has read.
#[derive(Debug)]
struct EventBatch {
    events: Vec<(EventId, DriftEvent)>,
    /// How much more the call may read.
    budget: ReadBudget,
    /// The last event read, whether it passed or not.
    last_read: Option<EventId>,
}

impl EventBatch {
    fn has_room(&self) -> bool {
        self.budget.events > 0 && self.budget.bytes > 0
    }

    /// Counts an event that does not pass, or a commit without events of the table, as read.
    fn skip(&mut self, id: EventId) {
        self.last_read = Some(id);
        self.budget.events = self.budget.events.saturating_sub(1);
    }

    fn push(&mut self, id: EventId, event: DriftEvent) {
        self.budget.bytes = self.budget.bytes.saturating_sub(event.size());
        self.events.push((id, event));
        self.skip(id);
    }
}

impl History {
    /// The events that a query asks for.
    pub fn new(timeline: &Arc<Timeline>, query: HistoryQuery) -> History {
        let floor = timeline.state().layers.floor().map_or(0, |floor| floor.seq);
        let is_truncated = query.after < floor;
        let unread = (EventId::end_of(query.after.max(floor)), EventId::end_of(query.last));
        History { timeline: Arc::clone(timeline), query, unread, is_truncated }
    }

    /// Whether the query asks for events that compaction has discarded.
    pub fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// Whether only the events of one row are read.
    pub fn is_of_one_row(&self) -> bool {
        self.query.key.is_some()
    }

    /// The table.
    pub fn timeline(&self) -> &Arc<Timeline> {
        &self.timeline
    }

    /// The last event up to which, from the oldest on, everything has been read.
    pub fn read_up_to(&self) -> EventId {
        self.unread.0
    }

    /// The events that are still to be read: after the first, up to and including the second.
    pub fn unread(&self) -> (EventId, EventId) {
        self.unread
    }

    /// Whether the newest events come first.
    pub fn is_newest_first(&self) -> bool {
        self.query.newest_first
    }

    /// Continues after an event, whatever was read before.
    pub fn skip_to(&mut self, id: EventId) {
        if self.query.newest_first {
            self.unread.1 = id.before();
        } else {
            self.unread.0 = id;
        }
    }

    /// One event of a row. Fails with BELOW_FLOOR if the floor has risen to its commit.
    pub fn event(
        timeline: &Arc<Timeline>,
        (key, id): (&Key, EventId),
        images: Images,
    ) -> Result<Option<DriftEvent>> {
        let (after, last) = (id.seq.saturating_sub(1), id.seq);
        let query = HistoryQuery { key: Some(key.clone()), after, last, images, ..HistoryQuery::default() };
        let mut history = History::new(timeline, query);
        history.unread = (id.before(), id);
        let found = history.read_some(ReadBudget { events: 1, bytes: limits::MESSAGE_BYTES })?;
        Ok(found.into_iter().next().map(|(_, event)| event))
    }

    /// Whether everything has been read.
    pub fn is_done(&self) -> bool {
        self.unread.0 >= self.unread.1
    }

    /// Returns the next events, at most `limit`, and about as many as a message holds. Returns none at the end.
    pub fn next_batch(&mut self, limit: usize) -> Result<Vec<DriftEvent>> {
        let budget = ReadBudget { events: limit, bytes: limits::MESSAGE_BYTES };
        while limit > 0 && !self.is_done() {
            let events = self.read_some(budget)?;
            if !events.is_empty() {
                return Ok(events.into_iter().map(|(_, event)| event).collect());
            }
        }
        Ok(Vec::new())
    }

    /// Reads on as far as the budget allows. The events returned may be none although there are more to read, if none of
    /// those read passes. Fails with BELOW_FLOOR if the floor has passed the events that come next.
    pub fn read_some(&mut self, budget: ReadBudget) -> Result<Vec<(EventId, DriftEvent)>> {
        if self.is_done() {
            return Ok(Vec::new());
        }
        let after = self.unread.0;
        let batch = self.timeline.read(|state| {
            // Events must not be left out silently if the floor has risen since the last call. Within a commit, the
            // floor must be below the commit: at the floor, the commit's events have become part of rows.
            self.timeline.check_floor(after.seq - u64::from(after.index < u32::MAX).min(after.seq))?;
            let mut batch = EventBatch { events: Vec::new(), budget, last_read: None };
            self.read_into(&mut batch, state)?;
            Ok(batch)
        })?;
        match batch.last_read.filter(|_| !batch.has_room()) {
            Some(last) if self.query.newest_first => self.unread.1 = last.before(),
            Some(last) => self.unread.0 = last,
            None => self.unread.0 = self.unread.1,
        }
        Ok(batch.events)
    }

    fn read_into(&self, batch: &mut EventBatch, state: &TableState) -> Result<()> {
        let (after, last) = self.unread;
        // The memtable may also hold events that are in the layers. These are read from the layers.
        let boundary = EventId::end_of(state.layers.end()).max(after).min(last);
        let (older, newer) = ((after, boundary), (boundary, last));
        match &self.query.key {
            Some(key) if self.query.newest_first => {
                self.read_memtable_row(batch, state, key, newer)?;
                self.read_layers_row(batch, state, key, older)
            }
            Some(key) => {
                self.read_layers_row(batch, state, key, older)?;
                self.read_memtable_row(batch, state, key, newer)
            }
            None if self.query.newest_first => {
                self.read_memtable(batch, state, newer)?;
                self.read_layers(batch, state, older)
            }
            None => {
                self.read_layers(batch, state, older)?;
                self.read_memtable(batch, state, newer)
            }
        }
    }

    fn read_memtable_row(
        &self,
        batch: &mut EventBatch,
        state: &TableState,
        key: &Key,
        (after, last): (EventId, EventId),
    ) -> Result<()> {
        let limit = batch.budget.events;
        let newest_first = self.query.newest_first;
        let versions = state.memtable.versions(key, (after, last), limit, newest_first);
        for version in versions {
            if !batch.has_room() {
                break;
            }
            batch.push(version.id, self.memtable_event(state, key, version)?);
        }
        Ok(())
    }

    fn read_layers_row(
        &self,
        batch: &mut EventBatch,
        state: &TableState,
        key: &Key,
        (mut after, mut last): (EventId, EventId),
    ) -> Result<()> {
        let newest_first = self.query.newest_first;
        while after < last && batch.has_room() {
            let versions = state.layers.versions(key, (after, last), batch.budget.events, newest_first)?;
            let Some((end, _)) = versions.last() else { return Ok(()) };
            if newest_first {
                last = end.before();
            } else {
                after = *end;
            }
            for (id, version) in versions {
                if !batch.has_room() {
                    return Ok(());
                }
                batch.push(id, self.layer_event(state, key, id, version)?);
            }
        }
        Ok(())
    }

    fn memtable_event(&self, state: &TableState, key: &Key, version: Version) -> Result<DriftEvent> {
        let Version { id, commit, kind, payload, marks } = version;
        self.row_event(state, key, id, commit, (kind, payload, marks))
    }

    fn layer_event(
        &self,
        state: &TableState,
        key: &Key,
        id: EventId,
        version: VersionEntry,
    ) -> Result<DriftEvent> {
        let VersionEntry { kind, time_ms, actor, reason, payload, marks, .. } = version;
        let commit = commit_info(id.seq, time_ms, actor, reason);
        self.row_event(state, key, id, commit, (kind, payload, marks))
    }

    fn row_event(
        &self,
        state: &TableState,
        key: &Key,
        id: EventId,
        commit: Arc<CommitInfo>,
        (kind, payload, marks): (EventType, Option<Document>, EventMarks),
    ) -> Result<DriftEvent> {
        let (before, after) = images_in(&self.timeline, state, key, id, self.query.images)?;
        Ok(DriftEvent { commit, key: Some(key.clone()), kind, payload, marks, before, after })
    }

    fn read_memtable(
        &self,
        batch: &mut EventBatch,
        state: &TableState,
        (mut after, mut last): (EventId, EventId),
    ) -> Result<()> {
        let newest_first = self.query.newest_first;
        while batch.has_room() {
            let events = state.memtable.events(after, last, batch.budget.events, newest_first);
            let Some(end) = events.last() else { return Ok(()) };
            if newest_first {
                last = end.id.before()
            } else {
                after = end.id
            }
            for NumberedEvent { id, event } in events {
                if !batch.has_room() {
                    return Ok(());
                }
                work::step(4)?;
                match event {
                    event if !self.passes_actor(event.actor()) => batch.skip(id),
                    MemtableEvent::Row { key, version } if self.query.rows.passes(&key) => {
                        batch.push(id, self.memtable_event(state, &key, version)?);
                    }
                    MemtableEvent::Schema { commit, payload, .. } => {
                        batch.push(id, schema_event(commit, payload))
                    }
                    MemtableEvent::Row { .. } | MemtableEvent::Note => batch.skip(id),
                }
            }
        }
        Ok(())
    }

    fn read_layers(
        &self,
        batch: &mut EventBatch,
        state: &TableState,
        (after, last): (EventId, EventId),
    ) -> Result<()> {
        if after >= last {
            return Ok(());
        }
        // If the last call ended within a commit, that commit is read again without the events already returned.
        let is_within_commit = u64::from(after.index < u32::MAX);
        let from = after.seq.saturating_sub(is_within_commit);
        let mut commits = state.layers.commits(from, last.seq, self.query.newest_first);
        while batch.has_room() {
            let Some(commit) = commits.next_commit()? else { break };
            self.read_commit(batch, state, (after, last), commit)?;
        }
        Ok(())
    }

    fn passes_actor(&self, actor: &str) -> bool {
        self.query.actor.as_ref().is_none_or(|wanted| wanted == actor_of(actor))
    }

    /// Reads the events of one commit in the layers that lie after one event, up to and including another.
    fn read_commit(
        &self,
        batch: &mut EventBatch,
        state: &TableState,
        (after, last): (EventId, EventId),
        TableCommit { seq, time_ms, entry }: TableCommit,
    ) -> Result<()> {
        let key_type = state.layers.key_type()?;
        let mut changes: Vec<(EventId, TableChange)> = (0..)
            .zip(entry.changes)
            .map(|(index, change)| (EventId { seq, index }, change))
            .filter(|(id, _)| *id > after && *id <= last)
            .collect();
        if self.query.newest_first {
            changes.reverse();
        }
        if !self.passes_actor(&entry.actor) {
            changes.clear();
        }
        if changes.is_empty() {
            let beginning = EventId { seq, index: 0 };
            batch.skip(if self.query.newest_first { beginning } else { EventId::end_of(seq) });
        }
        for (id, change) in changes {
            if !batch.has_room() {
                break;
            }
            work::step(4)?;
            match change {
                TableChange::Row(bytes) => {
                    let key = read_sort_key(&bytes, key_type)?;
                    if !self.query.rows.passes(&key) {
                        batch.skip(id);
                        continue;
                    }
                    let version = state.layers.version(&sort_key(&key), id)?;
                    batch.push(id, self.layer_event(state, &key, id, version)?);
                }
                TableChange::Schema(payload, _) => {
                    let commit = commit_info(seq, time_ms, entry.actor.clone(), entry.reason.clone());
                    batch.push(id, schema_event(commit, payload));
                }
            }
        }
        Ok(())
    }
}

/// A row before and after one of its events.
pub type RowImages = (Option<Row>, Option<Row>);

/// Returns a row before and after one of its events, as far as `images` asks for them. Fails with BELOW_FLOOR if the
/// floor has risen to the event's commit: then the commit's events have become part of rows.
pub fn images_of(timeline: &Timeline, key: &Key, id: EventId, images: Images) -> Result<RowImages> {
    timeline.read(|state| {
        timeline.check_floor(id.seq.saturating_sub(1))?;
        images_in(timeline, state, key, id, images)
    })
}

fn images_in(
    timeline: &Timeline,
    state: &TableState,
    key: &Key,
    id: EventId,
    images: Images,
) -> Result<RowImages> {
    let image = |last: EventId| -> Result<Option<Row>> {
        let found = state.row(key, last)?;
        let row = |document, seq, time_ms| Row { key: key.clone(), seq, time_ms, document };
        Ok(found.and_then(|found| Some(row(found.document?, found.seq, found.time_ms))))
    };
    let before = if images.before { image(id.before())? } else { None };
    // If the table was dropped and created again between the row's last change and this event, the row was absent.
    let created_at = timeline.created_at(id.seq);
    let before = before.filter(|before| before.seq == id.seq || created_at <= before.seq);
    let after = if images.after { image(id)? } else { None };
    Ok((before, after))
}

/// The commit of events that are in layers.
fn commit_info(seq: u64, time_ms: u64, actor: String, reason: String) -> Arc<CommitInfo> {
    let has_meta = !actor.is_empty() || !reason.is_empty();
    let meta = has_meta.then(|| Box::new(CommitMeta { actor, reason, ..CommitMeta::default() }));
    Arc::new(CommitInfo { seq, time_ms, meta })
}

fn schema_event(commit: Arc<CommitInfo>, payload: Document) -> DriftEvent {
    let payload = Some(payload);
    let (kind, marks) = (EventType::Schema, EventMarks::default());
    DriftEvent { commit, key: None, kind, payload, marks, before: None, after: None }
}
