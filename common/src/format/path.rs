//! Dotted paths into documents: `status`, `customer.name`, `` `odd name`.x ``.

use std::fmt;

use crate::error::Result;
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

/// The encoded value of a field of an encoded map; `None` where it is missing or `encoded` is no map.
fn find_field<'a>(encoded: &'a [u8], name: &str) -> Result<Option<&'a [u8]>> {
    let mut reader = msgpack::Reader::new(encoded);
    let msgpack::Token::Map(len) = reader.token()? else {
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
