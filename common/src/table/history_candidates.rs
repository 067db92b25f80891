//! The rows that may have had indexed values after some commit of a stretch: those whose history a question must read.
//!
//! The index of a layer keeps every value that a version in the layer has, so rows that matched once and no longer do are found, too.

use crate::error::Result;
use crate::table::index_search::{FoundCandidates, IndexSearch};
use crate::table::table_state::TableState;
use crate::table::timeline::Timeline;
use crate::table::value_range::IndexRanges;

/// Whether an index can be used now for what rows were after the first commit, and after each later one up to the second.
pub fn has_index(timeline: &Timeline, index: &str, commits: (u64, u64)) -> bool {
    has_index_in(&timeline.state(), index, commits)
}

fn has_index_in(state: &TableState, index: &str, commits: (u64, u64)) -> bool {
    let newer = commits.1 < state.layers.end() || state.memtable.has_index(index);
    newer && state.layers.history_index_files(index, commits).is_some()
}

/// Returns the candidates of the ranges that find the fewest, narrowed by the others: keys of all rows that were in all of the ranges
/// after the first commit, or after a later one up to the second. `None` if all find more than `most`, or an index cannot be used now.
///
/// # Errors
/// `BELOW_FLOOR` if the first commit is below the floor.
pub fn find(
    timeline: &Timeline,
    commits: (u64, u64),
    ranges: &[IndexRanges<'_>],
    most: usize,
) -> Result<Option<FoundCandidates>> {
    let key_type = timeline.key_type()?;
    timeline.read(|state| {
        let is_usable = ranges.iter().all(|ranges| has_index_in(state, ranges.index, commits));
        let found = match is_usable {
            true => IndexSearch::within(state, key_type, commits).find(ranges, most),
            false => Ok(None),
        };
        // If the floor has risen during the search, some of the files may have been gone.
        timeline.check_floor(commits.0)?;
        found
    })
}
