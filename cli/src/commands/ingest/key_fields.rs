//! The fields of the primary key of the table that is loaded.

use std::str::FromStr;

use bytes::Bytes;
use driftdb_common::error::Result;
use driftdb_common::format::document::Document;
use driftdb_common::format::key::{Key, KeyType};
use driftdb_common::format::path::Path;

/// A field of the primary key of a new table, as the user has named it: `FIELD`, `FIELD INT` or `FIELD STRING`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedKey {
    name: String,
    of: Option<KeyType>,
}

impl FromStr for NamedKey {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<NamedKey, String> {
        let text = text.trim();
        let typed = text.rsplit_once(' ').and_then(|(name, of)| {
            let of = of
                .to_ascii_uppercase()
                .parse()
                .ok()
                .filter(|of| matches!(of, KeyType::Int | KeyType::String));
            Some((name.trim_end().to_owned(), of?))
        });
        let (name, of) = typed.map_or_else(|| (text.to_owned(), None), |(name, of)| (name, Some(of)));
        if name.is_empty() {
            return Err("a field of the key has no name".to_owned());
        }
        Ok(NamedKey { name, of })
    }
}

impl NamedKey {
    /// The field; of this type if the user has named none.
    pub(crate) fn field(&self, usual: KeyType) -> KeyField {
        KeyField { name: self.name.clone(), of: self.of.unwrap_or(usual) }
    }
}

/// A field of the primary key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyField {
    /// The name of the field.
    pub(crate) name: String,
    /// The type of its values.
    pub(crate) of: KeyType,
}

/// The properties of the table that a load needs.
pub(crate) struct TableKey {
    pub(crate) fields: Vec<KeyField>,
    /// Whether the writer makes keys.
    pub(crate) is_auto: bool,
    /// Whether it makes those of this load: it does so for inserts only.
    pub(crate) makes_keys: bool,
    /// The table's last CREATE; `None` if it does not exist yet.
    pub(crate) created_seq: Option<u64>,
}

impl TableKey {
    /// The key of a document of the file, by field; `None` if the writer makes it. Fails if the table cannot have the key.
    pub(crate) fn of(&self, document: &Bytes) -> Result<Option<Vec<Key>>> {
        let document = Document::trusted(document.clone());
        let (mut key, mut is_made) = (Vec::with_capacity(self.fields.len()), false);
        for field in &self.fields {
            let is_missing = document.get(&Path::field(&field.name))?.is_none();
            if is_missing && self.makes_keys {
                is_made = true;
            } else {
                key.push(document.key(&field.name, field.of)?);
            }
        }
        Ok(Some(key).filter(|_| !is_made))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_key_are_parsed() {
        let field = |text: &str| text.parse::<NamedKey>().map(|key| key.field(KeyType::String));
        for (text, name, of) in [
            ("id", "id", KeyType::String),
            (" n int ", "n", KeyType::Int),
            ("a b INT", "a b", KeyType::Int),
            ("a b", "a b", KeyType::String),
            ("INT", "INT", KeyType::String),
        ] {
            assert_eq!(field(text), Ok(KeyField { name: name.into(), of }), "{text}");
        }
        assert!(field("").is_err());
        assert_eq!("id".parse::<NamedKey>().unwrap().field(KeyType::Int).of, KeyType::Int);
    }
}
