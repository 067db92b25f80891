//! Dotted paths into documents: `status`, `customer.name`, `` `odd name`.x ``.

use std::fmt;

use crate::error::{Error, Reason, Result};
use crate::format::msgpack;

/// Names of nested fields, outermost first; at least one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path(Vec<String>);

impl Path {
    /// A path of field names, outermost first.
    pub fn new(names: Vec<String>) -> Path {
        Path(names)
    }

    /// A path of one field, whatever characters its name has.
    pub fn field(name: &str) -> Path {
        Path(vec![name.to_owned()])
    }

    /// Reads a path as it is displayed. Outside backticks a name may hold whatever is no dot and no backtick.
    pub fn parse(text: &str) -> Result<Path> {
        let invalid =
            || Error::new(Reason::NameInvalid, format!("{text:?} is no path, such as a.b or a.`odd name`"));
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

    /// The path that an index is on. The API takes any text for an index: one that is no path is the name of a field.
    pub fn of_index(text: &str) -> Path {
        Path::parse(text).unwrap_or_else(|_| Path::field(text))
    }

    /// The names, outermost first.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// The encoded value at the path, where the document has one.
    pub fn lookup<'a>(&self, document: &'a [u8]) -> Result<Option<&'a [u8]>> {
        let mut at = document;
        for name in &self.0 {
            match find_field(at, name)? {
                Some(value) => at = value,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }
}

/// Reads a name up to the backtick that closes it; two stand for one. Returns also what comes after.
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

/// The encoded value of a field of an encoded map; `None` where it is missing or `encoded` is no map.
fn find_field<'a>(encoded: &'a [u8], name: &str) -> Result<Option<&'a [u8]>> {
    let mut reader = msgpack::MsgpackReader::new(encoded);
    let msgpack::MsgpackItem::Map(len) = reader.token()? else {
        return Ok(None);
    };
    for _ in 0..len {
        let found = reader.str()? == name;
        let value = reader.value()?;
        if found {
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
        fn a_path_is_read_as_it_is_displayed(names in prop::collection::vec("[a1_`. é]{0,4}", 1..4)) {
            let path = Path::new(names);
            prop_assert_eq!(Path::parse(&path.to_string()).unwrap(), path);
        }

        #[test]
        fn any_text_is_on_some_path(text in "[a.`]{0,8}") {
            let path = Path::of_index(&text);
            if Path::parse(&text).is_err() {
                prop_assert_eq!(path, Path::field(&text));
            }
        }
    }

    #[test]
    fn paths_as_clients_write_them() {
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
