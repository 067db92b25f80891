//! The columns that a condition names.

use std::convert::Infallible;

use crate::query::ast::{Column, Condition};

/// Visits the column of each comparison in a condition, until a visit fails: the only list of the kinds of conditions for those who ask
/// for nothing but the columns. Conditions are nested within the limit of the parser, which bounds the recursion.
macro_rules! visit_columns {
    ($condition:expr, $parts:ident, $visit_all:ident, $visit:expr) => {
        match $condition {
            Condition::And(parts) | Condition::Or(parts) => {
                parts.$parts().try_for_each(|part| part.$visit_all($visit))
            }
            Condition::Not(inner) => inner.$visit_all($visit),
            Condition::Compare { column, .. }
            | Condition::In { column, .. }
            | Condition::Between { column, .. }
            | Condition::Like { column, .. }
            | Condition::ILike { column, .. }
            | Condition::Contains { column, .. }
            | Condition::Any { column, .. }
            | Condition::IsNull { column, .. }
            | Condition::IsMissing { column, .. } => $visit(column),
        }
    };
}

impl Condition {
    /// The same condition on other columns.
    #[must_use]
    pub fn with_columns(&self, of: &mut impl FnMut(&Column) -> Column) -> Condition {
        let mut changed = self.clone();
        let Ok(()) = changed.each_column_mut(&mut |column: &mut Column| -> Result<(), Infallible> {
            *column = of(column);
            Ok(())
        });
        changed
    }

    /// Passes the column of each comparison to `visit`, in the order of the text, until it fails.
    ///
    /// # Errors
    /// Those of `visit`.
    pub fn each_column<E>(&self, visit: &mut impl FnMut(&Column) -> Result<(), E>) -> Result<(), E> {
        visit_columns!(self, iter, each_column, visit)
    }

    fn each_column_mut<E>(&mut self, visit: &mut impl FnMut(&mut Column) -> Result<(), E>) -> Result<(), E> {
        visit_columns!(self, iter_mut, each_column_mut, visit)
    }
}
