//! A table's state after one commit.

use std::ops::Bound;
use std::sync::Arc;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::key::Key;
use crate::table::overlay::{Counts, Version};
use crate::table::schema::Schema;
use crate::table::timeline::Timeline;

/// A row at a moment.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its key.
    pub key: Key,
    /// The commit that last changed it.
    pub seq: u64,
    /// That commit's time in milliseconds since 1970.
    pub time_ms: u64,
    /// Its content.
    pub document: Document,
}

/// A table's state after commit `seq`.
#[derive(Debug, Clone)]
pub struct View {
    timeline: Arc<Timeline>,
    schema: Arc<Schema>,
    born: u64,
    seq: u64,
}

impl View {
    /// The state of a table after a commit. NOT_FOUND where there was no such table then.
    pub fn at(timeline: &Arc<Timeline>, seq: u64) -> Result<View> {
        let at = timeline.schema_at(seq)?;
        Ok(View { timeline: Arc::clone(timeline), schema: at.schema, born: at.born, seq })
    }

    /// The commit after which this is the state.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The table's schema then.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The table.
    pub fn timeline(&self) -> &Arc<Timeline> {
        &self.timeline
    }

    /// How many events and live rows there were then.
    pub fn counts(&self) -> Counts {
        self.timeline.overlay().counts(self.seq)
    }

    /// The row with a key.
    pub fn get(&self, key: &Key) -> Option<Row> {
        self.timeline.overlay().with_versions(key, |versions| self.row(key, versions))?
    }

    /// Goes through the live rows of a range of keys, in order, until `look` says false.
    pub fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        mut look: impl FnMut(&Key, &Version, &Document) -> bool,
    ) {
        self.timeline.overlay().scan(range, |key, versions| match self.live(versions) {
            Some((version, document)) => look(key, version, document),
            None => true,
        });
    }

    fn row(&self, key: &Key, versions: &[Version]) -> Option<Row> {
        let (version, document) = self.live(versions)?;
        Some(Row {
            key: key.clone(),
            seq: version.commit.seq,
            time_ms: version.commit.time_ms,
            document: document.clone(),
        })
    }

    /// The version of a row at this moment, where it is live.
    fn live<'a>(&self, versions: &'a [Version]) -> Option<(&'a Version, &'a Document)> {
        let upto = versions.partition_point(|version| version.commit.seq <= self.seq);
        let version = versions.get(upto.checked_sub(1)?)?;
        let document = version.after.as_ref()?;
        (version.commit.seq >= self.born).then_some((version, document))
    }
}
