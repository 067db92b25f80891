//! Where everything stands in a data directory.

use std::path::{Path, PathBuf};

use crate::error::{Error, Reason, Result};
use crate::format::manifest;
use crate::storage::fs::{self, FileSystem};

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

    /// A commit watermark that the writer of a term is making.
    pub fn head_tmp(&self, term: u64) -> PathBuf {
        self.0.join(format!("HEAD.{term}.tmp"))
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

    /// A manifest that the writer of a term is making. No two terms share a name: what one removes, the other cannot put
    /// in place.
    pub fn manifest_tmp(&self, table: &str, term: u64) -> PathBuf {
        self.table(table).join(format!("meta.{term}.tmp"))
    }

    /// A schema for people that the writer of a term is making.
    pub fn schema_tmp(&self, table: &str, term: u64) -> PathBuf {
        self.table(table).join(format!("schema.{term}.tmp"))
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

    /// A segment that the writer of a term is making.
    pub fn segment_tmp(&self, table: &str, number: u64, term: u64) -> PathBuf {
        self.segments(table).join(format!("{number:08}.{term}{SEGMENT_TMP}"))
    }

    /// The directory of a table's snapshots.
    pub fn snapshots(&self, table: &str) -> PathBuf {
        self.table(table).join("snapshots")
    }

    /// The directory of a table's secondary indexes.
    pub fn indexes(&self, table: &str) -> PathBuf {
        self.table(table).join("indexes")
    }

    /// A file of what happened after one commit, up to another.
    pub fn era(&self, table: &str, base: u64, seq: u64) -> PathBuf {
        self.snapshots(table).join(format!("{}.snap", delta_stem(base, seq)))
    }

    /// A file of all live rows at a moment.
    pub fn full(&self, table: &str, seq: u64) -> PathBuf {
        self.snapshots(table).join(format!("{seq:08}.snap"))
    }

    /// The index on a path, of the snapshot file with a stem.
    pub fn index(&self, table: &str, path: &str, stem: &str) -> PathBuf {
        self.indexes(table).join(format!("{}.{stem}.idx", file_word(path)))
    }

    /// Where bytes that recovery cut from a segment are kept: beside it.
    pub fn torn(&self, table: &str, number: u64, term: u64) -> PathBuf {
        self.segments(table).join(format!("{number:08}.torn.{term}"))
    }
}

/// How the names of segments end that are not finished.
pub const SEGMENT_TMP: &str = ".seg.tmp";
/// How the names of all files end that are not finished.
pub const TMP: &str = ".tmp";

/// The term in the name of a HEAD that is not finished; `None` for other files.
pub fn head_tmp_term(file_name: &str) -> Option<u64> {
    file_name.strip_prefix("HEAD.")?.strip_suffix(TMP)?.parse().ok()
}

/// The name of an era's file, without its extension.
pub fn delta_stem(base: u64, seq: u64) -> String {
    format!("{base:08}-{seq:08}")
}

/// The name of a file of all rows, without its extension.
pub fn image_stem(seq: u64) -> String {
    format!("{seq:08}")
}

/// The snapshots and indexes of a table that a manifest names.
pub fn snapshot_files(dir: &DataDir, manifest: &manifest::Manifest) -> Vec<PathBuf> {
    let name = &manifest.table;
    let era = |era: &manifest::DeltaLayer| (dir.era(name, era.base, era.seq), delta_stem(era.base, era.seq));
    let deltas = manifest.deltas.iter().map(|file| (era(file), &file.indexes));
    let full = |full: &manifest::ImageLayer| (dir.full(name, full.seq), image_stem(full.seq));
    let images = manifest.images.iter().map(|file| (full(file), &file.indexes));
    let mut files = Vec::new();
    for ((file, stem), indexes) in deltas.chain(images) {
        files.push(file);
        files.extend(indexes.iter().map(|path| dir.index(name, path, &stem)));
    }
    files
}

/// A word for a path that is safe in a file name. Where it is not the path itself, its checksum tells it from others.
fn file_word(path: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    if path.len() <= 64 && path.starts_with(|c: char| safe(c) && c != '.') && path.chars().all(safe) {
        return path.to_owned();
    }
    let word: String = path.chars().take(40).map(|c| if safe(c) { c } else { '_' }).collect();
    format!("~{word}~{:08x}{:04x}", crc32fast::hash(path.as_bytes()), path.len())
}

/// The number in a segment's file name; `None` for other files.
pub fn segment_number(file_name: &str) -> Option<u64> {
    let digits = file_name.strip_suffix(".seg")?;
    let number = digits.parse().ok()?;
    (number > 0 && digits == format!("{number:08}")).then_some(number)
}

/// Reads `database.json`; `None` where there is none.
pub fn read_database(disk: &dyn FileSystem, dir: &DataDir) -> Result<Option<manifest::Database>> {
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
pub fn read_manifest(
    disk: &dyn FileSystem,
    dir: &DataDir,
    table: &str,
) -> Result<Option<manifest::Manifest>> {
    let path = dir.manifest(table);
    let found: Option<manifest::Manifest> = read_checked(disk, &path)?;
    if let Some(found) = &found {
        let sealed_but_last = found.segments.split_last().is_some_and(|(active, sealed)| {
            active.sealed.is_none()
                && sealed.iter().all(|segment| segment.sealed.is_some())
                && sealed.iter().all(|segment| segment.number != active.number)
        });
        let floor = found.floor.map_or(0, |floor| floor.seq);
        let in_order = found.deltas.iter().all(|era| era.base < era.seq || (era.is_compaction_base() && era.seq <= floor))
            // The floor may stand within an era: what is folded then ends after that era's beginning.
            && found.deltas.is_sorted_by(|a, b| a.seq <= b.base || (a.is_compaction_base() && a.seq < b.seq))
            && found.images.is_sorted_by(|a, b| a.seq < b.seq);
        if found.table != table || !sealed_but_last || !in_order {
            return Err(Error::corrupt(path.display(), 0, "it does not describe this table's segments"));
        }
    }
    Ok(found)
}

fn read_checked<T: serde::de::DeserializeOwned>(disk: &dyn FileSystem, path: &Path) -> Result<Option<T>> {
    let Some(bytes) = fs::read(disk, path, manifest::FILE_BYTES)? else { return Ok(None) };
    manifest::decode(&bytes).map(Some).map_err(|what| Error::corrupt(path.display(), 0, what))
}

/// The names of the tables' directories, of those that tables can have.
pub fn table_names(disk: &dyn FileSystem, dir: &DataDir) -> Result<Vec<String>> {
    let names = match disk.list(&dir.tables()) {
        Ok(names) => names,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(fs::read_failed(&dir.tables(), &e)),
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
