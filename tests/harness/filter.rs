//! A watcher's filter, and an independent decision which changes it matches.

use driftdb::v1;
use serde_json::Value;

use super::condition::{Condition, Row};
use super::history::{Committed, RowChange, Version};

/// A change matches if every set field matches.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub tables: Vec<&'static str>,
    pub keys: Vec<String>,
    pub prefix: &'static str,
    pub condition: Option<Condition>,
    pub before: bool,
    pub after: bool,
    pub msgpack: bool,
}

impl Filter {
    /// The request for this filter, without a start.
    pub fn request(&self) -> v1::WatchDriftRequest {
        let mut params = Some(Vec::new());
        let text = self.condition.as_ref().map(|condition| condition.text(&mut params)).unwrap_or_default();
        let format = if self.msgpack { v1::DocumentFormat::Msgpack } else { v1::DocumentFormat::Json };
        v1::WatchDriftRequest {
            tables: self.tables.iter().map(ToString::to_string).collect(),
            keys: self.keys.clone(),
            key_prefix: self.prefix.into(),
            r#where: text,
            params: params.unwrap_or_default(),
            with_before: self.before,
            with_after: self.after,
            format: format.into(),
            ..Default::default()
        }
    }

    fn takes_key(&self, table: &str, key: &str) -> bool {
        (self.tables.is_empty() || self.tables.contains(&table))
            && (self.keys.is_empty() || self.keys.iter().any(|wanted| wanted == key))
            && key.starts_with(self.prefix)
    }

    /// Whether the filter matches a row.
    pub fn takes_row(&self, table: &str, key: &str, id: &Value, row: &Version) -> bool {
        let met = |condition: &Condition| {
            let Version { seq, time_ms, document } = row;
            let row = Row { key: id.clone(), seq: *seq, time_ms: *time_ms, document: (**document).clone() };
            condition.met(&row) == Some(true)
        };
        self.takes_key(table, key) && self.condition.as_ref().is_none_or(met)
    }

    /// Whether the filter matches a change.
    pub fn takes(&self, change: &RowChange) -> bool {
        let RowChange { table, key, id, .. } = change;
        if change.kind == v1::ChangeKind::Schema {
            let of_rows = !self.keys.is_empty() || !self.prefix.is_empty() || self.condition.is_some();
            return !of_rows && (self.tables.is_empty() || self.tables.contains(&&**table));
        }
        if self.condition.is_none() {
            return self.takes_key(table, key);
        }
        change.before.iter().chain(&change.after).any(|row| self.takes_row(table, key, id, row))
    }

    /// The changes of a commit that the filter matches.
    pub fn of<'a>(&self, commit: &'a Committed) -> Vec<&'a RowChange> {
        commit.changes.iter().filter(|change| self.takes(change)).collect()
    }

    /// Whether the filter matches any change of a commit.
    pub fn wants(&self, commit: &Committed) -> bool {
        commit.changes.iter().any(|change| self.takes(change))
    }
}
