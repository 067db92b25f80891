//! The part of an encoding that most comparisons need: sorting numbers is faster than sorting bytes elsewhere in memory.

use std::cmp::Ordering;

/// Eight bytes of an encoding, after those that all encodings in a sort begin with. The encodings must be of one kind of
/// [`sortkey`](crate::format::sortkey), so that none is a prefix of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SortStart {
    start: u64,
    /// Whether the encoding ends within these bytes. Two such encodings with the same start are the same.
    is_whole: bool,
}

impl SortStart {
    /// The start of an encoding, when all begin with the same `common` bytes.
    pub(super) fn new(encoding: &[u8], common: usize) -> SortStart {
        let rest = encoding.get(common..).unwrap_or_default();
        let mut start = [0; 8];
        start.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        SortStart { start: u64::from_be_bytes(start), is_whole: rest.len() <= start.len() }
    }

    /// Compares two encodings. `whole` compares all their bytes.
    pub(super) fn compare(self, other: SortStart, whole: impl FnOnce() -> Ordering) -> Ordering {
        self.start
            .cmp(&other.start)
            .then_with(|| if self.is_whole && other.is_whole { Ordering::Equal } else { whole() })
    }
}

/// The number of bytes that all encodings begin with.
pub(super) fn common_len<'a>(mut encodings: impl Iterator<Item = &'a [u8]>) -> usize {
    let Some(first) = encodings.next() else { return 0 };
    let same = |other: &[u8]| first.iter().zip(other).take_while(|(a, b)| a == b).count();
    encodings.fold(first.len(), |len, other| len.min(same(other)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::key::Key;
    use crate::format::sortkey;

    #[test]
    fn starts_compare_as_the_encodings_do() {
        let texts = ["k", "k\0", "k\0\0", "ka", "k1234567", "k12345678", "k123456789", "k12345678\0", "kb"];
        let encode = |text: &&str| {
            let mut out = Vec::new();
            sortkey::write_key(&mut out, &Key::Str((*text).into()));
            out
        };
        let keys: Vec<Vec<u8>> = texts.iter().map(encode).collect();
        let common = common_len(keys.iter().map(Vec::as_slice));
        assert_eq!(common, 1);
        for a in &keys {
            for b in &keys {
                let (start_a, start_b) = (SortStart::new(a, common), SortStart::new(b, common));
                assert_eq!(start_a.compare(start_b, || a.cmp(b)), a.cmp(b), "{a:?} {b:?}");
            }
        }
    }
}
