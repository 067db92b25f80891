//! Tests of the planner: that it finds the keys it should, and never leaves out one that it must not.

use proptest::prelude::*;

use super::*;
use crate::format::document::Document;
use crate::query::parser::parse_condition;
use crate::query::predicate::RowRef;

fn schema(primary_key: &str, key_type: KeyType) -> Schema {
    let (table, primary_key, indexes) = ("t".to_owned(), primary_key.to_owned(), Vec::new());
    Schema { table, primary_key, key_type, indexes, retain_ms: None, auto_key: false }
}

fn shown(condition: &str, key_type: KeyType) -> String {
    let condition = parse_condition(condition, &[]).unwrap();
    access(Some(&condition), &schema("id", key_type)).unwrap().to_string()
}

/// The same for a table with the key `(a STRING, b INT, c STRING)`.
fn shown_of_three(condition: &str) -> String {
    let condition = parse_condition(condition, &[]).unwrap();
    let schema = schema("(a, b, c)", "(STRING, INT, STRING)".parse().unwrap());
    access(Some(&condition), &schema).unwrap().to_string()
}

#[test]
fn conditions_on_the_first_columns_of_a_composite_key_are_a_range() {
    let many = (0..40).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    for (condition, expected) in [
        ("a = \"x\"", "key range from (\"x\") to (\"x\")"),
        ("a = \"x\" AND b > 3", "key range from (\"x\", 4) to (\"x\")"),
        ("a = \"x\" AND b >= 3 AND b < 9 AND d = 1", "key range from (\"x\", 3) to before (\"x\", 9)"),
        ("a = \"x\" AND b = 3", "key range from (\"x\", 3) to before (\"x\", 4)"),
        ("a = \"x\" AND b = 9223372036854775807", "key range from (\"x\", 9223372036854775807) to (\"x\")"),
        ("a = \"x\" AND b > 9223372036854775807", "keys: no match possible"),
        ("a = \"x\" AND b = 3 AND c = \"z\"", "keys: 1 lookup"),
        ("a = \"x\" AND b = 3 AND c > \"m\"", "key range after (\"x\", 3, \"m\") to before (\"x\", 4)"),
        (
            "a = \"x\" AND b = 3 AND c LIKE \"m%\"",
            "key range from (\"x\", 3, \"m\") to before (\"x\", 3, \"n\")",
        ),
        ("a IN (\"x\", \"y\") AND b IN (1, 2) AND c = \"z\"", "keys: 4 lookups"),
        ("a IN (\"x\", \"y\") AND b > 3", "key range from (\"x\", 4) to (\"y\")"),
        ("a > \"x\"", "key range after (\"x\")"),
        ("a <= \"x\" AND b = 3", "key range to (\"x\")"),
        ("a BETWEEN \"x\" AND \"y\"", "key range from (\"x\") to (\"y\")"),
        ("(a = \"x\" AND b = 1) OR (a = \"y\" AND b = 2)", "key range from (\"x\", 1) to before (\"y\", 3)"),
        ("_key = [\"x\", 3, \"z\"]", "keys: 1 lookup"),
        ("_key IN ([\"x\", 3, \"z\"], [\"x\", 3], 5)", "keys: 1 lookup"),
        ("_key = [\"x\", 3, \"z\"] AND a = \"y\"", "keys: no match possible"),
        ("_key > [\"x\", 3]", "keys: no match possible"),
        ("_key = \"x\"", "keys: no match possible"),
        ("a = 5", "keys: no match possible"),
        ("b = 3", "full scan"),
        ("b = 3 AND c = \"z\"", "full scan"),
        ("a != \"x\"", "full scan"),
        ("a IS NULL", "keys: no match possible"),
        ("a = \"x\" OR d = 1", "full scan"),
    ] {
        assert_eq!(shown_of_three(condition), expected, "{condition}");
    }
    // Too many combinations for lookups.
    let texts = (0..40).map(|n| format!("\"y{n:02}\"")).collect::<Vec<_>>().join(", ");
    assert_eq!(
        shown_of_three(&format!("a = \"x\" AND b IN ({many}) AND c IN ({texts})")),
        "key range from (\"x\", 0, \"y00\") to (\"x\", 39, \"y39\")"
    );
}

#[test]
fn conditions_on_the_key_narrow_the_access_path() {
    for (condition, expected) in [
        ("_key = \"a\"", "keys: 1 lookup"),
        ("id = \"a\" AND status = 1", "keys: 1 lookup"),
        ("id IN (\"b\", \"a\", \"b\", 5)", "keys: 2 lookups"),
        ("id = \"a\" OR _key IN (\"b\", \"c\")", "keys: 3 lookups"),
        ("id = \"a\" OR status = 1", "full scan"),
        ("id = \"a\" AND id = \"b\"", "keys: no match possible"),
        ("id IN (\"a\", \"c\", \"e\") AND id > \"a\" AND id < \"e\"", "keys: 1 lookup"),
        ("_key >= \"a\" AND _key < \"b\"", "key range from \"a\" to before \"b\""),
        ("_key > \"a\" AND _key >= \"a\"", "key range after \"a\""),
        ("_key < \"b\" AND _key <= \"b\"", "key range to before \"b\""),
        ("_key BETWEEN \"a\" AND \"b\"", "key range from \"a\" to \"b\""),
        ("_key BETWEEN \"b\" AND \"a\"", "keys: no match possible"),
        ("_key LIKE \"ab%\"", "key range from \"ab\" to before \"ac\""),
        ("_key LIKE \"a\\\\%b\"", "keys: 1 lookup"),
        ("_key LIKE \"%a\"", "full scan"),
        ("_key LIKE \"\u{d7ff}%\"", "key range from \"\\u{d7ff}\" to before \"\\u{e000}\""),
        ("_key LIKE \"a\u{10ffff}%\"", "key range from \"a\\u{10ffff}\" to before \"b\""),
        ("_key LIKE \"\u{10ffff}%\"", "key range from \"\\u{10ffff}\""),
        ("_key = 5", "keys: no match possible"),
        ("_key = \"\"", "keys: no match possible"),
        ("_key < 5", "keys: no match possible"),
        ("_key IS MISSING", "keys: no match possible"),
        ("_key != \"a\"", "full scan"),
        ("NOT _key = \"a\"", "full scan"),
        ("_key NOT IN (\"a\")", "full scan"),
        ("id.x = \"a\"", "full scan"),
        ("_seq = 5", "full scan"),
    ] {
        assert_eq!(shown(condition, KeyType::String), expected, "{condition}");
    }
    assert_eq!(access(None, &schema("id", KeyType::String)).unwrap(), AccessPath::Scan);
}

#[test]
fn int_keys_compare_with_integers_and_floats() {
    for (condition, expected) in [
        ("id = 5.0", "keys: 1 lookup"),
        ("id = 5.5", "keys: no match possible"),
        ("id = 9223372036854775808", "keys: no match possible"),
        ("id = \"5\"", "keys: no match possible"),
        ("id < 5.5", "key range to 5"),
        ("id < 5.0", "key range to 4"),
        ("id <= -5.5", "key range to -6"),
        ("id > 5.5 AND id <= 7", "key range from 6 to 7"),
        ("id >= 5.5", "key range from 6"),
        ("id > 5 AND id < 6", "keys: no match possible"),
        ("id > 1e300", "keys: no match possible"),
        ("id < 1e300", "full scan"),
        ("id > 9223372036854775807", "keys: no match possible"),
        ("id >= -9223372036854775808", "key range from -9223372036854775808"),
        ("id LIKE \"5%\"", "keys: no match possible"),
    ] {
        assert_eq!(shown(condition, KeyType::Int), expected, "{condition}");
    }
}

fn reaches(access: &AccessPath, key: &Key) -> bool {
    match access {
        AccessPath::Keys(keys) => {
            assert!(keys.is_sorted_by(|a, b| a < b), "sorted, each once");
            keys.contains(key)
        }
        AccessPath::Range { from, to } => std::ops::RangeBounds::contains(&(from.as_ref(), to.as_ref()), key),
        AccessPath::Scan => true,
    }
}

fn any_literal() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[ab]{0,3}".prop_map(|text| format!("\"{text}\"")),
        4 => (-4i64..5).prop_map(|n| n.to_string()),
        2 => (-8i32..9).prop_map(|n| format!("{:.1}", f64::from(n) / 2.0)),
        1 => Just("true".to_owned()),
        1 => Just("[1]".to_owned()),
    ]
}

fn any_condition() -> impl Strategy<Value = String> {
    // `_key` is not compared with booleans or arrays: the parser refuses that.
    let column = || prop_oneof![4 => Just("id"), 1 => Just("x")];
    let op = prop_oneof![4 => Just("="), 1 => Just("!="), 1 => Just("<"), 1 => Just("<="), 1 => Just(">"), 1 => Just(">=")];
    let not = || prop_oneof![4 => Just(""), 1 => Just("NOT ")];
    let leaf = prop_oneof![
        (column(), op, any_literal()).prop_map(|(column, op, value)| format!("{column} {op} {value}")),
        (column(), not(), any_literal(), any_literal())
            .prop_map(|(c, not, a, b)| format!("{c} {not}IN ({a}, {b}, null)")),
        (column(), not(), any_literal(), any_literal())
            .prop_map(|(c, not, a, b)| format!("{c} {not}BETWEEN {a} AND {b}")),
        (column(), not(), "[ab%_]{0,3}").prop_map(|(c, not, pattern)| format!("{c} {not}LIKE \"{pattern}\"")),
        ("[ab]{0,2}", not()).prop_map(|(text, not)| format!("_key {not}LIKE \"{text}%\"")),
        (column(), not()).prop_map(|(c, not)| format!("{c} IS {not}NULL")),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            3 => prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" AND "))),
            2 => prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" OR "))),
            1 => inner.prop_map(|inner| format!("NOT {inner}")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_row_that_matches_is_left_out(
        condition in any_condition(),
        texts in prop::collection::vec("[abc]{1,3}", 1..8),
        ints in prop::collection::vec(-5i64..6, 1..8),
        x in any_literal(),
    ) {
        let condition = parse_condition(&condition, &[]).unwrap();
        let texts = texts.iter().map(|text| (Key::Str(text.as_str().into()), format!("{text:?}")));
        let ints = ints.iter().map(|int| (Key::Int(*int), int.to_string()));
        for (key, id) in texts.chain(ints) {
            let document = Document::from_json(&format!("{{\"id\": {id}, \"x\": {x}}}")).unwrap();
            let row = RowRef { key: &key, seq: 1, time_ms: 1, document: &document };
            let access = access(Some(&condition), &schema("id", key.key_type())).unwrap();
            if condition.matches(row).unwrap() {
                prop_assert!(reaches(&access, &key), "{} leaves out {} of {}", access, key, condition);
            }
        }
    }
}

/// Conditions on the columns of a key `(a STRING, b INT)` and on `_key`.
fn any_composite_condition() -> impl Strategy<Value = String> {
    let column = || prop_oneof![3 => Just("a"), 3 => Just("b"), 1 => Just("x")];
    let op = prop_oneof![4 => Just("="), 1 => Just("!="), 1 => Just("<"), 1 => Just("<="), 1 => Just(">"), 1 => Just(">=")];
    let not = || prop_oneof![6 => Just(""), 1 => Just("NOT ")];
    let key = || ("[ab]{1,2}", -3i64..4).prop_map(|(a, b)| format!("[\"{a}\", {b}]"));
    let leaf = prop_oneof![
        4 => (column(), op, any_literal()).prop_map(|(column, op, value)| format!("{column} {op} {value}")),
        2 => (column(), not(), any_literal(), any_literal())
            .prop_map(|(c, not, a, b)| format!("{c} {not}IN ({a}, {b}, null)")),
        2 => (column(), not(), any_literal(), any_literal())
            .prop_map(|(c, not, a, b)| format!("{c} {not}BETWEEN {a} AND {b}")),
        1 => (column(), not(), "[ab%_]{0,3}").prop_map(|(c, not, pattern)| format!("{c} {not}LIKE \"{pattern}\"")),
        1 => (not(), key(), key()).prop_map(|(not, a, b)| format!("_key {not}IN ({a}, {b})")),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            4 => prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" AND "))),
            2 => prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" OR "))),
            1 => inner.prop_map(|inner| format!("NOT {inner}")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_row_with_a_composite_key_is_left_out(
        condition in any_composite_condition(),
        keys in prop::collection::vec(("[ab]{1,3}", prop_oneof![4 => -4i64..5, 1 => Just(i64::MAX)]), 1..12),
        x in any_literal(),
    ) {
        let condition = parse_condition(&condition, &[]).unwrap();
        let schema = schema("(a, b)", "(STRING, INT)".parse().unwrap());
        let access = access(Some(&condition), &schema).unwrap();
        for (a, b) in keys {
            let document = Document::from_json(&format!("{{\"a\": \"{a}\", \"b\": {b}, \"x\": {x}}}")).unwrap();
            let key = schema.key_of(&document).unwrap();
            let row = RowRef { key: &key, seq: 1, time_ms: 1, document: &document };
            if condition.matches(row).unwrap() {
                prop_assert!(reaches(&access, &key), "{} leaves out {} of {}", access, key, condition);
            }
        }
    }
}
