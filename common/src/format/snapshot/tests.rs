//! Tests: entries round-trip, and decoders refuse arbitrary bytes without a panic.

use super::*;

/// A repeatable pseudo-random sequence (SplitMix64).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

fn document() -> Document {
    Document::from_json(r#"{"id":"a","n":[1,2.5,null]}"#).unwrap()
}

fn versions() -> Vec<VersionEntry> {
    let version = |kind, payload, image| VersionEntry {
        kind,
        time_ms: 1_700_000_000_000,
        actor: "ops".into(),
        reason: String::new(),
        payload,
        image,
        marks: EventMarks { replaces: kind == EventType::Insert, reverts: kind == EventType::SoftDelete },
    };
    vec![
        version(EventType::Insert, Some(document()), None),
        version(EventType::Patch, Some(document()), Some(document())),
        version(EventType::Patch, Some(document()), None),
        VersionEntry { actor: String::new(), ..version(EventType::SoftDelete, None, None) },
    ]
}

fn commit() -> CommitEntry {
    let changes =
        vec![TableChange::Row(Bytes::from_static(b"key\0\x01")), TableChange::Schema(document(), true)];
    CommitEntry { events: 300, rows: 2, actor: String::new(), reason: "import".into(), changes }
}

fn properties() -> DeltaProperties {
    let schema_entry =
        SchemaEntry { seq: 7, time_ms: 70, actor: String::new(), reason: "why".into(), document: document() };
    DeltaProperties {
        events: 1,
        rows: 2,
        time_ms: 3,
        schema_entries: vec![schema_entry.clone(), schema_entry],
    }
}

fn origin() -> IngestOrigin {
    IngestOrigin { producer: "loader".into(), batch: 9, operation: 70_000, ends: true }
}

/// Every kind of entry, encoded.
fn encoded_entries() -> Vec<Bytes> {
    let write = |encode: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        encode(&mut out);
        Bytes::from(out)
    };
    let request = RequestId { id: "req".into(), fingerprint: [7; 16] };
    let mut all: Vec<Bytes> = versions().iter().map(|version| write(&|out| version.encode(out))).collect();
    all.push(write(&|out| commit().encode(out)));
    all.push(write(&|out| RequestEntry { time_ms: 5, request: request.clone() }.encode(out)));
    all.push(write(&|out| ProducerEntry { seq: 4, origin: origin() }.encode(out)));
    all.push(write(&|out| RowEntry { seq: 1, time_ms: 2, document: document() }.encode(out)));
    all.push(write(&|out| CandidateEntry { first: 3, until: u64::MAX }.encode(out)));
    all.push(properties().encode().into());
    all
}

#[test]
fn every_entry_round_trips() {
    for version in versions() {
        let mut out = Vec::new();
        version.encode(&mut out);
        assert_eq!(VersionEntry::decode(&out.into()).unwrap(), version);
    }
    let mut out = Vec::new();
    commit().encode(&mut out);
    let bytes = Bytes::from(out);
    assert_eq!(CommitEntry::decode(&bytes).unwrap(), commit());
    assert_eq!(CommitEntry::decode_counts(&bytes).unwrap(), (300, 2));
    assert_eq!(DeltaProperties::decode(&properties().encode().into()).unwrap(), properties());
    let mut out = Vec::new();
    ProducerEntry { seq: 4, origin: origin() }.encode(&mut out);
    assert_eq!(ProducerEntry::decode(b"loader", &out.into()).unwrap().origin, origin());
}

#[test]
fn decoders_survive_arbitrary_bytes() {
    let mut random = SplitMix(11);
    let entries = encoded_entries();
    for _ in 0..100_000 {
        let mut bytes = entries[random.below(entries.len())].to_vec();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = [0, 0x7f, 0x80, 0xff][random.below(4)],
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, 0xff),
            }
        }
        let bytes = Bytes::from(bytes);
        // An entry that decodes must encode and decode to itself.
        if let Ok(version) = VersionEntry::decode(&bytes) {
            let mut again = Vec::new();
            version.encode(&mut again);
            assert_eq!(VersionEntry::decode(&again.into()).unwrap(), version);
        }
        if let Ok(commit) = CommitEntry::decode(&bytes) {
            let mut again = Vec::new();
            commit.encode(&mut again);
            assert_eq!(CommitEntry::decode(&again.into()).unwrap(), commit);
        }
        let _ = CommitEntry::decode_counts(&bytes);
        let _ = DeltaProperties::decode(&bytes);
        let _ = RequestEntry::decode(&bytes);
        let _ = ProducerEntry::decode(&bytes, &bytes);
        let _ = RowEntry::decode(&bytes);
        let _ = CandidateEntry::decode(&bytes);
        let _ = read_version(&bytes);
        let _ = read_commit_key(&bytes);
    }
}

#[test]
fn keys_sort_in_commit_order() {
    let mut earlier = b"k".to_vec();
    let mut later = b"k".to_vec();
    push_version(&mut earlier, 255, 7);
    push_version(&mut later, 256, 0);
    assert!(earlier < later);
    assert_eq!(read_version(&later), Some((&b"k"[..], 256, 0)));
    assert!(commit_key(9, u64::MAX) < commit_key(10, 0));
    assert_eq!(read_commit_key(&commit_key(9, 8)), Some((9, 8)));
}
