//! Keys that the writer makes, for inserts into a table whose keys are AUTO.
//!
//! A key is made where the keys of other operations are found, before the lock is taken: then its row is looked up as any other,
//! and a client that has inserted a row under the same key by chance or intent gets an error instead of losing it. The keys are
//! UUIDs of version 7, and each is greater than the one that this process made before it. So rows are in the order of their
//! inserts, which also keeps new rows together in the files.
//!
//! Nothing besides the row remembers the key. A request that is repeated asks the table's history which keys its commit inserted.

use driftdb_common::error::Result;
use driftdb_common::format::document::Document;
use driftdb_common::format::key::Key;
use driftdb_common::format::path::Path;
use driftdb_common::table::operation::{Action, Operation};
use driftdb_common::table::schema::Schema;
use uuid::Uuid;

/// A key that the writer made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MadeKey {
    /// The position of the operation in its request, counted from 0.
    pub(crate) index: u32,
    /// The table.
    pub(crate) table: String,
    /// The position of the operation among those of its commit and table, counted from 0.
    pub(crate) in_table: usize,
    /// The key.
    pub(crate) key: Key,
}

/// Makes the key of an operation that is an insert without one, if the table's keys are AUTO. Returns the document as it was before.
pub(super) fn make(schema: &Schema, operation: &mut Operation) -> Result<Option<Document>> {
    let Operation { key: None, action: Action::Insert(document), .. } = operation else { return Ok(None) };
    if !schema.auto_key || document.get(&Path::field(&schema.primary_key))?.is_some() {
        return Ok(None);
    }
    let key = Uuid::now_v7().hyphenated().to_string();
    let with_key = document.with_first_field(&schema.primary_key, &key)?;
    Ok(Some(std::mem::replace(document, with_key)))
}

#[cfg(test)]
mod tests {
    use driftdb_common::format::key::KeyType;

    use super::*;

    fn insert(json: &str) -> Operation {
        let action = Action::Insert(Document::from_json(json).unwrap());
        Operation { table: "t".into(), key: None, action }
    }

    fn schema(auto_key: bool) -> Schema {
        Schema {
            table: "t".into(),
            primary_key: "id".into(),
            key_type: KeyType::String,
            indexes: Vec::new(),
            retain_ms: None,
            auto_key,
        }
    }

    fn key_of(operation: &Operation) -> Option<String> {
        let Action::Insert(document) = &operation.action else { return None };
        document.key("id", KeyType::String).ok().map(|key| key.to_string())
    }

    #[test]
    fn only_an_insert_without_a_key_gets_one() {
        let mut operation = insert(r#"{"n":1}"#);
        assert_eq!(make(&schema(false), &mut operation).unwrap(), None);
        let before = make(&schema(true), &mut operation).unwrap();
        assert_eq!(before, Some(Document::from_json(r#"{"n":1}"#).unwrap()));
        let key = Uuid::parse_str(&key_of(&operation).unwrap()).unwrap();
        assert_eq!(key.get_version_num(), 7);
        let put = Operation { action: Action::Put(Document::from_json("{}").unwrap()), ..insert("{}") };
        for mut other in [insert(r#"{"id":"a"}"#), insert(r#"{"id":null}"#), put] {
            let unchanged = other.clone();
            assert_eq!(make(&schema(true), &mut other).unwrap(), None);
            assert_eq!(other, unchanged);
        }
    }

    #[test]
    fn made_keys_ascend() {
        let keys: Vec<_> = (0..10_000)
            .map(|_| {
                let mut operation = insert("{}");
                make(&schema(true), &mut operation).unwrap();
                key_of(&operation).unwrap()
            })
            .collect();
        assert!(keys.is_sorted_by(|a, b| a < b));
    }
}
