//! What happened to a row, or to a whole table, between two moments.

use std::sync::Arc;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::event::{CommitMeta, EventType};
use crate::format::key::Key;
use crate::format::snapshot::{Did, VersionEntry};
use crate::table::chain::{Spot, sort_key};
use crate::table::overlay::{At, CommitInfo, Happened, Version};
use crate::table::timeline::{State, Timeline};
use crate::table::view::{read, read_key, row_in};

/// One event, with the row before and after it where asked for.
#[derive(Debug, Clone)]
pub struct Change {
    /// The commit.
    pub commit: Arc<CommitInfo>,
    /// The row; none for SCHEMA.
    pub key: Option<Key>,
    /// What kind of event it was.
    pub kind: EventType,
    /// What was written; none for SOFT_DELETE.
    pub payload: Option<Document>,
    /// The row before it.
    pub before: Option<Document>,
    /// The row after it.
    pub after: Option<Document>,
}

/// Which images of a row go with its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Images {
    /// The row before.
    pub before: bool,
    /// The row after.
    pub after: bool,
}

/// Which events, in which order.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Of this row; with SCHEMA events of the whole table where there is none.
    pub key: Option<Key>,
    /// After this commit. The floor counts where it is greater: what was folded into rows is no event.
    pub from: u64,
    /// Up to and with this one.
    pub to: u64,
    /// The newest first.
    pub newest_first: bool,
    /// With the row before and after.
    pub images: Images,
}

/// Goes through the events of a table, or of one row, after one commit and up to another. It holds on to no files.
#[derive(Debug)]
pub struct History {
    timeline: Arc<Timeline>,
    wanted: Wanted,
    /// What is left lies after the first spot, up to and with the second.
    left: (Spot, Spot),
    truncated: bool,
}

/// An event on its way out.
#[derive(Debug)]
struct Found {
    spot: Spot,
    change: Change,
}

impl History {
    /// The events wanted.
    pub fn new(timeline: &Arc<Timeline>, wanted: Wanted) -> History {
        let floor = timeline.state().chain.floor().map_or(0, |floor| floor.seq);
        let truncated = wanted.from < floor;
        let left = (Spot::end_of(wanted.from.max(floor)), Spot::end_of(wanted.to));
        History { timeline: Arc::clone(timeline), wanted, left, truncated }
    }

    /// Whether older events were asked for that have been compacted away.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// The next events, at most `limit`; none at the end.
    pub fn next_batch(&mut self, limit: usize) -> Result<Vec<Change>> {
        if limit == 0 || self.left.0 >= self.left.1 {
            return Ok(Vec::new());
        }
        let after = self.left.0;
        let found = read(&self.timeline, |state| {
            // Nothing is left out without being said: a floor that has risen meanwhile ends the answer.
            self.timeline.check_floor(after.seq)?;
            match &self.wanted.key {
                Some(key) => self.of_row(state, key, limit),
                None => self.of_table(state, limit),
            }
        })?;
        match found.last() {
            Some(last) if self.wanted.newest_first => self.left.1 = last.spot.before(),
            Some(last) => self.left.0 = last.spot,
            None => self.left.0 = self.left.1,
        }
        Ok(found.into_iter().map(|found| found.change).collect())
    }

    fn of_row(&self, state: &State, key: &Key, limit: usize) -> Result<Vec<Found>> {
        let (after, upto) = self.left;
        let mut found: Vec<Found> = Vec::new();
        // The overlay may hold older events than the chain's end, too: those are the chain's.
        let boundary = Spot::end_of(state.chain.end()).max(after).min(upto);
        if self.wanted.newest_first {
            self.of_overlay_row(state, key, (boundary, upto), limit, &mut found)?;
            self.of_chain_row(state, key, (after, boundary), limit, &mut found)?;
        } else {
            self.of_chain_row(state, key, (after, boundary), limit, &mut found)?;
            self.of_overlay_row(state, key, (boundary, upto), limit, &mut found)?;
        }
        Ok(found)
    }

    fn of_overlay_row(
        &self,
        state: &State,
        key: &Key,
        (after, upto): (Spot, Spot),
        limit: usize,
        found: &mut Vec<Found>,
    ) -> Result<()> {
        let versions = state.overlay.with_versions(key, |versions| {
            let start = versions.partition_point(|version| version.spot() <= after);
            let end = versions.partition_point(|version| version.spot() <= upto).max(start);
            let within = versions.get(start..end).unwrap_or_default();
            let left = limit.saturating_sub(found.len());
            if self.wanted.newest_first {
                within.iter().rev().take(left).cloned().collect::<Vec<_>>()
            } else {
                within.iter().take(left).cloned().collect()
            }
        });
        for version in versions.unwrap_or_default() {
            let event = (version.kind, version.payload.clone());
            found.push(self.found(state, key, version.spot(), Arc::clone(&version.commit), event)?);
        }
        Ok(())
    }

    fn of_chain_row(
        &self,
        state: &State,
        key: &Key,
        spots: (Spot, Spot),
        limit: usize,
        found: &mut Vec<Found>,
    ) -> Result<()> {
        if spots.0 >= spots.1 {
            return Ok(());
        }
        let left = limit.saturating_sub(found.len());
        for (spot, version) in state.chain.versions(key, spots, left, self.wanted.newest_first)? {
            found.push(self.of_entry(state, key, spot, version)?);
        }
        Ok(())
    }

    fn of_entry(&self, state: &State, key: &Key, spot: Spot, version: VersionEntry) -> Result<Found> {
        let VersionEntry { kind, time_ms, actor, reason, payload, .. } = version;
        let commit = commit_info(spot.seq, time_ms, actor, reason);
        self.found(state, key, spot, commit, (kind, payload))
    }

    fn found(
        &self,
        state: &State,
        key: &Key,
        spot: Spot,
        commit: Arc<CommitInfo>,
        (kind, payload): (EventType, Option<Document>),
    ) -> Result<Found> {
        let mut change = Change { commit, key: Some(key.clone()), kind, payload, before: None, after: None };
        if self.wanted.images.before {
            let before = row_in(state, key, spot.before())?;
            // A row of a table that has been dropped and created again since was absent before this event.
            let born = self.timeline.born_at(spot.seq);
            let before = before.filter(|before| before.seq == spot.seq || born <= before.seq);
            change.before = before.and_then(|before| before.document);
        }
        if self.wanted.images.after {
            change.after = row_in(state, key, spot)?.and_then(|after| after.document);
        }
        Ok(Found { spot, change })
    }

    fn of_table(&self, state: &State, limit: usize) -> Result<Vec<Found>> {
        let (after, upto) = self.left;
        let mut found: Vec<Found> = Vec::new();
        let boundary = Spot::end_of(state.chain.end()).max(after).min(upto);
        if self.wanted.newest_first {
            self.of_overlay(state, (boundary, upto), limit, &mut found)?;
            self.of_chain(state, (after, boundary), limit, &mut found)?;
        } else {
            self.of_chain(state, (after, boundary), limit, &mut found)?;
            self.of_overlay(state, (boundary, upto), limit, &mut found)?;
        }
        Ok(found)
    }

    fn of_overlay(
        &self,
        state: &State,
        (after, upto): (Spot, Spot),
        limit: usize,
        found: &mut Vec<Found>,
    ) -> Result<()> {
        let (mut after, mut upto) = (after, upto);
        while found.len() < limit {
            let left = limit - found.len();
            let happened = state.overlay.happened(after, upto, left, self.wanted.newest_first);
            let Some(last) = happened.last() else { return Ok(()) };
            if self.wanted.newest_first {
                upto = last.spot.before()
            } else {
                after = last.spot
            }
            for At { spot, what } in happened {
                match what {
                    Happened::Row { key, version } => {
                        let find = |versions: &[Version]| versions.get(version).cloned();
                        let Some(version) = state.overlay.with_versions(&key, find).flatten() else {
                            continue;
                        };
                        let event = (version.kind, version.payload.clone());
                        found.push(self.found(state, &key, spot, Arc::clone(&version.commit), event)?);
                    }
                    Happened::Schema { commit, payload, .. } => found.push(of_schema(spot, commit, payload)),
                    Happened::Note => {}
                }
            }
        }
        Ok(())
    }

    fn of_chain(
        &self,
        state: &State,
        (after, upto): (Spot, Spot),
        limit: usize,
        found: &mut Vec<Found>,
    ) -> Result<()> {
        if after >= upto {
            return Ok(());
        }
        // From within a commit on, the commit itself is gone through again, and what was told is left out.
        let within = u64::from(after.index < u32::MAX);
        let from = after.seq.saturating_sub(within);
        let mut commits = state.chain.commits(from, upto.seq, self.wanted.newest_first);
        let key_type = state.chain.key_type();
        while found.len() < limit {
            let Some(commit) = commits.next_commit()? else { break };
            let mut did: Vec<(Spot, Did)> = (0..)
                .zip(commit.entry.did)
                .map(|(index, did)| (Spot { seq: commit.seq, index }, did))
                .filter(|(spot, _)| *spot > after && *spot <= upto)
                .collect();
            if self.wanted.newest_first {
                did.reverse();
            }
            for (spot, did) in did.into_iter().take(limit - found.len()) {
                match did {
                    Did::Row(bytes) => {
                        let key = read_key(&bytes, key_type)?;
                        let version = state.chain.version(&sort_key(&key), spot)?;
                        found.push(self.of_entry(state, &key, spot, version)?);
                    }
                    Did::Schema(payload, _) => {
                        let (actor, reason) = (commit.entry.actor.clone(), commit.entry.reason.clone());
                        let info = commit_info(commit.seq, commit.time_ms, actor, reason);
                        found.push(of_schema(spot, info, payload));
                    }
                }
            }
        }
        Ok(())
    }
}

fn commit_info(seq: u64, time_ms: u64, actor: String, reason: String) -> Arc<CommitInfo> {
    let said = !actor.is_empty() || !reason.is_empty();
    let meta = said.then(|| Box::new(CommitMeta { actor, reason, ..CommitMeta::default() }));
    Arc::new(CommitInfo { seq, time_ms, meta })
}

fn of_schema(spot: Spot, commit: Arc<CommitInfo>, payload: Document) -> Found {
    let payload = Some(payload);
    let change = Change { commit, key: None, kind: EventType::Schema, payload, before: None, after: None };
    Found { spot, change }
}
