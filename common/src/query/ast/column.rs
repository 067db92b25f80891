//! Columns: what a statement can read from a row, or from a group of rows.

use crate::format::path::Path;

/// A value that a statement can read from a row or from a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Column {
    /// `_key`: the row's key.
    Key,
    /// `_seq`: the commit that last changed the row.
    Seq,
    /// `_time`: the time of that commit.
    Time,
    /// A field of the document, also `` `_key` `` in backticks.
    Path(Path),
    /// An aggregate over the rows of a group: in a select list, in HAVING and in ORDER BY.
    Aggregate(Box<Aggregate>),
}

/// An aggregate, such as `SUM(amount)`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Aggregate {
    /// What to compute.
    pub function: AggregateFunction,
    /// The column to compute it of, never an aggregate; `None` for `COUNT(*)` only.
    pub argument: Option<Column>,
}

/// What an aggregate computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AggregateFunction {
    /// `COUNT(*)`: the number of rows; `COUNT(path)`: of those in which the path has a value other than null.
    Count,
    /// `COUNT(DISTINCT path)`: the number of different values.
    CountDistinct,
    /// `SUM(path)`
    Sum,
    /// `AVG(path)`
    Avg,
    /// `MIN(path)`
    Min,
    /// `MAX(path)`
    Max,
}

impl Column {
    /// Whether its values are times: inside of a query, milliseconds since 1970.
    pub fn is_time(&self) -> bool {
        match self {
            Column::Time => true,
            Column::Key | Column::Seq | Column::Path(_) => false,
            Column::Aggregate(aggregate) => {
                matches!(aggregate.function, AggregateFunction::Min | AggregateFunction::Max)
                    && aggregate.argument == Some(Column::Time)
            }
        }
    }

    /// The column that is read from each row: the argument of an aggregate, or else the column itself. `None` for `COUNT(*)`.
    pub fn of_row(&self) -> Option<&Column> {
        match self {
            Column::Aggregate(aggregate) => aggregate.argument.as_ref(),
            column => Some(column),
        }
    }
}
