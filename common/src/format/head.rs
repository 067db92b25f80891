//! HEAD: how far the log is durable, in cells of 64 bytes with a CRC each.
//!
//! Cells 0 and 1 are two copies of the header, written alternately, so that a torn write leaves one of them valid. Cells 2 and 3
//! are two copies of the incarnation, which version 1 does not have. Then come the table entries. See `FORMAT.md`.

/// The length of a cell, in bytes.
pub const CELL: usize = 64;
/// The version of the disk format that DriftDB writes. Each version is for what an older DriftDB would take for damage: it reports the
/// version instead. Since 2, HEAD names the incarnation; since 3, a schema can have composite indexes; since 4, a table
/// can be renamed, and one name can belong to several tables in turn.
pub const FORMAT_VERSION: u8 = 4;
/// The oldest version of the disk format that DriftDB reads. An open for writing upgrades the database.
pub(crate) const OLDEST_FORMAT_VERSION: u8 = 1;

const HEADER_MAGIC: [u8; 4] = *b"DRHD";
const INCARNATION_MAGIC: [u8; 4] = *b"DRIN";
const TABLE_ENTRY_MAGIC: [u8; 4] = *b"DRSL";

/// The header: the identity of the database and its history, and the last published commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The database's id, a UUID.
    pub database_id: [u8; 16],
    /// The id of this history. A restore starts another.
    pub epoch: u64,
    /// The number of times that a writer has opened the database.
    pub term: u64,
    /// The seq of the last published commit; 0 before the first.
    pub last_seq: u64,
    /// The time of that commit, in milliseconds since 1970.
    pub last_ms: u64,
    /// Incremented (wrapping) at each write of a header. Of two valid copies, the one with the later generation counts.
    pub generation: u32,
    /// The number of table entries after the header copies.
    pub table_entry_count: u16,
    /// Whether the last writer closed the database: no segment has bytes beyond its table entry.
    pub closed: bool,
    /// The format version of HEAD.
    pub format: u8,
}

/// The current incarnation of the database: the last open for writing that has finished its recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeadIncarnation {
    /// The random number that names it; 0 if the database has had none yet.
    pub id: u64,
    /// The last commit before it began.
    pub start: u64,
    /// The term in which it began. If the header has a later term, a later writer has not finished its recovery.
    pub term: u64,
}

/// A table entry of HEAD: how far the log of one table is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableEntry {
    /// The table's id: the seq that created the table. 0 if the entry is unused.
    pub table: u64,
    /// The version of the manifest that lists the segment.
    pub manifest: u64,
    /// The active segment's number.
    pub segment: u64,
    /// The number of bytes of the active segment that are durable.
    pub bytes: u64,
    /// The seq of the last commit with a frame in this table.
    pub last_seq: u64,
    /// The floor: the oldest seq at which the table can be read; 0 if all history is kept.
    pub floor: u64,
}

/// Writes the fields of a cell, one after the other.
struct CellWriter {
    cell: [u8; CELL],
    position: usize,
}

impl CellWriter {
    fn new(magic: [u8; 4]) -> Self {
        let mut writer = CellWriter { cell: [0; CELL], position: 0 };
        writer.put(&magic);
        writer.position += 4; // `finish` writes the CRC
        writer
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(field) = self.cell.get_mut(self.position..self.position + bytes.len()) {
            field.copy_from_slice(bytes);
        }
        self.position += bytes.len();
    }

    fn finish(mut self, index: u64) -> [u8; CELL] {
        let value = crc(&self.cell, index);
        self.position = 4;
        self.put(&value.to_le_bytes());
        self.cell
    }
}

/// Reads the fields of a cell, one after the other.
struct CellReader<'a>(&'a [u8]);

impl<'a> CellReader<'a> {
    fn open(cell: &'a [u8; CELL], magic: [u8; 4], index: u64) -> Option<Self> {
        let mut reader = CellReader(cell);
        let valid = reader.take::<4>()? == magic && u32::from_le_bytes(reader.take()?) == crc(cell, index);
        valid.then_some(reader)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

/// The CRC of a cell at an index. It covers all bytes of the cell except the CRC itself, and the index.
fn crc(cell: &[u8; CELL], index: u64) -> u32 {
    let (magic, rest) = cell.split_at(4);
    let (_, fields) = rest.split_at(4);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(magic);
    hasher.update(fields);
    hasher.update(&index.to_le_bytes());
    hasher.finalize()
}

impl Header {
    /// Encodes the cell of header copy 0 or 1.
    pub fn encode(&self, copy: u64) -> [u8; CELL] {
        let mut cell = CellWriter::new(HEADER_MAGIC);
        cell.put(&self.database_id);
        for field in [self.epoch, self.term, self.last_seq, self.last_ms] {
            cell.put(&field.to_le_bytes());
        }
        cell.put(&self.generation.to_le_bytes());
        cell.put(&self.table_entry_count.to_le_bytes());
        cell.put(&[u8::from(self.closed), self.format]);
        cell.finish(copy)
    }

    fn decode(cell: &[u8; CELL], copy: u64) -> Option<Header> {
        let mut fields = CellReader::open(cell, HEADER_MAGIC, copy)?;
        let mut header = Header {
            database_id: fields.take()?,
            epoch: fields.u64()?,
            term: fields.u64()?,
            last_seq: fields.u64()?,
            last_ms: fields.u64()?,
            generation: u32::from_le_bytes(fields.take()?),
            table_entry_count: u16::from_le_bytes(fields.take()?),
            closed: fields.take::<1>()? == [1],
            format: 0,
        };
        [header.format] = fields.take()?;
        (OLDEST_FORMAT_VERSION..=FORMAT_VERSION).contains(&header.format).then_some(header)
    }

    /// The number of the cell that contains table entry `index`.
    pub(crate) fn table_entry_cell(&self, index: u64) -> u64 {
        table_entry_cell(self.format, index)
    }

    /// Whether this copy was written after `other`.
    fn is_after(&self, other: &Header) -> bool {
        let later = (1..1 << 31).contains(&self.generation.wrapping_sub(other.generation));
        self.term > other.term || (self.term == other.term && later)
    }
}

impl HeadIncarnation {
    /// Encodes the cell of copy 0 or 1.
    pub fn encode(&self, copy: u64) -> [u8; CELL] {
        let mut cell = CellWriter::new(INCARNATION_MAGIC);
        for field in [self.id, self.start, self.term] {
            cell.put(&field.to_le_bytes());
        }
        cell.finish(incarnation_cell(copy))
    }

    fn decode(cell: &[u8; CELL], copy: u64) -> Option<HeadIncarnation> {
        let mut fields = CellReader::open(cell, INCARNATION_MAGIC, incarnation_cell(copy))?;
        Some(HeadIncarnation { id: fields.u64()?, start: fields.u64()?, term: fields.u64()? })
    }
}

impl TableEntry {
    /// Encodes the cell of table entry `index`.
    pub fn encode(&self, index: u64, format: u8) -> [u8; CELL] {
        let mut cell = CellWriter::new(TABLE_ENTRY_MAGIC);
        for field in [self.table, self.manifest, self.segment, self.bytes, self.last_seq, self.floor] {
            cell.put(&field.to_le_bytes());
        }
        cell.finish(table_entry_cell(format, index))
    }

    fn decode(cell: &[u8; CELL], index: u64, format: u8) -> Option<TableEntry> {
        let mut fields = CellReader::open(cell, TABLE_ENTRY_MAGIC, table_entry_cell(format, index))?;
        Some(TableEntry {
            table: fields.u64()?,
            manifest: fields.u64()?,
            segment: fields.u64()?,
            bytes: fields.u64()?,
            last_seq: fields.u64()?,
            floor: fields.u64()?,
        })
    }
}

/// The number of the cell that contains copy 0 or 1 of the incarnation.
pub(crate) fn incarnation_cell(copy: u64) -> u64 {
    2 + copy
}

/// The number of the cell that contains table entry `index`.
fn table_entry_cell(format: u8, index: u64) -> u64 {
    if format == 1 { index + 2 } else { index + 4 }
}

/// The offset of a cell in HEAD, in bytes.
pub(crate) fn cell_offset(cell: u64) -> u64 {
    cell * CELL as u64
}

/// Decodes the later of the two header copies from the first 128 bytes of HEAD; `None` if neither is valid.
pub fn decode_header(bytes: &[u8]) -> Option<Header> {
    let mut copies = bytes.chunks_exact(CELL).take(2).zip(0..).filter_map(|(cell, i)| {
        let cell: &[u8; CELL] = cell.try_into().ok()?;
        Header::decode(cell, i)
    });
    let first = copies.next()?;
    Some(match copies.next() {
        Some(second) if second.is_after(&first) => second,
        _ => first,
    })
}

/// Decodes the later of the two copies of the incarnation from the first 256 bytes of HEAD; `None` if neither is valid.
pub fn decode_incarnation(bytes: &[u8]) -> Option<HeadIncarnation> {
    let copies = bytes.chunks_exact(CELL).skip(2).take(2).zip(0..);
    let copies = copies.filter_map(|(cell, i)| HeadIncarnation::decode(cell.try_into().ok()?, i));
    copies.max_by_key(|copy| copy.term)
}

/// Decodes table entry `index` from its cell; `None` if it is not valid.
pub(crate) fn decode_table_entry(cell: &[u8], index: u64, format: u8) -> Option<TableEntry> {
    TableEntry::decode(cell.try_into().ok()?, index, format)
}

/// Decodes `count` table entries from the bytes from the first of them on; `None` for each entry that is not valid.
pub fn decode_table_entries(bytes: &[u8], count: u16, format: u8) -> Vec<Option<TableEntry>> {
    let mut cells = bytes.chunks_exact(CELL);
    (0..u64::from(count)).map(|i| TableEntry::decode(cells.next()?.try_into().ok()?, i, format)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(generation: u32) -> Header {
        Header {
            database_id: [7; 16],
            epoch: 1,
            term: 2,
            last_seq: u64::from(generation),
            last_ms: 4,
            generation,
            table_entry_count: 1,
            closed: false,
            format: FORMAT_VERSION,
        }
    }

    fn pair(a: &Header, b: &Header) -> Vec<u8> {
        [a.encode(0), b.encode(1)].concat()
    }

    #[test]
    fn the_later_copy_counts_also_after_the_generation_wraps() {
        assert_eq!(decode_header(&pair(&header(4), &header(5))), Some(header(5)));
        assert_eq!(decode_header(&pair(&header(6), &header(5))), Some(header(6)));
        assert_eq!(decode_header(&pair(&header(u32::MAX), &header(0))), Some(header(0)));
        let later_term = Header { term: 3, ..header(1) };
        assert_eq!(decode_header(&pair(&header(5), &later_term)), Some(later_term));
        assert_eq!(decode_header(&pair(&later_term, &header(5))), Some(later_term));
    }

    #[test]
    fn the_other_copy_counts_if_one_is_damaged() {
        for bit in 0..CELL * 8 {
            let mut bytes = pair(&header(4), &header(5));
            bytes[CELL + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_header(&bytes), Some(header(4)), "bit {bit}");
        }
        assert_eq!(decode_header(&[0; 128]), None);
    }

    #[test]
    fn a_table_entry_is_valid_only_at_its_index() {
        let entry = TableEntry { table: 1, manifest: 2, segment: 3, bytes: 4, last_seq: 5, floor: 6 };
        let encode = |index| entry.encode(index, FORMAT_VERSION);
        let cells = [encode(0), encode(1)].concat();
        let decode = |cells: &[u8], count| decode_table_entries(cells, count, FORMAT_VERSION);
        assert_eq!(decode(&cells, 2), [Some(entry), Some(entry)]);
        assert_eq!(decode(&[encode(1), encode(0)].concat(), 2), [None, None]);
        assert_eq!(decode(&cells, 3), [Some(entry), Some(entry), None]);
        assert_eq!(decode_table_entries(&cells, 2, 1), [None, None], "the cells of another version");
    }

    #[test]
    fn the_incarnation_of_the_later_term_counts() {
        let [old, new] = [3, 4].map(|term| HeadIncarnation { id: 10 + term, start: term, term });
        let head = |a: HeadIncarnation, b: HeadIncarnation| {
            [pair(&header(4), &header(5)), a.encode(0).to_vec(), b.encode(1).to_vec()].concat()
        };
        assert_eq!(decode_incarnation(&head(old, new)), Some(new));
        assert_eq!(decode_incarnation(&head(new, old)), Some(new));
        for bit in 0..CELL * 8 {
            let mut bytes = head(old, new);
            bytes[3 * CELL + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_incarnation(&bytes), Some(old), "bit {bit}");
        }
        assert_eq!(decode_incarnation(&pair(&header(4), &header(5))), None);
    }
}
