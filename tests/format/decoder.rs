//! A second decoder of the on-disk format, written from `common/FORMAT.md` alone: it shares no code with the first.
//!
//! It panics if any byte is not exactly as the document says.

use super::crc::crc32;

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its length in the segment, in bytes.
    pub len: usize,
    pub crc: u32,
    pub seq: u64,
    pub time_ms: u64,
    pub kind: u8,
    /// The payload as JSON text, with the fields in their stored order.
    pub payload: String,
}

/// All frames of a closed segment.
pub fn segment(bytes: &[u8], table: u64, number: u64) -> Vec<Frame> {
    segment_from(bytes, table, number, 0)
}

/// All frames in `bytes`, which start at `offset` in the file.
pub fn segment_from(bytes: &[u8], table: u64, number: u64, offset: u64) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let frame = frame(&bytes[at..], table, number, offset + at as u64);
        at += frame.len;
        frames.push(frame);
    }
    frames
}

/// The first frame in `bytes`, which start at `offset` in the file.
pub fn frame(bytes: &[u8], table: u64, number: u64, offset: u64) -> Frame {
    let length = u32_at(bytes, 0) as usize;
    assert!((11..=2 << 20).contains(&length), "length {length}");
    let crc = u32_at(bytes, 4);
    let body = &bytes[8..8 + length];
    let place = [table.to_le_bytes(), number.to_le_bytes(), offset.to_le_bytes()].concat();
    assert_eq!(crc, crc32(&[&bytes[..4], body, &place]), "the CRC of the frame at {offset}");
    let (seq, varint) = varint(body);
    let rest = &body[varint..];
    let (payload, left) = value(&rest[9..]);
    assert!(left.is_empty() && payload.starts_with('{'), "the payload at {offset}");
    Frame { len: 8 + length, crc, seq, time_ms: u64_at(rest, 0), kind: rest[8], payload }
}

/// A varint: seven bits a byte, the low ones first, the top bit set in all bytes but the last.
fn varint(bytes: &[u8]) -> (u64, usize) {
    let len = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
    assert!(len == 1 || bytes[len - 1] != 0, "not the shortest form");
    let bits = bytes[..len].iter().rev().fold(0u128, |value, byte| value << 7 | u128::from(byte & 0x7f));
    (bits.try_into().unwrap(), len)
}

/// One MessagePack value as JSON text, and the bytes after it.
fn value(bytes: &[u8]) -> (String, &[u8]) {
    let (first, rest) = bytes.split_first().unwrap();
    let big = |len: usize| rest[..len].iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let text = |skip: usize, len: usize| {
        let text = std::str::from_utf8(&rest[skip..skip + len]).unwrap();
        (serde_json::Value::from(text).to_string(), &rest[skip + len..])
    };
    let size = |value: u64| usize::try_from(value).unwrap();
    match *first {
        byte @ 0x00..=0x7f => (byte.to_string(), rest),
        byte @ 0x80..=0x8f => map(rest, usize::from(byte & 15)),
        byte @ 0x90..=0x9f => array(rest, usize::from(byte & 15)),
        byte @ 0xa0..=0xbf => text(0, usize::from(byte & 31)),
        0xc0 => ("null".into(), rest),
        0xc2 => ("false".into(), rest),
        0xc3 => ("true".into(), rest),
        0xca => (format!("{:?}", f32::from_be_bytes(rest[..4].try_into().unwrap())), &rest[4..]),
        0xcb => (format!("{:?}", f64::from_be_bytes(rest[..8].try_into().unwrap())), &rest[8..]),
        byte @ 0xcc..=0xcf => {
            let len = 1 << (byte - 0xcc);
            (big(len).to_string(), &rest[len..])
        }
        byte @ 0xd0..=0xd3 => {
            let len = 1 << (byte - 0xd0);
            let unused = 64 - 8 * u32::try_from(len).unwrap();
            ((big(len).cast_signed() << unused >> unused).to_string(), &rest[len..])
        }
        0xd9 => text(1, size(big(1))),
        0xda => text(2, size(big(2))),
        0xdb => text(4, size(big(4))),
        0xdc => array(&rest[2..], size(big(2))),
        0xdd => array(&rest[4..], size(big(4))),
        0xde => map(&rest[2..], size(big(2))),
        0xdf => map(&rest[4..], size(big(4))),
        byte @ 0xe0..=0xff => (byte.cast_signed().to_string(), rest),
        byte => panic!("a MessagePack type that frames never contain: {byte:#x}"),
    }
}

fn array(mut bytes: &[u8], len: usize) -> (String, &[u8]) {
    let mut items = Vec::new();
    for _ in 0..len {
        let (item, rest) = value(bytes);
        items.push(item);
        bytes = rest;
    }
    (format!("[{}]", items.join(",")), bytes)
}

fn map(mut bytes: &[u8], len: usize) -> (String, &[u8]) {
    let mut fields = Vec::new();
    for _ in 0..len {
        let (name, rest) = value(bytes);
        let (content, rest) = value(rest);
        fields.push(format!("{name}:{content}"));
        bytes = rest;
    }
    (format!("{{{}}}", fields.join(",")), bytes)
}

/// One copy of HEAD's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub database_id: [u8; 16],
    pub epoch: u64,
    pub term: u64,
    pub last_seq: u64,
    pub last_ms: u64,
    pub generation: u32,
    pub slots: u16,
    pub closed: u8,
    pub format: u8,
}

/// A table entry of HEAD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub table: u64,
    pub manifest: u64,
    pub segment: u64,
    pub bytes: u64,
    pub last_seq: u64,
    pub floor: u64,
}

/// One copy of HEAD's incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incarnation {
    pub id: u64,
    pub start: u64,
    pub term: u64,
}

/// Both copies of the incarnation in a HEAD of version 2 or later.
pub fn incarnations(bytes: &[u8]) -> [Incarnation; 2] {
    [2, 3].map(|index| {
        let cell = &bytes[index * 64..][..64];
        assert_eq!(cell[32..], [0; 32], "the unused end of an incarnation");
        Incarnation { id: u64_at(cell, 8), start: u64_at(cell, 16), term: u64_at(cell, 24) }
    })
}

/// HEAD: both copies of the header, and the table entries.
pub fn head(bytes: &[u8]) -> ([Header; 2], Vec<Slot>) {
    assert_eq!(bytes.len() % 64, 0, "HEAD is cells of 64 bytes");
    let cells: Vec<&[u8]> = bytes.chunks(64).collect();
    let first_slot = if cells[0][63] == 1 { 2 } else { 4 };
    for (cell, index) in cells.iter().zip(0u64..) {
        let magic = match index {
            0 | 1 => b"DRHD",
            _ if index < first_slot => b"DRIN",
            _ => b"DRSL",
        };
        assert_eq!(&cell[..4], magic, "the magic of cell {index}");
        let crc = crc32(&[&cell[..4], &cell[8..], &index.to_le_bytes()]);
        assert_eq!(u32_at(cell, 4), crc, "the CRC of cell {index}");
    }
    let header = |cell: &[u8]| Header {
        database_id: cell[8..24].try_into().unwrap(),
        epoch: u64_at(cell, 24),
        term: u64_at(cell, 32),
        last_seq: u64_at(cell, 40),
        last_ms: u64_at(cell, 48),
        generation: u32_at(cell, 56),
        slots: u16::from_le_bytes(cell[60..62].try_into().unwrap()),
        closed: cell[62],
        format: cell[63],
    };
    let slots = cells[usize::try_from(first_slot).unwrap()..].iter().map(|cell| {
        assert_eq!(cell[56..], [0; 8], "the unused end of a table entry");
        Slot {
            table: u64_at(cell, 8),
            manifest: u64_at(cell, 16),
            segment: u64_at(cell, 24),
            bytes: u64_at(cell, 32),
            last_seq: u64_at(cell, 40),
            floor: u64_at(cell, 48),
        }
    });
    ([header(cells[0]), header(cells[1])], slots.collect())
}

/// The body of `database.json` or `meta.json`, after checking its CRC.
pub fn body(file: &str) -> &str {
    let rest = file.strip_prefix(r#"{"crc32":""#).unwrap();
    let (crc, rest) = rest.split_at(8);
    let body = rest.strip_prefix(r#"","body":"#).unwrap().strip_suffix("}\n").unwrap();
    assert_eq!(crc, format!("{:08x}", crc32(&[body.as_bytes()])), "the CRC of {file}");
    body
}
