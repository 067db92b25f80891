//! Dotted paths into documents: `status`, `customer.name`, `` `odd name`.x ``.

use std::fmt;

use crate::error::{Error, Reason, Result};
use crate::format::msgpack;
use crate::work;

/// The names of nested fields, outermost first; at least one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path(Vec<String>);

impl Path {
    /// A path from field names, outermost first.
    pub fn new(names: Vec<String>) -> Path {
        Path(names)
    }

    /// A path with one field, whose name can contain any characters.
    pub fn field(name: &str) -> Path {
        Path(vec![name.to_owned()])
    }

    /// Parses a path in the form that `Display` writes. Outside backticks a name can contain any character except dots and
    /// backticks.
    ///
    /// Fails with [`Reason::NameInvalid`].
    pub fn parse(text: &str) -> Result<Path> {
        let invalid = || {
            Error::new(
                Reason::NameInvalid,
                format!("invalid path {text:?}: write a path as a.b or a.`odd name`"),
            )
        };
        let mut names = Vec::new();
        let mut rest = text;
        loop {
            let (name, after) = match rest.strip_prefix('`') {
                Some(quoted) => quoted_name(quoted).ok_or_else(invalid)?,
                None => {
                    let (name, after) = rest.split_at(rest.find(['.', '`']).unwrap_or(rest.len()));
                    if name.is_empty() {
                        return Err(invalid());
                    }
                    (name.to_owned(), after)
                }
            };
            names.push(name);
            if after.is_empty() {
                return Ok(Path(names));
            }
            rest = after.strip_prefix('.').ok_or_else(invalid)?;
        }
    }

    /// The path of an index. The API accepts any text: a text that is not a path is the name of one field.
    pub fn of_index(text: &str) -> Path {
        Path::parse(text).unwrap_or_else(|_| Path::field(text))
    }

    /// The names, outermost first.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// The encoded value at the path; `None` if the document has no such field.
    pub fn lookup<'a>(&self, document: &'a [u8]) -> Result<Option<&'a [u8]>> {
        let mut value = document;
        for name in &self.0 {
            match find_field(value, name)? {
                Some(inner) => value = inner,
                None => return Ok(None),
            }
        }
        Ok(Some(value))
    }
}

/// Parses a quoted name up to its closing backtick, and returns the text after it. Two backticks are one backtick in the name.
fn quoted_name(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('`')?;
        name.push_str(part);
        match after.strip_prefix('`') {
            Some(after) => {
                name.push('`');
                rest = after;
            }
            None => return Some((name, after)),
        }
    }
}

/// The encoded value of a field; `None` if the field is missing or `encoded` is not a map.
fn find_field<'a>(encoded: &'a [u8], name: &str) -> Result<Option<&'a [u8]>> {
    let mut reader = msgpack::MsgpackReader::new(encoded);
    let msgpack::MsgpackItem::Map(len) = reader.token()? else {
        return Ok(None);
    };
    for _ in 0..len {
        let field = reader.str_bytes()?;
        work::step_bytes(field.len())?;
        let value = reader.skip()?;
        if field == name.as_bytes() {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(".")?;
            }
            let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if plain { f.write_str(name)? } else { write!(f, "`{}`", name.replace('`', "``"))? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn display_and_parse_round_trip(names in prop::collection::vec("[a1_`. é]{0,4}", 1..4)) {
            let path = Path::new(names);
            prop_assert_eq!(Path::parse(&path.to_string()).unwrap(), path);
        }

        #[test]
        fn every_text_is_the_path_of_an_index(text in "[a.`]{0,8}") {
            let path = Path::of_index(&text);
            if Path::parse(&text).is_err() {
                prop_assert_eq!(path, Path::field(&text));
            }
        }
    }

    #[test]
    fn known_paths_parse_and_others_are_refused() {
        let of = |names: &[&str]| Path::new(names.iter().map(|name| (*name).to_owned()).collect());
        for (text, names) in [
            ("status", &["status"][..]),
            ("customer.name", &["customer", "name"]),
            ("kunden-nr.größe in cm", &["kunden-nr", "größe in cm"]),
            ("`a.b`.c", &["a.b", "c"]),
            ("`a``b`", &["a`b"]),
            ("``", &[""]),
            ("SELECT.2024", &["SELECT", "2024"]),
        ] {
            assert_eq!(Path::parse(text).unwrap(), of(names), "{text}");
        }
        for text in ["", ".", "a.", ".a", "a..b", "`a", "a`b`", "`a`b", "```"] {
            assert!(Path::parse(text).is_err(), "{text}");
            assert_eq!(Path::of_index(text), of(&[text]), "{text}");
        }
    }
}
