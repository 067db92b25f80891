//! Tests of the types of columns.

use super::*;

fn type_of(cells: &[&str]) -> ColumnType {
    let mut types = FittingTypes::default();
    cells.iter().for_each(|cell| types.add(cell));
    types.narrowest()
}

#[test]
fn a_column_gets_the_narrowest_type_that_fits_all_its_cells() {
    for (cells, expected) in [
        (&["9.99", "10.00", "12.50", "7"][..], ColumnType::Decimal),
        (&["1", "-7", "18446744073709551615", ""], ColumnType::Int),
        (&["1", "1e3"], ColumnType::Float),
        (&["0.1", "0.12345678901234566"], ColumnType::Float),
        (&["true", "FALSE", "null"], ColumnType::Bool),
        (&["1", "true"], ColumnType::Text),
        // Codes, telephone numbers and numbers that no number could hold stay as they are.
        (&["007", "7"], ColumnType::Text),
        (&["01.5"], ColumnType::Text),
        (&["+1"], ColumnType::Text),
        (&[".097", "-.5", "1"], ColumnType::Decimal),
        (&[".5e3", "1e3"], ColumnType::Float),
        (&["1.", ".5"], ColumnType::Text),
        (&[".", "..5"], ColumnType::Text),
        (&["NaN", "1"], ColumnType::Text),
        (&["1e400"], ColumnType::Text),
        (&["18446744073709551616", "1"], ColumnType::Text),
        (&["{}"], ColumnType::Text),
        (&[" 1"], ColumnType::Text),
        (&["", ""], ColumnType::Text),
        (&[], ColumnType::Text),
    ] {
        assert_eq!(type_of(cells), expected, "{cells:?}");
    }
}

/// Numbers of 16 and 17 digits that are not those of a floating-point number are text, not other numbers.
#[test]
fn no_number_is_rounded_unless_the_user_asks_for_it() {
    for (cell, of) in [
        ("0.10000000000000001", ColumnType::Float),
        ("1234567890.1234567", ColumnType::Float),
        ("1.7976931348623157e308", ColumnType::Float),
        ("99999999999999.99", ColumnType::Text),
        ("0.12345678901234567", ColumnType::Text),
        ("123456789012345678.5", ColumnType::Text),
    ] {
        assert_eq!(type_of(&[cell]), of, "{cell}");
    }
    assert_eq!(type_of(&["9007199254740993", "1.5"]), ColumnType::Text);
    assert_eq!(type_of(&["9007199254740992", "1.5"]), ColumnType::Float);
    assert_eq!(ColumnType::Float.value("99999999999999.99").as_deref(), Some("99999999999999.98"));
    let mut sample = TypeSample::of_columns(1);
    sample.add(&["1e3".to_owned()], &[]);
    let rules = |named: Vec<NamedColumn>| CellRules {
        all_text: false,
        named,
        nulls: Vec::new(),
        delimiter: b',',
        keys: Vec::new(),
        makes_keys: true,
    };
    let load = |named: Vec<NamedColumn>, cell: &str| {
        rules(named).columns(&["n".to_owned()], &sample).unwrap().document(&[cell.to_owned()])
    };
    let error = load(Vec::new(), "99999999999999.99").unwrap_err();
    assert!(error.message().contains("--types n=float rounds them"), "{error}");
    assert_eq!(load(Vec::new(), "0.10000000000000001").unwrap(), r#"{"n":0.1}"#);
    let named = vec!["n=float".parse().unwrap()];
    assert_eq!(load(named, "99999999999999.99").unwrap(), r#"{"n":99999999999999.98}"#);
}

#[test]
fn cells_keep_their_value_in_every_type() {
    for (of, cell, json) in [
        (ColumnType::Int, "42", Some("42")),
        (ColumnType::Int, "4.0", None),
        (ColumnType::Int, "007", None),
        (ColumnType::Int, "18446744073709551616", None),
        (ColumnType::Decimal, "10.00", Some("10.00")),
        (ColumnType::Decimal, "-3", Some("-3.0")),
        (ColumnType::Decimal, ".50", Some("0.50")),
        (ColumnType::Decimal, "-.5", Some("-0.5")),
        (ColumnType::Decimal, ".", None),
        (ColumnType::Decimal, "1.5.2", None),
        (ColumnType::Decimal, "1234567890.123456", None),
        (ColumnType::Decimal, "-", None),
        (ColumnType::Float, "1e3", Some("1000.0")),
        (ColumnType::Float, "0.30000000000000004", Some("0.30000000000000004")),
        (ColumnType::Float, "x", None),
        (ColumnType::Bool, "True", Some("true")),
        (ColumnType::Bool, "yes", None),
        (ColumnType::Json, "[1,\"a\"]", Some("[1,\"a\"]")),
        (ColumnType::Json, "[1", None),
    ] {
        assert_eq!(of.value(cell).as_deref(), json, "{cell:?} as {of}");
    }
}

#[test]
fn a_header_that_cannot_be_loaded_is_refused() {
    let named = vec!["zip=text".parse().unwrap(), "n=int".parse().unwrap()];
    let keys = vec![KeyField { name: "id".into(), of: KeyType::Int }];
    let rules =
        CellRules { all_text: false, named, nulls: Vec::new(), delimiter: b',', keys, makes_keys: false };
    let columns = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        rules.columns(&names, &TypeSample::default())
    };
    for (header, expected) in [
        (&["name", "n", "zip"][..], "the header has no field \"id\""),
        (&["id;n"], "the cells seem to be separated by ';'"),
        (&["id", "id"], "field \"id\" appears twice in the header"),
        (&["id", ""], "field 2 of the header has no name"),
        (&["id", "n", "zipp"], "no field \"zip\", which --types names; did you mean \"zipp\"?"),
    ] {
        let error = columns(header).unwrap_err();
        assert!(error.message().contains(expected), "{header:?}: {error}");
    }
    let columns = columns(&["id", "n", "zip", "x"]).unwrap();
    assert_eq!(columns.description().unwrap(), "n int, zip text, x text");
    let document = |cells: [&str; 4]| columns.document(&cells.map(str::to_owned));
    assert_eq!(document(["7", "", "", "y"]).unwrap(), r#"{"id":7,"n":null,"zip":"","x":"y"}"#);
    assert_eq!(document(["07", "1", "012", ""]).unwrap(), r#"{"id":"07","n":1,"zip":"012","x":""}"#);
    let error = document(["7", "1.5", "", ""]).unwrap_err();
    assert!(error.message().contains("column \"n\" is int, and \"1.5\" is not; --types n=text"), "{error}");
    let error = columns.document(&["7".to_owned()]).unwrap_err();
    assert!(error.message().contains("the record has 1 cells, but the header has 4"), "{error}");
}

#[test]
fn a_file_may_lack_a_key_that_the_writer_makes() {
    let rules = |of: &[(&str, KeyType)], makes_keys| CellRules {
        all_text: false,
        named: Vec::new(),
        nulls: Vec::new(),
        delimiter: b',',
        keys: of.iter().map(|(name, of)| KeyField { name: (*name).into(), of: *of }).collect(),
        makes_keys,
    };
    let columns = |rules: &CellRules, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        rules.columns(&names, &TypeSample::default())
    };
    let made = rules(&[("id", KeyType::String)], true);
    let row = |columns: &Columns, cells: [&str; 2]| columns.document(&cells.map(str::to_owned)).unwrap();
    assert_eq!(row(&columns(&made, &["a", "b"]).unwrap(), ["x", ""]), r#"{"a":"x","b":""}"#);
    let with_key = columns(&made, &["id", "a"]).unwrap();
    assert_eq!(row(&with_key, ["7", "x"]), r#"{"id":"7","a":"x"}"#);
    assert_eq!(row(&with_key, ["", "x"]), r#"{"a":"x"}"#);
    assert_eq!(with_key.description().unwrap(), "a text");
    let error = columns(&rules(&[("id", KeyType::String)], false), &["a", "b"]).unwrap_err();
    assert!(error.message().contains("--create --pk FIELD --auto"), "{error}");
    let pair = rules(&[("day", KeyType::String), ("n", KeyType::Int)], false);
    let error = columns(&pair, &["day", "x"]).unwrap_err();
    assert!(
        error.message().contains("no field \"n\", which is a part of the table's primary key"),
        "{error}"
    );
    assert_eq!(row(&columns(&pair, &["n", "day"]).unwrap(), ["7", "8"]), r#"{"n":7,"day":"8"}"#);
}

#[test]
fn cells_that_stand_for_null_are_named_by_the_user() {
    let rules = |nulls: &[&str]| CellRules {
        all_text: false,
        named: Vec::new(),
        nulls: nulls.iter().map(|null| (*null).to_owned()).collect(),
        delimiter: b',',
        keys: vec![KeyField { name: "id".into(), of: KeyType::String }],
        makes_keys: false,
    };
    let columns = |rules: &CellRules, rows: &[[&str; 3]]| {
        let mut sample = TypeSample::of_columns(3);
        rows.iter().for_each(|row| sample.add(&row.map(str::to_owned), &rules.nulls));
        rules.columns(&["id", "n", "s"].map(str::to_owned), &sample).unwrap()
    };
    let rows = [["a", "1.5", "NA"], ["b", "NA", "x"], ["c", "2", "1"]];
    let same = columns(&rules(&[]), &[["a", "1", "?"], ["b", "?", "2"]]);
    assert_eq!(
        same.doubts(),
        [
            "columns \"n\" and \"s\" are text, because besides numbers they have cells with \"?\"; --null '?' makes them null"
        ]
    );
    let plain = columns(&rules(&[]), &rows);
    assert_eq!(plain.description().unwrap(), "n text, s text");
    let expected =
        "column \"n\" is text, because besides numbers it has cells with \"NA\"; --null 'NA' makes them null";
    let two = "column \"s\" is text, because besides numbers it has cells with \"NA\" and \"x\"; --null 'NA' --null 'x' makes them null";
    assert_eq!(plain.doubts(), [expected, two]);
    let named = columns(&rules(&["NA"]), &rows);
    assert_eq!(named.description().unwrap(), "n decimal, s text");
    let row = |cells: [&str; 3]| named.document(&cells.map(str::to_owned)).unwrap();
    assert_eq!(row(["NA", "NA", "NA"]), r#"{"id":"NA","n":null,"s":null}"#);
    assert_eq!(row(["b", "", ""]), r#"{"id":"b","n":null,"s":""}"#);
    // Words of many kinds, codes with digits and plain text are no doubt.
    for cells in [["a", "b", "c"], ["1", "007", "2"], ["x", "y", "x"], ["1", "18446744073709551616", "2"]] {
        let rows = cells.map(|cell| ["k", cell, ""]);
        assert!(columns(&rules(&[]), &rows).doubts().is_empty(), "{cells:?}");
    }
}

#[test]
fn named_columns_are_parsed() {
    let named: NamedColumn = "a=b=decimal".parse().unwrap();
    assert_eq!(named, NamedColumn { name: "a=b".into(), of: ColumnType::Decimal });
    assert!("price".parse::<NamedColumn>().unwrap_err().contains("COLUMN=TYPE"));
    assert!("price=money".parse::<NamedColumn>().unwrap_err().contains("use one of int, decimal"));
}
