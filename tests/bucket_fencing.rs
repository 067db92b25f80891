//! Who writes a bucket: whatever the store does to requests, there is one history, and it has every chunk whose writer was told that
//! it is stored.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use driftdb_common::bucket::chain::{ChunkChain, find_ends, first_kept, kept_name};
use driftdb_common::bucket::chunk::{
    Chunk, ChunkHeader, ChunkKind, ChunkMark, ChunkOrigin, ContentDigest, chunk_name,
};
use driftdb_common::bucket::collection;
use driftdb_common::bucket::fencing::{BucketClaim, claim};
use driftdb_common::bucket::mirror::Mirror;
use driftdb_common::bucket::store::{BucketStore, ChunkOutcome, Persistence};
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::head::{FORMAT_VERSION, Header};
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::storage::layout::DataDir;

use crate::harness::condition::Random;
use crate::harness::lane::by_lane;
use crate::harness::sim_bucket::{Faults, SimBucket};

const DATABASE: [u8; 16] = [7; 16];

fn for_ever() -> Persistence {
    Persistence::without_pauses(&Arc::default())
}

/// One attempt, and then the writer dies.
fn once() -> Persistence {
    Persistence::without_pauses(&Arc::new(AtomicBool::new(true)))
}

fn begin(store: &BucketStore) -> BucketClaim {
    claim(store, DATABASE, ChunkOrigin::AsyncWriter, &for_ever()).unwrap()
}

/// The next chunk of a writer, with one more commit.
fn next_chunk(claim: &BucketClaim, kind: ChunkKind) -> Chunk {
    let next = claim.chain.next_header();
    let last = ChunkMark { seq: next.after.seq + 1, time_ms: next.after.seq + 1 };
    let base = if kind == ChunkKind::Base { next.number } else { next.base };
    let head = Header {
        database_id: DATABASE,
        epoch: 1,
        term: next.term,
        last_seq: last.seq,
        last_ms: last.time_ms,
        generation: 0,
        table_entry_count: 0,
        closed: false,
        format: FORMAT_VERSION,
    };
    let head = Bytes::copy_from_slice(&head.encode(0));
    Chunk { header: ChunkHeader { kind, base, last, ..next }, head, ..Chunk::fence(next) }
}

fn append(store: &BucketStore, claim: &mut BucketClaim, kind: ChunkKind) -> Result<()> {
    let chunk = next_chunk(claim, kind);
    claim.append(store, &chunk, for_ever())
}

/// Deletes all that is not needed for the newest base.
fn collect(store: &BucketStore) -> Result<()> {
    let Some(plan) = collection::plan(store, 0)? else { return Ok(()) };
    collection::mark(store, &plan, &for_ever())?;
    collection::delete_chunks(store, &plan, &mut || Ok(true))
}

/// Reads the whole log that is kept, as a mirror does.
fn follow(store: &BucketStore) -> Result<ChunkChain> {
    let ends = find_ends(store)?.unwrap();
    let (chunk, bytes) = store.chunk(ends.first)?.unwrap();
    let mut chain = ChunkChain::begin(&chunk, &bytes);
    while let Some((chunk, bytes)) = store.chunk(chain.next_number())? {
        chain.accept(&chunk, &bytes)?;
    }
    Ok(chain)
}

#[test]
fn a_replaced_writer_is_told_and_the_next_one_continues_after_its_last_chunk() {
    let bucket = SimBucket::new(1, Faults::default());
    let store = bucket.store();
    let mut old = begin(&store);
    append(&store, &mut old, ChunkKind::Base).unwrap();
    let mut new = begin(&store);
    assert_eq!((new.fence, new.chain.last.term), (3, 2));
    let error = append(&store, &mut old, ChunkKind::Changes).unwrap_err();
    assert_eq!(error.reason(), Reason::Fenced, "{error}");
    append(&store, &mut new, ChunkKind::Changes).unwrap();
    assert_eq!(follow(&store).unwrap(), new.chain);
    let other = claim(&store, [8; 16], ChunkOrigin::AsyncWriter, &for_ever()).unwrap_err();
    assert!(other.message().contains("another database"), "{other}");
}

#[test]
fn a_lost_answer_is_no_failure_and_another_writers_chunk_is_no_success() {
    let bucket = SimBucket::new(1, Faults { answer_lost: 100, ..Faults::default() });
    let store = bucket.store();
    let bytes = Bytes::from_static(b"mine");
    assert_eq!(store.create_chunk(1, &bytes, once()).unwrap_err().reason(), Reason::Unreachable);
    bucket.set_faults(Faults::default());
    assert_eq!(store.create_chunk(1, &bytes, once()).unwrap(), ChunkOutcome::Stored);
    let theirs = store.create_chunk(1, &Bytes::from_static(b"theirs"), once()).unwrap();
    assert_eq!(theirs, ChunkOutcome::Taken(bytes.clone()));
    // A request that arrives late changes nothing.
    bucket.set_faults(Faults { delayed: 100, ..Faults::default() });
    store.create_chunk(2, &Bytes::from_static(b"late"), once()).unwrap_err();
    bucket.set_faults(Faults::default());
    store.create_chunk(2, &bytes, once()).unwrap();
    bucket.deliver_all();
    assert_eq!(store.chunk_bytes(2).unwrap(), Some(bytes));
}

#[test]
fn a_replaced_writer_never_finds_its_next_number_free() {
    let bucket = SimBucket::new(1, Faults::default());
    let store = bucket.store();
    let mut old = begin(&store);
    append(&store, &mut old, ChunkKind::Base).unwrap();
    let mut new = begin(&store);
    append(&store, &mut new, ChunkKind::Base).unwrap();
    append(&store, &mut new, ChunkKind::Changes).unwrap();
    collect(&store).unwrap();
    assert_eq!(find_ends(&store).unwrap().unwrap().first, 4);
    assert_eq!(store.chunk_bytes(2).unwrap(), None, "it was collected");
    // The old writer was stopped for all that time.
    let error = append(&store, &mut old, ChunkKind::Changes).unwrap_err();
    assert_eq!(error.reason(), Reason::Fenced, "{error}");
}

#[test]
fn a_fence_on_a_number_that_collection_has_passed_makes_no_writer() {
    let bucket = SimBucket::new(1, Faults::default());
    let store = bucket.store();
    let mut old = begin(&store);
    append(&store, &mut old, ChunkKind::Base).unwrap();
    let (hidden, mut busy) = (bucket.store(), old.clone());
    // Between its look at the end of the log and its fence, the beginning writer sleeps for a long time.
    bucket.before_create("log/", move || {
        for kind in [ChunkKind::Changes, ChunkKind::Base, ChunkKind::Changes] {
            append(&hidden, &mut busy, kind).unwrap();
        }
        collect(&hidden).unwrap();
    });
    let mut new = begin(&store);
    assert_eq!(new.fence, 6, "after all that the old writer has stored");
    append(&store, &mut new, ChunkKind::Changes).unwrap();
    assert_eq!(follow(&store).unwrap(), new.chain);
}

/// A reader that has taken the fence of a writer that starts over for the next chunk.
#[test]
fn a_mirror_leaves_a_fence_that_nothing_follows() {
    let (bucket, dir) = (SimBucket::new(1, Faults::default()), tempfile::tempdir().unwrap());
    let store = bucket.store();
    let mut old = begin(&store);
    append(&store, &mut old, ChunkKind::Base).unwrap();
    let mut mirror = Mirror::open(store.clone(), OsFileSystem::shared(), &DataDir::new(dir.path())).unwrap();
    let catch_up =
        |mirror: &mut Mirror| mirror.catch_up(find_ends(&store).unwrap().unwrap(), &mut |_| Ok(()));
    catch_up(&mut mirror).unwrap();
    assert!(mirror.last_chunk() == 2 && mirror.is_kept().unwrap());
    let hidden = bucket.store();
    bucket.before_create("log/", move || {
        for kind in [ChunkKind::Changes, ChunkKind::Base] {
            append(&hidden, &mut old, kind).unwrap();
        }
        collect(&hidden).unwrap();
    });
    assert_eq!(begin(&store).fence, 5, "after another on number 3, which collection had passed");
    assert!(!mirror.is_kept().unwrap());
    assert!(mirror.advance(&mut |_| Ok(())).unwrap(), "the fence that nothing follows");
    assert!(!mirror.is_kept().unwrap());
    assert_eq!(mirror.advance(&mut |_| Ok(())).unwrap_err().reason(), Reason::Corrupt);
    mirror.reconnect();
    catch_up(&mut mirror).unwrap();
    assert!(mirror.last_chunk() == 5 && mirror.is_kept().unwrap());
}

#[test]
fn a_chunk_of_another_history_is_not_read() {
    let bucket = SimBucket::new(1, Faults::default());
    let store = bucket.store();
    let mut writer = begin(&store);
    append(&store, &mut writer, ChunkKind::Base).unwrap();
    // A copy of the bucket is written on by the same writer: its disk was cloned.
    let (copy, mut cloned) = (bucket.fork(), writer.clone());
    let (mut chunk, copied) = (next_chunk(&cloned, ChunkKind::Changes), copy.store());
    chunk.head = Bytes::from_static(b"another content");
    cloned.append(&copied, &chunk, for_ever()).unwrap();
    append(&copied, &mut cloned, ChunkKind::Changes).unwrap();
    append(&store, &mut writer, ChunkKind::Changes).unwrap();
    append(&store, &mut writer, ChunkKind::Changes).unwrap();
    follow(&store).unwrap();
    let name = chunk_name(writer.chain.last.number);
    bucket.overwrite(&name, &copy.object(&name).unwrap());
    let error = follow(&store).unwrap_err();
    assert_eq!(error.reason(), Reason::Corrupt, "{error}");
    assert!(error.message().contains(&name), "{error}");
}

#[test]
fn a_broken_collection_is_continued_and_deletes_no_fence() {
    let bucket = SimBucket::new(1, Faults::default());
    let store = bucket.store();
    let mut writer = begin(&store);
    for n in 0..20 {
        append(&store, &mut writer, if n % 5 == 0 { ChunkKind::Base } else { ChunkKind::Changes }).unwrap();
    }
    let mut next = begin(&store);
    append(&store, &mut next, ChunkKind::Base).unwrap();
    let plan = collection::plan(&store, 0).unwrap().unwrap();
    assert_eq!((plan.from, plan.first), (1, 23));
    collection::mark(&store, &plan, &for_ever()).unwrap();
    let mut left = 7;
    let mut goes_on = || {
        left -= 1;
        Ok(left > 0)
    };
    collection::delete_chunks(&store, &plan, &mut goes_on).unwrap();
    assert_eq!(first_kept(&store).unwrap(), 23, "nothing before is read any more");
    follow(&store).unwrap();
    collect(&store).unwrap();
    let expected = [chunk_name(1), chunk_name(22), chunk_name(23)];
    let names = bucket.names();
    let chunks: Vec<&String> = names.iter().filter(|name| name.starts_with("log/")).collect();
    assert_eq!(chunks, expected.iter().collect::<Vec<_>>(), "the two fences, and the base");
    let marks: Vec<&String> = names.iter().filter(|name| name.starts_with("kept/")).collect();
    assert_eq!(marks, [&kept_name(23)]);
    assert_eq!(collection::plan(&store, 0).unwrap(), None);
}

#[test]
fn moments_within_the_time_that_is_kept_stay() {
    let bucket = SimBucket::new(1, Faults::default());
    let store = bucket.store();
    let mut writer = begin(&store);
    for n in 0..40 {
        append(&store, &mut writer, if n % 4 == 0 { ChunkKind::Base } else { ChunkKind::Changes }).unwrap();
    }
    for keep in [100, 39, 30, 11, 10, 9, 1, 0] {
        let oldest = collection::plan(&store, keep).unwrap().map_or(0, |plan| plan.oldest_ms);
        // A chunk's time is its number of commits.
        assert!(oldest == 0 || oldest + keep <= 40, "{keep}: the oldest moment is {oldest}");
        assert!(oldest + keep + 4 > 40 || oldest == 0, "{keep}: {oldest} is older than it has to be");
    }
}

/// What happened in a race: chunks that their writers were told to be stored, and chunks that a reader has seen.
#[derive(Default)]
struct Race {
    stored: Mutex<Vec<(u64, ContentDigest)>>,
    seen: Mutex<Vec<(u64, ContentDigest)>>,
}

impl Race {
    /// Appends chunks until another writer takes over, or until this one dies.
    fn write(&self, store: &BucketStore, mut claim: BucketClaim, random: &mut Random, chunks: u64) {
        for _ in 0..chunks {
            let kind = if random.below(4) == 0 { ChunkKind::Base } else { ChunkKind::Changes };
            let chunk = next_chunk(&claim, kind);
            let persistence = if random.below(12) == 0 { once() } else { for_ever() };
            match claim.append(store, &chunk, persistence) {
                Ok(()) => self.stored.lock().unwrap().push((chunk.header.number, claim.chain.digest)),
                Err(error) => {
                    let ends = [Reason::Fenced, Reason::Unreachable];
                    assert!(ends.contains(&error.reason()), "{error}");
                    return;
                }
            }
            if random.below(5) == 0 {
                // It fails if another writer collects at the same time. The next one continues.
                let _ = collect(store);
            }
        }
    }

    /// Follows the log from chunk to chunk until `over` is set and nothing is left.
    fn read(&self, store: &BucketStore, over: &AtomicU64) {
        let mut chain: Option<ChunkChain> = None;
        loop {
            let is_over = over.load(Ordering::Acquire) == 0;
            let next = chain.map_or_else(|| first_kept(store).unwrap(), |chain| chain.next_number());
            match store.chunk(next) {
                Ok(Some((chunk, bytes))) => {
                    match &mut chain {
                        Some(chain) => match chain.accept(&chunk, &bytes) {
                            Ok(()) => {}
                            // Collection has passed the last chunk, and either is a fence that stays, or one of a writer that starts
                            // over.
                            Err(_) if first_kept(store).unwrap() >= next => {
                                *chain = ChunkChain::begin(&chunk, &bytes);
                                self.restart(store, chain);
                                continue;
                            }
                            Err(error) => panic!("{error}"),
                        },
                        none => *none = Some(ChunkChain::begin(&chunk, &bytes)),
                    }
                    // A fence shows nothing, and one that collection has passed is followed by nothing.
                    if chunk.header.kind != ChunkKind::Fence {
                        self.seen.lock().unwrap().push((next, ContentDigest::of(&bytes)));
                    }
                }
                Ok(None) => {
                    if first_kept(store).unwrap() > next {
                        chain = None;
                    } else if is_over {
                        return;
                    }
                    std::thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn restart(&self, store: &BucketStore, chain: &mut ChunkChain) {
        loop {
            let first = first_kept(store).unwrap();
            // If collection has passed this one, too, its number may have the fence of a writer that starts over.
            if let Some((chunk, bytes)) = store.chunk(first).unwrap()
                && chunk.header.kind == ChunkKind::Base
            {
                *chain = ChunkChain::begin(&chunk, &bytes);
                self.seen.lock().unwrap().push((first, chain.digest));
                return;
            }
        }
    }
}

/// The history that ends with the last chunk, by what each chunk says of the one before it.
fn history(bucket: &Arc<SimBucket>, last: ChunkChain) -> BTreeMap<u64, ContentDigest> {
    let mut found = BTreeMap::from([(last.last.number, last.digest)]);
    let mut header = last.last;
    while header.number > 1 {
        let (number, name) = (header.number - 1, chunk_name(header.number - 1));
        let before = bucket.ever(&name).into_iter().find(|bytes| ContentDigest::of(bytes) == header.previous);
        let before =
            Bytes::from(before.unwrap_or_else(|| panic!("chunk {number} never existed as it is named")));
        found.insert(number, header.previous);
        header = Chunk::decode(&before, number, &name).unwrap().header;
    }
    found
}

fn run_race(seed: u64) {
    let bucket = SimBucket::new(seed, Faults::default());
    let store = bucket.store();
    let mut random = Random(seed);
    let mut first = begin(&store);
    for _ in 0..1 + random.below(3) {
        append(&store, &mut first, ChunkKind::Base).unwrap();
    }
    bucket.set_faults(Faults::SOME);
    let (race, writers) = (Race::default(), 2 + random.below(2));
    let running = AtomicU64::new(writers as u64);
    std::thread::scope(|threads| {
        threads.spawn(|| race.read(&store, &running));
        for writer in 0..writers {
            let (race, running, store, first) = (&race, &running, &store, first.clone());
            let mut random = Random(seed ^ (writer as u64 + 1) << 40);
            random.next();
            threads.spawn(move || {
                for _ in 0..random.below(60) {
                    std::thread::yield_now();
                }
                let claim = match writer {
                    0 => Ok(first),
                    _ => claim(store, DATABASE, ChunkOrigin::AsyncWriter, &for_ever()),
                };
                match claim {
                    Ok(claim) => race.write(store, claim, &mut random, 12),
                    Err(error) => assert_eq!(error.reason(), Reason::Unreachable, "seed {seed}: {error}"),
                }
                running.fetch_sub(1, Ordering::AcqRel);
            });
        }
    });
    bucket.set_faults(Faults::default());
    bucket.deliver_all();
    let last = follow(&store).unwrap_or_else(|error: Error| panic!("seed {seed}: {error}"));
    let history = history(&bucket, last);
    for (what, chunks) in [("stored", &race.stored), ("seen", &race.seen)] {
        for (number, digest) in chunks.lock().unwrap().iter() {
            assert_eq!(
                history.get(number),
                Some(digest),
                "seed {seed}: chunk {number} was {what} and is lost"
            );
        }
    }
}

#[test]
fn fence_races_leave_one_history_with_every_stored_chunk() {
    for seed in 0..by_lane(300, 20_000) {
        run_race(seed);
    }
}

#[test]
#[ignore = "slow"]
fn two_thousand_fence_races_leave_one_history_with_every_stored_chunk() {
    for seed in 1_000_000..1_002_000 {
        run_race(seed);
    }
}
