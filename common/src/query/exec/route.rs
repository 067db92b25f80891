//! Chooses how a SELECT finds its rows: the cheapest access path that the plan allows with the existing indexes.

use std::fmt;

use crate::error::Result;
use crate::format::key::Key;
use crate::memory::MemoryPermit;
use crate::query::exec::selection::Selection;
use crate::query::plan::{self, AccessPath, Probe, QueryPlan};
use crate::table::bounded_keys::BoundedKeys;
use crate::table::view::View;

/// The first limit on candidates when probes are tried in turn. Each further round multiplies it by ten.
const FIRST_LOOK: usize = 1000;
/// The maximum number of candidates held in memory. Their bytes are bounded, too.
const CANDIDATES_AT_ONCE: usize = 1_000_000;
/// The cost of one lookup by key, as a number of rows scanned in order.
const ROWS_PER_LOOKUP: u64 = 8;

/// How a SELECT finds its rows.
#[derive(Debug)]
pub enum Route {
    /// By key.
    Key(AccessPath),
    /// Look up these candidates of an index, in key order.
    Candidates {
        /// The index probe that found them.
        probe: Probe,
        /// The keys of rows that may match.
        keys: Vec<Key>,
        /// The memory that the keys take.
        memory: Option<MemoryPermit>,
    },
    /// Read the candidates of one indexed value in key order, a few at a time.
    Value {
        /// The index probe.
        probe: Probe,
        /// The encoded value.
        value: Vec<u8>,
    },
    /// Read no row: each commit stores the number of rows.
    Counted {
        /// The number of live rows.
        rows: u64,
    },
}

impl Route {
    /// Chooses the cheapest way to run a selection.
    pub fn choose(view: &View, selection: &Selection) -> Result<Route> {
        if selection.count_only
            && selection.condition.is_none()
            && selection.offset == 0
            && selection.after.is_none()
        {
            return Ok(Route::Counted { rows: view.counts()?.rows });
        }
        let QueryPlan { key, probes } = plan::plan(selection.condition.as_ref(), view.schema())?;
        if matches!(key, AccessPath::Keys(_)) {
            return Ok(Route::Key(key));
        }
        if probes.iter().any(|probe| probe.ranges.is_empty()) {
            return Ok(Route::Key(AccessPath::Keys(Vec::new())));
        }
        let usable: Vec<Probe> = probes.into_iter().filter(|probe| view.has_index(&probe.index)).collect();
        if usable.is_empty() {
            return Ok(Route::Key(key));
        }
        // A query with a LIMIT needs only the first rows of a value, not all candidates.
        let few = selection.limit.is_some() && !selection.count_only;
        let rows = view.counts()?.rows / ROWS_PER_LOOKUP;
        let most = usize::try_from(rows).unwrap_or(usize::MAX).clamp(FIRST_LOOK, CANDIDATES_AT_ONCE);
        let mut look = FIRST_LOOK;
        loop {
            if let Some((probe, keys)) = fewest(view, &usable, look)? {
                let (keys, memory) = keys.into_parts();
                let keys = keys.into_iter().collect();
                return Ok(Route::Candidates { probe: probe.clone(), keys, memory });
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
}

/// Returns the probe with the fewest candidates, if any probe has at most `most`.
fn fewest<'a>(view: &View, probes: &'a [Probe], most: usize) -> Result<Option<(&'a Probe, BoundedKeys)>> {
    let mut best: Option<(&Probe, BoundedKeys)> = None;
    for probe in probes {
        let most = best.as_ref().map_or(most, |(_, keys)| keys.len());
        let (mut keys, mut usable) = (BoundedKeys::new(most), true);
        for range in &probe.ranges {
            usable &= view.candidates_in(&probe.index, (&range.low, &range.high), &mut keys)?;
            if keys.is_over() || !usable {
                break;
            }
        }
        if usable && !keys.is_over() && best.as_ref().is_none_or(|(_, best)| keys.len() < best.len()) {
            best = Some((probe, keys));
        }
    }
    Ok(best)
}

/// Returns the value of a probe that looks for exactly one value.
fn one_value(probe: &Probe) -> Option<(Probe, Vec<u8>)> {
    match probe.ranges.as_slice() {
        [range] if range.low == range.high => Some((probe.clone(), range.low.clone())),
        _ => None,
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Route::Key(access) => access.fmt(f),
            Route::Candidates { probe, keys, .. } => {
                let s = if keys.len() == 1 { "" } else { "s" };
                write!(f, "{probe}, {} candidate{s}", keys.len())
            }
            Route::Value { probe, .. } => write!(f, "{probe}, in order"),
            Route::Counted { .. } => f.write_str("row count stored with each commit"),
        }
    }
}
