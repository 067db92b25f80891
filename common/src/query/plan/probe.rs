//! Probes of secondary indexes: the ranges of encoded values that contain every row that can match a condition.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::error::Result;
use crate::format::index_columns::IndexColumns;
use crate::format::path::Path;
use crate::format::sortkey::{self, Scalar};
use crate::format::value::Value;
use crate::query::ast::{Column, Comparison, Condition};
use crate::query::like::LikePattern;
use crate::table::value_range::{IndexRanges, ValueRange};
use crate::work;

/// The index entries to read for a condition. The rows that they name are candidates: each must be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The columns of the index.
    pub columns: IndexColumns,
    /// The number of columns that the ranges are about, from the first on.
    pub depth: usize,
    /// The index's name in the schema.
    pub index: String,
    /// The ranges to read, sorted and not overlapping. An empty list means that no row can match.
    pub ranges: Vec<ValueRange>,
    /// Whether each range is a single value.
    pub exact: bool,
}

impl Probe {
    /// Returns whether an encoded value is in one of the ranges.
    pub fn contains(&self, encoded: &[u8]) -> bool {
        let after = self.ranges.partition_point(|range| range.low.as_slice() <= encoded);
        let last = after.checked_sub(1).and_then(|last| self.ranges.get(last));
        last.is_some_and(|range| range.contains(encoded))
    }

    /// The ranges, for a search.
    pub fn index_ranges(&self) -> IndexRanges<'_> {
        IndexRanges {
            index: &self.index,
            columns: self.columns.paths(),
            depth: self.depth,
            ranges: &self.ranges,
        }
    }

    /// Returns the prefix if the only range contains exactly the texts with that prefix.
    fn prefix(&self) -> Option<String> {
        match self.ranges.as_slice() {
            [range] if self.depth == 1 => sortkey::prefix_within(&range.low, &range.high),
            _ => None,
        }
    }

    /// Returns a rank that is lower for a probe that is likely to find fewer rows.
    fn rank(&self) -> (u8, std::cmp::Reverse<usize>, usize) {
        let class = match self.exact {
            true => 0,
            false if self.prefix().is_none() => 1,
            false => 2,
        };
        (class, std::cmp::Reverse(self.depth), self.ranges.len())
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "index {}: ", self.index)?;
        match self.depth {
            depth if depth == self.columns.paths().len() => {}
            1 => f.write_str("first column ")?,
            depth => write!(f, "first {depth} columns ")?,
        }
        match (self.ranges.len(), self.exact) {
            (0, _) => f.write_str("no match possible"),
            (1, true) => f.write_str("= 1 value"),
            (n, true) => write!(f, "= {n} values"),
            (1, false) => match self.prefix() {
                Some(prefix) => write!(f, "prefix {prefix:?}"),
                None => f.write_str("range"),
            },
            (n, false) => write!(f, "{n} ranges"),
        }
    }
}

/// Returns the probes that a condition allows, the most selective first. Each one alone finds every row that can match.
pub(super) fn probes(condition: &Condition, indexes: &[String]) -> Result<Vec<Probe>> {
    let columns: Vec<IndexColumns> = indexes.iter().map(|index| IndexColumns::of(index)).collect();
    let mut places = HashMap::new();
    for path in columns.iter().flat_map(|columns| columns.paths()) {
        let next = places.len();
        places.entry(path).or_insert(next);
    }
    let by_path = Prober { places: &places }.ranges(condition)?;
    let mut found: Vec<Probe> = Vec::new();
    for (index, columns) in indexes.iter().zip(columns.clone()) {
        let of_column = |path: &Path| by_path.get(places.get(path)?);
        let (ranges, depth) = composite_ranges(columns.paths().iter().map_while(of_column))?;
        // Two index names can have the same columns; the first one is used.
        if depth == 0 || found.iter().any(|known| known.columns == columns) {
            continue;
        }
        let exact = ranges.iter().all(ValueRange::is_one_value);
        found.push(Probe { columns, depth, index: index.clone(), ranges, exact });
    }
    found.sort_by_cached_key(Probe::rank);
    Ok(found)
}

/// The most ranges of a composite index. Beyond, only its first columns are used.
const COMPOSITE_RANGES: usize = 1024;

/// Combines the ranges of the first columns of an index, each of which must be single values except the last. Returns the
/// number of columns, too.
fn composite_ranges<'a>(columns: impl Iterator<Item = &'a Ranges>) -> Result<(Ranges, usize)> {
    let mut combined: Ranges = Vec::new();
    let mut depth = 0;
    for ranges in columns {
        if depth == 0 {
            combined.clone_from(ranges);
        } else {
            if combined.len().saturating_mul(ranges.len()) > COMPOSITE_RANGES {
                break;
            }
            work::step(u32::try_from(combined.len() * ranges.len()).unwrap_or(u32::MAX))?;
            let with = |before: &ValueRange, range: &ValueRange| ValueRange {
                low: [before.low.as_slice(), &range.low].concat(),
                high: [before.high.as_slice(), &range.high].concat(),
            };
            combined =
                combined.iter().flat_map(|before| ranges.iter().map(|range| with(before, range))).collect();
        }
        depth += 1;
        if !combined.iter().all(ValueRange::is_one_value) {
            break;
        }
    }
    Ok((combined, depth))
}

/// Sorted and not overlapping.
type Ranges = Vec<ValueRange>;

/// Ranges by number of a path: in every matching row, the path has a scalar in one of the ranges.
type ByPath = BTreeMap<usize, Ranges>;

struct Prober<'a> {
    places: &'a HashMap<&'a Path, usize>,
}

impl Prober<'_> {
    fn ranges(&self, condition: &Condition) -> Result<ByPath> {
        work::step(8)?;
        let (column, ranges) = match condition {
            Condition::And(parts) => return self.all(parts),
            Condition::Or(parts) => return self.any(parts),
            Condition::Compare { column, op, value } => (column, compare(*op, value)),
            Condition::In { column, values, negated: false } => (column, one_of(values.values())?),
            Condition::Between { column, low, high, negated: false } => (column, between(low, high)),
            Condition::Like { column, pattern, negated: false } => (column, like(pattern)),
            // Rows that no index contains can meet these: rows with a missing field, null, an array or an object.
            Condition::Not(_)
            | Condition::In { .. }
            | Condition::Between { .. }
            | Condition::Like { .. }
            | Condition::ILike { .. }
            | Condition::Contains { .. }
            | Condition::Any { .. }
            | Condition::IsNull { .. }
            | Condition::IsMissing { .. } => return Ok(ByPath::new()),
        };
        let Column::Path(path) = column else { return Ok(ByPath::new()) };
        Ok(self.places.get(path).copied().zip(ranges).into_iter().collect())
    }

    fn all(&self, parts: &[Condition]) -> Result<ByPath> {
        let mut lists: BTreeMap<usize, Vec<Ranges>> = BTreeMap::new();
        for part in parts {
            for (place, ranges) in self.ranges(part)? {
                lists.entry(place).or_default().push(ranges);
            }
        }
        lists.into_iter().map(|(place, lists)| Ok((place, intersection(lists)?))).collect()
    }

    /// An OR constrains an index only if each of its parts does.
    fn any(&self, parts: &[Condition]) -> Result<ByPath> {
        let mut parts = parts.iter();
        let mut common = parts.next().map(|part| self.ranges(part)).transpose()?.unwrap_or_default();
        for part in parts {
            if common.is_empty() {
                return Ok(common);
            }
            let mut more = self.ranges(part)?;
            common.retain(|place, ranges| match more.remove(place) {
                Some(more) => {
                    ranges.extend(more);
                    true
                }
                None => false,
            });
        }
        common.into_iter().map(|(place, ranges)| Ok((place, merged(ranges)?))).collect()
    }
}

/// Encodes a value as an index stores it; `None` if indexes do not store values of its kind.
fn encoded(value: &Value) -> Option<(Scalar<'_>, Vec<u8>)> {
    let scalar = match value {
        Value::Bool(value) => Scalar::Bool(*value),
        Value::Int(int) => Scalar::Int(*int),
        Value::Float(float) => Scalar::Float(*float),
        Value::Str(text) => Scalar::Str(text),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    let mut bytes = Vec::new();
    sortkey::write_scalar(&mut bytes, scalar);
    Some((scalar, bytes))
}

fn one(value: Vec<u8>) -> ValueRange {
    ValueRange { low: value.clone(), high: value }
}

/// Comparisons are typed, so the range has values of one kind. It includes the bound itself even for `<` and `>`,
/// because another value can have the same bytes: long texts are cut.
fn compare(op: Comparison, value: &Value) -> Option<Ranges> {
    let (scalar, bytes) = encoded(value)?;
    let range = match op {
        Comparison::NotEqual => return None,
        Comparison::Equal => one(bytes),
        Comparison::Less | Comparison::LessOrEqual => ValueRange { low: scalar.kind().below(), high: bytes },
        Comparison::Greater | Comparison::GreaterOrEqual => {
            ValueRange { low: bytes, high: scalar.kind().above() }
        }
    };
    Some(vec![range])
}

fn one_of(values: &[Value]) -> Result<Option<Ranges>> {
    // Nothing equals null.
    let values = values.iter().filter(|value| **value != Value::Null);
    let ranges: Option<Ranges> = values.map(|value| encoded(value).map(|(_, bytes)| one(bytes))).collect();
    ranges.map(merged).transpose()
}

fn between(low: &Value, high: &Value) -> Option<Ranges> {
    let ((low_scalar, low), (high_scalar, high)) = (encoded(low)?, encoded(high)?);
    // A value can be compared with only one of two kinds.
    let possible = low_scalar.kind() == high_scalar.kind() && low <= high;
    Some(if possible { vec![ValueRange { low, high }] } else { Vec::new() })
}

fn like(pattern: &LikePattern) -> Option<Ranges> {
    let (prefix, whole) = pattern.prefix();
    if whole {
        return compare(Comparison::Equal, &Value::Str(prefix));
    }
    if prefix.is_empty() {
        return None;
    }
    let (low, high) = sortkey::prefix_bounds(&prefix);
    Some(vec![ValueRange { low, high }])
}

/// Returns the union of ranges.
fn merged(mut ranges: Vec<ValueRange>) -> Result<Ranges> {
    work::step(u32::try_from(ranges.len().saturating_mul(16)).unwrap_or(u32::MAX))?;
    ranges.sort_unstable_by(|a, b| a.low.cmp(&b.low));
    let mut merged: Ranges = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.low <= last.high => {
                if range.high > last.high {
                    last.high = range.high;
                }
            }
            _ => merged.push(range),
        }
    }
    Ok(merged)
}

/// Returns the intersection of lists of ranges. It works pair by pair, so that the time for a long condition is not
/// quadratic in its length.
fn intersection(mut lists: Vec<Ranges>) -> Result<Ranges> {
    while lists.len() > 1 {
        let mut pairs = lists.into_iter();
        let mut halved = Vec::new();
        while let Some(first) = pairs.next() {
            halved.push(match pairs.next() {
                Some(second) => in_both(first, second)?,
                None => first,
            });
        }
        lists = halved;
    }
    Ok(lists.pop().unwrap_or_default())
}

fn in_both(a: Ranges, b: Ranges) -> Result<Ranges> {
    let (mut a, mut b) = (a.into_iter().peekable(), b.into_iter().peekable());
    let mut both = Vec::new();
    while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
        work::step(8)?;
        let (low, high) = ((&x.low).max(&y.low), (&x.high).min(&y.high));
        if low <= high {
            both.push(ValueRange { low: low.clone(), high: high.clone() });
        }
        // The range that ends first cannot meet another one.
        if x.high <= y.high {
            a.next()
        } else {
            b.next()
        };
    }
    Ok(both)
}

#[cfg(test)]
mod tests;
