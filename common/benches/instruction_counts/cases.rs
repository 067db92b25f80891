//! The operations that are counted.

use std::hint::black_box;

use driftdb_common::format::document::Document;
use driftdb_common::format::event::{self, CommitMeta, CommitShape, EventType};
use driftdb_common::format::frame::FrameBuffer;
use driftdb_common::query::exec::{SelectExecution, Selection};
use driftdb_common::query::parser;
use driftdb_common::query::predicate::RowRef;
use driftdb_common::table::history::{History, HistoryQuery};
use driftdb_common::table::view::View;

use crate::store::{self, ROWS, Store, VERSIONS};

/// A case.
pub struct Case {
    pub name: &'static str,
    /// What one operation is.
    pub what: &'static str,
    /// The number of operations of a run: many if one operation is short, or if some operations do more than others.
    pub operations: u32,
    /// Does the operation a number of times.
    pub run: fn(u32),
}

const fn case(name: &'static str, operations: u32, run: fn(u32), what: &'static str) -> Case {
    Case { name, what, operations, run }
}

const SINGLE: [&str; 2] = ["status", "customer_id"];
const COMPOSITE: [&str; 1] = ["(customer_id, status)"];
/// The least number of operations: more, and the first ones have filled the caches.
const WARM_UP: u32 = 20;

pub const CASES: [Case; 11] = [
    case(
        "document_from_json",
        2000,
        document_from_json,
        "parse and check 190 bytes of JSON, as admission does",
    ),
    case("document_to_json", 2000, document_to_json, "the same document as JSON, as every answer does"),
    case("encode_commit", 2000, encode_commit, "a commit of one row as a frame of its group"),
    case("apply_event", 2048, apply_event, "an event into a memtable with two indexes, and its parsing"),
    case("match_row", 2000, match_row, "a condition of two comparisons on a row, as selects and watches do"),
    case("get", 1000, get, "a row by key, in a delta layer or an image layer"),
    case("history", 500, history, "the three events of a row, in two layers and the memtable"),
    case(
        "select_now",
        40,
        |n| select(n, &SINGLE, true),
        "two indexes, 500 candidates, 100 rows: layers and memtable",
    ),
    case("select_as_of", 40, |n| select(n, &SINGLE, false), "the same in layers only"),
    case("select_composite", 40, |n| select(n, &COMPOSITE, true), "the same rows now, by a composite index"),
    case("select_composite_as_of", 40, |n| select(n, &COMPOSITE, false), "the same in layers only"),
];

fn document_from_json(operations: u32) {
    let json = store::json(7, 1);
    for _ in 0..operations {
        black_box(Document::from_json(black_box(&json)).expect("a document"));
    }
}

fn document_to_json(operations: u32) {
    let document = Document::from_json(&store::json(7, 1)).expect("a document");
    for _ in 0..operations {
        black_box(black_box(&document).to_json().expect("JSON"));
    }
}

fn encode_commit(operations: u32) {
    let (key, document) = store::event_of(7);
    let meta = CommitMeta::default();
    let mut frames = FrameBuffer::default();
    for seq in 0..operations {
        frames.push(seq.into(), 1_700_000_000_000, EventType::Insert, |out| {
            let first = Some((CommitShape::SINGLE, &meta));
            event::encode(out, Some(black_box(&key)), Some(&document), false, first, false)
        });
    }
    black_box(frames.bytes());
}

fn apply_event(operations: u32) {
    let store = Store::new(&SINGLE);
    let last = ROWS * VERSIONS;
    for seq in last + 1..=last + u64::from(operations) {
        store.timeline.apply(&store::info(seq), vec![store::insert(seq)]).expect("an event");
    }
}

fn match_row(operations: u32) {
    let condition = parser::parse_condition(CONDITION, &[]).expect("a condition");
    let (key, document) = store::event_of(7);
    for _ in 0..operations {
        let row = RowRef { key: &key, seq: 1, time_ms: 1, document: &document };
        black_box(condition.matches(black_box(row)).expect("an answer"));
    }
}

fn get(operations: u32) {
    let store = Store::new(&[]);
    let view = store.before();
    for row in 0..u64::from(operations + WARM_UP) {
        black_box(view.get(&store::key(row * 37)).expect("an answer"));
    }
}

fn history(operations: u32) {
    let store = Store::new(&[]);
    for row in 0..u64::from(operations + WARM_UP) {
        let key = Some(store::key(row * 37));
        let query = HistoryQuery { key, last: ROWS * VERSIONS, ..HistoryQuery::default() };
        let events = History::new(&store.timeline, query).next_batch(1024).expect("the events");
        assert!(black_box(events).len() >= 2);
    }
}

const CONDITION: &str = r#"status = "paid" AND customer_id = "CUST-0003""#;

fn select(operations: u32, indexes: &[&str], is_now: bool) {
    let store = Store::new(indexes);
    let view: View = if is_now { store.now() } else { store.before() };
    let condition = Some(parser::parse_condition(CONDITION, &[]).expect("a condition"));
    let selection = Selection { condition, ..Selection::default() };
    for _ in 0..operations {
        let mut execution = SelectExecution::new(view.clone(), selection.clone());
        let page = execution.next_page(4096, 1 << 20).expect("a page");
        assert!(page.done && (50..200).contains(&page.rows.len()), "{} rows", page.rows.len());
        for row in page.rows {
            black_box(row.document.to_json().expect("JSON"));
        }
    }
}
