//! The columns that a condition names.

use crate::query::ast::{Column, Condition};

impl Condition {
    /// The same condition on other columns.
    #[must_use]
    pub fn with_columns(&self, of: &mut impl FnMut(&Column) -> Column) -> Condition {
        let mut changed = self.clone();
        changed.each_column(&mut |column| *column = of(column));
        changed
    }

    /// Conditions are nested within the limit of the parser, which bounds the recursion.
    fn each_column(&mut self, visit: &mut impl FnMut(&mut Column)) {
        match self {
            Condition::And(parts) | Condition::Or(parts) => {
                parts.iter_mut().for_each(|part| part.each_column(visit));
            }
            Condition::Not(inner) => inner.each_column(visit),
            Condition::Compare { column, .. }
            | Condition::In { column, .. }
            | Condition::Between { column, .. }
            | Condition::Like { column, .. }
            | Condition::ILike { column, .. }
            | Condition::Contains { column, .. }
            | Condition::Any { column, .. }
            | Condition::IsNull { column, .. }
            | Condition::IsMissing { column, .. } => visit(column),
        }
    }
}
