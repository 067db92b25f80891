//! The columns of exported rows, and the type of each: the narrowest one that keeps every value.
//!
//! `ingest` gives a column one type. A column whose values have one type that a plain cell can show gets plain cells. All others – lists,
//! objects, numbers beside text, whole numbers beside fractions – get cells of JSON, which keep everything. Null and a missing field are an
//! empty cell; in a column of text, which has empty texts of its own, null needs a text that no value has.

use std::collections::HashMap;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use serde_json::value::RawValue;

use crate::commands::ingest::{ColumnType, FittingTypes};
use crate::render::JsonFields;

/// What a name adds to the bytes of the header: about what is kept of a column.
pub(super) const COLUMN_BYTES: usize = 100;
/// The texts that can stand for null in columns of text, the best first.
const NULLS: [&str; 5] = ["", "\\N", "NULL", "<null>", "\u{2400}"];

/// The columns of the rows so far.
#[derive(Debug)]
pub(super) struct ColumnsFound {
    keys: Vec<String>,
    columns: Vec<FoundColumn>,
    /// The position of each column.
    by_name: HashMap<String, usize>,
    header_bytes: usize,
    /// The number of rows so far.
    rows: u64,
}

/// What a column has so far.
#[derive(Debug, Default)]
struct FoundColumn {
    name: String,
    /// The rows that have the field.
    count: u64,
    /// What its values are, null aside.
    kinds: Vec<ValueKind>,
    has_null: bool,
    /// Which of [`NULLS`] are values.
    has_text: [bool; NULLS.len()],
    fitting: FittingTypes,
}

/// What a JSON value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueKind {
    Text,
    Int,
    Float,
    Bool,
    Nested,
}

impl ValueKind {
    /// `None` for null.
    pub(super) fn of(value: &str) -> Option<ValueKind> {
        Some(match value.as_bytes().first() {
            Some(b'"') => ValueKind::Text,
            Some(b'{' | b'[') => ValueKind::Nested,
            Some(b't' | b'f') => ValueKind::Bool,
            Some(b'n') | None => return None,
            Some(_) if value.contains(['.', 'e', 'E']) => ValueKind::Float,
            Some(_) => ValueKind::Int,
        })
    }
}

/// How each column is written.
#[derive(Debug)]
pub(super) struct ColumnPlan {
    /// The columns in their order.
    pub(super) columns: Vec<PlannedColumn>,
    /// The text of null in columns of text, if any needs one.
    pub(super) null: Option<&'static str>,
}

/// How one column is written.
#[derive(Debug)]
pub(super) struct PlannedColumn {
    pub(super) name: String,
    pub(super) of: ColumnType,
    /// Whether it is a field of the primary key, whose type is the table's.
    pub(super) is_key: bool,
    /// Whether `ingest` chooses the same type by itself if it sees the whole file.
    pub(super) is_found: bool,
}

impl ColumnsFound {
    /// No rows yet. `labels` are the columns that were requested, in their order.
    pub(super) fn new(keys: Vec<String>, labels: Vec<String>) -> ColumnsFound {
        let mut found =
            ColumnsFound { keys, columns: Vec::new(), by_name: HashMap::new(), header_bytes: 0, rows: 0 };
        for name in labels {
            found.add_column(name);
        }
        found
    }

    fn add_column(&mut self, name: String) -> usize {
        let at = self.columns.len();
        self.header_bytes += name.len() + COLUMN_BYTES;
        self.by_name.insert(name.clone(), at);
        self.columns.push(FoundColumn { name, ..FoundColumn::default() });
        at
    }

    /// Takes a row into account.
    pub(super) fn add(&mut self, row: &JsonFields) -> Result<()> {
        self.rows += 1;
        for (name, value) in &row.0 {
            let at = match self.by_name.get(name) {
                Some(at) => *at,
                None => self.add_column(name.clone()),
            };
            if let Some(column) = self.columns.get_mut(at) {
                column.add(value)?;
            }
        }
        if self.header_bytes <= limits::EXPORT_HEADER_BYTES {
            return Ok(());
        }
        Err(invalid(format!(
            "the rows have {} fields, more than the header of a CSV file can have ({} MiB of names); name some with --columns, or use -o jsonl",
            self.columns.len(),
            limits::EXPORT_HEADER_BYTES >> 20
        )))
    }

    /// How the columns are written.
    pub(super) fn plan(mut self) -> Result<ColumnPlan> {
        if self.columns.is_empty() {
            // Without rows, the file still shows which table it is of.
            self.keys.clone().into_iter().for_each(|key| _ = self.add_column(key));
        }
        let (rows, keys) = (self.rows, &self.keys);
        let planned = |column: FoundColumn| {
            check_name(&column.name)?;
            let is_key = keys.contains(&column.name);
            let of = column.type_of(is_key);
            let is_text = of == ColumnType::Text && !is_key;
            let lacks = is_text && (column.has_null || column.count < rows);
            let texts = if is_text { column.has_text } else { [false; NULLS.len()] };
            let is_found = is_key || column.finds(of);
            if !is_found && column.name.contains(',') {
                return Err(invalid(format!(
                    "field {:?} cannot be a column of CSV that is loaded again: ingest must be told its type, and a comma separates names on its command line; leave it out with --columns, or use -o jsonl",
                    column.name
                )));
            }
            Ok((PlannedColumn { name: column.name, of, is_key, is_found }, lacks, texts))
        };
        let planned = self.columns.into_iter().map(planned).collect::<Result<Vec<_>>>()?;
        let null = match planned.iter().any(|(_, lacks, _)| *lacks) {
            true => Some(null_text(planned.iter().map(|(_, _, texts)| texts))?),
            false => None,
        };
        Ok(ColumnPlan { columns: planned.into_iter().map(|(column, ..)| column).collect(), null })
    }
}

/// The first text for null that no column of text has.
fn null_text<'a>(texts: impl Iterator<Item = &'a [bool; NULLS.len()]> + Clone) -> Result<&'static str> {
    let mut free = NULLS
        .iter()
        .enumerate()
        .filter(|(at, _)| !texts.clone().any(|texts| texts.get(*at).copied().unwrap_or_default()));
    free.next().map(|(_, text)| *text).ok_or_else(|| {
        invalid(format!(
            "columns of text have null, and each text that could stand for it ({}) is a value, too; use -o jsonl",
            NULLS.map(|text| format!("{text:?}")).join(", ")
        ))
    })
}

/// Fails if `ingest` would not find a name again.
fn check_name(name: &str) -> Result<()> {
    let why = match name {
        "" => "has no name",
        name if name.starts_with('\u{feff}') => "begins with a byte order mark",
        _ => return Ok(()),
    };
    Err(invalid(format!(
        "field {name:?} of the rows {why}, which no header of a CSV file can have; use -o jsonl"
    )))
}

impl FoundColumn {
    fn add(&mut self, value: &RawValue) -> Result<()> {
        self.count += 1;
        let Some(kind) = ValueKind::of(value.get()) else {
            self.has_null = true;
            return Ok(());
        };
        if !self.kinds.contains(&kind) {
            self.kinds.push(kind);
        }
        match kind {
            ValueKind::Nested => {}
            ValueKind::Text => {
                let text = text_of(value)?;
                let own = self.has_text.iter_mut().zip(NULLS);
                own.for_each(|(has, null)| *has |= text == null);
                self.fitting.add(&text);
            }
            _ => self.fitting.add(value.get()),
        }
        Ok(())
    }

    /// The type that keeps every value.
    fn type_of(&self, is_key: bool) -> ColumnType {
        match self.kinds.as_slice() {
            [ValueKind::Text] => ColumnType::Text,
            [ValueKind::Int] => ColumnType::Int,
            [ValueKind::Float] => ColumnType::Float,
            [ValueKind::Bool] => ColumnType::Bool,
            // Keys are texts or whole numbers. Of a table without rows nothing is known, and nothing is needed.
            _ if is_key => ColumnType::Text,
            _ => ColumnType::Json,
        }
    }

    /// Whether `ingest` finds a type by itself, if it sees all cells.
    fn finds(&self, of: ColumnType) -> bool {
        match (of, self.fitting.narrowest()) {
            // Both keep the value of every number that JSON has written.
            (ColumnType::Float, ColumnType::Decimal) => true,
            (of, narrowest) => of == narrowest,
        }
    }
}

/// The text of a JSON string.
pub(super) fn text_of(value: &RawValue) -> Result<String> {
    serde_json::from_str(value.get())
        .map_err(|e| Error::new(Reason::Internal, format!("a row has a text that is not JSON: {e}")))
}

fn invalid(message: String) -> Error {
    Error::new(Reason::ArgumentInvalid, message)
}
