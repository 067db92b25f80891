//! Tests of blocks and filters as the writer writes them, and of the errors of the writer.

use bytes::Bytes;
use proptest::prelude::*;

use super::block_builder::BlockBuilder;
use super::*;
use crate::error::{Reason, Result};
use crate::limits;

const IDENTITY: SstIdentity = SstIdentity { table: 3, base: 100, seq: 200, kind: 1 };
const OFFSET: u64 = 777;

fn raw_of(entries: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut builder = BlockBuilder::default();
    for (key, value) in entries {
        builder.push(key, value).unwrap();
    }
    builder.finish().unwrap().to_vec()
}

fn written(build: impl FnOnce(&mut SstWriter<Vec<u8>>) -> Result<()>) -> Result<Vec<u8>> {
    let mut writer = SstWriter::new(Vec::new(), IDENTITY)?;
    build(&mut writer)?;
    let (bytes, len) = writer.finish(b"properties")?;
    assert_eq!(bytes.len() as u64, len);
    Ok(bytes)
}

/// The directory of a file, found through the trailer as a reader does.
fn directory(file: &[u8]) -> SstDirectory {
    let trailer = Trailer::decode(file.last_chunk().unwrap()).unwrap();
    assert_eq!(trailer.identity, IDENTITY);
    let at = trailer.directory;
    assert_eq!(at.end(), (file.len() - TRAILER_BYTES) as u64);
    SstDirectory::decode(&decode_block(&part(file, at), IDENTITY, at.offset).unwrap(), at.offset).unwrap()
}

fn part(file: &[u8], handle: BlockHandle) -> Bytes {
    let start = usize::try_from(handle.offset).unwrap();
    Bytes::copy_from_slice(&file[start..start + handle.len as usize])
}

#[test]
fn a_block_finds_its_entries() {
    let raw = raw_of(&[(b"", b"empty key"), (b"a", b""), (b"ab", b"x"), (b"b", b"yy")]);
    let block = Block::parse(raw.clone().into()).unwrap();
    // Each entry takes eight bytes more, for searches.
    assert_eq!((block.len(), block.bytes(), block.is_empty()), (4, raw.len() + 4 * 8, false));
    let keys: Vec<_> = (0..4).map(|i| block.key(i).unwrap()).collect();
    assert_eq!(keys, [&b""[..], b"a", b"ab", b"b"]);
    assert_eq!(block.value(0).unwrap(), b"empty key"[..]);
    assert_eq!((block.value(1).unwrap(), block.value(3).unwrap()), (Bytes::new(), Bytes::from("yy")));
    assert_eq!((block.key(4), block.value(4), block.key(usize::MAX)), (None, None, None));
    assert_eq!(block.last_key(), Some(&b"b"[..]));
    assert_eq!(block.partition_point(|key| key < &b"ab"[..]), 2);
    assert_eq!((block.partition_point(|_| true), block.partition_point(|_| false)), (4, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn a_parsed_block_is_complete(
        mut raw in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            Just(raw_of(&[(b"one", b"first"), (b"two", b"second"), (b"u", b"")])),
        ],
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0u8..12), 0..4),
    ) {
        for (at, byte) in changes {
            if !raw.is_empty() {
                let at = at.index(raw.len());
                raw[at] = byte;
            }
        }
        if let Ok(block) = Block::parse(raw.clone().into()) {
            prop_assert!(!block.is_empty());
            let bytes = |i| 4 + block.key(i).unwrap().len() + block.value(i).unwrap().len() + 4;
            prop_assert_eq!((0..block.len()).map(bytes).sum::<usize>() + 4, raw.len());
        }
        let _ = SstDirectory::decode(&raw, 1000);
        let _ = BlockHandle::decode(&raw);
        let _ = decode_block(&raw.into(), IDENTITY, OFFSET);
    }
}

#[test]
fn a_filter_has_no_false_negatives_and_few_false_positives() {
    for items in [0u32, 1, 50, 6_553, 6_554, 100_000] {
        let file = written(|writer| {
            writer.begin_tree(1, true)?;
            for item in 0..items {
                let key = [&item.to_be_bytes()[..], b"/0"].concat();
                writer.add(&key, Some(&item.to_be_bytes()), b"")?;
                writer.add(&[&key[..], b"1"].concat(), Some(&item.to_be_bytes()), b"")?;
            }
            writer.end_tree()
        })
        .unwrap();
        let filter = directory(&file).trees[0].filter.unwrap();
        let partitions: Vec<_> = (0..u64::from(filter.partitions))
            .map(|number| {
                let handle = filter.handle(number);
                decode_block(&part(&file, handle), IDENTITY, handle.offset).unwrap()
            })
            .collect();
        let bytes: usize = partitions.iter().map(Bytes::len).sum();
        assert!(bytes * 8 <= items as usize * 11 + 512 * partitions.len(), "{items}: {bytes} bytes");
        assert!(partitions.iter().all(|partition| partition.len() <= 8192));
        let holds = |item: u32| {
            let hash = filter::hash(&item.to_be_bytes());
            let number = usize::try_from(filter::partition(&filter, hash)).unwrap();
            filter::may_contain(&filter, &partitions[number], hash)
        };
        assert!((0..items).all(holds), "{items}");
        let wrong = (items..items + 100_000).filter(|item| holds(*item)).count();
        assert!(wrong < 2_000, "{items}: {wrong} of 100000");
    }
}

#[test]
fn the_depth_of_a_tree_follows_its_size() {
    for (entries, depth) in [(0, 0), (1, 1), (2, 1), (40, 4), (1000, 7)] {
        let file = written(|writer| {
            writer.set_target(100);
            writer.begin_tree(9, false)?;
            for entry in 0..entries {
                writer.add(format!("{entry:08}").as_bytes(), None, &[1; 20])?;
            }
            writer.end_tree()
        })
        .unwrap();
        let directory = directory(&file);
        assert_eq!(directory.properties, b"properties");
        let tree = directory.tree(9).unwrap();
        assert_eq!((tree.entries, tree.root.is_some(), tree.filter), (entries, entries > 0, None));
        assert_eq!(tree.depth, depth, "{entries} entries");
        assert_eq!(directory.tree(8), None);
    }
}

#[test]
fn keys_of_the_maximum_length_can_be_indexed() {
    let key = |last: u8| [&vec![b'k'; limits::BLOCK_KEY_BYTES - 1][..], &[last]].concat();
    let file = written(|writer| {
        writer.begin_tree(0, false)?;
        for last in 0..5 {
            writer.add(&key(last), None, b"")?;
        }
        writer.end_tree()
    })
    .unwrap();
    let tree = directory(&file).trees[0];
    assert_eq!((tree.entries, tree.depth), (5, 4));
}

#[test]
fn the_writer_refuses_wrong_calls_and_large_entries() {
    let reason = |build: &dyn Fn(&mut SstWriter<Vec<u8>>) -> Result<()>| written(build).unwrap_err().reason();
    assert_eq!(reason(&|writer| writer.add(b"a", None, b"")), Reason::Internal);
    assert_eq!(reason(&|writer| writer.end_tree()), Reason::Internal);
    assert_eq!(reason(&|writer| writer.begin_tree(1, false)), Reason::Internal);
    let begun = |run: &dyn Fn(&mut SstWriter<Vec<u8>>) -> Result<()>| {
        reason(&|writer| {
            writer.begin_tree(1, true)?;
            writer.add(b"b", None, b"")?;
            run(writer)?;
            writer.end_tree()
        })
    };
    assert_eq!(begun(&|writer| writer.add(b"b", None, b"")), Reason::Internal);
    assert_eq!(begun(&|writer| writer.add(b"a", None, b"")), Reason::Internal);
    assert_eq!(begun(&|writer| writer.begin_tree(2, false)), Reason::Internal);
    assert_eq!(
        begun(&|writer| writer.end_tree().and_then(|()| writer.begin_tree(1, false))),
        Reason::Internal
    );
    let long = vec![b'c'; limits::BLOCK_KEY_BYTES + 1];
    assert_eq!(begun(&|writer| writer.add(&long, None, b"")), Reason::TooLarge);
    let large = vec![b'c'; limits::BLOCK_BYTES_MAX - 13];
    assert_eq!(begun(&|writer| writer.add(b"cc", None, &large)), Reason::TooLarge);
    assert!(
        written(|writer| {
            writer.begin_tree(1, false)?;
            writer.add(b"c", None, &large)?;
            writer.end_tree()
        })
        .is_ok()
    );
}
