//! Admission: checks a change against the newest state, gives it its number and time, and encodes it.
//!
//! The state here runs ahead of the disk: it holds commits that are admitted and not yet synced. What it would take to go
//! back is kept until they are.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::document::Document;
use driftdb_common::format::event::{self, CommitMeta, CommitShape, EventType, IngestOrigin, RequestId};
use driftdb_common::format::key::Key;
use driftdb_common::format::manifest::Manifest;
use driftdb_common::format::snapshot::{ProducerEntry, RequestEntry};
use driftdb_common::limits;
use driftdb_common::storage::wal::appender::Group;
use driftdb_common::storage::wal::commit_reader;
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::operation::{
    Action, CommitOptions, CommitRequest, Operation, Precondition, WriteToken,
};
use driftdb_common::table::schema::{Schema, SchemaAction, SchemaEvent};
use driftdb_common::table::table_files::TableFiles;
use driftdb_common::table::{format_time, state};

use crate::requests::{Asked, Producers, Refusal, Requests, Window};
use crate::rows::{Mark, RowState, Table, Tables};

mod preconditions;
mod schema;

/// The newest state of the database, commits that are not yet on disk included.
#[derive(Debug)]
pub struct Admission {
    tables: Tables,
    requests: Requests,
    producers: Producers,
    last: WriteToken,
    clock_went_back: bool,
    /// What snapshots tell of requests and producers, until every table has been found.
    found_requests: VecDeque<(WriteToken, RequestId)>,
    found_in_order: bool,
    /// The commit of the last request that was found.
    last_request: u64,
    found_producers: HashMap<String, ProducerEntry>,
}

/// What a change has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// The commit that stands for it.
    pub token: WriteToken,
    /// The commit had been made before, by a request with the same id.
    pub replayed: bool,
}

/// What comes with a change.
#[derive(Debug, Clone, Default)]
pub struct With {
    /// What goes with any commit.
    pub options: CommitOptions,
    /// The request's id and fingerprint.
    pub request: Option<RequestId>,
    /// Where in a producer's stream it comes from.
    pub origin: Option<IngestOrigin>,
}

/// An event on its way into a frame.
#[derive(Debug)]
struct NewEvent {
    table: u64,
    kind: EventType,
    key: Option<Key>,
    payload: Option<Document>,
    /// INSERT: the row was live.
    replaces: bool,
}

impl Admission {
    /// The state of an empty database.
    pub fn new(window: Window) -> Admission {
        Admission {
            tables: Tables::default(),
            requests: Requests::new(window),
            producers: Producers::default(),
            last: WriteToken::default(),
            clock_went_back: false,
            found_requests: VecDeque::new(),
            found_in_order: false,
            last_request: 0,
            found_producers: HashMap::new(),
        }
    }

    /// How far each producer's stream has come.
    pub fn producers(&self) -> &Producers {
        &self.producers
    }

    /// A producer's batch has been gone through to its end, and these of its operations were refused.
    pub fn complete_batch(&mut self, producer: &str, batch: u64, refused: &[Refusal]) {
        self.producers.complete(producer, batch, self.last.seq);
        self.producers.refuse(producer, batch, refused);
    }

    /// The last admitted commit.
    pub fn last(&self) -> WriteToken {
        self.last
    }

    /// The tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The tables, to give them newer files.
    pub fn tables_mut(&mut self) -> &mut Tables {
        &mut self.tables
    }

    /// The chains that know the rows which operations and preconditions are about and which are not in memory: to be looked up before the change
    /// is admitted, so that admission finds them in the cache.
    pub fn cold<'a>(
        &self,
        operations: impl IntoIterator<Item = &'a Operation>,
        preconditions: &[Precondition],
    ) -> Vec<(Arc<LayerMap>, Key)> {
        let mut cold = Vec::new();
        let mut add = |name: &str, key: &dyn Fn(&Schema) -> Option<Key>| {
            let Ok(table) = self.tables.live(name) else { return };
            if table.chain().end() == 0 {
                return;
            }
            // What makes no sense is refused when it is admitted.
            if let Some(key) = key(table.schema()).filter(|key| !table.has_in_memory(key)) {
                cold.push((Arc::clone(table.chain()), key));
            }
        };
        for Operation { table, key, action } in operations {
            add(table, &|schema| match (action, key) {
                (Action::Insert(document) | Action::Put(document), _) => {
                    document.key(&schema.primary_key, schema.key_type).ok()
                }
                (_, Some(key)) => key.of_type(schema.key_type).ok(),
                _ => None,
            });
        }
        for Precondition { table, key, .. } in preconditions {
            add(table, &|schema| key.of_type(schema.key_type).ok());
        }
        cold
    }

    /// Takes in a table as its snapshots have it, with the requests and producers that they tell of.
    pub fn find_table(&mut self, shelf: &TableFiles, manifest: &Manifest) -> Result<()> {
        if manifest.deltas.is_empty() {
            return Ok(());
        }
        let chain = shelf.open(manifest, None)?;
        let (mut created, mut newest) = (manifest.table_id, None);
        for schema_entry in &chain.properties().schema_entries {
            let event = SchemaEvent::from_document(&schema_entry.document)?;
            if event.action == SchemaAction::Create {
                created = schema_entry.seq;
            }
            newest = Some(event);
        }
        let Some(SchemaEvent { action, schema }) = newest else { return Ok(()) };
        chain.requests(&mut |seq, entry| {
            let RequestEntry { time_ms, request } = entry;
            self.found_requests.push_back((WriteToken { seq, time_ms }, request));
        })?;
        chain.producers(&mut |producer| {
            let known = self.found_producers.get(&producer.origin.producer);
            if known.is_none_or(|known| known.seq < producer.seq) {
                self.found_producers.insert(producer.origin.producer.clone(), producer);
            }
        })?;
        let table = Table::new(manifest.table_id, created, schema);
        self.tables.found(table.in_files(chain, action == SchemaAction::Drop));
        Ok(())
    }

    /// Takes in the requests that snapshots told of, up to a commit: they are remembered in the order of their commits,
    /// whether a snapshot tells of them or the log.
    fn take_found(&mut self, upto: u64) {
        if !self.found_in_order {
            self.found_in_order = true;
            self.found_requests.make_contiguous().sort_unstable_by_key(|(token, _)| token.seq);
            for producer in self.found_producers.values() {
                self.producers.advance(producer.origin.clone(), producer.seq);
            }
        }
        while let Some((token, request)) = self.found_requests.pop_front_if(|(token, _)| token.seq <= upto) {
            // A commit of several tables stands in each.
            if self.last_request < token.seq {
                self.last_request = token.seq;
                self.requests.insert(request, token);
            }
        }
    }

    /// Everything there is has been taken in; the last commit is this one.
    pub fn opened(&mut self, last: WriteToken) {
        self.take_found(u64::MAX);
        self.found_producers.clear();
        self.last = last;
        self.forget_undo(self.tables.mark(), last);
    }

    /// Takes in a commit from the log.
    pub fn replay(&mut self, commit: commit_reader::LogCommit) -> Result<()> {
        self.take_found(commit.seq);
        for (id, events) in commit.parts {
            for event in events {
                match (event.kind, event.key, event.document) {
                    (EventType::Schema, _, Some(payload)) => {
                        self.apply_schema(id, commit.seq, SchemaEvent::from_document(&payload)?)?;
                    }
                    (kind, Some(key), payload) => {
                        let table = self.tables.by_id_mut(id)?;
                        let before = match kind {
                            // Not looked up where the log tells enough.
                            EventType::Insert if event.replaces => None,
                            _ => table.live(&key)?,
                        };
                        let was_live = event.replaces || before.is_some();
                        let after = state::apply(before.as_ref(), kind, payload.as_ref())?;
                        let document = after.map(|after| after.detached());
                        table.set(key, RowState { seq: commit.seq, document }, was_live);
                        table.count_event(commit.seq);
                    }
                    _ => {}
                }
            }
        }
        self.last = WriteToken { seq: commit.seq, time_ms: commit.time_ms };
        if let Some(CommitMeta { request, origin, .. }) = commit.meta.map(|meta| *meta) {
            // Another table's snapshot may have told of this commit, or of a later one of its producer.
            let request = request.filter(|_| self.last_request < commit.seq);
            let origin = origin.filter(|origin| {
                self.found_producers.get(&origin.producer).is_none_or(|found| found.seq < commit.seq)
            });
            self.remember(request, origin);
        }
        self.forget_undo(self.tables.mark(), self.last);
        Ok(())
    }

    /// Remembers what the last commit was asked by.
    fn remember(&mut self, request: Option<RequestId>, origin: Option<IngestOrigin>) {
        if let Some(request) = request {
            self.requests.insert(request, self.last);
        }
        if let Some(origin) = origin {
            self.producers.advance(origin, self.last.seq);
        }
    }

    /// Admits a change: checks it, applies it here, and appends its frames to `group`. On an error nothing has changed.
    /// A request that has been made before answers as it did then.
    pub fn admit(
        &mut self,
        change: CommitRequest,
        with: With,
        now_ms: u64,
        group: &mut Group,
    ) -> Result<Admitted> {
        let (admitted, commit) = self.prepare(change, with, now_ms, group)?;
        if let Some(commit) = commit {
            commit.encode(group);
        }
        Ok(admitted)
    }

    /// Admits a change without appending its frames: they must be, and before those of any later commit.
    /// There are none where the change comes to nothing.
    pub fn prepare(
        &mut self,
        change: CommitRequest,
        with: With,
        now_ms: u64,
        group: &mut Group,
    ) -> Result<(Admitted, Option<Commit>)> {
        let With { options, request, origin } = with;
        if let Some(token) = request.as_ref().map_or(Ok(None), |request| self.made_before(request))? {
            return Ok((Admitted { token, replayed: true }, None));
        }
        let time_ms = self.commit_time(&options, now_ms)?;
        let token = WriteToken { seq: self.last.seq + 1, time_ms };
        let mark = self.tables.mark();
        let events = match change {
            CommitRequest::Rows { operations, preconditions } => self.rows(token, operations, &preconditions),
            CommitRequest::Schema(change) => match self.schema(token, change, group) {
                // Nothing to do: the newest commit stands for it.
                Ok(events) if events.is_empty() => {
                    return Ok((Admitted { token: self.last, replayed: false }, None));
                }
                other => other,
            },
        };
        let events = events.inspect_err(|_| self.tables.undo_to(mark))?;
        let meta = CommitMeta { actor: String::new(), reason: options.reason, request, origin };
        self.last = token;
        self.remember(meta.request.clone(), meta.origin.clone());
        Ok((Admitted { token, replayed: false }, Some(Commit { token, events, meta })))
    }

    /// The commit that a request became before.
    pub fn made_before(&self, request: &RequestId) -> Result<Option<WriteToken>> {
        match self.requests.find(request) {
            Asked::Never => Ok(None),
            Asked::Before(token) => Ok(Some(token)),
            Asked::Otherwise(token) => {
                let message = format!(
                    "request id {:?} was used for another request, which became commit {}: give each request its own",
                    request.id, token.seq
                );
                Err(Error::new(Reason::RequestIdReused, message).with("seq", token.seq.to_string()))
            }
        }
    }

    /// Goes back to the state that `durable` was the last commit of: nothing after it reached the disk.
    pub fn roll_back(&mut self, durable: WriteToken) {
        self.tables.undo_to(Mark::default());
        self.requests.forget_after(durable.seq);
        self.producers.go_back_to(durable.seq);
        self.last = durable;
    }

    /// Everything admitted up to `upto`, commit `durable`, is durable: there is no way back before it.
    pub fn forget_undo(&mut self, upto: Mark, durable: WriteToken) {
        self.tables.forget_undo_before(upto);
        self.producers.settle(durable.seq);
    }

    /// I2: a commit's time is the clock's, or the last commit's where the clock has gone back.
    fn commit_time(&mut self, options: &CommitOptions, now_ms: u64) -> Result<u64> {
        let last_ms = self.last.time_ms;
        if let Some(time) = options.commit_time_ms {
            if time < last_ms || time > now_ms.max(last_ms) {
                let message = format!(
                    "commit_time {} is outside what it may be: from the last commit's time, {}, to now, {}",
                    format_time(time),
                    format_time(last_ms),
                    format_time(now_ms)
                );
                return Err(Error::new(Reason::ArgumentInvalid, message));
            }
            return Ok(time);
        }
        let went_back = now_ms < last_ms;
        if went_back && !self.clock_went_back {
            let behind_ms = last_ms - now_ms;
            tracing::warn!(
                behind_ms,
                "the clock is behind the last commit's time, which is held until it catches up"
            );
        }
        self.clock_went_back = went_back;
        Ok(now_ms.max(last_ms))
    }

    fn rows(
        &mut self,
        token: WriteToken,
        operations: Vec<Operation>,
        preconditions: &[Precondition],
    ) -> Result<Vec<NewEvent>> {
        if operations.len() > limits::OPERATIONS_PER_COMMIT {
            let message = format!(
                "{} operations are over the limit of {} a commit",
                operations.len(),
                limits::OPERATIONS_PER_COMMIT
            );
            return Err(Error::new(Reason::TooLarge, message));
        }
        self.check(preconditions)?;
        if operations.is_empty() {
            return Ok(vec![self.note()?]);
        }
        let count = operations.len();
        let mut events = Vec::with_capacity(operations.len());
        for (i, operation) in operations.into_iter().enumerate() {
            let event = self.operation(token, operation);
            events.push(event.map_err(|e| of_operation(e, i, count))?);
        }
        Ok(events)
    }

    /// What stands in the log for a commit that changes nothing.
    fn note(&self) -> Result<NewEvent> {
        let oldest = self.tables.iter().map(Table::id).min();
        let table = oldest.ok_or_else(|| {
            Error::new(Reason::ArgumentInvalid, "a commit without operations needs a table first: create one")
        })?;
        Ok(NewEvent { table, kind: EventType::Note, key: None, payload: None, replaces: false })
    }

    fn operation(&mut self, token: WriteToken, operation: Operation) -> Result<NewEvent> {
        let Operation { table: name, key, action } = operation;
        let table = self.tables.live(&name)?;
        let schema = table.schema();
        let named = key.map(|key| key.of_type(schema.key_type)).transpose()?;
        let key = match (&action, named) {
            (Action::Insert(document) | Action::Put(document), named) => {
                let held = document.key(&schema.primary_key, schema.key_type)?;
                if let Some(named) = named.filter(|named| *named != held) {
                    let message = format!("the operation's key is {named}, and the document's is {held}");
                    return Err(Error::new(Reason::KeyInvalid, message));
                }
                held
            }
            (_, Some(named)) => named,
            (_, None) => return Err(Error::new(Reason::KeyInvalid, "patch and soft_delete need a key")),
        };
        let before = table.live(&key)?;
        let (kind, payload) = match action {
            Action::Insert(_) if before.is_some() => {
                return Err(Error::new(Reason::RowExists, format!("{name} has a row {key} already"))
                    .with("table", name)
                    .with("key", key.to_string()));
            }
            Action::Insert(document) | Action::Put(document) => (EventType::Insert, Some(document)),
            Action::Patch(_) | Action::SoftDelete if before.is_none() => {
                return Err(Error::new(Reason::RowNotFound, format!("{name} has no row {key}"))
                    .with("table", name)
                    .with("key", key.to_string()));
            }
            Action::Patch(patch) => (EventType::Patch, Some(patch)),
            Action::SoftDelete => (EventType::SoftDelete, None),
            Action::Revert(_) => {
                return Err(Error::new(
                    Reason::Internal,
                    "a revert that was not resolved before its admission",
                ));
            }
        };
        let after = state::apply(before.as_ref(), kind, payload.as_ref())?;
        if let (EventType::Patch, Some(after)) = (kind, &after)
            && after.key(&schema.primary_key, schema.key_type).ok().as_ref() != Some(&key)
        {
            let message =
                format!("the patch changes {:?}, the primary key, which may not change", schema.primary_key);
            return Err(Error::new(Reason::KeyInvalid, message));
        }
        let id = table.id();
        let row = RowState { seq: token.seq, document: after.map(|after| after.detached()) };
        self.tables.change(&name, key.clone(), row, before.is_some());
        let replaces = kind == EventType::Insert && before.is_some();
        Ok(NewEvent { table: id, kind, key: Some(key), payload, replaces })
    }
}

/// An admitted commit whose frames are still to be appended.
#[derive(Debug)]
pub struct Commit {
    token: WriteToken,
    events: Vec<NewEvent>,
    meta: CommitMeta,
}

impl Commit {
    /// Says that nothing of its batch comes after it.
    pub fn ends_batch(&mut self) {
        if let Some(origin) = &mut self.meta.origin {
            origin.ends = true;
        }
    }

    /// Appends its frames to a group.
    pub fn encode(self, group: &mut Group) {
        encode(group, self.token, &self.events, &self.meta);
    }
}

fn encode(group: &mut Group, token: WriteToken, events: &[NewEvent], meta: &CommitMeta) {
    let mut frames_in_table: HashMap<u64, u32> = HashMap::new();
    for event in events {
        *frames_in_table.entry(event.table).or_default() += 1;
    }
    let frames = u32::try_from(events.len()).unwrap_or(u32::MAX);
    for NewEvent { table, kind, key, payload, replaces } in events {
        // Taken out by the commit's first frame in the table, so that later ones do not carry it.
        let first = frames_in_table
            .remove(table)
            .map(|frames_in_table| (CommitShape { frames, frames_in_table }, meta));
        let table = group.tables.entry(*table).or_default();
        let first_of_group = table.frames.is_empty();
        table.last_seq = token.seq;
        table.frames.push(token.seq, token.time_ms, *kind, |out| {
            event::encode(out, key.as_ref(), payload.as_ref(), *replaces, first, first_of_group)
        });
    }
    group.last_seq = token.seq;
    group.last_ms = token.time_ms;
}

/// Says which of `count` operations an error is about, where there are several.
pub fn of_operation(error: Error, index: usize, count: usize) -> Error {
    match count {
        0 | 1 => error,
        _ => error.context(format_args!("operation {}", index + 1)).with("operation", index.to_string()),
    }
}
