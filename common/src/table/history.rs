//! What happened to a row, or to a whole table, between two moments.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::event::{CommitMeta, EventType};
use crate::format::key::Key;
use crate::format::snapshot::{TableChange, VersionEntry};
use crate::table::layers::{EventId, sort_key};
use crate::table::memtable::{CommitInfo, MemtableEvent, NumberedEvent, Version};
use crate::table::timeline::{TableState, Timeline};
use crate::table::view::{Row, read, read_key, row_in};

/// One event, with the row before and after it where asked for.
#[derive(Debug, Clone)]
pub struct DriftEvent {
    /// The commit.
    pub commit: Arc<CommitInfo>,
    /// The row; none for SCHEMA.
    pub key: Option<Key>,
    /// What kind of event it was.
    pub kind: EventType,
    /// What was written; none for SOFT_DELETE.
    pub payload: Option<Document>,
    /// The row before it.
    pub before: Option<Row>,
    /// The row after it.
    pub after: Option<Row>,
}

impl DriftEvent {
    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        let images = [&self.before, &self.after].into_iter().flatten().map(|row| &row.document);
        let documents = images.chain(&self.payload).map(|document| document.msgpack().len());
        EVENT_BYTES + documents.sum::<usize>()
    }
}

/// About what an event takes besides its documents.
const EVENT_BYTES: usize = 128;

/// Which images of a row go with its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Images {
    /// The row before.
    pub before: bool,
    /// The row after.
    pub after: bool,
}

/// Which rows, by their keys. Both must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyFilter {
    /// One of these, as the API has keys; any where empty.
    pub keys: BTreeSet<String>,
    /// What the key begins with, as the API has it.
    pub prefix: String,
}

impl KeyFilter {
    /// Whether every row passes.
    pub fn is_open(&self) -> bool {
        self.keys.is_empty() && self.prefix.is_empty()
    }

    /// Whether a row passes.
    pub fn passes(&self, key: &Key) -> bool {
        let meets =
            |text: &str| (self.keys.is_empty() || self.keys.contains(text)) && text.starts_with(&self.prefix);
        match key {
            _ if self.is_open() => true,
            Key::Str(text) => meets(text),
            Key::Int(int) => meets(&int.to_string()),
        }
    }
}

/// Which events, in which order.
#[derive(Debug, Clone, Default)]
pub struct HistoryQuery {
    /// Of this row; with SCHEMA events of the whole table where there is none.
    pub key: Option<Key>,
    /// Of the whole table: only of rows that pass. SCHEMA events have none, and are handed out in any case.
    pub rows: Arc<KeyFilter>,
    /// After this commit. The floor counts where it is greater: what was folded into rows is no event.
    pub from: u64,
    /// Up to and with this one.
    pub to: u64,
    /// The newest first.
    pub newest_first: bool,
    /// With the row before and after.
    pub images: Images,
}

/// How much is read at once.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Events gone through, whether they pass or not.
    pub events: usize,
    /// About how many bytes of those handed out; one event may be more.
    pub bytes: usize,
}

/// Goes through the events of a table, or of one row, after one commit and up to another. It holds on to no files.
#[derive(Debug)]
pub struct History {
    timeline: Arc<Timeline>,
    wanted: HistoryQuery,
    /// What is left lies after the first spot, up to and with the second.
    left: (EventId, EventId),
    truncated: bool,
}

/// What a look at the events has come to.
#[derive(Debug)]
struct Gathered {
    changes: Vec<(EventId, DriftEvent)>,
    left: Bounds,
    /// The last event gone through.
    reached: Option<EventId>,
}

impl Gathered {
    fn has_room(&self) -> bool {
        self.left.events > 0 && self.left.bytes > 0
    }

    /// An event, or a commit without any here, has been gone through.
    fn pass(&mut self, spot: EventId) {
        self.reached = Some(spot);
        self.left.events = self.left.events.saturating_sub(1);
    }

    fn push(&mut self, spot: EventId, change: DriftEvent) {
        self.left.bytes = self.left.bytes.saturating_sub(change.size());
        self.changes.push((spot, change));
        self.pass(spot);
    }
}

impl History {
    /// The events wanted.
    pub fn new(timeline: &Arc<Timeline>, wanted: HistoryQuery) -> History {
        let floor = timeline.state().chain.floor().map_or(0, |floor| floor.seq);
        let truncated = wanted.from < floor;
        let left = (EventId::end_of(wanted.from.max(floor)), EventId::end_of(wanted.to));
        History { timeline: Arc::clone(timeline), wanted, left, truncated }
    }

    /// Whether older events were asked for that have been compacted away.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// The table.
    pub fn timeline(&self) -> &Arc<Timeline> {
        &self.timeline
    }

    /// Up to where, from the oldest on, everything has been gone through.
    pub fn reached(&self) -> EventId {
        self.left.0
    }

    /// Whether everything has been gone through.
    pub fn is_done(&self) -> bool {
        self.left.0 >= self.left.1
    }

    /// The next events, at most `limit`; none at the end.
    pub fn next_batch(&mut self, limit: usize) -> Result<Vec<DriftEvent>> {
        let bounds = Bounds { events: limit, bytes: usize::MAX };
        while limit > 0 && !self.is_done() {
            let changes = self.next_stretch(bounds)?;
            if !changes.is_empty() {
                return Ok(changes.into_iter().map(|(_, change)| change).collect());
            }
        }
        Ok(Vec::new())
    }

    /// Goes on for a stretch, in which there may be no events that pass.
    pub fn next_stretch(&mut self, bounds: Bounds) -> Result<Vec<(EventId, DriftEvent)>> {
        if self.is_done() {
            return Ok(Vec::new());
        }
        let after = self.left.0;
        let gathered = read(&self.timeline, |state| {
            // Nothing is left out without being said: a floor that has risen meanwhile ends the answer.
            // Within a commit, its rest must be events yet: at the floor it is folded.
            self.timeline.check_floor(after.seq - u64::from(after.index < u32::MAX).min(after.seq))?;
            let mut gathered = Gathered { changes: Vec::new(), left: bounds, reached: None };
            self.gather(state, &mut gathered)?;
            Ok(gathered)
        })?;
        match gathered.reached.filter(|_| !gathered.has_room()) {
            Some(last) if self.wanted.newest_first => self.left.1 = last.before(),
            Some(last) => self.left.0 = last,
            None => self.left.0 = self.left.1,
        }
        Ok(gathered.changes)
    }

    fn gather(&self, state: &TableState, gathered: &mut Gathered) -> Result<()> {
        let (after, upto) = self.left;
        // The overlay may hold older events than the chain's end, too: those are the chain's.
        let boundary = EventId::end_of(state.chain.end()).max(after).min(upto);
        let (older, newer) = ((after, boundary), (boundary, upto));
        match &self.wanted.key {
            Some(key) if self.wanted.newest_first => {
                self.of_overlay_row(state, key, newer, gathered)?;
                self.of_chain_row(state, key, older, gathered)
            }
            Some(key) => {
                self.of_chain_row(state, key, older, gathered)?;
                self.of_overlay_row(state, key, newer, gathered)
            }
            None if self.wanted.newest_first => {
                self.of_overlay(state, newer, gathered)?;
                self.of_chain(state, older, gathered)
            }
            None => {
                self.of_chain(state, older, gathered)?;
                self.of_overlay(state, newer, gathered)
            }
        }
    }

    fn of_overlay_row(
        &self,
        state: &TableState,
        key: &Key,
        (after, upto): (EventId, EventId),
        gathered: &mut Gathered,
    ) -> Result<()> {
        let left = gathered.left.events;
        let versions = state.overlay.with_versions(key, |versions| {
            let start = versions.partition_point(|version| version.spot() <= after);
            let end = versions.partition_point(|version| version.spot() <= upto).max(start);
            let within = versions.get(start..end).unwrap_or_default();
            if self.wanted.newest_first {
                within.iter().rev().take(left).cloned().collect::<Vec<_>>()
            } else {
                within.iter().take(left).cloned().collect()
            }
        });
        for version in versions.unwrap_or_default() {
            if !gathered.has_room() {
                break;
            }
            let (spot, event) = (version.spot(), (version.kind, version.payload.clone()));
            gathered.push(spot, self.change(state, key, spot, Arc::clone(&version.commit), event)?);
        }
        Ok(())
    }

    fn of_chain_row(
        &self,
        state: &TableState,
        key: &Key,
        spots: (EventId, EventId),
        gathered: &mut Gathered,
    ) -> Result<()> {
        if spots.0 >= spots.1 {
            return Ok(());
        }
        for (spot, version) in
            state.chain.versions(key, spots, gathered.left.events, self.wanted.newest_first)?
        {
            if !gathered.has_room() {
                break;
            }
            gathered.push(spot, self.of_entry(state, key, spot, version)?);
        }
        Ok(())
    }

    fn of_entry(
        &self,
        state: &TableState,
        key: &Key,
        spot: EventId,
        version: VersionEntry,
    ) -> Result<DriftEvent> {
        let VersionEntry { kind, time_ms, actor, reason, payload, .. } = version;
        let commit = commit_info(spot.seq, time_ms, actor, reason);
        self.change(state, key, spot, commit, (kind, payload))
    }

    fn change(
        &self,
        state: &TableState,
        key: &Key,
        spot: EventId,
        commit: Arc<CommitInfo>,
        (kind, payload): (EventType, Option<Document>),
    ) -> Result<DriftEvent> {
        let (before, after) = images_in(&self.timeline, state, key, spot, self.wanted.images)?;
        Ok(DriftEvent { commit, key: Some(key.clone()), kind, payload, before, after })
    }

    fn of_overlay(
        &self,
        state: &TableState,
        (after, upto): (EventId, EventId),
        gathered: &mut Gathered,
    ) -> Result<()> {
        let (mut after, mut upto) = (after, upto);
        while gathered.has_room() {
            let newest_first = self.wanted.newest_first;
            let happened = state.overlay.happened(after, upto, gathered.left.events, newest_first);
            let Some(last) = happened.last() else { return Ok(()) };
            if newest_first {
                upto = last.spot.before()
            } else {
                after = last.spot
            }
            for NumberedEvent { spot, what } in happened {
                if !gathered.has_room() {
                    return Ok(());
                }
                match what {
                    MemtableEvent::Row { key, version } if self.wanted.rows.passes(&key) => {
                        let find = |versions: &[Version]| versions.get(version).cloned();
                        let Some(version) = state.overlay.with_versions(&key, find).flatten() else {
                            continue;
                        };
                        let event = (version.kind, version.payload.clone());
                        let commit = Arc::clone(&version.commit);
                        gathered.push(spot, self.change(state, &key, spot, commit, event)?);
                    }
                    MemtableEvent::Schema { commit, payload, .. } => {
                        gathered.push(spot, of_schema(commit, payload))
                    }
                    MemtableEvent::Row { .. } | MemtableEvent::Note => gathered.pass(spot),
                }
            }
        }
        Ok(())
    }

    fn of_chain(
        &self,
        state: &TableState,
        (after, upto): (EventId, EventId),
        gathered: &mut Gathered,
    ) -> Result<()> {
        if after >= upto {
            return Ok(());
        }
        // From within a commit on, the commit itself is gone through again, and what was told is left out.
        let within = u64::from(after.index < u32::MAX);
        let from = after.seq.saturating_sub(within);
        let newest_first = self.wanted.newest_first;
        let mut commits = state.chain.commits(from, upto.seq, newest_first);
        let key_type = state.chain.key_type();
        while gathered.has_room() {
            let Some(commit) = commits.next_commit()? else { break };
            let mut changes: Vec<(EventId, TableChange)> = (0..)
                .zip(commit.entry.changes)
                .map(|(index, changes)| (EventId { seq: commit.seq, index }, changes))
                .filter(|(spot, _)| *spot > after && *spot <= upto)
                .collect();
            if newest_first {
                changes.reverse();
            }
            if changes.is_empty() {
                let beginning = EventId { seq: commit.seq, index: 0 };
                gathered.pass(if newest_first { beginning } else { EventId::end_of(commit.seq) });
            }
            for (spot, changes) in changes {
                if !gathered.has_room() {
                    break;
                }
                match changes {
                    TableChange::Row(bytes) => {
                        let key = read_key(&bytes, key_type)?;
                        if !self.wanted.rows.passes(&key) {
                            gathered.pass(spot);
                            continue;
                        }
                        let version = state.chain.version(&sort_key(&key), spot)?;
                        gathered.push(spot, self.of_entry(state, &key, spot, version)?);
                    }
                    TableChange::Schema(payload, _) => {
                        let (actor, reason) = (commit.entry.actor.clone(), commit.entry.reason.clone());
                        let info = commit_info(commit.seq, commit.time_ms, actor, reason);
                        gathered.push(spot, of_schema(info, payload));
                    }
                }
            }
        }
        Ok(())
    }
}

/// A row before and after one of its events.
pub type RowImages = (Option<Row>, Option<Row>);

/// A row before and after its event at a spot, as far as wanted. Fails where the floor has risen to the event's commit: then
/// it is folded, and what it came to within the commit is not known.
pub fn images_of(timeline: &Timeline, key: &Key, spot: EventId, images: Images) -> Result<RowImages> {
    read(timeline, |state| {
        timeline.check_floor(spot.seq.saturating_sub(1))?;
        images_in(timeline, state, key, spot, images)
    })
}

fn images_in(
    timeline: &Timeline,
    state: &TableState,
    key: &Key,
    spot: EventId,
    images: Images,
) -> Result<RowImages> {
    let image = |upto: EventId| -> Result<Option<Row>> {
        let found = row_in(state, key, upto)?;
        let row = |document, seq, time_ms| Row { key: key.clone(), seq, time_ms, document };
        Ok(found.and_then(|found| Some(row(found.document?, found.seq, found.time_ms))))
    };
    let before = if images.before { image(spot.before())? } else { None };
    // A row of a table that has been dropped and created again since was absent before this event.
    let born = timeline.born_at(spot.seq);
    let before = before.filter(|before| before.seq == spot.seq || born <= before.seq);
    let after = if images.after { image(spot)? } else { None };
    Ok((before, after))
}

fn commit_info(seq: u64, time_ms: u64, actor: String, reason: String) -> Arc<CommitInfo> {
    let said = !actor.is_empty() || !reason.is_empty();
    let meta = said.then(|| Box::new(CommitMeta { actor, reason, ..CommitMeta::default() }));
    Arc::new(CommitInfo { seq, time_ms, meta })
}

fn of_schema(commit: Arc<CommitInfo>, payload: Document) -> DriftEvent {
    let payload = Some(payload);
    DriftEvent { commit, key: None, kind: EventType::Schema, payload, before: None, after: None }
}
