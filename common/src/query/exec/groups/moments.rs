//! Groups of rows at many moments at once.
//!
//! A row belongs to its group for a stretch of moments. Adding it to an accumulator for each of them would cost rows times moments. Counts
//! and sums are exact, so a row can be taken out of them again: it is added at the first moment of its stretch and taken out after the
//! last, and the result at a moment is the sum of all changes up to it.
//!
//! MIN, MAX and COUNT(DISTINCT) cannot take a row out. For them the moments are the leaves of a binary tree, and a row is added to the few
//! nodes that together cover its stretch. The result at a moment is that of the nodes above it, merged.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::{GroupPlan, RowGroup};
use crate::error::Result;
use crate::planted::{PlantedBug, is_planted};
use crate::query::ast::{Aggregate, Column};
use crate::query::exec::aggregate::Accumulator;
use crate::query::exec::query_memory::QueryMemory;
use crate::query::predicate::RowRef;
use crate::work;

/// What needs the memory.
const WHAT: &str = "AS OF EVERY";

/// What comes into a group and leaves it at one moment, or what it has by then: rows, and accumulators of the reversible aggregates.
#[derive(Debug)]
struct Counted {
    /// It wraps while more rows leave than come.
    rows: u64,
    accumulators: Vec<Accumulator>,
}

impl Counted {
    fn new(aggregates: &[Arc<Aggregate>]) -> Counted {
        let accumulators = reversible(aggregates).map(|(_, aggregate)| Accumulator::new(aggregate)).collect();
        Counted { rows: 0, accumulators }
    }

    fn merge(&mut self, change: &Counted, memory: &mut QueryMemory) -> Result<()> {
        self.rows = self.rows.wrapping_add(change.rows);
        for (all, some) in self.accumulators.iter_mut().zip(&change.accumulators) {
            all.merge(some, memory)?;
        }
        Ok(())
    }
}

/// A group, with the rows that it has at each moment.
#[derive(Debug)]
struct MomentGroup {
    /// The values of the columns of GROUP BY, encoded, in the first row.
    values: Vec<Option<Box<[u8]>>>,
    /// What changes at each moment after the present one.
    changes: BTreeMap<usize, Counted>,
    /// What the group has at the present moment.
    present: Counted,
    /// The accumulators of the other aggregates, for the nodes that have rows: 1 is the root, and the children of `n` are `2n` and
    /// `2n + 1`.
    nodes: BTreeMap<usize, Vec<Accumulator>>,
}

/// The groups at each of a number of moments.
#[derive(Debug)]
pub struct MomentTable {
    plan: GroupPlan,
    /// By key, which sorts by the columns of GROUP BY.
    groups: BTreeMap<Box<[u8]>, MomentGroup>,
    moments: usize,
    /// The present moment: results are those of this one.
    moment: usize,
    /// The bytes of accumulators: of the reversible aggregates, and of the others.
    bytes: (usize, usize),
    /// The key of a row, which is made for each.
    key: Vec<u8>,
}

/// The reversible ones of some aggregates, with their positions.
fn reversible(aggregates: &[Arc<Aggregate>]) -> impl Iterator<Item = (usize, &Arc<Aggregate>)> {
    aggregates.iter().enumerate().filter(|(_, aggregate)| aggregate.is_reversible())
}

/// The others.
fn irreversible(aggregates: &[Arc<Aggregate>]) -> impl Iterator<Item = (usize, &Arc<Aggregate>)> {
    aggregates.iter().enumerate().filter(|(_, aggregate)| !aggregate.is_reversible())
}

impl MomentTable {
    /// No rows at any of `moments` moments.
    pub fn new(plan: GroupPlan, moments: usize) -> MomentTable {
        let bytes = (
            super::bytes_of(reversible(plan.aggregates()).map(|(_, aggregate)| aggregate)),
            super::bytes_of(irreversible(plan.aggregates()).map(|(_, aggregate)| aggregate)),
        );
        MomentTable { plan, groups: BTreeMap::new(), moments, moment: 0, bytes, key: Vec::new() }
    }

    /// What is computed of each group.
    pub fn plan(&self) -> &GroupPlan {
        &self.plan
    }

    /// Adds a row to its group at a stretch of moments. All rows are added before the first moment.
    ///
    /// # Errors
    /// `QUERY_MEMORY_EXCEEDED` or `OVERLOADED` if it needs more memory than there is; `CORRUPT` if the document is damaged.
    pub fn add(&mut self, row: RowRef<'_>, at: Range<usize>, memory: &mut QueryMemory) -> Result<()> {
        work::step(4)?;
        let MomentTable { plan, groups, moments, bytes, key, .. } = self;
        plan.write_key(key, row)?;
        let group = match groups.get_mut(key.as_slice()) {
            Some(group) => group,
            None => {
                let new = new_group(plan, row, (key.len(), bytes.0), memory)?;
                groups.entry(key.as_slice().into()).or_insert(new)
            }
        };
        let aggregates = plan.aggregates();
        // Each value is looked up once, and each change.
        let values = reversible(aggregates).map(|(_, aggregate)| aggregate.value_in(row));
        let values: Vec<Option<Cow<'_, [u8]>>> = values.collect::<Result<_>>()?;
        for (moment, is_end) in [(at.start, false), (at.end, true)] {
            // What leaves after the last moment is never seen to leave.
            if moment >= *moments {
                continue;
            }
            let change = match group.changes.get_mut(&moment) {
                Some(change) => change,
                None => {
                    memory.charge(super::GROUP_OVERHEAD + bytes.0, WHAT)?;
                    group.changes.entry(moment).or_insert(Counted::new(aggregates))
                }
            };
            change.rows = change.rows.wrapping_add(if is_end { u64::MAX } else { 1 });
            for (accumulator, value) in change.accumulators.iter_mut().zip(&values) {
                match value {
                    None => {}
                    Some(value) if is_end && !is_planted(PlantedBug::RowsCountedTwice) => {
                        accumulator.remove_value(value)?;
                    }
                    Some(value) => accumulator.add_value(value, memory)?,
                }
            }
        }
        add_to_nodes(plan, group, row, (at, *moments), (bytes.1, memory))
    }

    /// Continues at a moment that is not before the last one, and frees what was held for those up to it.
    ///
    /// # Errors
    /// Only that the present work was stopped.
    pub fn go_to(&mut self, moment: usize, memory: &mut QueryMemory) -> Result<()> {
        self.moment = moment;
        for group in self.groups.values_mut() {
            work::step(4)?;
            while let Some(first) = group.changes.first_entry().filter(|first| *first.key() <= moment) {
                work::step(4)?;
                group.present.merge(&first.remove(), memory)?;
                memory.release(super::GROUP_OVERHEAD + self.bytes.0);
            }
        }
        Ok(())
    }

    /// The groups that have rows at the present moment, in order; without GROUP BY one, also if it has none. What they hold is charged to
    /// `memory`.
    ///
    /// # Errors
    /// As [`MomentTable::add`].
    pub fn groups(&self, memory: &mut QueryMemory) -> Result<Vec<RowGroup>> {
        let plan = &self.plan;
        let mut found = Vec::new();
        for group in self.groups.values().filter(|group| group.present.rows > 0) {
            work::step(4)?;
            memory.charge(plan.bytes_of_group(), WHAT)?;
            let mut row_group = plan.new_group(group.values.clone());
            for ((at, _), counted) in reversible(plan.aggregates()).zip(&group.present.accumulators) {
                if let Some(accumulator) = row_group.accumulators.get_mut(at) {
                    *accumulator = counted.clone();
                }
            }
            let mut node = leaves(self.moments) + self.moment;
            while node > 0 && !group.nodes.is_empty() {
                let accumulators = group.nodes.get(&node).into_iter().flatten();
                for ((at, _), some) in irreversible(plan.aggregates()).zip(accumulators) {
                    if let Some(accumulator) = row_group.accumulators.get_mut(at) {
                        accumulator.merge(some, memory)?;
                    }
                }
                node /= 2;
            }
            found.push(row_group);
        }
        if found.is_empty() && plan.group_by.is_empty() {
            found.push(plan.new_group(Vec::new()));
        }
        Ok(found)
    }
}

/// A group with the values of its first row. Charges the memory of its key and of its accumulators, given in bytes.
fn new_group(
    plan: &GroupPlan,
    row: RowRef<'_>,
    (key, accumulators): (usize, usize),
    memory: &mut QueryMemory,
) -> Result<MomentGroup> {
    let of = |column: &Column| Ok(column.value_in(row)?.map(|value| Box::from(&*value)));
    let values: Vec<Option<Box<[u8]>>> = plan.group_by.iter().map(of).collect::<Result<_>>()?;
    let values_bytes: usize = values.iter().flatten().map(|value| value.len()).sum();
    memory.charge(super::GROUP_OVERHEAD + values_bytes + 2 * key + accumulators, "GROUP BY")?;
    let present = Counted::new(plan.aggregates());
    Ok(MomentGroup { values, changes: BTreeMap::new(), present, nodes: BTreeMap::new() })
}

/// Adds a row to the nodes of a group that cover a stretch of so many moments, for the aggregates that are not reversible. Their
/// accumulators take so many bytes.
fn add_to_nodes(
    plan: &GroupPlan,
    group: &mut MomentGroup,
    row: RowRef<'_>,
    (at, moments): (Range<usize>, usize),
    (bytes, memory): (usize, &mut QueryMemory),
) -> Result<()> {
    let mut nodes = Vec::new();
    for (place, (_, aggregate)) in irreversible(plan.aggregates()).enumerate() {
        if nodes.is_empty() {
            nodes = covering(at.clone(), leaves(moments));
        }
        let Some(value) = aggregate.value_in(row)? else { continue };
        for node in &nodes {
            let accumulators = match group.nodes.get_mut(node) {
                Some(accumulators) => accumulators,
                None => {
                    memory.charge(super::GROUP_OVERHEAD + bytes, WHAT)?;
                    let new =
                        irreversible(plan.aggregates()).map(|(_, aggregate)| Accumulator::new(aggregate));
                    group.nodes.entry(*node).or_insert(new.collect())
                }
            };
            if let Some(accumulator) = accumulators.get_mut(place) {
                accumulator.add_value(&value, memory)?;
            }
        }
    }
    Ok(())
}

/// The number of leaves for a number of moments.
fn leaves(moments: usize) -> usize {
    moments.next_power_of_two()
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
mod tests;
