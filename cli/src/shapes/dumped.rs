//! JSON shapes of a dump of rows: tables and rows as changes that make them.

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::service::convert;
use driftdb_common::service::key_schema::key_from_wire;
use driftdb_common::table::schema::{Schema, SchemaAction, SchemaEvent};
use prost_types::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use super::values::{line, raw, time};

#[derive(Serialize)]
struct MadeChanges<'a, P: Serialize> {
    /// Unset: the commit may have any time.
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    changes: Vec<MadeChange<'a, P>>,
}

#[derive(Serialize)]
struct MadeChange<'a, P: Serialize> {
    table: &'a str,
    key: String,
    kind: &'static str,
    payload: P,
}

/// The schema of a table.
pub(crate) fn schema(info: &v1::TableInfo) -> Result<Schema> {
    let (primary_key, key_type) = key_from_wire(info.primary_key.clone(), info.key_type, &info.key_columns)?;
    Ok(Schema {
        table: info.table.clone(),
        primary_key,
        key_type,
        indexes: convert::indexes_from_wire(info.indexes.clone(), &info.composite_indexes)?,
        retain_ms: convert::retain_from_wire(info.retain)?,
        auto_key: info.auto_key,
    })
}

/// The commit that creates a table.
pub(crate) fn created_table(info: &v1::TableInfo, at: Option<&Timestamp>) -> Result<String> {
    let payload = SchemaEvent::new(SchemaAction::Create, schema(info)?);
    let change = MadeChange { table: &info.table, key: String::new(), kind: "schema", payload };
    line(&MadeChanges { time: at.map(|at| time(Some(at))).transpose()?, changes: vec![change] })
}

/// The commit that inserts rows.
pub(crate) fn inserted_rows(table: &str, rows: Vec<v1::Row>, at: Option<&Timestamp>) -> Result<String> {
    let insert = |row: v1::Row| {
        let payload: Option<Box<RawValue>> = raw(row.document)?;
        Ok(MadeChange { table, key: row.key, kind: "insert", payload })
    };
    let changes = rows.into_iter().map(insert).collect::<Result<_>>()?;
    line(&MadeChanges { time: at.map(|at| time(Some(at))).transpose()?, changes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_and_its_rows_become_changes() {
        let info = v1::TableInfo {
            table: "t".into(),
            primary_key: "id".into(),
            indexes: vec!["a".into()],
            composite_indexes: vec![v1::CompositeIndex { paths: vec!["b".into(), "c".into()] }],
            ..Default::default()
        };
        assert_eq!(
            created_table(&info, None).unwrap(),
            r#"{"changes":[{"table":"t","key":"","kind":"schema","payload":{"action":"create","table":"t","primary_key":"id","key_type":"STRING","indexes":["a",["b","c"]]}}]}"#
        );
        let row = v1::Row { key: "k".into(), document: Some(r#"{"id":"k"}"#.into()), ..Default::default() };
        let at = Timestamp { seconds: 0, nanos: 0 };
        assert_eq!(
            inserted_rows("t", vec![row], Some(&at)).unwrap(),
            r#"{"time":"1970-01-01T00:00:00.000Z","changes":[{"table":"t","key":"k","kind":"insert","payload":{"id":"k"}}]}"#
        );
    }
}
