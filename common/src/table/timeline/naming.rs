//! The names that a table has had, and what they mean at a point in time.
//!
//! A table is found by the name that it has at the point in time that is read. Its history goes on under another name after a
//! RENAME, and the name is then free for another table. So a name alone does not identify a table: a name and a commit do.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::event::{Event, EventType};
use crate::table::memtable::CommitInfo;
use crate::table::schema::SchemaEvent;
use crate::table::timeline::{SchemaVersion, Timeline, not_found};

/// What a name is to a table after a commit.
#[derive(Debug, Clone)]
pub enum NameState {
    /// The table exists and has the name.
    Current,
    /// The table had the name when this commit dropped it.
    Dropped(u64),
    /// The table has had the name, and has another.
    GivenUp(GivenUpName),
    /// The table does not have the name yet: it gets it with this commit.
    Later(u64),
    /// The table has never had the name.
    Never,
}

/// The RENAME that took a name from a table.
#[derive(Debug, Clone)]
pub struct GivenUpName {
    commit: Arc<CommitInfo>,
    name: Arc<str>,
    /// The next name.
    to: Arc<str>,
}

impl GivenUpName {
    /// The commit.
    pub fn seq(&self) -> u64 {
        self.commit.seq
    }

    /// The error of a read at a commit that names the table by the name that it had. It has the new name only if that may be known.
    pub fn error(&self, seq: u64, is_visible: impl Fn(&str) -> bool) -> Error {
        if !is_visible(&self.to) {
            let advice = format!("; use a point in time before seq {}", self.commit.seq);
            return not_found(&self.name, seq, ("it was renamed", &advice), &self.commit);
        }
        let what = format!("it was renamed to {:?}", self.to);
        let advice = format!("; use that name, or a point in time before seq {}", self.commit.seq);
        not_found(&self.name, seq, (&what, &advice), &self.commit).with("renamed_to", self.to.to_string())
    }
}

impl Timeline {
    /// The table's newest name; its last one if it was dropped.
    pub fn name(&self) -> Arc<str> {
        let schemas = self.schemas.read();
        Arc::clone(schemas.last().map_or(&self.first_name, |last| &last.name))
    }

    /// The table's name after a commit: the last one if it was dropped, and the first one if it was created later.
    pub fn name_at(&self, seq: u64) -> Arc<str> {
        let schemas = self.schemas.read();
        Arc::clone(match (last_at(&schemas, seq), schemas.first()) {
            (Some(at), _) => schemas.get(at).map_or(&self.first_name, |version| &version.name),
            (None, Some(first)) if self.unreadable.is_none() => &first.name,
            _ => &self.first_name,
        })
    }

    /// Every name that the table has had, each once.
    pub fn names(&self) -> BTreeSet<Arc<str>> {
        let schemas = self.schemas.read();
        let known = schemas.iter().map(|version| Arc::clone(&version.name));
        let first = (self.unreadable.is_some() || schemas.is_empty()).then(|| Arc::clone(&self.first_name));
        known.chain(first).collect()
    }

    /// Whether the table existed under one of some names at some time in a range of commits.
    pub fn had_name(&self, range: RangeInclusive<u64>, is_one: impl Fn(&str) -> bool) -> bool {
        let schemas = self.schemas.read();
        let from = last_at(&schemas, *range.start());
        if from.is_none() && self.unreadable.is_some() && is_one(&self.first_name) {
            return true;
        }
        let versions = schemas.get(from.unwrap_or(0)..).unwrap_or_default();
        let in_range = versions.iter().take_while(|version| version.commit.seq <= *range.end());
        // A table that was dropped before the range does not exist in it. One that is dropped within does at first.
        let exists =
            |version: &&SchemaVersion| version.schema.is_some() || version.commit.seq > *range.start();
        in_range.filter(exists).any(|version| is_one(&version.name))
    }

    /// What a name is to the table after a commit, as far as the commits up to `newest` tell.
    pub fn name_state(&self, name: &str, seq: u64, newest: u64) -> NameState {
        let schemas = self.schemas.read();
        let at = last_at(&schemas, seq);
        let has = |version: &&SchemaVersion| *version.name == *name;
        match at.and_then(|at| schemas.get(at)) {
            Some(version) if has(&version) => {
                return match version.schema {
                    Some(_) => NameState::Current,
                    None => NameState::Dropped(version.commit.seq),
                };
            }
            None if self.unreadable.is_some() && *self.first_name == *name => return NameState::Current,
            _ => {}
        }
        let past = schemas.get(..at.map_or(0, |at| at + 1)).unwrap_or_default();
        let had = past.iter().rposition(|version| has(&version));
        if let Some((had, next)) = had.and_then(|at| Some((past.get(at)?, past.get(at + 1)?))) {
            let (commit, to) = (Arc::clone(&next.commit), Arc::clone(&next.name));
            return NameState::GivenUp(GivenUpName { commit, name: Arc::clone(&had.name), to });
        }
        let later = schemas.get(past.len()..).unwrap_or_default();
        let later = later.iter().take_while(|version| version.commit.seq <= newest).find(has);
        later.map_or(NameState::Never, |version| NameState::Later(version.commit.seq))
    }

    /// Why the table cannot be read by a name at a commit: it exists under another name, and gets this one later. `None` if it does not
    /// exist then. The error has that name only if it may be known.
    pub fn not_yet_named(&self, name: &str, seq: u64, is_visible: impl Fn(&str) -> bool) -> Option<Error> {
        let schemas = self.schemas.read();
        let at = last_at(&schemas, seq)?;
        let now = schemas.get(at).filter(|version| version.schema.is_some() && *version.name != *name)?;
        let later = schemas.get(at..)?.iter().find(|version| *version.name == *name)?;
        if !is_visible(&now.name) {
            return Some(not_found(name, seq, ("another table was renamed to it", ""), &later.commit));
        }
        let what = format!("table {:?} was renamed to it", now.name);
        Some(not_found(name, seq, (&what, "; use that name"), &later.commit))
    }

    /// The last commit up to `seq` after which the table exists under a name; `None` if it never does.
    pub fn name_until(&self, name: &str, seq: u64) -> Option<u64> {
        let schemas = self.schemas.read();
        let past = schemas.get(..last_at(&schemas, seq)? + 1)?;
        let last = past.iter().rposition(|version| version.schema.is_some() && *version.name == *name)?;
        Some(past.get(last + 1).map_or(seq, |next| next.commit.seq.saturating_sub(1)))
    }

    /// Follows the names of a table that cannot be read: the log after its layers tells them.
    pub(super) fn follow_names(&self, commit: &Arc<CommitInfo>, events: &[Event]) -> Result<()> {
        for event in events.iter().filter(|event| event.kind == EventType::Schema) {
            if let Some(payload) = &event.document {
                self.push_schema(commit, SchemaEvent::from_document(payload)?);
            }
        }
        Ok(())
    }
}

/// The position of the last version at or before a commit.
fn last_at(schemas: &[SchemaVersion], seq: u64) -> Option<usize> {
    schemas.partition_point(|version| version.commit.seq <= seq).checked_sub(1)
}
