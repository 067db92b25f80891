//! Tests of aggregates against plain models.

use proptest::prelude::*;

use super::*;
use crate::format::document::Document;
use crate::format::key::Key;
use crate::format::path::Path;
use crate::query::ast::Column;

const FUNCTIONS: [AggregateFunction; 6] = [
    AggregateFunction::Count,
    AggregateFunction::CountDistinct,
    AggregateFunction::Sum,
    AggregateFunction::Avg,
    AggregateFunction::Min,
    AggregateFunction::Max,
];

fn of(function: AggregateFunction) -> Arc<Aggregate> {
    Arc::new(Aggregate { function, argument: Some(Column::Path(Path::field("x"))) })
}

fn documents(values: &[&str]) -> Vec<Document> {
    values.iter().map(|value| Document::from_json(&format!("{{{value}}}")).unwrap()).collect()
}

fn each<'a>(documents: impl IntoIterator<Item = &'a Document>, mut visit: impl FnMut(RowRef<'_>)) {
    let key = Key::Int(1);
    for document in documents {
        visit(RowRef { key: &key, seq: 1, time_ms: 1, document });
    }
}

fn result(accumulator: &Accumulator) -> Value {
    Value::decode(&accumulator.result().unwrap()).unwrap()
}

/// The results of all functions over some rows.
fn results(values: &[&str]) -> Vec<Value> {
    FUNCTIONS
        .map(|function| {
            let mut accumulator = Accumulator::new(&of(function));
            let mut memory = QueryMemory::default();
            each(&documents(values), |row| accumulator.add(row, &mut memory).unwrap());
            result(&accumulator)
        })
        .to_vec()
}

#[test]
fn missing_fields_and_null_do_not_count() {
    assert_eq!(
        results(&[r#""x": 3"#, r#""x": null"#, "", r#""x": 1"#, r#""x": 3.0"#]),
        [
            Value::Int(3),
            Value::Int(2),
            Value::Float(7.0),
            Value::Float(7.0 / 3.0),
            Value::Int(1),
            Value::Int(3)
        ]
    );
    let nothing = [Value::Int(0), Value::Int(0), Value::Null, Value::Null, Value::Null, Value::Null];
    assert_eq!(results(&[]), nothing);
    assert_eq!(results(&[r#""x": null"#, r#""y": 1"#]), nothing);
}

#[test]
fn sums_are_exact_and_leave_other_values_out() {
    let mut sum = Accumulator::new(&of(AggregateFunction::Sum));
    let mut memory = QueryMemory::default();
    let rows = documents(&[r#""x": 18446744073709551615"#, r#""x": "7""#, r#""x": -1"#, r#""x": [1]"#]);
    each(&rows, |row| sum.add(row, &mut memory).unwrap());
    assert_eq!((result(&sum), sum.ignored()), (Value::Int(i128::from(u64::MAX) - 1), 2));
    each(&documents(&[r#""x": 2"#]), |row| sum.add(row, &mut memory).unwrap());
    let error = sum.result().unwrap_err();
    assert_eq!(error.reason(), Reason::QueryInvalid);
    assert!(error.message().starts_with("SUM(x) overflows"), "{error}");
    let mut average = Accumulator::new(&of(AggregateFunction::Avg));
    each(&documents(&[r#""x": 1e308"#, r#""x": 1e308"#]), |row| average.add(row, &mut memory).unwrap());
    let error = average.result().unwrap_err();
    assert!(
        error.message().starts_with("AVG(x) overflows") && !error.message().contains("use AVG"),
        "{error}"
    );
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (-3i64..4).prop_map(|n| format!("\"x\": {n}")),
        2 => (-4i32..5).prop_map(|n| format!("\"x\": {:?}", f64::from(n) / 2.0)),
        1 => Just("\"x\": 1e300".to_owned()),
        2 => "[ab]{0,2}".prop_map(|text| format!("\"x\": {text:?}")),
        1 => Just("\"x\": null".to_owned()),
        1 => Just("\"x\": {\"a\": 1, \"b\": [true]}".to_owned()),
        1 => Just("\"x\": {\"b\": [true], \"a\": 1.0}".to_owned()),
        1 => Just("\"y\": 1".to_owned()),
    ]
}

proptest! {
    /// The order of the rows does not matter, nor whether they were added to one accumulator or to two that were merged.
    #[test]
    fn rows_can_be_added_in_any_order_and_in_parts(
        first in prop::collection::vec(any_value(), 0..12),
        second in prop::collection::vec(any_value(), 0..12),
    ) {
        let first = documents(&first.iter().map(String::as_str).collect::<Vec<_>>());
        let second = documents(&second.iter().map(String::as_str).collect::<Vec<_>>());
        for function in FUNCTIONS {
            let mut memory = QueryMemory::default();
            let mut whole = Accumulator::new(&of(function));
            each(second.iter().chain(&first).rev(), |row| whole.add(row, &mut memory).unwrap());
            let (mut merged, mut part) = (Accumulator::new(&of(function)), Accumulator::new(&of(function)));
            each(&first, |row| merged.add(row, &mut memory).unwrap());
            each(&second, |row| part.add(row, &mut memory).unwrap());
            merged.merge(&part, &mut memory).unwrap();
            prop_assert_eq!(whole.result().unwrap(), merged.result().unwrap(), "{:?}", function);
        }
    }
}

#[test]
fn count_distinct_is_bounded() {
    let mut distinct = Accumulator::new(&of(AggregateFunction::CountDistinct));
    let mut memory = QueryMemory::default();
    let key = Key::Int(1);
    let error = (0..1_000_000)
        .map(|n| Document::from_json(&format!("{{\"x\": {n}}}")).unwrap())
        .find_map(|document| {
            distinct.add(RowRef { key: &key, seq: 1, time_ms: 1, document: &document }, &mut memory).err()
        })
        .unwrap();
    assert_eq!(error.reason(), Reason::QueryMemoryExceeded);
    assert!(error.message().starts_with("COUNT(DISTINCT x) needs more memory"), "{error}");
}
