//! What a SELECT reads: which rows, which columns, how many.

use crate::format::key::Key;
use crate::query::ast::{Condition, SelectItem};

/// The rows and columns that a SELECT reads.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Read soft-deleted rows, as they were before their deletion, instead of live ones.
    pub deleted: bool,
    /// The condition on rows; every row if `None`.
    pub condition: Option<Condition>,
    /// The columns to return, none of which is an aggregate; the whole document if empty.
    pub items: Vec<SelectItem>,
    /// The maximum number of rows to return.
    pub limit: Option<u64>,
    /// The number of matching rows to skip first.
    pub offset: u64,
    /// Only rows after this key: set to continue an earlier result.
    pub after: Option<Key>,
    /// Count the rows and return none.
    pub count_only: bool,
}
