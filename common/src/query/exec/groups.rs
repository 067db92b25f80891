//! Groups of rows: GROUP BY, aggregates and HAVING.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::error::Result;
use crate::format::key::Key;
use crate::format::order_key::write_order_key;
use crate::format::path::Path;
use crate::query::ast::{Aggregate, AggregateFunction, Column, Condition, OrderBy, SelectItem};
use crate::query::exec::aggregate::{Accumulator, Retraction};
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

/// What a statement wants to know of each group.
#[derive(Debug, Clone)]
pub struct GroupPlan {
    group_by: Vec<Column>,
    /// Without duplicates.
    aggregates: Vec<Aggregate>,
    having: Option<Having>,
}

/// HAVING, as a condition on a document that has the columns that it names as fields.
#[derive(Debug, Clone)]
struct Having {
    condition: Condition,
    columns: Vec<Column>,
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
    pub fn new(
        group_by: &[Column],
        items: &[SelectItem],
        having: Option<&Condition>,
        order_by: &[OrderBy],
    ) -> GroupPlan {
        let having = having.map(Having::new);
        let mut aggregates: Vec<Aggregate> = Vec::new();
        let of_having = having.iter().flat_map(|having| &having.columns);
        let columns = items.iter().map(|item| &item.column).chain(order_by.iter().map(|order| &order.column));
        for column in columns.chain(of_having) {
            if let Column::Aggregate(aggregate) = column
                && !aggregates.contains(aggregate)
            {
                aggregates.push(Aggregate::clone(aggregate));
            }
        }
        GroupPlan { group_by: group_by.to_vec(), aggregates, having }
    }

    /// The columns that are read from each row.
    pub fn columns_of_rows(&self) -> impl Iterator<Item = &Column> {
        let arguments = self.aggregates.iter().filter_map(|aggregate| aggregate.argument.as_ref());
        self.group_by.iter().chain(arguments)
    }

    fn new_group(&self, values: Vec<Option<Box<[u8]>>>) -> RowGroup {
        let new = |aggregate| Accumulator::new(aggregate, Retraction::Never);
        RowGroup { values, accumulators: self.aggregates.iter().map(new).collect() }
    }

    fn bytes_of_group(&self) -> usize {
        let of = |aggregate: &Aggregate| match aggregate.function {
            AggregateFunction::Sum | AggregateFunction::Avg => Accumulator::BYTES + SUM_BYTES,
            _ => Accumulator::BYTES,
        };
        GROUP_OVERHEAD + self.aggregates.iter().map(of).sum::<usize>()
    }

    /// The value of a column in a group, encoded; `None` if the rows of the group do not have the field.
    ///
    /// # Errors
    /// `QUERY_INVALID` if a sum is too large for a document.
    pub fn value<'g>(&self, group: &'g RowGroup, column: &Column) -> Result<Option<Cow<'g, [u8]>>> {
        if let Column::Aggregate(aggregate) = column {
            let at = self.aggregates.iter().position(|known| *known == **aggregate);
            let accumulator = at.and_then(|at| group.accumulators.get(at));
            return accumulator.map(|accumulator| accumulator.result().map(Cow::Owned)).transpose();
        }
        let at = self.group_by.iter().position(|known| known == column);
        let value = at.and_then(|at| group.values.get(at));
        Ok(value.and_then(|value| value.as_deref()).map(Cow::Borrowed))
    }

    /// Whether a group meets HAVING.
    ///
    /// # Errors
    /// As [`GroupPlan::value`].
    pub fn keeps(&self, group: &RowGroup) -> Result<bool> {
        let Some(having) = &self.having else { return Ok(true) };
        let values: Vec<_> =
            having.columns.iter().map(|column| self.value(group, column)).collect::<Result<_>>()?;
        let document = result_document(&having.fields, values)?;
        let key = Key::Int(0);
        having.condition.matches(RowRef { key: &key, seq: 0, time_ms: 0, document: &document })
    }

    /// How many values each aggregate has left out in a group because they are no numbers.
    pub fn ignored<'p>(&'p self, group: &'p RowGroup) -> impl Iterator<Item = (&'p Aggregate, u64)> {
        self.aggregates.iter().zip(group.accumulators.iter().map(Accumulator::ignored))
    }
}

impl Having {
    fn new(condition: &Condition) -> Having {
        let mut columns: Vec<Column> = Vec::new();
        // A field has the text of its column as its name, which no other column has.
        let condition = condition.with_columns(&mut |column| {
            if !columns.contains(column) {
                columns.push(column.clone());
            }
            Column::Path(Path::field(&column.to_string()))
        });
        let field = |column: &Column| ResultColumn { label: column.to_string(), is_time: false };
        let fields = columns.iter().map(field).collect();
        Having { condition, columns, fields }
    }
}

impl GroupTable {
    /// No groups yet; without GROUP BY one, to which all rows belong.
    pub fn new(plan: GroupPlan) -> GroupTable {
        let mut groups = HashMap::new();
        if plan.group_by.is_empty() {
            groups.insert(Box::default(), plan.new_group(Vec::new()));
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
        key.clear();
        for column in &plan.group_by {
            write_order_key(key, column.value_in(row)?.as_deref(), false)?;
        }
        if !groups.contains_key(key.as_slice()) {
            let of = |column: &Column| Ok(column.value_in(row)?.map(|value| Box::from(&*value)));
            let values: Vec<Option<Box<[u8]>>> = plan.group_by.iter().map(of).collect::<Result<_>>()?;
            let values_bytes: usize = values.iter().flatten().map(|value| value.len()).sum();
            memory.charge(plan.bytes_of_group() + values_bytes + 2 * key.len(), "GROUP BY")?;
            groups.insert(key.as_slice().into(), plan.new_group(values));
        }
        let group = groups.get_mut(key.as_slice());
        for accumulator in group.into_iter().flat_map(|group| &mut group.accumulators) {
            accumulator.add(row, memory)?;
        }
        Ok(())
    }

    /// The plan, and the groups with their keys, which sort by the columns of GROUP BY.
    pub fn into_parts(self) -> (GroupPlan, HashMap<Box<[u8]>, RowGroup>) {
        (self.plan, self.groups)
    }
}
