//! Questions over time read what they must: the candidates of indexes over all versions, rows once and not event by event, and EXPLAIN
//! says so. A resumed answer is whole, or an error.

use std::time::Duration;

use driftdb::v1;
use serde_json::json;
use tonic::Code;

use crate::harness::calls::{Answer, Outcome, ask, compact, fresh, run, snapshot};
use crate::harness::refusal::refused;
use crate::harness::*;

const ROWS: usize = 300;

/// A table with many rows, of which two have been late once, and are not any more. Returns its last commit.
async fn orders(cluster: &mut Cluster) -> u64 {
    let writer = &mut cluster.writer;
    run(writer, "CREATE TABLE t (pk=id, INDEX(status, n))").await.unwrap();
    for statement in 0..3 {
        let rows = (0..ROWS).map(|n| {
            let status = if statement == 1 && [7, 211].contains(&n) { "late" } else { "new" };
            put("t", json!({"id": format!("k{n:03}"), "status": status, "n": n}).to_string())
        });
        apply(writer, rows.collect()).await.unwrap();
    }
    apply(writer, vec![delete("t", "k211"), delete("t", "k005")]).await.unwrap().seq
}

async fn asked(cluster: &mut Cluster, statement: &str, seen: u64) -> Answer {
    let answer = ask(&mut cluster.reader, statement, seen).await;
    answer.unwrap_or_else(|error| panic!("{statement}: {error}"))
}

/// Expects words in the explanation of a statement.
async fn explained(cluster: &mut Cluster, statement: &str, seen: u64, words: &[&str]) {
    let answer = asked(cluster, &format!("EXPLAIN {statement}"), seen).await;
    for word in words {
        assert!(answer.message().contains(word), "{statement}: {:?} has no {word:?}", answer.message());
    }
}

#[tokio::test]
async fn rows_that_matched_once_are_found_by_indexes() {
    let mut cluster = Cluster::start().await;
    let last = orders(&mut cluster).await;
    // From memory, from a snapshot, and from both.
    for stage in 0..3 {
        match stage {
            0 => {}
            1 => snapshot(&mut cluster.writer, "t").await.unwrap(),
            _ => _ = apply(&mut cluster.writer, vec![patch("t", "k001", r#"{"n":1}"#)]).await.unwrap(),
        }
        let seen = last + u64::from(stage == 2);
        let of_index = "history of the rows by index status: = 1 value, 2 candidates";
        let late = r#"FIND FIRST IN t WHERE status = "late""#;
        explained(&mut cluster, late, seen, &[of_index, "2 rows read", "commit 3 found"]).await;
        assert_eq!(asked(&mut cluster, late, seen).await.drift()[0].0, 3);
        let gone = r#"SELECT id FROM t DELETED WHERE status = "late""#;
        explained(&mut cluster, gone, seen, &[of_index, "0 returned"]).await;
        let range = "SELECT id FROM t DELETED WHERE n < 9 AND status = \"new\"";
        explained(&mut cluster, range, seen, &["history of the rows by index n: range", "1 returned"]).await;
        assert_eq!(asked(&mut cluster, range, seen).await.keys(), ["k005"]);
        let every =
            r#"SELECT COUNT(*) FROM t WHERE status = "late" AS OF EVERY 1 SEQS FROM @seq:2 TO @seq:5"#;
        explained(&mut cluster, every, seen, &["t at 4 moments from seq 2 to seq 5", of_index, "4 returned"])
            .await;
        let counts: Vec<_> = asked(&mut cluster, every, seen).await.documents();
        let counts: Vec<_> = counts.iter().map(|document| document["COUNT(*)"].clone()).collect();
        assert_eq!(counts, [0, 2, 0, 0]);
        let drift = r#"SHOW DRIFT t WHERE status = "late""#;
        explained(&mut cluster, drift, seen, &[of_index, "2 rows read", "4 returned"]).await;
        let events: Vec<_> = asked(&mut cluster, drift, seen).await.drift();
        let events: Vec<_> = events.iter().map(|(seq, _, key)| (*seq, key.as_str())).collect();
        assert_eq!(events, [(3, "k007"), (3, "k211"), (4, "k007"), (4, "k211")]);
    }
    // Outside of the stretch of commits, no row is a candidate.
    let later = r#"FIND LAST IN t WHERE status = "late" FROM @seq:4"#;
    explained(&mut cluster, later, last, &["0 candidates", "no commit found"]).await;
    explained(&mut cluster, "FIND FIRST IN t KEY \"k007\" WHERE n = 7", last, &["keys: 1 lookup"]).await;
    explained(&mut cluster, "SHOW DRIFT t", last, &["in the order of commits"]).await;
    let all = "SHOW DRIFT t WHERE n != 1";
    explained(&mut cluster, all, last, &["the first 32 events in the order of commits", "300 rows read"])
        .await;
}

#[tokio::test]
async fn an_index_that_is_made_later_is_used_for_what_was_before() {
    let mut cluster = Cluster::start().await;
    let last = orders(&mut cluster).await;
    snapshot(&mut cluster.writer, "t").await.unwrap();
    run(&mut cluster.writer, "DROP INDEX ON t (status)").await.unwrap();
    let statement = r#"FIND FIRST IN t WHERE status = "late""#;
    explained(&mut cluster, statement, last + 1, &["history of the rows; 300 rows read"]).await;
    run(&mut cluster.writer, "CREATE INDEX ON t (status)").await.unwrap();
    let explain = format!("EXPLAIN {statement}");
    let mut text = String::new();
    for _ in 0..3000 {
        text = asked(&mut cluster, &explain, last + 2).await.message().to_owned();
        if text.contains("index status") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(text.contains("index status: = 1 value, 2 candidates"), "{text}");
    assert_eq!(asked(&mut cluster, statement, last + 2).await.drift()[0].0, 3);
}

/// A Select of deleted rows that is resumed after a compaction would leave out the deletions that the compaction has discarded.
#[tokio::test]
async fn a_resumed_select_of_deleted_rows_fails_if_the_floor_has_risen() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let text = "x".repeat(20_000);
    let rows = (0..50).map(|n| insert("t", format!(r#"{{"id":"k{n:02}","s":"{text}"}}"#)));
    apply(&mut cluster.writer, rows.collect()).await.unwrap();
    let gone = (0..50).map(|n| delete("t", &format!("k{n:02}")));
    let deleted = apply(&mut cluster.writer, gone.collect()).await.unwrap().seq;
    let last = apply(&mut cluster.writer, vec![insert("t", r#"{"id":"z"}"#)]).await.unwrap().seq;
    let mut resumed = Vec::new();
    for order_by in ["", "id DESC"] {
        let request = v1::SelectRequest {
            table: "t".into(),
            deleted: true,
            order_by: order_by.into(),
            freshness: fresh(last),
            ..Default::default()
        };
        let mut stream = cluster.reader.select(request.clone()).await.unwrap().into_inner();
        let first = stream.message().await.unwrap().unwrap();
        let request = v1::SelectRequest { resume_token: first.resume_token, ..request };
        let rest = select(&mut cluster.reader, request.clone()).await.unwrap();
        assert_eq!(first.rows.len() + rest.len(), 50, "before the compaction");
        resumed.push(request);
    }
    snapshot(&mut cluster.writer, "t").await.unwrap();
    compact(&mut cluster.writer, "t", at_seq(deleted), false).await.unwrap();
    // A commit after the compaction: who has applied it knows the floor.
    let seen = apply(&mut cluster.writer, vec![insert("t", r#"{"id":"y"}"#)]).await.unwrap().seq;
    for request in resumed {
        let request = v1::SelectRequest { freshness: fresh(seen), ..request };
        refused(select(&mut cluster.reader, request).await, Code::OutOfRange, "BELOW_FLOOR");
    }
}

/// Events that together take more memory than a query has are found by row and read again before they are returned: they are the same
/// as those of SHOW DRIFT without a condition, which reads them in the order of commits.
#[tokio::test]
async fn more_events_than_a_query_may_hold_are_returned_as_they_are() {
    let mut cluster = Cluster::start().await;
    let writer = &mut cluster.writer;
    run(writer, "CREATE TABLE t (pk=id)").await.unwrap();
    let text = "x".repeat(6000);
    let mut last = 0;
    for version in 0..25 {
        let change = |n: usize| {
            let key = format!("k{n:03}");
            match (n + version) % 9 {
                7 => put("t", json!({"id": key, "n": version}).to_string()),
                8 => patch("t", &key, json!({"n": n}).to_string()),
                _ => put("t", json!({"id": key, "n": version, "text": text}).to_string()),
            }
        };
        // The rows that a patch needs come first.
        let first = (version == 0)
            .then(|| (0..150).map(|n| insert("t", json!({"id": format!("k{n:03}")}).to_string())));
        let mut operations: Vec<_> = first.into_iter().flatten().chain((0..150).map(change)).collect();
        if version == 12 {
            // Nearly as large as a document may be.
            operations.push(put("t", json!({"id": "large", "text": "y".repeat(1_000_000)}).to_string()));
            operations.extend([delete("t", "k003"), delete("t", "k148")]);
        }
        last = apply(writer, operations).await.unwrap().seq;
        if version == 14 {
            snapshot(writer, "t").await.unwrap();
        }
        if version == 12 {
            let again = ["k003", "k148"].map(|key| insert("t", json!({"id": key}).to_string()));
            last = apply(writer, again.to_vec()).await.unwrap().seq;
        }
    }
    for images in ["", "WITH BEFORE WITH AFTER"] {
        let all = asked(&mut cluster, &format!("SHOW DRIFT t {images}"), last).await;
        let passing = format!("SHOW DRIFT t WHERE id IS NOT MISSING {images}");
        explained(&mut cluster, &passing, last, &["in the order of commits, the others by", "then sorted"])
            .await;
        let passing = asked(&mut cluster, &passing, last).await;
        let (mut expected, found) = (changes(&all), changes(&passing));
        expected.retain(|(_, change)| change.kind() != v1::ChangeKind::Schema);
        assert_eq!(found.len(), expected.len(), "{images}");
        for ((seq, change), (found_seq, found)) in expected.iter().zip(&found) {
            assert!(seq == found_seq && change == found, "{images}: commit {seq}, row {}", change.key);
        }
    }
}

/// The changes of an answer, with their commits.
fn changes(answer: &Answer) -> Vec<(u64, v1::Change)> {
    let commits = answer.results.iter().filter_map(|result| match result {
        Outcome::Commit(commit) => Some(commit),
        _ => None,
    });
    commits.flat_map(|commit| commit.changes.iter().map(|change| (commit.seq, change.clone()))).collect()
}
