//! The memtable against a plain list of events, read by several threads while one appends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::format::event::CommitShape;
use crate::format::path::Path;
use crate::limits;

const INDEX: &str = "v";

/// An event of the model, and the row after it.
#[derive(Debug, Clone)]
struct Was {
    id: EventId,
    key: Key,
    kind: EventType,
    payload: Option<Document>,
    after: Option<Document>,
}

/// All events, in order. Commit `seq` has the time `seq / 3 * 10`.
#[derive(Debug)]
struct EventModel {
    events: Vec<Was>,
    last_seq: u64,
}

fn time_of(seq: u64) -> u64 {
    seq / 3 * 10
}

fn document(value: u8, large: bool) -> Document {
    let padding = if large { "x".repeat(2000) } else { String::new() };
    Document::from_json(&format!(r#"{{"{INDEX}":{},"f{}":"{padding}"}}"#, value % 5, value % 3)).unwrap()
}

impl EventModel {
    /// A step is a key, what happens to it, a value, and whether a new commit begins.
    fn new(steps: &[(u8, u8, u8, bool)]) -> EventModel {
        let mut model = EventModel { events: Vec::new(), last_seq: 1 };
        let (mut live, mut index) = (BTreeMap::new(), 0);
        for (key, action, value, begins) in steps {
            if *begins {
                (model.last_seq, index) = (model.last_seq + 1, 0);
            }
            let key = Key::Str(format!("key-{:03}", u16::from(*key) * 7 % 100).into());
            let before: Option<Document> = live.get(&key).cloned();
            let payload = document(*value, action % 16 == 0);
            let (kind, payload) = match (action % 8, &before) {
                (0, _) | (_, None) => (EventType::Insert, Some(payload)),
                (1, Some(_)) => (EventType::SoftDelete, None),
                _ => (EventType::Patch, Some(payload)),
            };
            let after = state::apply(before.as_ref(), kind, payload.as_ref()).unwrap();
            match &after {
                Some(row) => _ = live.insert(key.clone(), row.clone()),
                None => _ = live.remove(&key),
            }
            let id = EventId { seq: model.last_seq, index };
            index += 1;
            model.events.push(Was { id, key, kind, payload, after });
        }
        model
    }

    fn up_to(&self, last: EventId) -> &[Was] {
        &self.events[..self.events.partition_point(|was| was.id <= last)]
    }

    fn row(&self, key: &Key, last: EventId) -> Option<RowVersion> {
        let was = self.up_to(last).iter().rev().find(|was| was.key == *key)?;
        let (seq, time_ms) = (was.id.seq, time_of(was.id.seq));
        Some(RowVersion { seq, time_ms, document: was.after.clone() })
    }

    fn counts(&self, seq: u64) -> TableCounts {
        let events = self.up_to(EventId::end_of(seq));
        let mut live = BTreeSet::new();
        for was in events {
            if was.after.is_some() {
                live.insert(&was.key)
            } else {
                live.remove(&was.key)
            };
        }
        let last_seq = events.last().map_or(0, |was| was.id.seq);
        TableCounts { events: events.len() as u64, rows: live.len() as u64, last_seq }
    }

    /// The commits after `after` are in the memtable, those up to `seq` are published: checks everything that a reader at `seq`
    /// can ask, with arguments chosen by `random`.
    fn check(&self, memtable: &Memtable, (after, seq): (u64, u64), random: u64) {
        let random = usize::try_from(random).unwrap();
        let all = self.up_to(EventId::end_of(seq));
        let start = all.partition_point(|was| was.id.seq <= after);
        let inside = &all[start..];
        assert_eq!(memtable.counts(seq), self.counts(seq), "counts at {seq}");
        let Some(some) = inside.get(random % inside.len().max(1)) else { return };
        let (base, end) = (EventId::end_of(after), EventId::end_of(seq));
        for last in [some.id, end] {
            let under = self.row(&some.key, base).and_then(|row| row.document);
            let found = memtable.row_over(&some.key, last, under.as_ref()).unwrap();
            assert_eq!(found, self.row(&some.key, last), "{} at {last:?}", some.key);
        }
        let of_key = |was: &&Was| was.key == some.key;
        let ids = |found: Vec<Version>| found.into_iter().map(|version| version.id).collect::<Vec<_>>();
        let limit = 1 + random % 5;
        let forward: Vec<_> = inside.iter().filter(of_key).map(|was| was.id).take(limit).collect();
        assert_eq!(ids(memtable.versions(&some.key, (base, end), limit, false)), forward);
        let later = inside.iter().filter(of_key).map(|was| was.id).filter(|id| *id > some.id);
        let later: Vec<_> = later.take(limit).collect();
        assert_eq!(ids(memtable.versions(&some.key, (some.id, end), limit, false)), later);
        let backward: Vec<_> = inside.iter().rev().filter(of_key).map(|was| was.id).take(limit).collect();
        assert_eq!(ids(memtable.versions(&some.key, (base, end), limit, true)), backward);

        for newest_first in [false, true] {
            let found = memtable.events(base, end, limit * 100, newest_first);
            let mut expected: Vec<&Was> = inside.iter().collect();
            if newest_first {
                expected.reverse();
            }
            expected.truncate(limit * 100);
            assert_eq!(found.len(), expected.len());
            for (NumberedEvent { id, event }, was) in found.iter().zip(expected) {
                let MemtableEvent::Row { key, version } = event else { panic!("{event:?}") };
                assert_eq!((id, key, version.kind), (&was.id, &was.key, was.kind));
                assert_eq!(version.payload, was.payload);
            }
        }

        let from = Bound::Included(&some.key);
        let keys: Vec<_> = memtable.keys((from, Bound::Unbounded), KeyType::String).collect();
        assert!(keys.is_sorted_by(|a, b| a < b));
        let wanted: BTreeSet<_> = inside.iter().map(|was| &was.key).filter(|key| **key >= some.key).collect();
        assert!(wanted.into_iter().all(|key| keys.contains(key)));
        let excluded = memtable.keys((Bound::Excluded(&some.key), Bound::Unbounded), KeyType::String);
        assert!(excluded.take(1).all(|key| key > some.key));

        self.check_candidates(memtable, inside, some);
        assert_eq!(memtable.time_of(some.id.seq), Some(time_of(some.id.seq)));
        let (time, first_time) = (time_of(some.id.seq), time_of(inside[0].id.seq));
        let last = self.events.iter().rev().map(|was| was.id.seq).find(|seq| time_of(*seq) <= time);
        let found = memtable.last_at(time);
        // The appender may not have reached the last commit of that time.
        assert!(time < first_time || found.is_some_and(|found| Some(found) <= last && found >= some.id.seq));
    }

    fn check_candidates(&self, memtable: &Memtable, inside: &[Was], some: &Was) {
        let field = Path::of_index(INDEX);
        let value = |was: &Was| {
            let encoded = was.payload.as_ref()?.get(&field).unwrap()?;
            let mut bytes = Vec::new();
            sortkey::write_scalar(&mut bytes, sortkey::scalar_of(encoded).unwrap()?);
            Some(bytes)
        };
        let Some(low) = value(some) else { return };
        let mut found = Vec::new();
        assert!(memtable.candidates(INDEX, &low, |bytes| {
            found.push(bytes.to_vec());
            true
        }));
        assert!(found.is_sorted_by(|a, b| a < b), "in order, each once");
        for was in inside.iter().filter(|was| value(was).is_some_and(|value| value >= low)) {
            let mut entry = value(was).unwrap();
            sortkey::write_key(&mut entry, &was.key);
            assert!(found.contains(&entry));
        }
    }

    fn append(&self, memtable: &Memtable, (after, last): (u64, u64), published: &AtomicU64) {
        let layers = LayerMap::default();
        for seq in after + 1..=last {
            let info = Arc::new(CommitInfo { seq, time_ms: time_of(seq), meta: None });
            let start = self.events.partition_point(|was| was.id.seq < seq);
            for was in self.events[start..].iter().take_while(|was| was.id.seq == seq) {
                let event = Event {
                    kind: was.kind,
                    key: Some(was.key.clone()),
                    document: was.payload.clone(),
                    marks: Default::default(),
                    shape: CommitShape::SINGLE,
                    meta: None,
                    published: None,
                };
                memtable.push_row(&info, was.id.index, event, 0, &layers).unwrap();
            }
            published.store(seq, Ordering::Release);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn readers_beside_the_appender_see_what_a_list_of_events_gives(
        steps in prop::collection::vec(any::<(u8, u8, u8, bool)>(), 1..900),
        cuts in any::<(prop::sample::Index, prop::sample::Index)>(),
    ) {
        let model = EventModel::new(&steps);
        let memtable = Memtable::default();
        memtable.set_indexes(&[INDEX.to_owned()]);
        let (published, checks) = (AtomicU64::new(0), AtomicUsize::new(0));
        let seqs = usize::try_from(model.last_seq).unwrap() + 1;
        let (first, second) = (cuts.0.index(seqs) as u64, cuts.1.index(seqs) as u64);
        let (first, second) = (first.min(second), first.max(second));
        std::thread::scope(|scope| {
            for reader in 1..=3_u64 {
                let (model, memtable, published, checks) = (&model, &memtable, &published, &checks);
                scope.spawn(move || {
                    let mut random = reader;
                    loop {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let seq = published.load(Ordering::Acquire);
                        model.check(memtable, (0, seq - (random >> 40) % (seq + 1)), random >> 33);
                        if checks.fetch_add(1, Ordering::Relaxed) > 20 && seq == model.last_seq {
                            return;
                        }
                    }
                });
            }
            model.append(&memtable, (0, model.last_seq), &published);
        });
        prop_assert_eq!(memtable.len(), model.events.len());

        // After snapshots, newer memtables have the later events only, and the older ones still have all.
        let newer = memtable.rebase(model.counts(first));
        let newest = newer.rebase(model.counts(second));
        for random in 0..20_u64 {
            let seq = second + random % (model.last_seq - second + 1);
            model.check(&memtable, (0, seq), random * 31);
            model.check(&newer, (model.counts(first).last_seq, seq), random * 31);
            model.check(&newest, (model.counts(second).last_seq, seq), random * 31);
        }
        let later = |seq: u64| model.events.iter().filter(|was| was.id.seq > seq).count();
        prop_assert_eq!((newer.len(), newest.len()), (later(first), later(second)));
        prop_assert!(newest.bytes() <= newer.bytes() && newer.bytes() <= memtable.bytes());
    }
}

/// What one row of a memtable does that gets a large document and then many small patches.
fn patched(patches: u32, row_bytes: usize) -> (Memtable, Key) {
    let (memtable, layers) = (Memtable::default(), LayerMap::default());
    let key = Key::Str("k".into());
    for seq in 0..=patches {
        let info = Arc::new(CommitInfo { seq: u64::from(seq) + 1, time_ms: 1, meta: None });
        let (kind, json) = match seq {
            0 => (EventType::Insert, format!(r#"{{"text":"{}"}}"#, "x".repeat(row_bytes))),
            _ => (EventType::Patch, format!(r#"{{"n":{seq}}}"#)),
        };
        let event = Event {
            kind,
            key: Some(key.clone()),
            document: Some(Document::from_json(&json).unwrap()),
            marks: Default::default(),
            shape: CommitShape::SINGLE,
            meta: None,
            published: None,
        };
        memtable.push_row(&info, 0, event, 0, &layers).unwrap();
    }
    (memtable, key)
}

#[test]
fn many_small_patches_of_a_large_row_take_about_the_memory_of_the_patches() {
    let (memtable, key) = patched(1000, 100_000);
    let number = |seq: u64| {
        let row = memtable.row_over(&key, EventId::end_of(seq), None).unwrap().unwrap();
        let document = row.document.unwrap();
        let n = document.get(&Path::of_index("n")).unwrap()?;
        match sortkey::scalar_of(n).unwrap() {
            Some(sortkey::Scalar::Int(n)) => Some(n),
            other => panic!("{other:?}"),
        }
    };
    for seq in [1001, 1000, 500, 2] {
        assert_eq!(number(seq), Some(i128::from(seq) - 1));
    }
    // Each row alone would make 100 MB.
    let patches = 1000 * (size_of::<EventSlot>() as u64 + 200);
    assert!(memtable.bytes() < 100_000 + 2 * patches + 100_000, "{}", memtable.bytes());
    assert!(merged_rows::bytes() <= limits::MERGED_ROWS_BYTES as u64);
}

#[test]
fn the_row_as_of_any_event_is_a_few_steps_away() {
    let (memtable, _) = patched(200, 10);
    let segments = memtable.segments.load();
    let segment = segments.first().unwrap();
    let last = segment.events().len() - 1;
    for wanted in 0..=last {
        let steps = AtomicUsize::new(0);
        let found = segment.seek_back(last, |slot| {
            steps.fetch_add(1, Ordering::Relaxed);
            slot.seq <= wanted as u64 + 1
        });
        assert_eq!(found, Some(wanted));
        assert!(steps.into_inner() <= 40, "event {wanted}");
    }
}
