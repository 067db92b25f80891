//! A commit of the live ring on its way to one subscriber.

use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::table::history::Images;

use crate::subscriptions::{LiveCommit, LiveEvent, LivePart};
use crate::watch::catch_up::keep_only;
use crate::watch::filter::Filter;
use crate::watch::message::Assembler;

/// A commit, and how far it has been gone through.
#[derive(Debug)]
pub struct Delivery {
    commit: Arc<LiveCommit>,
    part: usize,
    event: usize,
}

impl Delivery {
    /// The whole of a commit.
    pub fn new(commit: Arc<LiveCommit>) -> Delivery {
        Delivery { commit, part: 0, event: 0 }
    }

    /// The commit.
    pub fn commit(&self) -> &Arc<LiveCommit> {
        &self.commit
    }

    /// Whether it can be gone through without a look at files.
    pub fn is_ready(&self, filter: &Filter, wanted: Images) -> bool {
        let parts = self.commit.parts.iter().filter(|part| filter.wants_table(part.timeline.name()));
        let mut events = parts.flat_map(|part| &part.events);
        wanted == Images::default()
            || events.all(|event| event.has_images(wanted) || !filter.may_pass(event.key.as_ref()))
    }

    /// Goes on as long as there is room; whether all of it has been gone through.
    pub fn step(&mut self, filter: &Filter, sent: Images, out: &mut Assembler) -> Result<bool> {
        let commit = Arc::clone(&self.commit);
        while let Some((part, event)) = self.current(&commit) {
            if !out.has_room() {
                return Ok(false);
            }
            if filter.wants_table(part.timeline.name()) && filter.may_pass(event.key.as_ref()) {
                let mut change = event.change(&commit.info, &part.timeline, filter.images(sent))?;
                if filter.passes(&change)? {
                    keep_only(&mut change, sent);
                    out.push(&change, part.timeline.name())?;
                }
            }
            self.event += 1;
        }
        Ok(true)
    }

    /// The same, with looks at files: one watch at a time, so that those after it find what it has found.
    pub fn step_resolving(&mut self, filter: &Filter, sent: Images, out: &mut Assembler) -> Result<bool> {
        let commit = Arc::clone(&self.commit);
        let _resolving = commit.resolving();
        self.step(filter, sent, out)
    }

    fn current<'a>(&mut self, commit: &'a LiveCommit) -> Option<(&'a LivePart, &'a LiveEvent)> {
        // Parts without events that are shown are passed over.
        while commit.parts.get(self.part).is_some_and(|part| part.events.len() <= self.event) {
            self.part += 1;
            self.event = 0;
        }
        let part = commit.parts.get(self.part)?;
        Some((part, part.events.get(self.event)?))
    }
}
