//! The candidates of an index: sort keys in one buffer, with a bound on their number and on their memory.
//!
//! A candidate comes with what the index files tell of its row: the newest layer that has an event of the row at the point in
//! time. That layer alone decides whether the row has a value; what older layers say of the row is out of date.

use crate::error::Result;
use crate::format::key::Key;
use crate::limits;
use crate::memory::MemoryPermit;
use crate::table::layers::{LayerId, not_a_key, sort_key};
use crate::table::sort_start::{SortStart, common_len};
use crate::work;

/// The memory is reserved in pieces of this size.
const RESERVED_AT_ONCE: usize = 256 << 10;

/// The place of a layer among those that a point in time needs, the newest first.
pub(super) type LayerPlace = u16;
/// A candidate of the memtable only: in no layer does its row have one of the values.
const NO_LAYER: LayerPlace = LayerPlace::MAX;

#[derive(Debug, Clone, Copy)]
struct Candidate {
    /// Set when the keys are sorted.
    sort_start: SortStart,
    start: usize,
    len: u16,
    /// The newest layer that has an event of the row.
    layer: LayerPlace,
    /// Whether the row may have one of the values, as that layer or the memtable says.
    may_match: bool,
    in_memtable: bool,
}

/// Sort keys of candidates, in order once they are complete.
#[derive(Debug)]
pub struct CandidateKeys {
    bytes: Vec<u8>,
    keys: Vec<Candidate>,
    /// The layers by their places.
    layers: Vec<LayerId>,
    most: usize,
    reserved: usize,
    memory: Option<MemoryPermit>,
}

impl CandidateKeys {
    /// An empty list. It is over its bound if it has more than `most` keys, or keys of more than [`limits::QUERY_BYTES`].
    pub(super) fn new(most: usize) -> CandidateKeys {
        CandidateKeys {
            bytes: Vec::new(),
            keys: Vec::new(),
            layers: Vec::new(),
            most,
            reserved: 0,
            memory: None,
        }
    }

    /// The same list, of candidates that some layers name, the newest first.
    #[must_use]
    pub(super) fn of_layers(self, layers: Vec<LayerId>) -> CandidateKeys {
        CandidateKeys { layers, ..self }
    }

    /// A complete list of keys, which must be in order.
    ///
    /// # Errors
    /// As [`CandidateKeys::push_of_layer`].
    pub(super) fn of_keys<'a>(keys: impl IntoIterator<Item = &'a Key>) -> Result<CandidateKeys> {
        let mut listed = CandidateKeys::new(usize::MAX);
        for key in keys {
            work::step(8)?;
            listed.push_of_layer(&sort_key(key), 0, true)?;
        }
        listed.complete()?;
        Ok(listed)
    }

    /// Adds what a layer says of a row: that it has an event of the row, and whether the row may have a value after it.
    ///
    /// # Errors
    /// `OVERLOADED` if other queries use all the memory.
    pub(super) fn push_of_layer(&mut self, key: &[u8], layer: LayerPlace, may_match: bool) -> Result<()> {
        self.push(key, (layer, may_match), false)
    }

    /// Adds a row of the memtable that may have a value.
    ///
    /// # Errors
    /// As [`CandidateKeys::push_of_layer`].
    pub(super) fn push_of_memtable(&mut self, key: &[u8]) -> Result<()> {
        self.push(key, (NO_LAYER, true), true)
    }

    fn push(&mut self, key: &[u8], (layer, may_match): (LayerPlace, bool), in_memtable: bool) -> Result<()> {
        let len = u16::try_from(key.len()).map_err(|_| not_a_key())?;
        let (sort_start, start) = (SortStart::default(), self.bytes.len());
        self.keys.push(Candidate { sort_start, start, len, layer, may_match, in_memtable });
        self.bytes.extend_from_slice(key);
        if self.size() > self.reserved {
            match &mut self.memory {
                Some(memory) => memory.grow(RESERVED_AT_ONCE as u64)?,
                None => self.memory = work::reserve(RESERVED_AT_ONCE)?,
            }
            self.reserved += RESERVED_AT_ONCE;
        }
        Ok(())
    }

    fn size(&self) -> usize {
        self.bytes.len() + self.keys.len() * size_of::<Candidate>()
    }

    /// Whether there are more rows than the list may have. Its owner must then do without it.
    pub(super) fn is_over(&mut self) -> Result<bool> {
        // Rows that several layers hold are counted once, but looking for them at each row would take long.
        if self.keys.len() > self.most.saturating_mul(2).saturating_add(64)
            || self.size() > limits::QUERY_BYTES
        {
            self.merge()?;
            return Ok(self.keys.len() > self.most || self.size() > limits::QUERY_BYTES / 2);
        }
        Ok(false)
    }

    /// Ends the list: sorts the keys, and removes those that cannot match. Returns whether the list is over its bound.
    pub(super) fn complete(&mut self) -> Result<bool> {
        self.merge()?;
        self.keys.retain(|candidate| candidate.may_match);
        Ok(self.keys.len() > self.most)
    }

    /// Sorts the keys, and keeps what the newest layer says of each.
    fn merge(&mut self) -> Result<()> {
        work::step(u32::try_from(self.keys.len().saturating_mul(2)).unwrap_or(u32::MAX))?;
        let bytes = &self.bytes;
        let common = common_len(self.keys.iter().map(|candidate| key_of(bytes, candidate)));
        for candidate in &mut self.keys {
            candidate.sort_start = SortStart::new(key_of(bytes, candidate), common);
        }
        let compare = |a: &Candidate, b: &Candidate| {
            a.sort_start.compare(b.sort_start, || key_of(bytes, a).cmp(key_of(bytes, b)))
        };
        // A stable sort, because it is fast for a few sorted runs: one for each file.
        self.keys.sort_by(compare);
        self.keys.dedup_by(|next, kept| {
            let same = compare(next, kept).is_eq();
            if same {
                *kept = newer_of(*kept, *next);
            }
            same
        });
        Ok(())
    }

    /// Keeps the keys for which the predicate is true.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(usize, &[u8]) -> bool) {
        let (bytes, mut at) = (&self.bytes, 0);
        self.keys.retain(|candidate| {
            at += 1;
            keep(at - 1, key_of(bytes, candidate))
        });
    }

    /// Whether the complete list has a key.
    pub(super) fn contains(&self, key: &[u8]) -> bool {
        self.keys.binary_search_by(|candidate| key_of(&self.bytes, candidate).cmp(key)).is_ok()
    }

    /// Whether a layer is the only one that can have the newest version of a row, if the row has one of the values and no event
    /// in the memtable.
    pub(super) fn is_decided_by(&self, at: usize, layer: LayerPlace) -> bool {
        self.keys.get(at).is_some_and(|candidate| candidate.layer == layer)
    }

    /// The newest layer that has an event of the row with one of the values; `None` if there is none.
    pub fn layer(&self, at: usize) -> Option<LayerId> {
        let place = self.keys.get(at)?.layer;
        self.layers.get(usize::from(place)).copied()
    }

    /// Whether the memtable has an event of the row with one of the values.
    pub(super) fn is_in_memtable(&self, at: usize) -> bool {
        self.keys.get(at).is_some_and(|candidate| candidate.in_memtable)
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// A sort key.
    pub fn get(&self, at: usize) -> Option<&[u8]> {
        self.keys.get(at).map(|candidate| key_of(&self.bytes, candidate))
    }

    /// The position of the first key after a sort key.
    pub fn first_after(&self, key: &[u8]) -> usize {
        self.keys.partition_point(|candidate| key_of(&self.bytes, candidate) <= key)
    }
}

fn key_of<'a>(bytes: &'a [u8], candidate: &Candidate) -> &'a [u8] {
    bytes.get(candidate.start..candidate.start + usize::from(candidate.len)).unwrap_or_default()
}

/// What is known of a row from two entries.
fn newer_of(a: Candidate, b: Candidate) -> Candidate {
    let of_layer = |one: &Candidate| one.may_match && !one.in_memtable;
    let (kept, may_match) = match a.layer.cmp(&b.layer) {
        std::cmp::Ordering::Less => (a, of_layer(&a)),
        std::cmp::Ordering::Greater => (b, of_layer(&b)),
        // One layer can have several of the values of a row, each in another range of commits.
        std::cmp::Ordering::Equal => (a, of_layer(&a) || of_layer(&b)),
    };
    let in_memtable = a.in_memtable || b.in_memtable;
    Candidate { may_match: may_match || in_memtable, in_memtable, ..kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(keys: &CandidateKeys) -> Vec<&[u8]> {
        (0..).map_while(|at| keys.get(at)).collect()
    }

    #[test]
    fn the_newest_layer_decides_unless_the_memtable_has_the_row() {
        let mut keys = CandidateKeys::new(10);
        keys.push_of_layer(b"b", 0, false).unwrap();
        keys.push_of_layer(b"d", 0, true).unwrap();
        // Of one layer: the row has left one of the values and has another one.
        keys.push_of_layer(b"e", 1, false).unwrap();
        keys.push_of_layer(b"e", 1, true).unwrap();
        keys.push_of_layer(b"c", 1, false).unwrap();
        for key in [b"a", b"b", b"c", b"d"] {
            keys.push_of_layer(key, 2, true).unwrap();
        }
        keys.push_of_memtable(b"c").unwrap();
        keys.push_of_memtable(b"f").unwrap();
        assert!(!keys.complete().unwrap());
        assert_eq!(found(&keys), [b"a", b"c", b"d", b"e", b"f"]);
        let decided = |layer| (0..5).map(|at| keys.is_decided_by(at, layer)).collect::<Vec<bool>>();
        assert_eq!(decided(0), [false, false, true, false, false]);
        assert_eq!(decided(1), [false, true, false, true, false]);
        assert_eq!(decided(2), [true, false, false, false, false]);
        assert_eq!((keys.first_after(b"c"), keys.first_after(b"cc"), keys.first_after(b"z")), (2, 2, 5));
        keys.retain(|at, key| at != 1 && key != b"f");
        assert_eq!(found(&keys), [b"a", b"d", b"e"]);
    }

    #[test]
    fn rows_are_counted_once_and_their_bytes_are_bounded() {
        let mut keys = CandidateKeys::new(100);
        for layer in 0..50 {
            for number in 0..100u8 {
                keys.push_of_layer(&[number], layer, true).unwrap();
                assert!(!keys.is_over().unwrap());
            }
        }
        assert!(!keys.complete().unwrap());
        assert_eq!(keys.len(), 100);
        keys.push_of_layer(&[100], 0, true).unwrap();
        assert!(keys.complete().unwrap());

        let mut large = CandidateKeys::new(usize::MAX);
        let mut count = 0u32;
        while !large.is_over().unwrap() {
            large.push_of_layer(&[&count.to_be_bytes()[..], &[7; 1000]].concat(), 0, true).unwrap();
            count += 1;
        }
        assert!(count as usize <= limits::QUERY_BYTES / 1000);
    }
}
