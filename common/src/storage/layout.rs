//! The paths of all files in a data directory, and the readers of `database.json` and `meta.json`.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Reason, Result};
use crate::format::head::{FORMAT_VERSION, OLDEST_FORMAT_VERSION};
use crate::format::lineage::Lineage;
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

    /// `LOCK`: the lock that the writer holds.
    pub fn lock(&self) -> PathBuf {
        self.0.join("LOCK")
    }

    /// `HEAD`: how far each table's log is durable.
    pub fn head(&self) -> PathBuf {
        self.0.join("HEAD")
    }

    /// The temporary file of the HEAD that the writer of a term creates.
    pub(crate) fn head_tmp(&self, term: u64) -> PathBuf {
        self.0.join(format!("HEAD.{term}.tmp"))
    }

    /// `RESERVE`: blocks that the writer gives up when the disk is full.
    pub(crate) fn reserve(&self) -> PathBuf {
        self.0.join("RESERVE")
    }

    /// The file that the writer creates and removes to find out whether the disk has room again.
    pub(crate) fn reserve_tmp(&self) -> PathBuf {
        self.0.join("RESERVE.tmp")
    }

    /// `database.json`: the database's id and format.
    pub fn database(&self) -> PathBuf {
        self.0.join("database.json")
    }

    /// `lineage.json`: the incarnations of the database.
    pub fn lineage(&self) -> PathBuf {
        self.0.join(LINEAGE)
    }

    /// The temporary file of the lineage that the writer of a term creates.
    pub(crate) fn lineage_tmp(&self, term: u64) -> PathBuf {
        self.0.join(format!("{LINEAGE_TMP}{term}{TMP}"))
    }

    /// `clock.json`: the last time that a writer saw.
    pub fn clock(&self) -> PathBuf {
        self.0.join("clock.json")
    }

    /// The temporary file of the time that the writer of a term saw.
    pub(crate) fn clock_tmp(&self, term: u64) -> PathBuf {
        self.0.join(format!("{CLOCK_TMP}{term}{TMP}"))
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

    /// The temporary file of a manifest that the writer of a term creates. No two terms share a name, so a writer cannot
    /// install a file after the writer of a later term has removed it.
    pub(crate) fn manifest_tmp(&self, table: &str, term: u64) -> PathBuf {
        self.table(table).join(format!("meta.{term}.tmp"))
    }

    /// The temporary file of a manifest that a job changes while the log may write [`DataDir::manifest_tmp`].
    pub(crate) fn manifest_edit_tmp(&self, table: &str, term: u64) -> PathBuf {
        self.table(table).join(format!("meta.{term}.edit.tmp"))
    }

    /// The temporary file of a `schema.yaml` that the writer of a term creates.
    pub(crate) fn schema_tmp(&self, table: &str, term: u64) -> PathBuf {
        self.table(table).join(format!("schema.{term}.tmp"))
    }

    /// A table's `schema.yaml`. It is for people only; DriftDB does not read it.
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

    /// The temporary file of a segment that the writer of a term creates.
    pub(crate) fn segment_tmp(&self, table: &str, number: u64, term: u64) -> PathBuf {
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

    /// A delta layer: what happened after commit `base`, up to and with commit `seq`.
    pub fn delta_layer(&self, table: &str, base: u64, seq: u64) -> PathBuf {
        self.snapshots(table).join(format!("{}.snap", delta_stem(base, seq)))
    }

    /// An image layer: all live rows after commit `seq`.
    pub fn image_layer(&self, table: &str, seq: u64) -> PathBuf {
        self.snapshots(table).join(format!("{}.snap", image_stem(seq)))
    }

    /// The index on a document path, for the layer whose file name has this stem.
    pub fn index(&self, table: &str, path: &str, stem: &str) -> PathBuf {
        self.indexes(table).join(format!("{}.{stem}.idx", safe_file_name(path)))
    }

    /// The file that keeps the bytes that recovery cut from a segment.
    pub fn torn_tail(&self, table: &str, number: u64, term: u64) -> PathBuf {
        self.segments(table).join(format!("{number:08}.torn.{term}"))
    }
}

/// The end of the name of an unfinished segment.
pub(crate) const SEGMENT_TMP: &str = ".seg.tmp";
/// The end of the name of every unfinished file.
pub(crate) const TMP: &str = ".tmp";

/// The name of the record of a directory that is the copy of a bucket.
pub(crate) const MIRROR_RECORD: &str = "bucket.json";
/// The name of `lineage.json`.
pub(crate) const LINEAGE: &str = "lineage.json";
/// The start of the name of an unfinished `lineage.json`.
const LINEAGE_TMP: &str = "lineage.";
/// The start of the name of an unfinished `clock.json`.
const CLOCK_TMP: &str = "clock.";

/// Returns whether a file is an unfinished `lineage.json` or `clock.json`.
pub(crate) fn is_record_tmp(file_name: &str) -> bool {
    [LINEAGE_TMP, CLOCK_TMP].iter().any(|start| file_name.starts_with(start)) && file_name.ends_with(TMP)
}

/// Returns the term in the name of an unfinished HEAD; `None` for other files.
pub(crate) fn head_tmp_term(file_name: &str) -> Option<u64> {
    file_name.strip_prefix("HEAD.")?.strip_suffix(TMP)?.parse().ok()
}

/// Returns the file name of a delta layer, without its extension.
pub fn delta_stem(base: u64, seq: u64) -> String {
    format!("{base:08}-{seq:08}")
}

/// Returns the file name of an image layer, without its extension.
pub fn image_stem(seq: u64) -> String {
    format!("{seq:08}")
}

/// Returns the name under which a damaged layer or index is kept, so that a new file can take its own.
pub fn set_aside_path(path: &Path, term: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged.{term}"));
    name.into()
}

/// Returns the paths of the layers and indexes that a manifest lists.
pub fn snapshot_files(dir: &DataDir, manifest: &manifest::Manifest) -> Vec<PathBuf> {
    let name = &manifest.table;
    let deltas = manifest.deltas.iter().map(|layer| {
        (dir.delta_layer(name, layer.base, layer.seq), delta_stem(layer.base, layer.seq), &layer.indexes)
    });
    let images = manifest
        .images
        .iter()
        .map(|layer| (dir.image_layer(name, layer.seq), image_stem(layer.seq), &layer.indexes));
    let mut files = Vec::new();
    for (file, stem, indexes) in deltas.chain(images) {
        files.push(file);
        files.extend(indexes.iter().map(|path| dir.index(name, path, &stem)));
    }
    files
}

/// Returns a document path as a safe file name: the path itself if it is safe, else a part of it with its checksum, which
/// keeps different paths apart.
fn safe_file_name(path: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    if path.len() <= 64 && path.starts_with(|c: char| safe(c) && c != '.') && path.chars().all(safe) {
        return path.to_owned();
    }
    let word: String = path.chars().take(40).map(|c| if safe(c) { c } else { '_' }).collect();
    format!("~{word}~{:08x}{:04x}", crc32fast::hash(path.as_bytes()), path.len())
}

/// Returns the number in a segment's file name; `None` for other files.
pub fn segment_number(file_name: &str) -> Option<u64> {
    let digits = file_name.strip_suffix(".seg")?;
    let number = digits.parse().ok()?;
    (number > 0 && digits == format!("{number:08}")).then_some(number)
}

/// Returns the numbers of the segment files in a table's directory, in ascending order.
pub(crate) fn segment_numbers(fs: &dyn FileSystem, dir: &DataDir, table: &str) -> Result<Vec<u64>> {
    let path = dir.segments(table);
    match fs.list(&path) {
        Ok(names) => Ok(names.iter().filter_map(|name| segment_number(name)).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(format_args!("cannot list {}", path.display()), &e)),
    }
}

/// Reads `database.json`. Returns `None` if it does not exist.
pub fn read_database(fs: &dyn FileSystem, dir: &DataDir) -> Result<Option<manifest::Database>> {
    let database: Option<manifest::Database> = read_checked(fs, &dir.database())?;
    if let Some(database) = &database
        && !(OLDEST_FORMAT_VERSION..=FORMAT_VERSION).contains(&database.format)
    {
        let message = format!(
            "cannot open {}: it has format {}, and this version of DriftDB supports formats {OLDEST_FORMAT_VERSION} to {FORMAT_VERSION}",
            dir.database().display(),
            database.format,
        );
        return Err(Error::new(Reason::NotSupported, message));
    }
    Ok(database)
}

/// Reads `lineage.json`. Returns `None` if it does not exist.
pub(crate) fn read_lineage(fs: &dyn FileSystem, dir: &DataDir) -> Result<Option<Lineage>> {
    read_checked(fs, &dir.lineage())
}

/// Reads `clock.json`. Returns `None` if it does not exist.
pub(crate) fn read_clock_record(fs: &dyn FileSystem, dir: &DataDir) -> Result<Option<manifest::ClockRecord>> {
    read_checked(fs, &dir.clock())
}

/// Reads a table's manifest. Returns `None` if it does not exist.
pub fn read_manifest(fs: &dyn FileSystem, dir: &DataDir, table: &str) -> Result<Option<manifest::Manifest>> {
    let path = dir.manifest(table);
    let found: Option<manifest::Manifest> = read_checked(fs, &path)?;
    if let Some(found) = &found
        && let Err(detail) = check_manifest(found, table)
    {
        return Err(Error::corrupt(path.display(), 0, detail));
    }
    Ok(found)
}

/// Checks that a manifest is that of a table, and that its segments and layers are in order.
fn check_manifest(found: &manifest::Manifest, table: &str) -> Result<(), String> {
    if found.table != table {
        return Err(format!("the manifest is that of table {:?}", found.table));
    }
    let only_last_is_active = found.segments.split_last().is_some_and(|(active, sealed)| {
        active.sealed.is_none()
            && sealed.iter().all(|segment| segment.sealed.is_some())
            && sealed.iter().all(|segment| segment.number != active.number)
    });
    if !only_last_is_active {
        return Err("the last segment must be active and all others sealed".to_owned());
    }
    let floor = found.floor.map_or(0, |floor| floor.seq);
    let in_order = found.deltas.iter().all(|layer| layer.base < layer.seq || (layer.is_compaction_base() && layer.seq <= floor))
        // The floor may lie within a delta layer. The compaction base then ends after the start of that layer.
        && found.deltas.is_sorted_by(|a, b| a.seq <= b.base || (a.is_compaction_base() && a.seq < b.seq))
        && found.images.is_sorted_by(|a, b| a.seq < b.seq);
    if in_order { Ok(()) } else { Err("the layers are not in ascending order".to_owned()) }
}

fn read_checked<T: serde::de::DeserializeOwned>(fs: &dyn FileSystem, path: &Path) -> Result<Option<T>> {
    let Some(bytes) = fs::read(fs, path, manifest::FILE_BYTES)? else { return Ok(None) };
    manifest::decode(&bytes).map(Some).map_err(|detail| Error::corrupt(path.display(), 0, detail))
}

/// Returns the names of the table directories, sorted. Skips names that no table's directory can have.
pub fn table_names(fs: &dyn FileSystem, dir: &DataDir) -> Result<Vec<String>> {
    let names = match fs.list(&dir.tables()) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(fs::read_failed(&dir.tables(), &e)),
    };
    Ok(names.into_iter().filter(|name| is_table_directory(name)).collect())
}

/// Returns whether a table can have this name. Such a name is a safe file name on every system.
pub(crate) fn is_table_name(name: &str) -> bool {
    name.len() <= crate::limits::TABLE_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Returns whether a table's directory can have this name: a table's name, and the table's id if it was not the first of its name.
pub(crate) fn is_table_directory(name: &str) -> bool {
    match name.split_once('.') {
        None => is_table_name(name),
        Some((name, id)) => is_table_name(name) && is_table_id(id),
    }
}

/// Returns whether a text is a table's id as it is written: without leading zeros.
fn is_table_id(text: &str) -> bool {
    text.parse::<u64>().is_ok_and(|id| id > 0 && id.to_string() == text)
}

/// Returns the name for the directory of a new table: its own name, or if a directory has that name in any case, with its id.
pub fn new_table_directory(name: &str, id: u64, is_taken: impl Fn(&str) -> bool) -> String {
    if is_taken(name) { format!("{name}.{id}") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_driftdb_writes_are_segments() {
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
            assert!(!is_table_name(name) && !is_table_directory(name), "{name:?}");
        }
        assert!(is_table_directory("orders") && is_table_directory("orders.57"));
        for name in
            ["orders.", "orders.0", "orders.07", "orders.+7", "orders.57.torn.2", "orders.torn.2", ".57"]
        {
            assert!(!is_table_directory(name), "{name:?}");
        }
    }
}
