//! Rows that are changed hundreds of times, in one commit and over many layers: every way to read a row after any event
//! gives the same row, from files and from memory.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::harness::condition::Random;
use crate::harness::lane::by_lane;
use crate::harness::model::merge;
use crate::harness::open_database::{OpenDatabase, Script};
use driftdb_common::format::document::Document;
use driftdb_common::format::event::{self, CommitMeta, CommitShape, Event, EventType};
use driftdb_common::format::key::Key;
use driftdb_common::storage::fs::sim::SimDisk;
use driftdb_common::storage::wal::appender::Group;
use driftdb_common::table::build::delta::DeltaLimits;
use driftdb_common::table::event_id::EventId;
use driftdb_common::table::layers::{LayerMap, sort_key};
use driftdb_common::table::memtable::CommitInfo;
use driftdb_common::table::timeline::Timeline;
use driftdb_common::table::view::View;
use serde_json::{Value, json};

const KEYS: usize = 4;

fn key(number: usize) -> Key {
    Key::Str(format!("k{number}").into())
}

/// An event of a row, and the row after it.
#[derive(Debug, Clone)]
struct Was {
    spot: EventId,
    key: usize,
    kind: EventType,
    payload: Option<Value>,
    after: Option<Value>,
}

#[derive(Default)]
struct Hot {
    events: Vec<Was>,
    live: BTreeMap<usize, Value>,
}

impl Hot {
    /// A commit of `count` events.
    fn commit(&mut self, random: &mut Random, seq: u64, count: usize) -> Vec<Was> {
        let favourite = random.below(KEYS);
        let events: Vec<Was> = (0..count)
            .map(|index| {
                let key = if random.below(4) == 0 { random.below(KEYS) } else { favourite };
                let spot = EventId { seq, index: u32::try_from(index).unwrap() };
                let (kind, payload, after) = match self.live.get(&key) {
                    Some(_) if random.below(40) == 0 => (EventType::SoftDelete, None, None),
                    Some(row) if random.below(60) > 0 => {
                        let mut after = row.clone();
                        let field = format!("f{}", random.below(6));
                        let value =
                            if random.below(5) == 0 { Value::Null } else { random.below(1000).into() };
                        let patch = json!({"deep": {field: value}, "last": index});
                        merge(&mut after, &patch);
                        (EventType::Patch, Some(patch), Some(after))
                    }
                    _ => {
                        let row = json!({"id": format!("k{key}"), "pad": "y".repeat(random.below(3) * 3000)});
                        (EventType::Insert, Some(row.clone()), Some(row))
                    }
                };
                match &after {
                    Some(row) => _ = self.live.insert(key, row.clone()),
                    None => _ = self.live.remove(&key),
                }
                Was { spot, key, kind, payload, after }
            })
            .collect();
        self.events.extend(events.iter().cloned());
        events
    }

    fn last(&self, of: usize, upto: EventId) -> Option<&Was> {
        self.events.iter().rev().find(|was| was.key == of && was.spot <= upto)
    }
}

fn document(value: &Value) -> Document {
    Document::from_json(&value.to_string()).unwrap()
}

fn value(document: &Document) -> Value {
    serde_json::from_str(&document.to_json().unwrap()).unwrap()
}

fn group(seq: u64, events: &[Was]) -> Group {
    let mut group = Group { last_seq: seq, last_ms: 1000 + seq * 10, ..Group::default() };
    let frames = group.tables.entry(1).or_default();
    frames.last_seq = seq;
    let (meta, count) = (CommitMeta::default(), u32::try_from(events.len()).unwrap());
    for (i, was) in events.iter().enumerate() {
        let first = (i == 0).then_some((CommitShape { frames: count, frames_in_table: count }, &meta));
        let payload = was.payload.as_ref().map(document);
        frames.frames.push(seq, 1000 + seq * 10, was.kind, |out| {
            event::encode(out, Some(&key(was.key)), payload.as_ref(), false, first, i == 0)
        });
    }
    group
}

/// Applies a commit as a reader does.
fn apply(timeline: &Timeline, seq: u64, events: &[Was]) {
    let events = events.iter().map(|was| Event {
        kind: was.kind,
        key: Some(key(was.key)),
        document: was.payload.as_ref().map(document),
        marks: Default::default(),
        shape: CommitShape::SINGLE,
        meta: None,
        published: None,
    });
    let info = Arc::new(CommitInfo { seq, time_ms: 1000 + seq * 10, meta: None });
    timeline.apply(&info, events.collect()).unwrap();
}

fn check_layers(layers: &LayerMap, hot: &Hot, random: &mut Random) {
    let end = layers.end();
    for _ in 0..40 {
        let spot = hot.events[random.below(hot.events.len())].spot;
        if spot.seq > end {
            continue;
        }
        for number in 0..KEYS {
            let expected = hot.last(number, spot);
            let found = layers.row(&key(number), spot).unwrap();
            let content = found.as_ref().and_then(|row| row.document.as_ref()).map(value);
            assert_eq!(content, expected.and_then(|was| was.after.clone()), "k{number} at {spot:?}");
            if let (Some(found), Some(expected)) = (&found, expected) {
                assert_eq!(found.seq, expected.spot.seq, "k{number} at {spot:?}");
            }
        }
        check_scan(layers, hot, spot.seq);
        let after = hot.events[random.below(hot.events.len())].spot;
        check_versions(layers, hot, (after.min(spot), spot), random);
    }
    for number in 0..KEYS {
        let found = layers.last_change(&key(number)).unwrap();
        let expected = hot.last(number, EventId::end_of(end));
        assert_eq!(
            found.as_ref().map(|row| row.seq),
            expected.map(|was| was.spot.seq),
            "k{number} changed last"
        );
        let content = found.and_then(|row| row.document).map(|row| value(&row));
        assert_eq!(content, expected.and_then(|was| was.after.clone()));
        let since = hot.events[random.below(hot.events.len())].spot.seq.min(end);
        assert_eq!(
            layers.may_have_changed_since(&key(number), since).unwrap(),
            expected.is_some_and(|was| was.spot.seq > since),
            "k{number} changed after {since}"
        );
    }
}

fn check_scan(layers: &LayerMap, hot: &Hot, seq: u64) {
    let mut scan = layers.scan(seq, &[]).unwrap();
    let mut found = BTreeMap::new();
    while let Some(key) = scan.key() {
        if let Some(row) = scan.take(&key).unwrap() {
            found.insert(key, (row.seq, row.document.map(|row| value(&row))));
        }
    }
    for number in 0..KEYS {
        let expected = hot.last(number, EventId::end_of(seq));
        let found = found.get(&sort_key(&key(number)));
        let content = found.and_then(|(_, row)| row.clone());
        assert_eq!(content, expected.and_then(|was| was.after.clone()), "k{number} in a walk at {seq}");
        if let (Some((found, Some(_))), Some(expected)) = (found, expected) {
            assert_eq!(*found, expected.spot.seq, "k{number} in a walk at {seq}");
        }
    }
}

fn check_versions(layers: &LayerMap, hot: &Hot, (after, upto): (EventId, EventId), random: &mut Random) {
    let (number, newest_first) = (random.below(KEYS), random.below(2) == 0);
    let limit = random.pick(&[1, 5, 100, usize::MAX]);
    let within = hot.events.iter().filter(|was| was.key == number && was.spot > after && was.spot <= upto);
    let mut expected: Vec<_> = within.map(|was| (was.spot, was.kind, was.payload.clone())).collect();
    if newest_first {
        expected.reverse();
    }
    expected.truncate(limit);
    // Large versions come in several parts.
    let (mut found, mut rest) = (Vec::new(), (after, upto));
    while found.len() < expected.len() {
        let part = layers.versions(&key(number), rest, limit - found.len(), newest_first).unwrap();
        let Some((last, _)) = part.last() else { break };
        rest = if newest_first { (after, before(*last)) } else { (*last, upto) };
        found.extend(
            part.iter().map(|(spot, version)| (*spot, version.kind, version.payload.as_ref().map(value))),
        );
    }
    assert!(
        found == expected,
        "{} of {} versions of k{number} after {after:?} up to {upto:?}, {newest_first} {limit}",
        found.len(),
        expected.len()
    );
}

/// The greatest event before another.
fn before(event: EventId) -> EventId {
    match event.index.checked_sub(1) {
        Some(index) => EventId { seq: event.seq, index },
        None => EventId::end_of(event.seq - 1),
    }
}

/// Views of a timeline that has applied everything. The older part of it is in files.
fn check_views(timeline: &Arc<Timeline>, hot: &Hot, last: u64, random: &mut Random) {
    for _ in 0..30 {
        let seq = 1 + random.below(usize::try_from(last).unwrap()) as u64;
        let view = View::at(timeline, seq).unwrap();
        let mut scanned = BTreeMap::new();
        view.scan((Bound::Unbounded, Bound::Unbounded), |row| {
            scanned.insert(row.key.clone(), (row.seq, value(&row.document)));
            true
        })
        .unwrap();
        for number in 0..KEYS {
            let expected = hot.last(number, EventId::end_of(seq));
            let expected = expected.and_then(|was| Some((was.spot.seq, was.after.clone()?)));
            let got = view.get(&key(number)).unwrap().map(|row| (row.seq, value(&row.document)));
            assert_eq!(got, expected, "k{number} at {seq}");
            assert_eq!(scanned.get(&key(number)).cloned(), expected, "k{number} in a walk at {seq}");
        }
        let upto = EventId::end_of(seq);
        let live = (0..KEYS).filter(|k| hot.last(*k, upto).is_some_and(|was| was.after.is_some())).count();
        let events = hot.events.iter().filter(|was| was.spot <= upto).count() as u64 + 1;
        let counts = view.counts().unwrap();
        assert_eq!((counts.rows, counts.events), (live as u64, events), "counts at {seq}");
    }
}

fn history(seed: u64) {
    let mut random = Random(seed);
    let disk = SimDisk::new();
    let mut keeper = OpenDatabase::open(&disk).unwrap();
    let script = Script::new(1);
    keeper.log.append(&mut script.group(1)).unwrap();
    // The creation of the table, as files have it.
    keeper.take(1, DeltaLimits { events: 1, bytes: 1 << 20 }).unwrap();
    let open = |keeper: &OpenDatabase| keeper.table_files.open(&keeper.manifest(1), None).unwrap();
    let timeline = Arc::new(Timeline::open(1, "t", open(&keeper)).unwrap());
    let mut hot = Hot::default();
    for seq in 2..=40 {
        let count = random.pick(&[1, 3, 30, 30, 300]);
        let events = hot.commit(&mut random, seq, count);
        keeper.log.append(&mut group(seq, &events)).unwrap();
        apply(&timeline, seq, &events);
        if random.below(3) == 0 {
            let limits = DeltaLimits { events: random.pick(&[20, 200, 100_000]), bytes: 1 << 30 };
            keeper.take(1, limits).unwrap();
            if random.below(2) == 0 {
                timeline.install_layers(open(&keeper));
            }
        }
        if seq % 10 == 0 {
            check_layers(&open(&keeper), &hot, &mut random);
            check_views(&timeline, &hot, seq, &mut random);
        }
    }
}

#[test]
fn every_way_to_read_a_hot_row_gives_the_same_row() {
    let count = by_lane(8, 500);
    for seed in 1..=count {
        eprintln!("history {seed}");
        history(seed * 31);
    }
}
