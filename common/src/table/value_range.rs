//! Ranges of the encoded values of an index, and the ranges of one index that a query reads.

/// A range of an index, both ends included: bytes as an index stores values, or bounds between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueRange {
    /// The lower end.
    pub low: Vec<u8>,
    /// The upper end.
    pub high: Vec<u8>,
}

impl ValueRange {
    /// Returns whether an encoded value is in the range.
    pub fn contains(&self, encoded: &[u8]) -> bool {
        self.low.as_slice() <= encoded && encoded <= self.high.as_slice()
    }

    /// Returns whether the range is a single value.
    pub fn is_one_value(&self) -> bool {
        self.low == self.high
    }
}

/// The ranges of one index that contain every row that can match a query.
#[derive(Debug, Clone, Copy)]
pub struct IndexRanges<'a> {
    /// The index's name in the schema.
    pub index: &'a str,
    /// The number of columns in each entry of the index.
    pub columns: usize,
    /// The number of columns that the ranges are about, from the first on.
    pub depth: usize,
    /// The ranges, sorted and not overlapping.
    pub ranges: &'a [ValueRange],
}

impl IndexRanges<'_> {
    /// Whether each range is one value of the whole index. Then its entries are in the order of their keys.
    pub(super) fn is_exact(&self) -> bool {
        self.depth == self.columns && self.ranges.iter().all(ValueRange::is_one_value)
    }
}
