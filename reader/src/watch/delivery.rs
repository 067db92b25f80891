//! The delivery of one commit of the live ring to one watch.

use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::table::history::Images;
use driftdb_common::work;

use crate::live_commit::{LiveCommit, LiveEvent, LivePart};
use crate::watch::commit_assembler::CommitAssembler;
use crate::watch::filter::WatchFilter;

/// The bytes of a commit that is delivered at once.
const SHORT_COMMIT_BYTES: usize = 64 << 10;

/// A commit, and the position of the next event to deliver.
#[derive(Debug)]
pub struct Delivery {
    commit: Arc<LiveCommit>,
    part: usize,
    event: usize,
}

impl Delivery {
    /// A delivery at the start of a commit.
    pub fn new(commit: Arc<LiveCommit>) -> Delivery {
        Delivery { commit, part: 0, event: 0 }
    }

    /// The seq of the commit.
    pub fn seq(&self) -> u64 {
        self.commit.info.seq
    }

    /// Whether [`Delivery::step`] is so short that a thread of the async runtime can run it: it reads no files, checks no
    /// condition, and looks at few events.
    pub fn is_short(&self, filter: &WatchFilter, needed: Images) -> bool {
        !filter.has_condition()
            && self.commit.bytes() <= SHORT_COMMIT_BYTES
            && self.is_in_memory(filter, needed)
    }

    fn is_in_memory(&self, filter: &WatchFilter, needed: Images) -> bool {
        if !filter.passes_time(self.commit.info.time_ms) {
            return true;
        }
        let parts = self.commit.parts.iter().filter(|part| filter.covers(&part.timeline, self.seq()));
        let mut events = parts.flat_map(|part| &part.events);
        needed == Images::default()
            || events.all(|event| event.has_images(needed) || !filter.may_pass(event.key.as_ref()))
    }

    /// Delivers events while `out` has room. Returns whether the whole commit has been delivered.
    pub fn step(&mut self, filter: &WatchFilter, sent: Images, out: &mut CommitAssembler) -> Result<bool> {
        let commit = Arc::clone(&self.commit);
        if !filter.passes_time(commit.info.time_ms) {
            return Ok(true);
        }
        // Of the part with this position: the table's name then, if the watch covers the table.
        let mut covered: Option<(usize, Option<Arc<str>>)> = None;
        while let Some((part, live)) = self.current(&commit) {
            if !out.has_room() {
                return Ok(false);
            }
            work::step(8)?;
            let (timeline, seq) = (&part.timeline, commit.info.seq);
            let known = covered.take().filter(|(at, _)| *at == self.part);
            let (_, name) =
                covered.insert(known.unwrap_or_else(|| {
                    (self.part, filter.covers(timeline, seq).then(|| timeline.name_at(seq)))
                }));
            if let Some(name) = name.as_ref().filter(|_| filter.may_pass(live.key.as_ref())) {
                let needed = filter.needed_images(sent);
                let mut event = live.to_drift_event(&commit, &part.timeline, needed)?;
                if filter.passes(&event)? {
                    event.keep_images(sent);
                    let change = live.to_wire(&event, &commit, name, out.format())?;
                    out.push_change(&commit.info, change);
                }
            }
            self.event += 1;
        }
        Ok(true)
    }

    fn current<'a>(&mut self, commit: &'a LiveCommit) -> Option<(&'a LivePart, &'a LiveEvent)> {
        // Skip the parts that have no more events.
        while commit.parts.get(self.part).is_some_and(|part| part.events.len() <= self.event) {
            self.part += 1;
            self.event = 0;
        }
        let part = commit.parts.get(self.part)?;
        Some((part, part.events.get(self.event)?))
    }
}
