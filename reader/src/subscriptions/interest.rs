//! What a watch waits for: the rows whose changes may pass its filter.

use driftdb_common::format::value::Value;
use driftdb_common::limits;
use driftdb_common::query::ast::{Column, Comparison, Condition};

/// The changes that may pass a watch's filter: never fewer than those that do.
#[derive(Debug, Clone, PartialEq)]
pub struct Interest {
    /// The tables by name; empty for all tables.
    pub tables: Vec<String>,
    /// The rows of these tables.
    pub rows: InterestingRows,
}

/// The rows whose changes may pass a watch's filter.
#[derive(Debug, Clone, PartialEq)]
pub enum InterestingRows {
    /// Every row, and the changes of schemas.
    All,
    /// Rows with one of these keys, as text.
    Keys(Vec<String>),
    /// Rows whose key, as text, begins with this.
    Prefix(String),
    /// Rows in which, before or after the change, one of these columns has the value beside it.
    Values(Vec<(Column, Value)>),
}

/// Estimated bytes of a key or a value in the index.
const ENTRY_BYTES: usize = 64;

impl Interest {
    /// Estimated bytes that the interest takes in the index.
    pub fn bytes(&self) -> usize {
        let each = match &self.rows {
            InterestingRows::All => ENTRY_BYTES,
            InterestingRows::Keys(keys) => keys.len() * ENTRY_BYTES,
            InterestingRows::Prefix(prefix) => ENTRY_BYTES + prefix.len(),
            InterestingRows::Values(values) => values.len() * ENTRY_BYTES,
        };
        each * self.tables.len().max(1)
            + self.tables.iter().map(|table| ENTRY_BYTES + table.len()).sum::<usize>()
    }
}

impl InterestingRows {
    /// The values of which a row must have one to meet a condition; `None` if there are none, or too many to list.
    pub fn values_of(condition: &Condition) -> Option<Vec<(Column, Value)>> {
        let is_indexed = |column: &Column| matches!(column, Column::Key | Column::Path(_));
        let values = match condition {
            // A row that meets all parts meets the one with the fewest values.
            Condition::And(parts) => {
                parts.iter().filter_map(InterestingRows::values_of).min_by_key(Vec::len)?
            }
            Condition::Or(parts) => {
                let mut all = Vec::new();
                for part in parts {
                    all.extend(InterestingRows::values_of(part)?);
                    if all.len() > limits::WATCH_INDEX_VALUES {
                        return None;
                    }
                }
                all
            }
            Condition::Compare { column, op: Comparison::Equal, value } if is_indexed(column) => {
                vec![(column.clone(), value.clone())]
            }
            Condition::In { column, values, negated: false }
                if is_indexed(column) && values.values().len() <= limits::WATCH_INDEX_VALUES =>
            {
                values.values().iter().map(|value| (column.clone(), value.clone())).collect()
            }
            _ => return None,
        };
        Some(values)
    }
}

#[cfg(test)]
mod tests {
    use driftdb_common::query::parser;

    use super::*;

    fn values(text: &str) -> Option<Vec<String>> {
        let condition = parser::parse_condition(text, &[]).unwrap();
        let values = InterestingRows::values_of(&condition)?;
        Some(values.iter().map(|(column, value)| format!("{column}={value:?}")).collect())
    }

    #[test]
    fn equality_and_lists_are_listed_and_other_conditions_are_not() {
        for (text, expected) in [
            ("a = 1", Some(vec!["a=Int(1)"])),
            ("_key = 'x' AND b > 1", Some(vec!["_key=Str(\"x\")"])),
            ("a IN (1, 2) AND b.c = 3", Some(vec!["b.c=Int(3)"])),
            ("a = 1 OR b IN (2, 3)", Some(vec!["a=Int(1)", "b=Int(2)", "b=Int(3)"])),
            ("a = 1 OR b > 2", None),
            ("NOT a = 1", None),
            ("a NOT IN (1)", None),
            ("a != 1", None),
            ("_seq = 4", None),
            ("a IS NULL", None),
        ] {
            let expected: Option<Vec<String>> =
                expected.map(|values: Vec<&str>| values.into_iter().map(str::to_owned).collect());
            assert_eq!(values(text), expected, "{text}");
        }
        let many: Vec<String> = (0..=limits::WATCH_INDEX_VALUES).map(|n| n.to_string()).collect();
        assert_eq!(values(&format!("a IN ({})", many.join(", "))), None);
    }
}
