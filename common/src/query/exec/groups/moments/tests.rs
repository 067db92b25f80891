//! Tests of groups at many moments against groups at one moment.

use proptest::prelude::*;

use super::*;
use crate::format::document::Document;
use crate::format::key::Key;
use crate::format::path::Path;
use crate::query::ast::{AggregateFunction, SelectItem};
use crate::query::exec::groups::GroupTable;

#[test]
fn the_nodes_of_a_range_lie_above_its_leaves_and_no_others() {
    for leaves in [1, 2, 8, 16] {
        for start in 0..=leaves {
            for end in start..=leaves {
                let nodes = covering(start..end, leaves);
                for leaf in 0..leaves {
                    let mut above =
                        std::iter::successors(Some(leaf + leaves), |node| Some(node / 2).filter(|n| *n > 0));
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

const FUNCTIONS: [AggregateFunction; 6] = [
    AggregateFunction::Count,
    AggregateFunction::Sum,
    AggregateFunction::Min,
    AggregateFunction::Avg,
    AggregateFunction::CountDistinct,
    AggregateFunction::Max,
];

fn path(name: &str) -> Column {
    Column::Path(Path::field(name))
}

/// All aggregates of `x`, and the number of rows.
fn plan(group_by: &[Column]) -> GroupPlan {
    let of = |function, argument| SelectItem {
        column: Column::Aggregate(Box::new(Aggregate { function, argument })),
        alias: None,
    };
    let mut items: Vec<SelectItem> =
        FUNCTIONS.map(|function| of(function, Some(path("x")))).into_iter().collect();
    items.push(of(AggregateFunction::Count, None));
    GroupPlan::new(group_by, &items, None, &[]).unwrap()
}

/// What a group returns: its values and results, and what its aggregates have left out.
fn shown(plan: &GroupPlan, group: &RowGroup) -> (Vec<Option<Vec<u8>>>, Vec<u64>) {
    let results = plan.items().iter().map(|place| plan.value(group, *place).unwrap().map(Vec::from));
    let values = group.values.iter().map(|value| value.as_deref().map(Vec::from));
    (values.chain(results).collect(), plan.ignored(group).collect())
}

fn document() -> impl Strategy<Value = String> {
    let x =
        prop::sample::select(vec!["1", "2", "-7", "1.5", "0.1", "-1e300", "1e300", "\"t\"", "null", "[1]"]);
    let g = prop::sample::select(vec!["1", "\"a\"", "null"]);
    (prop::option::of(x), prop::option::of(g)).prop_map(|(x, g)| {
        let field = |name: &str, value: Option<&str>| value.map(|value| format!("\"{name}\":{value}"));
        let fields: Vec<String> = [field("x", x), field("g", g)].into_iter().flatten().collect();
        format!("{{{}}}", fields.join(","))
    })
}

proptest! {
    #[test]
    fn groups_at_each_moment_are_those_of_the_rows_that_it_has(
        rows in prop::collection::vec((document(), 0usize..20, 0usize..20), 0..30),
        moments in 1usize..20,
        is_grouped in any::<bool>(),
    ) {
        let key = Key::Int(1);
        let group_by: Vec<Column> = is_grouped.then(|| path("g")).into_iter().collect();
        let (mut memory, mut all) = (QueryMemory::default(), MomentTable::new(plan(&group_by), moments));
        let rows: Vec<(Document, Range<usize>)> = rows
            .into_iter()
            .map(|(json, a, b)| {
                let (from, to) = (a.min(b).min(moments), a.max(b).min(moments));
                (Document::from_json(&json).unwrap(), from..to)
            })
            .filter(|(_, at)| !at.is_empty())
            .collect();
        let row = |document| RowRef { key: &key, seq: 1, time_ms: 1, document };
        for (document, at) in &rows {
            all.add(row(document), at.clone(), &mut memory).unwrap();
        }
        for moment in 0..moments {
            let mut one = GroupTable::new(plan(&group_by));
            for (document, _) in rows.iter().filter(|(_, at)| at.contains(&moment)) {
                one.add(row(document), &mut memory).unwrap();
            }
            let (plan, groups) = one.into_parts();
            let mut expected: Vec<_> = groups.into_iter().collect();
            expected.sort_by(|(a, _), (b, _)| a.cmp(b));
            let expected: Vec<_> = expected.iter().map(|(_, group)| shown(&plan, group)).collect();
            all.go_to(moment, &mut memory).unwrap();
            let found = all.groups(&mut memory).unwrap();
            let found: Vec<_> = found.iter().map(|group| shown(all.plan(), group)).collect();
            prop_assert_eq!(found, expected, "at {}", moment);
        }
    }
}

#[test]
fn what_is_held_for_past_moments_is_given_back() {
    let (key, document) = (Key::Int(1), Document::from_json(r#"{"x":1.5}"#).unwrap());
    let row = RowRef { key: &key, seq: 1, time_ms: 1, document: &document };
    let of = |function| {
        let argument = Some(path("x"));
        SelectItem { column: Column::Aggregate(Box::new(Aggregate { function, argument })), alias: None }
    };
    let items = [of(AggregateFunction::Sum), of(AggregateFunction::Avg)];
    let plan = GroupPlan::new(&[], &items, None, &[]).unwrap();
    let (mut memory, mut all) = (QueryMemory::default(), MomentTable::new(plan, 100));
    for moment in 0..100 {
        all.add(row, moment..moment + 1, &mut memory).unwrap();
    }
    let filled = memory.held();
    for moment in 0..100 {
        let before = memory.held();
        all.go_to(moment, &mut memory).unwrap();
        assert!(memory.held() < before, "at {moment}");
    }
    assert!(memory.held() * 10 < filled, "{} of {filled}", memory.held());
}
