//! Reads the fields of a snapshot entry, one after the other, over shared bytes.

use std::ops::Range;

use bytes::Bytes;

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::varint;

/// Reads fields from the front of an entry.
pub(super) struct EntryReader<'a> {
    entry: &'a Bytes,
    position: usize,
}

impl<'a> EntryReader<'a> {
    pub(super) fn new(entry: &'a Bytes) -> EntryReader<'a> {
        EntryReader { entry, position: 0 }
    }

    /// All bytes that have not been read; they share the entry's memory.
    pub(super) fn rest(&self) -> Bytes {
        self.entry.slice(self.position.min(self.entry.len())..)
    }

    fn unread(&self) -> &'a [u8] {
        self.entry.get(self.position..).unwrap_or_default()
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        let byte = self.unread().first().copied().ok_or_else(|| corrupt("it is cut short"))?;
        self.position += 1;
        Ok(byte)
    }

    pub(super) fn varint(&mut self) -> Result<u64> {
        let unread = self.unread();
        let (value, rest) = varint::read(unread).ok_or_else(|| corrupt("it contains an invalid varint"))?;
        self.position += unread.len() - rest.len();
        Ok(value)
    }

    /// Where bytes are that follow their length.
    fn range(&mut self) -> Result<Range<usize>> {
        let len = usize::try_from(self.varint()?).map_err(|_| corrupt("a length is out of range"))?;
        let end = self.position.checked_add(len).filter(|end| *end <= self.entry.len());
        let end = end.ok_or_else(|| corrupt("it is cut short"))?;
        Ok(std::mem::replace(&mut self.position, end)..end)
    }

    /// Bytes that follow their length. They share the entry's memory.
    pub(super) fn bytes(&mut self) -> Result<Bytes> {
        let range = self.range()?;
        Ok(self.entry.slice(range))
    }

    pub(super) fn text(&mut self) -> Result<String> {
        let range = self.range()?;
        let text = std::str::from_utf8(self.entry.get(range).unwrap_or_default());
        text.map(str::to_owned).map_err(|_| corrupt("a text is not UTF-8"))
    }

    pub(super) fn document(&mut self) -> Result<Document> {
        Ok(Document::trusted(self.bytes()?))
    }

    /// Fails if bytes are left over.
    pub(super) fn finish(self) -> Result<()> {
        match self.unread().len() {
            0 => Ok(()),
            left => Err(corrupt(&format!("{left} bytes follow its last field"))),
        }
    }
}

pub(super) fn corrupt(what: &str) -> Error {
    Error::new(Reason::Corrupt, format!("invalid snapshot entry: {what}"))
}
