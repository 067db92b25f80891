//! Reading and writing MessagePack over borrowed bytes: the encoding documents are stored in.
//!
//! Specification: <https://github.com/msgpack/msgpack/blob/master/spec.md>. Binary and extension types have no
//! JSON counterpart and are refused.

use rmp::Marker;

use crate::error::{Error, Reason, Result};

/// One MessagePack item; arrays and maps as their number of elements or pairs, which follow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MsgpackItem<'a> {
    /// nil
    Nil,
    /// A boolean.
    Bool(bool),
    /// Any integer.
    Int(i128),
    /// A float of 32 or 64 bits.
    Float(f64),
    /// UTF-8 text.
    Str(&'a str),
    /// An array of so many items.
    Array(u32),
    /// A map of so many pairs.
    Map(u32),
}

/// Reads items one after the other from a slice.
#[derive(Debug, Clone)]
pub struct MsgpackReader<'a> {
    bytes: &'a [u8],
    pos: usize,
}

fn invalid(what: &str, pos: usize) -> Error {
    Error::new(Reason::DocumentInvalid, format!("invalid MessagePack at byte {pos}: {what}"))
}

impl<'a> MsgpackReader<'a> {
    /// A reader at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        MsgpackReader { bytes, pos: 0 }
    }

    /// How many bytes have been read.
    pub fn position(&self) -> usize {
        self.pos
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let end = self.pos.checked_add(len);
        let slice = end.and_then(|end| self.bytes.get(self.pos..end));
        match slice {
            Some(slice) => {
                self.pos += len;
                Ok(slice)
            }
            None => Err(invalid("it ends too early", self.pos)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let at = self.pos;
        self.take(N)?.first_chunk::<N>().copied().ok_or_else(|| invalid("it ends too early", at))
    }

    fn text(&mut self, len: u32) -> Result<&'a str> {
        let at = self.pos;
        std::str::from_utf8(self.take(len as usize)?).map_err(|_| invalid("text that is not UTF-8", at))
    }

    /// Reads the next item.
    pub fn token(&mut self) -> Result<MsgpackItem<'a>> {
        let at = self.pos;
        let [first] = self.array()?;
        Ok(match Marker::from_u8(first) {
            Marker::FixPos(n) => MsgpackItem::Int(n.into()),
            Marker::FixNeg(n) => MsgpackItem::Int(n.into()),
            Marker::Null => MsgpackItem::Nil,
            Marker::True => MsgpackItem::Bool(true),
            Marker::False => MsgpackItem::Bool(false),
            Marker::U8 => MsgpackItem::Int(u8::from_be_bytes(self.array()?).into()),
            Marker::U16 => MsgpackItem::Int(u16::from_be_bytes(self.array()?).into()),
            Marker::U32 => MsgpackItem::Int(u32::from_be_bytes(self.array()?).into()),
            Marker::U64 => MsgpackItem::Int(u64::from_be_bytes(self.array()?).into()),
            Marker::I8 => MsgpackItem::Int(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => MsgpackItem::Int(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => MsgpackItem::Int(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => MsgpackItem::Int(i64::from_be_bytes(self.array()?).into()),
            Marker::F32 => finite(f32::from_be_bytes(self.array()?).into(), at)?,
            Marker::F64 => finite(f64::from_be_bytes(self.array()?), at)?,
            Marker::FixStr(n) => MsgpackItem::Str(self.text(n.into())?),
            Marker::Str8 => {
                let len = u8::from_be_bytes(self.array()?);
                MsgpackItem::Str(self.text(len.into())?)
            }
            Marker::Str16 => {
                let len = u16::from_be_bytes(self.array()?);
                MsgpackItem::Str(self.text(len.into())?)
            }
            Marker::Str32 => {
                let len = u32::from_be_bytes(self.array()?);
                MsgpackItem::Str(self.text(len)?)
            }
            Marker::FixArray(n) => MsgpackItem::Array(n.into()),
            Marker::Array16 => MsgpackItem::Array(u16::from_be_bytes(self.array()?).into()),
            Marker::Array32 => MsgpackItem::Array(u32::from_be_bytes(self.array()?)),
            Marker::FixMap(n) => MsgpackItem::Map(n.into()),
            Marker::Map16 => MsgpackItem::Map(u16::from_be_bytes(self.array()?).into()),
            Marker::Map32 => MsgpackItem::Map(u32::from_be_bytes(self.array()?)),
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
                return Err(invalid("binary data has no JSON counterpart: send text instead", at));
            }
            _ => return Err(invalid("extension types have no JSON counterpart", at)),
        })
    }

    /// Reads the next item, which must be text.
    pub fn str(&mut self) -> Result<&'a str> {
        let at = self.pos;
        match self.token()? {
            MsgpackItem::Str(text) => Ok(text),
            _ => Err(invalid("a field name that is not text", at)),
        }
    }

    /// Reads the next item, which must be `N` bytes of binary data. Frames hold such, documents never do.
    pub fn bin<const N: usize>(&mut self) -> Result<[u8; N]> {
        let at = self.pos;
        let [marker, len] = self.array()?;
        if Marker::from_u8(marker) != Marker::Bin8 || usize::from(len) != N {
            return Err(invalid("expected binary data", at));
        }
        self.array()
    }

    /// Reads the next item, which must be a map: the number of its pairs.
    pub fn map(&mut self) -> Result<u32> {
        let at = self.pos;
        match self.token()? {
            MsgpackItem::Map(len) => Ok(len),
            _ => Err(invalid("expected a map", at)),
        }
    }

    /// Reads one whole value, however deep, and returns its bytes. Uses no stack per level.
    pub fn value(&mut self) -> Result<&'a [u8]> {
        let start = self.pos;
        let mut left: u64 = 1;
        while left > 0 {
            left -= 1;
            match self.token()? {
                MsgpackItem::Array(len) => left += u64::from(len),
                MsgpackItem::Map(len) => left += 2 * u64::from(len),
                _ => {}
            }
        }
        self.bytes.get(start..self.pos).ok_or_else(|| invalid("it ends too early", start))
    }

    /// Fails where bytes are left over.
    pub fn finish(&self) -> Result<()> {
        match self.bytes.len() - self.pos {
            0 => Ok(()),
            left => Err(invalid(&format!("{left} bytes too many"), self.pos)),
        }
    }
}

fn finite(float: f64, at: usize) -> Result<MsgpackItem<'static>> {
    if float.is_finite() {
        Ok(MsgpackItem::Float(float))
    } else {
        Err(invalid("NaN and infinity have no JSON counterpart", at))
    }
}

/// The first item of encoded bytes: enough to know a scalar, or what kind of container it is.
pub fn first(bytes: &[u8]) -> Result<MsgpackItem<'_>> {
    MsgpackReader::new(bytes).token()
}

/// The fields of an encoded map: name and encoded value, in order.
pub fn fields(bytes: &[u8]) -> Result<Vec<(&str, &[u8])>> {
    let mut reader = MsgpackReader::new(bytes);
    let len = reader.map()?;
    // A map of n pairs has at least 2n bytes: the claim is checked before memory is given.
    let mut fields = Vec::with_capacity((len as usize).min(bytes.len() / 2));
    for _ in 0..len {
        let name = reader.str()?;
        fields.push((name, reader.value()?));
    }
    Ok(fields)
}

/// Appends nil.
pub fn write_nil(out: &mut Vec<u8>) {
    out.push(Marker::Null.to_u8());
}

/// Appends a boolean.
pub fn write_bool(out: &mut Vec<u8>, value: bool) {
    out.push(if value { Marker::True } else { Marker::False }.to_u8());
}

/// Appends an integer in its shortest form. Values outside -2^63…2^64-1 cannot occur and are clamped.
pub fn write_int(out: &mut Vec<u8>, value: i128) {
    if let Ok(value) = u64::try_from(value) {
        write_uint(out, value);
    } else {
        let value = i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX });
        // Writing to a Vec cannot fail.
        let _ = rmp::encode::write_sint(out, value);
    }
}

/// Appends an unsigned integer in its shortest form.
pub fn write_uint(out: &mut Vec<u8>, value: u64) {
    let _ = rmp::encode::write_uint(out, value);
}

/// Appends an unsigned integer in nine bytes, so that it can be overwritten in place.
pub fn write_fixed_u64(out: &mut Vec<u8>, value: u64) {
    out.push(Marker::U64.to_u8());
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends a 64-bit float.
pub fn write_f64(out: &mut Vec<u8>, value: f64) {
    out.push(Marker::F64.to_u8());
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends text.
pub fn write_str(out: &mut Vec<u8>, value: &str) {
    let _ = rmp::encode::write_str(out, value);
}

/// Appends up to 255 bytes of binary data.
pub fn write_bin(out: &mut Vec<u8>, value: &[u8]) {
    let _ = rmp::encode::write_bin(out, value);
}

/// Appends the head of an array.
pub fn write_array_len(out: &mut Vec<u8>, len: usize) {
    let _ = rmp::encode::write_array_len(out, u32::try_from(len).unwrap_or(u32::MAX));
}

/// Appends the head of a map.
pub fn write_map_len(out: &mut Vec<u8>, len: usize) {
    let _ = rmp::encode::write_map_len(out, u32::try_from(len).unwrap_or(u32::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_length_allocates_nothing() {
        assert!(fields(&[0xdf, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(MsgpackReader::new(&[0xdd, 0xff, 0xff, 0xff, 0xff, 0xc0]).value().is_err());
    }

    #[test]
    fn deep_nesting_is_skipped_without_recursion() {
        let mut deep = vec![0x91; 1_000_000];
        deep.push(0xc0);
        assert_eq!(MsgpackReader::new(&deep).value().unwrap().len(), deep.len());
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        for bytes in
            [&[0xc4, 0][..], &[0xd4, 1, 1], &[0xc1], &[0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0], &[0xa1, 0xff]]
        {
            assert!(MsgpackReader::new(bytes).token().is_err(), "{bytes:02x?}");
        }
    }
}
