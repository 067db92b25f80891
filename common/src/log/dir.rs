//! Where everything stands in a data directory.

use std::path::{Path, PathBuf};

use crate::error::{Error, Reason, Result};
use crate::format::manifest;
use crate::log::disk::{self, Disk};

/// A data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The data directory at a path.
    pub fn new(path: impl Into<PathBuf>) -> DataDir {
        DataDir(path.into())
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// The process-global lock.
    pub fn lock(&self) -> PathBuf {
        self.0.join("LOCK")
    }

    /// The commit watermark.
    pub fn head(&self) -> PathBuf {
        self.0.join("HEAD")
    }

    /// What names the database.
    pub fn database(&self) -> PathBuf {
        self.0.join("database.json")
    }

    /// The directory of all tables.
    pub fn tables(&self) -> PathBuf {
        self.0.join("tables")
    }

    /// A table's directory.
    pub fn table(&self, table: &str) -> PathBuf {
        self.tables().join(table)
    }

    /// A table's manifest.
    pub fn manifest(&self, table: &str) -> PathBuf {
        self.table(table).join("meta.json")
    }

    /// A table's schema, for people.
    pub fn schema(&self, table: &str) -> PathBuf {
        self.table(table).join("schema.yaml")
    }

    /// The directory of a table's segments.
    pub fn segments(&self, table: &str) -> PathBuf {
        self.table(table).join("segments")
    }

    /// A segment.
    pub fn segment(&self, table: &str, number: u64) -> PathBuf {
        self.segments(table).join(format!("{number:08}.seg"))
    }

    /// Where bytes that recovery cut from a segment are kept: beside it.
    pub fn torn(&self, table: &str, number: u64, term: u64) -> PathBuf {
        self.segments(table).join(format!("{number:08}.torn.{term}"))
    }
}

/// The number in a segment's file name; `None` for other files.
pub fn segment_number(file_name: &str) -> Option<u64> {
    let digits = file_name.strip_suffix(".seg")?;
    let number = digits.parse().ok()?;
    (number > 0 && digits == format!("{number:08}")).then_some(number)
}

/// Reads `database.json`; `None` where there is none.
pub fn read_database(disk: &dyn Disk, dir: &DataDir) -> Result<Option<manifest::Database>> {
    let database: Option<manifest::Database> = read_checked(disk, &dir.database())?;
    if let Some(database) = &database
        && database.format != crate::format::head::FORMAT_VERSION
    {
        let message = format!(
            "{} says format {}, and this version of DriftDB reads format {}",
            dir.database().display(),
            database.format,
            crate::format::head::FORMAT_VERSION
        );
        return Err(Error::new(Reason::NotSupported, message));
    }
    Ok(database)
}

/// Reads a table's manifest; `None` where there is none.
pub fn read_manifest(disk: &dyn Disk, dir: &DataDir, table: &str) -> Result<Option<manifest::Manifest>> {
    let path = dir.manifest(table);
    let found: Option<manifest::Manifest> = read_checked(disk, &path)?;
    if let Some(found) = &found {
        let sealed_but_last = found.segments.split_last().is_some_and(|(active, sealed)| {
            active.sealed.is_none()
                && sealed.iter().all(|segment| segment.sealed.is_some())
                && found.segments.is_sorted_by(|a, b| a.number < b.number)
        });
        if found.table != table || !sealed_but_last {
            return Err(Error::corrupt(path.display(), 0, "it does not describe this table's segments"));
        }
    }
    Ok(found)
}

fn read_checked<T: serde::de::DeserializeOwned>(disk: &dyn Disk, path: &Path) -> Result<Option<T>> {
    let Some(bytes) = disk::read(disk, path, manifest::FILE_BYTES)? else { return Ok(None) };
    manifest::decode(&bytes).map(Some).map_err(|what| Error::corrupt(path.display(), 0, what))
}

/// The names of the tables' directories, of those that tables can have.
pub fn table_names(disk: &dyn Disk, dir: &DataDir) -> Result<Vec<String>> {
    let names = match disk.list(&dir.tables()) {
        Ok(names) => names,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(Error::io(format_args!("cannot list {}", dir.tables().display()), &e)),
    };
    Ok(names.into_iter().filter(|name| is_table_name(name)).collect())
}

/// Whether a table can have this name. Such a name is a safe file name on every system.
pub fn is_table_name(name: &str) -> bool {
    name.len() <= crate::limits::TABLE_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_file_names_are_segments() {
        assert_eq!(segment_number("00000012.seg"), Some(12));
        assert_eq!(segment_number("123456789.seg"), Some(123_456_789));
        for name in ["12.seg", "00000000.seg", "00000001.seg.tmp", "+0000001.seg", "000000001.seg", ".seg"] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }

    #[test]
    fn table_names_cannot_leave_the_directory() {
        assert!(is_table_name("_orders2"));
        for name in ["", "..", "a/b", "a\0", "1a", "é", &"x".repeat(64), "a b", "%2e"] {
            assert!(!is_table_name(name), "{name:?}");
        }
    }
}
