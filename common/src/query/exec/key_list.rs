//! The keys that a SELECT looks up, in order: those of its condition, or candidates of indexes.

use std::borrow::Cow;

use crate::format::key::Key;
use crate::table::candidate_keys::CandidateKeys;
use crate::table::layers::sort_key;

/// A sorted list of keys.
#[derive(Debug, Clone, Copy)]
pub(super) enum KeyList<'a> {
    Keys(&'a [Key]),
    Candidates(&'a CandidateKeys),
}

impl<'a> KeyList<'a> {
    pub(super) fn len(self) -> usize {
        match self {
            KeyList::Keys(keys) => keys.len(),
            KeyList::Candidates(keys) => keys.len(),
        }
    }

    /// The position of the first key after a key.
    pub(super) fn first_after(self, after: &Key) -> usize {
        match self {
            KeyList::Keys(keys) => keys.partition_point(|key| key <= after),
            KeyList::Candidates(keys) => keys.first_after(&sort_key(after)),
        }
    }

    /// At most `count` sort keys from a position on.
    pub(super) fn sort_keys(self, start: usize, count: usize) -> Vec<Cow<'a, [u8]>> {
        match self {
            KeyList::Keys(keys) => {
                keys.iter().skip(start).take(count).map(|key| Cow::Owned(sort_key(key))).collect()
            }
            KeyList::Candidates(keys) => {
                (start..).map_while(|at| keys.get(at)).take(count).map(Cow::Borrowed).collect()
            }
        }
    }
}
