//! The tables by each name that they have had: a name means the table that has it at the point in time that is read.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use driftdb_common::error::{Error, Result};
use driftdb_common::table::timeline::Timeline;
use driftdb_common::table::timeline::naming::{GivenUpName, NameState};

/// All tables, by name.
#[derive(Debug, Clone, Default)]
pub struct TableNames(BTreeMap<Arc<str>, Vec<Arc<Timeline>>>);

impl TableNames {
    /// Adds a table under each name that it has had. It takes the place of an earlier one with its id.
    pub fn add(&mut self, timeline: &Arc<Timeline>) {
        for name in timeline.names() {
            let tables = self.0.entry(name).or_default();
            match tables.iter_mut().find(|known| known.id() == timeline.id()) {
                Some(known) => *known = Arc::clone(timeline),
                None => tables.push(Arc::clone(timeline)),
            }
        }
    }

    /// Whether a table is known by every name that it has had.
    pub fn has(&self, timeline: &Arc<Timeline>) -> bool {
        let is_known = |name: Arc<str>| {
            let tables = self.0.get(&name).map(Vec::as_slice).unwrap_or_default();
            tables.iter().any(|known| Arc::ptr_eq(known, timeline))
        };
        timeline.names().into_iter().all(is_known)
    }

    /// The table that has a name after a commit. If none has it, the one that was dropped last under the name, or else the one that gets
    /// the name next: a view of it says so. Fails if the name was given up by a RENAME since, and if no table up to commit `newest` has
    /// ever had it. Other names in an error are those that `is_visible` allows.
    pub fn find(
        &self,
        name: &str,
        (seq, newest): (u64, u64),
        is_visible: impl Fn(&str) -> bool,
    ) -> Result<&Arc<Timeline>> {
        let (mut dropped, mut given_up, mut later) = (None, None::<GivenUpName>, None);
        for timeline in self.of_name(name) {
            match timeline.name_state(name, seq, newest) {
                NameState::Current => return Ok(timeline),
                NameState::Dropped(at) => dropped = dropped.max(Some((at, timeline.id()))),
                NameState::GivenUp(by) => {
                    if given_up.as_ref().is_none_or(|known| known.seq() < by.seq()) {
                        given_up = Some(by);
                    }
                }
                NameState::Later(at) => {
                    later = [later, Some((at, timeline.id()))].into_iter().flatten().min()
                }
                NameState::Never => {}
            }
        }
        if let Some(given_up) = given_up.filter(|by| dropped.is_none_or(|(at, _)| at < by.seq())) {
            return Err(given_up.error(seq, is_visible));
        }
        let id = dropped.or(later).map(|(_, id)| id);
        if let Some(found) = self.of_name(name).iter().find(|timeline| Some(timeline.id()) == id) {
            return found.not_yet_named(name, seq, is_visible).map_or(Ok(found), Err);
        }
        Err(Error::unknown_table(name, []))
    }

    /// Every name that a table has or has had.
    pub fn all(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.keys().map(|name| &**name)
    }

    /// Another table than `timeline` that had a name at some time in a range of commits.
    pub fn other_of_name(
        &self,
        name: &str,
        timeline: &Timeline,
        range: &RangeInclusive<u64>,
    ) -> Option<&Arc<Timeline>> {
        let others = self.of_name(name).iter().filter(|other| other.id() != timeline.id());
        others.rev().find(|other| other.had_name(range.clone(), |had| had == name))
    }

    /// The tables that exist after a commit, by name, from names after `after` on. A table that cannot be read is among them. If
    /// wanted, also the one that was dropped last under each name that no table has.
    pub fn at(
        &self,
        seq: u64,
        after: &str,
        with_dropped: bool,
    ) -> impl Iterator<Item = (&Arc<str>, &Arc<Timeline>)> {
        let after = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        self.0.range::<str, _>(after).filter_map(move |(name, tables)| {
            let mut dropped = None;
            for table in tables {
                match table.name_state(name, seq, seq) {
                    NameState::Current => return Some((name, table)),
                    NameState::Dropped(at) if dropped.is_none_or(|(last, _)| last < at) => {
                        dropped = Some((at, table));
                    }
                    _ => {}
                }
            }
            dropped.filter(|_| with_dropped).map(|(_, table)| (name, table))
        })
    }

    /// The tables that have had a name, in the order in which they got known.
    pub fn of_name(&self, name: &str) -> &[Arc<Timeline>] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }
}
