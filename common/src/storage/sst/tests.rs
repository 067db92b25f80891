//! Tests of SSTs: compared with a map, damaged, removed, and more of them than may be open.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::cache::BlockCache;
use super::cursor::TreeCursor;
use super::file::SstFile;
use super::writer::{SstOutput, write_file};
use crate::error::{Error, Reason, Result};
use crate::format::sst::{
    BlockHandle, HEADER_BYTES, SstDirectory, SstIdentity, SstWriter, Trailer, Tree, encode_raw,
};
use crate::limits;
use crate::storage::fs::FileSystem;
use crate::storage::fs::read_failed;
use crate::storage::fs::sim::{CrashPolicy, Fault, Repeat, SimDisk, SimOp};

mod copied_blocks;

const IDENTITY: SstIdentity = SstIdentity { table: 3, base: 100, seq: 200, kind: 1 };
const PATH: &str = "/data/1.blk";

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir(Path::new("/data")).unwrap();
    disk
}

/// Writes a file with these trees. Trees with odd ids have a filter on the first two bytes of each key.
fn write(disk: &SimDisk, path: &str, target: usize, trees: &[(u8, &Model)]) -> u64 {
    let build = |writer: &mut SstWriter<SstOutput>| {
        writer.set_target(target);
        for (id, model) in trees {
            writer.begin_tree(*id, id % 2 == 1)?;
            for (key, value) in *model {
                writer.add(key, Some(prefix(key)), value)?;
            }
            writer.end_tree()?;
        }
        Ok(b"test properties".to_vec())
    };
    write_file(disk, Path::new(path), IDENTITY, build).unwrap()
}

fn prefix(key: &[u8]) -> &[u8] {
    key.get(..2).unwrap_or(key)
}

fn open(disk: &SimDisk, path: &str, cache: &Arc<BlockCache>) -> Result<Arc<SstFile>> {
    SstFile::open(disk.shared(), path.into(), IDENTITY, Arc::clone(cache))
}

fn pair(cursor: &TreeCursor) -> Option<(Vec<u8>, Vec<u8>)> {
    let (key, value) = (cursor.key(), cursor.value());
    assert_eq!(key.is_some(), value.is_some());
    Some((key?.to_vec(), value?.to_vec()))
}

fn owned((key, value): (&Vec<u8>, &Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    (key.clone(), value.clone())
}

fn numbered(entries: u32) -> Model {
    (0..entries).map(|n| (format!("key {n:06}").into_bytes(), n.to_le_bytes().repeat(3))).collect()
}

/// Reads all entries forwards, then backwards, and compares them with the model.
fn check_all(file: &Arc<SstFile>, tree: u8, model: &Model) -> Result<()> {
    let mut cursor = file.cursor(tree);
    cursor.next()?;
    for entry in model {
        assert_eq!(pair(&cursor), Some(owned(entry)));
        cursor.next()?;
    }
    assert_eq!(pair(&cursor), None);
    for entry in model.iter().rev() {
        cursor.prev()?;
        assert_eq!(pair(&cursor), Some(owned(entry)));
        assert!(file.may_contain(tree, prefix(entry.0))?);
    }
    cursor.prev()?;
    assert_eq!(pair(&cursor), None);
    Ok(())
}

#[derive(Debug, Clone)]
enum Move {
    Seek(Vec<u8>),
    SeekBy(Vec<u8>),
    SeekLast(Vec<u8>),
    SeekAfter(Vec<u8>),
    /// Passes so many entries.
    Visit(usize),
    First,
    Last,
    Next,
    Prev,
}

/// Passes some entries, and compares them with the model.
fn visit(cursor: &mut TreeCursor, model: &Model, count: usize) -> Result<()> {
    let from = cursor.key().map(<[u8]>::to_vec);
    let mut passed = Vec::new();
    cursor.visit(|key, value| {
        passed.push((key.to_vec(), value.to_vec()));
        Ok(passed.len() < count)
    })?;
    let expected = from.into_iter().flat_map(|from| model.range(from..)).take(count).map(owned);
    assert_eq!(passed, expected.collect::<Vec<_>>());
    Ok(())
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(b"\0abz\xff".to_vec()), 0..5)
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        3 => key().prop_map(Move::Seek),
        2 => key().prop_map(Move::SeekBy),
        2 => key().prop_map(Move::SeekLast),
        2 => key().prop_map(Move::SeekAfter),
        2 => (1..30_usize).prop_map(Move::Visit),
        1 => Just(Move::First),
        1 => Just(Move::Last),
        5 => Just(Move::Next),
        5 => Just(Move::Prev),
    ];
    prop::collection::vec(one, 1..60)
}

/// Where the model expects the cursor.
#[derive(Debug, Clone, PartialEq)]
enum ExpectedPlace {
    Before,
    On(Vec<u8>),
    Past,
}

fn moved(model: &Model, from: ExpectedPlace, step: &Move) -> ExpectedPlace {
    let up = |key: Option<&Vec<u8>>| key.cloned().map_or(ExpectedPlace::Past, ExpectedPlace::On);
    let down = |key: Option<&Vec<u8>>| key.cloned().map_or(ExpectedPlace::Before, ExpectedPlace::On);
    match (step, &from) {
        (Move::Seek(key), _) => up(model.range(key.clone()..).next().map(|(key, _)| key)),
        (Move::SeekBy(at), _) => up(model.keys().find(|key| prefix(key) >= prefix(at))),
        (Move::SeekLast(at), _) => down(model.keys().rfind(|key| prefix(key) <= prefix(at))),
        (Move::SeekAfter(at), _) => up(model.keys().find(|key| *key > at)),
        (Move::Visit(_), ExpectedPlace::Before | ExpectedPlace::Past) => from.clone(),
        (Move::Visit(count), ExpectedPlace::On(key)) => {
            up(model.range(key.clone()..).map(|(key, _)| key).nth(count - 1))
        }
        (Move::First, _) | (Move::Next, ExpectedPlace::Before) => up(model.keys().next()),
        (Move::Last, _) | (Move::Prev, ExpectedPlace::Past) => down(model.keys().next_back()),
        (Move::Next, ExpectedPlace::Past) => ExpectedPlace::Past,
        (Move::Prev, ExpectedPlace::Before) => ExpectedPlace::Before,
        (Move::Next, ExpectedPlace::On(key)) => {
            up(model.range((Bound::Excluded(key.clone()), Bound::Unbounded)).next().map(|(key, _)| key))
        }
        (Move::Prev, ExpectedPlace::On(key)) => {
            down(model.range(..key.clone()).next_back().map(|(key, _)| key))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn a_tree_behaves_like_a_sorted_map(
        model in prop::collection::btree_map(key(), prop::collection::vec(any::<u8>(), 0..30), 0..200),
        target in 20usize..400,
        budget in prop::sample::select(vec![0u64, 2000, 1 << 20]),
        moves in moves(),
    ) {
        let (disk, cache) = (disk(), BlockCache::new(budget));
        let other = numbered(20);
        let bytes = write(&disk, PATH, target, &[(7, &model), (2, &other), (4, &Model::new())]);
        let file = open(&disk, PATH, &cache).unwrap();
        prop_assert_eq!(file.verify().unwrap(), (model.len() + other.len()) as u64);
        prop_assert_eq!(file.entries(7), model.len() as u64);
        prop_assert_eq!(file.bytes(), bytes);
        prop_assert_eq!(file.properties(), b"test properties");
        for (tree, model) in [(7, &model), (2, &other), (4, &Model::new()), (99, &Model::new())] {
            check_all(&file, tree, model).unwrap();
        }
        let mut cursor = file.cursor(7);
        let mut expected_place = ExpectedPlace::Before;
        for step in moves {
            match &step {
                Move::Seek(key) => cursor.seek(key),
                Move::SeekBy(at) => cursor.seek_by(|key| prefix(key) < prefix(at)),
                Move::SeekLast(at) => cursor.seek_last_by(|key| prefix(key) <= prefix(at)),
                Move::SeekAfter(at) => cursor.seek_after(at),
                Move::Visit(count) => visit(&mut cursor, &model, *count),
                Move::First => cursor.first(),
                Move::Last => cursor.last(),
                Move::Next => cursor.next(),
                Move::Prev => cursor.prev(),
            }
            .unwrap();
            expected_place = moved(&model, expected_place, &step);
            let expected = match &expected_place {
                ExpectedPlace::On(key) => Some((key.clone(), model[key].clone())),
                _ => None,
            };
            prop_assert_eq!(pair(&cursor), expected, "after {:?}", step);
        }
        // The cache exceeds its budget by at most one block.
        prop_assert!(cache.used_bytes() <= budget + 1000, "{} of {}", cache.used_bytes(), budget);
    }
}

#[test]
fn a_tree_can_mix_large_and_small_entries() {
    let mut model = numbered(2000);
    for n in [0, 500, 501, 1999] {
        let large: Vec<u8> = (0..1u32 << 18).flat_map(|i| (i.wrapping_mul(n + 7)).to_le_bytes()).collect();
        model.insert(format!("key {n:06}").into_bytes(), large);
    }
    let (disk, cache) = (disk(), BlockCache::new(64 << 20));
    write(&disk, PATH, crate::format::sst::TARGET_BYTES, &[(1, &model)]);
    let file = open(&disk, PATH, &cache).unwrap();
    assert_eq!(file.verify().unwrap(), 2000);
    assert_eq!(cache.used_bytes(), 0, "verification does not use the cache");
    check_all(&file, 1, &model).unwrap();
    assert!(cache.used_bytes() > 4 << 20);
}

#[test]
fn the_number_of_entries_in_a_range_is_estimated() {
    let (disk, cache) = (disk(), BlockCache::new(1 << 20));
    write(&disk, PATH, 1000, &[(2, &numbered(10_000)), (4, &Model::new())]);
    let file = open(&disk, PATH, &cache).unwrap();
    let between =
        |low: &str, high: &str| file.estimate_entries(2, (low.as_bytes(), high.as_bytes())).unwrap();
    for (low, high, entries) in [
        ("key 002000", "key 006999", 5000),
        ("key 0020", "key 0020", 100),
        ("key 002000", "key 002000", 1),
        ("a", "z", 10_000),
        ("a", "key 000999", 1000),
        ("key 009000", "z", 1000),
        ("x", "z", 0),
    ] {
        let found = between(low, high);
        // The root has about nine children, and the last may be nearly empty.
        assert!(found.abs_diff(entries) <= 1200, "{low} to {high}: {found} instead of {entries}");
    }
    assert_eq!(file.estimate_entries(4, (b"a", b"z")).unwrap(), 0);
    assert_eq!(file.estimate_entries(6, (b"a", b"z")).unwrap(), 0);
}

#[test]
fn a_seek_within_the_same_block_reads_nothing() {
    let (disk, cache) = (disk(), BlockCache::new(0));
    let model = numbered(10_000);
    write(&disk, PATH, 1000, &[(2, &model)]);
    let file = open(&disk, PATH, &cache).unwrap();
    let mut cursor = file.cursor(2);
    cursor.seek(b"key 005000").unwrap();
    // The cache is empty, and every read fails.
    let mut found = 0;
    disk.fail_when(SimOp::Read, PATH, 1, Fault::Eio, Repeat::Always);
    for n in 5001..5100 {
        cursor.seek(format!("key {n:06}").as_bytes()).unwrap_or_default();
        match cursor.key() {
            Some(_) => found += 1,
            None => break,
        }
    }
    assert!((5..99).contains(&found), "{found}");
    disk.clear_faults();
    cursor.seek(b"key 005000").unwrap();
    assert_eq!(cursor.key(), Some(&b"key 005000"[..]));
}

#[test]
fn a_filter_excludes_most_absent_keys() {
    let (disk, cache) = (disk(), BlockCache::new(1 << 20));
    let model: Model = (0..200u8).map(|n| (vec![n, 0, n], vec![])).collect();
    write(&disk, PATH, 1000, &[(1, &model), (2, &model), (3, &Model::new())]);
    let file = open(&disk, PATH, &cache).unwrap();
    let found =
        |tree: u8, second: u8| (0..=255).filter(|n| file.may_contain(tree, &[*n, second]).unwrap()).count();
    assert!(found(1, 0) >= 200);
    assert!(found(1, 1) < 30);
    assert_eq!((found(2, 1), found(3, 0), found(77, 0)), (256, 0, 0));
}

fn small() -> (SimDisk, Vec<u8>, Model, Model) {
    let disk = disk();
    let (one, two) = (numbered(40), numbered(3));
    write(&disk, PATH, 200, &[(1, &one), (2, &two)]);
    let bytes = disk.bytes(PATH).unwrap();
    (disk, bytes, one, two)
}

/// Reads everything: each read must return the right answer or an error.
fn use_file(disk: &SimDisk, one: &Model, two: &Model) -> Result<()> {
    let file = open(disk, PATH, &BlockCache::new(1 << 20))?;
    let verified = file.verify();
    let read = check_all(&file, 1, one).and_then(|()| check_all(&file, 2, two));
    for (tree, model) in [(1, one), (2, two)] {
        for entry in model {
            let mut cursor = file.cursor(tree);
            if cursor.seek(entry.0).is_ok() {
                assert_eq!(pair(&cursor), Some(owned(entry)));
            }
            assert!(file.may_contain(tree, prefix(entry.0)).unwrap_or(true));
        }
    }
    assert!(verified.is_err() || read.is_ok());
    verified.map(|entries| assert_eq!(entries, (one.len() + two.len()) as u64))
}

#[test]
fn every_flipped_bit_is_detected() {
    let (disk, bytes, one, two) = small();
    use_file(&disk, &one, &two).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            disk.flip_bit(PATH, at, bit).unwrap();
            let error = use_file(&disk, &one, &two).expect_err(&format!("byte {at} bit {bit}"));
            assert_eq!(error.reason(), Reason::Corrupt);
            disk.flip_bit(PATH, at, bit).unwrap();
        }
    }
    use_file(&disk, &one, &two).unwrap();
}

#[test]
fn every_truncation_is_detected() {
    let (disk, bytes, one, two) = small();
    for len in 0..bytes.len() {
        disk.put(PATH, &bytes[..len]).unwrap();
        let error = use_file(&disk, &one, &two).expect_err(&format!("cut at {len}"));
        assert_eq!(error.reason(), Reason::Corrupt);
        // Truncate the file while it is open.
        disk.put(PATH, &bytes).unwrap();
        let file = open(&disk, PATH, &BlockCache::new(0)).unwrap();
        disk.put(PATH, &bytes[..len]).unwrap();
        if let Err(e) = check_all(&file, 1, &one) {
            assert_eq!(e.reason(), Reason::Corrupt);
        }
    }
    disk.put(PATH, &[&bytes[..], b"\0"].concat()).unwrap();
    assert_eq!(use_file(&disk, &one, &two).unwrap_err().reason(), Reason::Corrupt);
}

#[test]
fn a_file_with_another_identity_is_corrupt() {
    let (disk, ..) = small();
    for wrong in [SstIdentity { table: 4, ..IDENTITY }, SstIdentity { kind: 2, ..IDENTITY }] {
        let opened = SstFile::open(disk.shared(), PATH.into(), wrong, BlockCache::new(0));
        assert_eq!(opened.unwrap_err().reason(), Reason::Corrupt);
    }
}

#[test]
fn more_files_can_be_used_than_are_open() {
    let (disk, cache) = (disk(), BlockCache::new(0));
    let model = numbered(3);
    let files: Vec<_> = (0..limits::OPEN_SST_FILES + 50)
        .map(|n| {
            let path = format!("/data/{n}.blk");
            write(&disk, &path, 1000, &[(1, &model)]);
            let file = open(&disk, &path, &cache).unwrap();
            assert!(cache.open_files() <= limits::OPEN_SST_FILES);
            file
        })
        .collect();
    assert_eq!(cache.open_files(), limits::OPEN_SST_FILES);
    // The cache has closed the first file. It is opened again, because it is the same file.
    check_all(&files[0], 1, &model).unwrap();
    assert_eq!(cache.open_files(), limits::OPEN_SST_FILES);
    // The second file is closed and removed. The third is closed, and another file has its name.
    disk.remove(Path::new("/data/1.blk")).unwrap();
    assert_eq!(check_all(&files[1], 1, &model).unwrap_err().reason(), Reason::FileGone);
    write(&disk, "/data/2.blk", 1000, &[(1, &numbered(4))]);
    assert_eq!(check_all(&files[2], 1, &model).unwrap_err().reason(), Reason::FileGone);
    let opened = open(&disk, "/data/2.blk", &cache).unwrap();
    check_all(&opened, 1, &numbered(4)).unwrap();
    // An open file can be read although its name is removed.
    let last = files.last().unwrap();
    disk.remove(last.path()).unwrap();
    check_all(last, 1, &model).unwrap();
    drop((files, opened));
    assert_eq!(cache.open_files(), 0);
}

#[test]
fn a_missing_file_is_reported_as_gone() {
    let opened = open(&disk(), PATH, &BlockCache::new(0));
    assert_eq!(opened.unwrap_err().reason(), Reason::FileGone);
    let reason = |code| read_failed(Path::new(PATH), &io::Error::from_raw_os_error(code)).reason();
    // 116 is ESTALE, 5 is EIO.
    assert_eq!((reason(116), reason(5)), (Reason::FileGone, Reason::Io));
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    let (disk, _, one, two) = small();
    disk.put("/data/1.blk.tmp", b"leftover").unwrap();
    let before = disk.operations();
    write(&disk.clone_state(), PATH, 200, &[(1, &one)]);
    assert_eq!(disk.operations(), before);
    for number in 1..=20 {
        let run = disk.clone_state();
        run.fail_at(number, Fault::Eio, Repeat::Once);
        let written = write_file(&run, Path::new(PATH), IDENTITY, |writer| {
            writer.begin_tree(9, false)?;
            writer.end_tree()?;
            Ok(Vec::new())
        });
        match written {
            Ok(_) => assert_eq!(open(&run, PATH, &BlockCache::new(0)).unwrap().entries(1), 0),
            Err(_) => use_file(&run, &one, &two).unwrap(),
        }
        assert!(number == 1 || run.bytes("/data/1.blk.tmp").is_none(), "operation {number}");
    }
    let failed = write_file(&disk, Path::new(PATH), IDENTITY, |_| Err(Error::new(Reason::Internal, "no")));
    assert_eq!(failed.unwrap_err().message(), "cannot write /data/1.blk: no");
    assert_eq!(disk.bytes("/data/1.blk.tmp"), None);
    use_file(&disk, &one, &two).unwrap();
}

#[test]
fn a_power_cut_leaves_the_old_or_the_new_file() {
    let (old, _, one, two) = small();
    old.sync_dir(Path::new("/")).unwrap();
    old.sync_dir(Path::new("/data")).unwrap();
    let new = numbered(100);
    let run = |disk: &SimDisk| {
        let written = write_file(disk, Path::new(PATH), IDENTITY, |writer| {
            writer.begin_tree(1, false)?;
            for (key, value) in &new {
                writer.add(key, None, value)?;
            }
            writer.end_tree()?;
            Ok(Vec::new())
        });
        written.and_then(|_| disk.sync_dir(Path::new("/data")).map_err(|e| Error::io("sync", &e)))
    };
    let whole = old.clone_state();
    run(&whole).unwrap();
    for stop in 1..=whole.operations() + 1 {
        let disk = old.clone_state();
        disk.power_off_at(stop);
        assert_eq!(run(&disk).is_ok(), stop > whole.operations());
        for policy in CrashPolicy::all(7) {
            let after = disk.crash(policy);
            let file = open(&after, PATH, &BlockCache::new(0)).unwrap();
            file.verify().unwrap();
            if file.entries(1) == 100 {
                check_all(&file, 1, &new).unwrap();
            } else {
                assert!(stop <= whole.operations(), "the old file, although the new one was durable");
                use_file(&after, &one, &two).unwrap();
            }
        }
    }
}

/// Returns a file with valid CRCs and a given index: a root block with these entries, above one data block at byte 0 with
/// the keys `b` and `d`.
fn forged(
    depth: u8,
    entries: u64,
    index: &dyn Fn(BlockHandle, BlockHandle) -> Vec<(Vec<u8>, Vec<u8>)>,
) -> SimDisk {
    let block = |entries: &[(Vec<u8>, Vec<u8>)]| {
        let mut raw = Vec::new();
        let mut starts = Vec::new();
        for (key, value) in entries {
            starts.extend_from_slice(&u32::try_from(raw.len()).unwrap().to_le_bytes());
            raw.extend_from_slice(&u32::try_from(key.len()).unwrap().to_le_bytes());
            raw.extend_from_slice(&[&key[..], value].concat());
        }
        [raw, starts, u32::try_from(entries.len()).unwrap().to_le_bytes().to_vec()].concat()
    };
    let handle =
        |offset: usize, len: usize| BlockHandle { offset: offset as u64, len: u32::try_from(len).unwrap() };
    let sealed = |raw: &[u8], at: usize| encode_raw(raw, IDENTITY, at as u64).unwrap();
    let mut file = sealed(&block(&[(b"b".to_vec(), vec![1]), (b"d".to_vec(), vec![2])]), 0);
    let data = handle(0, file.len());
    // All encoded handles have the same length, so a wrong handle gives the right length of the root block.
    let root = handle(file.len(), HEADER_BYTES + block(&index(data, data)).len());
    file.extend(sealed(&block(&index(data, root)), file.len()));
    let tree = Tree { id: 1, depth, entries, root: Some(root), filter: None };
    let raw = SstDirectory { properties: Vec::new(), trees: vec![tree] }.encode().unwrap();
    let directory = sealed(&raw, file.len());
    let trailer = Trailer { identity: IDENTITY, directory: handle(file.len(), directory.len()) };
    let disk = disk();
    disk.put(PATH, &[file, directory, trailer.encode()].concat()).unwrap();
    disk
}

#[test]
fn a_wrong_index_is_detected() {
    let entry = |key: &[u8], handle: BlockHandle| (key.to_vec(), handle.encode().to_vec());
    let outside = BlockHandle { offset: u64::MAX - 5, len: 100 };
    type Index<'a> = &'a dyn Fn(BlockHandle, BlockHandle) -> Vec<(Vec<u8>, Vec<u8>)>;
    let wrong: [(u8, u64, Index<'_>); 8] = [
        (2, 2, &|data, _| vec![entry(b"x", data)]),
        (2, 2, &|data, _| vec![entry(b"c", data)]),
        (2, 3, &|data, _| vec![entry(b"d", data)]),
        (2, 4, &|data, _| vec![entry(b"d", data), entry(b"d", data)]),
        (2, 2, &|_, _| vec![entry(b"d", outside)]),
        (2, 2, &|_, _| vec![(b"d".to_vec(), b"no handle".to_vec())]),
        (64, 1, &|_, root| vec![entry(b"d", root)]),
        (64, 1 << 60, &|_, root| vec![entry(b"d", root), entry(b"e", root)]),
    ];
    let right = forged(2, 2, &|data, _| vec![entry(b"d", data)]);
    assert_eq!(open(&right, PATH, &BlockCache::new(0)).unwrap().verify().unwrap(), 2);
    for (number, (depth, entries, index)) in wrong.into_iter().enumerate() {
        let file = open(&forged(depth, entries, index), PATH, &BlockCache::new(9000)).unwrap();
        assert_eq!(file.verify().unwrap_err().reason(), Reason::Corrupt, "wrong index {number}");
        let mut cursor = file.cursor(1);
        for key in [&b""[..], b"b", b"c", b"d", b"dd", b"x", b"y"] {
            let moves = [cursor.seek(key), cursor.next(), cursor.prev(), cursor.first(), cursor.last()];
            for error in moves.into_iter().filter_map(Result::err) {
                assert_eq!(error.reason(), Reason::Corrupt);
            }
        }
    }
    let file = open(&forged(2, 2, wrong[0].2), PATH, &BlockCache::new(0)).unwrap();
    let mut cursor = file.cursor(1);
    assert_eq!(cursor.seek(b"e").unwrap_err().reason(), Reason::Corrupt);
    assert_eq!(pair(&cursor), None);
    cursor.seek(b"b").unwrap();
    assert_eq!(cursor.key(), Some(&b"b"[..]));
}

#[test]
fn cursors_can_be_used_from_several_threads() {
    fn check<T: Send>() {}
    check::<TreeCursor>();
    check::<Arc<SstFile>>();
    let (disk, cache) = (disk(), BlockCache::new(20_000));
    let model = numbered(5000);
    write(&disk, PATH, 500, &[(1, &model)]);
    let file = open(&disk, PATH, &cache).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| check_all(&file, 1, &model).unwrap());
        }
    });
    assert!(cache.used_bytes() <= 20_000);
}
