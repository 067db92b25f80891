//! Reads HEAD: how far each table's log is durable, and what readers may show.

use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::head::{self, CELL, HeadIncarnation, Header, TableEntry};
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
    /// The current incarnation; all zeros in a HEAD of version 1.
    pub incarnation: HeadIncarnation,
    /// One entry per table.
    pub entries: Vec<TableEntry>,
}

impl Head {
    /// Returns the newest commit that the header or any entry names.
    pub fn last_seq(&self) -> u64 {
        self.entries.iter().map(|entry| entry.last_seq).fold(self.header.last_seq, u64::max)
    }

    /// Whether this HEAD says the same as another: how often they were written does not count.
    pub(crate) fn publishes_as(&self, other: &Head) -> bool {
        let header = Header { generation: other.header.generation, ..self.header };
        (header, self.incarnation, &self.entries) == (other.header, other.incarnation, &other.entries)
    }

    /// Decodes the content of a HEAD that was copied as a whole. Returns `None` if a cell is not valid.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Head> {
        let header = head::decode_header(bytes)?;
        let incarnation = match header.format {
            1 => HeadIncarnation::default(),
            _ => head::decode_incarnation(bytes)?,
        };
        let start = usize::try_from(head::cell_offset(header.table_entry_cell(0))).ok()?;
        let cells = bytes.get(start..)?;
        let entries = head::decode_table_entries(cells, header.table_entry_count, header.format);
        Some(Head { header, incarnation, entries: entries.into_iter().collect::<Option<_>>()? })
    }

    /// Encodes all cells of HEAD, in the newest version.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let header = Header { format: head::FORMAT_VERSION, ..self.header };
        let mut bytes = Vec::with_capacity((4 + self.entries.len()) * CELL);
        bytes.extend([0, 1].iter().flat_map(|copy| header.encode(*copy)));
        bytes.extend([0, 1].iter().flat_map(|copy| self.incarnation.encode(*copy)));
        for (entry, i) in self.entries.iter().zip(0..) {
            bytes.extend_from_slice(&entry.encode(i, header.format));
        }
        bytes
    }
}

/// HEAD, and the bytes of the table entries that it was decoded from.
#[derive(Debug)]
pub(crate) struct DecodedHead {
    pub(crate) head: Arc<Head>,
    cells: Vec<u8>,
}

/// Does the same as [`read`] for a process that reads HEAD again and again: decodes and checks only the entries whose bytes are
/// not those of the last time. Returns the same HEAD if nothing has changed.
pub(crate) fn read_again(
    fs: &dyn FileSystem,
    dir: &DataDir,
    last: Option<&DecodedHead>,
) -> Result<Option<DecodedHead>> {
    read_with_retries(fs, dir, |file| read_changed_cells(file, last))
}

/// Reads HEAD. Opens it fresh, because it may have been replaced and a network file system caches open files.
/// Returns `None` if HEAD does not exist.
pub fn read(fs: &dyn FileSystem, dir: &DataDir) -> Result<Option<Head>> {
    read_with_retries(fs, dir, |file| read_cells(file, Tolerance::None))
}

/// Does the same as [`read`] for the holder of the lock: returns a damaged entry as the entry of no table. The header
/// alone says what was published; recovery rebuilds entries from the log.
pub(crate) fn read_tolerant(fs: &dyn FileSystem, dir: &DataDir) -> Result<Option<Head>> {
    read_with_retries(fs, dir, |file| read_cells(file, Tolerance::EntriesAndIncarnation))
}

/// Does the same as [`read`], and returns a damaged entry as the entry of no table. The incarnation must be valid: without it
/// nothing shows whose history it is.
pub(crate) fn read_with_damaged_entries(fs: &dyn FileSystem, dir: &DataDir) -> Result<Option<Head>> {
    read_with_retries(fs, dir, |file| read_cells(file, Tolerance::Entries))
}

/// Reads the header of HEAD. Opens HEAD fresh. Returns `None` if HEAD does not exist.
pub(crate) fn read_header(fs: &dyn FileSystem, dir: &DataDir) -> Result<Option<Header>> {
    read_with_retries(fs, dir, |file| Ok(read_copies(file)?.0.ok_or(0)))
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

/// Reads both copies of the header and of the incarnation, and returns the later valid ones.
fn read_copies(file: &dyn File) -> io::Result<(Option<Header>, Option<HeadIncarnation>)> {
    let mut copies = [0; 4 * CELL];
    let read = file.read_at(&mut copies, 0)?;
    let copies = copies.get(..read).unwrap_or_default();
    Ok((head::decode_header(copies), head::decode_incarnation(copies)))
}

/// Which damaged cells of HEAD are replaced by empty ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tolerance {
    None,
    Entries,
    EntriesAndIncarnation,
}

/// Reads the header first, then the entries, because the writer writes entries before the header that counts them.
/// The inner error is the offset of the first cell that is not valid.
fn read_cells(file: &dyn File, tolerance: Tolerance) -> io::Result<std::result::Result<Head, u64>> {
    let (header, incarnation, cells) = match read_parts(file, tolerance)? {
        Ok(parts) => parts,
        Err(offset) => return Ok(Err(offset)),
    };
    let found = head::decode_table_entries(&cells, header.table_entry_count, header.format);
    let mut entries = Vec::with_capacity(found.len());
    for (entry, i) in found.into_iter().zip(0..) {
        match entry {
            Some(entry) => entries.push(entry),
            None if tolerance != Tolerance::None => entries.push(TableEntry::default()),
            None => return Ok(Err(head::cell_offset(header.table_entry_cell(i)))),
        }
    }
    Ok(Ok(Head { header, incarnation, entries }))
}

/// Does the same as [`read_cells`] without tolerance, and takes the entries whose bytes are as before from the last HEAD.
fn read_changed_cells(
    file: &dyn File,
    last: Option<&DecodedHead>,
) -> io::Result<std::result::Result<DecodedHead, u64>> {
    let (header, incarnation, cells) = match read_parts(file, Tolerance::None)? {
        Ok(parts) => parts,
        Err(offset) => return Ok(Err(offset)),
    };
    let last = last.filter(|last| last.head.header.format == header.format);
    if let Some(DecodedHead { head, cells: known }) = last
        && (head.header, head.incarnation) == (header, incarnation)
        && *known == cells
    {
        return Ok(Ok(DecodedHead { head: Arc::clone(head), cells }));
    }
    let count = usize::from(header.table_entry_count);
    let mut entries = Vec::with_capacity(count);
    let mut known = last.into_iter().flat_map(|last| last.cells.chunks_exact(CELL).zip(&last.head.entries));
    let mut found = cells.chunks_exact(CELL);
    for i in 0..count as u64 {
        let (cell, known) = (found.next(), known.next());
        let entry = match (cell, known) {
            (Some(cell), Some((known, entry))) if cell == known => Some(*entry),
            (Some(cell), _) => head::decode_table_entry(cell, i, header.format),
            (None, _) => None,
        };
        let Some(entry) = entry else { return Ok(Err(head::cell_offset(header.table_entry_cell(i)))) };
        entries.push(entry);
    }
    Ok(Ok(DecodedHead { head: Arc::new(Head { header, incarnation, entries }), cells }))
}

/// The header, the incarnation, and the bytes of the entries.
type HeadParts = (Header, HeadIncarnation, Vec<u8>);

fn read_parts(file: &dyn File, tolerance: Tolerance) -> io::Result<std::result::Result<HeadParts, u64>> {
    let (Some(header), incarnation) = read_copies(file)? else { return Ok(Err(0)) };
    let incarnation = match incarnation {
        Some(incarnation) if header.format > 1 => incarnation,
        // The next incarnation replaces it.
        None if header.format > 1 && tolerance != Tolerance::EntriesAndIncarnation => {
            return Ok(Err(head::cell_offset(head::incarnation_cell(0))));
        }
        _ => HeadIncarnation::default(),
    };
    let mut cells = vec![0; usize::from(header.table_entry_count) * CELL];
    let read = file.read_at(&mut cells, head::cell_offset(header.table_entry_cell(0)))?;
    cells.truncate(read);
    Ok(Ok((header, incarnation, cells)))
}
