//! Merges sorted sources: scans, merges of layers, index builds and diffs all read several of them as one.
//!
//! A table has at most about a dozen layers, so the cursor compares the sources' keys one by one. A heap would have to be
//! rebuilt whenever a source is moved from outside, and sources are: a scan takes all versions of a row from a source at
//! once, or seeks past them.

use crate::storage::sst::TreeCursor;

/// A source whose entries are sorted by key. The cursor only looks at the entry that the source is on: whoever takes
/// that entry also moves the source to the next one.
pub(super) trait SortedSource {
    /// What the entries are sorted by.
    type Key: Ord + ?Sized;

    /// The key of the entry that the source is on; `None` after the last entry.
    fn key(&self) -> Option<&Self::Key>;
}

impl SortedSource for TreeCursor {
    type Key = [u8];

    fn key(&self) -> Option<&[u8]> {
        TreeCursor::key(self)
    }
}

/// Sorted sources, read as one.
#[derive(Debug)]
pub(super) struct MergingCursor<S> {
    /// In the order that decides between equal keys: layers are passed oldest first.
    sources: Vec<S>,
}

impl<S: SortedSource> MergingCursor<S> {
    /// A cursor over sources, each of which is on its first entry.
    pub(super) fn new(sources: Vec<S>) -> MergingCursor<S> {
        MergingCursor { sources }
    }

    /// The least key; `None` after the last entry of all sources.
    pub(super) fn key(&self) -> Option<&S::Key> {
        self.sources.iter().filter_map(S::key).min()
    }

    /// The source that is on the least key, and of several the first.
    pub(super) fn least(&mut self) -> Option<&mut S> {
        self.sources.iter_mut().filter(|source| source.key().is_some()).min_by(|a, b| a.key().cmp(&b.key()))
    }

    /// The source that is on the least key, if all other sources are past the key that `upto` returns for it.
    pub(super) fn least_before_others(&mut self, upto: impl Fn(&S) -> Option<&S::Key>) -> Option<&mut S> {
        let keys = self.sources.iter().enumerate().filter_map(|(at, source)| Some((at, source.key()?)));
        let (least, _) = keys.min_by(|(_, a), (_, b)| a.cmp(b))?;
        let last = upto(self.sources.get(least)?)?;
        let is_past = |(at, source): (usize, &S)| at == least || source.key().is_none_or(|key| key > last);
        if self.sources.iter().enumerate().all(is_past) { self.sources.get_mut(least) } else { None }
    }

    /// The sources that are on a key, in their order.
    pub(super) fn sources_at<'a>(&'a mut self, key: &'a S::Key) -> impl Iterator<Item = &'a mut S> {
        self.sources.iter_mut().filter(move |source| source.key() == Some(key))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Keys in memory, and the position among them.
    #[derive(Debug)]
    struct Keys {
        name: usize,
        keys: Vec<u8>,
        at: usize,
    }

    impl SortedSource for Keys {
        type Key = u8;

        fn key(&self) -> Option<&u8> {
            self.keys.get(self.at)
        }
    }

    /// Sources with a unique key each time, sorted; some of them empty.
    fn sources() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::btree_set(0..40u8, 0..12), 0..6)
            .prop_map(|sets| sets.into_iter().map(|set| set.into_iter().collect()).collect())
    }

    fn cursor(sources: &[Vec<u8>]) -> MergingCursor<Keys> {
        let keys = sources.iter().enumerate();
        MergingCursor::new(keys.map(|(name, keys)| Keys { name, keys: keys.clone(), at: 0 }).collect())
    }

    proptest! {
        #[test]
        fn the_sources_are_read_in_key_order_and_equal_keys_in_source_order(sources in sources()) {
            let mut expected: Vec<(u8, usize)> = Vec::new();
            let mut model: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
            for (name, keys) in sources.iter().enumerate() {
                for key in keys {
                    expected.push((*key, name));
                    model.entry(*key).or_default().push(name);
                }
            }
            expected.sort_unstable();

            let mut merged = cursor(&sources);
            let mut one_by_one = Vec::new();
            while let Some(source) = merged.least() {
                one_by_one.push((*source.key().unwrap(), source.name));
                source.at += 1;
            }
            prop_assert_eq!(one_by_one, expected);

            let mut merged = cursor(&sources);
            let mut by_key = BTreeMap::new();
            let mut last = None;
            while let Some(key) = merged.key().copied() {
                prop_assert!(last < Some(key), "key {} after {:?}", key, last);
                last = Some(key);
                let at = merged.sources_at(&key);
                by_key.insert(key, at.map(|source| { source.at += 1; source.name }).collect::<Vec<_>>());
            }
            prop_assert_eq!(by_key, model);
        }
    }
}
