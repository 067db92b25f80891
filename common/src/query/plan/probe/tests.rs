//! Tests of probes: which a condition allows, and that none of them leaves out a row that matches.

use proptest::prelude::*;

use super::*;
use crate::format::document::Document;
use crate::format::key::{Key, KeyType};
use crate::limits;
use crate::query::parser::parse_condition;
use crate::query::plan::{AccessPath, plan};
use crate::query::predicate::RowRef;
use crate::table::schema::Schema;

fn schema(indexes: &[&str]) -> Schema {
    Schema {
        table: "t".into(),
        primary_key: "id".into(),
        key_type: KeyType::String,
        indexes: indexes.iter().map(|index| (*index).to_owned()).collect(),
        retain_ms: None,
        auto_key: false,
    }
}

fn shown(condition: &str) -> String {
    let condition = parse_condition(condition, &[]).unwrap();
    let plan = plan(Some(&condition), &schema(&["a", "b.c", "`odd name`", "no..path", "`a`"])).unwrap();
    plan.probes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn conditions_give_these_probes() {
    for (condition, expected) in [
        ("a = 1", "index a: = 1 value"),
        ("a IN (1, 2.0, \"x\", true, 2, null)", "index a: = 4 values"),
        ("a IN (null)", "index a: no match possible"),
        ("a > 1", "index a: range"),
        ("a > 1 AND a <= 5", "index a: range"),
        ("a >= 1 AND a <= 1", "index a: = 1 value"),
        ("a > 5 AND a < 1", "index a: no match possible"),
        ("a > 5 AND a < \"x\"", "index a: no match possible"),
        ("a BETWEEN 1 AND 5", "index a: range"),
        ("a BETWEEN 5 AND 1", "index a: no match possible"),
        ("a BETWEEN 1 AND \"x\"", "index a: no match possible"),
        ("a LIKE \"ab%\"", "index a: prefix \"ab\""),
        ("a LIKE \"a\\\\%b\"", "index a: = 1 value"),
        ("a LIKE \"a_c\" AND a >= \"b\"", "index a: no match possible"),
        ("a < 1 OR a > 5", "index a: 2 ranges"),
        ("a < 5 OR a > 1", "index a: range"),
        ("a = 1 OR a IN (2, 3) OR a = 1", "index a: = 3 values"),
        // The most promising first.
        (
            "a LIKE \"x%\" AND b.c > 1 AND `odd name` = 1",
            "index `odd name`: = 1 value; index b.c: range; index a: prefix \"x\"",
        ),
        ("a IN (1, 2) AND b.c = 1", "index b.c: = 1 value; index a: = 2 values"),
        ("a = 1 AND x = 5", "index a: = 1 value"),
        ("(a = 1 AND b.c = 2) OR (b.c = 3 AND x = 1)", "index b.c: = 2 values"),
        ("`no..path` = 1", "index no..path: = 1 value"),
        // No probe.
        ("a = 1 OR b.c = 1", ""),
        ("a = 1 OR x = 1", ""),
        ("a = 1 OR _key = \"k\"", ""),
        ("a != 1", ""),
        ("NOT a = 1", ""),
        ("a NOT IN (1)", ""),
        ("a NOT BETWEEN 1 AND 2", ""),
        ("a NOT LIKE \"a%\"", ""),
        ("a LIKE \"%a\"", ""),
        ("a IS NULL", ""),
        ("a IS MISSING", ""),
        ("a IS NOT NULL", ""),
        ("a = [1]", ""),
        ("a = {}", ""),
        ("a IN (1, [1])", ""),
        ("a > [1]", ""),
        ("b = 1", ""),
        ("a.b = 1", ""),
        ("_key = \"k\"", ""),
    ] {
        assert_eq!(shown(condition), expected, "{condition}");
    }
}

#[test]
fn a_composite_index_serves_its_first_columns() {
    let shown = |condition: &str| {
        let condition = parse_condition(condition, &[]).unwrap();
        let plan = plan(Some(&condition), &schema(&["(a, b.c, x)"])).unwrap();
        plan.probes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    for (condition, expected) in [
        ("a = 1", "index (a, b.c, x): first column = 1 value"),
        ("a > 1", "index (a, b.c, x): first column range"),
        ("a LIKE \"x%\"", "index (a, b.c, x): first column prefix \"x\""),
        ("b.c = 2 AND a = 1", "index (a, b.c, x): first 2 columns = 1 value"),
        ("a IN (1, 2) AND b.c IN (1, 2, 3)", "index (a, b.c, x): first 2 columns = 6 values"),
        ("a = 1 AND b.c > 2 AND x = 1", "index (a, b.c, x): first 2 columns range"),
        ("a > 1 AND b.c = 2", "index (a, b.c, x): first column range"),
        ("a = 1 AND b.c = 2 AND x LIKE \"x%\"", "index (a, b.c, x): range"),
        ("a = 1 AND b.c = 2 AND x IN (3, \"y\")", "index (a, b.c, x): = 2 values"),
        ("a = 1 AND x = 2", "index (a, b.c, x): first column = 1 value"),
        ("a = 1 AND b.c > 2 AND b.c < 1", "index (a, b.c, x): first 2 columns no match possible"),
        ("b.c = 1 AND x = 1", ""),
    ] {
        assert_eq!(shown(condition), expected, "{condition}");
    }
}

#[test]
fn a_plan_also_has_an_access_path_by_key() {
    let condition = parse_condition("_key = \"k\" AND a = 1", &[]).unwrap();
    let both = plan(Some(&condition), &schema(&["a"])).unwrap();
    assert_eq!((both.key, both.probes.len()), (AccessPath::Keys(vec![Key::Str("k".into())]), 1));
    let all = plan(None, &schema(&["a"])).unwrap();
    assert_eq!((all.key, all.probes), (AccessPath::Scan, vec![]));
}

#[test]
fn planning_a_long_condition_takes_linear_time() {
    let holes: Vec<String> = (0..5_000).map(|i| format!("(a < {i} OR a > {i}.5)")).collect();
    assert_eq!(shown(&holes.join(" AND ")), "index a: 5001 ranges");
}

/// As many bytes as an index holds of a text, less a few.
fn long() -> String {
    "x".repeat(limits::INDEX_TEXT_BYTES - 3)
}

fn any_literal() -> BoxedStrategy<String> {
    prop_oneof![
        4 => "[ab\u{e9}]{0,3}".prop_map(|text| format!("{text:?}")),
        3 => "[ab\u{e9}]{0,5}".prop_map(|text| format!("{:?}", format!("{}{text}", long()))),
        1 => "[ab]{0,2}".prop_map(|text| format!("\"a\\u0000{text}\"")),
        4 => (-4i64..5).prop_map(|n| n.to_string()),
        2 => (-8i32..9).prop_map(|n| format!("{:.1}", f64::from(n) / 2.0)),
        3 => (-3i128..4).prop_map(|n| ((1 << 53) + n).to_string()),
        1 => (0i128..4).prop_map(|n| (i128::from(u64::MAX) - n).to_string()),
        1 => Just("9007199254740993.0".to_owned()),
        1 => Just("1e300".to_owned()),
        1 => Just("-0.0".to_owned()),
        1 => any::<bool>().prop_map(|value| value.to_string()),
        1 => Just("[1]".to_owned()),
        1 => Just("{\"c\": 1}".to_owned()),
    ]
    .boxed()
}

/// Values that differ, many of which an index cannot tell apart.
fn any_alike() -> BoxedStrategy<String> {
    prop_oneof![
        (-3i128..4).prop_map(|n| ((1 << 53) + n).to_string()),
        Just("9007199254740992.0".to_owned()),
        "[ab]{2,4}".prop_map(|end| format!("\"{}{end}\"", long())),
    ]
    .boxed()
}

fn any_condition(literal: fn() -> BoxedStrategy<String>) -> impl Strategy<Value = String> {
    let column = || prop_oneof![4 => Just("a"), 2 => Just("b.c"), 1 => Just("x"), 1 => Just("b")];
    let op = prop_oneof![
        4 => Just("="), 1 => Just("!="), 1 => Just("<"), 1 => Just("<="), 1 => Just(">"), 1 => Just(">=")
    ];
    let not = || prop_oneof![5 => Just(""), 1 => Just("NOT ")];
    let pattern =
        prop_oneof![2 => "[ab%_]{0,3}", 1 => "[ab%_]{0,5}".prop_map(|end| format!("{}{end}", long()))];
    let leaf = prop_oneof![
        4 => (column(), op, literal()).prop_map(|(column, op, value)| format!("{column} {op} {value}")),
        1 => (column(), not(), literal(), literal())
            .prop_map(|(c, not, a, b)| format!("{c} {not}IN ({a}, {b}, null)")),
        1 => (column(), not(), literal(), literal())
            .prop_map(|(c, not, a, b)| format!("{c} {not}BETWEEN {a} AND {b}")),
        1 => (column(), not(), pattern).prop_map(|(c, not, pattern)| format!("{c} {not}LIKE \"{pattern}\"")),
        1 => (column(), not()).prop_map(|(c, not)| format!("{c} IS {not}NULL")),
        1 => (column(), not()).prop_map(|(c, not)| format!("{c} IS {not}MISSING")),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            3 => prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" AND "))),
            3 => prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" OR "))),
            1 => inner.prop_map(|inner| format!("NOT {inner}")),
        ]
    })
}

fn any_document(literal: fn() -> BoxedStrategy<String>) -> impl Strategy<Value = String> {
    let value = || prop_oneof![8 => literal(), 1 => Just("null".to_owned())];
    let nested = prop_oneof![
        6 => value().prop_map(|value| format!("{{\"c\": {value}}}")),
        1 => Just("{}".to_owned()),
        1 => value(),
    ];
    let a = prop_oneof![6 => value().prop_map(|value| format!(", \"a\": {value}")), 1 => Just(String::new())];
    (a, nested, value()).prop_map(|(a, b, x)| format!("{{\"id\": \"k\"{a}, \"b\": {b}, \"x\": {x}}}"))
}

fn leaves_out_none(condition: &str, documents: Vec<String>) -> Result<(), TestCaseError> {
    let condition = parse_condition(condition, &[]).unwrap();
    let plan = plan(Some(&condition), &schema(&["a", "b.c", "(a, b.c)", "(b.c, x, a)"])).unwrap();
    for probe in &plan.probes {
        prop_assert!(probe.ranges.iter().all(|range| range.low <= range.high));
        prop_assert!(probe.ranges.is_sorted_by(|a, b| a.high < b.low), "disjoint: {:?}", probe);
        prop_assert_eq!(probe.exact, probe.ranges.iter().all(|range| range.low == range.high));
    }
    for json in documents {
        let document = Document::from_json(&json).unwrap();
        let key = Key::Str("k".into());
        if !condition.matches(RowRef { key: &key, seq: 1, time_ms: 1, document: &document }).unwrap() {
            continue;
        }
        for probe in &plan.probes {
            let value = probe.columns.value_of(&document).unwrap();
            let found = value.is_some_and(|value| {
                let (used, _) = sortkey::split_columns(&value, probe.depth).unwrap();
                probe.contains(used)
            });
            prop_assert!(found, "{} leaves out {} of {}", probe, json, condition);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_row_that_matches_lies_outside_a_probe(
        condition in any_condition(any_literal),
        documents in prop::collection::vec(any_document(any_literal), 1..12),
    ) {
        leaves_out_none(&condition, documents)?;
    }

    #[test]
    fn values_that_an_index_cannot_tell_apart_are_all_found(
        condition in any_condition(any_alike),
        documents in prop::collection::vec(any_document(any_alike), 1..12),
    ) {
        leaves_out_none(&condition, documents)?;
    }
}
