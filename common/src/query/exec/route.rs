//! Chooses how a SELECT finds its rows: the cheapest access path that the plan allows with the existing indexes.

use std::fmt;

use crate::error::Result;
use crate::query::exec::candidate_limits::{CANDIDATES_AT_ONCE, FIRST_LOOK, ROWS_PER_LOOKUP};
use crate::query::exec::deleted_rows;
use crate::query::exec::history_route::HistoryRoute;
use crate::query::exec::selection::Selection;
use crate::query::plan::{self, AccessPath, Probe, QueryPlan};
use crate::table::candidate_keys::CandidateKeys;
use crate::table::index_search::FoundCandidates;
use crate::table::row_spans;
use crate::table::view::View;

/// How a SELECT finds its rows.
#[derive(Debug)]
pub enum Route {
    /// By key.
    Key(AccessPath),
    /// Look up these candidates of indexes, in key order.
    Candidates {
        /// The index probes that found them: first the one whose entries were read, then those that narrowed them.
        probes: Vec<Probe>,
        /// The keys of rows that may match.
        keys: CandidateKeys,
    },
    /// Read the candidates of one indexed value in key order, a few at a time.
    Value {
        /// The index probe.
        probe: Probe,
        /// The encoded value.
        value: Vec<u8>,
    },
    /// Read the history of rows, for those that are soft-deleted.
    Deleted {
        /// The commit after which deletions are known: the floor when the query began.
        after: u64,
        /// The rows that can match.
        rows: HistoryRoute,
    },
    /// Read no row: each commit stores the number of rows.
    Counted {
        /// The number of live rows.
        rows: u64,
    },
}

/// The most rows of a short route.
const SHORT: usize = 256;

impl Route {
    /// Whether the route leads to few rows.
    pub fn is_short(&self) -> bool {
        match self {
            Route::Key(AccessPath::Keys(keys)) => keys.len() <= SHORT,
            Route::Candidates { keys, .. } => keys.len() <= SHORT,
            Route::Counted { .. } => true,
            Route::Key(_) | Route::Value { .. } | Route::Deleted { .. } => false,
        }
    }

    /// Chooses the cheapest way to run a selection.
    pub fn choose(view: &View, selection: &Selection) -> Result<Route> {
        let (key, usable) = match Choice::of(view, selection)? {
            Choice::Made(route) => return Ok(route),
            Choice::Indexes { key, usable } => (key, usable),
        };
        // A query with a LIMIT needs only the first rows of a value, not all candidates.
        let few = selection.limit.is_some() && !selection.count_only;
        let rows = view.counts()?.rows / ROWS_PER_LOOKUP;
        let most = usize::try_from(rows).unwrap_or(usize::MAX).clamp(FIRST_LOOK, CANDIDATES_AT_ONCE);
        let mut look = FIRST_LOOK;
        loop {
            if let Some(route) = Route::by_candidates(view, &usable, look)? {
                return Ok(route);
            }
            if few && let Some((probe, value)) = usable.iter().find_map(one_value) {
                return Ok(Route::Value { probe, value });
            }
            if look >= most {
                return Ok(Route::Key(key));
            }
            look = (look * 10).min(most);
        }
    }

    /// Chooses a short way to run a selection, if there is one. That takes a bounded time: it looks at the indexes once.
    pub fn choose_short(view: &View, selection: &Selection) -> Result<Option<Route>> {
        let route = match Choice::of(view, selection)? {
            Choice::Made(route) => Some(route),
            Choice::Indexes { usable, .. } => Route::by_candidates(view, &usable, FIRST_LOOK)?,
        };
        Ok(route.filter(Route::is_short))
    }

    /// The way by the fewest candidates of some indexes; `None` if there are more than `most`.
    fn by_candidates(view: &View, usable: &[Probe], most: usize) -> Result<Option<Route>> {
        let ranges: Vec<_> = usable.iter().map(Probe::index_ranges).collect();
        let found = view.candidates_in(&ranges, most)?;
        Ok(found.map(|FoundCandidates { keys, used }| {
            let probes = used.iter().filter_map(|at| usable.get(*at)).cloned().collect();
            Route::Candidates { probes, keys }
        }))
    }
}

/// What is known of the way to run a selection before any index is read.
enum Choice {
    Made(Route),
    /// It depends on the number of candidates in some indexes. Without them, the rows are found by key.
    Indexes {
        key: AccessPath,
        usable: Vec<Probe>,
    },
}

impl Choice {
    fn of(view: &View, selection: &Selection) -> Result<Choice> {
        if selection.deleted {
            let after = selection.deleted_after.unwrap_or_else(|| row_spans::first_known(view.timeline()));
            let rows = deleted_rows::route(view, after, selection.condition.as_ref())?;
            return Ok(Choice::Made(Route::Deleted { after, rows }));
        }
        if selection.count_only
            && selection.condition.is_none()
            && selection.offset == 0
            && selection.after.is_none()
        {
            return Ok(Choice::Made(Route::Counted { rows: view.counts()?.rows }));
        }
        let QueryPlan { key, probes } = plan::plan(selection.condition.as_ref(), view.schema())?;
        if matches!(key, AccessPath::Keys(_)) {
            return Ok(Choice::Made(Route::Key(key)));
        }
        if probes.iter().any(|probe| probe.ranges.is_empty()) {
            return Ok(Choice::Made(Route::Key(AccessPath::Keys(Vec::new()))));
        }
        let usable: Vec<Probe> = probes.into_iter().filter(|probe| view.has_index(&probe.index)).collect();
        Ok(if usable.is_empty() { Choice::Made(Route::Key(key)) } else { Choice::Indexes { key, usable } })
    }
}

/// Returns the value of a probe that looks for exactly one value.
fn one_value(probe: &Probe) -> Option<(Probe, Vec<u8>)> {
    match probe.ranges.as_slice() {
        // In a composite index of the memtable, a value can be unknown.
        [range] if range.is_one_value() && !probe.columns.is_composite() => {
            Some((probe.clone(), range.low.clone()))
        }
        _ => None,
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Route::Key(access) => access.fmt(f),
            Route::Candidates { probes, keys } => plan::write_candidates(f, probes, keys.len()),
            Route::Value { probe, .. } => write!(f, "{probe}, in order"),
            Route::Deleted { rows, .. } => rows.fmt(f),
            Route::Counted { .. } => f.write_str("row count stored with each commit"),
        }
    }
}
