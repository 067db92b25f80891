//! Tests of exported CSV: what `ingest` makes of it again, and what is refused.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::commands::ingest::tests::documents_of;

/// The CSV of rows, and the options of `ingest` for it.
fn exported(rows: &[Value], labels: &[&str]) -> CliResult<(String, Vec<String>)> {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    let mut found = ColumnsFound::new(vec!["id".to_owned()], labels);
    let fields = |row: &Value| JsonFields::parse(&row.to_string());
    for row in rows {
        found.add(&fields(row)?)?;
    }
    let mut sheet = Sheet::new(found.plan()?);
    let mut bytes = sheet.header()?;
    for row in rows {
        sheet.add(fields(row)?)?;
        bytes.extend(sheet.take_full()?.unwrap_or_default());
    }
    bytes.extend(sheet.take()?);
    Ok((String::from_utf8(bytes).unwrap(), sheet.ingest_options()))
}

/// The rows as they come back: with null for each field that a row lacks and another has.
pub(super) fn with_nulls(rows: &[Value]) -> Vec<Value> {
    let names: Vec<&String> = rows.iter().flat_map(|row| row.as_object().unwrap().keys()).collect();
    let whole = |row: &Value| {
        let field = |name: &&String| ((*name).clone(), row.get(*name).cloned().unwrap_or(Value::Null));
        Value::Object(names.iter().map(field).collect::<Map<_, _>>())
    };
    rows.iter().map(whole).collect()
}

fn read_back(text: &str, options: &[String]) -> Vec<Value> {
    let documents = documents_of(text.as_bytes(), options);
    documents.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

/// Values of one kind, and some of any: columns are mostly, but not always, of one type.
fn value(kind: usize) -> BoxedStrategy<Value> {
    let text = prop_oneof![
        Just(String::new()),
        Just("null".to_owned()),
        Just("\\N".to_owned()),
        Just("007".to_owned()),
        Just("7".to_owned()),
        Just("true".to_owned()),
        Just("1e3".to_owned()),
        Just(" x,\"y\"\n\r z".to_owned()),
        "[a-z\"',;\n\r\t é東{\\[]{0,8}",
    ];
    let one = match kind {
        0 => text.prop_map(Value::from).boxed(),
        1 => any::<i64>().prop_map(Value::from).boxed(),
        2 => any::<u64>().prop_map(Value::from).boxed(),
        3 => prop_oneof![(-1e6..1e6_f64), any::<f64>().prop_filter("finite", |n| n.is_finite())]
            .prop_map(Value::from)
            .boxed(),
        4 => any::<bool>().prop_map(Value::from).boxed(),
        5 => prop_oneof![Just(json!({"a": [1, "x", null]})), Just(json!([])), Just(json!({}))].boxed(),
        _ => (0..6_usize).prop_flat_map(value).boxed(),
    };
    prop_oneof![9 => one, 1 => Just(Value::Null)].boxed()
}

pub(super) fn rows() -> impl Strategy<Value = Vec<Value>> {
    let columns = proptest::collection::vec(0..7_usize, 1..5);
    columns.prop_flat_map(|kinds| {
        let fields: Vec<_> =
            kinds.into_iter().map(|kind| proptest::option::weighted(0.9, value(kind))).collect();
        proptest::collection::vec(fields, 1..12).prop_map(|rows| {
            let row = |(number, values): (usize, Vec<Option<Value>>)| {
                let mut row = Map::from_iter([("id".to_owned(), Value::from(format!("k{number}")))]);
                let names = ["a", "b c", "d=e", "f\"g"].into_iter();
                row.extend(names.zip(values).filter_map(|(name, value)| Some((name.to_owned(), value?))));
                Value::Object(row)
            };
            rows.into_iter().enumerate().map(row).collect()
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ingest_reads_the_same_rows_again(rows in rows()) {
        let (text, options) = exported(&rows, &[]).unwrap();
        prop_assert_eq!(read_back(&text, &options), with_nulls(&rows), "{:?}\n{}", options, text);
    }
}

#[test]
fn cells_are_plain_where_they_can_be() {
    let rows = [
        json!({"id": "a", "name": "x", "n": 1, "f": 2.0, "ok": true, "tags": ["x"], "mixed": 1}),
        json!({"id": "b", "name": "y, z", "n": -2, "f": 0.5, "mixed": "one", "zip": "007"}),
    ];
    let (text, options) = exported(&rows, &[]).unwrap();
    let expected = [
        "f,id,mixed,n,name,ok,tags,zip",
        "2.0,a,1,1,x,true,\"[\"\"x\"\"]\",",
        "0.5,b,\"\"\"one\"\"\",-2,\"y, z\",,,007",
        "",
    ];
    assert_eq!(text, expected.join("\n"));
    assert_eq!(options, ["--types", "mixed=json,tags=json", "--null", ""]);
}

#[test]
fn requested_columns_keep_their_order_and_exist_without_values() {
    let rows = [json!({"id": "a", "b": 1}), json!({"id": "b"})];
    let (text, options) = exported(&rows, &["b", "none", "id"]).unwrap();
    assert_eq!((text.as_str(), options.len()), ("b,none,id\n1,,a\n,,b\n", 2));
    let (text, options) = exported(&[], &[]).unwrap();
    assert_eq!((text.as_str(), options.len()), ("id\n", 0));
}

#[test]
fn null_has_a_text_that_no_value_has() {
    let column = |values: &[Value]| -> Vec<Value> {
        values.iter().enumerate().map(|(n, value)| json!({"id": n.to_string(), "a": value})).collect()
    };
    for (values, null) in [
        (vec![json!("x"), json!("")], None),
        (vec![json!("x"), Value::Null], Some("")),
        (vec![json!("x"), json!(""), Value::Null], Some("\\N")),
        (vec![json!("\\N"), json!(""), Value::Null], Some("NULL")),
        (vec![json!(1), Value::Null], None),
    ] {
        let rows = column(&values);
        let (text, options) = exported(&rows, &[]).unwrap();
        let expected = null.map(|null| vec!["--null".to_owned(), null.to_owned()]).unwrap_or_default();
        assert_eq!(options, expected, "{values:?}");
        assert_eq!(read_back(&text, &options), rows);
    }
    let all = ["", "\\N", "NULL", "<null>", "\u{2400}"].map(Value::from);
    let rows = column(&[all.as_slice(), &[Value::Null]].concat());
    assert!(exported(&rows, &[]).unwrap_err().text().contains("use -o jsonl"));
}

#[test]
fn what_csv_cannot_say_is_an_error() {
    for row in [json!({"id": "a", "": 1}), json!({"id": "a", "x,y": {}})] {
        let failure = exported(&[row], &[]).unwrap_err();
        assert!(failure.text().contains("-o jsonl"), "{}", failure.text());
    }
    assert!(exported(&[json!({"id": "a", "x,y": 1})], &[]).unwrap().1.is_empty());
    let wide: Map<String, Value> = (0..20_000).map(|n| (format!("field{n}"), Value::from(n))).collect();
    let failure = exported(&[Value::Object(wide)], &[]).unwrap_err();
    assert!(failure.text().contains("--columns"), "{}", failure.text());
}

#[test]
fn the_format_is_that_of_the_option_or_of_the_name() {
    let of = |line: &[&str], name: &str| {
        let words = ["driftctl"].iter().chain(line).chain(&["export", "t", "x"]);
        let matches = crate::args::command().try_get_matches_from(words).unwrap();
        let cli = crate::args::from_matches(&matches).unwrap();
        format(&cli.global, &GivenOptions::of(&matches), Path::new(name))
    };
    for (line, name, expected) in [
        (&[][..], "a.csv", ExportFormat::Csv),
        (&[], "a.CSV.zst", ExportFormat::Csv),
        (&[], "a.jsonl.gz", ExportFormat::Jsonl),
        (&["-o", "csv"], "-", ExportFormat::Csv),
        (&["-o", "jsonl"], "a.csv", ExportFormat::Jsonl),
    ] {
        assert_eq!(of(line, name).unwrap(), expected, "{line:?} {name}");
    }
    for (line, name) in [
        (&[][..], "-"),
        (&[], "a.txt"),
        (&["-o", "table"], "a.csv"),
        (&["-o", "parquet"], "a.parquet.gz"),
        (&[], "a.parquet.gz"),
    ] {
        assert_eq!(of(line, name).unwrap_err().code(), 2, "{line:?} {name}");
    }
    for (line, name) in [(&[][..], "a.parquet"), (&["-o", "parquet"], "-")] {
        match of(line, name) {
            Ok(format) => assert!(cfg!(feature = "parquet") && format == ExportFormat::Parquet),
            Err(failure) => {
                assert!(!cfg!(feature = "parquet") && failure.text().contains("--features parquet"))
            }
        }
    }
}

#[test]
fn a_command_for_the_shell_is_quoted() {
    for (word, quoted) in [("a=json,b", "a=json,b"), ("", "''"), ("\\N", "'\\N'"), ("it's", r"'it'\''s'")] {
        assert_eq!(shell_word(word), quoted);
    }
}
