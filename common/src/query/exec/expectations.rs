//! What a statement expects of the rows, so that a mistake is told and not answered with silence.
//!
//! A field that no row has, and a comparison with a kind of value that a field never has, are legal: rows of one table may
//! differ. But mostly they are mistakes: a typing error, or a number in quotes. So each row that is read is compared
//! with what the statement expects of its fields, until the expectation is met, which for a correct statement is soon. What is
//! left at the end becomes a note. A note says only what is true of the rows that were looked at; a few more are looked at if
//! the statement read few, and fields of indexes are known anyway.
//!
//! A note is worth no more than that look: no read of a file, no memory, and never an error of a statement that has its answer.

use std::collections::HashMap;

use crate::error::{Reason, Result, counted, nearest};
use crate::format::index_columns::IndexColumns;
use crate::format::key::KeyType;
use crate::format::msgpack::{self, MsgpackItem};
use crate::format::path::Path;
use crate::format::sortkey::ScalarKind;
use crate::format::value::Value;
use crate::query::ast::{Column, Comparison, Condition};
use crate::query::exec::selection::Selection;
use crate::query::predicate::RowRef;
use crate::table::schema::Schema;
use crate::table::value_range::{IndexRanges, ValueRange};
use crate::table::view::View;
use crate::work;

/// The number of rows that are looked at before a note, also if the statement reads fewer.
const ROWS_LOOKED_AT: u64 = 100;
/// The bytes of documents that are looked at for a note besides those that the statement reads.
const BYTES_LOOKED_AT: usize = 256 << 10;
/// The names of fields that are remembered for suggestions.
const NAMES: usize = 256;

/// A set of kinds of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Kinds(u8);

impl Kinds {
    const BOOLEAN: Kinds = Kinds(1);
    const NUMBER: Kinds = Kinds(2);
    const TEXT: Kinds = Kinds(4);
    const ARRAY: Kinds = Kinds(8);
    const OBJECT: Kinds = Kinds(16);
    const NAMES: [(Kinds, &'static str); 5] = [
        (Kinds::BOOLEAN, "booleans"),
        (Kinds::NUMBER, "numbers"),
        (Kinds::TEXT, "text"),
        (Kinds::ARRAY, "arrays"),
        (Kinds::OBJECT, "objects"),
    ];

    fn with(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn meets(self, other: Kinds) -> bool {
        self.0 & other.0 != 0
    }

    fn of_value(value: &Value) -> Kinds {
        match value {
            Value::Null => Kinds::default(),
            Value::Bool(_) => Kinds::BOOLEAN,
            Value::Int(_) | Value::Float(_) => Kinds::NUMBER,
            Value::Str(_) => Kinds::TEXT,
            Value::Array(_) => Kinds::ARRAY,
            Value::Object(_) => Kinds::OBJECT,
        }
    }

    fn of_encoded(encoded: &[u8]) -> Result<Kinds> {
        Ok(match msgpack::first(encoded)? {
            MsgpackItem::Nil => Kinds::default(),
            MsgpackItem::Bool(_) => Kinds::BOOLEAN,
            MsgpackItem::Int(_) | MsgpackItem::Float(_) => Kinds::NUMBER,
            MsgpackItem::Str(_) => Kinds::TEXT,
            MsgpackItem::Array(_) => Kinds::ARRAY,
            MsgpackItem::Map(_) => Kinds::OBJECT,
        })
    }

    /// The kinds, for people: `text and numbers`.
    fn names(self, last: &str) -> String {
        let names: Vec<&str> =
            Kinds::NAMES.iter().filter(|(kind, _)| kind.meets(self)).map(|(_, name)| *name).collect();
        match names.as_slice() {
            [names @ .., end] if !names.is_empty() => format!("{} {last} {end}", names.join(", ")),
            _ => names.concat(),
        }
    }

    /// The ranges of an index that have the values of these kinds.
    fn ranges(self) -> Vec<ValueRange> {
        let scalars = [
            (Kinds::BOOLEAN, ScalarKind::Bool),
            (Kinds::NUMBER, ScalarKind::Number),
            (Kinds::TEXT, ScalarKind::Text),
        ];
        let wanted = scalars.iter().filter(|(kind, _)| kind.meets(self));
        wanted.map(|(_, scalar)| ValueRange { low: scalar.below(), high: scalar.above() }).collect()
    }
}

/// What a statement expects of one field.
#[derive(Debug, Clone)]
struct Expectation {
    path: Path,
    /// One of these kinds of values; empty if any will do.
    wanted: Kinds,
    /// Whether the statement asks whether the field exists.
    may_be_missing: bool,
    is_present: bool,
    found: Kinds,
}

/// What a statement expects of the rows and has not seen yet.
#[derive(Debug, Clone, Default)]
pub struct Expectations {
    pending: Vec<Expectation>,
    /// Notes that no row can change.
    certain: Vec<String>,
    rows: u64,
    /// The fields of the first row.
    names: Vec<String>,
}

/// The expectations while a statement is read.
#[derive(Default)]
struct StatementReader<'a> {
    pending: Vec<Expectation>,
    /// Where the expectation of a path is.
    places: HashMap<&'a Path, usize>,
    /// The field of a key that is not composite.
    primary_key: Option<&'a str>,
    /// The kinds of values that keys are compared with.
    of_key: Kinds,
}

impl<'a> StatementReader<'a> {
    fn entry(&mut self, path: &'a Path) -> Result<Option<&mut Expectation>> {
        work::step(4)?;
        let at = *self.places.entry(path).or_insert_with(|| {
            self.pending.push(Expectation {
                path: path.clone(),
                wanted: Kinds::default(),
                may_be_missing: false,
                is_present: false,
                found: Kinds::default(),
            });
            self.pending.len() - 1
        });
        Ok(self.pending.get_mut(at))
    }

    /// Conditions are nested within the limit of the parser, which bounds the recursion.
    fn read(&mut self, condition: &'a Condition) -> Result<()> {
        let text = Kinds::TEXT;
        let (column, wanted) = match condition {
            Condition::And(parts) | Condition::Or(parts) => {
                return parts.iter().try_for_each(|part| self.read(part));
            }
            Condition::Not(inner) => return self.read(inner),
            Condition::Compare { op: Comparison::NotEqual, column, .. }
            | Condition::In { column, negated: true, .. }
            | Condition::Between { column, negated: true, .. }
            | Condition::Like { column, negated: true, .. }
            | Condition::ILike { column, negated: true, .. }
            | Condition::Contains { column, negated: true, .. } => (column, Kinds::default()),
            Condition::Compare { column, value, .. } => (column, Kinds::of_value(value)),
            Condition::In { column, values, .. } => {
                (column, values.values().iter().map(Kinds::of_value).fold(Kinds::default(), Kinds::with))
            }
            Condition::Between { column, low, high, .. } => {
                (column, Kinds::of_value(low).with(Kinds::of_value(high)))
            }
            Condition::Like { column, .. } | Condition::ILike { column, .. } => (column, text),
            Condition::Contains { column, .. } | Condition::Any { column, .. } => (column, Kinds::ARRAY),
            // For `IS NULL` a missing field is no null, so the field is expected as elsewhere.
            Condition::IsNull { column, .. } => (column, Kinds::default()),
            Condition::IsMissing { column, .. } => {
                if let Column::Path(path) = column
                    && let Some(entry) = self.entry(path)?
                {
                    entry.may_be_missing = true;
                }
                return Ok(());
            }
        };
        match column {
            Column::Key => self.of_key = self.of_key.with(wanted),
            Column::Path(path) => {
                if self.primary_key.is_some_and(|field| path.names() == [field]) {
                    self.of_key = self.of_key.with(wanted);
                }
                if let Some(entry) = self.entry(path)? {
                    entry.wanted = entry.wanted.with(wanted);
                }
            }
            Column::Seq | Column::Time | Column::Aggregate(_) => {}
        }
        Ok(())
    }
}

/// The note about a comparison of keys that never matches.
fn key_note(of_key: Kinds, schema: &Schema) -> Option<String> {
    let key_kind = match schema.key_type {
        KeyType::Int => Kinds::NUMBER,
        KeyType::String => Kinds::TEXT,
        KeyType::Composite(_) => Kinds::ARRAY,
    };
    if of_key.is_empty() || of_key.meets(key_kind) {
        return None;
    }
    let advice = match schema.key_type {
        KeyType::Int => "write the key as a number, without quotes",
        KeyType::String => "write the key in quotes",
        KeyType::Composite(_) => "write the key as an array, or compare its fields",
    };
    Some(format!(
        "the keys of \"{}\" are of type {}, and comparing them with {} never matches; {advice}",
        schema.table,
        schema.key_type,
        of_key.names("or")
    ))
}

impl Expectations {
    /// The expectations of the parts of a selection from a table.
    ///
    /// # Errors
    /// Only that the present work was stopped.
    pub fn of<'a>(parts: impl Iterator<Item = &'a Selection>, schema: &'a Schema) -> Result<Expectations> {
        let is_composite = matches!(schema.key_type, KeyType::Composite(_));
        let primary_key = Some(schema.primary_key.as_str()).filter(|_| !is_composite);
        let mut reader = StatementReader { primary_key, ..StatementReader::default() };
        let mut reads_deleted = false;
        for selection in parts {
            reads_deleted |= selection.deleted;
            let items = selection.items.iter().map(|item| &item.column);
            let ordered = selection.order_by.iter().map(|order| &order.column);
            for column in items.chain(ordered).chain(&selection.group_by) {
                if let Some(Column::Path(path)) = column.of_row() {
                    reader.entry(path)?;
                }
            }
            if let Some(condition) = &selection.condition {
                reader.read(condition)?;
            }
        }
        let StatementReader { mut pending, of_key, .. } = reader;
        // Each row has it, and the writer checks its type.
        pending.retain(|expectation| primary_key.is_none_or(|field| expectation.path.names() != [field]));
        if reads_deleted {
            // Live rows, which a note would be about, say nothing of deleted ones.
            pending.clear();
        }
        let certain = key_note(of_key, schema).into_iter().collect();
        Ok(Expectations { pending, certain, ..Expectations::default() })
    }

    /// Whether every row meets them, so that rows need not be seen.
    pub fn are_met(&self) -> bool {
        self.pending.is_empty()
    }

    /// Compares a row with the expectations.
    ///
    /// # Errors
    /// `CORRUPT` if the document is damaged.
    pub fn see(&mut self, row: RowRef<'_>) -> Result<()> {
        work::step(u32::try_from(self.pending.len()).unwrap_or(u32::MAX))?;
        if self.rows == 0 {
            let fields = msgpack::fields(row.document.msgpack())?;
            self.names = fields.into_iter().take(NAMES).map(|(name, _)| name.to_owned()).collect();
        }
        self.rows += 1;
        let mut failed = None;
        self.pending.retain_mut(|expectation| match row.document.get(&expectation.path) {
            Ok(None) => true,
            Ok(Some(value)) => {
                expectation.is_present = true;
                match Kinds::of_encoded(value) {
                    Ok(kinds) => expectation.found = expectation.found.with(kinds),
                    Err(error) => failed = Some(error),
                }
                !(expectation.wanted.is_empty() || expectation.found.meets(expectation.wanted))
            }
            Err(error) => {
                failed = Some(error);
                true
            }
        });
        failed.map_or(Ok(()), Err)
    }

    /// The notes about a statement that has read its rows from a view.
    ///
    /// # Errors
    /// Only that the present work was stopped.
    pub fn notes(&mut self, view: &View) -> Result<Vec<String>> {
        let is_enough = self.pending.is_empty() || self.look(view)?;
        let mut notes = std::mem::take(&mut self.certain);
        if is_enough && self.rows > 0 {
            notes.extend(self.pending.iter().filter_map(|expectation| self.note(expectation)));
        }
        Ok(notes)
    }

    /// Looks at what else the table has. Returns whether that was enough for notes. What is missing or damaged there is no fault of
    /// the answer, and rows that are not in memory are not worth a read.
    fn look(&mut self, view: &View) -> Result<bool> {
        let known = match work::is_quick() {
            true => work::quick(|| self.forget_known_fields(view)),
            // A few blocks of indexes, mostly some that the statement has read.
            false => Some(self.forget_known_fields(view)),
        };
        let is_enough = self.pending.is_empty() || self.rows >= ROWS_LOOKED_AT;
        let looked = match known {
            Some(Ok(())) if !is_enough => work::quick(|| self.look_at_more(view)),
            known => known,
        };
        match looked {
            Some(Ok(())) => Ok(true),
            None => Ok(false),
            Some(Err(error)) => match error.reason() {
                Reason::Corrupt | Reason::FileGone | Reason::BelowFloor => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// A field of an index is no typing error, and the index knows whether it has a kind of values.
    fn forget_known_fields(&mut self, view: &View) -> Result<()> {
        let indexes = view.schema().indexes.iter().map(|index| (index, IndexColumns::of(index)));
        let indexes: Vec<(&String, IndexColumns)> = indexes.collect();
        let mut kept = Vec::new();
        for mut expectation in std::mem::take(&mut self.pending) {
            work::step(8)?;
            let of_path = indexes.iter().find(|(_, columns)| columns.paths().contains(&expectation.path));
            if let Some((index, columns)) = of_path {
                expectation.may_be_missing = true;
                let ranges = expectation.wanted.ranges();
                if !ranges.is_empty() && !columns.is_composite() {
                    let wanted = IndexRanges {
                        index,
                        columns: std::slice::from_ref(&expectation.path),
                        depth: 1,
                        ranges: &ranges,
                    };
                    let found = view.candidates_in(&[wanted], 1)?;
                    if found.is_none_or(|found| !found.keys.is_empty()) {
                        continue;
                    }
                }
            }
            kept.push(expectation);
        }
        self.pending = kept;
        Ok(())
    }

    fn look_at_more(&mut self, view: &View) -> Result<()> {
        // Some of the rows may be those that were read.
        let read = std::mem::take(&mut self.rows);
        let (mut failed, mut bytes) = (Ok(()), 0);
        let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
        view.scan(all, |row| {
            failed = self.see(row.by_ref());
            bytes += row.document.msgpack().len();
            let has_room = self.rows < ROWS_LOOKED_AT && bytes < BYTES_LOOKED_AT;
            failed.is_ok() && !self.are_met() && has_room
        })?;
        self.rows = self.rows.max(read);
        failed
    }

    fn note(&self, expectation: &Expectation) -> Option<String> {
        let (path, rows) = (Column::Path(expectation.path.clone()), self.rows);
        if !expectation.is_present {
            if expectation.may_be_missing {
                return None;
            }
            let near = match expectation.path.names() {
                [name] => nearest(name, self.names.iter().map(String::as_str)),
                _ => None,
            };
            let near = near.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
            return Some(match rows {
                1 => format!("the row that was looked at has no field {path}{near}"),
                rows => format!("none of the {rows} rows that were looked at has a field {path}{near}"),
            });
        }
        if expectation.found.is_empty() {
            return None;
        }
        Some(format!(
            "{path} is compared with {}, but in the {} looked at it has only {}: values of different kinds never match",
            expectation.wanted.names("or"),
            counted(rows, "row"),
            expectation.found.names("and")
        ))
    }
}
