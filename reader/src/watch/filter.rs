//! What a watch wants to see: tables, keys, a condition on the row before or after.

use std::collections::BTreeSet;
use std::sync::Arc;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::key::{Key, KeyType};
use driftdb_common::format::value::Value;
use driftdb_common::limits;
use driftdb_common::query::ast::{Column, Comparison, Condition};
use driftdb_common::query::{parser, predicate};
use driftdb_common::table::history::{DriftEvent, Images, KeyFilter};
use driftdb_common::table::timeline::Timeline;
use driftdb_common::table::view::Row;

use crate::replica::Applied;
use crate::token::filter_hash;

/// A filter. All of its parts must be met.
#[derive(Debug)]
pub struct Filter {
    /// The tables by name; every table where there is none.
    tables: BTreeSet<String>,
    /// Which rows, by their keys.
    pub rows: Arc<KeyFilter>,
    condition: Option<Condition>,
    hash: u64,
}

impl Filter {
    /// The filter of a request.
    pub fn from_wire(request: &v1::WatchDriftRequest) -> Result<Filter> {
        if request.keys.len() > limits::KEYS_PER_WATCH {
            let message = format!(
                "{} keys are over the limit of {} a watch: use a condition, or several watches",
                request.keys.len(),
                limits::KEYS_PER_WATCH
            );
            return Err(Error::new(Reason::TooLarge, message));
        }
        let longest = request.keys.iter().chain([&request.key_prefix]).map(String::len).max().unwrap_or(0);
        if longest > limits::KEY_BYTES {
            let message = format!("a key of {longest} bytes: no row has one over {}", limits::KEY_BYTES);
            return Err(Error::new(Reason::KeyInvalid, message));
        }
        let params = parser::parse_params(&request.params)?;
        let condition = match request.r#where.trim() {
            "" => None,
            text => Some(parser::parse_condition(text, &params)?),
        };
        let tables: BTreeSet<String> = request.tables.iter().cloned().collect();
        let keys: BTreeSet<String> = request.keys.iter().cloned().collect();
        // The order in which tables and keys are named makes no other filter.
        let counts =
            [tables.len(), keys.len(), request.params.len()].map(|count| (count as u64).to_le_bytes());
        let texts = tables.iter().chain(&keys).chain(&request.params).map(String::as_str);
        let texts = texts.chain([request.key_prefix.as_str(), request.r#where.trim()]).map(str::as_bytes);
        let hash = filter_hash(counts.iter().map(<[u8; 8]>::as_slice).chain(texts));
        let rows = Arc::new(KeyFilter { keys, prefix: request.key_prefix.clone() });
        Ok(Filter { tables, rows, condition, hash })
    }

    /// A number for it: tokens of another filter are told apart by it.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The first table named that there is not, and never was, as an error; so is a key that a named table cannot have.
    pub fn check(&self, applied: &Applied) -> Result<()> {
        for table in &self.tables {
            let key_type = applied.table(table)?.key_type()?;
            self.rows.keys.iter().try_for_each(|key| Key::parse(key, key_type).map(|_| ()))?;
        }
        Ok(())
    }

    /// The tables watched, as far as there are any, in the order of their creation.
    pub fn timelines<'a>(&self, applied: &'a Applied) -> Vec<&'a Arc<Timeline>> {
        let mut tables: Vec<_> =
            applied.tables.values().filter(|table| self.wants_table(table.name())).collect();
        tables.sort_unstable_by_key(|table| table.id());
        tables
    }

    /// The greatest floor of the tables watched.
    pub fn floor(&self, applied: &Applied) -> u64 {
        let tables = applied.tables.values().filter(|table| self.wants_table(table.name()));
        tables.filter_map(|table| table.state().layers.floor()).map(|floor| floor.seq).max().unwrap_or(0)
    }

    /// Whether a table is watched.
    pub fn wants_table(&self, name: &str) -> bool {
        self.tables.is_empty() || self.tables.contains(name)
    }

    /// Whether an event of a row, or of no row, may pass.
    pub fn may_pass(&self, key: Option<&Key>) -> bool {
        match key {
            Some(key) => self.rows.passes(key),
            None => self.rows.passes_all() && self.condition.is_none(),
        }
    }

    /// Whether a change passes. It must have the images that [`Filter::images`] tells.
    pub fn passes(&self, change: &DriftEvent) -> Result<bool> {
        if !self.may_pass(change.key.as_ref()) {
            return Ok(false);
        }
        let Some(condition) = &self.condition else { return Ok(true) };
        for row in [&change.before, &change.after].into_iter().flatten() {
            let Row { key, seq, time_ms, document } = row;
            if condition.matches(predicate::RowRef { key, seq: *seq, time_ms: *time_ms, document })? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The images that it takes to tell, and to send what is wanted.
    pub fn images(&self, sent: Images) -> Images {
        let asked = self.condition.is_some();
        Images { before: sent.before || asked, after: sent.after || asked }
    }

    /// The condition that rows of a table with such keys must meet, for a SELECT; an inner `None` where every row does, an
    /// outer one where no row can.
    pub fn condition(&self, key_type: KeyType) -> Option<Option<Condition>> {
        let value = |key: Key| match key {
            Key::Int(int) => Value::Int(int.into()),
            Key::Str(text) => Value::Str(text.to_string()),
        };
        let mut parts: Vec<Condition> = self.condition.iter().cloned().collect();
        if !self.rows.keys.is_empty() {
            let keys = self.rows.keys.iter().filter_map(|key| Key::parse(key, key_type).ok());
            let values: Vec<Value> = keys.map(value).collect();
            if values.is_empty() {
                return None;
            }
            parts.push(Condition::In { column: Column::Key, values, negated: false });
        }
        if !self.rows.prefix.is_empty() && key_type == KeyType::String {
            let text = Value::Str(self.rows.prefix.clone());
            parts.push(Condition::Compare {
                column: Column::Key,
                op: Comparison::GreaterOrEqual,
                value: text,
            });
            if let Some(behind) = behind(&self.rows.prefix) {
                let value = Value::Str(behind);
                parts.push(Condition::Compare { column: Column::Key, op: Comparison::Less, value });
            }
        }
        Some(if parts.len() > 1 { Some(Condition::And(parts)) } else { parts.pop() })
    }
}

/// A text that is behind every one with a prefix, and near it.
fn behind(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    let last = text.pop()?;
    // The last code point has none behind it, and the one before the surrogates is rare: then the range has no end.
    text.push(char::from_u32(u32::from(last) + 1)?);
    Some(text)
}
