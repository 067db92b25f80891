//! The frozen SST file in `tests/fixtures/blocks`, read by the code and by a second decoder written from
//! `common/FORMAT.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use driftdb_common::format::sst::{SstIdentity, SstWriter, TARGET_BYTES};
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::storage::sst::{BlockCache, SstFile};
use xxhash_rust::xxh3::xxh3_64;

use super::crc::crc32;
use super::decoder::{u32_at, u64_at};

const IDENTITY: SstIdentity = SstIdentity { table: 2, base: 100, seq: 300, kind: 1 };
const PROPERTIES: &[u8] = b"two trees";

type Tree = BTreeMap<Vec<u8>, Vec<u8>>;

/// The content of the fixture: tree 1 is filtered on the part of the key before the slash, tree 5 has few and odd keys,
/// tree 9 is empty, and tree 11 is filtered and has more items than fit into one partition.
fn trees() -> [(u8, Tree); 4] {
    let one = (0..60u32).flat_map(|row| {
        (0..=row % 3).map(move |version| {
            let key = format!("row {row:03}/{version}").into_bytes();
            (key, row.wrapping_mul(2_654_435_761).to_le_bytes().repeat((row % 7) as usize))
        })
    });
    // Without repetitions, so that this block is not compressed.
    let mut state = 1u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    let five = [(vec![], vec![0]), (vec![0], vec![]), (vec![0xff; 3], noise.take(400).collect())];
    let eleven = (0..7000u16).map(|number| (number.to_be_bytes().to_vec(), vec![]));
    [(1, one.collect()), (5, five.into_iter().collect()), (9, Tree::new()), (11, eleven.collect())]
}

fn is_filtered(tree: u8) -> bool {
    [1, 11].contains(&tree)
}

fn item(key: &[u8]) -> &[u8] {
    key.split(|byte| *byte == b'/').next().unwrap()
}

/// The fixture's path. Creates a missing fixture if `DRIFTDB_BLESS` is set.
fn fixture() -> PathBuf {
    static MADE: Once = Once::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/blocks/v1.blk");
    MADE.call_once(|| {
        if !path.exists() && std::env::var_os("DRIFTDB_BLESS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, written()).unwrap();
        }
    });
    assert!(path.exists(), "{} is missing", path.display());
    path
}

fn written() -> Vec<u8> {
    let mut writer = SstWriter::new(Vec::new(), IDENTITY).unwrap();
    for (id, tree) in trees() {
        writer.set_target(if id < 10 { 256 } else { TARGET_BYTES });
        writer.begin_tree(id, is_filtered(id)).unwrap();
        for (key, value) in &tree {
            writer.add(key, Some(item(key)), value).unwrap();
        }
        writer.end_tree().unwrap();
    }
    writer.finish(PROPERTIES).unwrap().0
}

#[test]
fn the_code_reads_the_block_fixture() {
    let cache = BlockCache::new(1 << 20);
    let file = SstFile::open(OsFileSystem::shared(), fixture(), IDENTITY, cache).unwrap();
    assert_eq!(file.properties(), PROPERTIES);
    let mut entries = 0;
    for (id, tree) in trees() {
        let mut cursor = file.cursor(id);
        for (key, value) in &tree {
            cursor.next().unwrap();
            assert_eq!((cursor.key(), cursor.value().as_deref()), (Some(&key[..]), Some(&value[..])));
            assert!(file.may_contain(id, item(key)).unwrap());
            let mut sought = file.cursor(id);
            sought.seek(key).unwrap();
            assert_eq!(sought.key(), Some(&key[..]));
        }
        cursor.next().unwrap();
        assert_eq!(cursor.key(), None);
        assert_eq!(file.entries(id), tree.len() as u64);
        entries += file.entries(id);
    }
    let wrong = (0..1000).filter(|n| file.may_contain(1, format!("none {n}").as_bytes()).unwrap()).count();
    assert!(wrong < 50, "{wrong}");
    assert_eq!(file.verify().unwrap(), entries);
}

/// A file, and the blocks read from it so far.
struct Decoder {
    bytes: Vec<u8>,
    codecs: BTreeSet<u8>,
    /// The start and end of each block.
    seen: BTreeMap<usize, usize>,
}

impl Decoder {
    fn block(&mut self, offset: usize, len: usize) -> Vec<u8> {
        let block = &self.bytes[offset..offset + len];
        let (stored, raw) = (u32_at(block, 1) as usize, u32_at(block, 5) as usize);
        assert_eq!(13 + stored, len);
        let identity =
            [IDENTITY.table.to_le_bytes(), IDENTITY.base.to_le_bytes(), IDENTITY.seq.to_le_bytes()];
        let place = (offset as u64).to_le_bytes();
        let crc = crc32(&[&block[..9], &block[13..], &identity.concat(), &[IDENTITY.kind], &place]);
        assert_eq!(u32_at(block, 9), crc);
        let content = match block[0] {
            0 => block[13..].to_vec(),
            1 => zstd::stream::decode_all(&block[13..]).unwrap(),
            codec => panic!("codec {codec}"),
        };
        assert_eq!(content.len(), raw);
        self.codecs.insert(block[0]);
        assert_eq!(self.seen.insert(offset, offset + len), None);
        content
    }

    /// The entries below a block, and the last key there.
    fn entries(&mut self, handle: &[u8], levels: u8) -> (Tree, Vec<u8>) {
        let raw = self.block(u64_at(handle, 0) as usize, u32_at(handle, 8) as usize);
        assert!(levels > 0);
        let count = u32_at(&raw, raw.len() - 4) as usize;
        let list = raw.len() - 4 - 4 * count;
        let starts: Vec<usize> =
            (0..count).map(|i| u32_at(&raw, list + 4 * i) as usize).chain([list]).collect();
        assert_eq!(starts[0], 0);
        let (mut found, mut last) = (Tree::new(), None);
        for place in starts.windows(2) {
            let entry = &raw[place[0]..place[1]];
            let (key, value) = entry[4..].split_at(u32_at(entry, 0) as usize);
            assert!(last.as_deref() < Some(key));
            last = Some(key.to_vec());
            if levels == 1 {
                found.insert(key.to_vec(), value.to_vec());
            } else {
                assert_eq!(value.len(), 12);
                let (below, last) = self.entries(value, levels - 1);
                assert_eq!(last, key);
                found.extend(below);
            }
        }
        (found, last.unwrap())
    }

    /// The lines of each partition of a filter.
    fn filter(&mut self, offset: u64, partitions: u32, lines: u32) -> Vec<Vec<u8>> {
        let len = 13 + 64 * lines as usize;
        (0..partitions as usize).map(|i| self.block(offset as usize + i * len, len)).collect()
    }
}

fn holds(filter: &[Vec<u8>], item: &[u8]) -> bool {
    let hash = u128::from(xxh3_64(item));
    let (all, parts) = (1u128 << 64, filter.len() as u128);
    let partition = &filter[(hash * parts / all) as usize];
    let rest = hash * parts % all;
    let line = (rest * (partition.len() as u128 / 64) / all) as usize;
    let spread = hash * 0x9E37_79B9_7F4A_7C15 % all;
    (0..6).all(|i| {
        let bit = (spread / (1 << (55 - 9 * i)) % 512) as usize;
        partition[64 * line + bit / 8] >> (bit % 8) & 1 == 1
    })
}

#[test]
fn the_second_decoder_reads_the_block_fixture() {
    let bytes = fs::read(fixture()).unwrap();
    let end = bytes.len() - 50;
    let trailer = bytes[end..].to_vec();
    assert_eq!(&trailer[..8], b"DRIFTBLK");
    assert_eq!((trailer[8], trailer[9]), (1, IDENTITY.kind));
    let identity = [u64_at(&trailer, 10), u64_at(&trailer, 18), u64_at(&trailer, 26)];
    assert_eq!(identity, [IDENTITY.table, IDENTITY.base, IDENTITY.seq]);
    assert_eq!(u32_at(&trailer, 46), crc32(&[&trailer[..46]]));

    let mut decoder = Decoder { bytes, codecs: BTreeSet::new(), seen: BTreeMap::new() };
    let raw = decoder.block(u64_at(&trailer, 34) as usize, u32_at(&trailer, 42) as usize);
    let (properties, rest) = raw[4..].split_at(u32_at(&raw, 0) as usize);
    assert_eq!(properties, PROPERTIES);
    assert_eq!((u32_at(rest, 0), rest.len()), (4, 4 + 4 * 38));
    for ((id, tree), told) in trees().iter().zip(rest[4..].chunks(38)) {
        assert_eq!((told[0], u64_at(told, 2)), (*id, tree.len() as u64));
        if tree.is_empty() {
            assert_eq!(told[1..], [0; 37]);
            continue;
        }
        assert_eq!(&decoder.entries(&told[10..22], told[1]).0, tree);
        let filter = decoder.filter(u64_at(told, 22), u32_at(told, 30), u32_at(told, 34));
        assert_eq!(
            filter.len(),
            match id {
                1 => 1,
                11 => 2,
                _ => 0,
            }
        );
        if is_filtered(*id) {
            assert!(tree.keys().all(|key| holds(&filter, item(key))));
            assert!((0..1000).filter(|n| holds(&filter, format!("none {n}").as_bytes())).count() < 50);
        }
        assert!(*id != 1 || told[1] >= 3, "{} levels", told[1]);
    }
    assert_eq!(decoder.codecs, BTreeSet::from([0, 1]));
    // The blocks, the directory and the trailer fill the whole file.
    let mut at = 0;
    for (start, stop) in decoder.seen {
        assert_eq!(start, at);
        at = stop;
    }
    assert_eq!(at, end);
}
