//! How a SELECT comes to its rows: of what its plan allows, what costs least with the indexes that there are.

use std::collections::BTreeSet;
use std::fmt;

use crate::error::Result;
use crate::format::key::Key;
use crate::query::exec::Selection;
use crate::query::plan::{self, AccessPath, Probe, QueryPlan};
use crate::table::view::View;

/// Candidates looked for at first; each probe in turn, then ten times as many.
const FIRST_LOOK: usize = 1000;
/// Candidates held at once, at most.
const CANDIDATES_AT_ONCE: usize = 1_000_000;
/// A row looked up by its key costs about as much as this many gone through in order.
const ROWS_PER_LOOKUP: u64 = 8;

/// The way to the rows.
#[derive(Debug)]
pub enum Route {
    /// By key.
    Key(AccessPath),
    /// These candidates of an index, in order.
    Candidates {
        /// What was looked for.
        probe: Probe,
        /// Rows that may match.
        keys: Vec<Key>,
    },
    /// The candidates of one value, as they are asked for.
    Value {
        /// What is looked for.
        probe: Probe,
        /// The value's bytes.
        value: Vec<u8>,
    },
    /// No row is read: how many there are is kept with each commit.
    Counted {
        /// Live rows.
        rows: u64,
    },
}

impl Route {
    /// The cheapest way for a selection.
    pub fn choose(view: &View, selection: &Selection) -> Result<Route> {
        if selection.count_only
            && selection.condition.is_none()
            && selection.offset == 0
            && selection.after.is_none()
        {
            return Ok(Route::Counted { rows: view.counts()?.rows });
        }
        let QueryPlan { key, probes } = plan::plan(selection.condition.as_ref(), view.schema());
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
        // Whoever wants the first few of a value's rows need not know them all.
        let few = selection.limit.is_some() && !selection.count_only;
        let rows = view.counts()?.rows / ROWS_PER_LOOKUP;
        let most = usize::try_from(rows).unwrap_or(usize::MAX).clamp(FIRST_LOOK, CANDIDATES_AT_ONCE);
        let mut look = FIRST_LOOK;
        loop {
            if let Some((probe, keys)) = fewest(view, &usable, look)? {
                return Ok(Route::Candidates { probe: probe.clone(), keys: keys.into_iter().collect() });
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

/// The probe with the fewest candidates, of those that have at most so many.
fn fewest<'a>(view: &View, probes: &'a [Probe], most: usize) -> Result<Option<(&'a Probe, BTreeSet<Key>)>> {
    let mut best: Option<(&Probe, BTreeSet<Key>)> = None;
    for probe in probes {
        let most = best.as_ref().map_or(most, |(_, keys)| keys.len());
        let (mut keys, mut usable) = (BTreeSet::new(), true);
        for range in &probe.ranges {
            usable &= view.candidates_in(&probe.index, (&range.low, &range.high), most, &mut keys)?;
            if keys.len() > most || !usable {
                break;
            }
        }
        if usable && keys.len() <= most && best.as_ref().is_none_or(|(_, best)| keys.len() < best.len()) {
            best = Some((probe, keys));
        }
    }
    Ok(best)
}

/// The one value that a probe looks for.
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
            Route::Candidates { probe, keys } => {
                let s = if keys.len() == 1 { "" } else { "s" };
                write!(f, "{probe}, {} candidate{s}", keys.len())
            }
            Route::Value { probe, .. } => write!(f, "{probe}, in order"),
            Route::Counted { .. } => f.write_str("the count kept with each commit"),
        }
    }
}
