//! Chunks that are damaged, hostile, or newer.

use super::*;

fn chunk() -> Chunk {
    let header = ChunkHeader {
        kind: ChunkKind::Changes,
        is_sync: true,
        is_backup: false,
        number: 7,
        term: 3,
        nonce: [1; 16],
        database_id: [2; 16],
        previous: ContentDigest([3; 16]),
        base: 4,
        after: ChunkMark { seq: 10, time_ms: 100 },
        last: ChunkMark { seq: 12, time_ms: 120 },
    };
    let stored = |name: &str| StoredFile {
        table: 1,
        path: format!("tables/orders/snapshots/{name}.snap"),
        bytes: 50,
        digest: ContentDigest::of(name.as_bytes()),
    };
    let replaced = ReplacedFile { path: "tables/orders/meta.json".into(), bytes: Bytes::from_static(b"{}") };
    let piece = LogPiece { table: 1, segment: 2, offset: 9, bytes: Bytes::from_static(b"frames") };
    Chunk {
        header,
        head: Bytes::from_static(b"cells"),
        replaced: vec![replaced],
        files: vec![stored("a")],
        retired: vec![stored("b")],
        pieces: vec![piece],
    }
}

#[test]
fn a_chunk_is_read_as_it_was_written_and_no_flipped_bit_passes() {
    let (chunk, name) = (chunk(), "log/7");
    let bytes = chunk.encode().unwrap();
    assert_eq!(Chunk::decode(&bytes, 7, name).unwrap(), chunk);
    assert_eq!(ChunkHeader::decode(&bytes.slice(..HEADER_BYTES), 7, name).unwrap(), chunk.header);
    assert!(Chunk::decode(&bytes, 8, name).unwrap_err().message().contains("chunk 7"));
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Chunk::decode(&Bytes::from(damaged), 7, name).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(Chunk::decode(&bytes.slice(..len), 7, name).is_err(), "{len} bytes");
    }
    let longer = Bytes::from([&bytes[..], b"x"].concat());
    assert!(Chunk::decode(&longer, 7, name).is_err());
}

#[test]
fn a_chunk_that_leads_out_of_the_directory_is_damage() {
    let mut chunk = chunk();
    chunk.replaced[0].path = "tables/../../etc/meta.json".into();
    let error = Chunk::decode(&chunk.encode().unwrap(), 7, "log/7").unwrap_err();
    assert_eq!(error.reason(), Reason::Corrupt);
}

#[test]
fn a_chunk_of_a_newer_version_is_refused_by_its_version() {
    let mut bytes = chunk().encode().unwrap().to_vec();
    bytes[8] = CHUNK_FORMAT + 1;
    let error = Chunk::decode(&Bytes::from(bytes), 7, "log/7").unwrap_err();
    assert_eq!(error.reason(), Reason::NotSupported);
}

#[test]
fn only_the_names_of_chunks_have_numbers() {
    assert_eq!(chunk_number(&chunk_name(42)), Some(42));
    for name in ["log/1", "log/00000000000000000000", "kept/00000000000000000001", "log/+0000000000000000001"]
    {
        assert_eq!(chunk_number(name), None, "{name}");
    }
}

#[test]
fn a_digest_is_read_as_it_is_written() {
    for text in ["", "driftdb", "another"] {
        let digest = ContentDigest::of(text.as_bytes());
        assert_eq!(ContentDigest::parse(&digest.to_string()), Some(digest));
    }
    for wrong in ["", "12", &"g".repeat(32), &"0".repeat(33)] {
        assert_eq!(ContentDigest::parse(wrong), None, "{wrong}");
    }
}
