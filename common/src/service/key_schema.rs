//! The primary key of a table on the wire.

use driftdb::v1;

use crate::error::{Error, Reason, Result};
use crate::format::key::KeyType;
use crate::limits;
use crate::table::schema::Schema;

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Reason::ArgumentInvalid, message)
}

/// The type of a key of one field, or of one field of a key; STRING if the request names none.
fn column_type_from_wire(key_type: i32) -> Result<KeyType> {
    match v1::KeyType::try_from(key_type) {
        Ok(v1::KeyType::Unspecified | v1::KeyType::String) => Ok(KeyType::String),
        Ok(v1::KeyType::Int) => Ok(KeyType::Int),
        Ok(v1::KeyType::Composite) => Err(invalid("a composite key needs key_columns, each STRING or INT")),
        Err(_) => Err(invalid(format!("unknown key type {key_type}"))),
    }
}

/// The API's value for a key type.
pub fn key_type_to_wire(key_type: KeyType) -> v1::KeyType {
    match key_type {
        KeyType::String => v1::KeyType::String,
        KeyType::Int => v1::KeyType::Int,
        KeyType::Composite(_) => v1::KeyType::Composite,
    }
}

/// The primary key that a request or an answer describes: its name in a schema, and its type.
pub fn key_from_wire(
    primary_key: String,
    key_type: i32,
    columns: &[v1::KeyColumn],
) -> Result<(String, KeyType)> {
    if columns.is_empty() {
        return Ok((primary_key, column_type_from_wire(key_type)?));
    }
    let of = |column: &v1::KeyColumn| column_type_from_wire(column.r#type);
    let types = columns.iter().map(of).collect::<Result<Vec<_>>>()?;
    let fields: Vec<String> = columns.iter().map(|column| column.field.clone()).collect();
    let name = Schema::primary_key_of(&fields);
    if columns.len() < 2 {
        return Err(invalid(
            "key_columns describe a composite key; for one field, use primary_key and key_type",
        ));
    }
    let composite = KeyType::of_columns(&types).ok_or_else(|| {
        let message = format!("a primary key has at most {} fields, each STRING or INT", limits::KEY_COLUMNS);
        invalid(message)
    })?;
    // An answer has both, and they agree.
    let is_same = |given: &str| given.is_empty() || given == name;
    let is_type =
        matches!(v1::KeyType::try_from(key_type), Ok(v1::KeyType::Unspecified | v1::KeyType::Composite));
    if !is_same(&primary_key) || !is_type {
        return Err(invalid("set either primary_key and key_type, or key_columns"));
    }
    Ok((name, composite))
}

/// The fields of a composite key; none for another key.
pub fn key_columns_to_wire(schema: &Schema) -> Vec<v1::KeyColumn> {
    if !matches!(schema.key_type, KeyType::Composite(_)) {
        return Vec::new();
    }
    let columns = schema.key_fields().into_iter().zip(schema.key_type.columns());
    let column =
        |(field, of): (String, KeyType)| v1::KeyColumn { field, r#type: key_type_to_wire(of).into() };
    columns.map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_composite_key_is_read_as_it_was_written() {
        let schema = Schema {
            table: "t".into(),
            primary_key: "(a, `b c`)".into(),
            key_type: "(STRING, INT)".parse().unwrap(),
            indexes: Vec::new(),
            retain_ms: None,
            auto_key: false,
        };
        let info = v1::TableInfo {
            primary_key: schema.primary_key.clone(),
            key_type: key_type_to_wire(schema.key_type).into(),
            key_columns: key_columns_to_wire(&schema),
            ..v1::TableInfo::default()
        };
        assert_eq!((info.key_columns.len(), info.key_type()), (2, v1::KeyType::Composite));
        let of_answer = key_from_wire(info.primary_key.clone(), info.key_type, &info.key_columns).unwrap();
        assert_eq!(of_answer, (schema.primary_key.clone(), schema.key_type));
        let of_request = key_from_wire(String::new(), 0, &info.key_columns).unwrap();
        assert_eq!(of_request, of_answer);
        let nested = v1::KeyColumn { field: "c".into(), r#type: v1::KeyType::Composite.into() };
        for (primary_key, key_type, columns) in [
            ("id", 0, info.key_columns.as_slice()),
            ("", 2, &info.key_columns),
            ("", 3, &[]),
            ("", 0, &info.key_columns[..1]),
            ("", 0, &vec![info.key_columns[0].clone(); 9]),
            ("", 0, &[nested.clone(), nested]),
        ] {
            let error = key_from_wire(primary_key.into(), key_type, columns).unwrap_err();
            assert_eq!(error.reason(), Reason::ArgumentInvalid, "{error}");
        }
    }
}
