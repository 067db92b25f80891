//! Schemas of tables while a history is written again: which call repeats a change of a schema.

use std::collections::{BTreeSet, HashMap};

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::service::convert::schema_to_wire;
use driftdb_common::table::schema::{SchemaAction, SchemaEvent};

/// The schemas of the tables that exist at this point of the history.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownSchemas(HashMap<String, v1::TableInfo>);

/// The call that repeats a change of a schema.
#[derive(Debug, PartialEq)]
pub(crate) enum SchemaRequest {
    /// Creates the table.
    Create(v1::CreateTableRequest),
    /// Changes its indexes or its retention, or renames it.
    Alter(v1::AlterTableRequest),
    /// Drops it.
    Drop(v1::DropTableRequest),
}

impl KnownSchemas {
    /// The schemas of these tables.
    pub(crate) fn of(tables: Vec<v1::TableInfo>) -> KnownSchemas {
        KnownSchemas(tables.into_iter().map(|info| (info.table.clone(), info)).collect())
    }

    /// Whether these tables are the same here and there, or exist in neither.
    pub(crate) fn agree_with(&self, other: &KnownSchemas, names: &BTreeSet<String>) -> bool {
        names.iter().all(|name| match (self.0.get(name), other.0.get(name)) {
            (Some(one), Some(other)) => is_same(one, other),
            (one, other) => one.is_none() && other.is_none(),
        })
    }

    /// The names of the tables that exist.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The last commit that created a table, if it exists.
    pub(crate) fn created_seq(&self, table: &str) -> Option<u64> {
        self.0.get(table).map(|info| info.created_seq)
    }

    /// Takes a change over.
    pub(crate) fn learn(&mut self, event: &SchemaEvent) {
        if let Some(from) = &event.from {
            self.0.remove(from);
        }
        match event.action {
            SchemaAction::Drop => _ = self.0.remove(&event.schema.table),
            _ => _ = self.0.insert(event.schema.table.clone(), schema_to_wire(&event.schema)),
        }
    }

    /// The call that repeats a change.
    pub(crate) fn request(&self, event: &SchemaEvent, options: v1::CommitOptions) -> Result<SchemaRequest> {
        let (after, options) = (schema_to_wire(&event.schema), Some(options));
        let v1::TableInfo {
            table,
            primary_key,
            key_type,
            key_columns,
            auto_key,
            indexes,
            composite_indexes,
            retain,
            ..
        } = after;
        Ok(match event.action {
            SchemaAction::Create => SchemaRequest::Create(v1::CreateTableRequest {
                table,
                // The columns of a composite key say everything about it.
                primary_key: if key_columns.is_empty() { primary_key } else { String::new() },
                key_type,
                key_columns,
                indexes,
                composite_indexes,
                retain,
                auto_key,
                options,
                ..Default::default()
            }),
            SchemaAction::Rename => {
                let from = event.from.clone().ok_or_else(|| {
                    let message =
                        format!("the change that renames a table to {table:?} does not say from what");
                    Error::new(Reason::ArgumentInvalid, message)
                })?;
                let renamed =
                    v1::AlterTableRequest { table: from, rename_to: table, options, ..Default::default() };
                SchemaRequest::Alter(renamed)
            }
            SchemaAction::Drop => SchemaRequest::Drop(v1::DropTableRequest { table, options }),
            SchemaAction::Alter => {
                let before = self.0.get(&table).ok_or_else(|| {
                    let message = format!("table {table:?} is altered before it is created");
                    Error::new(Reason::TableNotFound, message)
                })?;
                // An ALTER can change nothing, and is a commit nevertheless. The retention is in it so that the call asks for something.
                SchemaRequest::Alter(v1::AlterTableRequest {
                    add_indexes: missing_from(&before.indexes, &indexes),
                    drop_indexes: missing_from(&indexes, &before.indexes),
                    add_composite_indexes: missing_from(&before.composite_indexes, &composite_indexes),
                    drop_composite_indexes: missing_from(&composite_indexes, &before.composite_indexes),
                    retain_forever: retain.is_none(),
                    retain,
                    table,
                    options,
                    ..Default::default()
                })
            }
        })
    }
}

/// Those of `all` that `known` lacks.
fn missing_from<T: PartialEq + Clone>(known: &[T], all: &[T]) -> Vec<T> {
    all.iter().filter(|one| !known.contains(one)).cloned().collect()
}

fn is_same(one: &v1::TableInfo, other: &v1::TableInfo) -> bool {
    one.primary_key == other.primary_key
        && one.key_type == other.key_type
        && one.indexes == other.indexes
        && one.composite_indexes == other.composite_indexes
        && one.retain == other.retain
        && one.auto_key == other.auto_key
        && one.key_columns == other.key_columns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, indexes: &str, retain: Option<u64>) -> SchemaEvent {
        let text = format!(
            r#"{{"action":"{action}","table":"t","primary_key":"id","key_type":"STRING","indexes":{indexes}}}"#
        );
        let mut event: SchemaEvent = serde_json::from_str(&text).unwrap();
        event.schema.retain_ms = retain;
        event
    }

    #[test]
    fn an_alter_asks_for_the_difference() {
        let mut known = KnownSchemas::default();
        let created = event("create", r#"["a",["b","c"]]"#, Some(5000));
        let (mut other, names) = (KnownSchemas::default(), BTreeSet::from(["t".to_owned()]));
        assert!(known.agree_with(&other, &names));
        known.learn(&created);
        assert!(!known.agree_with(&other, &names));
        other.learn(&created);
        assert!(known.agree_with(&other, &names));
        let altered = event("alter", r#"["d",["b","c"]]"#, None);
        other.learn(&altered);
        assert!(!known.agree_with(&other, &names));
        let Ok(SchemaRequest::Alter(alter)) = known.request(&altered, v1::CommitOptions::default()) else {
            panic!("no alter")
        };
        assert_eq!((alter.add_indexes, alter.drop_indexes), (vec!["d".to_owned()], vec!["a".to_owned()]));
        assert!(alter.add_composite_indexes.is_empty() && alter.drop_composite_indexes.is_empty());
        assert!(alter.retain_forever && alter.retain.is_none());
        let renamed = SchemaEvent::rename(&altered.schema, "u");
        let Ok(SchemaRequest::Alter(rename)) = known.request(&renamed, v1::CommitOptions::default()) else {
            panic!("no rename")
        };
        assert_eq!((rename.table.as_str(), rename.rename_to.as_str()), ("t", "u"));
        assert!(rename.retain.is_none() && !rename.retain_forever);
        let mut after = known.clone();
        after.learn(&renamed);
        assert_eq!(after.names().collect::<Vec<_>>(), ["u"]);
        known.learn(&event("drop", "[]", None));
        assert!(known.request(&altered, v1::CommitOptions::default()).is_err());
    }
}
