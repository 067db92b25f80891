//! The ranges of keys that can meet a condition, for passes over the history of rows.

use std::collections::VecDeque;
use std::ops::Bound;

use crate::error::Result;
use crate::format::key::Key;
use crate::query::ast::Condition;
use crate::query::plan::{self, AccessPath};
use crate::table::schema::Schema;

/// A range of keys.
pub(super) type KeyRange = (Bound<Key>, Bound<Key>);

/// The ranges of keys that contain all rows that can match a condition, in order.
pub(super) fn of_condition(condition: Option<&Condition>, schema: &Schema) -> Result<VecDeque<KeyRange>> {
    Ok(match plan::access(condition, schema)? {
        AccessPath::Keys(keys) => keys.into_iter().map(of_key).collect(),
        AccessPath::Range { from, to } => VecDeque::from([(from, to)]),
        AccessPath::Scan => VecDeque::from([(Bound::Unbounded, Bound::Unbounded)]),
    })
}

/// The range with one key.
pub(super) fn of_key(key: Key) -> KeyRange {
    (Bound::Included(key.clone()), Bound::Included(key))
}
