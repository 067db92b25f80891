//! The log of a bucket: which chunks there are, what their headers say, and whether each continues the one before it.

use bytes::Bytes;

use crate::bucket::chunk::{
    Chunk, ChunkHeader, ChunkKind, ChunkMark, ContentDigest, HEADER_BYTES, chunk_name,
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

    /// Takes the next chunk, or says how it does not continue this chain.
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

/// Finds the first and the last chunk, with a number of small requests that grows with the logarithm of the number of chunks. Returns
/// `None` if the bucket has no chunk.
pub fn find_ends(store: &BucketStore) -> Result<Option<LogEnds>> {
    let first = first_kept(store)?;
    if !store.has_chunk(first)? {
        return if first == 1 { Ok(None) } else { Err(missing(store, first)) };
    }
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
    Ok(Some(LogEnds { first, last: low }))
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
    find_ends(store)?.ok_or_else(|| {
        let message =
            format!("the bucket {} contains no database; check the URL and its prefix", store.url());
        Error::new(Reason::Unreachable, message)
    })
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
