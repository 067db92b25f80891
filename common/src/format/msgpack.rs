//! Reads and writes MessagePack, the encoding of documents, over borrowed bytes.
//!
//! Specification: <https://github.com/msgpack/msgpack/blob/master/spec.md>. Binary and extension types have no
//! counterpart in JSON, so documents must not contain them.

use rmp::Marker;

use crate::error::{Error, Reason, Result};
use crate::work;

/// One MessagePack item. The elements of an array and the pairs of a map follow as separate items.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MsgpackItem<'a> {
    /// nil
    Nil,
    /// A boolean.
    Bool(bool),
    /// Any integer.
    Int(i128),
    /// A finite float of 32 or 64 bits.
    Float(f64),
    /// UTF-8 text.
    Str(&'a str),
    /// The start of an array with this many elements.
    Array(u32),
    /// The start of a map with this many pairs.
    Map(u32),
}

/// Reads items from a slice, one after the other. Never allocates memory because a length says so.
#[derive(Debug, Clone)]
pub struct MsgpackReader<'a> {
    bytes: &'a [u8],
    position: usize,
}

#[cold]
fn invalid(what: &str, position: usize) -> Error {
    Error::new(Reason::DocumentInvalid, format!("invalid MessagePack at byte {position}: {what}"))
}

impl<'a> MsgpackReader<'a> {
    /// A reader at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        MsgpackReader { bytes, position: 0 }
    }

    /// The number of bytes that have been read.
    pub fn position(&self) -> usize {
        self.position
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let end = self.position.checked_add(len);
        let slice = end.and_then(|end| self.bytes.get(self.position..end));
        match slice {
            Some(slice) => {
                self.position += len;
                Ok(slice)
            }
            None => Err(invalid("it is cut short", self.position)),
        }
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let start = self.position;
        self.take(N)?.first_chunk::<N>().copied().ok_or_else(|| invalid("it is cut short", start))
    }

    fn text(&mut self, len: u32) -> Result<&'a str> {
        let start = self.position;
        std::str::from_utf8(self.take(len as usize)?).map_err(|_| invalid("a text is not UTF-8", start))
    }

    /// Reads the next item.
    pub fn token(&mut self) -> Result<MsgpackItem<'a>> {
        let start = self.position;
        let [first] = self.take_array()?;
        Ok(match Marker::from_u8(first) {
            Marker::FixPos(n) => MsgpackItem::Int(n.into()),
            Marker::FixNeg(n) => MsgpackItem::Int(n.into()),
            Marker::Null => MsgpackItem::Nil,
            Marker::True => MsgpackItem::Bool(true),
            Marker::False => MsgpackItem::Bool(false),
            Marker::U8 => MsgpackItem::Int(u8::from_be_bytes(self.take_array()?).into()),
            Marker::U16 => MsgpackItem::Int(u16::from_be_bytes(self.take_array()?).into()),
            Marker::U32 => MsgpackItem::Int(u32::from_be_bytes(self.take_array()?).into()),
            Marker::U64 => MsgpackItem::Int(u64::from_be_bytes(self.take_array()?).into()),
            Marker::I8 => MsgpackItem::Int(i8::from_be_bytes(self.take_array()?).into()),
            Marker::I16 => MsgpackItem::Int(i16::from_be_bytes(self.take_array()?).into()),
            Marker::I32 => MsgpackItem::Int(i32::from_be_bytes(self.take_array()?).into()),
            Marker::I64 => MsgpackItem::Int(i64::from_be_bytes(self.take_array()?).into()),
            Marker::F32 => finite(f32::from_be_bytes(self.take_array()?).into(), start)?,
            Marker::F64 => finite(f64::from_be_bytes(self.take_array()?), start)?,
            Marker::FixStr(n) => MsgpackItem::Str(self.text(n.into())?),
            Marker::Str8 => {
                let len = u8::from_be_bytes(self.take_array()?);
                MsgpackItem::Str(self.text(len.into())?)
            }
            Marker::Str16 => {
                let len = u16::from_be_bytes(self.take_array()?);
                MsgpackItem::Str(self.text(len.into())?)
            }
            Marker::Str32 => {
                let len = u32::from_be_bytes(self.take_array()?);
                MsgpackItem::Str(self.text(len)?)
            }
            Marker::FixArray(n) => MsgpackItem::Array(n.into()),
            Marker::Array16 => MsgpackItem::Array(u16::from_be_bytes(self.take_array()?).into()),
            Marker::Array32 => MsgpackItem::Array(u32::from_be_bytes(self.take_array()?)),
            Marker::FixMap(n) => MsgpackItem::Map(n.into()),
            Marker::Map16 => MsgpackItem::Map(u16::from_be_bytes(self.take_array()?).into()),
            Marker::Map32 => MsgpackItem::Map(u32::from_be_bytes(self.take_array()?)),
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
                return Err(invalid("binary data is not supported: send text instead", start));
            }
            _ => return Err(invalid("extension types are not supported", start)),
        })
    }

    /// Reads the next item, which must be text, such as a field name.
    pub fn str(&mut self) -> Result<&'a str> {
        let start = self.position;
        match self.token()? {
            MsgpackItem::Str(text) => Ok(text),
            _ => Err(invalid("expected text", start)),
        }
    }

    /// Reads the next item, which must be `N` bytes of binary data. Frames contain binary data, documents never do.
    pub fn bin<const N: usize>(&mut self) -> Result<[u8; N]> {
        let start = self.position;
        let [marker, len] = self.take_array()?;
        if Marker::from_u8(marker) != Marker::Bin8 || usize::from(len) != N {
            return Err(invalid(&format!("expected {N} bytes of binary data"), start));
        }
        self.take_array()
    }

    /// Reads the next item, which must be the start of a map, and returns its number of pairs.
    pub fn map(&mut self) -> Result<u32> {
        let start = self.position;
        match self.token()? {
            MsgpackItem::Map(len) => Ok(len),
            _ => Err(invalid("expected a map", start)),
        }
    }

    /// Reads the next item, which must be the start of an array, and returns its number of elements.
    pub(super) fn array(&mut self) -> Result<u32> {
        let start = self.position;
        match self.token()? {
            MsgpackItem::Array(len) => Ok(len),
            _ => Err(invalid("expected an array", start)),
        }
    }

    /// Reads the next item, which must be an unsigned integer.
    pub(super) fn uint(&mut self) -> Result<u64> {
        let start = self.position;
        match self.token()? {
            MsgpackItem::Int(int) => u64::try_from(int).ok(),
            _ => None,
        }
        .ok_or_else(|| invalid("expected an unsigned integer", start))
    }

    /// Skips one whole value of bytes that were validated before, and returns them: texts and floats are not looked at. Does not
    /// recurse.
    pub(super) fn skip(&mut self) -> Result<&'a [u8]> {
        if let Some(len) = self.scalar_len() {
            work::step_bytes(len)?;
            return self.take(len);
        }
        let start = self.position;
        let mut left: u64 = 1;
        while left > 0 {
            left -= 1;
            let before = self.position;
            match self.scalar_len() {
                Some(len) => {
                    self.take(len)?;
                }
                None => match self.token()? {
                    MsgpackItem::Array(len) => left += u64::from(len),
                    MsgpackItem::Map(len) => left += 2 * u64::from(len),
                    _ => {}
                },
            }
            work::step_bytes(self.position - before)?;
        }
        self.bytes.get(start..self.position).ok_or_else(|| invalid("it is cut short", start))
    }

    /// The length of the next value, if it is a scalar and no long text; it may be cut short.
    fn scalar_len(&self) -> Option<usize> {
        let (first, rest) = self.bytes.get(self.position..)?.split_first()?;
        Some(match Marker::from_u8(*first) {
            Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::True | Marker::False => 1,
            Marker::FixStr(len) => 1 + usize::from(len),
            Marker::Str8 => 2 + usize::from(*rest.first()?),
            Marker::Str16 => 3 + usize::from(u16::from_be_bytes(*rest.first_chunk()?)),
            Marker::U8 | Marker::I8 => 2,
            Marker::U16 | Marker::I16 => 3,
            Marker::U32 | Marker::I32 | Marker::F32 => 5,
            Marker::U64 | Marker::I64 | Marker::F64 => 9,
            _ => return None,
        })
    }

    /// Reads the bytes of the next item, which must be text of bytes that were validated before.
    pub(super) fn str_bytes(&mut self) -> Result<&'a [u8]> {
        if let Some((first, rest)) = self.bytes.get(self.position..).and_then(<[u8]>::split_first)
            && let Marker::FixStr(len) = Marker::from_u8(*first)
            && let Some(text) = rest.get(..usize::from(len))
        {
            self.position += 1 + text.len();
            return Ok(text);
        }
        self.str().map(str::as_bytes)
    }

    /// Reads one whole value and returns its bytes. Does not recurse, so deep nesting cannot exhaust the stack.
    pub fn value(&mut self) -> Result<&'a [u8]> {
        let start = self.position;
        let mut left: u64 = 1;
        while left > 0 {
            left -= 1;
            let before = self.position;
            match self.token()? {
                MsgpackItem::Array(len) => left += u64::from(len),
                MsgpackItem::Map(len) => left += 2 * u64::from(len),
                _ => {}
            }
            work::step_bytes(self.position - before)?;
        }
        self.bytes.get(start..self.position).ok_or_else(|| invalid("it is cut short", start))
    }

    /// Fails if bytes are left over.
    pub fn finish(&self) -> Result<()> {
        match self.bytes.len() - self.position {
            0 => Ok(()),
            left => Err(invalid(&format!("{left} bytes follow its last item"), self.position)),
        }
    }
}

fn finite(float: f64, start: usize) -> Result<MsgpackItem<'static>> {
    if float.is_finite() {
        Ok(MsgpackItem::Float(float))
    } else {
        Err(invalid("NaN and infinity are not supported", start))
    }
}

/// The first item of an encoded value: the value of a scalar, or the kind and length of a container.
pub fn first(bytes: &[u8]) -> Result<MsgpackItem<'_>> {
    MsgpackReader::new(bytes).token()
}

/// The fields of an encoded map, in order: name and encoded value.
pub fn fields(bytes: &[u8]) -> Result<Vec<(&str, &[u8])>> {
    let mut reader = MsgpackReader::new(bytes);
    let len = reader.map()?;
    // A map of n pairs has at least 2n bytes, which limits the allocation whatever the length says.
    let mut fields = Vec::with_capacity((len as usize).min(bytes.len() / 2));
    for _ in 0..len {
        let name = reader.str()?;
        work::step_bytes(name.len())?;
        fields.push((name, reader.value()?));
    }
    Ok(fields)
}

/// Appends nil.
pub(super) fn write_nil(out: &mut Vec<u8>) {
    out.push(Marker::Null.to_u8());
}

/// Appends a boolean.
pub(super) fn write_bool(out: &mut Vec<u8>, value: bool) {
    out.push(if value { Marker::True } else { Marker::False }.to_u8());
}

/// Appends an integer in its shortest form. Clamps values outside -2^63…2^64-1, which no document contains.
pub(super) fn write_int(out: &mut Vec<u8>, value: i128) {
    if let Ok(value) = u64::try_from(value) {
        write_uint(out, value);
    } else {
        let value = i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX });
        // Writing to a Vec cannot fail.
        let _ = rmp::encode::write_sint(out, value);
    }
}

/// Appends an unsigned integer in its shortest form.
pub(crate) fn write_uint(out: &mut Vec<u8>, value: u64) {
    let _ = rmp::encode::write_uint(out, value);
}

/// Appends an unsigned integer in nine bytes, so that it can be overwritten in place.
pub(super) fn write_fixed_u64(out: &mut Vec<u8>, value: u64) {
    out.push(Marker::U64.to_u8());
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends a 64-bit float.
pub(super) fn write_f64(out: &mut Vec<u8>, value: f64) {
    out.push(Marker::F64.to_u8());
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends text.
pub fn write_str(out: &mut Vec<u8>, value: &str) {
    let _ = rmp::encode::write_str(out, value);
}

/// Appends up to 255 bytes of binary data.
pub(super) fn write_bin(out: &mut Vec<u8>, value: &[u8]) {
    let _ = rmp::encode::write_bin(out, value);
}

/// Appends the start of an array. `len` elements must follow.
pub(super) fn write_array_len(out: &mut Vec<u8>, len: usize) {
    let _ = rmp::encode::write_array_len(out, u32::try_from(len).unwrap_or(u32::MAX));
}

/// Appends the start of a map. `len` pairs must follow.
pub(crate) fn write_map_len(out: &mut Vec<u8>, len: usize) {
    let _ = rmp::encode::write_map_len(out, u32::try_from(len).unwrap_or(u32::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_length_allocates_nothing() {
        assert!(fields(&[0xdf, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(MsgpackReader::new(&[0xdd, 0xff, 0xff, 0xff, 0xff, 0xc0]).value().is_err());
    }

    #[test]
    fn deep_values_are_skipped_without_recursion() {
        let mut deep = vec![0x91; 1_000_000];
        deep.push(0xc0);
        assert_eq!(MsgpackReader::new(&deep).value().unwrap().len(), deep.len());
    }

    #[test]
    fn skipped_values_are_the_values_that_are_read() {
        let mut encoded = Vec::new();
        write_map_len(&mut encoded, 3);
        write_str(&mut encoded, "name");
        write_str(&mut encoded, &"x".repeat(300));
        write_str(&mut encoded, &"long name ".repeat(10));
        write_array_len(&mut encoded, 20);
        for number in [0, 1, 127, 128, 255, 256, 65_535, 65_536, i128::from(u64::MAX), -1, -33, -200, -70_000]
        {
            write_int(&mut encoded, number);
        }
        [true, false].iter().for_each(|value| write_bool(&mut encoded, *value));
        write_nil(&mut encoded);
        write_f64(&mut encoded, 1.5);
        write_array_len(&mut encoded, 0);
        write_map_len(&mut encoded, 0);
        write_str(&mut encoded, &"y".repeat(70_000));
        write_str(&mut encoded, "last");
        write_str(&mut encoded, "é");
        let (mut read, mut skipped) = (MsgpackReader::new(&encoded), MsgpackReader::new(&encoded));
        assert_eq!((read.map().unwrap(), skipped.map().unwrap()), (3, 3));
        for _ in 0..3 {
            assert_eq!(read.str().unwrap().as_bytes(), skipped.str_bytes().unwrap());
            assert_eq!(read.value().unwrap(), skipped.skip().unwrap());
        }
        skipped.finish().unwrap();
        for end in 1..encoded.len().min(500) {
            assert!(MsgpackReader::new(&encoded[..end]).skip().is_err());
        }
        assert!(MsgpackReader::new(&[0xc4, 0]).skip().is_err());
    }

    #[test]
    fn items_without_counterpart_in_json_are_refused() {
        for bytes in
            [&[0xc4, 0][..], &[0xd4, 1, 1], &[0xc1], &[0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0], &[0xa1, 0xff]]
        {
            assert!(MsgpackReader::new(bytes).token().is_err(), "{bytes:02x?}");
        }
    }
}
