//! Known events, headers and manifests are encoded as exactly these bytes.

use std::fmt::Write as _;

use driftdb_common::format::document::Document;
use driftdb_common::format::event::{self, CommitMeta, CommitShape, EventType};
use driftdb_common::format::frame::{self, FrameAddress, FrameBuffer};
use driftdb_common::format::head::{HeadIncarnation, Header, TableEntry};
use driftdb_common::format::key::{Key, KeyType};
use driftdb_common::format::lineage::{Lineage, LineageEntry};
use driftdb_common::format::manifest::{self, Database, Digest, Manifest, Segment};
use driftdb_common::table::schema::{Schema, SchemaAction, SchemaEvent};

use super::{crc, decoder};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn joined(pieces: &[&str]) -> String {
    pieces.concat().replace(' ', "")
}

#[test]
fn a_group_of_frames_has_the_known_bytes() {
    let mut meta = plain();
    (meta.actor, meta.reason) = ("ops".into(), "ü".into());
    let insert = Document::from_json(r#"{"id":"a","n":300}"#).unwrap();
    let patch = Document::from_json(r#"{"n":null}"#).unwrap();
    let key = Key::Str("a".into());
    let mut buffer = FrameBuffer::default();
    let shape = CommitShape { frames: 3, frames_in_table: 2 };
    buffer.push(300, 1_704_067_200_007, EventType::Insert, |out| {
        event::encode(out, Some(&key), Some(&insert), false, Some((shape, &meta)), true)
    });
    buffer.push(300, 1_704_067_200_007, EventType::Patch, |out| {
        event::encode(out, Some(&key), Some(&patch), false, None, false)
    });
    let nothing = plain();
    let alone = Some((CommitShape::SINGLE, &nothing));
    buffer.push(301, 1_704_067_200_008, EventType::SoftDelete, |out| {
        event::encode(out, Some(&Key::Int(-200)), None, false, alone, false)
    });
    buffer.push(302, 1_704_067_200_009, EventType::Note, |out| {
        event::encode(out, None, None, false, alone, false)
    });
    buffer.stamp(FrameAddress { table: 7, segment: 2, offset: 4096 }, 299);
    let expected = [
        // length, CRC, seq 300, time, INSERT, a map of seven
        "39000000 8b94a6df ac02 07f451c28c010000 01 87",
        "a168 cf000000000000012b a16e 03 a16d 02 a161 a36f7073 a177 a2c3bc a16b a161 a164 82a26964a161a16ecd012c",
        "16000000 edb536af ac02 07f451c28c010000 02 82 a16b a161 a164 81a16ec0",
        "11000000 d0ec068d ad02 08f451c28c010000 03 81 a16b d1ff38",
        "0c000000 7267610d ae02 09f451c28c010000 07 80",
    ];
    assert_eq!(hex(buffer.bytes()), joined(&expected));
    let frames = decoder::segment_from(buffer.bytes(), 7, 2, 4096);
    assert_eq!(
        frames[0].payload,
        r#"{"h":299,"n":3,"m":2,"a":"ops","w":"ü","k":"a","d":{"id":"a","n":300}}"#
    );
    assert_eq!(frames[2].payload, r#"{"k":-200}"#);
}

/// A commit without metadata.
fn plain() -> CommitMeta {
    CommitMeta::default()
}

#[test]
fn head_has_the_known_bytes() {
    let header = Header {
        database_id: *b"0123456789abcdef",
        epoch: 0x1122_3344_5566_7788,
        term: 3,
        last_seq: 20,
        last_ms: 1_704_067_200_007,
        generation: 26,
        table_entry_count: 3,
        closed: true,
        format: 1,
    };
    let cell = joined(&[
        "44524844 7d693b8a 30313233343536373839616263646566 8877665544332211 0300000000000000",
        "1400000000000000 07f451c28c010000 1a000000 0300 01 01",
    ]);
    assert_eq!(hex(&header.encode(0)), cell);
    assert_ne!(header.encode(0), header.encode(1), "the CRC covers the cell's position");
    let slot = TableEntry { table: 7, manifest: 4, segment: 2, bytes: 4096, last_seq: 19, floor: 5 };
    let cell = joined(&[
        "4452534c a7fc3c63 0700000000000000 0400000000000000 0200000000000000 0010000000000000",
        "1300000000000000 0500000000000000 0000000000000000",
    ]);
    assert_eq!(hex(&slot.encode(0, 1)), cell);
    assert_eq!(slot.encode(2, 1), slot.encode(0, 2), "version 2 has two cells more before the table entries");
    decoder::head(&[header.encode(0), header.encode(1), slot.encode(0, 1), slot.encode(1, 1)].concat());
    let incarnation = HeadIncarnation { id: 0x1122_3344_5566_7788, start: 20, term: 3 };
    let cell = joined(&[
        "4452494e 93e1f2ca 8877665544332211 1400000000000000 0300000000000000 0000000000000000",
        "0000000000000000 0000000000000000 0000000000000000",
    ]);
    assert_eq!(hex(&incarnation.encode(0)), cell);
    let header = Header { format: 2, ..header };
    let cells = [header.encode(0), header.encode(1), incarnation.encode(0), incarnation.encode(1)];
    let head = [cells.concat(), slot.encode(0, 2).to_vec(), slot.encode(1, 2).to_vec()].concat();
    decoder::head(&head);
    let found = decoder::Incarnation { id: incarnation.id, start: incarnation.start, term: incarnation.term };
    assert_eq!(decoder::incarnations(&head), [found; 2]);
}

#[test]
fn the_json_files_have_the_known_bytes() {
    let id = "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap();
    let mut lineage = Lineage::default();
    [(0xab, 0), (0xcd, 7)].iter().for_each(|&(id, start)| lineage.begin(LineageEntry { id, start }));
    let expected = r#"{"crc32":"3722b952","body":{"incarnations":[{"id":"00000000000000ab","start":0},{"id":"00000000000000cd","start":7}]}}"#;
    assert_eq!(String::from_utf8(manifest::encode(&lineage).unwrap()).unwrap(), format!("{expected}\n"));
    let database = Database { id, epoch: 0xab, format: 1 };
    let expected = r#"{"crc32":"b34baba8","body":{"id":"00112233-4455-6677-8899-aabbccddeeff","epoch":"00000000000000ab","format":1}}"#;
    assert_eq!(String::from_utf8(manifest::encode(&database).unwrap()).unwrap(), format!("{expected}\n"));
    let mut digest = Digest::default();
    digest.add(0x0403_0201);
    digest.add(0x0807_0605);
    let seal = digest.seal(4100);
    assert_eq!(seal.digest, crc::crc32(&[&[1, 2, 3, 4, 5, 6, 7, 8]]));
    let manifest = Manifest {
        table: "t".into(),
        name: None,
        table_id: 7,
        version: 2,
        term: 1,
        published: 19,
        published_ms: 0,
        floor: None,
        deltas: Vec::new(),
        images: Vec::new(),
        segments: vec![Segment { number: 1, sealed: Some(seal) }, Segment { number: 2, sealed: None }],
    };
    let expected = r#"{"crc32":"6ca733e0","body":{"table":"t","table_id":7,"version":2,"term":1,"published":19,"segments":[{"number":1,"sealed":{"bytes":4100,"frames":2,"digest":1070237893}},{"number":2}]}}"#;
    assert_eq!(String::from_utf8(manifest::encode(&manifest).unwrap()).unwrap(), format!("{expected}\n"));
}

#[test]
fn schema_events_have_the_known_bytes() {
    let schema = |table: &str, primary_key: &str, key_type, indexes: &[&str]| Schema {
        table: table.into(),
        primary_key: primary_key.into(),
        key_type,
        indexes: indexes.iter().map(|index| (*index).to_owned()).collect(),
        retain_ms: None,
        auto_key: false,
    };
    let people = schema("people", "id", KeyType::String, &["city", "name.family"]);
    let files = super::files(super::fixture());
    for (schema, rest) in [
        (&people, "\"id\"\nkey_type: STRING\nindexes:\n  - \"city\"\n  - \"name.family\"\n"),
        (&schema("numbers", "n", KeyType::Int, &[]), "\"n\"\nkey_type: INT\nindexes: []\n"),
        (
            &schema("marks", "schlüssel", KeyType::String, &[]),
            "\"schlüssel\"\nkey_type: STRING\nindexes: []\n",
        ),
    ] {
        let table = &schema.table;
        let expected = format!("# For people. The truth is in the log.\ntable: {table}\nprimary_key: {rest}");
        assert_eq!(schema.to_yaml(), expected);
        assert_eq!(super::text(&files, &format!("tables/{table}/schema.yaml")), expected);
    }
    let event = SchemaEvent::new(SchemaAction::Drop, people);
    let expected = [
        "85 a6616374696f6e a464726f70 a57461626c65 a670656f706c65 ab7072696d6172795f6b6579 a26964",
        "a86b65795f74797065 a6535452494e47 a7696e6465786573 92 a463697479 ab6e616d652e66616d696c79",
    ];
    assert_eq!(hex(event.to_document().unwrap().msgpack()), joined(&expected));
}

#[test]
fn each_event_type_requires_its_fields() {
    let all =
        [EventType::Insert, EventType::Patch, EventType::SoftDelete, EventType::Schema, EventType::Note];
    for (payload, fit) in [
        (&b"\x80"[..], vec![7]),
        (b"\x81\xa1k\xa1a", vec![3]),
        (b"\x81\xa1d\x80", vec![4]),
        (b"\x82\xa1k\xa1a\xa1d\x80", vec![1, 2]),
        // In another order, with an unknown field.
        (b"\x83\xa1d\x80\xa1z\x91\x01\xa1k\xa1a", vec![1, 2]),
        // One byte too many; not a map; a count of 0; more frames in one table than in all; an invalid key.
        (b"\x80\xc0", vec![]),
        (b"\xc0", vec![]),
        (b"\x81\xa1n\x00", vec![]),
        (b"\x82\xa1n\x02\xa1m\x03", vec![]),
        (b"\x81\xa1k\xcf\xff\xff\xff\xff\xff\xff\xff\xff", vec![]),
    ] {
        let found = all.into_iter().filter(|kind| event::decode(*kind, &payload.to_vec().into()).is_ok());
        assert_eq!(found.map(EventType::to_byte).collect::<Vec<_>>(), fit, "{payload:02x?}");
    }
    assert_eq!(all.map(EventType::to_byte), [1, 2, 3, 4, 7]);
    // 5 and 6 are not events: they have their own payloads.
    let events = (0..=u8::MAX).filter(|byte| ![5, 6].contains(byte)).filter_map(EventType::from_byte);
    assert!(events.eq(all));
}

#[test]
fn decoding_and_encoding_the_fixture_gives_the_same_bytes() {
    let files = super::files(super::fixture());
    for (table, id) in super::TABLES {
        for number in 1..=3 {
            let Some(bytes) = files.get(&format!("tables/{table}/segments/{number:08}.seg")) else {
                continue;
            };
            let mut at = 0;
            while at < bytes.len() {
                let place = FrameAddress { table: id, segment: number, offset: at as u64 };
                let frame = frame::parse(&bytes[at..], place).unwrap();
                let event = event::decode(frame.kind, &frame.payload.to_vec().into()).unwrap();
                let meta = event.meta.as_deref().cloned().unwrap_or_default();
                let first = Some((event.shape, &meta));
                let mut again = FrameBuffer::default();
                again.push(frame.seq, frame.time_ms, frame.kind, |out| {
                    let (key, document) = (event.key.as_ref(), event.document.as_ref());
                    event::encode(out, key, document, event.marks, first, event.published.is_some())
                });
                again.stamp(place, event.published.unwrap_or_default());
                assert_eq!(again.bytes(), &bytes[at..at + frame.len], "{table}, commit {}", frame.seq);
                at += frame.len;
            }
        }
    }
}
