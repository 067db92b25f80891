//! What a SELECT returns, and in which order.

use crate::query::ast::column::Column;

/// What a SELECT returns of each row, or of each group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projection {
    /// `*`: the whole document.
    All,
    /// `COUNT(*)` alone, without DISTINCT, GROUP BY, HAVING and ORDER BY: only the number of rows.
    Count,
    /// These items, all with different labels.
    Items(Vec<SelectItem>),
}

/// One item of a select list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectItem {
    /// The column.
    pub column: Column,
    /// `AS`: its name in the result.
    pub alias: Option<String>,
}

/// One column of ORDER BY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderBy {
    /// The column. An alias has been replaced with its column.
    pub column: Column,
    /// `DESC`
    pub descending: bool,
}

impl SelectItem {
    /// The names of the columns in results: aliases, and for columns without one those that tell them apart.
    pub fn labels(items: &[SelectItem]) -> Vec<String> {
        let unnamed = items.iter().filter(|item| item.alias.is_none()).map(|item| &item.column);
        let mut labels = Column::labels(&unnamed.collect::<Vec<_>>()).into_iter();
        items.iter().map(|item| item.alias.clone().or_else(|| labels.next()).unwrap_or_default()).collect()
    }
}

impl Projection {
    /// The items; none for `*` and for `COUNT(*)` alone.
    pub fn items(&self) -> &[SelectItem] {
        match self {
            Projection::All | Projection::Count => &[],
            Projection::Items(items) => items,
        }
    }
}

/// Whether an aggregate is among the items or the columns of an order.
pub fn names_aggregates(items: &[SelectItem], order_by: &[OrderBy]) -> bool {
    let columns = items.iter().map(|item| &item.column).chain(order_by.iter().map(|order| &order.column));
    columns.into_iter().any(|column| matches!(column, Column::Aggregate(_)))
}
