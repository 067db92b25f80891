//! Writes and reads the fields of a chunk, one after the other, and says which paths a chunk can name: a damaged or hostile chunk
//! cannot make a mirror write elsewhere.

use bytes::Bytes;

use crate::storage::layout::{is_table_directory, segment_number};

/// Why bytes are no chunk.
#[derive(Debug)]
pub(super) enum Invalid {
    /// The offset and the detail.
    Damaged(u64, String),
    /// A newer DriftDB has written it, in this version.
    Newer(u8),
}

/// Writes fields.
#[derive(Debug)]
pub(super) struct ChunkWriter(Vec<u8>);

impl ChunkWriter {
    pub(super) fn with_capacity(bytes: usize) -> ChunkWriter {
        ChunkWriter(Vec::with_capacity(bytes))
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    /// A number of bytes or of elements. A value that does not fit makes the chunk longer than a chunk may be.
    pub(super) fn count(&mut self, count: usize) {
        self.raw(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    }

    pub(super) fn block(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
        self.raw(&len.to_le_bytes());
        self.raw(text.as_bytes());
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads fields. Nothing is allocated because a stored length says so: blocks are slices of the chunk.
#[derive(Debug, Clone)]
pub(super) struct ChunkReader {
    bytes: Bytes,
    at: usize,
}

impl ChunkReader {
    pub(super) fn new(bytes: &Bytes) -> ChunkReader {
        ChunkReader { bytes: bytes.clone(), at: 0 }
    }

    fn damaged(&self, detail: &str) -> Invalid {
        Invalid::Damaged(self.at as u64, detail.to_owned())
    }

    fn take(&mut self, len: usize) -> Result<Bytes, Invalid> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| self.damaged("a field reaches beyond the end"))?;
        let taken = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(taken)
    }

    pub(super) fn skip(&mut self, len: usize) -> Result<(), Invalid> {
        self.take(len).map(drop)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Invalid> {
        let taken = self.take(N)?;
        <[u8; N]>::try_from(&taken[..]).map_err(|_| self.damaged("a field reaches beyond the end"))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Invalid> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn count(&mut self) -> Result<usize, Invalid> {
        let count = u32::from_le_bytes(self.array()?);
        usize::try_from(count).map_err(|_| self.damaged("a count is too large"))
    }

    pub(super) fn block(&mut self) -> Result<Bytes, Invalid> {
        let len = self.count()?;
        self.take(len)
    }

    /// A text that `is_valid` accepts: a path that leads out of the data directory is damage.
    pub(super) fn text(&mut self, is_valid: fn(&str) -> bool) -> Result<String, Invalid> {
        let len = usize::from(u16::from_le_bytes(self.array()?));
        let bytes = self.take(len)?;
        let text = std::str::from_utf8(&bytes).ok().filter(|text| is_valid(text));
        text.map(str::to_owned).ok_or_else(|| self.damaged("a path is not one that DriftDB writes"))
    }

    /// A list of elements that have at least `least` bytes each.
    pub(super) fn list<T>(
        &mut self,
        least: usize,
        read: fn(&mut ChunkReader) -> Result<T, Invalid>,
    ) -> Result<Vec<T>, Invalid> {
        let count = self.count()?;
        if count > (self.bytes.len() - self.at) / least {
            return Err(self.damaged("a list reaches beyond the end"));
        }
        (0..count).map(|_| read(self)).collect()
    }

    pub(super) fn end(&self) -> Result<(), Invalid> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.damaged("bytes follow the last field")) }
    }
}

/// The longest file name, in bytes.
const NAME_BYTES_MAX: usize = 200;

/// Whether a path is that of a file that a chunk replaces as a whole: `database.json`, `lineage.json`, `clock.json`, or a table's
/// `meta.json` or `schema.yaml`.
pub(super) fn is_replaced_path(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["database.json" | "lineage.json" | "clock.json"] => true,
        ["tables", table, "meta.json" | "schema.yaml"] => is_table_directory(table),
        _ => false,
    }
}

/// Whether a path is that of a segment, a layer or an index.
pub(super) fn is_immutable_path(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["tables", table, "segments", name] => is_table_directory(table) && segment_number(name).is_some(),
        ["tables", table, "snapshots", name] => is_table_directory(table) && is_file_name(name, ".snap"),
        ["tables", table, "indexes", name] => is_table_directory(table) && is_file_name(name, ".idx"),
        _ => false,
    }
}

fn is_file_name(name: &str, extension: &str) -> bool {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_.~-".contains(&byte);
    name.len() <= NAME_BYTES_MAX
        && name.len() > extension.len()
        && name.ends_with(extension)
        && !name.starts_with('.')
        && name.bytes().all(is_safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_cannot_name_a_file_outside_of_its_kind() {
        for path in [
            "database.json",
            "lineage.json",
            "clock.json",
            "tables/orders/meta.json",
            "tables/o.57/schema.yaml",
        ] {
            assert!(is_replaced_path(path) && !is_immutable_path(path), "{path}");
        }
        for path in [
            "tables/orders/segments/00000001.seg",
            "tables/orders/snapshots/00000000-00000100.snap",
            "tables/orders/indexes/status.00000100.idx",
            "tables/orders/indexes/~_a__b_~0123abcd0007.00000100.idx",
        ] {
            assert!(is_immutable_path(path) && !is_replaced_path(path), "{path}");
        }
        for path in [
            "",
            "HEAD",
            "LOCK",
            "../database.json",
            "/database.json",
            "tables/../meta.json",
            "tables/a/../meta.json",
            "tables/orders/segments/1.seg",
            "tables/orders/segments/00000001.seg.tmp",
            "tables/orders/snapshots/.snap",
            "tables/orders/snapshots/a\0.snap",
            "tables/orders/snapshots/x/y.snap",
            "tables/orders/indexes/a.snap",
        ] {
            assert!(!is_replaced_path(path) && !is_immutable_path(path), "{path}");
        }
    }
}
