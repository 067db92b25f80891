//! Reads HEAD: how far each table's log is durable, and what readers may show.

use std::io;

use crate::error::{Error, Result};
use crate::format::head::{self, CELL, Header, TableEntry};
use crate::storage::fs::{self, File, FileSystem};
use crate::storage::layout::DataDir;

/// How often a read is retried if a writer was writing a cell at that point in time.
const READ_TRIES: u32 = 50;
/// The detail of the error for a damaged cell.
const NO_VALID_CELL: &str = "the cell is not valid";

/// HEAD as read at one point in time. A table entry may be newer than the header, never older.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The later valid copy of the header.
    pub header: Header,
    /// One entry per table.
    pub entries: Vec<TableEntry>,
}

impl Head {
    /// Returns the newest commit that the header or any entry names.
    pub fn last_seq(&self) -> u64 {
        self.entries.iter().map(|entry| entry.last_seq).fold(self.header.last_seq, u64::max)
    }

    /// Encodes all cells of HEAD.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity((2 + self.entries.len()) * CELL);
        bytes.extend_from_slice(&self.header.encode(0));
        bytes.extend_from_slice(&self.header.encode(1));
        for (entry, i) in self.entries.iter().zip(0..) {
            bytes.extend_from_slice(&entry.encode(i));
        }
        bytes
    }
}

/// Reads HEAD. Opens it fresh, because it may have been replaced and a network file system caches open files.
/// Returns `None` if HEAD does not exist.
pub fn read(fs: &dyn FileSystem, dir: &DataDir) -> Result<Option<Head>> {
    read_with_retries(fs, dir, |file| read_cells(file, false))
}

/// Does the same as [`read`] for the holder of the lock: returns a damaged entry as the entry of no table. The header
/// alone says what was published; recovery rebuilds entries from the log.
pub(crate) fn read_tolerant(fs: &dyn FileSystem, dir: &DataDir) -> Result<Option<Head>> {
    read_with_retries(fs, dir, |file| read_cells(file, true))
}

/// Reads the header of HEAD. Opens HEAD fresh. Returns `None` if HEAD does not exist.
pub(crate) fn read_header(fs: &dyn FileSystem, dir: &DataDir) -> Result<Option<Header>> {
    read_with_retries(fs, dir, |file| Ok(read_header_copies(file)?.ok_or(0)))
}

/// Reads HEAD until `read` finds valid cells. The inner error of `read` is the offset of a cell that is not valid.
fn read_with_retries<T>(
    fs: &dyn FileSystem,
    dir: &DataDir,
    read: impl Fn(&dyn File) -> io::Result<std::result::Result<T, u64>>,
) -> Result<Option<T>> {
    let path = dir.head();
    for last_try in (0..READ_TRIES).map(|i| i + 1 == READ_TRIES) {
        let found = fs.open_fresh(&path).and_then(|file| read(&*file));
        match found {
            Ok(Ok(found)) => return Ok(Some(found)),
            // The writer may be writing the cell at this moment. A damaged cell stays damaged.
            Ok(Err(_)) if !last_try => std::thread::yield_now(),
            Ok(Err(offset)) => return Err(Error::corrupt(path.display(), offset, NO_VALID_CELL)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            // HEAD was replaced between the open and the read.
            Err(e) if fs::is_gone(&e) && !last_try => std::thread::yield_now(),
            Err(e) => return Err(Error::io(format_args!("cannot read {}", path.display()), &e)),
        }
    }
    Err(Error::corrupt(path.display(), 0, NO_VALID_CELL))
}

/// Reads both copies of the header, and returns the later valid one.
fn read_header_copies(file: &dyn File) -> io::Result<Option<Header>> {
    let mut copies = [0; 2 * CELL];
    let read = file.read_at(&mut copies, 0)?;
    Ok(copies.get(..read).and_then(head::decode_header))
}

/// Reads the header first, then the entries, because the writer writes entries before the header that counts them.
/// The inner error is the offset of the first cell that is not valid.
fn read_cells(file: &dyn File, tolerant: bool) -> io::Result<std::result::Result<Head, u64>> {
    let Some(header) = read_header_copies(file)? else { return Ok(Err(0)) };
    let mut cells = vec![0; usize::from(header.table_entry_count) * CELL];
    let read = file.read_at(&mut cells, head::cell_offset(head::table_entry_cell(0)))?;
    let found = head::decode_table_entries(cells.get(..read).unwrap_or_default(), header.table_entry_count);
    let mut entries = Vec::with_capacity(found.len());
    for (entry, i) in found.into_iter().zip(0..) {
        match entry {
            Some(entry) => entries.push(entry),
            None if tolerant => entries.push(TableEntry::default()),
            None => return Ok(Err(head::cell_offset(head::table_entry_cell(i)))),
        }
    }
    Ok(Ok(Head { header, entries }))
}
