//! What a watcher asks for, and which changes of which commit that is.

use driftdb::v1;
use serde_json::Value;

use super::condition::{Cond, Row};
use super::history::{Committed, Happened, Version};

/// All that is set must hold.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub tables: Vec<&'static str>,
    pub keys: Vec<String>,
    pub prefix: &'static str,
    pub condition: Option<Cond>,
    pub before: bool,
    pub after: bool,
    pub msgpack: bool,
}

impl Filter {
    /// The request that asks for it, without a start.
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

    /// Whether a row passes.
    pub fn takes_row(&self, table: &str, key: &str, id: &Value, row: &Version) -> bool {
        let met = |condition: &Cond| {
            let Version { seq, time_ms, document } = row;
            let row = Row { key: id.clone(), seq: *seq, time_ms: *time_ms, document: (**document).clone() };
            condition.met(&row) == Some(true)
        };
        self.takes_key(table, key) && self.condition.as_ref().is_none_or(met)
    }

    /// Whether a change passes.
    pub fn takes(&self, change: &Happened) -> bool {
        let Happened { table, key, id, .. } = change;
        if change.kind == v1::ChangeKind::Schema {
            let of_rows = !self.keys.is_empty() || !self.prefix.is_empty() || self.condition.is_some();
            return !of_rows && (self.tables.is_empty() || self.tables.contains(&&**table));
        }
        if self.condition.is_none() {
            return self.takes_key(table, key);
        }
        change.before.iter().chain(&change.after).any(|row| self.takes_row(table, key, id, row))
    }

    /// What comes of a commit.
    pub fn of<'a>(&self, commit: &'a Committed) -> Vec<&'a Happened> {
        commit.changes.iter().filter(|change| self.takes(change)).collect()
    }

    /// Whether anything comes of a commit.
    pub fn wants(&self, commit: &Committed) -> bool {
        commit.changes.iter().any(|change| self.takes(change))
    }
}
