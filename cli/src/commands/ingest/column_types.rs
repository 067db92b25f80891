//! The types of CSV columns: named by the user, or chosen from the first rows of the file.
//!
//! A column has one type. If each cell were typed by itself, `9.99` would be a number and `10.00`, which no number prints as, would be
//! text beside it, and `price > 10` would find neither. So the type is chosen once and then held: a cell that does not fit it is
//! a bad row, never text among numbers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use driftdb_common::error::{Error, Reason, Result, nearest};
use driftdb_common::format::key::{Key, KeyType};

use super::key_fields::KeyField;

/// The decimal digits that a 64-bit floating-point number always keeps.
const EXACT_DIGITS: usize = 15;
/// The decimal digits that tell any two such numbers apart. A longer number was not written by a program that computes with them. No
/// number is rounded unless the user asks for it.
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
    /// Cells that are null, besides empty ones.
    pub(crate) nulls: Vec<String>,
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
    nulls: Vec<String>,
    /// What is probably not as the user wants it.
    doubts: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CellKind {
    Key(KeyType),
    /// The key of a table whose keys the writer makes, for rows with an empty cell.
    MadeKey,
    Value(ColumnType),
    /// Numbers of a column that nobody named. None may be rounded.
    ExactFloat,
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
                (None, None) => match sample.columns.get(at).map(FittingTypes::narrowest) {
                    Some(ColumnType::Float) => CellKind::ExactFloat,
                    of => CellKind::Value(of.unwrap_or(ColumnType::Text)),
                },
            };
            (name.clone(), kind)
        };
        let columns: Vec<_> = header.iter().enumerate().map(kind).collect();
        let is_chosen = |name: &str| !self.all_text && self.named.iter().all(|named| named.name != name);
        let mut doubted: BTreeMap<&[String], Vec<&str>> = BTreeMap::new();
        for ((name, kind), types) in columns.iter().zip(&sample.columns) {
            if *kind == CellKind::Value(ColumnType::Text) && is_chosen(name) && types.is_doubtful() {
                doubted.entry(&types.words).or_default().push(name);
            }
        }
        let doubts = doubted.iter().map(|(words, names)| doubt(names, words)).collect();
        let nulls = self.nulls.clone();
        Ok(Columns { columns, nulls, doubts })
    }

    /// The type of a field of the primary key.
    fn key_type(&self, name: &str) -> Option<KeyType> {
        self.keys.iter().find(|key| key.name == name).map(|key| key.of)
    }

    fn check_header(&self, names: &[String]) -> Result<()> {
        for (i, name) in names.iter().enumerate() {
            if name.is_empty() {
                return Err(invalid(format!(
                    "field {} of the header has no name: give it one in the file; a program that numbers rows, such as pandas, leaves it empty",
                    i + 1
                )));
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
            json += &kind.value(name, cell, &self.nulls)?;
        }
        json.push('}');
        Ok(json)
    }

    /// What is probably not as the user wants it, for people.
    pub(crate) fn doubts(&self) -> &[String] {
        &self.doubts
    }

    /// The types, for people: `price decimal, note text`. `None` if there is none but the key.
    pub(crate) fn description(&self) -> Option<String> {
        let values = self.columns.iter().filter_map(|(name, kind)| match kind {
            CellKind::Key(_) | CellKind::MadeKey => None,
            CellKind::Value(of) => Some(format!("{name} {of}")),
            CellKind::ExactFloat => Some(format!("{name} {}", ColumnType::Float)),
        });
        Some(values.collect::<Vec<_>>().join(", ")).filter(|text| !text.is_empty())
    }
}

impl CellKind {
    /// A cell as JSON.
    fn value(self, name: &str, cell: &str, nulls: &[String]) -> Result<String> {
        let of = match self {
            CellKind::Value(_) | CellKind::ExactFloat if nulls.iter().any(|null| null == cell) => {
                return Ok("null".to_owned());
            }
            CellKind::Key(KeyType::Int) if Key::parse(cell, KeyType::Int).is_ok() => {
                return Ok(cell.to_owned());
            }
            CellKind::Key(_) | CellKind::MadeKey | CellKind::Value(ColumnType::Text) => return quoted(cell),
            CellKind::Value(of) => of,
            CellKind::ExactFloat => ColumnType::Float,
        };
        if is_null(cell) {
            return Ok("null".to_owned());
        }
        if self == CellKind::ExactFloat && of.value(cell).is_some() && !keeps_digits(cell) {
            return Err(invalid(format!(
                "column {name:?} is {of}, and {cell:?} has more digits than it keeps; --types {name}=text loads all its cells as text, --types {name}=float rounds them"
            )));
        }
        of.value(cell).ok_or_else(|| {
            invalid(format!(
                "column {name:?} is {of}, and {cell:?} is not; --types {name}=text loads all its cells as text, --null '{cell}' makes such cells null"
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
        let columns = std::iter::repeat_with(FittingTypes::default).take(count).collect();
        TypeSample { columns }
    }

    /// Takes a row into account, unless it has another number of cells than the header: such a row is not loaded.
    pub(crate) fn add(&mut self, row: &[String], nulls: &[String]) {
        if row.len() != self.columns.len() {
            return;
        }
        for (column, cell) in self.columns.iter_mut().zip(row) {
            if !nulls.contains(cell) {
                column.add(cell);
            }
        }
    }
}

/// The types that fit all cells of a column so far, narrow ones first. JSON is chosen only by the user: text in braces is common.
#[derive(Debug)]
pub(crate) struct FittingTypes {
    types: Vec<ColumnType>,
    is_empty: bool,
    /// Whether a cell was a number.
    has_number: bool,
    /// The different cells that were none: one more than [`FEW_WORDS`] of them at most.
    words: Vec<String>,
}

/// The most different texts, such as `NA` or `?`, in a column that is probably of numbers.
const FEW_WORDS: usize = 2;
/// The length of such a text, in bytes, at most.
const WORD_BYTES: usize = 16;

impl Default for FittingTypes {
    fn default() -> FittingTypes {
        let types = vec![ColumnType::Int, ColumnType::Decimal, ColumnType::Float, ColumnType::Bool];
        FittingTypes { types, is_empty: true, has_number: false, words: Vec::new() }
    }
}

impl FittingTypes {
    /// Takes a cell into account.
    pub(crate) fn add(&mut self, cell: &str) {
        if is_null(cell) {
            return;
        }
        self.is_empty = false;
        let is_number = ColumnType::Float.value(cell).is_some();
        self.has_number |= is_number;
        if !is_number && self.words.len() <= FEW_WORDS && !self.words.iter().any(|word| word == cell) {
            self.words.push(cell.to_owned());
        }
        self.types.retain(|of| match of {
            ColumnType::Float if !keeps_digits(cell) => false,
            of => of.value(cell).is_some(),
        });
    }

    /// Whether the column is text, and some of its cells may stand for a number that is not known.
    fn is_doubtful(&self) -> bool {
        let is_word =
            |word: &String| word.len() <= WORD_BYTES && !word.contains(|c: char| c.is_ascii_digit());
        let is_few = (1..=FEW_WORDS).contains(&self.words.len());
        self.has_number && is_few && self.words.iter().all(is_word)
    }

    /// The narrowest type that fits all cells; text if all are empty.
    pub(crate) fn narrowest(&self) -> ColumnType {
        let first = self.types.first().filter(|_| !self.is_empty);
        first.copied().unwrap_or(ColumnType::Text)
    }
}

/// The note about columns that are text because of a few words.
fn doubt(columns: &[&str], words: &[String]) -> String {
    let list = |names: Vec<String>, last: &str| match names.split_last() {
        Some((name, others)) if !others.is_empty() => format!("{} {last} {name}", others.join(", ")),
        _ => names.join(""),
    };
    let quoted = |name: &str| format!("{name:?}");
    let names = list(columns.iter().map(|name| quoted(name)).collect(), "and");
    let cells = list(words.iter().map(|word| quoted(word)).collect(), "and");
    let options = words.iter().map(|word| format!(" --null '{word}'")).collect::<String>();
    let (s, are, they, have) =
        if columns.len() == 1 { ("", "is", "it", "has") } else { ("s", "are", "they", "have") };
    format!(
        "column{s} {names} {are} text, because besides numbers {they} {have} cells with {cells};{options} makes them null"
    )
}

/// The number of digits between the first and the last that is not zero.
fn significant_digits(number: &str) -> usize {
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let fraction = if mantissa.contains('.') { digits.trim_end_matches('0') } else { &digits };
    fraction.trim_start_matches('0').len()
}

/// Whether the 64-bit floating-point number that is nearest to a number has the same digits, as far as they are written.
fn keeps_digits(number: &str) -> bool {
    let count = significant_digits(number);
    if count <= EXACT_DIGITS {
        return true;
    }
    let Some(nearest) = number.parse::<f64>().ok().filter(|_| count <= FLOAT_DIGITS) else { return false };
    let digits = |text: &str| {
        let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
        let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
        digits.trim_matches('0').to_owned()
    };
    digits(&format!("{nearest:.*e}", count - 1)) == digits(number)
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
mod tests;
