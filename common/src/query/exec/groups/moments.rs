//! Groups of rows at many moments at once.
//!
//! A row belongs to its group for a stretch of moments. Adding it to an accumulator for each of them would cost rows times moments. The
//! moments are the leaves of a binary tree instead, and a row is added to the few nodes that together cover its stretch. The result at
//! a moment is that of the nodes above it, merged. Nothing is ever removed, so MIN, MAX and COUNT(DISTINCT) need no more memory
//! than without moments, and sums are exact in any order.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use super::{GroupPlan, RowGroup};
use crate::error::Result;
use crate::format::order_key::write_order_key;
use crate::query::ast::Column;
use crate::query::exec::aggregate::Accumulator;
use crate::query::exec::query_memory::QueryMemory;
use crate::query::predicate::RowRef;
use crate::work;

/// A group, with the rows that it has at each moment.
#[derive(Debug)]
struct MomentGroup {
    /// The values of the columns of GROUP BY, encoded, in the first row.
    values: Vec<Option<Box<[u8]>>>,
    /// The accumulators of the nodes that have rows: 1 is the root, and the children of `n` are `2n` and `2n + 1`.
    nodes: BTreeMap<usize, Vec<Accumulator>>,
}

/// The groups at each of a number of moments.
#[derive(Debug)]
pub struct MomentTable {
    plan: GroupPlan,
    /// By key, which sorts by the columns of GROUP BY.
    groups: BTreeMap<Box<[u8]>, MomentGroup>,
    /// The number of leaves: a power of two.
    leaves: usize,
}

impl MomentTable {
    /// No rows at any of `moments` moments.
    pub fn new(plan: GroupPlan, moments: usize) -> MomentTable {
        MomentTable { plan, groups: BTreeMap::new(), leaves: moments.next_power_of_two() }
    }

    /// What is computed of each group.
    pub fn plan(&self) -> &GroupPlan {
        &self.plan
    }

    /// Adds a row to its group at a stretch of moments.
    ///
    /// # Errors
    /// `QUERY_MEMORY_EXCEEDED` or `OVERLOADED` if it needs more memory than there is; `CORRUPT` if the document is damaged.
    pub fn add(&mut self, row: RowRef<'_>, at: Range<usize>, memory: &mut QueryMemory) -> Result<()> {
        work::step(4)?;
        let MomentTable { plan, groups, leaves } = self;
        let mut key = Vec::new();
        for column in &plan.group_by {
            write_order_key(&mut key, column.value_in(row)?.as_deref(), false)?;
        }
        let group = match groups.entry(key.into_boxed_slice()) {
            Entry::Occupied(group) => group.into_mut(),
            Entry::Vacant(place) => {
                let of = |column: &Column| Ok(column.value_in(row)?.map(|value| Box::from(&*value)));
                let values: Vec<Option<Box<[u8]>>> = plan.group_by.iter().map(of).collect::<Result<_>>()?;
                let values_bytes: usize = values.iter().flatten().map(|value| value.len()).sum();
                let bytes = super::GROUP_OVERHEAD + values_bytes + 2 * place.key().len();
                memory.charge(bytes, "GROUP BY")?;
                place.insert(MomentGroup { values, nodes: BTreeMap::new() })
            }
        };
        for node in covering(at, *leaves) {
            let accumulators = match group.nodes.entry(node) {
                Entry::Occupied(accumulators) => accumulators.into_mut(),
                Entry::Vacant(place) => {
                    memory.charge(plan.bytes_of_group(), "AS OF EVERY")?;
                    place.insert(plan.new_group(Vec::new()).accumulators)
                }
            };
            for accumulator in accumulators {
                accumulator.add(row, memory)?;
            }
        }
        Ok(())
    }

    /// The groups that have rows at a moment, in order; without GROUP BY one, also if it has none. What they hold is charged to
    /// `memory`.
    ///
    /// # Errors
    /// As [`MomentTable::add`].
    pub fn groups_at(&self, moment: usize, memory: &mut QueryMemory) -> Result<Vec<RowGroup>> {
        let mut found = Vec::new();
        for group in self.groups.values() {
            work::step(4)?;
            let mut node = self.leaves + moment;
            let mut merged: Option<RowGroup> = None;
            while node > 0 {
                if let Some(accumulators) = group.nodes.get(&node) {
                    if merged.is_none() {
                        memory.charge(self.plan.bytes_of_group(), "AS OF EVERY")?;
                    }
                    let merged = merged.get_or_insert_with(|| self.plan.new_group(group.values.clone()));
                    for (all, some) in merged.accumulators.iter_mut().zip(accumulators) {
                        all.merge(some, memory)?;
                    }
                }
                node /= 2;
            }
            found.extend(merged);
        }
        if found.is_empty() && self.plan.group_by.is_empty() {
            found.push(self.plan.new_group(Vec::new()));
        }
        Ok(found)
    }
}

/// The nodes that together cover a range of leaves: at most two on each level.
fn covering(range: Range<usize>, leaves: usize) -> Vec<usize> {
    let (mut low, mut high) = (range.start + leaves, range.end + leaves);
    let mut nodes = Vec::new();
    while low < high {
        if low % 2 == 1 {
            nodes.push(low);
            low += 1;
        }
        if high % 2 == 1 {
            high -= 1;
            nodes.push(high);
        }
        low /= 2;
        high /= 2;
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_of_a_range_lie_above_its_leaves_and_no_others() {
        for leaves in [1, 2, 8, 16] {
            for start in 0..=leaves {
                for end in start..=leaves {
                    let nodes = covering(start..end, leaves);
                    for leaf in 0..leaves {
                        let mut above = std::iter::successors(Some(leaf + leaves), |node| {
                            Some(node / 2).filter(|n| *n > 0)
                        });
                        let count = above.by_ref().filter(|node| nodes.contains(node)).count();
                        assert_eq!(
                            count,
                            usize::from((start..end).contains(&leaf)),
                            "{start}..{end} of {leaves}"
                        );
                    }
                }
            }
        }
    }
}
