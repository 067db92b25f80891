//! Tests of blocks, filters and what a writer refuses.

use proptest::prelude::*;

use super::block::Builder;
use super::*;

const IDENTITY: SstIdentity = SstIdentity { table: 3, base: 100, seq: 200, kind: 1 };
const OFFSET: u64 = 777;

fn packed(raw: &[u8]) -> Bytes {
    BlockEncoder::new().unwrap().pack(raw, IDENTITY, OFFSET).unwrap().into()
}

fn raw_of(entries: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut builder = Builder::default();
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

/// A file's directory, read as one does who opens it.
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
fn a_block_is_valid_only_in_its_file_and_place() {
    let raw = [7; 1000];
    let block = packed(&raw);
    assert!(block.len() < 100);
    assert_eq!(decode_block(&block, IDENTITY, OFFSET).unwrap(), raw[..]);
    assert_eq!(decode_block(&block, IDENTITY, OFFSET + 1), Err(BlockError::Crc));
    for wrong in [
        SstIdentity { table: 4, ..IDENTITY },
        SstIdentity { base: 101, ..IDENTITY },
        SstIdentity { seq: 201, ..IDENTITY },
        SstIdentity { kind: 2, ..IDENTITY },
    ] {
        assert_eq!(decode_block(&block, wrong, OFFSET), Err(BlockError::Crc));
    }
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_block_is_seen() {
    for raw in [&[7; 1000][..], b"too short to pack"] {
        let block = packed(raw);
        for bit in 0..block.len() * 8 {
            let mut flipped = block.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_block(&flipped.into(), IDENTITY, OFFSET).is_err(), "bit {bit}");
        }
        for len in 0..block.len() {
            assert!(decode_block(&block.slice(..len), IDENTITY, OFFSET).is_err(), "cut at {len}");
        }
        let longer = [&block[..], b"x"].concat();
        assert!(decode_block(&longer.into(), IDENTITY, OFFSET).is_err());
    }
}

#[test]
fn a_bomb_has_no_effect() {
    let bomb = Compressor::new(LEVEL).unwrap().compress(&vec![0; 64 << 20]).unwrap();
    assert!(bomb.len() < 10_000);
    for announced in [1, bomb.len(), limits::BLOCK_BYTES_MAX] {
        let block = encode(ZSTD, &bomb, announced, IDENTITY, OFFSET).unwrap();
        assert_eq!(decode_block(&block.into(), IDENTITY, OFFSET), Err(BlockError::Packed), "{announced}");
    }
    // More announced than there is.
    let short = Compressor::new(LEVEL).unwrap().compress(&[0; 100]).unwrap();
    let block = encode(ZSTD, &short, 101, IDENTITY, OFFSET).unwrap();
    assert_eq!(decode_block(&block.into(), IDENTITY, OFFSET), Err(BlockError::Packed));
    let block = encode(ZSTD, b"no zstd", 100, IDENTITY, OFFSET).unwrap();
    assert_eq!(decode_block(&block.into(), IDENTITY, OFFSET), Err(BlockError::Packed));
}

#[test]
fn lengths_and_codecs_that_no_block_has_are_refused() {
    let headed = |codec: u8, stored: u32, raw: u32| {
        let mut block = vec![codec];
        block.extend_from_slice(&stored.to_le_bytes());
        block.extend_from_slice(&raw.to_le_bytes());
        let crc = crc(&block, b"four", IDENTITY, OFFSET);
        block.extend_from_slice(&crc.to_le_bytes());
        block.extend_from_slice(b"four");
        decode_block(&block.into(), IDENTITY, OFFSET)
    };
    assert_eq!(headed(RAW, 4, 4).unwrap(), b"four"[..]);
    assert_eq!(headed(RAW, 4, 5), Err(BlockError::Length(5)));
    assert_eq!(headed(RAW, 4, u32::MAX), Err(BlockError::Length(u32::MAX)));
    assert_eq!(headed(ZSTD, 4, u32::MAX), Err(BlockError::Length(u32::MAX)));
    assert_eq!(headed(ZSTD, 4, 0), Err(BlockError::Length(0)));
    assert_eq!(headed(RAW, 3, 3), Err(BlockError::Length(3)));
    assert_eq!(headed(RAW, 5, 5), Err(BlockError::Incomplete));
    assert_eq!(headed(2, 4, 4), Err(BlockError::Codec(2)));
    for len in [0, 13, u32::MAX] {
        let handle = BlockHandle { offset: 0, len };
        assert_eq!(BlockHandle::decode(&handle.encode()), Err(BlockError::Length(len)));
    }
    assert!(encode_raw(&vec![0; limits::BLOCK_BYTES_MAX + 1], IDENTITY, OFFSET).is_err());
}

#[test]
fn entries_are_found_in_place() {
    let raw = raw_of(&[(b"", b"nothing"), (b"a", b""), (b"ab", b"x"), (b"b", b"yy")]);
    let block = Block::parse(raw.clone().into()).unwrap();
    assert_eq!((block.len(), block.bytes(), block.is_empty()), (4, raw.len(), false));
    let keys: Vec<_> = (0..4).map(|i| block.key(i).unwrap()).collect();
    assert_eq!(keys, [&b""[..], b"a", b"ab", b"b"]);
    assert_eq!(block.value(0).unwrap(), b"nothing"[..]);
    assert_eq!((block.value(1).unwrap(), block.value(3).unwrap()), (Bytes::new(), Bytes::from("yy")));
    assert_eq!((block.key(4), block.value(4), block.key(usize::MAX)), (None, None, None));
    assert_eq!(block.last_key(), Some(&b"b"[..]));
    assert_eq!(block.partition_point(|key| key < &b"ab"[..]), 2);
    assert_eq!((block.partition_point(|_| true), block.partition_point(|_| false)), (4, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn whatever_passes_as_a_block_is_whole(
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
fn a_filter_knows_what_it_holds_and_little_else() {
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
        let place = directory(&file).trees[0].filter.unwrap();
        let partitions: Vec<_> = (0..u64::from(place.partitions))
            .map(|number| {
                let handle = place.handle(number);
                decode_block(&part(&file, handle), IDENTITY, handle.offset).unwrap()
            })
            .collect();
        let bytes: usize = partitions.iter().map(Bytes::len).sum();
        assert!(bytes * 8 <= items as usize * 11 + 512 * partitions.len(), "{items}: {bytes} bytes");
        assert!(partitions.iter().all(|partition| partition.len() <= 8192));
        let holds = |item: u32| {
            let hash = filter::hash(&item.to_be_bytes());
            let number = usize::try_from(filter::partition(&place, hash)).unwrap();
            filter::may_contain(&place, &partitions[number], hash)
        };
        assert!((0..items).all(holds), "{items}");
        let wrong = (items..items + 100_000).filter(|item| holds(*item)).count();
        assert!(wrong < 2_000, "{items}: {wrong} of 100000");
    }
}

#[test]
fn a_tree_has_the_levels_that_it_needs() {
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
fn keys_of_the_greatest_length_still_make_an_index() {
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
fn a_writer_refuses_what_makes_no_file() {
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
