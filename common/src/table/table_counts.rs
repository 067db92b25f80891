//! How many events and rows a table has at a point in time.

/// How many events and live rows a table has after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableCounts {
    /// Events up to and including the commit.
    pub events: u64,
    /// Live rows after the commit.
    pub rows: u64,
    /// The last commit with an event in the table, up to and including the commit.
    pub last_seq: u64,
}
