//! How many candidates of indexes are looked for before rows are read in order instead.

/// The first limit on candidates when probes are tried in turn. Each further round multiplies it by ten.
pub(super) const FIRST_LOOK: usize = 1000;
/// The maximum number of candidates held in memory. Their bytes are bounded, too.
pub(super) const CANDIDATES_AT_ONCE: usize = 1_000_000;
/// The cost of one lookup by key, as a number of rows scanned in order.
pub(super) const ROWS_PER_LOOKUP: u64 = 8;
/// The cost of one lookup of a row's history, as a number of rows whose history is read in order.
pub(super) const ROWS_PER_HISTORY_LOOKUP: u64 = 4;
