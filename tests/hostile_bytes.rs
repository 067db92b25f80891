//! Random and damaged bytes for every decoder: an error or the right value, never a panic, never much memory.

use crate::format::crc;

use std::process::Command;

use crate::harness::lane::by_lane;
use bytes::Bytes;
use driftdb_common::format::compaction_base::{FloorFrame, KeepFrame};
use driftdb_common::format::document::Document;
use driftdb_common::format::event::{self, CommitMeta, CommitShape, EventType, IngestOrigin, RequestId};
use driftdb_common::format::frame::{self, FrameAddress, FrameBuffer};
use driftdb_common::format::head::{self, HeadIncarnation, Header, TableEntry};
use driftdb_common::format::key::Key;
use driftdb_common::format::manifest::{self, Database, Floor, Manifest, Seal, Segment};
use driftdb_common::format::snapshot::{ProducerEntry, RequestEntry};
use driftdb_common::format::sst::{
    self, Block, BlockHandle, FilterHandle, SstDirectory, SstIdentity, Trailer,
};
use driftdb_common::format::value::Value;
use driftdb_common::format::{json, msgpack};
use driftdb_common::limits;
use proptest::prelude::*;
use proptest::sample::Index;

const PLACE: FrameAddress = FrameAddress { table: 3, segment: 2, offset: 777 };
const FILE: SstIdentity = SstIdentity { table: 3, base: 7, seq: 300, kind: 2 };
const KINDS: [EventType; 5] =
    [EventType::Insert, EventType::Patch, EventType::SoftDelete, EventType::Schema, EventType::Note];

fn config() -> ProptestConfig {
    let cases = by_lane(1_000, 100_000);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// One way to damage bytes.
#[derive(Debug, Clone)]
enum Damage {
    Flip(Index, u8),
    Set(Index, u8),
    Cut(Index),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    Repeat(Index, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<Index>(), 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        4 => (any::<Index>(), hostile_byte()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => (any::<Index>(), 1usize..20).prop_map(|(at, len)| Damage::Remove(at, len)),
        1 => (any::<Index>(), prop::collection::vec(hostile_byte(), 1..20)).prop_map(|(at, b)| Damage::Insert(at, b)),
        1 => (any::<Index>(), 1usize..20).prop_map(|(at, len)| Damage::Repeat(at, len)),
    ]
}

/// Chooses bytes with a meaning to the decoders more often.
fn hostile_byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        2 => any::<u8>(),
        1 => prop::sample::select(vec![0, 1, 0x7f, 0x80, 0x81, 0x82, 0x8f, 0x90, 0x91, 0x9f, 0xa0, 0xa1, 0xbf, 0xff]),
        1 => 0xc0u8..=0xdf,
        1 => prop::sample::select(b"{}[]\",:\\u0e.-".to_vec()),
    ]
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let place = |at: &Index| at.index(bytes.len() + 1);
        match damage {
            Damage::Flip(at, bit) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            Damage::Set(at, byte) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Damage::Flip(..) | Damage::Set(..) => {}
            Damage::Cut(at) => bytes.truncate(place(at)),
            Damage::Remove(at, len) => {
                let at = place(at);
                let end = (at + len).min(bytes.len());
                bytes.drain(at..end);
            }
            Damage::Insert(at, more) => {
                let at = place(at);
                bytes.splice(at..at, more.iter().copied());
            }
            Damage::Repeat(at, len) => {
                let at = place(at);
                let again = bytes[at..(at + len).min(bytes.len())].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
    bytes
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    prop::collection::vec(damage(), 0..6)
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(hostile_byte(), 0..200)
}

/// A JSON value: integers over the whole range, floats of every size, any characters in names, no name twice.
fn value() -> impl Strategy<Value = Value> {
    let int = prop_oneof![
        any::<i64>().prop_map(i128::from),
        any::<u64>().prop_map(i128::from),
        (-300i64..300).prop_map(i128::from)
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        int.prop_map(Value::Int),
        any::<f64>().prop_filter("JSON has no others", |f| f.is_finite()).prop_map(Value::Float),
        any::<String>().prop_map(Value::Str),
    ];
    leaf.prop_recursive(6, 60, 8, |inner| {
        let fields = prop::collection::vec((any::<String>(), inner.clone()), 0..8);
        prop_oneof![prop::collection::vec(inner, 0..8).prop_map(Value::Array), fields.prop_map(object)]
    })
}

fn object(fields: Vec<(String, Value)>) -> Value {
    let mut seen = std::collections::BTreeSet::new();
    Value::Object(fields.into_iter().filter(|(name, _)| seen.insert(name.clone())).collect())
}

fn row() -> impl Strategy<Value = Value> {
    prop::collection::vec((any::<String>(), value()), 0..8).prop_map(object)
}

fn encoded(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    bytes
}

/// Renders a value as unusual JSON text: spaces everywhere, every character escaped, floats with an exponent.
fn spelled(value: &Value) -> String {
    let text = |text: &str| {
        let units = text.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
        format!("\"{}\"", units.collect::<String>())
    };
    match value {
        Value::Null => "null".into(),
        Value::Bool(bool) => bool.to_string(),
        Value::Int(int) => int.to_string(),
        Value::Float(float) => format!("{float:e}"),
        Value::Str(str) => text(str),
        Value::Array(items) => format!("[ {} ]", items.iter().map(spelled).collect::<Vec<_>>().join(" , ")),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{} :\t{}", text(name), spelled(value)));
            format!("{{\n{}\r}}", fields.collect::<Vec<_>>().join(","))
        }
    }
}

fn payload(kind: EventType, document: &Value, first: bool) -> Vec<u8> {
    let meta = CommitMeta::default();
    let mut out = Vec::new();
    let shape = first.then_some((CommitShape { frames: 70_000, frames_in_table: 2 }, &meta));
    let key = Key::Str("k".into());
    let keyed = !matches!(kind, EventType::Schema | EventType::Note);
    let document = Document::from_value(document).ok();
    let document = document.filter(|_| !matches!(kind, EventType::SoftDelete | EventType::Note));
    event::encode(&mut out, keyed.then_some(&key), document.as_ref(), first, shape, first);
    out
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let mut buffer = FrameBuffer::default();
    buffer.push(300, 1_700_000_000_000, EventType::Insert, |out| {
        out.extend_from_slice(payload);
        None
    });
    buffer.stamp(PLACE, 0);
    buffer.bytes().to_vec()
}

fn header() -> Header {
    let (last_seq, last_ms) = (9, 1_700_000_000_000);
    let database_id = *b"0123456789abcdef";
    Header {
        database_id,
        epoch: 5,
        term: 2,
        last_seq,
        last_ms,
        generation: 12,
        table_entry_count: 2,
        closed: false,
        format: head::FORMAT_VERSION,
    }
}

/// An SST file of two trees in small blocks, the first of them filtered.
fn block_file(values: &[Value]) -> Vec<u8> {
    let mut writer = sst::SstWriter::new(Vec::new(), FILE).unwrap();
    writer.set_target(100);
    for tree in 1..=2 {
        writer.begin_tree(tree, tree == 1).unwrap();
        for (number, value) in (0u16..).zip(values) {
            writer.add(&number.to_be_bytes(), Some(&[tree]), &encoded(value)).unwrap();
        }
        writer.end_tree().unwrap();
    }
    writer.finish(b"properties").unwrap().0
}

/// Damages a block inside a file. If `reseal` is set, corrects its CRC afterwards.
fn block_at(file: &[u8], handle: BlockHandle, valid: bool) -> Option<Bytes> {
    let start = usize::try_from(handle.offset).ok()?;
    let mut bytes = file.get(start..)?.get(..usize::try_from(handle.len).ok()?)?.to_vec();
    if valid && bytes.len() >= sst::HEADER_BYTES {
        let place = [FILE.table.to_le_bytes(), FILE.base.to_le_bytes(), FILE.seq.to_le_bytes()].concat();
        let at = handle.offset.to_le_bytes();
        let crc = crc::crc32(&[&bytes[..9], &bytes[13..], &place, &[FILE.kind], &at]);
        bytes[9..13].copy_from_slice(&crc.to_le_bytes());
    }
    sst::decode_block(&bytes.into(), FILE, handle.offset).ok()
}

/// A block that decodes can be used as one.
fn use_block(raw: &Bytes) {
    let Ok(block) = Block::parse(raw.clone()) else { return };
    for index in 0..block.len() {
        assert!(block.key(index).unwrap().len() + block.value(index).unwrap().len() < raw.len());
        let _ = block.value(index).map(|value| BlockHandle::decode(&value));
    }
    assert!(block.key(block.len()).is_none() && block.value(block.len()).is_none());
    assert!(block.partition_point(|key| key < &b"m"[..]) <= block.len());
}

/// A directory that decodes can be used as one.
fn use_directory(directory: &SstDirectory, blocks: u64) {
    assert_eq!(SstDirectory::decode(&directory.encode().unwrap(), blocks).as_ref(), Ok(directory));
    for place in directory.trees.iter().filter_map(|tree| tree.filter) {
        use_filter(&place, b"x");
        let last = u64::from(place.partitions) - 1;
        assert!(place.handle(last).end() <= blocks);
    }
}

fn use_filter(place: &FilterHandle, partition: &[u8]) {
    for hash in [0, 1 << 33, u64::MAX] {
        assert!(sst::filter::partition(place, hash) < u64::from(place.partitions.max(1)));
        let _ = sst::filter::may_contain(place, partition, hash);
    }
}

/// A document that decodes can be used as one.
fn use_document(document: &Document) {
    let text = document.to_json().unwrap();
    let again = Document::from_json(&text).unwrap();
    assert!(document.same_as(&again).unwrap(), "{text}");
    assert!(Value::decode(document.msgpack()).is_ok());
    // A patch may make the document too large. No other error is allowed.
    if let Ok(merged) = document.merge(&again) {
        assert!(Document::from_msgpack(merged.msgpack().clone()).is_ok());
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_damaged_frame_is_refused(document in row(), damages in damages()) {
        let whole = framed(&payload(EventType::Insert, &document, true));
        let found = damaged(whole.clone(), &damages);
        if let Ok(frame) = frame::parse(&found, PLACE) {
            prop_assert!(found[..frame.len] == whole[..], "a damaged frame was accepted");
        }
    }

    #[test]
    fn a_frame_of_nonsense_with_a_valid_crc(body in hostile(), kind in 0u8..9) {
        let body = [&[1, 0, 0, 0, 0, 0, 0, 0, 0, kind][..], &body].concat();
        for body in [&body[..], &body[9..]] {
            let length = u32::try_from(body.len()).unwrap().to_le_bytes();
            let place = [PLACE.table.to_le_bytes(), PLACE.segment.to_le_bytes(), PLACE.offset.to_le_bytes()];
            let crc = crc::crc32(&[&length, body, &place.concat()]).to_le_bytes();
            let bytes = [&length[..], &crc, body].concat();
            let parsed = frame::parse(&bytes, PLACE);
            prop_assert_ne!(parsed, Err(frame::FrameError::Crc));
            if let Ok(frame) = parsed {
                let _ = event::decode(frame.kind, &Bytes::copy_from_slice(frame.payload));
            }
        }
    }

    #[test]
    fn a_damaged_payload(document in row(), first: bool, damages in damages(), kind in prop::sample::select(&KINDS[..])) {
        let found = Bytes::from(damaged(payload(kind, &document, first), &damages));
        for kind in KINDS {
            let Ok(event) = event::decode(kind, &found) else { continue };
            let meta = event.meta.clone().unwrap_or_default();
            let mut again = Vec::new();
            let (key, document) = (event.key.as_ref(), event.document.as_ref());
            let told = event::encode(&mut again, key, document, event.marks, Some((event.shape, &meta)), event.published.is_some());
            if let (Some(at), Some(published)) = (told, event.published) {
                again[at..at + 8].copy_from_slice(&published.to_be_bytes());
            }
            prop_assert_eq!(event::decode(kind, &again.into()).unwrap(), event);
        }
    }

    #[test]
    fn a_damaged_folded_state(numbers in prop::collection::vec(any::<u64>(), 0..20), damages in damages()) {
        let floor = Floor { seq: u64::MAX, time_ms: 5, last_seq: 9, events: 70_000, rows: 3 };
        let floor = FloorFrame { floor, frames: 7, digest: 9, superseded: numbers.clone() };
        let request = RequestId { id: "r-1".into(), fingerprint: [7; 16] };
        let origin = IngestOrigin { producer: "p".into(), batch: 3, operation: 70_000, ends: true };
        let requests = numbers.iter().map(|seq| (*seq, RequestEntry { time_ms: 1, request: request.clone() }));
        let producers = vec![ProducerEntry { seq: 8, origin }];
        let keep = KeepFrame { requests: requests.collect(), producers };
        let (mut whole, mut kept) = (Vec::new(), Vec::new());
        floor.encode(&mut whole);
        keep.encode(&mut kept);
        prop_assert_eq!(FloorFrame::decode(&whole).unwrap(), floor);
        prop_assert_eq!(KeepFrame::decode(&kept).unwrap(), keep);
        for found in [damaged(whole, &damages), damaged(kept, &damages)] {
            // A head that decodes is encoded as the same content.
            let mut again = Vec::new();
            if let Ok(floor) = FloorFrame::decode(&found) {
                floor.encode(&mut again);
                prop_assert_eq!(FloorFrame::decode(&again).unwrap(), floor);
            }
            let mut again = Vec::new();
            if let Ok(keep) = KeepFrame::decode(&found) {
                keep.encode(&mut again);
                prop_assert_eq!(KeepFrame::decode(&again).unwrap(), keep);
            }
        }
    }

    #[test]
    fn a_damaged_head(damages in damages(), valid: bool) {
        let (older, newer) = (header(), Header { generation: 13, last_seq: 10, ..header() });
        let slot = TableEntry { table: 1, manifest: 1, segment: 1, bytes: 500, last_seq: 10, floor: 0 };
        let slots = [slot, TableEntry { table: 2, ..slot }];
        let (before, now) = (HeadIncarnation { id: 7, start: 4, term: 1 }, HeadIncarnation { id: 8, start: 9, term: 2 });
        let entries = [slots[0].encode(0, head::FORMAT_VERSION), slots[1].encode(1, head::FORMAT_VERSION)];
        let headers = [older.encode(0), newer.encode(1), before.encode(0), now.encode(1)];
        let whole = [headers.concat(), entries.concat()].concat();
        let mut found = damaged(whole, &damages);
        if valid {
            for (cell, index) in found.chunks_exact_mut(64).zip(0u64..) {
                let crc = crc::crc32(&[&cell[..4], &cell[8..], &index.to_le_bytes()]);
                cell[4..8].copy_from_slice(&crc.to_le_bytes());
            }
        }
        let header = head::decode_header(&found);
        let count = header.map_or(u16::MAX, |header| header.table_entry_count);
        let cells = found.get(256..).unwrap_or_default();
        let read = head::decode_table_entries(cells, count, head::FORMAT_VERSION);
        prop_assert_eq!(read.len(), usize::from(count));
        let incarnation = head::decode_incarnation(&found);
        if !valid {
            prop_assert!(header.is_none_or(|header| header == older || header == newer));
            prop_assert!(incarnation.is_none_or(|found| found == before || found == now));
            prop_assert!(read.iter().zip(slots).all(|(read, slot)| read.is_none_or(|read| read == slot)));
        }
    }

    #[test]
    fn a_damaged_sorted_block_file(
        values in prop::collection::vec(value(), 0..8), damages in damages(), valid: bool,
    ) {
        let whole = block_file(&values);
        let trailer = Trailer::decode(whole.last_chunk().unwrap()).unwrap();
        let found = damaged(whole.clone(), &damages);
        if let Some(read) = found.last_chunk().and_then(|last| Trailer::decode(last).ok()) {
            prop_assert_eq!(read, trailer, "a damaged trailer was accepted");
        }
        let blocks = trailer.directory.offset;
        let raw = block_at(&whole, trailer.directory, false).unwrap();
        let directory = SstDirectory::decode(&raw, blocks).unwrap();
        let filters = directory.trees.iter().filter_map(|tree| Some(tree.filter?.handle(0)));
        let roots = directory.trees.iter().filter_map(|tree| tree.root);
        for handle in filters.chain(roots).chain([trailer.directory]) {
            let Some(raw) = block_at(&found, handle, valid) else { continue };
            prop_assert!(valid || block_at(&whole, handle, false) == Some(raw.clone()), "a damaged block was accepted");
            use_block(&raw);
            if let Ok(directory) = SstDirectory::decode(&raw, blocks) {
                use_directory(&directory, blocks);
            }
        }
        // The same damage past the CRC.
        let raw = Bytes::from(damaged(raw.to_vec(), &damages));
        use_block(&raw);
        if let Ok(directory) = SstDirectory::decode(&raw, blocks) {
            use_directory(&directory, blocks);
        }
    }

    #[test]
    fn a_damaged_manifest(damages in damages()) {
        let seal = Seal { bytes: 100, frames: 3, digest: 9 };
        let segments = vec![Segment { number: 1, sealed: Some(seal) }, Segment { number: 2, sealed: None }];
        let manifest = Manifest { table: "größe".into(), name: None, table_id: 1, version: 2, term: 1, published: 7, published_ms: 8, floor: None, deltas: Vec::new(), images: Vec::new(), segments };
        let whole = manifest::encode(&manifest).unwrap();
        let found = damaged(whole.clone(), &damages);
        if let Ok(read) = manifest::decode::<Manifest>(&found) {
            prop_assert_eq!(&read, &manifest);
        }
        // The same damage inside, with a correct CRC.
        let text = String::from_utf8(whole).unwrap();
        let body = text.split_once("\"body\":").unwrap().1.strip_suffix("}\n").unwrap();
        let body = damaged(body.as_bytes().to_vec(), &damages);
        let crc = crc::crc32(&[&body]);
        let file = [format!("{{\"crc32\":\"{crc:08x}\",\"body\":").as_bytes(), &body, b"}\n"].concat();
        let _ = (manifest::decode::<Manifest>(&file), manifest::decode::<Database>(&file));
    }

    #[test]
    fn nonsense_of_every_kind(bytes in hostile()) {
        let _ = frame::parse(&bytes, PLACE);
        let _ = (manifest::decode::<Manifest>(&bytes), manifest::decode::<Database>(&bytes));
        let _ = (Value::decode(&bytes), json::from_msgpack(&bytes), msgpack::fields(&bytes));
        let _ = Key::decode(&mut msgpack::MsgpackReader::new(&bytes));
        let bytes = Bytes::from(bytes);
        let _ = (sst::decode_block(&bytes, FILE, 0), bytes.last_chunk().map(Trailer::decode), BlockHandle::decode(&bytes));
        let _ = SstDirectory::decode(&bytes, 1000);
        use_filter(&FilterHandle { offset: 0, partitions: 3, lines: 128 }, &bytes);
        use_block(&bytes);
        let _ = (FloorFrame::decode(&bytes), KeepFrame::decode(&bytes));
        for kind in KINDS {
            let _ = event::decode(kind, &bytes);
        }
        if let Ok(document) = Document::from_msgpack(bytes.clone()) {
            use_document(&document);
        }
        if let Ok(document) = Document::from_json(&String::from_utf8_lossy(&bytes)) {
            use_document(&document);
        }
    }

    #[test]
    fn a_damaged_document(document in row(), damages in damages()) {
        if let Ok(document) = Document::from_msgpack(damaged(encoded(&document), &damages).into()) {
            use_document(&document);
        }
        let text = damaged(spelled(&document).into_bytes(), &damages);
        if let Ok(document) = Document::from_json(&String::from_utf8_lossy(&text)) {
            use_document(&document);
        }
    }

    #[test]
    fn a_field_twice_is_refused(document in row(), which: Index, value in value()) {
        let Value::Object(mut fields) = document else { unreachable!() };
        if !fields.is_empty() {
            fields.push((fields[which.index(fields.len())].0.clone(), value));
            // Nests it in another value, too: every level is checked.
            let twice = Value::Object(fields);
            let inside = Value::Object(vec![("x".into(), Value::Array(vec![twice.clone()]))]);
            for document in [twice, inside] {
                prop_assert!(Document::from_msgpack(encoded(&document).into()).is_err());
                prop_assert!(Document::from_json(&spelled(&document)).is_err());
            }
        }
    }

    #[test]
    fn json_to_messagepack_and_back(value in value()) {
        let text = spelled(&value);
        let bytes = json::to_msgpack(&text).unwrap();
        prop_assert_eq!(&Value::decode(&bytes).unwrap(), &value);
        let back = json::from_msgpack(&bytes).unwrap();
        let (read, written): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(&back).unwrap(), serde_json::from_str(&text).unwrap());
        prop_assert_eq!(read, written);
    }

    #[test]
    fn messagepack_to_json_and_back(value in value()) {
        let bytes = encoded(&value);
        prop_assert_eq!(Value::decode(&bytes).unwrap(), value);
        let text = json::from_msgpack(&bytes).unwrap();
        prop_assert_eq!(json::to_msgpack(&text).unwrap(), bytes);
    }
}

/// Every head that claims four billion bytes, items or pairs that do not follow, alone and inside others.
#[test]
fn a_claim_of_four_billion_items_is_refused() {
    for marker in [0xdbu8, 0xdd, 0xdf, 0xc6, 0xc9] {
        let claim = [&[marker][..], &[0xff; 4], &[0xc0; 300]].concat();
        let cases =
            [claim.clone(), [&b"\x81\xa1k"[..], &claim].concat(), [&b"\x81\xa1d"[..], &claim].concat()];
        for bytes in cases.map(Bytes::from) {
            assert!(Value::decode(&bytes).is_err() && json::from_msgpack(&bytes).is_err());
            assert!(Document::from_msgpack(bytes.clone()).is_err());
            assert!(msgpack::fields(&bytes).is_err() && msgpack::MsgpackReader::new(&bytes).value().is_err());
            assert!(KINDS.iter().all(|kind| event::decode(*kind, &bytes).is_err()));
        }
    }
    for length in [limits::FRAME_BYTES as u32 + 1, u32::MAX] {
        let bytes = [&length.to_le_bytes()[..], &[0xff; 300]].concat();
        assert_eq!(frame::parse(&bytes, PLACE), Err(frame::FrameError::Length(length)));
    }
    assert_eq!(head::decode_table_entries(&[], u16::MAX, 2).len(), usize::from(u16::MAX));
}

/// A hundred thousand levels, on the small stack of a test thread.
#[test]
fn deep_nesting_is_refused() {
    const DEPTH: usize = 100_000;
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let text = format!(r#"{{"a":{}1{}}}"#, open.repeat(DEPTH), close.repeat(DEPTH));
        assert!(json::to_msgpack(&text).is_err() && Document::from_json(&text).is_err());
    }
    for level in [&b"\x91"[..], b"\x81\xa1a"] {
        let bytes = Bytes::from([&b"\x81\xa1d"[..], &level.repeat(DEPTH), b"\xc0"].concat());
        assert!(Value::decode(&bytes).is_err() && json::from_msgpack(&bytes).is_err());
        assert!(Document::from_msgpack(bytes.clone()).is_err());
        // An event's document is not decoded here: its frame's CRC protects it.
        assert!(event::decode(EventType::Schema, &bytes).is_ok());
    }
}

/// Runs all other tests of this file in a process with little memory: a decoder that believes a claimed size fails.
#[test]
fn everything_above_runs_in_little_memory() {
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -v 1000000 && exec "$0" "$@""#]).arg(std::env::current_exe().unwrap());
    let output = command
        .args(["hostile_bytes::", "--skip", "in_little_memory", "--test-threads", "2"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
