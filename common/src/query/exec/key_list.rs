//! The keys that a SELECT looks up, in order: those of its condition, or candidates of indexes.

use std::borrow::Cow;

use crate::format::key::Key;
use crate::table::candidate_keys::CandidateKeys;
use crate::table::layers::{LayerId, SoughtRow, sort_key};

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

    /// At most `count` keys from a position on.
    pub(super) fn listed(self, start: usize, count: usize) -> Vec<ListedKey<'a>> {
        match self {
            KeyList::Keys(keys) => {
                let keys = keys.iter().skip(start).take(count);
                keys.map(|key| ListedKey { sort_key: Cow::Owned(sort_key(key)), layer: None }).collect()
            }
            KeyList::Candidates(keys) => {
                let listed = |at| {
                    let sort_key = Cow::Borrowed(keys.get(at)?);
                    Some(ListedKey { sort_key, layer: keys.layer(at) })
                };
                (start..).map_while(listed).take(count).collect()
            }
        }
    }
}

/// A key of a list, and the layer that probably has the newest version of its row, if the list tells.
#[derive(Debug)]
pub(super) struct ListedKey<'a> {
    sort_key: Cow<'a, [u8]>,
    layer: Option<LayerId>,
}

impl ListedKey<'_> {
    /// The row to look up.
    pub(super) fn sought(&self) -> SoughtRow<'_> {
        SoughtRow { key: &self.sort_key, layer: self.layer }
    }
}
