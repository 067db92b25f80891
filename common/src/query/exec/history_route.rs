//! How a question about the history of a table finds the rows that it is about: by key, by the candidates of indexes, or all of them.
//!
//! A row that matched once must be found although it does not match now. The indexes of layers tell of all versions, so candidates over
//! the whole stretch of commits contain it.

use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::format::path::Path;
use crate::planted::{PlantedBug, is_planted};
use crate::query::ast::Condition;
use crate::query::exec::candidate_limits::{CANDIDATES_AT_ONCE, FIRST_LOOK, ROWS_PER_HISTORY_LOOKUP};
use crate::query::plan::{self, AccessPath, Probe, QueryPlan};
use crate::table::candidate_keys::CandidateKeys;
use crate::table::history_candidates;
use crate::table::index_search::FoundCandidates;
use crate::table::row_histories::HistoryRows;
use crate::table::schema::Schema;
use crate::table::timeline::Timeline;

/// The rows whose history is read.
#[derive(Debug, Clone)]
pub enum HistoryRoute {
    /// By key.
    Key(AccessPath),
    /// The candidates of indexes, over all commits that the question is about.
    Candidates {
        /// The index probes that found them: first the one whose entries were read, then those that narrowed them.
        probes: Vec<Probe>,
        /// Keys of rows that may have matched.
        keys: Arc<CandidateKeys>,
    },
}

impl HistoryRoute {
    /// Chooses the rows that can match a condition after the first commit, or after a later one up to the second. `hidden` says
    /// which paths of a document the condition does not see.
    ///
    /// # Errors
    /// `BELOW_FLOOR` if the floor has passed the first commit.
    pub fn choose(
        timeline: &Timeline,
        condition: Option<&Condition>,
        commits: (u64, u64),
        hidden: impl Fn(&Path) -> bool,
    ) -> Result<HistoryRoute> {
        let schema = schema_of(timeline, commits.1)?;
        let QueryPlan { key, mut probes } = plan::plan(condition, &schema)?;
        probes.retain(|probe| !probe.columns.paths().iter().any(&hidden));
        if matches!(key, AccessPath::Keys(_)) {
            return Ok(HistoryRoute::Key(key));
        }
        if probes.iter().any(|probe| probe.ranges.is_empty()) {
            return Ok(HistoryRoute::Key(AccessPath::Keys(Vec::new())));
        }
        probes.retain(|probe| history_candidates::has_index(timeline, &probe.index, commits));
        if probes.is_empty() {
            return Ok(HistoryRoute::Key(key));
        }
        // A row's versions are read either way, so it does not matter much how the row is found.
        let rows = timeline.counts(commits.1)?.rows / ROWS_PER_HISTORY_LOOKUP;
        let most = usize::try_from(rows).unwrap_or(usize::MAX).clamp(FIRST_LOOK, CANDIDATES_AT_ONCE);
        let ranges: Vec<_> = probes.iter().map(Probe::index_ranges).collect();
        let first = if is_planted(PlantedBug::LeftRowsMissed) { commits.1 } else { commits.0 };
        let found = history_candidates::find(timeline, (first, commits.1), &ranges, most)?;
        Ok(match found {
            Some(FoundCandidates { keys, used }) => {
                let probes = used.iter().filter_map(|at| probes.get(*at)).cloned().collect();
                HistoryRoute::Candidates { probes, keys: Arc::new(keys) }
            }
            None => HistoryRoute::Key(key),
        })
    }

    /// The rows.
    ///
    /// # Errors
    /// `OVERLOADED` if other queries use all the memory.
    pub fn rows(&self) -> Result<HistoryRows> {
        Ok(match self {
            HistoryRoute::Key(AccessPath::Keys(keys)) => HistoryRows::listed(keys)?,
            HistoryRoute::Key(AccessPath::Range { from, to }) => {
                HistoryRows::Within(from.clone(), to.clone())
            }
            HistoryRoute::Key(AccessPath::Scan) => HistoryRows::ALL,
            HistoryRoute::Candidates { keys, .. } => HistoryRows::Listed(Arc::clone(keys), None),
        })
    }

    /// The number of rows, if they are listed one by one.
    pub fn listed(&self) -> Option<usize> {
        match self {
            HistoryRoute::Key(AccessPath::Keys(keys)) => Some(keys.len()),
            HistoryRoute::Candidates { keys, .. } => Some(keys.len()),
            HistoryRoute::Key(AccessPath::Range { .. } | AccessPath::Scan) => None,
        }
    }
}

/// The schema at a commit, or if the table does not exist then, one with its primary key.
fn schema_of(timeline: &Timeline, seq: u64) -> Result<Arc<Schema>> {
    timeline.schema_at(seq).map(|at| at.schema).or_else(|_| timeline.key_schema())
}

impl fmt::Display for HistoryRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HistoryRoute::Key(AccessPath::Scan) => f.write_str("history of the rows"),
            HistoryRoute::Key(access) => write!(f, "history of the rows by {access}"),
            HistoryRoute::Candidates { probes, keys } => {
                f.write_str("history of the rows by ")?;
                plan::write_candidates(f, probes, keys.len())
            }
        }
    }
}
