//! An ordered set of byte strings that one thread extends while others read it.
//!
//! A tree with a node for each entry costs a search per insertion, through memory that is in no cache, and forty bytes a node. This
//! set sorts a few entries at a time into a run, and merges runs of about the same length, as an LSM tree does with files: an
//! entry is moved a few times in long sweeps, and its bytes lie beside those of its neighbours. A reader takes the runs as they are
//! and merges them as it goes. The lock is held for one entry, or to exchange the list of runs; never while entries are sorted.

use std::sync::Arc;

use parking_lot::RwLock;

/// The number of entries that are not sorted yet, at most. Each reader sorts those it may need.
const UNSORTED: usize = 64;

/// Entries, one after the other.
#[derive(Debug, Clone, Default)]
struct Run {
    bytes: Vec<u8>,
    /// The end of each entry in `bytes`.
    ends: Vec<u32>,
}

impl Run {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.bytes.get(start as usize..end as usize)
    }

    fn push(&mut self, entry: &[u8]) {
        self.bytes.extend_from_slice(entry);
        // A set never holds 4 GiB: a memtable's part has less than 2^15 events.
        self.ends.push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
    }

    /// The entries from `start` on, sorted and each once.
    fn sorted(&self, start: &[u8]) -> Run {
        let mut entries: Vec<&[u8]> =
            (0..self.len()).filter_map(|index| self.get(index)).filter(|entry| *entry >= start).collect();
        entries.sort_unstable();
        entries.dedup();
        let mut run = Run::default();
        entries.into_iter().for_each(|entry| run.push(entry));
        run
    }

    /// The position of the first entry at or after `start`, if the entries are sorted.
    fn position(&self, start: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.get(middle).is_some_and(|entry| entry < start) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// The entries of two sorted runs.
    fn merge(&self, other: &Run) -> Run {
        let mut run = Run {
            bytes: Vec::with_capacity(self.bytes.len() + other.bytes.len()),
            ends: Vec::with_capacity(self.len() + other.len()),
        };
        let (mut left, mut right) = (0, 0);
        loop {
            match (self.get(left), other.get(right)) {
                (Some(a), Some(b)) => {
                    let order = a.cmp(b);
                    run.push(if order.is_le() { a } else { b });
                    left += usize::from(order.is_le());
                    right += usize::from(order.is_ge());
                }
                (Some(a), None) => {
                    run.push(a);
                    left += 1;
                }
                (None, Some(b)) => {
                    run.push(b);
                    right += 1;
                }
                (None, None) => return run,
            }
        }
    }
}

#[derive(Debug, Default)]
struct Runs {
    /// Sorted, the longest first: each is longer than all after it together, or nearly.
    sorted: Vec<Arc<Run>>,
    unsorted: Run,
}

/// The set. Entries are never removed. Only one thread may add.
#[derive(Debug, Default)]
pub(super) struct SortedSet(RwLock<Runs>);

impl SortedSet {
    /// Adds an entry.
    pub(super) fn insert(&self, entry: &[u8]) {
        let mut runs = self.0.write();
        runs.unsorted.push(entry);
        if runs.unsorted.len() >= UNSORTED {
            drop(runs);
            self.merge_runs(|last, merged| last.len() <= merged.len());
        }
    }

    /// Merges all entries into one run, when no more will be added.
    pub(super) fn seal(&self) {
        self.merge_runs(|_, _| true);
    }

    /// Sorts what is not sorted, and merges it with the runs before it as long as `joins` is true.
    fn merge_runs(&self, joins: impl Fn(&Run, &Run) -> bool) {
        // Nobody else adds: what is read here is still there below.
        let (mut sorted, mut merged) = {
            let runs = self.0.read();
            (runs.sorted.clone(), runs.unsorted.sorted(&[]))
        };
        while let Some(last) = sorted.pop_if(|last| joins(last, &merged)) {
            merged = last.merge(&merged);
        }
        // Merging leaves room for entries that both runs had.
        merged.bytes.shrink_to_fit();
        merged.ends.shrink_to_fit();
        sorted.push(Arc::new(merged));
        *self.0.write() = Runs { sorted, unsorted: Run::default() };
    }

    /// Passes the entries from `start` on to `visit`, one run after the other: the entries of a run in order, until `visit` returns
    /// false. An entry that several runs have is passed several times.
    pub(super) fn visit_runs<E>(
        &self,
        start: &[u8],
        mut visit: impl FnMut(&[u8]) -> Result<bool, E>,
    ) -> Result<(), E> {
        let (sorted, unsorted) = {
            let runs = self.0.read();
            (runs.sorted.clone(), runs.unsorted.sorted(start))
        };
        for run in sorted.iter().map(AsRef::as_ref).chain([&unsorted]) {
            let mut at = run.position(start);
            while let Some(entry) = run.get(at)
                && visit(entry)?
            {
                at += 1;
            }
        }
        Ok(())
    }

    /// An estimate of the bytes that an entry takes.
    pub(super) fn entry_bytes(entry: &[u8]) -> usize {
        entry.len() + size_of::<u32>()
    }
}

/// The entries of some sets from one entry on, in order, each once: those that the sets have when the cursor is opened.
#[derive(Debug)]
pub(super) struct SetCursor {
    /// The runs that have entries left, and the position in each.
    sources: Vec<(Arc<Run>, usize)>,
}

impl SetCursor {
    /// A cursor from `start` on.
    pub(super) fn open<'a>(sets: impl Iterator<Item = &'a SortedSet>, start: &[u8]) -> SetCursor {
        let mut sources = Vec::new();
        for set in sets {
            let runs = set.0.read();
            sources.extend(runs.sorted.iter().map(|run| (Arc::clone(run), 0)));
            let unsorted = runs.unsorted.sorted(start);
            drop(runs);
            sources.push((Arc::new(unsorted), 0));
        }
        for (run, at) in &mut sources {
            *at = run.position(start);
        }
        sources.retain(|(run, at)| *at < run.len());
        SetCursor { sources }
    }

    /// Replaces `entry` by the next entry. Returns false after the last.
    pub(super) fn next_into(&mut self, entry: &mut Vec<u8>) -> bool {
        let Some(least) = self.sources.iter().filter_map(|(run, at)| run.get(*at)).min() else {
            return false;
        };
        entry.clear();
        entry.extend_from_slice(least);
        self.sources.retain_mut(|(run, at)| {
            if run.get(*at) == Some(entry) {
                *at += 1;
            }
            *at < run.len()
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn entries(sets: &[SortedSet], start: &[u8]) -> Vec<Vec<u8>> {
        let (mut cursor, mut entry) = (SetCursor::open(sets.iter(), start), Vec::new());
        std::iter::from_fn(|| cursor.next_into(&mut entry).then(|| entry.clone())).collect()
    }

    proptest! {
        #[test]
        fn sets_give_what_a_sorted_tree_gives(
            added in prop::collection::vec((0..3_usize, prop::collection::vec(0..4_u8, 0..5)), 0..700),
            start in prop::collection::vec(0..4_u8, 0..4),
            sealed in 0..3_usize,
        ) {
            let sets: Vec<SortedSet> = (0..3).map(|_| SortedSet::default()).collect();
            for (set, entry) in &added {
                sets[*set].insert(entry);
            }
            sets[sealed].seal();
            let model: BTreeSet<Vec<u8>> = added.into_iter().map(|(_, entry)| entry).collect();
            let expected: Vec<Vec<u8>> = model.range(start.clone()..).cloned().collect();
            prop_assert_eq!(entries(&sets, &start), expected.clone());
            let end = start.iter().map(|byte| byte + 1).collect::<Vec<u8>>();
            let mut passed = BTreeSet::new();
            for set in &sets {
                let visit = |entry: &[u8]| {
                    passed.insert(entry.to_vec());
                    Ok::<bool, ()>(entry < &end[..])
                };
                set.visit_runs(&start, visit).unwrap();
            }
            prop_assert!(passed.iter().all(|entry| model.contains(entry) && *entry >= start));
            prop_assert!(expected.iter().filter(|entry| **entry < end).all(|entry| passed.contains(entry)));
        }
    }

    #[test]
    fn there_are_few_runs() {
        let set = SortedSet::default();
        for number in 0..20_000_u32 {
            set.insert(&number.wrapping_mul(2_654_435_761).to_be_bytes());
            assert!(set.0.read().sorted.len() <= 10);
        }
        set.seal();
        assert_eq!(set.0.read().sorted.len(), 1);
        assert_eq!(entries(&[set], &[]).len(), 20_000);
    }
}
