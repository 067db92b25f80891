//! The columns of an index: one path, or the paths of a composite index such as `(customer_id, status)`.
//!
//! An index has a name, which the catalog, the manifest and the files use: the path, or the paths of a composite index in
//! parentheses. A field can have such a name, too; its index is named with backticks, so that no name has two meanings.

use std::fmt;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::path::Path;
use crate::format::sortkey;

/// The columns of an index, in the order in which its entries are sorted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IndexColumns(Vec<Path>);

impl IndexColumns {
    /// An index on one path, or a composite index on several.
    pub fn new(paths: Vec<Path>) -> IndexColumns {
        IndexColumns(paths)
    }

    /// The columns of the index with a name.
    pub fn of(name: &str) -> IndexColumns {
        match composite_paths(name) {
            Some(paths) => IndexColumns(paths),
            None => IndexColumns(vec![Path::of_index(name)]),
        }
    }

    /// The paths.
    pub fn paths(&self) -> &[Path] {
        &self.0
    }

    /// Whether the index has several columns.
    pub fn is_composite(&self) -> bool {
        self.0.len() > 1
    }

    /// Appends the bytes that an index stores for a document: the value of each column, or that it has none. Returns false,
    /// and appends nothing, if the first column has no value that is indexed: no search finds the document then.
    pub fn write_value(&self, out: &mut Vec<u8>, document: &Document) -> Result<bool> {
        self.encode(out, document, sortkey::ABSENT)
    }

    /// The bytes that an index stores for a document, as [`IndexColumns::write_value`].
    pub fn value_of(&self, document: &Document) -> Result<Option<Vec<u8>>> {
        let mut value = Vec::new();
        Ok(self.write_value(&mut value, document)?.then_some(value))
    }

    /// The bytes that the memtable stores for an event of a row, as [`IndexColumns::value_of`]. A patch says nothing of the
    /// columns that it does not write, so these are stored as unknown; `None` if it writes none of the columns.
    pub fn value_of_event(&self, payload: &Document, is_patch: bool) -> Result<Option<Vec<u8>>> {
        if !is_patch || !self.is_composite() {
            return self.value_of(payload);
        }
        let mut is_written = false;
        for path in &self.0 {
            is_written |= payload.get(path)?.is_some();
        }
        let mut value = Vec::new();
        let is_indexed = is_written && self.encode(&mut value, payload, sortkey::UNKNOWN)?;
        Ok(is_indexed.then_some(value))
    }

    /// `missing` stands for a field that the document does not have.
    fn encode(&self, out: &mut Vec<u8>, document: &Document, missing: u8) -> Result<bool> {
        let start = out.len();
        for path in &self.0 {
            match document.get(path)?.map(sortkey::scalar_of).transpose()? {
                Some(Some(scalar)) => sortkey::write_scalar(out, scalar),
                Some(None) => out.push(sortkey::ABSENT),
                None => out.push(missing),
            }
        }
        let is_indexed = out.get(start) != Some(&sortkey::ABSENT);
        if !is_indexed {
            out.truncate(start);
        }
        Ok(is_indexed)
    }
}

/// The name of an index on one path, of any text that is the path or the name of a field.
pub fn name_of_path(text: &str) -> String {
    match composite_paths(text) {
        Some(_) => Path::field(text).to_string(),
        None => text.to_owned(),
    }
}

impl fmt::Display for IndexColumns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [path] => path.fmt(f),
            paths => {
                f.write_str("(")?;
                for (at, path) in paths.iter().enumerate() {
                    write!(f, "{}{path}", if at == 0 { "" } else { ", " })?;
                }
                f.write_str(")")
            }
        }
    }
}

/// The paths in the name of a composite index; `None` for another name.
fn composite_paths(name: &str) -> Option<Vec<Path>> {
    let inner = name.strip_prefix('(')?.strip_suffix(')')?;
    let (mut paths, mut start, mut is_quoted) = (Vec::new(), 0, false);
    for (at, character) in inner.char_indices() {
        match character {
            '`' => is_quoted = !is_quoted,
            ',' if !is_quoted => {
                paths.push(Path::parse(inner.get(start..at)?).ok()?);
                start = at + ", ".len();
            }
            _ => {}
        }
    }
    paths.push(Path::parse(inner.get(start..)?).ok()?);
    // Only the form that `Display` writes is a name.
    let columns = IndexColumns(paths);
    (columns.is_composite() && columns.to_string() == name).then_some(columns.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_of_composite_indexes_round_trip(
            paths in prop::collection::vec(prop::collection::vec("[a1_`., ()é]{0,4}", 1..3), 2..5),
        ) {
            let columns = IndexColumns::new(paths.into_iter().map(Path::new).collect());
            prop_assert_eq!(IndexColumns::of(&columns.to_string()), columns);
        }

        #[test]
        fn a_path_never_has_the_name_of_a_composite_index(text in "[(ab`, .)]{0,9}") {
            let name = name_of_path(&text);
            prop_assert!(!IndexColumns::of(&name).is_composite());
            let path = match composite_paths(&text) {
                Some(_) => Path::field(&text),
                None => Path::of_index(&text),
            };
            prop_assert_eq!(IndexColumns::of(&name), IndexColumns::new(vec![path]));
        }
    }

    #[test]
    fn a_column_without_a_value_is_kept_except_the_first() {
        let columns = IndexColumns::of("(a, b.c)");
        let value = |json: &str| columns.value_of(&Document::from_json(json).unwrap()).unwrap();
        let event = |json: &str| columns.value_of_event(&Document::from_json(json).unwrap(), true).unwrap();
        assert_eq!(value(r#"{"a":true}"#), Some(vec![1, 1, sortkey::ABSENT]));
        assert_eq!(value(r#"{"a":true,"b":{"c":[]}}"#), Some(vec![1, 1, sortkey::ABSENT]));
        assert_eq!(value(r#"{"a":true,"b":{"c":false}}"#), Some(vec![1, 1, 1, 0]));
        assert_eq!(value(r#"{"b":{"c":false}}"#), None);
        assert_eq!(value(r#"{"a":null,"b":{"c":false}}"#), None);
        assert_eq!(event(r#"{"b":{"c":false}}"#), Some(vec![sortkey::UNKNOWN, 1, 0]));
        assert_eq!(event(r#"{"a":true}"#), Some(vec![1, 1, sortkey::UNKNOWN]));
        assert_eq!(event(r#"{"x":1}"#), None);
    }
}
