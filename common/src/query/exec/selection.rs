//! What a SELECT returns: which rows, which columns, in which order, how many.

use crate::format::key::Key;
use crate::query::ast::{
    Column, Condition, OrderBy, Projection, SelectItem, SelectStatement, names_aggregates,
};

/// The rows and columns that a SELECT returns.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Read soft-deleted rows, as they were before their deletion, instead of live ones.
    pub deleted: bool,
    /// The commit after which deletions count, if an earlier part of the result has fixed it; the floor otherwise.
    pub deleted_after: Option<u64>,
    /// The condition on rows; every row if `None`.
    pub condition: Option<Condition>,
    /// The columns to return; the whole document if empty.
    pub items: Vec<SelectItem>,
    /// Return each result once only.
    pub distinct: bool,
    /// The columns whose values make a group.
    pub group_by: Vec<Column>,
    /// The condition on groups; every group if `None`.
    pub having: Option<Condition>,
    /// The order of the results; that of the keys, or of the groups, if empty.
    pub order_by: Vec<OrderBy>,
    /// The maximum number of rows to return.
    pub limit: Option<u64>,
    /// The number of matching rows to skip first.
    pub offset: u64,
    /// Only rows after this key: set to continue an earlier result that is in key order.
    pub after: Option<Key>,
    /// Count the rows and return none.
    pub count_only: bool,
}

impl Selection {
    /// Whether it returns groups, not rows.
    pub fn is_grouped(&self) -> bool {
        !self.group_by.is_empty() || self.having.is_some() || names_aggregates(&self.items, &self.order_by)
    }

    /// Whether the results are not rows of the table.
    pub fn has_results(&self) -> bool {
        self.distinct || self.is_grouped()
    }

    /// Whether the matching rows must be sorted, grouped or compared with each other before they are returned.
    pub fn is_arranged(&self) -> bool {
        self.has_results() || !self.order_by.is_empty()
    }
}

impl From<SelectStatement> for Selection {
    /// Everything but the table and the point in time.
    fn from(select: SelectStatement) -> Selection {
        Selection {
            deleted: select.deleted,
            deleted_after: None,
            condition: select.condition,
            distinct: select.distinct,
            group_by: select.group_by,
            having: select.having,
            order_by: select.order_by,
            limit: select.limit,
            offset: select.offset.unwrap_or(0),
            after: None,
            count_only: select.projection == Projection::Count,
            items: match select.projection {
                Projection::Items(items) => items,
                Projection::All | Projection::Count => Vec::new(),
            },
        }
    }
}
