//! The types of CSV columns: named by the user, or chosen from the first rows of the file.
//!
//! A column has one type. If each cell were typed by itself, `9.99` would be a number and `10.00`, which no number prints as, would be
//! text beside it, and `price > 10` would find neither. So the type is chosen once and then held: a cell that does not fit it is
//! a bad row, never text among numbers.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use driftdb_common::error::{Error, Reason, Result, nearest};
use driftdb_common::format::key::{Key, KeyType};

use super::key_fields::KeyField;

/// The decimal digits that a 64-bit floating-point number always keeps.
const EXACT_DIGITS: usize = 15;
/// The decimal digits that tell any two such numbers apart. A longer number was not written by a program that computes with them,
/// and is not rounded unless the user asks for it.
const FLOAT_DIGITS: usize = 17;

/// What the cells of a column are converted to. An empty cell of a column that is not text is null.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ColumnType {
    /// The whole numbers from -2^63 to 2^64-1, without leading zeros.
    Int,
    /// Numbers with at most 15 significant digits and no exponent. They keep their value, but not their trailing zeros.
    Decimal,
    /// Numbers, rounded to the nearest that 64 bits can hold.
    Float,
    /// Text as it stands in the file.
    Text,
    /// `true` and `false`, also in capitals.
    Bool,
    /// Any JSON value.
    Json,
}

const NAMES: [(&str, ColumnType); 6] = [
    ("int", ColumnType::Int),
    ("decimal", ColumnType::Decimal),
    ("float", ColumnType::Float),
    ("text", ColumnType::Text),
    ("bool", ColumnType::Bool),
    ("json", ColumnType::Json),
];

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(_, of)| of == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// A column that the user has named, and its type: `COLUMN=TYPE`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct NamedColumn {
    name: String,
    of: ColumnType,
}

impl FromStr for NamedColumn {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<NamedColumn, String> {
        let (name, of) = text.rsplit_once('=').ok_or("expected COLUMN=TYPE, for example price=decimal")?;
        let known = NAMES.iter().find(|(name, _)| of.eq_ignore_ascii_case(name));
        let (_, of) = known.ok_or_else(|| {
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("unknown type {of:?}: use one of {}", names.join(", "))
        })?;
        Ok(NamedColumn { name: name.to_owned(), of: *of })
    }
}

/// How CSV cells are converted.
#[derive(Debug, Clone)]
pub(crate) struct CellRules {
    /// Whether columns that the user does not name are text.
    pub(crate) all_text: bool,
    /// The columns that the user names.
    pub(crate) named: Vec<NamedColumn>,
    /// The byte between two cells.
    pub(crate) delimiter: u8,
    /// The fields of the primary key.
    pub(crate) keys: Vec<KeyField>,
    /// Whether the writer makes the key of a row without one.
    pub(crate) makes_keys: bool,
}

/// The columns of a file, in the order of its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Columns {
    columns: Vec<(String, CellKind)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CellKind {
    Key(KeyType),
    /// The key of a table whose keys the writer makes, for rows with an empty cell.
    MadeKey,
    Value(ColumnType),
}

impl CellRules {
    /// Whether the types of all columns are known without looking at the rows.
    pub(crate) fn needs_no_sample(&self) -> bool {
        self.all_text
    }

    /// The columns of a file, from its header and a sample of its rows. Fails if the header is not one of this table, or lacks
    /// a column that the user names.
    pub(crate) fn columns(&self, header: &[String], sample: &TypeSample) -> Result<Columns> {
        self.check_header(header)?;
        for NamedColumn { name, .. } in &self.named {
            if self.key_type(name).is_some() {
                return Err(invalid(format!(
                    "--types names {name:?}, the primary key, whose type is the table's"
                )));
            }
            if !header.contains(name) {
                let near = nearest(name, header.iter().map(String::as_str));
                let near = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
                return Err(invalid(format!("the header has no field {name:?}, which --types names{near}")));
            }
        }
        let kind = |(at, name): (usize, &String)| {
            let named = self.named.iter().rfind(|named| named.name == *name);
            let kind = match (self.key_type(name), named) {
                (Some(_), _) if self.makes_keys => CellKind::MadeKey,
                (Some(of), _) => CellKind::Key(of),
                (None, Some(named)) => CellKind::Value(named.of),
                (None, None) if self.all_text => CellKind::Value(ColumnType::Text),
                (None, None) => {
                    CellKind::Value(sample.columns.get(at).map_or(ColumnType::Text, FittingTypes::narrowest))
                }
            };
            (name.clone(), kind)
        };
        Ok(Columns { columns: header.iter().enumerate().map(kind).collect() })
    }

    /// The type of a field of the primary key.
    fn key_type(&self, name: &str) -> Option<KeyType> {
        self.keys.iter().find(|key| key.name == name).map(|key| key.of)
    }

    fn check_header(&self, names: &[String]) -> Result<()> {
        for (i, name) in names.iter().enumerate() {
            if name.is_empty() {
                return Err(invalid(format!("field {} of the header has no name", i + 1)));
            }
            if names.iter().take(i).any(|other| other == name) {
                return Err(invalid(format!("field {name:?} appears twice in the header")));
            }
        }
        for KeyField { name: key, .. } in self.keys.iter().filter(|_| !self.makes_keys) {
            if names.iter().any(|name| name == key) {
                continue;
            }
            let is_all = self.keys.len() == 1;
            let what = if is_all { "the table's primary key" } else { "a part of the table's primary key" };
            let hint = match other_delimiter(names, key) {
                Some(other) => format!("; the cells seem to be separated by {other:?}: use --delimiter"),
                None if is_all => {
                    "; for a file without a key, create the table with --create --pk FIELD --auto".to_owned()
                }
                None => String::new(),
            };
            return Err(invalid(format!(
                "the header has no field {key:?}, which is {what}: no row could be loaded{hint}"
            )));
        }
        Ok(())
    }
}

impl Columns {
    /// A record as a JSON document. Fails if it has another number of cells than the header, or a cell does not fit its column.
    pub(crate) fn document(&self, cells: &[String]) -> Result<String> {
        if cells.len() != self.columns.len() {
            return Err(invalid(format!(
                "the record has {} cells, but the header has {}",
                cells.len(),
                self.columns.len()
            )));
        }
        let mut json = String::from("{");
        for ((name, kind), cell) in self.columns.iter().zip(cells) {
            if *kind == CellKind::MadeKey && cell.is_empty() {
                continue;
            }
            if json.len() > 1 {
                json.push(',');
            }
            json += &quoted(name)?;
            json.push(':');
            json += &kind.value(name, cell)?;
        }
        json.push('}');
        Ok(json)
    }

    /// The types, for people: `price decimal, note text`. `None` if there is none but the key.
    pub(crate) fn description(&self) -> Option<String> {
        let values = self.columns.iter().filter_map(|(name, kind)| match kind {
            CellKind::Key(_) | CellKind::MadeKey => None,
            CellKind::Value(of) => Some(format!("{name} {of}")),
        });
        Some(values.collect::<Vec<_>>().join(", ")).filter(|text| !text.is_empty())
    }
}

impl CellKind {
    /// A cell as JSON.
    fn value(self, name: &str, cell: &str) -> Result<String> {
        let of = match self {
            CellKind::Key(KeyType::Int) if Key::parse(cell, KeyType::Int).is_ok() => {
                return Ok(cell.to_owned());
            }
            CellKind::Key(_) | CellKind::MadeKey | CellKind::Value(ColumnType::Text) => return quoted(cell),
            CellKind::Value(of) => of,
        };
        if is_null(cell) {
            return Ok("null".to_owned());
        }
        of.value(cell).ok_or_else(|| {
            invalid(format!(
                "column {name:?} is {of}, and {cell:?} is not; --types {name}=text loads all its cells as text"
            ))
        })
    }
}

impl ColumnType {
    /// A cell that is not empty as JSON; `None` if it does not fit.
    fn value(self, cell: &str) -> Option<String> {
        match self {
            ColumnType::Int => is_int(cell).then(|| cell.to_owned()),
            ColumnType::Decimal => {
                let cell = with_whole(cell);
                is_decimal(&cell).then(|| with_fraction(&cell))
            }
            ColumnType::Float => float(&with_whole(cell)).map(|json| with_fraction(&json)),
            ColumnType::Text => None,
            ColumnType::Bool if cell.eq_ignore_ascii_case("true") => Some("true".to_owned()),
            ColumnType::Bool => cell.eq_ignore_ascii_case("false").then(|| "false".to_owned()),
            ColumnType::Json => {
                serde_json::from_str::<serde::de::IgnoredAny>(cell).is_ok().then(|| cell.to_owned())
            }
        }
    }
}

/// What the types of the columns can be, after some rows.
#[derive(Debug, Default)]
pub(crate) struct TypeSample {
    columns: Vec<FittingTypes>,
}

impl TypeSample {
    /// A sample without rows, of a file with `count` columns.
    pub(crate) fn of_columns(count: usize) -> TypeSample {
        TypeSample { columns: std::iter::repeat_with(FittingTypes::default).take(count).collect() }
    }

    /// Takes a row into account, unless it has another number of cells than the header: such a row is not loaded.
    pub(crate) fn add(&mut self, row: &[String]) {
        if row.len() != self.columns.len() {
            return;
        }
        self.columns.iter_mut().zip(row).for_each(|(column, cell)| column.add(cell));
    }
}

/// The types that fit all cells of a column so far, narrow ones first. JSON is chosen only by the user: text in braces is common.
#[derive(Debug)]
struct FittingTypes {
    types: Vec<ColumnType>,
    is_empty: bool,
}

impl Default for FittingTypes {
    fn default() -> FittingTypes {
        let types = vec![ColumnType::Int, ColumnType::Decimal, ColumnType::Float, ColumnType::Bool];
        FittingTypes { types, is_empty: true }
    }
}

impl FittingTypes {
    fn add(&mut self, cell: &str) {
        if is_null(cell) {
            return;
        }
        self.is_empty = false;
        self.types.retain(|of| match of {
            ColumnType::Float if significant_digits(cell) > FLOAT_DIGITS => false,
            of => of.value(cell).is_some(),
        });
    }

    /// The narrowest type that fits all cells; text if all are empty.
    fn narrowest(&self) -> ColumnType {
        let first = self.types.first().filter(|_| !self.is_empty);
        first.copied().unwrap_or(ColumnType::Text)
    }
}

/// The number of digits between the first and the last that is not zero.
fn significant_digits(number: &str) -> usize {
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let fraction = if mantissa.contains('.') { digits.trim_end_matches('0') } else { &digits };
    fraction.trim_start_matches('0').len()
}

fn is_null(cell: &str) -> bool {
    cell.is_empty() || cell == "null"
}

/// Whether a cell is a whole number exactly as it is printed again.
fn is_int(cell: &str) -> bool {
    let signed = cell.parse::<i64>().is_ok_and(|number| number.to_string() == cell);
    signed || cell.parse::<u64>().is_ok_and(|number| number.to_string() == cell)
}

/// Whether a cell is a number that keeps its value, digit by digit.
fn is_decimal(cell: &str) -> bool {
    let (whole, fraction) = cell.split_once('.').unwrap_or((cell, "0"));
    let whole = whole.strip_prefix('-').unwrap_or(whole);
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let has_leading_zero = whole.len() > 1 && whole.starts_with('0');
    is_digits(whole) && is_digits(fraction) && !has_leading_zero && significant_digits(cell) <= EXACT_DIGITS
}

/// A number as JSON; `None` for what is not one, has leading zeros or is not finite.
fn float(cell: &str) -> Option<String> {
    // The parser skips spaces.
    let is_bare = !cell.contains(|c: char| c.is_ascii_whitespace());
    let number = serde_json::from_str::<serde_json::Number>(cell).ok().filter(|_| is_bare)?;
    number.as_f64().filter(|number| number.is_finite()).and_then(|number| serde_json::to_string(&number).ok())
}

/// A number with a digit before its point, which JSON needs: `0.5` for `.5`.
fn with_whole(number: &str) -> Cow<'_, str> {
    match number.strip_prefix('-') {
        Some(rest) if rest.starts_with('.') => format!("-0{rest}").into(),
        None if number.starts_with('.') => format!("0{number}").into(),
        _ => number.into(),
    }
}

/// A number that is read as a floating-point number, so that all values of a column have one type.
fn with_fraction(number: &str) -> String {
    if number.contains(['.', 'e', 'E']) { number.to_owned() } else { format!("{number}.0") }
}

/// What separates the cells of a header that is a single name for this delimiter.
fn other_delimiter(names: &[String], key: &str) -> Option<char> {
    let [name] = names else { return None };
    [';', '\t', '|', ',']
        .into_iter()
        .find(|other| name.split(*other).any(|name| name.trim_matches('"') == key))
}

fn quoted(text: &str) -> Result<String> {
    serde_json::to_string(text)
        .map_err(|e| Error::new(Reason::Internal, format!("cannot encode text as JSON: {e}")))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Reason::DocumentInvalid, message)
}

#[cfg(test)]
mod tests {
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
            (&["0.1", "0.12345678901234567"], ColumnType::Float),
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
        let rules = CellRules { all_text: false, named, delimiter: b',', keys, makes_keys: false };
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
        assert!(
            error.message().contains("column \"n\" is int, and \"1.5\" is not; --types n=text"),
            "{error}"
        );
        let error = columns.document(&["7".to_owned()]).unwrap_err();
        assert!(error.message().contains("the record has 1 cells, but the header has 4"), "{error}");
    }

    #[test]
    fn a_file_may_lack_a_key_that_the_writer_makes() {
        let rules = |of: &[(&str, KeyType)], makes_keys| CellRules {
            all_text: false,
            named: Vec::new(),
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
    fn named_columns_are_parsed() {
        let named: NamedColumn = "a=b=decimal".parse().unwrap();
        assert_eq!(named, NamedColumn { name: "a=b".into(), of: ColumnType::Decimal });
        assert!("price".parse::<NamedColumn>().unwrap_err().contains("COLUMN=TYPE"));
        assert!("price=money".parse::<NamedColumn>().unwrap_err().contains("use one of int, decimal"));
    }
}
