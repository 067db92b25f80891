//! Checks a bucket as a backup: every chunk and every file that its chunks name; and lists what it can restore.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use crate::bucket::chain::{self, ChunkChain, FoundLog};
use crate::bucket::chunk::{Chunk, ChunkKind, ChunkMark, ContentDigest, StoredFile, chunk_name};
use crate::bucket::mirror::{MirrorProgress, MirrorProgressFn, materialize};
use crate::bucket::objects::PART_BYTES;
use crate::bucket::store::BucketStore;
use crate::error::{Error, Reason, Result};
use crate::storage::fs::FileSystem;
use crate::storage::layout::DataDir;
use crate::table::check::doctor::{self, Severity};
use crate::table::check::offline;
use crate::table::check::verification::Problem;

/// What a check of a bucket has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BucketCounts {
    /// The chunks.
    pub chunks: u64,
    /// The files that the chunks name.
    pub files: u64,
    /// The bytes of both.
    pub bytes: u64,
    /// The last commit.
    pub last_seq: u64,
    /// The problems.
    pub problems: u64,
}

/// The chunks of one writer, and what they contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterStretch {
    /// The writer's term in the bucket.
    pub term: u64,
    /// Its first chunk.
    pub first_chunk: u64,
    /// Its last chunk.
    pub last_chunk: u64,
    /// The last commit before its first chunk.
    pub after: ChunkMark,
    /// The last commit in its last chunk.
    pub last: ChunkMark,
}

/// Lists the writers of a bucket, oldest first, with few reads however many chunks there are.
pub fn stretches(store: &BucketStore) -> Result<Vec<WriterStretch>> {
    let ends = chain::ends(store)?;
    let (mut found, mut first) = (Vec::new(), ends.first);
    while first <= ends.last {
        let begin = chain::expect_header(store, first)?;
        let next = chain::first_where(store, (first, ends.last), |header| header.term > begin.term)?;
        let last_chunk = next.map_or(ends.last, |next| next - 1);
        let end = chain::expect_header(store, last_chunk)?;
        found.push(WriterStretch {
            term: begin.term,
            first_chunk: first,
            last_chunk,
            after: begin.after,
            last: end.last,
        });
        first = last_chunk + 1;
    }
    Ok(found)
}

/// Checks every chunk that the bucket keeps, and that every file is there with its length. Reports each problem. A directory in
/// `scratch` makes the check deep: the content of every file is read, and the database is built there and verified.
pub fn verify_bucket(
    store: &BucketStore,
    scratch: Option<(&Arc<dyn FileSystem>, &DataDir)>,
    progress: MirrorProgressFn<'_>,
    on_problem: &mut dyn FnMut(Problem),
) -> Result<BucketCounts> {
    let FoundLog { ends, beyond } = chain::existing_log(store)?;
    let mut counts = BucketCounts::default();
    let mut report = |counts: &mut BucketCounts, error: Error| {
        // Only damage is a result of the check.
        let Some(about) = error.file_error().filter(|_| error.reason() == Reason::Corrupt) else {
            return Err(error);
        };
        counts.problems += 1;
        let (file, offset) = (about.file.clone(), about.offset.unwrap_or(0));
        on_problem(Problem { file, offset, message: about.detail.clone() });
        Ok(())
    };
    let (mut chain, mut files): (Option<ChunkChain>, BTreeMap<String, StoredFile>) = Default::default();
    // If chunks follow a missing one, that is reported, and they are checked, too.
    let last_chunk = beyond.last().copied().unwrap_or(ends.last);
    let gap = beyond.first().map(|_| ends.last + 1);
    for number in (ends.first..=ends.last).chain(gap).chain(beyond) {
        match check_chunk(store, number, &mut chain, &mut counts) {
            Ok(chunk) => files.extend(chunk.files.into_iter().map(|file| (file.object(), file))),
            Err(error) => report(&mut counts, error)?,
        }
        progress(MirrorProgress { chunk: number, last_chunk, bytes: counts.bytes, left: 0 })?;
    }
    let listed = store.list("files")?;
    let listed: HashMap<String, u64> = listed.into_iter().map(|found| (found.name, found.bytes)).collect();
    for (object, file) in files {
        let name = format!("{}/{object}", store.url());
        counts.files += 1;
        counts.bytes += file.bytes;
        let checked = match listed.get(&object) {
            None => Err(Error::corrupt(&name, 0, "the object is missing, and a chunk names it")),
            Some(len) if *len != file.bytes => Err(Error::corrupt(
                &name,
                *len,
                format!("it has {len} bytes, and was written with {}", file.bytes),
            )),
            Some(_) if scratch.is_some() => check_content(store, &object, &file),
            Some(_) => Ok(()),
        };
        if let Err(error) = checked {
            report(&mut counts, error)?;
        }
    }
    if let (Some((fs, dir)), 0) = (scratch, counts.problems) {
        counts.problems += check_database(store, fs, dir, progress, on_problem)?;
    }
    Ok(counts)
}

/// Checks one chunk and that it continues the one before it. After damage, the chain begins again.
fn check_chunk(
    store: &BucketStore,
    number: u64,
    chain: &mut Option<ChunkChain>,
    counts: &mut BucketCounts,
) -> Result<Chunk> {
    let known = chain.take();
    let Some((chunk, bytes)) = store.chunk(number)? else {
        let name = format!("{}/{}", store.url(), chunk_name(number));
        return Err(Error::corrupt(name, 0, "the chunk is missing, and the bucket has later ones"));
    };
    counts.chunks += 1;
    counts.bytes += bytes.len() as u64;
    counts.last_seq = counts.last_seq.max(chunk.header.last.seq);
    *chain = Some(ChunkChain::begin(&chunk, &bytes));
    match known {
        Some(mut known) => known.accept(&chunk, &bytes)?,
        None if counts.chunks == 1 && chunk.header.kind == ChunkKind::Changes => {
            let name = format!("{}/{}", store.url(), chunk_name(number));
            return Err(Error::corrupt(name, 0, "the first chunk that is kept has no base"));
        }
        None => {}
    }
    Ok(chunk)
}

/// Compares the content of a file with the digest in its name.
fn check_content(store: &BucketStore, object: &str, file: &StoredFile) -> Result<()> {
    let (mut at, mut digest) = (0, Xxh3::new());
    while at < file.bytes {
        let bytes = store.read_range(object, at..file.bytes.min(at + PART_BYTES))?;
        digest.update(&bytes);
        at += bytes.len() as u64;
    }
    if ContentDigest(digest.digest128().to_le_bytes()) == file.digest {
        return Ok(());
    }
    let name = format!("{}/{object}", store.url());
    Err(Error::corrupt(name, 0, "its content does not match the digest in its name"))
}

/// Builds the database and verifies it. Returns the number of problems.
fn check_database(
    store: &BucketStore,
    fs: &Arc<dyn FileSystem>,
    dir: &DataDir,
    progress: MirrorProgressFn<'_>,
    on_problem: &mut dyn FnMut(Problem),
) -> Result<u64> {
    materialize(store, None, fs, dir, progress)?;
    let mut problems = 0;
    doctor::examine(Arc::clone(fs), dir, false, &mut |finding| {
        if finding.severity == Severity::Damage {
            problems += 1;
            let (file, offset, message) = (finding.file, finding.offset, finding.message);
            on_problem(Problem { file, offset, message });
        }
    })?;
    let quiet = |_| Ok(());
    let verified = offline::verify_directory(fs, dir, (None, true), &quiet, on_problem)?;
    Ok(problems + verified.problems)
}
