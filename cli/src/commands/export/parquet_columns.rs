//! The columns of rows that are exported as Parquet, and the type of each: the narrowest one that keeps every value.
//!
//! A Parquet column has one type. A column of texts, truth values, whole numbers or fractions has theirs; whole numbers beside fractions become
//! fractions if that changes none of them. All others – lists, objects, numbers beside text, whole numbers that no type of 64 bits holds
//! together – are texts of JSON, which keep everything. Null and a missing field are both null.

use std::collections::HashMap;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;

use super::columns::{COLUMN_BYTES, ValueKind};
use crate::render::JsonFields;

/// Up to here, and down to its negative, each whole number is a 64-bit floating-point number.
const EXACT: i128 = 1 << 53;

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ParquetType {
    Int,
    /// Whole numbers from 0. Some do not fit into a signed number of 64 bits.
    Unsigned,
    Float,
    Bool,
    Text,
    Json,
}

/// The columns of the rows so far.
#[derive(Debug)]
pub(super) struct ParquetColumns {
    keys: Vec<String>,
    columns: Vec<(String, FoundValues)>,
    /// The position of each column.
    by_name: HashMap<String, usize>,
    header_bytes: usize,
}

/// What the values of a column are, null aside.
#[derive(Debug, Default)]
struct FoundValues {
    kinds: Vec<ValueKind>,
    /// The range of the whole numbers, and of 0.
    least: i128,
    greatest: i128,
}

impl ParquetColumns {
    /// No rows yet. `labels` are the columns that were requested, in their order.
    pub(super) fn new(keys: Vec<String>, labels: Vec<String>) -> ParquetColumns {
        let mut found =
            ParquetColumns { keys, columns: Vec::new(), by_name: HashMap::new(), header_bytes: 0 };
        for name in labels {
            found.position(&name);
        }
        found
    }

    /// The position of a column, which is added if it is new.
    fn position(&mut self, name: &str) -> usize {
        if let Some(at) = self.by_name.get(name) {
            return *at;
        }
        self.header_bytes += name.len() + COLUMN_BYTES;
        self.by_name.insert(name.to_owned(), self.columns.len());
        self.columns.push((name.to_owned(), FoundValues::default()));
        self.columns.len() - 1
    }

    /// Takes a row into account.
    pub(super) fn add(&mut self, row: &JsonFields) -> Result<()> {
        for (name, value) in &row.0 {
            let at = self.position(name);
            if let Some((_, values)) = self.columns.get_mut(at) {
                values.add(value.get());
            }
        }
        if self.header_bytes <= limits::EXPORT_HEADER_BYTES {
            return Ok(());
        }
        let message = format!(
            "the rows have {} fields, more than the columns of a file can be ({} MiB of names); name some with --columns, or use -o jsonl",
            self.columns.len(),
            limits::EXPORT_HEADER_BYTES >> 20
        );
        Err(Error::new(Reason::ArgumentInvalid, message))
    }

    /// The columns in their order. Without any, those of the primary key: the file still shows which table it is of.
    pub(super) fn types(mut self) -> Vec<(String, ParquetType)> {
        if self.columns.is_empty() {
            self.keys.clone().iter().for_each(|key| _ = self.position(key));
        }
        let keys = &self.keys;
        let typed = |(name, values): (String, FoundValues)| {
            let of = values.type_of(keys.contains(&name));
            (name, of)
        };
        self.columns.into_iter().map(typed).collect()
    }
}

impl FoundValues {
    fn add(&mut self, value: &str) {
        let Some(mut kind) = ValueKind::of(value) else { return };
        if kind == ValueKind::Int {
            match value.parse::<i128>() {
                Ok(number) => {
                    (self.least, self.greatest) = (self.least.min(number), self.greatest.max(number));
                }
                Err(_) => kind = ValueKind::Nested,
            }
        }
        if !self.kinds.contains(&kind) {
            self.kinds.push(kind);
        }
    }

    fn type_of(&self, is_key: bool) -> ParquetType {
        let range = (self.least, self.greatest);
        match self.kinds.as_slice() {
            [ValueKind::Text] => ParquetType::Text,
            [ValueKind::Bool] => ParquetType::Bool,
            [ValueKind::Int] if range.0 >= i64::MIN.into() && range.1 <= i64::MAX.into() => ParquetType::Int,
            [ValueKind::Int] if range.0 >= 0 && range.1 <= u64::MAX.into() => ParquetType::Unsigned,
            [ValueKind::Float] => ParquetType::Float,
            [ValueKind::Int, ValueKind::Float] | [ValueKind::Float, ValueKind::Int]
                if range.0 >= -EXACT && range.1 <= EXACT =>
            {
                ParquetType::Float
            }
            // Of a table without rows nothing is known, and nothing is needed.
            [] if is_key => ParquetType::Text,
            _ => ParquetType::Json,
        }
    }
}
