//! Groups of rows: GROUP BY, aggregates and HAVING.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::Result;
use crate::format::key::Key;
use crate::format::order_key::write_order_key;
use crate::format::path::Path;
use crate::query::ast::{Aggregate, AggregateFunction, Column, Condition, OrderBy, SelectItem};
use crate::query::exec::aggregate::Accumulator;
use crate::query::exec::column_value::{ResultColumn, result_document};
use crate::query::exec::query_memory::QueryMemory;
use crate::query::predicate::RowRef;
use crate::work;

mod moments;

pub use moments::MomentTable;

/// An estimate of the bytes that a group takes besides its values and accumulators.
const GROUP_OVERHEAD: usize = 160;
/// The bytes that an exact sum of floats takes.
const SUM_BYTES: usize = 640;
/// The first byte of every group's key, so that no key is empty. Comparing empty keys took 12 % of the time of an
/// AS OF EVERY in a profile, probably because an empty boxed slice has a dangling pointer, which `memcmp` gives to a masked vector load.
const KEY_START: u8 = 0;

/// What a statement computes of each group.
#[derive(Debug, Clone)]
pub struct GroupPlan {
    group_by: Vec<Column>,
    /// Without duplicates.
    aggregates: Vec<Arc<Aggregate>>,
    having: Option<Having>,
    items: Vec<GroupPlace>,
    order_by: Vec<GroupPlace>,
}

/// Where a group has the value of a column.
#[derive(Debug, Clone, Copy)]
pub enum GroupPlace {
    /// Among the values of GROUP BY.
    Value(usize),
    /// Among the accumulators.
    Aggregate(usize),
    /// Nowhere: the parser refuses such columns.
    None,
}

/// HAVING, as a condition on a document that has the columns that it names as fields.
#[derive(Debug, Clone)]
struct Having {
    condition: Condition,
    places: Vec<GroupPlace>,
    fields: Vec<ResultColumn>,
}

/// The rows that have the same values in the columns of GROUP BY.
#[derive(Debug)]
pub struct RowGroup {
    /// The values of those columns, encoded, in the first row.
    values: Vec<Option<Box<[u8]>>>,
    accumulators: Vec<Accumulator>,
}

/// The groups of the rows that were added so far.
#[derive(Debug)]
pub struct GroupTable {
    plan: GroupPlan,
    groups: HashMap<Box<[u8]>, RowGroup>,
    key: Vec<u8>,
}

impl GroupPlan {
    /// The plan for a select list and its clauses.
    ///
    /// # Errors
    /// Only that the present work was stopped.
    pub fn new(
        group_by: &[Column],
        items: &[SelectItem],
        having: Option<&Condition>,
        order_by: &[OrderBy],
    ) -> Result<GroupPlan> {
        let having = having.map(on_fields);
        let mut places: HashMap<&Column, GroupPlace> =
            group_by.iter().zip((0..).map(GroupPlace::Value)).collect();
        let mut aggregates: Vec<Arc<Aggregate>> = Vec::new();
        let mut place_of = |column| {
            work::step(8)?;
            let place = places.entry(column).or_insert_with(|| match column {
                Column::Aggregate(aggregate) => {
                    aggregates.push(Arc::new(Aggregate::clone(aggregate)));
                    GroupPlace::Aggregate(aggregates.len() - 1)
                }
                _ => GroupPlace::None,
            });
            Ok(*place)
        };
        let of_items = items.iter().map(|item| place_of(&item.column)).collect::<Result<_>>()?;
        let of_order = order_by.iter().map(|order| place_of(&order.column)).collect::<Result<_>>()?;
        let of_having = having.iter().flat_map(|(_, columns)| columns);
        let of_having: Vec<GroupPlace> = of_having.map(place_of).collect::<Result<_>>()?;
        let having = having.map(|(condition, columns)| {
            let field = |column: &Column| ResultColumn { label: column.to_string(), is_time: false };
            Having { condition, places: of_having, fields: columns.iter().map(field).collect() }
        });
        Ok(GroupPlan { group_by: group_by.to_vec(), aggregates, having, items: of_items, order_by: of_order })
    }

    /// Where a group has the items of the select list.
    pub fn items(&self) -> &[GroupPlace] {
        &self.items
    }

    /// Where a group has the columns of ORDER BY.
    pub fn order_by(&self) -> &[GroupPlace] {
        &self.order_by
    }

    /// The aggregates.
    pub fn aggregates(&self) -> &[Arc<Aggregate>] {
        &self.aggregates
    }

    /// Writes the key of the group of a row, which sorts by the columns of GROUP BY.
    fn write_key(&self, key: &mut Vec<u8>, row: RowRef<'_>) -> Result<()> {
        key.clear();
        key.push(KEY_START);
        let mut columns = self.group_by.iter();
        columns.try_for_each(|column| write_order_key(key, column.value_in(row)?.as_deref(), false))
    }

    fn new_group(&self, values: Vec<Option<Box<[u8]>>>) -> RowGroup {
        RowGroup { values, accumulators: self.aggregates.iter().map(Accumulator::new).collect() }
    }

    fn bytes_of_group(&self) -> usize {
        GROUP_OVERHEAD + bytes_of(&self.aggregates)
    }

    /// The value at a place of a group, encoded; `None` if the rows of the group do not have the field.
    ///
    /// # Errors
    /// `QUERY_INVALID` if a sum is too large for a document.
    pub fn value<'g>(&self, group: &'g RowGroup, place: GroupPlace) -> Result<Option<Cow<'g, [u8]>>> {
        work::step(4)?;
        match place {
            GroupPlace::Aggregate(at) => {
                let accumulator = group.accumulators.get(at);
                accumulator.map(|accumulator| accumulator.result().map(Cow::Owned)).transpose()
            }
            GroupPlace::Value(at) => {
                Ok(group.values.get(at).and_then(|value| value.as_deref()).map(Cow::Borrowed))
            }
            GroupPlace::None => Ok(None),
        }
    }

    /// Whether a group meets HAVING.
    ///
    /// # Errors
    /// As [`GroupPlan::value`].
    pub fn keeps(&self, group: &RowGroup) -> Result<bool> {
        let Some(having) = &self.having else { return Ok(true) };
        let values: Vec<_> =
            having.places.iter().map(|place| self.value(group, *place)).collect::<Result<_>>()?;
        let document = result_document(&having.fields, values)?;
        let key = Key::Int(0);
        having.condition.matches(RowRef { key: &key, seq: 0, time_ms: 0, document: &document })
    }

    /// How many values each aggregate has left out in a group because they are no numbers, in the order of the aggregates.
    pub fn ignored<'g>(&self, group: &'g RowGroup) -> impl Iterator<Item = u64> + use<'g> {
        group.accumulators.iter().map(Accumulator::ignored)
    }
}

/// The bytes of accumulators without rows.
fn bytes_of<'a>(aggregates: impl IntoIterator<Item = &'a Arc<Aggregate>>) -> usize {
    let of = |aggregate: &Arc<Aggregate>| match aggregate.function {
        AggregateFunction::Sum | AggregateFunction::Avg => Accumulator::BYTES + SUM_BYTES,
        _ => Accumulator::BYTES,
    };
    aggregates.into_iter().map(of).sum()
}

/// HAVING as a condition on fields, and the columns that these stand for.
fn on_fields(condition: &Condition) -> (Condition, Vec<Column>) {
    let mut columns: Vec<Column> = Vec::new();
    let mut known: HashSet<Column> = HashSet::new();
    // A field has the text of its column as its name, which no other column has.
    let condition = condition.with_columns(&mut |column| {
        if known.insert(column.clone()) {
            columns.push(column.clone());
        }
        Column::Path(Path::field(&column.to_string()))
    });
    (condition, columns)
}

impl GroupTable {
    /// No groups yet; without GROUP BY one, to which all rows belong.
    pub fn new(plan: GroupPlan) -> GroupTable {
        let mut groups = HashMap::new();
        if plan.group_by.is_empty() {
            groups.insert([KEY_START].into(), plan.new_group(Vec::new()));
        }
        GroupTable { plan, groups, key: Vec::new() }
    }

    /// Adds a row to its group.
    ///
    /// # Errors
    /// `QUERY_MEMORY_EXCEEDED` or `OVERLOADED` if it needs more memory than there is; `CORRUPT` if the document is damaged.
    pub fn add(&mut self, row: RowRef<'_>, memory: &mut QueryMemory) -> Result<()> {
        work::step(4)?;
        let GroupTable { plan, groups, key } = self;
        plan.write_key(key, row)?;
        let group = match groups.get_mut(key.as_slice()) {
            Some(group) => group,
            None => {
                let of = |column: &Column| Ok(column.value_in(row)?.map(|value| Box::from(&*value)));
                let values: Vec<Option<Box<[u8]>>> = plan.group_by.iter().map(of).collect::<Result<_>>()?;
                let values_bytes: usize = values.iter().flatten().map(|value| value.len()).sum();
                memory.charge(plan.bytes_of_group() + values_bytes + 2 * key.len(), "GROUP BY")?;
                groups.entry(key.as_slice().into()).or_insert(plan.new_group(values))
            }
        };
        for accumulator in &mut group.accumulators {
            accumulator.add(row, memory)?;
        }
        Ok(())
    }

    /// The plan, and the groups with their keys, which sort by the columns of GROUP BY.
    pub fn into_parts(self) -> (GroupPlan, HashMap<Box<[u8]>, RowGroup>) {
        (self.plan, self.groups)
    }
}
