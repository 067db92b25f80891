//! Tests of exported Parquet: the file, read back by the crate's own reader and by pyarrow, has the rows.

use std::io::Write;
use std::process::Command;

use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::Field;
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::parquet_columns::ParquetColumns;
use super::super::tests::{rows, with_nulls};
use super::*;

/// The file of rows, with row groups of about this size.
fn exported(rows: &[Value], labels: &[&str], group_bytes: usize) -> Vec<u8> {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    let mut found = ParquetColumns::new(vec!["id".to_owned()], labels);
    let fields: Vec<_> = rows
        .iter()
        .map(|row| JsonFields::parse(&row.to_string()).unwrap_or_else(|_| panic!("{row}")))
        .collect();
    for row in &fields {
        found.add(row).unwrap();
    }
    let facts = vec![("driftdb.seq".to_owned(), "7".to_owned())];
    let mut file = ParquetFile::new(found.types(), group_bytes, facts).unwrap();
    let mut bytes = Vec::new();
    for row in &fields {
        file.add(row).unwrap();
        bytes.extend(file.take_full().unwrap().unwrap_or_default());
    }
    bytes.extend(file.finish().unwrap());
    bytes
}

fn reader(bytes: Vec<u8>) -> SerializedFileReader<Bytes> {
    SerializedFileReader::new(Bytes::from(bytes)).unwrap()
}

/// The names and types of the columns.
fn columns(reader: &SerializedFileReader<Bytes>) -> Vec<(String, PhysicalType, Option<LogicalType>)> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let column = |of: &::parquet::schema::types::ColumnDescPtr| {
        (of.name().to_owned(), of.physical_type(), of.logical_type_ref().cloned())
    };
    schema.columns().iter().map(column).collect()
}

fn read_back(bytes: Vec<u8>) -> Vec<Value> {
    let reader = reader(bytes);
    let logical: Vec<_> = columns(&reader).into_iter().map(|(.., logical)| logical).collect();
    let value = |(field, logical): (&Field, &Option<LogicalType>)| match field {
        Field::Null => Value::Null,
        Field::Bool(value) => json!(value),
        Field::Long(value) => json!(value),
        Field::ULong(value) => json!(value),
        Field::Double(value) => json!(value),
        Field::Str(text) if *logical == Some(LogicalType::Json) => serde_json::from_str(text).unwrap(),
        Field::Str(text) => json!(text),
        other => panic!("{other:?}"),
    };
    let rows = reader.get_row_iter(None).unwrap().map(|row| {
        let row = row.unwrap();
        let cells = row.get_column_iter().zip(&logical);
        let cells = cells.map(|((name, field), logical)| (name.clone(), value((field, logical))));
        Value::Object(cells.collect::<Map<_, _>>())
    });
    rows.collect()
}

/// Whether rows are equal; a whole number can have become the fraction of the same value.
fn same(left: &[Value], right: &[Value]) -> bool {
    let same_cell = |(name, left): (&String, &Value), right: &Value| match (left, &right[name]) {
        (Value::Number(left), Value::Number(right)) if left.is_f64() != right.is_f64() => {
            left.as_f64() == right.as_f64()
        }
        (left, right) => left == right,
    };
    let same_row = |left: &Value, right: &Value| {
        let cells = left.as_object().unwrap();
        cells.len() == right.as_object().unwrap().len() && cells.iter().all(|cell| same_cell(cell, right))
    };
    left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same_row(left, right))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_file_has_the_rows(rows in rows(), group_bytes in 1..2000_usize) {
        let read = read_back(exported(&rows, &[], group_bytes));
        prop_assert!(same(&read, &with_nulls(&rows)), "{:?}\n{:?}", read, rows);
    }
}

#[test]
fn a_column_has_the_type_of_its_values() {
    let rows = [
        json!({"id": "a", "n": -1, "u": u64::MAX, "f": 1.5, "some": 1, "wide": 1, "ok": true, "any": "x", "l": [1]}),
        json!({"id": "b", "n": 2, "u": 0, "f": 2.0, "some": 0.5, "wide": -1, "any": 1}),
        json!({"id": "c", "wide": u64::MAX, "none": null}),
    ];
    let json = Some(LogicalType::Json);
    let expected = [
        ("none", PhysicalType::BYTE_ARRAY, json.clone()),
        ("any", PhysicalType::BYTE_ARRAY, json.clone()),
        ("f", PhysicalType::DOUBLE, None),
        ("id", PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
        ("l", PhysicalType::BYTE_ARRAY, json.clone()),
        ("n", PhysicalType::INT64, None),
        ("ok", PhysicalType::BOOLEAN, None),
        ("some", PhysicalType::DOUBLE, None),
        ("u", PhysicalType::INT64, Some(LogicalType::integer(64, false))),
        ("wide", PhysicalType::BYTE_ARRAY, json),
    ];
    let file = exported(&rows, &["none"], 1 << 20);
    assert_eq!(
        columns(&reader(file.clone())),
        expected.map(|(name, physical, of)| (name.to_owned(), physical, of))
    );
    assert!(same(&read_back(file), &with_nulls(&rows)));
}

#[test]
fn no_rows_are_a_file_with_the_key_and_a_full_group_ends() {
    let file = reader(exported(&[], &[], 1 << 20));
    assert_eq!((columns(&file).len(), file.metadata().file_metadata().num_rows()), (1, 0));
    let rows: Vec<Value> =
        (0..100).map(|n| json!({"id": format!("k{n}"), "text": "x".repeat(100)})).collect();
    let file = reader(exported(&rows, &[], 10_000));
    let metadata = file.metadata();
    assert!((2..20).contains(&metadata.num_row_groups()), "{}", metadata.num_row_groups());
    let facts = metadata.file_metadata().key_value_metadata().unwrap();
    assert!(facts.iter().any(|fact| fact.key == "driftdb.seq" && fact.value.as_deref() == Some("7")));
}

#[test]
fn pyarrow_reads_the_rows() {
    let python = |script: &str| Command::new("python3").args(["-c", script]).output();
    if !python("import pyarrow.parquet").is_ok_and(|output| output.status.success()) {
        println!("skipped: python3 has no pyarrow");
        return;
    }
    let rows = [
        json!({"id": "a", "n": 1, "u": u64::MAX, "f": 0.5, "ok": true, "text": "é, \"x\"\n"}),
        json!({"id": "b", "n": null, "text": ""}),
    ];
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&exported(&rows, &[], 1)).unwrap();
    let path = file.path().to_str().unwrap();
    let script =
        format!("import json, pyarrow.parquet as p; print(json.dumps(p.read_table({path:?}).to_pylist()))");
    let output = python(&script).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read, with_nulls(&rows));
}
