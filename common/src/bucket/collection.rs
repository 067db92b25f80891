//! Deletes what is older than the time for which a bucket is kept, and what no later chunk names.
//!
//! A base that is at least as old as that time becomes the first chunk. First a mark says so, which readers and beginning writers look
//! at. Then go the files that only chunks before the base name, then those chunks, but never a fence: its number must stay taken for
//! the writer that it has replaced. The former mark goes last, so that a collection that was broken off is continued.
//!
//! What is named is known from the bases: each lists its own files, and those that chunks before it named and it does not. Only the
//! writer collects, because only it knows which files it has uploaded and not named yet.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use crate::bucket::chain::{ChunkChain, KEPT, LogEnds, find_ends, kept_name, read_header};
use crate::bucket::chunk::{Chunk, ChunkHeader, chunk_name};
use crate::bucket::store::{BucketStore, Persistence};
use crate::error::{Error, Result};
use crate::planted::{PlantedBug, is_planted};

/// What a collection would delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectionPlan {
    /// The chunks from here on may go.
    pub from: u64,
    /// The base that is the first chunk then.
    pub first: u64,
    /// The time of the oldest moment that can be restored then, in milliseconds since 1970.
    pub oldest_ms: u64,
    /// The objects of files that no chunk from there on names, as far as the bases say.
    pub files: BTreeSet<String>,
    /// The bytes of these files.
    pub file_bytes: u64,
}

fn expect_header(store: &BucketStore, number: u64) -> Result<ChunkHeader> {
    read_header(store, number)?.ok_or_else(|| missing(store, number))
}

fn missing(store: &BucketStore, number: u64) -> Error {
    let name = format!("{}/{}", store.url(), chunk_name(number));
    Error::corrupt(name, 0, "the chunk is missing, and the bucket has later ones")
}

/// The numbers of the marks of collection, the oldest first.
fn marks(store: &BucketStore) -> Result<Vec<u64>> {
    let marks = store.list(KEPT)?;
    let numbers =
        marks.iter().filter_map(|mark| mark.name.strip_prefix(KEPT)?.strip_prefix('/')?.parse().ok());
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Plans a collection that leaves every moment of the last `keep_ms` milliseconds before the last commit. Returns `None` if nothing is
/// older.
pub fn plan(store: &BucketStore, keep_ms: u64) -> Result<Option<CollectionPlan>> {
    let Some(LogEnds { first, last }) = find_ends(store)? else { return Ok(None) };
    // A collection that was broken off has left the former mark, too.
    let from = marks(store)?.first().copied().unwrap_or(1);
    let end = expect_header(store, last)?;
    let cutoff = end.last.time_ms.saturating_sub(keep_ms);
    // From the newest base back to the first that is old enough, then those before it.
    let (mut kept, mut oldest) = (Vec::new(), None);
    let mut base = end.base;
    while base >= first && base > 0 {
        let header = expect_header(store, base)?;
        kept.push(base);
        if header.last.time_ms <= cutoff || base == first {
            oldest = Some(header);
            break;
        }
        base = expect_header(store, base - 1)?.base;
    }
    let Some(oldest) = oldest else { return Ok(None) };
    if oldest.number <= from {
        return Ok(None);
    }
    let mut candidates: HashMap<String, u64> = HashMap::new();
    let mut older = oldest.number;
    while older > from && older > 0 {
        // A collection that was broken off has deleted it: a fence that stays still names it.
        if older < first && !store.has_chunk(older)? {
            break;
        }
        let chunk = base_chunk(store, older)?;
        candidates.extend(chunk.retired.iter().map(|file| (file.object(), file.bytes)));
        older = match read_header(store, older - 1)? {
            Some(header) => header.base,
            // A collection that was broken off has deleted it.
            None => 0,
        };
    }
    for number in &kept {
        let chunk = base_chunk(store, *number)?;
        let retired = chunk.retired.iter().filter(|_| *number > oldest.number);
        for file in chunk.files.iter().chain(retired) {
            candidates.remove(&file.object());
        }
    }
    let file_bytes = candidates.values().sum();
    let files = candidates.into_keys().collect();
    Ok(Some(CollectionPlan { from, first: oldest.number, oldest_ms: oldest.last.time_ms, files, file_bytes }))
}

fn base_chunk(store: &BucketStore, number: u64) -> Result<Chunk> {
    store.chunk(number)?.map(|(chunk, _)| chunk).ok_or_else(|| missing(store, number))
}

/// Marks the chunks that are kept from now on. Nothing before them is read any more.
pub fn mark(store: &BucketStore, plan: &CollectionPlan, persistence: &Persistence) -> Result<()> {
    // The first collection has no former mark, and must be continued as any other.
    for first in [plan.from, plan.first] {
        store.create(&kept_name(first), &Bytes::from_static(b"\n"), persistence.clone())?;
    }
    Ok(())
}

/// Deletes the chunks before the first one that is kept, from the oldest on, and then the former marks. `goes_on` can stop it between two
/// chunks; the next collection continues.
pub fn delete_chunks(
    store: &BucketStore,
    plan: &CollectionPlan,
    goes_on: &mut dyn FnMut() -> Result<bool>,
) -> Result<()> {
    for number in plan.from..plan.first {
        if !goes_on()? {
            return Ok(());
        }
        let is_fence = read_header(store, number)?.is_none_or(|header| ChunkChain::is_fence(&header));
        if !is_fence || is_planted(PlantedBug::FencesCollected) {
            store.delete(&chunk_name(number))?;
        }
    }
    for mark in marks(store)?.into_iter().filter(|mark| *mark < plan.first) {
        store.delete(&kept_name(mark))?;
    }
    Ok(())
}
