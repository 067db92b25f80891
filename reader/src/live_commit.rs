//! A commit as the follower applied it, kept in memory for the watches.

use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::format::document::Document;
use driftdb_common::format::event::{Event, EventType};
use driftdb_common::format::key::Key;
use driftdb_common::table::event_id::EventId;
use driftdb_common::table::history::{self, DriftEvent, Images, RowImages};
use driftdb_common::table::memtable::CommitInfo;
use driftdb_common::table::timeline::Timeline;
use driftdb_common::table::view::Row;
use parking_lot::Mutex;

/// Row images larger than this are not kept: each watch reads them again.
const IMAGE_BYTES: usize = 1024;
/// Estimated bytes of a commit besides its texts and events.
const COMMIT_BYTES: usize = 192;
/// Estimated bytes of an event besides its key and documents.
const EVENT_BYTES: usize = 192;

/// A commit as the follower applied it.
#[derive(Debug)]
pub struct LiveCommit {
    /// The seq, time, actor and reason.
    pub info: Arc<CommitInfo>,
    /// The events by table, ordered by table id.
    pub parts: Vec<LivePart>,
    bytes: usize,
}

/// The events of a commit in one table.
#[derive(Debug)]
pub struct LivePart {
    /// The table.
    pub timeline: Arc<Timeline>,
    /// The events, in order.
    pub events: Vec<LiveEvent>,
}

/// One event of a commit.
#[derive(Debug)]
pub struct LiveEvent {
    /// The row; `None` for a SCHEMA event.
    pub key: Option<Key>,
    id: EventId,
    kind: EventType,
    payload: Option<Document>,
    /// The row before and after the event, once a watch has read them.
    images: Mutex<Option<Box<RowImages>>>,
}

impl LiveCommit {
    /// A commit without events.
    pub fn new(info: Arc<CommitInfo>) -> LiveCommit {
        let texts = info.meta.as_ref().map_or(0, |meta| meta.actor.len() + meta.reason.len());
        let bytes = COMMIT_BYTES + texts;
        LiveCommit { info, parts: Vec::new(), bytes }
    }

    /// Adds the events of the commit in one table.
    pub fn push(&mut self, timeline: &Arc<Timeline>, events: &[Event]) {
        let seq = self.info.seq;
        let live_event = |(event, index): (&Event, u32)| {
            let Event { kind, key, document, .. } = event;
            let (key, payload, id) = (key.clone(), document.clone(), EventId { seq, index });
            LiveEvent { key, id, kind: *kind, payload, images: Mutex::default() }
        };
        let is_visible = |event: &LiveEvent| event.kind != EventType::Note;
        let events: Vec<LiveEvent> = events.iter().zip(0..).map(live_event).filter(is_visible).collect();
        let payloads = events.iter().filter_map(|event| event.payload.as_ref());
        let payloads: usize = payloads.map(|payload| payload.msgpack().len()).sum();
        let keys: usize = events.iter().map(|event| key_bytes(event.key.as_ref())).sum();
        self.bytes += events.len() * EVENT_BYTES + keys + payloads;
        self.parts.push(LivePart { timeline: Arc::clone(timeline), events });
    }

    /// Estimated bytes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A commit without events that counts as `bytes` bytes.
    #[cfg(test)]
    pub fn with_bytes(seq: u64, bytes: usize) -> LiveCommit {
        let info = Arc::new(CommitInfo { seq, time_ms: seq, meta: None });
        LiveCommit { bytes, ..LiveCommit::new(info) }
    }
}

fn key_bytes(key: Option<&Key>) -> usize {
    match key {
        Some(Key::Str(text)) => text.len(),
        _ => 0,
    }
}

impl LiveEvent {
    /// Whether the wanted images are in memory, so that [`LiveEvent::to_drift_event`] reads no files.
    pub fn has_images(&self, wanted: Images) -> bool {
        self.key.is_none() || wanted == Images::default() || self.images.lock().is_some()
    }

    /// The event with the wanted images; it may contain more images than wanted.
    pub fn to_drift_event(
        &self,
        commit: &Arc<CommitInfo>,
        timeline: &Timeline,
        wanted: Images,
    ) -> Result<DriftEvent> {
        let (before, after) = match &self.key {
            Some(key) if wanted != Images::default() => self.images(key, timeline)?,
            _ => (None, None),
        };
        let (commit, key) = (Arc::clone(commit), self.key.clone());
        Ok(DriftEvent { commit, key, kind: self.kind, payload: self.payload.clone(), before, after })
    }

    fn images(&self, key: &Key, timeline: &Timeline) -> Result<RowImages> {
        if let Some(known) = &*self.images.lock() {
            return Ok(RowImages::clone(known));
        }
        // Read both images even if this watch wants one: another watch may want the other.
        let both = Images { before: true, after: true };
        let found = history::images_of(timeline, key, self.id, both)?;
        let rows = [&found.0, &found.1].into_iter().flatten();
        if rows.map(|row| row.document.msgpack().len()).sum::<usize>() <= IMAGE_BYTES {
            // Copy the documents: a slice would keep the whole block that it was read from in memory.
            let detached = |row: &Row| Row { document: row.document.detached(), ..row.clone() };
            let known = (found.0.as_ref().map(detached), found.1.as_ref().map(detached));
            *self.images.lock() = Some(Box::new(known));
        }
        Ok(found)
    }
}
