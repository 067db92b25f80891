//! The fields of the primary key of the table that is loaded.

use std::str::FromStr;

use driftdb_common::format::key::KeyType;

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
