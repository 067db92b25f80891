//! The checker itself: it accepts a stream that keeps WatchDrift's guarantees, and rejects a stream that breaks one.

use std::collections::BTreeMap;

use crate::harness::checker::{Checker, Guarantee, Start, Violation};
use crate::harness::condition::Condition;
use crate::harness::filter::Filter;
use crate::harness::history::{History, RowChange, TableOwner, Version};
use driftdb::v1;
use driftdb::v1::watch_drift_response::Event;
use driftdb_common::format::document::Document;
use serde_json::{Value, json};

/// The most changes in a message of this stream.
const PART: usize = 3;

fn token(seq: u64) -> v1::WriteToken {
    let time = Some(prost_types::Timestamp { seconds: 1_000 + seq as i64, nanos: 5_000_000 });
    v1::WriteToken { seq, time, epoch: 1, incarnation: 0 }
}

/// Some commits of two tables: one without operations, one in several parts, one that changes a row twice.
fn history() -> History {
    let mut history = History::default();
    let mut desk = TableOwner::default();
    let mut seq = 0;
    let mut settle = |desk: &mut TableOwner| {
        seq += 1;
        history.add(desk.acknowledged(&token(seq), if seq.is_multiple_of(2) { "because" } else { "" }));
    };
    desk.create("t", false);
    settle(&mut desk);
    desk.create("u", true);
    settle(&mut desk);
    for n in 0..6 {
        desk.put("t", &format!("k{n}"), json!({"n": n}));
        settle(&mut desk);
    }
    settle(&mut desk);
    for n in 0..8 {
        desk.put("u", &n.to_string(), json!({"n": n}));
    }
    desk.put("t", "k9", json!({"n": 9}));
    settle(&mut desk);
    desk.patch("t", "k9", json!({"n": 1}));
    desk.patch("t", "k9", json!({"n": 20}));
    settle(&mut desk);
    desk.delete("t", "k9");
    settle(&mut desk);
    desk.put("u", "3", json!({"n": 100}));
    settle(&mut desk);
    desk.put("t", "k1", json!({"n": 4, "s": "later"}));
    settle(&mut desk);
    history
}

fn header(seq: u64) -> v1::ReadHeader {
    v1::ReadHeader { read_seq: seq, ..Default::default() }
}

fn message(event: Event, token: &str) -> v1::WatchDriftResponse {
    v1::WatchDriftResponse { event: Some(event), resume_token: token.as_bytes().to_vec().into() }
}

fn document(filter: &Filter, value: &Value) -> v1::Document {
    let body = if filter.msgpack {
        v1::document::Body::Msgpack(Document::from_json(&value.to_string()).unwrap().msgpack().clone())
    } else {
        v1::document::Body::Json(value.to_string())
    };
    v1::Document { body: Some(body) }
}

fn change(filter: &Filter, happened: &RowChange) -> v1::Change {
    let image = |wanted: bool, row: &Option<Version>| {
        row.as_ref().filter(|_| wanted).map(|row| document(filter, &row.document))
    };
    v1::Change {
        table: happened.table.to_string(),
        key: happened.key.clone(),
        kind: happened.kind.into(),
        payload: happened.payload.as_ref().map(|payload| document(filter, payload)),
        before: image(filter.before, &happened.before),
        after: image(filter.after, &happened.after),
        ..Default::default()
    }
}

/// The correct stream from a commit on.
fn stream(history: &History, filter: &Filter, start: u64, rows: bool) -> Vec<v1::WatchDriftResponse> {
    let mut sent = vec![message(Event::Opened(header(start)), &format!("at {start}"))];
    if rows {
        let mut batches: BTreeMap<_, Vec<v1::Row>> = BTreeMap::new();
        for ((table, key), (id, row)) in history.rows(start) {
            if filter.takes_row(&table, &key, &id, &row) {
                let document = Some(document(filter, &row.document));
                let time = token(row.seq).time;
                batches.entry(table).or_default().push(v1::Row { key, seq: row.seq, time, document });
            }
        }
        for (table, rows) in batches {
            for rows in rows.chunks(2) {
                let batch = v1::RowBatch { table: table.to_string(), rows: rows.to_vec() };
                sent.push(message(Event::Rows(batch), "rows"));
            }
        }
        sent.push(message(Event::RowsDone(header(start)), &format!("at {start}")));
    }
    sent.push(message(Event::CaughtUp(header(start)), &format!("at {start}")));
    for commit in history.between(start, history.complete()) {
        let changes = filter.of(commit);
        let parts = changes.chunks(PART).count();
        for (n, part) in changes.chunks(PART).enumerate() {
            let part = v1::Commit {
                seq: commit.seq,
                time: token(commit.seq).time,
                reason: commit.reason.clone(),
                changes: part.iter().map(|happened| change(filter, happened)).collect(),
                more: n + 1 < parts,
                ..Default::default()
            };
            let token = if part.more { String::new() } else { format!("at {}", commit.seq) };
            sent.push(message(Event::Commit(part), &token));
        }
        if commit.seq.is_multiple_of(3) {
            sent.push(message(Event::Progress(header(commit.seq)), &format!("at {}", commit.seq)));
        }
    }
    let end = history.complete();
    sent.push(message(Event::Progress(header(end)), &format!("at {end}")));
    sent
}

fn everything() -> Filter {
    Filter { before: true, after: true, ..Filter::default() }
}

/// The verdict of a checker on some streams, one after the other.
fn verdict(
    history: &History,
    filter: Filter,
    start: Start,
    streams: &[&[v1::WatchDriftResponse]],
) -> Result<Checker, Violation> {
    let mut checker = Checker::new(filter, start);
    for stream in streams {
        checker.request();
        for message in *stream {
            checker.take(history, message.clone())?;
        }
    }
    Ok(checker)
}

/// Expects that a changed stream from the beginning breaks a guarantee.
#[track_caller]
fn breaks(of: Guarantee, edit: impl FnOnce(&mut Vec<v1::WatchDriftResponse>)) {
    let history = history();
    let mut sent = stream(&history, &everything(), 0, false);
    edit(&mut sent);
    match verdict(&history, everything(), Start::AfterSeq(0), &[&sent]) {
        Err(violation) => assert_eq!(violation.of, of, "{violation:?}"),
        Ok(checker) => panic!("the checker accepted a wrong stream: {checker:?}"),
    }
}

/// The index of the first message of a commit.
fn place(sent: &[v1::WatchDriftResponse], seq: u64) -> usize {
    let of =
        |message: &v1::WatchDriftResponse| matches!(&message.event, Some(Event::Commit(c)) if c.seq == seq);
    sent.iter().position(of).unwrap()
}

/// The first message of a commit.
fn commit(sent: &mut [v1::WatchDriftResponse], seq: u64) -> &mut v1::Commit {
    let at = place(sent, seq);
    match sent[at].event.as_mut().unwrap() {
        Event::Commit(commit) => commit,
        other => panic!("{other:?}"),
    }
}

#[test]
fn streams_that_keep_the_guarantees_pass() {
    let history = history();
    let filters = [
        everything(),
        Filter { msgpack: true, ..everything() },
        Filter { tables: vec!["t"], keys: vec!["k1".into(), "k9".into()], ..Filter::default() },
        Filter { prefix: "k", condition: Some(Condition::Compare("n", "<", 5.into())), ..Filter::default() },
        Filter {
            tables: vec!["u"],
            condition: Some(Condition::Compare("_key", ">=", 3.into())),
            ..everything()
        },
    ];
    for filter in filters {
        for start in [0, 4, 9, 12] {
            let sent = stream(&history, &filter, start, false);
            let checker = verdict(&history, filter.clone(), Start::AfterSeq(start), &[&sent]).unwrap();
            assert_eq!(checker.position(), 14);
            // The time of that commit, and the middle of the second after it.
            for ms in [5, 505] {
                let at = if start == 0 { 0 } else { (1_000 + start as i64) * 1000 + ms };
                verdict(&history, filter.clone(), Start::AfterTimeMs(at), &[&sent]).unwrap();
            }
            let sent = stream(&history, &filter, start, true);
            verdict(&history, filter.clone(), Start::InitialRows, &[&sent]).unwrap();
            verdict(&history, filter.clone(), Start::InitialRowsAt(start), &[&sent]).unwrap();
        }
    }
}

#[test]
fn the_filter_model_agrees_with_the_documentation() {
    let history = history();
    let came = |filter: Filter| -> Vec<(u64, usize)> {
        let commits = history.between(0, history.complete());
        commits.map(|commit| (commit.seq, filter.of(commit).len())).filter(|(_, n)| *n > 0).collect()
    };
    let n_is = |n: i64| Some(Condition::Compare("n", "=", n.into()));
    // Matches the row before, the row after, and a row in the middle of the commit.
    assert_eq!(came(Filter { condition: n_is(9), ..Filter::default() }), [(10, 1), (11, 1)]);
    assert_eq!(came(Filter { condition: n_is(1), ..Filter::default() }), [(4, 1), (10, 1), (11, 2), (14, 1)]);
    assert_eq!(came(Filter { condition: n_is(20), ..Filter::default() }), [(11, 1), (12, 1)]);
    assert_eq!(came(Filter { tables: vec!["u"], ..Filter::default() }), [(2, 1), (10, 8), (13, 1)]);
    assert_eq!(came(Filter { keys: vec!["3".into()], ..Filter::default() }), [(10, 1), (13, 1)]);
    let k1_as_of = Condition::Compare("_seq", "<=", 4.into());
    let k1 = Filter { prefix: "k1", condition: Some(k1_as_of), ..Filter::default() };
    assert_eq!(came(k1), [(4, 1), (14, 1)], "the row before a change is the one of the previous change");
    // Tables in the order of their creation, regardless of the order of operations.
    let tables: Vec<&str> = history.commit(10).unwrap().changes.iter().map(|change| &*change.table).collect();
    assert_eq!((tables[0], tables[1], tables.len()), ("t", "u", 9));
}

#[test]
fn a_missing_commit_is_detected() {
    breaks(Guarantee::NoGap, |sent| _ = sent.remove(place(sent, 4)));
    // Even the last commit: the progress after it claims that nothing is missing.
    breaks(Guarantee::Truthful, |sent| _ = sent.remove(place(sent, 14)));
    breaks(Guarantee::Truthful, |sent| {
        let at = place(sent, 10);
        sent.drain(at..at + 3);
        sent.drain(at..sent.len() - 1);
    });
}

#[test]
fn a_repeated_commit_is_detected() {
    breaks(Guarantee::Unique, |sent| sent.insert(place(sent, 4), sent[place(sent, 4)].clone()));
    breaks(Guarantee::Unique, |sent| sent.insert(place(sent, 8), sent[place(sent, 3)].clone()));
}

#[test]
fn commits_out_of_order_are_detected() {
    breaks(Guarantee::NoGap, |sent| {
        let at = place(sent, 4);
        sent.swap(at, at + 1);
    });
    // A watch sends no commit without operations, and no commit that progress has passed.
    let empty = || {
        let commit = v1::Commit { seq: 9, time: token(9).time, ..Default::default() };
        message(Event::Commit(commit), "at 9")
    };
    breaks(Guarantee::Content, |sent| sent.insert(place(sent, 8) + 1, empty()));
    breaks(Guarantee::Ordered, |sent| sent.insert(place(sent, 10), empty()));
}

#[test]
fn an_incomplete_commit_is_detected() {
    breaks(Guarantee::Whole, |sent| _ = commit(sent, 11).changes.pop());
    // Parts: the last one missing, one in the middle missing, something in between, an early end.
    breaks(Guarantee::Whole, |sent| _ = sent.remove(place(sent, 10) + 2));
    breaks(Guarantee::Whole, |sent| _ = sent.remove(place(sent, 10) + 1));
    breaks(Guarantee::Whole, |sent| {
        sent.insert(place(sent, 10) + 1, message(Event::Progress(header(9)), "at 9"));
    });
    breaks(Guarantee::Whole, |sent| {
        let at = place(sent, 10);
        commit(sent, 10).more = false;
        sent[at].resume_token = sent[at + 2].resume_token.clone();
    });
}

#[test]
fn misplaced_tokens_are_detected() {
    breaks(Guarantee::Resumable, |sent| {
        let at = place(sent, 10);
        sent[at].resume_token = sent[at - 1].resume_token.clone();
    });
    breaks(Guarantee::Resumable, |sent| {
        let at = place(sent, 4);
        sent[at].resume_token.clear();
    });
    breaks(Guarantee::Resumable, |sent| sent[0].resume_token.clear());
}

#[test]
fn false_progress_is_detected() {
    breaks(Guarantee::Truthful, |sent| {
        sent.insert(place(sent, 5), message(Event::Progress(header(5)), "at 5"));
    });
    breaks(Guarantee::Truthful, |sent| {
        sent.insert(place(sent, 5), message(Event::Progress(header(2)), "at 2"));
    });
    breaks(Guarantee::Truthful, |sent| {
        sent.insert(place(sent, 5), message(Event::CaughtUp(header(5)), "at 5"));
    });
}

#[test]
fn wrong_content_is_detected() {
    fn wrong(edit: impl FnOnce(&mut v1::Commit)) {
        breaks(Guarantee::Content, |sent| edit(commit(sent, 11)));
    }
    let other = || Some(crate::harness::json(r#"{"id":"k9","n":2}"#));
    wrong(|commit| commit.changes[0].before = other());
    wrong(|commit| commit.changes[1].after = other());
    wrong(|commit| commit.changes[1].after = None);
    wrong(|commit| commit.changes[1].payload = other());
    wrong(|commit| commit.changes[1].key = "k8".into());
    wrong(|commit| commit.changes[1].table = "u".into());
    wrong(|commit| commit.changes[1].kind = v1::ChangeKind::Insert.into());
    wrong(|commit| commit.changes.swap(0, 1));
    wrong(|commit| commit.time = None);
    wrong(|commit| commit.reason = "another".into());
    wrong(|commit| {
        let row = Document::from_json(r#"{"id":"k9","n":20}"#).unwrap();
        let body = Some(v1::document::Body::Msgpack(row.msgpack().clone()));
        commit.changes[1].after = Some(v1::Document { body });
    });
    breaks(Guarantee::Content, |sent| sent[0] = message(Event::Opened(header(1)), "at 1"));
    breaks(Guarantee::Content, |sent| _ = sent.remove(0));
    breaks(Guarantee::Content, |sent| sent.insert(1, sent[0].clone()));
    // Images and changes that were not requested.
    let history = history();
    let sent = stream(&history, &everything(), 0, false);
    for filter in [Filter { before: false, ..everything() }, Filter { after: false, ..everything() }] {
        let violation = verdict(&history, filter, Start::AfterSeq(0), &[&sent]).unwrap_err();
        assert_eq!(violation.of, Guarantee::Content);
    }
    let filter = Filter { tables: vec!["u"], ..everything() };
    let violation = verdict(&history, filter, Start::AfterSeq(0), &[&sent]).unwrap_err();
    assert_eq!(violation.of, Guarantee::Content);
}

#[test]
fn a_stream_that_resumes_elsewhere_is_detected() {
    let history = history();
    let all = stream(&history, &everything(), 0, false);
    let says = |first: &[v1::WatchDriftResponse], second: &[v1::WatchDriftResponse]| {
        verdict(&history, everything(), Start::AfterSeq(0), &[first, second]).map(|checker| checker.counts)
    };
    for seq in [3, 8, 9, 10, 13] {
        let at = place(&all, if seq == 9 { 8 } else { seq });
        let rest = stream(&history, &everything(), seq, false);
        let cut = at + if seq == 10 { 3 } else { 1 };
        assert_eq!(says(&all[..cut], &rest).unwrap().changes, 22, "after {seq}");
    }
    // The resumed stream sends a commit that arrived in parts again, whole.
    let rest = stream(&history, &everything(), 9, false);
    let counts = says(&all[..place(&all, 10) + 2], &rest).unwrap();
    assert_eq!((counts.changes, counts.parts), (22, 5));
    let begun = &all[..=place(&all, 8)];
    assert_eq!(says(begun, &stream(&history, &everything(), 7, false)).unwrap_err().of, Guarantee::Resumable);
    assert_eq!(says(begun, &stream(&history, &everything(), 10, false)).unwrap_err().of, Guarantee::Truthful);
    let mut rest = stream(&history, &everything(), 8, false);
    rest.insert(1, all[place(&all, 8)].clone());
    assert_eq!(says(begun, &rest).unwrap_err().of, Guarantee::Unique);
}

#[test]
fn wrong_initial_rows_are_detected() {
    let history = history();
    fn says(history: &History, edit: impl FnOnce(&mut Vec<v1::WatchDriftResponse>)) -> Guarantee {
        let mut sent = stream(history, &everything(), 12, true);
        edit(&mut sent);
        verdict(history, everything(), Start::InitialRows, &[&sent]).unwrap_err().of
    }
    let wrong = |edit: &dyn Fn(&mut v1::RowBatch)| {
        says(&history, |sent| match sent[1].event.as_mut().unwrap() {
            Event::Rows(batch) => edit(batch),
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(says(&history, |sent| _ = sent.remove(2)), Guarantee::NoGap);
    assert_eq!(says(&history, |sent| sent.insert(2, sent[1].clone())), Guarantee::Unique);
    assert_eq!(wrong(&|batch| batch.rows[0].seq += 1), Guarantee::Content);
    assert_eq!(wrong(&|batch| batch.rows[0].time = None), Guarantee::Content);
    assert_eq!(wrong(&|batch| batch.rows[0].document = None), Guarantee::Content);
    assert_eq!(wrong(&|batch| batch.rows[0].key = "nobody".into()), Guarantee::NoGap);
    let gone = |batch: &mut v1::RowBatch| {
        let row = v1::Row { key: "k9".into(), ..batch.rows[0].clone() };
        batch.rows.push(row);
    };
    assert_eq!(wrong(&gone), Guarantee::Content);
    let done = |sent: &[v1::WatchDriftResponse]| {
        sent.iter().position(|message| matches!(message.event, Some(Event::RowsDone(_)))).unwrap()
    };
    assert_eq!(says(&history, |sent| _ = sent.remove(done(sent))), Guarantee::Truthful);
    assert_eq!(
        says(&history, |sent| {
            let at = done(sent);
            sent[at] = message(Event::RowsDone(header(13)), "at 13");
        }),
        Guarantee::Resumable
    );
    assert_eq!(
        says(&history, |sent| {
            let at = done(sent);
            sent.remove(at);
            sent.remove(at);
        }),
        Guarantee::Content,
        "a commit before rows_done"
    );
    assert_eq!(says(&history, |sent| sent.insert(done(sent) + 1, sent[1].clone())), Guarantee::Content);
    // Resumes inside the rows: the same commit, and the remaining rows.
    let sent = stream(&history, &everything(), 12, true);
    let mut rest = sent.clone();
    rest.drain(1..3);
    verdict(&history, everything(), Start::InitialRows, &[&sent[..3], &rest]).unwrap();
    let twice = verdict(&history, everything(), Start::InitialRows, &[&sent[..3], &sent]);
    assert_eq!(twice.unwrap_err().of, Guarantee::Unique);
    let later = stream(&history, &everything(), 13, true);
    let another = verdict(&history, everything(), Start::InitialRows, &[&sent[..3], &later]);
    assert_eq!(another.unwrap_err().of, Guarantee::Resumable);
}
