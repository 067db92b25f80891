//! A commit as the follower applied it, kept in memory for the watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use driftdb::v1;
use driftdb::v1::document::Body;
use driftdb_common::error::Result;
use driftdb_common::format::document::Document;
use driftdb_common::format::event::{Event, EventMarks, EventType};
use driftdb_common::format::key::Key;
use driftdb_common::limits;
use driftdb_common::service::convert::{self, ChangeDocument};
use driftdb_common::table::event_id::EventId;
use driftdb_common::table::history::{self, DriftEvent, Images, RowImages};
use driftdb_common::table::memtable::CommitInfo;
use driftdb_common::table::timeline::Timeline;
use driftdb_common::table::view::Row;
use driftdb_common::work;
use parking_lot::Mutex;

/// Row images and texts larger than this are not kept: each watch reads and encodes them again.
const SHARED_BYTES: usize = 1024;
/// Estimated bytes of a commit besides its texts and events.
const COMMIT_BYTES: usize = 192;
/// Estimated bytes of an event besides its key and documents.
const EVENT_BYTES: usize = 192;
/// Estimated bytes of what an event shares, besides the documents and texts.
const SHARED_OVERHEAD_BYTES: usize = 192;

/// A commit as the follower applied it.
#[derive(Debug)]
pub struct LiveCommit {
    /// The seq, time, actor and reason.
    pub info: Arc<CommitInfo>,
    /// The events by table, ordered by table id.
    pub parts: Vec<LivePart>,
    bytes: usize,
    sharing: Arc<RingSharing>,
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
    marks: EventMarks,
    payload: Option<Document>,
    /// What the first watch has read and encoded, for the others.
    shared: Mutex<Option<Box<SharedEvent>>>,
}

/// How many watches share the commits of the ring, and how many bytes these keep for them.
#[derive(Debug, Default)]
pub struct RingSharing {
    watches: AtomicUsize,
    bytes: AtomicUsize,
}

impl RingSharing {
    /// The number of watches.
    pub fn watches(&self) -> usize {
        self.watches.load(Ordering::Acquire)
    }

    /// Counts a watch. Returns how many there were.
    pub fn add_watch(&self) -> usize {
        self.watches.fetch_add(1, Ordering::AcqRel)
    }

    /// A watch is gone.
    pub fn remove_watch(&self) {
        self.watches.fetch_sub(1, Ordering::AcqRel);
    }

    /// Takes bytes, unless the limit is reached.
    fn take(&self, bytes: usize) -> bool {
        let more = |used: usize| Some(used + bytes).filter(|used| *used <= limits::RING_SHARED_BYTES);
        self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }
}

/// What an event keeps for its watches.
#[derive(Debug)]
struct SharedEvent {
    /// The row before and after the event.
    images: Option<RowImages>,
    /// The JSON of the payload, and of the row before and after.
    texts: [Option<Arc<str>>; 3],
    bytes: usize,
    sharing: Arc<RingSharing>,
}

impl Drop for SharedEvent {
    fn drop(&mut self) {
        self.sharing.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl LiveCommit {
    /// A commit without events.
    pub fn new(info: Arc<CommitInfo>, sharing: &Arc<RingSharing>) -> LiveCommit {
        let texts = info.meta.as_ref().map_or(0, |meta| meta.actor.len() + meta.reason.len());
        let bytes = COMMIT_BYTES + texts;
        LiveCommit { info, parts: Vec::new(), bytes, sharing: Arc::clone(sharing) }
    }

    /// Adds the events of the commit in one table.
    pub fn push(&mut self, timeline: &Arc<Timeline>, events: &[Event]) {
        let seq = self.info.seq;
        let live_event = |(event, index): (&Event, u32)| {
            let Event { kind, key, document, marks, .. } = event;
            let (key, payload, id) = (key.clone(), document.clone(), EventId { seq, index });
            LiveEvent { key, id, kind: *kind, marks: *marks, payload, shared: Mutex::default() }
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
        LiveCommit { bytes, ..LiveCommit::new(info, &Arc::default()) }
    }
}

fn key_bytes(key: Option<&Key>) -> usize {
    key.map_or(0, Key::bytes)
}

impl LiveEvent {
    /// Whether the wanted images are in memory, so that [`LiveEvent::to_drift_event`] reads no files.
    pub fn has_images(&self, wanted: Images) -> bool {
        let has = |shared: &SharedEvent| shared.images.is_some();
        self.key.is_none() || wanted == Images::default() || self.shared.lock().as_deref().is_some_and(has)
    }

    /// The row before and after the event, if both can be found at once, without reading a file.
    pub fn images_in_memory(&self, commit: &LiveCommit, timeline: &Timeline) -> Option<RowImages> {
        let key = self.key.as_ref()?;
        work::quick(|| self.images(key, commit, timeline))?.ok()
    }

    /// The event with the wanted images; it may contain more images than wanted.
    pub fn to_drift_event(
        &self,
        commit: &LiveCommit,
        timeline: &Timeline,
        wanted: Images,
    ) -> Result<DriftEvent> {
        let (before, after) = match &self.key {
            Some(key) if wanted != Images::default() => self.images(key, commit, timeline)?,
            _ => (None, None),
        };
        let (commit, key) = (Arc::clone(&commit.info), self.key.clone());
        Ok(DriftEvent {
            commit,
            key,
            kind: self.kind,
            payload: self.payload.clone(),
            marks: self.marks,
            before,
            after,
        })
    }

    /// The API's message for what [`LiveEvent::to_drift_event`] returned. Several watches share its JSON texts.
    pub fn to_wire(
        &self,
        event: &DriftEvent,
        commit: &LiveCommit,
        table: &str,
        format: v1::DocumentFormat,
    ) -> Result<v1::Change> {
        convert::change_with_documents(event, table, |which, document| {
            if format == v1::DocumentFormat::Msgpack || commit.sharing.watches() < 2 {
                return convert::document_to_wire(document, format);
            }
            Ok(v1::Document { body: Some(Body::Json(self.json(which, document, commit)?)) })
        })
    }

    fn json(&self, which: ChangeDocument, document: &Document, commit: &LiveCommit) -> Result<String> {
        fn place(shared: &mut SharedEvent, which: ChangeDocument) -> &mut Option<Arc<str>> {
            let [payload, before, after] = &mut shared.texts;
            match which {
                ChangeDocument::Payload => payload,
                ChangeDocument::Before => before,
                ChangeDocument::After => after,
            }
        }
        if let Some(shared) = self.shared.lock().as_deref_mut()
            && let Some(known) = place(shared, which)
        {
            return Ok(String::from(&**known));
        }
        let text = document.to_json()?;
        if text.len() <= SHARED_BYTES {
            self.share(commit, text.len(), |shared| *place(shared, which) = Some(Arc::from(text.as_str())));
        }
        Ok(text)
    }

    fn images(&self, key: &Key, commit: &LiveCommit, timeline: &Timeline) -> Result<RowImages> {
        if let Some(known) = self.shared.lock().as_deref().and_then(|shared| shared.images.as_ref()) {
            return Ok(RowImages::clone(known));
        }
        // Read both images even if this watch wants one: another watch may want the other.
        let both = Images { before: true, after: true };
        let found = history::images_of(timeline, key, self.id, both)?;
        let rows = [&found.0, &found.1].into_iter().flatten();
        let bytes = rows.map(|row| row.document.msgpack().len()).sum::<usize>();
        if bytes <= SHARED_BYTES {
            // Copy the documents: a slice would keep the whole block that it was read from in memory.
            let detached = |row: &Row| Row { document: row.document.detached(), ..row.clone() };
            let known = (found.0.as_ref().map(detached), found.1.as_ref().map(detached));
            self.share(commit, bytes, |shared| shared.images = Some(known));
        }
        Ok(found)
    }

    /// Keeps something of so many bytes for other watches, unless there is no room.
    fn share(&self, commit: &LiveCommit, bytes: usize, keep: impl FnOnce(&mut SharedEvent)) {
        let mut shared = self.shared.lock();
        let bytes = bytes + if shared.is_none() { SHARED_OVERHEAD_BYTES } else { 0 };
        if !commit.sharing.take(bytes) {
            return;
        }
        let new = || {
            let sharing = Arc::clone(&commit.sharing);
            Box::new(SharedEvent { images: None, texts: [None, None, None], bytes: 0, sharing })
        };
        let shared = shared.get_or_insert_with(new);
        shared.bytes += bytes;
        keep(shared);
    }
}
