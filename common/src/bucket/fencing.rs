//! Who writes a bucket: the writer whose fence is the last one, decided only by the create-only PUT of the next number.
//!
//! A writer that begins creates the chunk after the last one as a fence, one term higher. If another has created that number first, it
//! reads that chunk and tries the next. A writer that finds another's chunk under its own next number has been replaced, and ends.
//! There is no clock and no lease in this: a writer that was stopped for a week, or whose PUT arrives a week late, finds the number
//! taken. Three things make that so:
//!
//! - Fences are never deleted. The first number after a replaced writer's last chunk is a fence, so the writer never finds it free,
//!   also when collection has deleted the chunks around it.
//! - A beginning writer may have found its last chunk before collection deleted that and the next ones. Its fence then takes a number
//!   that was used before. So it looks again at what is kept once its fence is there, and starts over if that has passed its fence.
//! - A chunk has the digest of the chunk before it, so two chunks of one number can never have the same successors.

use std::sync::LazyLock;

use ::metrics::Histogram;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::bucket::chain::ChunkChain;
use crate::bucket::chunk::{
    CHUNK_FORMAT, Chunk, ChunkHeader, ChunkKind, ChunkMark, ChunkOrigin, ContentDigest, chunk_name,
};
use crate::bucket::store::{BucketStore, ChunkOutcome, Persistence};
use crate::error::{Error, Reason, Result};
use crate::format::manifest;
use crate::metrics::{catalog, histogram_of};
use crate::planted::{PlantedBug, is_planted};

pub use crate::bucket::chain::{LogEnds, find_ends, first_kept, kept_name, read_header};

/// The sizes of chunks that were shipped.
static CHUNK_BYTES: LazyLock<Histogram> = LazyLock::new(|| histogram_of(&catalog::BUCKET_CHUNK_BYTES, &[]));

/// How many times a writer looks for the end of the log again while others write and collect.
const CLAIM_TRIES: u32 = 1000;
/// The name of the object that says whose bucket it is.
pub const IDENTITY: &str = "database.json";

/// Whose bucket it is: `database.json` in the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketIdentity {
    /// The database's id.
    pub id: uuid::Uuid,
    /// The version of the chunks that the bucket began with.
    pub format: u8,
}

/// The right to write the next chunk, until another writer takes it.
#[derive(Debug, Clone)]
pub struct BucketClaim {
    /// The end of the log: this writer's fence, or its last chunk.
    pub chain: ChunkChain,
    /// The number of the fence.
    pub fence: u64,
}

/// The error of a writer that finds another's chunk under its next number.
pub fn replaced_error(store: &BucketStore, taken: &Bytes, number: u64) -> Error {
    let name = format!("{}/{}", store.url(), chunk_name(number));
    match ChunkHeader::decode(taken, number, &name) {
        Ok(header) => {
            let message = format!(
                "another writer has taken over the bucket {} with term {}: this writer stops; send writes to the other one",
                store.url(),
                header.term
            );
            Error::new(Reason::Fenced, message)
        }
        Err(error) => error,
    }
}

/// Takes over the bucket of a database: from now on no other writer's chunk follows, unless that one takes over in turn. The fence says
/// for whom: after that of a writer that acknowledges commits before they are in the bucket, the bucket may lack acknowledged commits.
pub fn claim(
    store: &BucketStore,
    database_id: [u8; 16],
    origin: ChunkOrigin,
    persistence: &Persistence,
) -> Result<BucketClaim> {
    let nonce = *uuid::Uuid::new_v4().as_bytes();
    for _ in 0..CLAIM_TRIES {
        let Some(last) = last_chunk(store)? else { continue };
        if let Some(last) = &last
            && last.last.database_id != database_id
        {
            return Err(other_database(store, uuid::Uuid::from_bytes(last.last.database_id)));
        }
        if last.is_none() {
            create_identity(store, database_id, persistence)?;
        }
        if let Some(claim) = climb(store, (database_id, nonce, origin), last, persistence)? {
            return Ok(claim);
        }
    }
    let message = format!(
        "cannot take over the bucket {}: others take it over all the time; try again later",
        store.url()
    );
    Err(Error::new(Reason::Unreachable, message))
}

/// Creates `database.json`, which says for people and tools whose bucket it is.
fn create_identity(store: &BucketStore, database_id: [u8; 16], persistence: &Persistence) -> Result<()> {
    let identity = BucketIdentity { id: uuid::Uuid::from_bytes(database_id), format: CHUNK_FORMAT };
    let bytes = Bytes::from(manifest::encode(&identity)?);
    match store.create(IDENTITY, &bytes, persistence.clone())? {
        ChunkOutcome::Stored => Ok(()),
        ChunkOutcome::Taken(found) => {
            let name = format!("{}/{IDENTITY}", store.url());
            let found: BucketIdentity =
                manifest::decode(&found).map_err(|detail| Error::corrupt(name, 0, detail))?;
            if found.id == identity.id { Ok(()) } else { Err(other_database(store, found.id)) }
        }
    }
}

pub(super) fn other_database(store: &BucketStore, id: uuid::Uuid) -> Error {
    let message = format!(
        "the bucket {} has another database, {id}; name another bucket or prefix, or start with an empty data directory",
        store.url()
    );
    Error::new(Reason::ArgumentInvalid, message)
}

/// The end of the log: `Some(None)` if it is empty, and `None` if it moved while it was looked for.
#[expect(clippy::option_option, reason = "an empty log is not a log that moved")]
fn last_chunk(store: &BucketStore) -> Result<Option<Option<ChunkChain>>> {
    let Some(ends) = find_ends(store)? else { return Ok(Some(None)) };
    Ok(store.chunk(ends.last)?.map(|(chunk, bytes)| Some(ChunkChain::begin(&chunk, &bytes))))
}

/// Creates a fence of a database, a nonce and an origin on the first number that no other writer takes first. Returns `None` if collection has passed it.
fn climb(
    store: &BucketStore,
    owner: ([u8; 16], [u8; 16], ChunkOrigin),
    mut last: Option<ChunkChain>,
    persistence: &Persistence,
) -> Result<Option<BucketClaim>> {
    loop {
        let header = fence_header(last.as_ref(), owner);
        let fence = Chunk::fence(header);
        let bytes = fence.encode()?;
        match store.create_chunk(header.number, &bytes, persistence.clone())? {
            ChunkOutcome::Stored => {
                let is_passed = first_kept(store)? > header.number;
                if is_passed && !is_planted(PlantedBug::FenceUnchecked) {
                    return Ok(None);
                }
                return Ok(Some(BucketClaim {
                    chain: ChunkChain::begin(&fence, &bytes),
                    fence: header.number,
                }));
            }
            ChunkOutcome::Taken(taken) => {
                let name = format!("{}/{}", store.url(), chunk_name(header.number));
                let chunk = Chunk::decode(&taken, header.number, &name)?;
                let chain = match last {
                    None => ChunkChain::begin(&chunk, &taken),
                    Some(mut chain) => match chain.accept(&chunk, &taken) {
                        Ok(()) => chain,
                        // Collection has deleted what followed, and this is one of the fences that stay.
                        Err(_) if first_kept(store)? > chain.last.number => return Ok(None),
                        Err(error) => return Err(error.context(store.url())),
                    },
                };
                last = Some(chain);
            }
        }
    }
}

fn fence_header(
    last: Option<&ChunkChain>,
    (database_id, nonce, origin): ([u8; 16], [u8; 16], ChunkOrigin),
) -> ChunkHeader {
    let first = ChunkHeader {
        kind: ChunkKind::Fence,
        is_sync: origin.is_sync(),
        is_backup: origin.is_backup(),
        number: 1,
        term: 1,
        nonce,
        database_id,
        previous: ContentDigest::default(),
        base: 0,
        after: ChunkMark::default(),
        last: ChunkMark::default(),
    };
    last.map_or(first, |last| ChunkHeader {
        kind: ChunkKind::Fence,
        term: last.last.term + 1,
        nonce,
        is_sync: origin.is_sync(),
        is_backup: origin.is_backup(),
        ..last.next_header()
    })
}

impl BucketClaim {
    /// Whether the start of a chunk is not this writer's own: another has taken over.
    pub fn is_of_other(&self, start: &Bytes, number: u64) -> bool {
        ChunkHeader::decode(start, number, "").map_or(true, |header| header.nonce != self.chain.last.nonce)
    }

    /// Creates the next chunk. Fails with FENCED if another writer has taken over, and with the store's error if `persistence` gives
    /// up: then it is not known whether the chunk is stored, and only the same chunk may be tried again.
    pub fn append(&mut self, store: &BucketStore, chunk: &Chunk, persistence: Persistence) -> Result<()> {
        let bytes = chunk.encode()?;
        match store.create_chunk(chunk.header.number, &bytes, persistence)? {
            ChunkOutcome::Stored => {
                self.chain = ChunkChain::begin(chunk, &bytes);
                CHUNK_BYTES.record(bytes.len() as f64);
                Ok(())
            }
            ChunkOutcome::Taken(taken) => Err(replaced_error(store, &taken, chunk.header.number)),
        }
    }
}
