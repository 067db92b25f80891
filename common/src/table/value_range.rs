//! Ranges of the encoded values of an index, and the ranges of one index that a query reads.

use crate::format::path::Path;
use crate::format::sortkey;

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
    /// The columns of the index.
    pub columns: &'a [Path],
    /// The number of columns that the ranges are about, from the first on.
    pub depth: usize,
    /// The ranges, sorted and not overlapping.
    pub ranges: &'a [ValueRange],
}

impl IndexRanges<'_> {
    /// The columns that the ranges are about.
    pub(super) fn used_columns(&self) -> &[Path] {
        self.columns.get(..self.depth).unwrap_or(self.columns)
    }

    /// The ranges to read in a memtable. An event of a composite index may not say which value a column has. So besides the
    /// values, each range is also read with each of its columns unknown.
    pub(super) fn in_memtable(&self) -> Vec<ValueRange> {
        if self.columns.len() == 1 {
            return self.ranges.to_vec();
        }
        let mut all = Vec::new();
        for range in self.ranges {
            let mut patterns = vec![ValueRange { low: Vec::new(), high: Vec::new() }];
            let (mut low, mut high) = (range.low.as_slice(), range.high.as_slice());
            for column in 1..=self.depth {
                let is_last = column == self.depth;
                // All columns but the last have one value.
                let (value, rest) = if is_last { (low, [].as_slice()) } else { split(low) };
                let (last, rest_of_high) = if is_last { (high, [].as_slice()) } else { split(high) };
                (low, high) = (rest, rest_of_high);
                let with = |pattern: &ValueRange, low: &[u8], high: &[u8]| ValueRange {
                    low: [&pattern.low, low].concat(),
                    high: [&pattern.high, high].concat(),
                };
                let unknown = [sortkey::UNKNOWN];
                let known = patterns.iter().map(|pattern| with(pattern, value, last));
                patterns =
                    known.chain(patterns.iter().map(|pattern| with(pattern, &unknown, &unknown))).collect();
            }
            all.extend(patterns);
        }
        all
    }

    /// Whether each range is one value of the whole index. Then its entries are in the order of their keys.
    pub(super) fn is_exact(&self) -> bool {
        self.depth == self.columns.len() && self.ranges.iter().all(ValueRange::is_one_value)
    }
}

fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    sortkey::split_columns(bytes, 1).unwrap_or((bytes, &[]))
}
