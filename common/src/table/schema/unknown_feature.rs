//! What a SCHEMA document has that this version does not know, because a newer version wrote it.
//!
//! A frame's CRC has proved that the document is as it was written. So a field, an action, a key type or a kind of index that is
//! unknown is no damage, and to ignore it could give wrong answers: the table is refused, and the error names the feature.

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::key::KeyType;
use crate::format::msgpack::{self, MsgpackItem, MsgpackReader};

const FIELDS: [&str; 7] = ["action", "table", "primary_key", "key_type", "indexes", "retain_ms", "auto_key"];
const ACTIONS: [&str; 3] = ["create", "alter", "drop"];

/// Fails with NOT_SUPPORTED if a newer version wrote a SCHEMA document and this one cannot know what it means.
pub(super) fn check(document: &Document) -> Result<()> {
    let fields = msgpack::fields(document.msgpack())?;
    for (name, value) in &fields {
        if let Some(feature) = unknown_in(name, value)? {
            return Err(made_by_newer(&fields, &feature));
        }
    }
    Ok(())
}

/// The feature of a field that this version does not know.
fn unknown_in(name: &str, value: &[u8]) -> Result<Option<String>> {
    let word = |what: &str, is_known: &dyn Fn(&str) -> bool| match msgpack::first(value)? {
        MsgpackItem::Str(word) if !is_known(word) => Ok(Some(format!("the {what} {word:?}"))),
        _ => Ok(None),
    };
    match name {
        "action" => word("change", &|word| ACTIONS.contains(&word)),
        "key_type" => word("key type", &|word| word.parse::<KeyType>().is_ok()),
        "indexes" => {
            Ok(has_unknown_index(value)?
                .then(|| "a kind of index that it does not name by its path".to_owned()))
        }
        name if FIELDS.contains(&name) => Ok(None),
        name => Ok(Some(format!("the field {name:?}"))),
    }
}

/// Whether an element of a list of indexes is neither a path nor an array of paths.
fn has_unknown_index(list: &[u8]) -> Result<bool> {
    let mut reader = MsgpackReader::new(list);
    let MsgpackItem::Array(len) = reader.token()? else { return Ok(false) };
    for _ in 0..len {
        let index = reader.value()?;
        let mut inner = MsgpackReader::new(index);
        let is_known = match inner.token()? {
            MsgpackItem::Str(_) => true,
            MsgpackItem::Array(columns) => {
                let mut all = true;
                for _ in 0..columns {
                    all &= matches!(msgpack::first(inner.value()?)?, MsgpackItem::Str(_));
                }
                all
            }
            _ => false,
        };
        if !is_known {
            return Ok(true);
        }
    }
    Ok(false)
}

fn made_by_newer(fields: &[(&str, &[u8])], feature: &str) -> Error {
    let table =
        fields.iter().find(|(name, _)| *name == "table").and_then(|(_, value)| msgpack::first(value).ok());
    let table = match table {
        Some(MsgpackItem::Str(name)) => format!("table {name:?}"),
        _ => "a table".to_owned(),
    };
    let message = format!(
        "cannot read the schema of {table}: it has {feature}, which DriftDB {} does not know; a newer version of DriftDB made it, open the database with that version",
        env!("CARGO_PKG_VERSION")
    );
    Error::new(Reason::NotSupported, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::schema::SchemaEvent;

    #[test]
    fn what_a_newer_version_wrote_is_named_and_is_no_damage() {
        let schema = |action: &str, key_type: &str, indexes: &str, more: &str| {
            format!(
                r#"{{"action":"{action}","table":"orders","primary_key":"id","key_type":"{key_type}","indexes":{indexes}{more}}}"#
            )
        };
        let read = |json: &str| SchemaEvent::from_document(&Document::from_json(json).unwrap());
        read(&schema("create", "STRING", r#"["a",["a","b"]]"#, r#","retain_ms":1000"#)).unwrap();
        for (json, feature) in [
            (schema("rename", "STRING", "[]", ""), r#"the change "rename""#),
            (schema("create", "UUID", "[]", ""), r#"the key type "UUID""#),
            (schema("create", "(STRING, FLOAT)", "[]", ""), r#"the key type "(STRING, FLOAT)""#),
            (schema("create", "INT", r#"["a",{"text":"b"}]"#, ""), "a kind of index"),
            (schema("create", "INT", r#"[["a",{"desc":"b"}]]"#, ""), "a kind of index"),
            (schema("create", "INT", "[]", r#","partitions":4"#), r#"the field "partitions""#),
        ] {
            let error = read(&json).unwrap_err();
            assert_eq!(error.reason(), Reason::NotSupported, "{json}: {error}");
            let message = error.message();
            assert!(message.contains(r#"table "orders""#) && message.contains(feature), "{message}");
            assert!(
                message.contains(env!("CARGO_PKG_VERSION")) && message.contains("newer version"),
                "{message}"
            );
        }
        for json in
            ["{}", r#"{"action":"create","table":1,"primary_key":"id","key_type":"INT","indexes":[]}"#]
        {
            assert_eq!(read(json).unwrap_err().reason(), Reason::Corrupt, "{json}");
        }
    }
}
