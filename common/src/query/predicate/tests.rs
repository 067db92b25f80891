//! Tests of the matcher: the rules one by one, and agreement with an evaluator that knows nothing of MessagePack.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::query::like::LikePattern;
use crate::query::parser::{parse_column, parse_condition};

const TIME: u64 = 1_735_689_600_123; // 2025-01-01T00:00:00.123Z

fn matches_key(condition: &str, key: &Key, document: &str) -> bool {
    let document = Document::from_json(document).unwrap();
    let row = RowRef { key, seq: 42, time_ms: TIME, document: &document };
    let condition = parse_condition(condition, &[]).unwrap_or_else(|e| panic!("{condition}: {e}"));
    condition.matches(row).unwrap()
}

fn matches(condition: &str, document: &str) -> bool {
    matches_key(condition, &Key::Str("k1".into()), document)
}

/// True of the condition, of its negation, or of neither.
fn logic(condition: &str, document: &str) -> Option<bool> {
    match (matches(condition, document), matches(&format!("NOT ({condition})"), document)) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
        (true, true) => panic!("{condition} and its negation are both true of {document}"),
    }
}

#[test]
fn comparison_is_typed() {
    for (condition, document, expected) in [
        ("a = 1", r#"{"a": 1.0}"#, Some(true)),
        ("a = 9007199254740993", r#"{"a": 9007199254740992.0}"#, Some(false)),
        ("a < 18446744073709551615", r#"{"a": 18446744073709551614}"#, Some(true)),
        ("a = -0.0", r#"{"a": 0}"#, Some(true)),
        ("a = 5", r#"{"a": "5"}"#, Some(false)),
        ("a != 5", r#"{"a": "5"}"#, Some(true)),
        ("a < 5", r#"{"a": "4"}"#, None),
        ("a < 5", r#"{"a": true}"#, None),
        ("a < true", r#"{"a": false}"#, Some(true)),
        ("a > \"é\"", r#"{"a": "z"}"#, Some(false)),
        ("a < \"\u{10000}\"", "{\"a\": \"\u{ffff}\"}", Some(true)),
        ("a = 5", "{}", None),
        ("a != 5", r#"{"a": null}"#, None),
        ("a.b.c = 1", r#"{"a": {"b": {"c": 1}}}"#, Some(true)),
        ("a.b = 1", r#"{"a": [1]}"#, None),
    ] {
        assert_eq!(logic(condition, document), expected, "{condition} on {document}");
    }
}

#[test]
fn unknown_follows_sql_logic() {
    let document = r#"{"t": 1}"#;
    let (yes, no, unknown) = ("t = 1", "t = 2", "missing = 1");
    for (a, word, b, expected) in [
        (yes, "AND", unknown, None),
        (no, "AND", unknown, Some(false)),
        (unknown, "AND", no, Some(false)),
        (yes, "OR", unknown, Some(true)),
        (unknown, "OR", yes, Some(true)),
        (no, "OR", unknown, None),
        (unknown, "OR", unknown, None),
    ] {
        assert_eq!(logic(&format!("{a} {word} {b}"), document), expected, "{a} {word} {b}");
    }
}

#[test]
fn lists_ranges_and_patterns() {
    for (condition, document, expected) in [
        ("a IN (1, \"x\")", r#"{"a": "x"}"#, Some(true)),
        ("a IN (1, null)", r#"{"a": 1}"#, Some(true)),
        ("a IN (1, null)", r#"{"a": 2}"#, None),
        ("a NOT IN (1, null)", r#"{"a": 1}"#, Some(false)),
        ("a NOT IN (1, 2)", r#"{"a": 3}"#, Some(true)),
        ("a IN (1)", r#"{"a": null}"#, None),
        ("a BETWEEN 1 AND 2", r#"{"a": 2.0}"#, Some(true)),
        ("a NOT BETWEEN 1 AND 2", r#"{"a": 2.5}"#, Some(true)),
        ("a BETWEEN \"a\" AND 2", r#"{"a": 3}"#, Some(false)),
        ("a BETWEEN \"a\" AND 2", r#"{"a": 1}"#, None),
        ("a LIKE \"a%_\"", r#"{"a": "abc"}"#, Some(true)),
        ("a NOT LIKE \"a%\"", r#"{"a": "b"}"#, Some(true)),
        ("a LIKE \"5\"", r#"{"a": 5}"#, Some(false)),
        ("a NOT LIKE \"5\"", r#"{"a": [5]}"#, Some(true)),
        ("a LIKE \"%\"", "{}", None),
        ("a LIKE \"%\"", r#"{"a": null}"#, None),
    ] {
        assert_eq!(logic(condition, document), expected, "{condition} on {document}");
    }
}

#[test]
fn null_and_missing_are_different() {
    for (condition, document, expected) in [
        ("a IS NULL", r#"{"a": null}"#, true),
        ("a IS NULL", "{}", false),
        ("a IS NOT NULL", "{}", true),
        ("a IS MISSING", "{}", true),
        ("a IS MISSING", r#"{"a": null}"#, false),
        ("a IS NOT MISSING", r#"{"a": null}"#, true),
        ("a.b IS MISSING", r#"{"a": 1}"#, true),
        ("_key IS NULL OR _seq IS MISSING", "{}", false),
    ] {
        assert_eq!(logic(condition, document), Some(expected), "{condition} on {document}");
    }
}

#[test]
fn arrays_and_objects_compare_only_for_equality() {
    for (condition, document, expected) in [
        ("a = [1, null]", r#"{"a": [1.0, null]}"#, Some(true)),
        ("a != [1, 2]", r#"{"a": [2, 1]}"#, Some(true)),
        ("a = {\"x\": 1, \"y\": [2]}", r#"{"a": {"y": [2.0], "x": 1}}"#, Some(true)),
        ("a = {\"x\": 1}", r#"{"a": {"x": 1, "y": 2}}"#, Some(false)),
        ("a = {}", r#"{"a": []}"#, Some(false)),
        ("a = 1", r#"{"a": [1]}"#, Some(false)),
        ("a < [1]", r#"{"a": [0]}"#, None),
        ("a = [1]", r#"{"a": 1}"#, Some(false)),
    ] {
        assert_eq!(logic(condition, document), expected, "{condition} on {document}");
    }
}

#[test]
fn elements_of_arrays_can_be_compared() {
    for (condition, document, expected) in [
        ("a CONTAINS 1", r#"{"a": ["x", 1.0]}"#, Some(true)),
        ("a CONTAINS \"1\"", r#"{"a": [1]}"#, Some(false)),
        ("a CONTAINS null", r#"{"a": [null]}"#, Some(true)),
        ("a CONTAINS {\"x\": [1]}", r#"{"a": [{"x": [1]}]}"#, Some(true)),
        ("a NOT CONTAINS 1", r#"{"a": [2]}"#, Some(true)),
        ("a NOT CONTAINS 1", r#"{"a": []}"#, Some(true)),
        ("a CONTAINS 1", r#"{"a": 1}"#, Some(false)),
        ("a CONTAINS \"x\"", r#"{"a": {"x": "x"}}"#, Some(false)),
        ("a CONTAINS 1", r#"{"a": null}"#, None),
        ("a NOT CONTAINS 1", "{}", None),
        ("ANY(a) > 2", r#"{"a": [1, 3]}"#, Some(true)),
        ("ANY(a) > 2", r#"{"a": [1, 2]}"#, Some(false)),
        ("ANY(a) > 2", r#"{"a": [1, "x"]}"#, None),
        ("ANY(a) != 2", r#"{"a": [2, 2]}"#, Some(false)),
        ("ANY(a) = 2", r#"{"a": []}"#, Some(false)),
        ("ANY(a.b) = [2]", r#"{"a": {"b": [[2]]}}"#, Some(true)),
        ("ANY(a) = 2", r#"{"a": 2}"#, Some(false)),
        ("ANY(a) = 2", "{}", None),
        ("any = 1", r#"{"any": 1}"#, Some(true)),
    ] {
        assert_eq!(logic(condition, document), expected, "{condition} on {document}");
    }
}

#[test]
fn ilike_ignores_case() {
    for (condition, document, expected) in [
        ("a ILIKE \"AB_\"", r#"{"a": "abC"}"#, Some(true)),
        ("a ILIKE \"É%\"", r#"{"a": "éa"}"#, Some(true)),
        ("a NOT ILIKE \"a\"", r#"{"a": "A"}"#, Some(false)),
        ("a LIKE \"a\"", r#"{"a": "A"}"#, Some(false)),
        ("a ILIKE \"5\"", r#"{"a": 5}"#, Some(false)),
        ("a ILIKE \"%\"", "{}", None),
        ("_key ILIKE \"K%\"", "{}", Some(true)),
    ] {
        assert_eq!(logic(condition, document), expected, "{condition} on {document}");
    }
}

#[test]
fn built_in_columns_can_be_compared() {
    for (condition, expected) in [
        ("_key = \"k1\" AND _key LIKE \"k%\"", Some(true)),
        ("_key = 1", Some(false)),
        ("_key > 1", None),
        ("_seq BETWEEN 42 AND 42.5", Some(true)),
        ("_time = \"2025-01-01T00:00:00.123Z\"", Some(true)),
        ("_time = \"2025-01-01T02:00:00.123+02:00\"", Some(true)),
        ("_time >= \"2025-01-01\" AND _time < \"2025-01-02\"", Some(true)),
        ("_time < \"2025-01-01T00:00:00.123000001Z\"", Some(true)),
        ("_time > \"2025-01-01T00:00:00.122999999Z\"", Some(true)),
        ("_time = \"2025-01-01T00:00:00.1230001Z\"", Some(false)),
        ("`_key` = \"field\"", Some(true)),
    ] {
        assert_eq!(logic(condition, r#"{"_key": "field"}"#), expected, "{condition}");
    }
    assert!(matches_key("_key = 7 AND _key < 7.5 AND _key != \"7\"", &Key::Int(7), "{}"));
}

/// The same rules over parsed JSON, written without a thought of speed. Numbers here are small.
fn naive(condition: &Condition, document: &serde_json::Value) -> Option<bool> {
    let at = |column: &Column| match column {
        Column::Path(path) => {
            path.names().iter().try_fold(document.clone(), |at, name| at.get(name).cloned())
        }
        _ => panic!("only paths are generated"),
    };
    let flip = |met: Option<bool>, negated: bool| met.map(|met| met != negated);
    match condition {
        Condition::And(parts) => {
            let answers: Vec<_> = parts.iter().map(|part| naive(part, document)).collect();
            if answers.contains(&Some(false)) {
                Some(false)
            } else {
                (!answers.contains(&None)).then_some(true)
            }
        }
        Condition::Or(parts) => {
            let answers: Vec<_> = parts.iter().map(|part| naive(part, document)).collect();
            if answers.contains(&Some(true)) {
                Some(true)
            } else {
                (!answers.contains(&None)).then_some(false)
            }
        }
        Condition::Not(inner) => flip(naive(inner, document), true),
        Condition::Compare { column, op, value } => naive_compare(at(column), *op, &plain(value)),
        Condition::In { column, values, negated } => {
            let equal = |value| Condition::Compare { column: column.clone(), op: Comparison::Equal, value };
            let any = Condition::Or(values.values().iter().cloned().map(equal).collect());
            flip(naive(&any, document), *negated)
        }
        Condition::Between { column, low, high, negated } => {
            let side = |op, value: &Value| naive_compare(at(column), op, &plain(value));
            let sides = [side(Comparison::GreaterOrEqual, low), side(Comparison::LessOrEqual, high)];
            let met = if sides.contains(&Some(false)) { Some(false) } else { sides[0].and(sides[1]) };
            flip(met, *negated)
        }
        Condition::Like { column, pattern, negated } => match at(column)? {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => flip(Some(pattern.matches(&text).unwrap()), *negated),
            _ => Some(*negated),
        },
        Condition::ILike { column, pattern, negated } => match at(column)? {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => {
                flip(Some(pattern.matches(&text.to_lowercase()).unwrap()), *negated)
            }
            _ => Some(*negated),
        },
        Condition::Contains { column, value, negated } => match at(column)? {
            serde_json::Value::Null => None,
            serde_json::Value::Array(items) => {
                Some(items.iter().any(|item| floats(item) == floats(&plain(value))) != *negated)
            }
            _ => Some(*negated),
        },
        Condition::Any { column, op, value } => naive_any(at(column)?, *op, &plain(value)),
        Condition::IsNull { column, negated } => Some((at(column) == Some(json!(null))) != *negated),
        Condition::IsMissing { column, negated } => Some(at(column).is_none() != *negated),
    }
}

/// An OR of comparisons with the elements.
fn naive_any(found: serde_json::Value, op: Comparison, value: &serde_json::Value) -> Option<bool> {
    let items = match found {
        serde_json::Value::Null => return None,
        serde_json::Value::Array(items) => items,
        _ => return Some(false),
    };
    let answers: Vec<_> = items.into_iter().map(|item| naive_compare(Some(item), op, value)).collect();
    if answers.contains(&Some(true)) { Some(true) } else { (!answers.contains(&None)).then_some(false) }
}

fn plain(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => json!(null),
        Value::Bool(b) => json!(b),
        Value::Int(i) => json!(i64::try_from(*i).unwrap()),
        Value::Float(f) => json!(f),
        Value::Str(s) => json!(s),
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), plain(value))).collect(),
    }
}

/// Numbers all as floats, so that 1 equals 1.0 at every depth.
fn floats(value: &serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Number(n) => json!(n.as_f64().unwrap() + 0.0),
        serde_json::Value::Array(items) => items.iter().map(floats).collect(),
        serde_json::Value::Object(fields) => fields.iter().map(|(n, v)| (n.clone(), floats(v))).collect(),
        other => other.clone(),
    }
}

fn naive_compare(
    found: Option<serde_json::Value>,
    op: Comparison,
    value: &serde_json::Value,
) -> Option<bool> {
    let found = floats(&found?);
    let value = floats(value);
    if found.is_null() || value.is_null() {
        return None;
    }
    let ordering = match (&found, &value) {
        (serde_json::Value::String(a), serde_json::Value::String(b)) => Some(a.chars().cmp(b.chars())),
        (serde_json::Value::Bool(a), serde_json::Value::Bool(b)) => Some(a.cmp(b)),
        (serde_json::Value::Number(a), serde_json::Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        _ => None,
    };
    match op {
        Comparison::Equal => Some(found == value),
        Comparison::NotEqual => Some(found != value),
        Comparison::Less => ordering.map(|o| o == Ordering::Less),
        Comparison::LessOrEqual => ordering.map(|o| o != Ordering::Greater),
        Comparison::Greater => ordering.map(|o| o == Ordering::Greater),
        Comparison::GreaterOrEqual => ordering.map(|o| o != Ordering::Less),
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-2i128..3).prop_map(Value::Int),
        (-4i32..6).prop_map(|n| Value::Float(f64::from(n) / 2.0)),
        "[abAé]{0,2}".prop_map(Value::Str),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        let fields = prop::collection::btree_map("[ab]", inner.clone(), 0..3);
        prop_oneof![
            prop::collection::vec(inner, 0..3).prop_map(Value::Array),
            fields.prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn any_condition() -> impl Strategy<Value = Condition> {
    let column = || "[ab](\\.[ab])?".prop_map(|text| parse_column(&text).unwrap());
    let op = prop_oneof![
        Just(Comparison::Equal),
        Just(Comparison::NotEqual),
        Just(Comparison::Less),
        Just(Comparison::LessOrEqual),
        Just(Comparison::Greater),
        Just(Comparison::GreaterOrEqual),
    ];
    let leaf = prop_oneof![
        2 => (column(), op.clone(), any_value())
            .prop_map(|(column, op, value)| Condition::Any { column, op, value }),
        2 => (column(), any_value(), any::<bool>())
            .prop_map(|(column, value, negated)| Condition::Contains { column, value, negated }),
        1 => (column(), "[aBÉ%_]{0,3}", any::<bool>()).prop_map(|(column, pattern, negated)| Condition::ILike {
            column,
            pattern: LikePattern::new(lower_case(&pattern)),
            negated
        }),
        4 => (column(), op, any_value()).prop_map(|(column, op, value)| Condition::Compare { column, op, value }),
        2 => (column(), prop::collection::vec(any_value(), 1..4), any::<bool>())
            .prop_map(|(column, values, negated)| Condition::In { column, values: InList::new(values), negated }),
        1 => (column(), any_value(), any_value(), any::<bool>())
            .prop_map(|(column, low, high, negated)| Condition::Between { column, low, high, negated }),
        1 => (column(), "[ab%_]{0,3}", any::<bool>())
            .prop_map(|(column, pattern, negated)| Condition::Like { column, pattern: LikePattern::new(pattern), negated }),
        1 => (column(), any::<bool>()).prop_map(|(column, negated)| Condition::IsNull { column, negated }),
        1 => (column(), any::<bool>()).prop_map(|(column, negated)| Condition::IsMissing { column, negated }),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Condition::And),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Condition::Or),
            inner.prop_map(|inner| Condition::Not(Box::new(inner))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn agrees_with_a_naive_evaluator(
        condition in any_condition(),
        fields in prop::collection::btree_map("[ab]", any_value(), 0..3),
    ) {
        let value = Value::Object(fields.into_iter().collect());
        let document = Document::from_value(&value).unwrap();
        let row = RowRef { key: &Key::Int(1), seq: 1, time_ms: 1, document: &document };
        prop_assert_eq!(condition.evaluate(row).unwrap(), naive(&condition, &plain(&value)));
    }
}
