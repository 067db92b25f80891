//! Stores that break what DriftDB relies on are found.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use driftdb_common::bucket::objects::{CreateAnswer, FoundObject, Objects, Persistence, StoreFault};
use parking_lot::Mutex;

use super::*;

/// What is wrong with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StoreFlaw {
    Nothing,
    /// It ignores the condition of a PUT.
    Overwrites,
    /// Now and then it lets a second writer create an object, too.
    Races,
    /// A listing and a read miss the newest object.
    Lags,
}

/// A store in memory.
#[derive(Debug)]
struct MemoryObjects {
    flaw: StoreFlaw,
    state: Mutex<MemoryState>,
}

#[derive(Debug, Default)]
struct MemoryState {
    objects: BTreeMap<String, Bytes>,
    newest: String,
    creations: u64,
}

impl Objects for MemoryObjects {
    fn create(&self, name: &str, bytes: &Bytes) -> Result<CreateAnswer, StoreFault> {
        let mut state = self.state.lock();
        state.creations += 1;
        let exists = state.objects.contains_key(name);
        let ignores = match self.flaw {
            StoreFlaw::Overwrites => true,
            // Not for the first object, which nobody races for.
            StoreFlaw::Races => name.contains("race") && state.creations.is_multiple_of(5),
            StoreFlaw::Nothing | StoreFlaw::Lags => false,
        };
        if exists && !ignores {
            return Ok(CreateAnswer::Exists);
        }
        state.objects.insert(name.to_owned(), bytes.clone());
        name.clone_into(&mut state.newest);
        Ok(CreateAnswer::Created)
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, _: u64) -> Result<Option<Bytes>, StoreFault> {
        let state = self.state.lock();
        if self.flaw == StoreFlaw::Lags && name.contains("object") && name == state.newest {
            return Ok(None);
        }
        let found = state.objects.get(name).cloned();
        Ok(found.map(|bytes| match range {
            Some(range) => {
                let end = range.end.min(bytes.len() as u64);
                bytes.slice(usize::try_from(range.start).unwrap()..usize::try_from(end).unwrap())
            }
            None => bytes,
        }))
    }

    fn length(&self, name: &str) -> Result<Option<u64>, StoreFault> {
        Ok(self.state.lock().objects.get(name).map(|bytes| bytes.len() as u64))
    }

    fn list(&self, folder: &str) -> Result<Vec<FoundObject>, StoreFault> {
        let state = self.state.lock();
        let is_seen = |name: &String| {
            name.starts_with(folder) && (self.flaw != StoreFlaw::Lags || *name != state.newest)
        };
        let seen = state.objects.iter().filter(|(name, _)| is_seen(name));
        Ok(seen.map(|(name, bytes)| FoundObject { name: name.clone(), bytes: bytes.len() as u64 }).collect())
    }

    fn list_after(&self, folder: &str, after: &str) -> Result<Vec<FoundObject>, StoreFault> {
        let mut found = self.list(folder)?;
        found.retain(|object| object.name.as_str() > after);
        Ok(found)
    }

    fn delete(&self, name: &str) -> Result<(), StoreFault> {
        self.state.lock().objects.remove(name);
        Ok(())
    }

    fn put_whole(&self, name: &str, bytes: &Bytes) -> Result<(), StoreFault> {
        self.state.lock().objects.insert(name.to_owned(), bytes.clone());
        Ok(())
    }

    fn put_parts(
        &self,
        name: &str,
        parts: &mut dyn Iterator<Item = Result<Bytes>>,
        _: &dyn Fn() -> Persistence,
    ) -> Result<Result<()>, StoreFault> {
        let whole: Result<Vec<Bytes>> = parts.collect();
        Ok(whole.map(|parts| {
            self.state.lock().objects.insert(name.to_owned(), Bytes::from(parts.concat()));
        }))
    }
}

/// The checks that a store fails, and whether it is empty at the end.
fn failures(flaw: StoreFlaw) -> (Vec<&'static str>, bool) {
    let objects = Arc::new(MemoryObjects { flaw, state: Mutex::default() });
    let stores = (0..WRITERS).map(|_| BucketStore::new(Arc::clone(&objects) as Arc<dyn Objects>, "mem://x"));
    let mut check = BucketCheck::over(stores.collect());
    check.run_checks().unwrap();
    check.remove_objects().unwrap();
    let unsafe_lines = check.lines.iter().filter(|line| line.result == CheckResult::Unsafe);
    let is_empty = objects.state.lock().objects.is_empty();
    (unsafe_lines.map(|line| line.check).collect(), is_empty)
}

#[test]
fn stores_that_race_overwrite_or_lag_are_unsafe() {
    assert_eq!(failures(StoreFlaw::Nothing), (vec![], true));
    assert_eq!(failures(StoreFlaw::Overwrites), (vec!["create only", "create race"], true));
    assert_eq!(failures(StoreFlaw::Races), (vec!["create race"], true));
    assert_eq!(failures(StoreFlaw::Lags), (vec!["read after write", "list"], true));
}
