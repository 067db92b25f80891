//! The log of a bucket: which chunks there are, what their headers say, and whether each continues the one before it.

use bytes::Bytes;

use crate::bucket::chunk::{
    Chunk, ChunkHeader, ChunkKind, ChunkMark, ContentDigest, HEADER_BYTES, chunk_name, chunk_number,
};
use crate::bucket::store::BucketStore;
use crate::error::{Error, Reason, Result};
use crate::planted::{PlantedBug, is_planted};
use crate::table::point_in_time::CommitBound;

/// The end of the chunks that were read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkChain {
    /// The header of the last chunk.
    pub last: ChunkHeader,
    /// Its digest.
    pub digest: ContentDigest,
}

impl ChunkChain {
    /// Begins with a chunk whose predecessors are not looked at, a base for example.
    pub fn begin(chunk: &Chunk, bytes: &Bytes) -> ChunkChain {
        ChunkChain { last: chunk.header, digest: ContentDigest::of(bytes) }
    }

    /// Whether a chunk is a fence.
    pub fn is_fence(header: &ChunkHeader) -> bool {
        header.kind == ChunkKind::Fence
    }

    /// The number of the next chunk.
    pub fn next_number(&self) -> u64 {
        self.last.number + 1
    }

    /// The header of a chunk that continues this chain: the caller sets what it is for.
    pub fn next_header(&self) -> ChunkHeader {
        let last = &self.last;
        ChunkHeader {
            kind: ChunkKind::Changes,
            is_sync: false,
            is_backup: false,
            number: self.next_number(),
            previous: self.digest,
            after: last.last,
            ..*last
        }
    }

    /// Takes the next chunk. Fails if it does not continue this chain.
    pub fn accept(&mut self, chunk: &Chunk, bytes: &Bytes) -> Result<()> {
        let (last, next) = (&self.last, &chunk.header);
        let wrong = if next.number != self.next_number() {
            Some(format!("it is chunk {}, and chunk {} is next", next.number, self.next_number()))
        } else if next.database_id != last.database_id {
            Some("it is of another database".to_owned())
        } else if next.previous != self.digest && !is_planted(PlantedBug::ChunkChainUnchecked) {
            Some(format!(
                "it follows a chunk {} of another content: one of the two was replaced",
                last.number
            ))
        } else {
            wrong_in_succession(last, next)
        };
        if let Some(wrong) = wrong {
            return Err(Error::corrupt(chunk_name(next.number), 0, wrong));
        }
        *self = ChunkChain::begin(chunk, bytes);
        Ok(())
    }
}

/// What the header of a chunk cannot say after the header of the chunk before it.
fn wrong_in_succession(last: &ChunkHeader, next: &ChunkHeader) -> Option<String> {
    let is_fence = next.kind == ChunkKind::Fence;
    let expected_term = if is_fence { last.term + 1 } else { last.term };
    if next.term != expected_term {
        return Some(format!("it has term {}, and term {expected_term} is next", next.term));
    }
    if !is_fence && next.nonce != last.nonce {
        return Some("it is of another writer, which has no fence".to_owned());
    }
    let base = if next.kind == ChunkKind::Base { next.number } else { last.base };
    if next.base != base {
        return Some(format!("it names chunk {} as its base, which is chunk {base}", next.base));
    }
    let goes_back = |after: ChunkMark, to: ChunkMark| to.seq < after.seq || to.time_ms < after.time_ms;
    if next.after != last.last || goes_back(next.after, next.last) || (is_fence && next.last != next.after) {
        return Some(format!(
            "it leads from commit {} to {}, and the chunk before it ends at {}",
            next.after.seq, next.last.seq, last.last.seq
        ));
    }
    None
}

/// How often the end of the log is looked for while it moves.
const FIND_TRIES: u32 = 100;
/// How many later numbers are asked for to find out that a chunk is missing: those 1, 2, 4 … after it.
const GAP_PROBES: u32 = 6;
/// The folder of the chunks.
const LOG: &str = "log";
/// The folder of the marks of collection.
pub(super) const KEPT: &str = "kept";

/// The chunks that a bucket has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnds {
    /// The first chunk that is kept: 1, or a base. Fences before it exist for ever, and no others.
    pub first: u64,
    /// The last chunk.
    pub last: u64,
}

/// The name of the mark that says that the chunks before `first` may have been deleted.
pub fn kept_name(first: u64) -> String {
    format!("{KEPT}/{first:020}")
}

/// Returns the number of the first chunk that is kept. It lists the marks of collection; there are one or two.
pub fn first_kept(store: &BucketStore) -> Result<u64> {
    let marks = store.list(KEPT)?;
    let numbers =
        marks.iter().filter_map(|mark| mark.name.strip_prefix(KEPT)?.strip_prefix('/')?.parse().ok());
    Ok(numbers.fold(1, u64::max))
}

/// The chunks of a bucket, and what comes after a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundLog {
    /// The chunks up to the end, or up to the first that is missing.
    pub ends: LogEnds,
    /// Chunks after one that is missing: none in a sound bucket.
    pub beyond: Vec<u64>,
}

impl FoundLog {
    /// Fails if a chunk is missing.
    pub fn check(self, store: &BucketStore) -> Result<LogEnds> {
        match self.beyond.last() {
            None => Ok(self.ends),
            Some(later) => Err(gap_error(store, self.ends.last + 1, *later)),
        }
    }
}

/// Finds the first and the last chunk. Fails if one between them is missing as far as that is seen without reading all of them.
/// Returns `None` if the bucket has no chunk.
pub fn find_ends(store: &BucketStore) -> Result<Option<LogEnds>> {
    find_log(store)?.map(|found| found.check(store)).transpose()
}

/// Finds the chunks, with a number of small requests that grows with the logarithm of their number, and one listing: a chunk that is
/// missing must not be taken for the end.
pub fn find_log(store: &BucketStore) -> Result<Option<FoundLog>> {
    let mut first = first_kept(store)?;
    for _ in 0..FIND_TRIES {
        let found = if store.has_chunk(first)? { Some(probe(store, first)?) } else { None };
        let end = found.unwrap_or(first - 1);
        let later = store.list_after(LOG, &chunk_name(end))?;
        let beyond: Vec<u64> = later
            .iter()
            .filter_map(|found| chunk_number(&found.name))
            .filter(|number| *number > end)
            .collect();
        match (found, beyond.first()) {
            (None, None) if first == 1 => return Ok(None),
            (Some(last), None) => return Ok(Some(FoundLog { ends: LogEnds { first, last }, beyond })),
            // A writer has gone on meanwhile.
            (_, Some(next)) if *next == end + 1 => {}
            // Collection has passed what was looked for.
            _ if first_kept(store)? > first => {}
            _ if store.has_chunk(end + 1)? => {}
            (Some(last), _) => return Ok(Some(FoundLog { ends: LogEnds { first, last }, beyond })),
            (None, _) => return Err(missing(store, first)),
        }
        first = first_kept(store)?;
    }
    let message =
        format!("the end of the log in the bucket {} moves all the time; try again later", store.url());
    Err(Error::new(Reason::Unreachable, message))
}

/// Finds a chunk whose successor does not exist, from one that exists on.
fn probe(store: &BucketStore, first: u64) -> Result<u64> {
    // Chunk `low` exists, and `high` does not.
    let (mut low, mut step) = (first, 1);
    let mut high = loop {
        let probe = low.saturating_add(step);
        if !store.has_chunk(probe)? {
            break probe;
        }
        (low, step) = (probe, step.saturating_mul(2));
    };
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if store.has_chunk(middle)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// Fails if the chunk after `last` is missing and one of the next exists. Asks for a few numbers only: a missing chunk and a chunk to come
/// look alike.
pub fn check_no_gap_after(store: &BucketStore, last: u64) -> Result<()> {
    for ahead in 0..GAP_PROBES {
        let number = last + 1 + (1 << ahead);
        if store.has_chunk(number)? && !store.has_chunk(last + 1)? {
            return Err(gap_error(store, last + 1, number));
        }
    }
    Ok(())
}

fn gap_error(store: &BucketStore, number: u64, later: u64) -> Error {
    let name = format!("{}/{}", store.url(), chunk_name(number));
    Error::corrupt(name, 0, format!("the chunk is missing, and the bucket has chunk {later}"))
}

fn missing(store: &BucketStore, number: u64) -> Error {
    let name = format!("{}/{}", store.url(), chunk_name(number));
    Error::corrupt(name, 0, "the chunk is missing, and the bucket keeps it")
}

/// Returns the header of a chunk; `None` if the chunk does not exist.
pub fn read_header(store: &BucketStore, number: u64) -> Result<Option<ChunkHeader>> {
    let Some(start) = store.chunk_start(number, HEADER_BYTES as u64)? else { return Ok(None) };
    let name = format!("{}/{}", store.url(), chunk_name(number));
    ChunkHeader::decode(&start, number, &name).map(Some)
}

/// Returns the header of a chunk that must exist.
pub fn expect_header(store: &BucketStore, number: u64) -> Result<ChunkHeader> {
    read_header(store, number)?.ok_or_else(|| {
        let name = format!("{}/{}", store.url(), chunk_name(number));
        Error::corrupt(name, 0, "the chunk is missing, and the bucket has later ones")
    })
}

/// Returns the first and the last chunk that the bucket keeps. Fails if it has none.
pub fn ends(store: &BucketStore) -> Result<LogEnds> {
    find_ends(store)?.ok_or_else(|| no_database(store))
}

/// Does the same, and leaves it to the caller what a missing chunk means.
pub fn existing_log(store: &BucketStore) -> Result<FoundLog> {
    find_log(store)?.ok_or_else(|| no_database(store))
}

fn no_database(store: &BucketStore) -> Error {
    let message = format!("the bucket {} contains no database; check the URL and its prefix", store.url());
    Error::new(Reason::Unreachable, message)
}

/// Returns the first of the chunks from `first` to `last` whose header meets a condition that, once met, all later ones meet; `None`
/// if none does.
pub fn first_where(
    store: &BucketStore,
    (mut first, last): (u64, u64),
    holds: impl Fn(&ChunkHeader) -> bool,
) -> Result<Option<u64>> {
    if first > last || !holds(&expect_header(store, last)?) {
        return Ok(None);
    }
    let mut found = last;
    while first < found {
        let middle = first + (found - first) / 2;
        if holds(&expect_header(store, middle)?) {
            found = middle;
        } else {
            first = middle + 1;
        }
    }
    Ok(Some(found))
}

/// Returns the first chunk that has everything up to a bound: a mirror of it can be cut off there. `None` if the bucket ends before.
pub fn first_with(store: &BucketStore, ends: &LogEnds, bound: CommitBound) -> Result<Option<u64>> {
    first_where(store, (ends.first, ends.last), |header| match bound {
        CommitBound::Seq(seq) => header.last.seq >= seq,
        // Commits of the same time can follow in the next chunk.
        CommitBound::Time(time_ms) => header.last.time_ms > time_ms,
    })
}
